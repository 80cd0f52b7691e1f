//! Executions of durable functions: begun, sent events, looked at, taken back.

use std::sync::Arc;

use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, Request, State};
use axum::http::header::LOCATION;
use axum::http::{HeaderValue, StatusCode};
use axum::response::Response;
use baton_broker::{
    Asked, Beginning, BrokerError, Caller, EXECUTION_STATES as STATES, ExecutionView, Loaded, SendOptions, Taken,
    Withdrawn,
};
use baton_model::execution::{History, Received};
use baton_model::{CallId, Digest, FunctionId, Reply, RetryWish};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::auth::Asker;
use crate::calls::{WaitQuery, bad_query, patience, result_until};
use crate::gate::Gate;
use crate::listings::json_response;
use crate::problem::Problem;
use crate::request::{CallTarget, EventTarget, Target, Wishes, location};
use crate::{door, exec, quota};

/// How many executions one list has, if nobody says, and at the most.
const LIST: usize = 100;
const LIST_MAX: usize = 1000;
/// How often one request looks on.
const PAGES_MAX: usize = 100;

/// `POST /v1/exec/…`: begins an execution, and does not wait for anything of it.
pub(crate) async fn start(
    State(gate): State<Arc<Gate>>,
    asker: Asker,
    Target(function): Target,
    request: Request,
) -> Result<Response, Problem> {
    door::open(&gate)?;
    let _seat = gate.seat()?;
    let exec::Entrant { wishes, payload, .. } = exec::admit(&gate, &asker, &function, request).await?;
    let Wishes { options, .. } = wishes;
    says_nothing_else(&options, "an execution", "it lasts as long as its function says")?;
    let id = options.id.unwrap_or_else(Caller::new_id);
    quota::admit(&gate, &function, 1).await?;
    let _entrant = exec::enter(&gate)?;
    let media_type = options.media_type.unwrap_or_else(|| "application/json".to_owned());
    let beginning = Beginning { input: Reply { media_type, body: payload }, headers: options.headers, parent: None };
    let begun = gate.parts.durable.start(&function, &id, beginning, None).await;
    begun.map_err(|error| gate.broker_problem(&error))?;
    Ok(accepted(&function, &id, json!({ "id": id, "href": place(&function, &id) })))
}

/// Refuses the wishes of plain calls.
fn says_nothing_else(options: &SendOptions, what: &str, why: &str) -> Result<(), Problem> {
    for (is_said, header) in [
        (options.deadline_ms.is_some(), "Baton-Deadline"),
        (options.delay.is_some(), "Baton-Delay"),
        (options.key.is_some(), "Baton-Key"),
        (!options.priority.is_normal(), "Baton-Priority"),
        (options.retry != RetryWish::default(), "Baton-Attempts, Baton-Backoff or Baton-Retry-On"),
    ] {
        if is_said {
            return Err(Problem::bad("bad-header", format!("{what} takes no {header}: {why}; leave it out")));
        }
    }
    Ok(())
}

/// `POST /v1/exec/{tenant}/{function}/{id}/events/{event}`: hands it an event. The same `Idempotency-Key` is the same event.
pub(crate) async fn event(
    State(gate): State<Arc<Gate>>,
    asker: Asker,
    EventTarget(function, id, name): EventTarget,
    request: Request,
) -> Result<Response, Problem> {
    door::open(&gate)?;
    let _seat = gate.seat()?;
    let exec::Entrant { wishes, payload, .. } = exec::admit(&gate, &asker, &function, request).await?;
    says_nothing_else(&wishes.options, "an event", "it stands in the log at once")?;
    let media_type = wishes.options.media_type.unwrap_or_else(|| "application/json".to_owned());
    let event_id = wishes.options.id.unwrap_or_else(Caller::new_id);
    let received = Received { id: event_id.clone(), name, payload: Reply { media_type, body: payload } };
    // No quota of calls: it is none, and what waits for it has been let in. How much a log takes is bound.
    let _entrant = exec::enter(&gate)?;
    let taken = gate.parts.durable.event(gate.seen(&asker, &function), &id, received).await;
    let taken = taken.map_err(|error| gate.broker_problem(&error))?;
    match taken {
        Taken::At { position, is_new } => Ok(accepted(
            &function,
            &id,
            json!({ "event": event_id, "position": position, "new": is_new, "href": place(&function, &id) }),
        )),
        Taken::Unknown => Err(absent(&function, &id)),
        Taken::Ended | Taken::Full | Taken::Damaged => {
            let (code, why) = taken.refusal().unwrap_or_default();
            Err(Problem::new(409, code).detail(format!("the execution {why}")))
        }
    }
}

