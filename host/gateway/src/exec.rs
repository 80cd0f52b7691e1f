//! New calls: `POST /v1/call/…`, which waits for the result, and `POST /v1/send/…`, which does not.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::header::{CONTENT_TYPE, LOCATION, X_CONTENT_TYPE_OPTIONS};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse as _, Response};
use baton_broker::{Accepted, BrokerError, SendOptions};
use baton_model::{CallError, CallId, FunctionId, ResultDocument, Status};
use bytes::Bytes;
use serde::de::IgnoredAny;
use tokio::time::Instant;
use tokio_util::task::task_tracker::TaskTrackerToken;

use crate::auth::Asker;
use crate::directory::Standing;
use crate::door;
use crate::event::{self, Event};
use crate::gate::Gate;
use crate::problem::Problem;
use crate::quota;
use crate::request::{CALL_ID, Target, Wishes, all_of, location, media_type_of, wishes};

/// How long a wait rests when Redis fails in the middle of it.
const TROUBLE_PAUSE: Duration = Duration::from_millis(200);

/// How often a function is looked for while a host starts.
const START_PAUSE: Duration = Duration::from_millis(100);

/// A call that may come in, read to its end.
pub(crate) struct Entrant {
    pub(crate) wishes: Wishes,
    pub(crate) payload: Bytes,
    is_away: bool,
}

pub(crate) async fn admit(
    gate: &Gate,
    asker: &Asker,
    function: &FunctionId,
    request: Request,
) -> Result<Entrant, Problem> {
    let (head, body) = request.into_parts();
    let mut wishes = wishes(&head.headers)?;
    let is_away = is_away(gate, asker, function, &wishes).await?;
    let payload = door::body(body, &gate.config, (gate.parts.payload_bytes_max)(function)).await?;
    if wishes.is_event {
        let Event { attributes, media_type, data } = event::whole(&payload)?;
        let options = SendOptions {
            media_type: media_type.as_deref().map(media_type_of).transpose()?,
            headers: all_of(wishes.options.headers, attributes)?,
            ..wishes.options
        };
        return Ok(Entrant { wishes: Wishes { options, ..wishes }, payload: data, is_away });
    }
    if is_json_in_disguise(wishes.options.media_type.as_deref(), &payload) {
        wishes.options.media_type = Some("application/json".to_owned());
    }
    Ok(Entrant { wishes, payload, is_away })
}

/// Whether no host has the function now. One that nobody has had is a problem.
pub(crate) async fn is_away(
    gate: &Gate,
    asker: &Asker,
    function: &FunctionId,
    wishes: &Wishes,
) -> Result<bool, Problem> {
    let patience = wishes.deadline.unwrap_or(Duration::MAX).min(gate.config.start_time_max);
    let standing = known(gate, gate.seen(asker, function), Instant::now() + patience).await;
    match standing.map_err(|error| gate.broker_problem(&error))? {
        Standing::Available => Ok(false),
        Standing::Away => Ok(true),
        Standing::Unknown => Err(unknown(function)),
    }
}

/// What is known of the function. While a host is loading its functions, one that nobody has had may be among them: it
/// is waited for until `end`.
async fn known(gate: &Gate, function: &FunctionId, end: Instant) -> Result<Standing, BrokerError> {
    loop {
        // Looked at first: what this host loads meanwhile is not to be missed by both.
        let started = gate.status().started;
        let standing = gate.directory.standing(function).await?;
        // This host may not have told anybody yet what it has.
        if standing == Standing::Unknown && (gate.parts.payload_bytes_max)(function).is_some() {
            return Ok(Standing::Available);
        }
        let may_come = standing == Standing::Unknown && (!started || gate.directory.is_starting().await?);
        if !may_come || Instant::now() >= end {
            return Ok(standing);
        }
        tokio::select! {
            () = tokio::time::sleep_until(end.min(Instant::now() + START_PAUSE)) => {}
            () = gate.ending.cancelled() => return Ok(standing),
        }
    }
}

/// `curl -d '{…}'` says that it sends a form, because nobody told it otherwise. No form begins like this.
fn is_json_in_disguise(media_type: Option<&str>, payload: &[u8]) -> bool {
    let essence = media_type.and_then(|text| text.split(';').next()).unwrap_or_default().trim();
    essence.eq_ignore_ascii_case("application/x-www-form-urlencoded")
        && matches!(payload.trim_ascii_start().first(), Some(b'{' | b'['))
        && serde_json::from_slice::<IgnoredAny>(payload).is_ok()
}

fn unknown(function: &FunctionId) -> Problem {
    let detail = format!("no host has had {function}; put its component into a plugins folder, or mend the name");
    Problem::new(404, "unknown-function").detail(detail)
}

/// The result of a call whose id the caller chose, if it has one already: the same id is the same call.
async fn earlier(gate: &Gate, function: &FunctionId, wishes: &Wishes) -> Result<Option<ResultDocument>, Problem> {
    let Some(id) = &wishes.options.id else { return Ok(None) };
    gate.parts.caller.result(function, id).await.map_err(|error| gate.broker_problem(&error))
}

/// The last step before a call is Redis's: the door may have been closed while the body arrived. What has this is still
/// read by a host that is ending.
pub(crate) fn enter(gate: &Gate) -> Result<TaskTrackerToken, Problem> {
    let entrant = gate.parts.entrants.token();
    door::open(gate)?;
    Ok(entrant)
}

