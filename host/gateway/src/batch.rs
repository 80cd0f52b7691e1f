//! Many calls of one function in one request: `POST /v1/batch/…`.

use std::collections::HashSet;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::Response;
use base64::Engine as _;
use baton_broker::SendOptions;
use baton_model::{CallId, FunctionId, chosen_id};
use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use crate::auth::Asker;
use crate::gate::Gate;
use crate::listings::json_response;
use crate::problem::Problem;
use crate::request::{Target, Wishes, location, media_type_of, priority_of, wishes};
use crate::{door, exec, quota};

/// The most calls of one batch: Redis does nothing else while it takes them.
const CALLS_MAX: usize = 1_000;

/// One call of a batch.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Item {
    payload: Option<Box<RawValue>>,
    payload_base64: Option<String>,
    r#type: Option<String>,
    id: Option<String>,
    key: Option<String>,
    priority: Option<String>,
}

/// A payload within JSON: itself JSON, or bytes.
pub(crate) struct Payload {
    pub(crate) json: Option<Box<RawValue>>,
    pub(crate) base64: Option<String>,
    pub(crate) kind: Option<String>,
}

impl Payload {
    fn bad(what: String) -> Problem {
        Problem::bad("bad-call", what)
    }

    /// The payload and its media type; none is JSON.
    pub(crate) fn read(self) -> Result<(Bytes, Option<String>), Problem> {
        let named = self.kind.as_deref().map(media_type_of).transpose()?;
        let (bytes, media_type) = match (self.json, self.base64) {
            (Some(json), None) => (Box::<str>::from(json).into_boxed_bytes(), None),
            (None, Some(text)) => {
                let bytes = base64::prelude::BASE64_STANDARD.decode(text);
                let bytes = bytes.map_err(|error| Self::bad(format!("`payload_base64` is no base64: {error}")))?;
                (bytes.into_boxed_slice(), Some("application/octet-stream".to_owned()))
            }
            (Some(_), Some(_)) => {
                return Err(Self::bad("there is `payload` and `payload_base64`; leave one out".to_owned()));
            }
            (None, None) => {
                return Err(Self::bad("there is no `payload`; give `payload`, or `payload_base64`".to_owned()));
            }
        };
        Ok((Bytes::from(bytes), named.or(media_type)))
    }
}

/// One call of a batch, read, or what is wrong with it.
type Read = Result<(Bytes, SendOptions), Problem>;

/// `POST /v1/batch/…`
pub(crate) async fn send(
    State(gate): State<Arc<Gate>>,
    asker: Asker,
    Target(function): Target,
    request: Request,
) -> Result<Response, Problem> {
    door::open(&gate)?;
    let _seat = gate.seat()?;
    let (head, body) = request.into_parts();
    let wishes = wishes(&head.headers)?;
    if wishes.options.id.is_some() {
        let detail = "a batch takes no Idempotency-Key; give each call its own `id`";
        return Err(Problem::bad("bad-idempotency-key", detail));
    }
    exec::is_away(&gate, &asker, &function, &wishes).await?;
    let body = door::body(body, &gate.config, None).await?;
    let bytes_max = (gate.parts.payload_bytes_max)(&function).unwrap_or(usize::MAX);
    let calls: Vec<Read> = texts(&body)?.into_iter().map(|text| read(text, &wishes, bytes_max)).collect();
    let ids = accept(&gate, &function, &calls).await?;
    let view = |(call, id): (&Read, &Option<CallId>)| match call {
        Ok(_) => json!({ "id": id, "href": id.as_ref().map(|id| location(&function, id)) }),
        Err(problem) => json!({ "error": problem.of_one() }),
    };
    let views: Vec<Value> = calls.iter().zip(&ids).map(view).collect();
    let refused = calls.iter().filter(|call| call.is_err()).count();
    let mut response = json_response(&json!({ "accepted": calls.len() - refused, "calls": views }));
    *response.status_mut() = if refused == 0 { StatusCode::ACCEPTED } else { StatusCode::MULTI_STATUS };
    Ok(response)
}