/// `GET /v1/exec/{tenant}/{function}/{id}`
pub(crate) async fn show(
    State(gate): State<Arc<Gate>>,
    asker: Asker,
    CallTarget(function, id): CallTarget,
) -> Result<Response, Problem> {
    let _seat = gate.seat()?;
    let loaded = load(&gate, &asker, &function, &id).await?;
    let mut view = json!(loaded.view(&id));
    (view["function"], view["href"]) = (json!(function), json!(place(&function, &id)));
    Ok(json_response(&view))
}

/// `GET /v1/exec/{tenant}/{function}/{id}/history`
pub(crate) async fn history(
    State(gate): State<Arc<Gate>>,
    asker: Asker,
    CallTarget(function, id): CallTarget,
) -> Result<Response, Problem> {
    let _seat = gate.seat()?;
    let loaded = load(&gate, &asker, &function, &id).await?;
    Ok(json_response(&History::new(&function, &id, &loaded.state, loaded.length, loaded.log)))
}

/// `GET /v1/exec/{tenant}/{function}/{id}/result`: what a call of it would be answered with.
pub(crate) async fn result(
    State(gate): State<Arc<Gate>>,
    asker: Asker,
    CallTarget(function, id): CallTarget,
    query: Result<Query<WaitQuery>, QueryRejection>,
) -> Result<Response, Problem> {
    let _seat = gate.seat()?;
    let end = Instant::now() + patience(&gate, query)?;
    let seen = gate.seen(&asker, &function);
    let found = gate.parts.caller.result(seen, &id).await.map_err(|error| gate.broker_problem(&error))?;
    let result = match found {
        Some(result) => Some(result),
        None => result_until(&gate, seen, &id, end).await?,
    };
    if let Some(result) = result {
        return Ok(exec::answer(&function, result));
    }
    let loaded = load(&gate, &asker, &function, &id).await?;
    if loaded.ended_ms.is_some() {
        let detail = "the execution has ended, and its result has expired; its history has the end of it";
        return Err(Problem::new(404, "result-expired").detail(detail));
    }
    let detail = match loaded.stuck {
        Some(why) => format!("the execution has no result, and is stuck: {why}"),
        None => "the execution has no result yet; ask again, or wait for it with ?wait=10s".to_owned(),
    };
    Err(Problem::new(404, "no-result-yet").detail(detail).retry_after(gate.config.retry_after))
}

/// What may be said with a move.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct MoveQuery {
    digest: Option<String>,
}

/// `POST /v1/exec/{tenant}/{function}/{id}/move`: whoever runs it next tries that, over its whole log.
pub(crate) async fn move_to(
    State(gate): State<Arc<Gate>>,
    asker: Asker,
    CallTarget(function, id): CallTarget,
    query: Result<Query<MoveQuery>, QueryRejection>,
) -> Result<Response, Problem> {
    let _seat = gate.seat()?;
    let Query(MoveQuery { digest }) = query.map_err(bad_query)?;
    let digest = match digest {
        None => None,
        Some(text) => Some(Digest::parse(&text).ok_or_else(|| {
            Problem::bad(
                "bad-query",
                "`digest` is the SHA-256 of a component: 64 hexadecimal digits; leave it out for the newest",
            )
        })?),
    };
    let asked = gate.parts.durable.move_to(gate.seen(&asker, &function), &id, digest).await;
    match asked.map_err(|error| gate.broker_problem(&error))? {
        Asked::Done => Ok(accepted(&function, &id, json!({ "id": id, "href": place(&function, &id) }))),
        Asked::Ended => Err(Problem::new(409, "ended").detail("the execution has ended; it runs on nothing any more")),
        Asked::Unknown => Err(absent(&function, &id)),
    }
}

