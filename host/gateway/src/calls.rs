//! Calls that were sent: where one stands, its result, and which run now.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::HeaderValue;
use axum::response::Response;
use base64::Engine as _;
use baton_broker::{Absent, BrokerError, CallState, Cancelled, state_of};
use baton_model::{CallId, FunctionId, HostId, ResultDocument, RunningState, WAITS_FOR_TURN_MS};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::auth::Asker;
use crate::exec::answer;
use crate::gate::Gate;
use crate::listings::json_response;
use crate::problem::Problem;
use crate::request::{CALL_ID, CallTarget, duration, location};

/// How soon a waiting request looks again, at first and at the most. Looks are one cheap command.
pub(crate) const LOOK_MIN: Duration = Duration::from_millis(10);
pub(crate) const LOOK_MAX: Duration = Duration::from_millis(250);
/// The most calls that one list names.
const LIST_MAX: usize = 1000;

/// One call, as it is shown.
#[derive(Serialize)]
struct CallView {
    id: CallId,
    function: FunctionId,
    state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    host: Option<HostId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    attempt: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    since_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    due_ms: Option<u64>,
    /// What it waits for beside a free seat.
    #[serde(skip_serializing_if = "Option::is_none")]
    waits_for: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    result: Option<Value>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct WaitQuery {
    wait: Option<String>,
}

/// `GET /v1/calls/{tenant}/{function}/{id}`
pub(crate) async fn state(
    State(gate): State<Arc<Gate>>,
    asker: Asker,
    CallTarget(function, id): CallTarget,
    query: Result<Query<WaitQuery>, QueryRejection>,
) -> Result<Response, Problem> {
    let _seat = gate.seat()?;
    let patience = patience(&gate, query)?;
    let state = look(&gate, &asker, &function, &id, patience).await?;
    shown_as(function, id, state)
}

/// `DELETE /v1/calls/{tenant}/{function}/{id}`
pub(crate) async fn cancel(
    State(gate): State<Arc<Gate>>,
    asker: Asker,
    CallTarget(function, id): CallTarget,
) -> Result<Response, Problem> {
    let _seat = gate.seat()?;
    let cancelled = gate.parts.cancel.cancel(gate.seen(&asker, &function), &id).await;
    match cancelled.map_err(|error| gate.broker_problem(&error))? {
        Cancelled::Done(result) => shown_as(function, id, CallState::Ended(Box::new(result))),
        Cancelled::Ended(result) => {
            let detail = format!("the call had ended before, with the status {}; its result stands", result.status);
            Err(Problem::new(409, "ended").detail(detail).about(&function, &id))
        }
        Cancelled::Unknown(why) => Err(absent(&function, &id, why)),
    }
}

/// `GET /v1/calls/{tenant}/{function}/{id}/why`
pub(crate) async fn why(
    State(gate): State<Arc<Gate>>,
    asker: Asker,
    CallTarget(function, id): CallTarget,
) -> Result<Response, Problem> {
    let _seat = gate.seat()?;
    let trouble = |error: BrokerError| gate.broker_problem(&error);
    let snapshot = gate.directory.hosts().await.map_err(trouble)?;
    let hosts: Vec<HostId> = snapshot.hosts.iter().map(|host| host.id.clone()).collect();
    let why = gate.parts.inspect.why(&hosts, gate.seen(&asker, &function), &id).await.map_err(trouble)?;
    why.map(|why| json_response(&why)).map_err(|why| absent(&function, &id, why))
}

fn absent(function: &FunctionId, id: &CallId, why: Absent) -> Problem {
    let detail = match why.is_sure {
        true => format!("{function} has no call {id}: the id is wrong, or its result has expired"),
        false => format!(
            "{function} has no call {id} among those that are known by their ids, nor among the first that wait; if it was added \
             with XADD under an id of its caller's choice, it may stand further behind: ask again later, or send calls through a host"
        ),
    };
    Problem::new(404, "unknown-call").detail(detail)
}

fn shown_as(function: FunctionId, id: CallId, state: CallState) -> Result<Response, Problem> {
    let mut view = CallView {
        id: id.clone(),
        function,
        state: "queued",
        host: None,
        attempt: None,
        since_ms: None,
        due_ms: None,
        waits_for: None,
        result: None,
    };
    match state {
        CallState::Queued { attempt } => view.attempt = Some(attempt),
        CallState::Delayed { attempt, due_ms: WAITS_FOR_TURN_MS } => {
            (view.attempt, view.waits_for) = (Some(attempt), Some("key"));
        }
        CallState::Delayed { attempt, due_ms } => {
            (view.state, view.attempt, view.due_ms) = ("delayed", Some(attempt), Some(due_ms));
        }
        CallState::Running { host, attempt, stage, since_ms } => {
            view.state = match stage {
                RunningState::Starting => "starting",
                RunningState::Running => "running",
            };
            (view.host, view.attempt, view.since_ms) = (Some(host), Some(attempt), Some(since_ms));
        }
        CallState::Execution => (view.state, view.waits_for) = ("execution", Some("steps")),
        CallState::Ended(result) => {
            view.state = state_of(result.status);
            (view.host, view.attempt) = (result.host.clone(), Some(result.attempts));
            view.result = Some(shown(&view.function, &result)?);
        }
    }
    let mut response = json_response(&view);
    response.headers_mut().insert(CALL_ID, HeaderValue::from_str(id.as_str()).expect("a call id is printable ASCII"));
    Ok(response)
}

/// `GET /v1/calls/{tenant}/{function}/{id}/result`: what the call itself would have been answered with.
pub(crate) async fn result(
    State(gate): State<Arc<Gate>>,
    asker: Asker,
    CallTarget(function, id): CallTarget,
    query: Result<Query<WaitQuery>, QueryRejection>,
) -> Result<Response, Problem> {
    let _seat = gate.seat()?;
    let patience = patience(&gate, query)?;
    match look(&gate, &asker, &function, &id, patience).await? {
        CallState::Ended(result) => Ok(answer(&function, *result)),
        CallState::Queued { .. } | CallState::Delayed { .. } | CallState::Running { .. } | CallState::Execution => {
            let detail = "the call has no result yet; ask again, or wait for it with ?wait=10s";
            let problem = Problem::new(404, "no-result-yet").detail(detail).retry_after(gate.config.retry_after);
            Err(problem.about(&function, &id))
        }
    }
}

pub(crate) fn patience(gate: &Gate, query: Result<Query<WaitQuery>, QueryRejection>) -> Result<Duration, Problem> {
    let Query(WaitQuery { wait }) = query.map_err(bad_query)?;
    let wait = wait.map(|text| duration("wait", &text)).transpose()?.unwrap_or_default();
    Ok(wait.min(gate.config.call_time_max))
}

pub(crate) fn bad_query(rejection: QueryRejection) -> Problem {
    Problem::bad("bad-query", format!("{}; see /openapi.json for what may be asked", rejection.body_text()))
}

/// Where the call stands; waits for its end for as long as `patience`.
async fn look(
    gate: &Gate,
    asker: &Asker,
    function: &FunctionId,
    id: &CallId,
    patience: Duration,
) -> Result<CallState, Problem> {
    let end = Instant::now() + patience;
    let trouble = |error: BrokerError| gate.broker_problem(&error);
    let absent = |why| absent(function, id, why);
    let function = gate.seen(asker, function);
    let state = gate.parts.inspect.state(function, id).await.map_err(trouble)?.map_err(absent)?;
    if matches!(state, CallState::Ended(_)) || patience.is_zero() {
        return Ok(state);
    }
    if let Some(result) = result_until(gate, function, id, end).await? {
        return Ok(CallState::Ended(Box::new(result)));
    }
    gate.parts.inspect.state(function, id).await.map_err(trouble)?.map_err(absent)
}

/// The result of a call that has none yet, waited for until `end`, or until the gateway ends.
pub(crate) async fn result_until(
    gate: &Gate,
    function: &FunctionId,
    id: &CallId,
    end: Instant,
) -> Result<Option<ResultDocument>, Problem> {
    let mut pause = LOOK_MIN;
    while Instant::now() < end {
        tokio::select! {
            () = tokio::time::sleep_until(end.min(Instant::now() + pause)) => {}
            () = gate.ending.cancelled() => break,
        }
        match gate.parts.caller.result(function, id).await {
            Ok(Some(result)) => return Ok(Some(result)),
            Ok(None) => {}
            // Whoever has time to wait for the result has time to wait for Redis.
            Err(error @ (BrokerError::Unreachable(_) | BrokerError::Unable(_) | BrokerError::NoScript)) => {
                tracing::debug!(%error, "waiting for a result goes on");
            }
            Err(error) => return Err(gate.broker_problem(&error)),
        }
        pause = (pause * 2).min(LOOK_MAX);
    }
    Ok(None)
}

/// The result document as one object, as `baton get --json` prints it: the fields of its line, and the payload in the
/// plainest form. `href` is where the payload is to be had byte for byte.
pub(crate) fn shown(function: &FunctionId, result: &ResultDocument) -> Result<Value, Problem> {
    let mut value = serde_json::to_value(result).map_err(|_| {
        Problem::new(500, "internal").detail("the result cannot be shown as JSON; fetch it from …/result")
    })?;
    show_payload(&mut value, &result.media_type, &result.payload);
    value["href"] = json!(format!("{}/result", location(function, &result.id)));
    Ok(value)
}

/// Puts a payload into what is shown, in the plainest form.
pub(crate) fn show_payload(value: &mut Value, media_type: &str, payload: &[u8]) {
    match serde_json::from_slice::<Value>(payload) {
        Ok(payload) if media_type.starts_with("application/json") => value["payload"] = payload,
        _ => match std::str::from_utf8(payload) {
            Ok(text) => value["payload"] = json!(text),
            Err(_) => value["payload_base64"] = json!(base64::prelude::BASE64_STANDARD.encode(payload)),
        },
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ListQuery {
    state: Option<String>,
    function: Option<FunctionId>,
}

/// `GET /v1/calls?state=running`
pub(crate) async fn list(
    State(gate): State<Arc<Gate>>,
    asker: Asker,
    query: Result<Query<ListQuery>, QueryRejection>,
) -> Result<Response, Problem> {
    let _seat = gate.seat()?;
    let Query(ListQuery { state, function }) = query.map_err(bad_query)?;
    if state.as_deref() != Some("running") {
        return Err(Problem::bad("bad-query", "calls can be listed by one state, as in /v1/calls?state=running"));
    }
    let trouble = |error: BrokerError| gate.broker_problem(&error);
    let snapshot = gate.directory.hosts().await.map_err(trouble)?;
    let hosts: Vec<HostId> = snapshot.hosts.iter().map(|host| host.id.clone()).collect();
    let functions = match function {
        Some(function) => vec![gate.seen(&asker, &function).clone()],
        None => snapshot.functions().filter(|function| asker.may_see(function)).cloned().collect(),
    };
    let mut calls = gate.parts.inspect.running(&hosts, &functions, LIST_MAX).await.map_err(trouble)?;
    calls.sort_by_key(|call| call.since_ms);
    let views: Vec<Value> = calls
        .iter()
        .map(|call| {
            let mut view = json!(call);
            view["href"] = json!(location(&call.function, &call.id));
            view
        })
        .collect();
    Ok(json_response(&json!({ "calls": views })))
}