/// The texts of the calls: of an array, or line by line.
fn texts(body: &[u8]) -> Result<Vec<&str>, Problem> {
    let bad =
        |what: String| Problem::bad("bad-batch", format!("{what}; send a JSON array of calls, or one call a line"));
    let body = std::str::from_utf8(body).map_err(|_| bad("the body is not UTF-8".to_owned()))?;
    let texts: Vec<&str> = if body.trim_start().starts_with('[') {
        let items: Vec<&RawValue> =
            serde_json::from_str(body).map_err(|error| bad(format!("the body is no JSON array: {error}")))?;
        items.into_iter().map(RawValue::get).collect()
    } else {
        body.lines().filter(|line| !line.trim().is_empty()).collect()
    };
    match texts.len() {
        0 => Err(bad("the body names no call".to_owned())),
        count if count > CALLS_MAX => {
            let detail = format!("the batch has {count} calls, and {CALLS_MAX} is the most; send it in parts");
            Err(Problem::new(413, "batch-too-large").detail(detail))
        }
        _ => Ok(texts),
    }
}

/// One call, with what the headers say for all.
fn read(text: &str, wishes: &Wishes, bytes_max: usize) -> Read {
    let item: Item = serde_json::from_str(text).map_err(|error| {
        Payload::bad(format!(
            "{error}; a call is an object with `payload`, or `payload_base64` and `type`, and perhaps an `id`"
        ))
    })?;
    let (payload, media_type) =
        Payload { json: item.payload, base64: item.payload_base64, kind: item.r#type }.read()?;
    if payload.len() > bytes_max {
        let detail = format!("the payload has {} bytes, and {bytes_max} is the most; send a reference", payload.len());
        return Err(Problem::new(413, "body-too-large").detail(detail));
    }
    let id = item.id.map(|id| chosen_id(&id).map_err(|rule| Problem::bad("bad-id", rule))).transpose()?;
    let key = item.key.map(|key| key.parse().map_err(|rule: String| Problem::bad("bad-key", rule))).transpose()?;
    let key = key.or_else(|| wishes.options.key.clone());
    let priority = item.priority.map(|text| priority_of("`priority`", &text)).transpose()?;
    let priority = priority.unwrap_or(wishes.options.priority);
    Ok((payload, SendOptions { id, media_type, key, priority, ..wishes.options.clone() }))
}

/// Has Redis take those that can be taken, in one step, and gives their ids, in order. The same id is the same call: one
/// that comes twice, or that has a result, is not sent again.
async fn accept(gate: &Gate, function: &FunctionId, calls: &[Read]) -> Result<Vec<Option<CallId>>, Problem> {
    let trouble = |error| gate.broker_problem(&error);
    let named: Vec<_> = calls.iter().flatten().filter_map(|(_, options)| options.id.clone()).collect();
    let asked: Vec<_> = named.iter().map(|id| (function.clone(), id.clone())).collect();
    let results = gate.parts.caller.results(&asked).await.map_err(trouble)?;
    let mut known: HashSet<CallId> =
        named.into_iter().zip(results).filter_map(|(id, result)| result.map(|_| id)).collect();
    let is_new = |call: &Read| match call {
        Ok((_, options)) => options.id.as_ref().is_none_or(|id| known.insert(id.clone())),
        Err(_) => false,
    };
    let is_new: Vec<bool> = calls.iter().map(is_new).collect();
    let new: Vec<(Bytes, SendOptions)> = calls
        .iter()
        .zip(&is_new)
        .filter(|(_, new)| **new)
        .filter_map(|(call, _)| call.as_ref().ok().cloned())
        .collect();
    quota::admit(gate, function, new.len() as u64).await?;
    let entrant = exec::enter(gate)?;
    let mut added = gate.parts.caller.send_all(function, &new).await.map_err(trouble)?.into_iter();
    drop(entrant);
    Ok(calls
        .iter()
        .zip(is_new)
        .map(|(call, is_new)| match call {
            Ok(_) if is_new => added.next(),
            Ok((_, options)) => options.id.clone(),
            Err(_) => None,
        })
        .collect())
}