/// `POST /v1/send/…`
pub(crate) async fn send(
    State(gate): State<Arc<Gate>>,
    asker: Asker,
    Target(function): Target,
    request: Request,
) -> Result<Response, Problem> {
    door::open(&gate)?;
    let _seat = gate.seat()?;
    let Entrant { wishes, payload, .. } = admit(&gate, &asker, &function, request).await?;
    let id = match earlier(&gate, &function, &wishes).await? {
        Some(result) => result.id,
        None => {
            quota::admit(&gate, &function, 1).await?;
            let _entrant = enter(&gate)?;
            let sent = gate.parts.caller.send(&function, &payload, &wishes.options).await;
            sent.map_err(|error| gate.broker_problem(&error))?
        }
    };
    let mut response = Response::new(Body::from(format!("{{\"id\":{}}}", serde_json::Value::from(id.as_str()))));
    *response.status_mut() = StatusCode::ACCEPTED;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(LOCATION, HeaderValue::from_str(&location(&function, &id)).expect("a location is ASCII"));
    headers.insert(CALL_ID, id_value(&id));
    Ok(response)
}

/// `POST /v1/call/…`
pub(crate) async fn call(
    State(gate): State<Arc<Gate>>,
    asker: Asker,
    Target(function): Target,
    request: Request,
) -> Result<Response, Problem> {
    door::open(&gate)?;
    let _seat = gate.seat()?;
    let began = Instant::now();
    let Entrant { wishes, payload, is_away } = admit(&gate, &asker, &function, request).await?;
    if let Some(result) = earlier(&gate, &function, &wishes).await? {
        return Ok(answer(&function, result));
    }
    quota::admit(&gate, &function, 1).await?;
    let entrant = enter(&gate)?;
    let accepted = gate.parts.caller.accept(&function, &payload, &wishes.options).await;
    drop((payload, entrant));
    let mut accepted = accepted.map_err(|error| gate.broker_problem(&error))?;
    let patience = wishes.deadline.unwrap_or(Duration::MAX).min(gate.config.call_time_max);
    let result = tokio::select! {
        result = outcome(&gate, &mut accepted, began + patience) => result?,
        () = gate.ending.cancelled() => {
            let detail = "the gateway is ending; the call goes on, and its result will be at Location";
            let problem = Problem::new(503, "ending").detail(detail).retry_after(gate.config.retry_after);
            return Err(problem.about(&function, accepted.id()));
        }
    };
    match result {
        Some(result) => Ok(answer(&function, result)),
        None => Err(too_late(&function, accepted.id(), &wishes, patience, is_away)),
    }
}

/// The result of an accepted call, waited for until `end`; trouble with Redis on the way is waited out.
async fn outcome(gate: &Gate, accepted: &mut Accepted, end: Instant) -> Result<Option<ResultDocument>, Problem> {
    loop {
        let patience = end.saturating_duration_since(Instant::now());
        match gate.parts.caller.outcome(accepted, patience).await {
            Ok(result) => return Ok(result),
            Err(
                error @ (BrokerError::Unreachable(_)
                | BrokerError::Unable(_)
                | BrokerError::NoScript
                | BrokerError::NoGroup(_)),
            ) => {
                if Instant::now() + TROUBLE_PAUSE >= end {
                    return Ok(None);
                }
                tracing::debug!(%error, "waiting for a result goes on");
                tokio::time::sleep(TROUBLE_PAUSE).await;
            }
            Err(error @ (BrokerError::Refused(_) | BrokerError::BadUrl { .. })) => {
                return Err(gate.broker_problem(&error));
            }
        }
    }
}

fn too_late(function: &FunctionId, id: &CallId, wishes: &Wishes, patience: Duration, is_away: bool) -> Problem {
    let why = if is_away { format!("; no host had {function} when it was sent") } else { String::new() };
    let waited = patience.as_millis();
    let problem = if wishes.deadline.is_some_and(|deadline| deadline <= patience) {
        let detail = format!(
            "the deadline of {waited} ms passed before there was an answer{why}; give it more time, or send instead"
        );
        Problem::new(504, "deadline").detail(detail)
    } else {
        let detail = format!("no answer within {waited} ms{why}; the call goes on, fetch its result from Location");
        Problem::new(504, "still-running").detail(detail)
    };
    problem.about(function, id)
}

fn id_value(id: &CallId) -> HeaderValue {
    HeaderValue::from_str(id.as_str()).expect("a call id is printable ASCII")
}

/// A call's terminal result as an HTTP answer.
pub(crate) fn answer(function: &FunctionId, result: ResultDocument) -> Response {
    let ResultDocument { status, id, error, media_type, payload, .. } = result;
    let CallError { code, message } =
        error.unwrap_or_else(|| CallError { code: status.to_string(), message: "the host gave no reason".to_owned() });
    let problem = match status {
        Status::Ok => {
            let mut response = Response::new(Body::from(payload));
            let headers = response.headers_mut();
            // The type is the function's word; one that HTTP cannot carry is bytes.
            let media_type = HeaderValue::try_from(media_type);
            headers.insert(CONTENT_TYPE, media_type.unwrap_or(HeaderValue::from_static("application/octet-stream")));
            headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
            headers.insert(CALL_ID, id_value(&id));
            return response;
        }
        Status::Error => Problem::new(422, "rejected").code(code).detail(message),
        Status::Dead => {
            // The rest, such as where a guest trapped, is for the function's owner and lies with the dead letter.
            let message = message.lines().next().unwrap_or_default();
            Problem::new(502, "failed").code(code).detail(format!("{message}; the call is kept among the dead letters"))
        }
        Status::Expired => Problem::new(504, "deadline").detail(message),
        Status::Cancelled => Problem::new(409, "cancelled").detail(message),
    };
    problem.about(function, &id).into_response()
}