/// `DELETE /v1/exec/{tenant}/{function}/{id}`
pub(crate) async fn cancel(
    State(gate): State<Arc<Gate>>,
    asker: Asker,
    CallTarget(function, id): CallTarget,
) -> Result<Response, Problem> {
    let _seat = gate.seat()?;
    let withdrawn = gate.parts.durable.cancel(gate.seen(&asker, &function), &id).await;
    match withdrawn.map_err(|error| gate.broker_problem(&error))? {
        Withdrawn::Done(_) => Ok(json_response(&json!({ "id": id, "function": function, "state": "cancelled" }))),
        Withdrawn::Ended => Err(Problem::new(409, "ended")
            .detail("the execution had ended before; its result stands")
            .about(&function, &id)),
        Withdrawn::Unknown => Err(absent(&function, &id)),
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ListQuery {
    state: Option<String>,
    after: Option<String>,
    limit: Option<usize>,
}

/// `GET /v1/exec/{tenant}/{function}`
pub(crate) async fn list(
    State(gate): State<Arc<Gate>>,
    asker: Asker,
    Target(function): Target,
    query: Result<Query<ListQuery>, QueryRejection>,
) -> Result<Response, Problem> {
    let _seat = gate.seat()?;
    let Query(ListQuery { state, after, limit }) = query.map_err(bad_query)?;
    let limit = limit.unwrap_or(LIST).clamp(1, LIST_MAX);
    if let Some(state) = state.as_deref().filter(|state| !STATES.contains(state)) {
        return Err(Problem::bad(
            "bad-query",
            format!("`state` is {state:?}, and must be one of {}", STATES.join(", ")),
        ));
    }
    let is_place =
        |text: &&str| text.split_once('-').is_some_and(|(ms, id)| ms.parse::<u64>().is_ok() && !id.is_empty());
    if let Some(after) = after.as_deref().filter(|after| !is_place(after)) {
        let rule = format!("`after` is {after:?}, and must be what an earlier answer gave as `next`");
        return Err(Problem::bad("bad-query", rule));
    }
    let seen = gate.seen(&asker, &function);
    let (mut executions, mut next) = (Vec::new(), after);
    // Of one state there may be few among many, which are looked at a page at a time.
    for _ in 0..PAGES_MAX {
        let found = gate.parts.durable.list(seen, state.as_deref(), next.as_deref(), LIST).await;
        let (more, behind) = found.map_err(|error| gate.broker_problem(&error))?;
        executions.extend(more);
        next = behind;
        if next.is_none() || executions.len() >= limit {
            break;
        }
    }
    if executions.len() > limit {
        executions.truncate(limit);
        next = executions.last().map(ExecutionView::place);
    }
    let views: Vec<Value> = executions
        .iter()
        .map(|execution: &ExecutionView| {
            let mut view = json!(execution);
            view["href"] = json!(place(&function, &execution.id));
            view
        })
        .collect();
    Ok(json_response(&json!({ "executions": views, "next": next })))
}

async fn load(gate: &Gate, asker: &Asker, function: &FunctionId, id: &CallId) -> Result<Loaded, Problem> {
    let loaded = gate.parts.durable.load(gate.seen(asker, function), id).await;
    loaded.map_err(|error: BrokerError| gate.broker_problem(&error))?.ok_or_else(|| absent(function, id))
}

fn absent(function: &FunctionId, id: &CallId) -> Problem {
    let detail = format!("{function} has no execution {id}: the id is wrong, or what is known of it has expired");
    Problem::new(404, "unknown-execution").detail(detail)
}

/// Where an execution is looked at.
fn place(function: &FunctionId, id: &CallId) -> String {
    location(function, id).replacen("/v1/calls/", "/v1/exec/", 1)
}

fn accepted(function: &FunctionId, id: &CallId, said: Value) -> Response {
    let mut response = json_response(&said);
    *response.status_mut() = StatusCode::ACCEPTED;
    let place = HeaderValue::from_str(&place(function, id)).expect("a location is ASCII");
    response.headers_mut().insert(LOCATION, place);
    response
}
