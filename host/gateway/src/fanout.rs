//! One call to many functions, and their results under one id: `POST /v1/fanout`, `GET /v1/fanout/{tenant}/{id}`.

use std::sync::Arc;

use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, Request, State};
use axum::http::header::LOCATION;
use axum::http::{HeaderValue, StatusCode};
use axum::response::Response;
use baton_broker::{BrokerError, Caller, FannedOut, SendOptions};
use baton_model::{CallId, FunctionId, Name, ResultDocument, Status, fanout_tenant};
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
    let tenant = fanout_tenant(&order.functions).map_err(bad)?;
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
    let calls: Vec<_> = order.functions.iter().map(|function| (function.clone(), id.clone())).collect();
    let results = gate.parts.caller.results(&calls).await.map_err(trouble)?;
    let new = order.functions.iter().zip(results).filter(|(_, result)| result.is_none());
    try_join_all(new.map(|(function, _)| quota::admit(&gate, function, 1))).await?;
    // Between the door and Redis nothing is waited for: what has passed is still read by a host that ends.
    let entrant = exec::enter(&gate)?;
    let options = SendOptions { media_type, priority, ..wishes.options };
    let sent = gate.parts.caller.fan_out((tenant, &id), &order.functions, &payload, &options).await;
    drop(entrant);
    if sent.map_err(trouble)? == FannedOut::Elsewhere {
        let detail = format!("the fan-out {id} went to other functions; take another Idempotency-Key");
        return Err(Problem::new(409, "other-fanout").detail(detail));
    }
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
