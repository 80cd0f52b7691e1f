//! One call to many functions, and their results under one id: `POST /v1/fanout`, `GET /v1/fanout/{tenant}/{id}`.

use std::collections::BTreeSet;
use std::sync::Arc;

use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, Request, State};
use axum::http::header::LOCATION;
use axum::http::{HeaderValue, StatusCode};
use axum::response::Response;
use baton_broker::{BrokerError, Caller, SendOptions};
use baton_model::{CallId, FunctionId, Name, ResultDocument, Status};
use bytes::Bytes;
use futures_util::future::try_join_all;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::auth::Asker;
use crate::batch::Payload;
use crate::calls::{LOOK_MAX, LOOK_MIN, WaitQuery, patience, shown};
use crate::gate::Gate;
use crate::listings::json_response;
use crate::problem::Problem;
use crate::request::{FanoutTarget, location, priority_of, wishes};
use crate::{door, exec, quota};

/// The most functions of one fan-out.
const FUNCTIONS_MAX: usize = 100;

/// What is to go where.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Order {
    functions: Vec<FunctionId>,
    payload: Option<Box<RawValue>>,
    payload_base64: Option<String>,
    r#type: Option<String>,
    priority: Option<String>,
}

/// `POST /v1/fanout`
pub(crate) async fn send(State(gate): State<Arc<Gate>>, asker: Asker, request: Request) -> Result<Response, Problem> {
    door::open(&gate)?;
    let _seat = gate.seat()?;
    let trouble = |error: BrokerError| gate.broker_problem(&error);
    let (head, body) = request.into_parts();
    let wishes = wishes(&head.headers)?;
    let body = door::body(body, &gate.config, None).await?;
    let order: Order = serde_json::from_slice(&body).map_err(|error| bad(error.to_string()))?;
    let tenant = tenant(&order.functions)?;
    let (payload, media_type) =
        Payload { json: order.payload, base64: order.payload_base64, kind: order.r#type }.read()?;
    let priority = order.priority.map(|text| priority_of("`priority`", &text)).transpose()?;
    let priority = priority.unwrap_or(wishes.options.priority);
    for function in &order.functions {
        exec::is_away(&gate, &asker, function, &wishes).await?;
        let bytes_max = (gate.parts.payload_bytes_max)(function).unwrap_or(usize::MAX);
        if payload.len() > bytes_max {
            let detail = format!("the payload has {} bytes, and {function} takes {bytes_max}", payload.len());
            return Err(Problem::new(413, "body-too-large").detail(detail));
        }
    }
    let id = wishes.options.id.clone().unwrap_or_else(Caller::new_id);
    let entrant = exec::enter(&gate)?;
    let noted = gate.parts.caller.note_fanout(tenant, &id, &order.functions).await.map_err(trouble)?;
    if noted != order.functions {
        let detail = format!("the fan-out {id} went to other functions; take another Idempotency-Key");
        return Err(Problem::new(409, "other-fanout").detail(detail));
    }
    let options = SendOptions { id: Some(id.clone()), media_type, priority, ..wishes.options };
    try_join_all(order.functions.iter().map(|function| send_one(&gate, function, &payload, &options))).await?;
    drop(entrant);
    let calls: Vec<Value> = order
        .functions
        .iter()
        .map(|function| json!({ "function": function, "href": location(function, &id) }))
        .collect();
    let place = location_of(tenant, &id);
    let mut response = json_response(&json!({ "id": id, "href": place, "calls": calls }));
    *response.status_mut() = StatusCode::ACCEPTED;
    response.headers_mut().insert(LOCATION, HeaderValue::from_str(&place).expect("a location is ASCII"));
    Ok(response)
}

fn bad(what: String) -> Problem {
    let mend = "send an object with `functions`, a list of names, and `payload` or `payload_base64`";
    Problem::bad("bad-fanout", format!("{what}; {mend}"))
}

/// The tenant of all these functions, which are named once each.
fn tenant(functions: &[FunctionId]) -> Result<&Name, Problem> {
    let Some(first) = functions.first() else { return Err(bad("`functions` is empty".to_owned())) };
    if functions.len() > FUNCTIONS_MAX {
        return Err(bad(format!("`functions` has {}, and {FUNCTIONS_MAX} is the most", functions.len())));
    }
    if let Some(other) = functions.iter().find(|other| other.tenant() != first.tenant()) {
        return Err(bad(format!("{first} and {other} are of two tenants, and a fan-out is of one")));
    }
    let mut seen = BTreeSet::new();
    match functions.iter().find(|function| !seen.insert(*function)) {
        Some(twice) => Err(bad(format!("{twice} is named twice"))),
        None => Ok(first.tenant()),
    }
}

/// The same id is the same call: where it has ended already, nothing is sent.
async fn send_one(gate: &Gate, function: &FunctionId, payload: &Bytes, options: &SendOptions) -> Result<(), Problem> {
    let trouble = |error: BrokerError| gate.broker_problem(&error);
    if let Some(id) = &options.id
        && gate.parts.caller.result(function, id).await.map_err(trouble)?.is_some()
    {
        return Ok(());
    }
    quota::admit(gate, function, 1).await?;
    gate.parts.caller.send(function, payload, options).await.map(drop).map_err(trouble)
}

/// Where a fan-out is asked.
fn location_of(tenant: &Name, id: &CallId) -> String {
    // That of a call of that name, but for what stands before it.
    let function = FunctionId::new(tenant.clone(), tenant.clone());
    let call = location(&function, id);
    let id = call.rsplit('/').next().unwrap_or_default();
    format!("/v1/fanout/{tenant}/{id}")
}

/// `GET /v1/fanout/{tenant}/{id}`
pub(crate) async fn gather(
    State(gate): State<Arc<Gate>>,
    asker: Asker,
    FanoutTarget(tenant, id): FanoutTarget,
    query: Result<Query<WaitQuery>, QueryRejection>,
) -> Result<Response, Problem> {
    let _seat = gate.seat()?;
    let end = Instant::now() + patience(&gate, query)?;
    let trouble = |error: BrokerError| gate.broker_problem(&error);
    let seen = gate.seen_tenant(&asker, &tenant);
    let Some(functions) = gate.parts.caller.fanout(seen, &id).await.map_err(trouble)? else {
        let detail = format!("{tenant} has no fan-out {id}: the id is wrong, or nobody has asked for it for a day");
        return Err(Problem::new(404, "unknown-fanout").detail(detail));
    };
    let calls: Vec<(FunctionId, CallId)> = functions.into_iter().map(|function| (function, id.clone())).collect();
    let results = results(&gate, &calls, end).await?;
    let ended = results.iter().flatten().count();
    let mut views = Vec::new();
    for ((function, id), result) in calls.iter().zip(&results) {
        let state = match result {
            None => "pending",
            Some(result) if result.status == Status::Ok => "completed",
            Some(_) => "failed",
        };
        let mut view = json!({ "function": function, "href": location(function, id), "state": state });
        if let Some(result) = result {
            view["result"] = shown(function, result)?;
        }
        views.push(view);
    }
    let state = if ended == calls.len() { "completed" } else { "pending" };
    Ok(json_response(&json!({ "id": id, "state": state, "ended": ended, "calls": views })))
}

/// The results of these calls; waits until `end` for those that have none.
async fn results(
    gate: &Gate,
    calls: &[(FunctionId, CallId)],
    end: Instant,
) -> Result<Vec<Option<ResultDocument>>, Problem> {
    let mut pause = LOOK_MIN;
    loop {
        let results = gate.parts.caller.results(calls).await;
        let is_over = Instant::now() >= end || gate.ending.is_cancelled();
        match results {
            Ok(results) if is_over || results.iter().all(Option::is_some) => return Ok(results),
            Ok(_) => {}
            Err(error @ (BrokerError::Unreachable(_) | BrokerError::Unable(_))) if !is_over => {
                tracing::debug!(%error, "waiting for results goes on");
            }
            Err(error) => return Err(gate.broker_problem(&error)),
        }
        tokio::select! {
            () = tokio::time::sleep_until(end.min(Instant::now() + pause)) => {}
            () = gate.ending.cancelled() => {}
        }
        pause = (pause * 2).min(LOOK_MAX);
    }
}
