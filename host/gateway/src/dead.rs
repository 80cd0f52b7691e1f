//! Dead letters: what lies there, sent again, dropped.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::response::Response;
use baton_broker::{BrokerError, Letters, Order, Reach, Redriven};
use baton_model::{EntryId, FunctionId, LetterFilter, LetterSummary};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::auth::Asker;
use crate::calls::{bad_query, show_payload};
use crate::gate::{Gate, millis, now_ms};
use crate::listings::json_response;
use crate::problem::Problem;
use crate::quota;
use crate::request::{CallTarget, Target, duration, location};

/// How many letters one list has, if nobody says, and at the most.
const LIST: usize = 100;
const LIST_MAX: usize = 1000;
/// The most letters that one request sends again or drops.
const STEP_MAX: u64 = 1000;

/// Which letters are meant. Times say how long ago a call was given up.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Meant {
    reason: Option<String>,
    older: Option<String>,
    newer: Option<String>,
    after: Option<String>,
    #[serde(default)]
    all: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ListQuery {
    reason: Option<String>,
    older: Option<String>,
    newer: Option<String>,
    after: Option<String>,
    limit: Option<usize>,
}

fn filter(reason: Option<String>, older: Option<String>, newer: Option<String>) -> Result<LetterFilter, Problem> {
    let ago = |name: &str, text: Option<String>| {
        let read = text.map(|text| duration(name, &text)).transpose()?;
        Ok::<_, Problem>(read.map(|ago: Duration| now_ms().saturating_sub(millis(ago))))
    };
    Ok(LetterFilter { reason, from_ms: ago("newer", newer)?, until_ms: ago("older", older)? })
}

/// What is to be done to many letters has to be said with a word: a query that was forgotten is not to mean all.
fn meant(query: Result<Query<Meant>, QueryRejection>) -> Result<(LetterFilter, Option<EntryId>), Problem> {
    let Query(Meant { reason, older, newer, after, all }) = query.map_err(bad_query)?;
    if !all && reason.is_none() && older.is_none() && newer.is_none() {
        let detail = "say which letters are meant: ?reason=trap, ?older=1h, ?newer=10m, or ?all=true";
        return Err(Problem::bad("bad-query", detail));
    }
    Ok((filter(reason, older, newer)?, behind(after)?))
}

/// The letter behind which a request goes on.
fn behind(after: Option<String>) -> Result<Option<EntryId>, Problem> {
    let letter = |text: String| EntryId::parse(&text).filter(|letter| letter.level().is_normal());
    let bad = || Problem::bad("bad-query", "`after` is the id of a letter, as the last answer has it under `next`");
    after.map(|text| letter(text).ok_or_else(bad)).transpose()
}

fn absent(function: &FunctionId, id: &str) -> Problem {
    let detail = format!("{function} has no dead letter {id}, by its own id or by that of its call");
    Problem::new(404, "unknown-letter").detail(detail)
}

fn place(letter: &LetterSummary) -> String {
    format!("/v1/dead/{}/{}", letter.function, letter.letter)
}

/// `GET /v1/dead/{tenant}/{function}`
pub(crate) async fn list(
    State(gate): State<Arc<Gate>>,
    asker: Asker,
    Target(function): Target,
    query: Result<Query<ListQuery>, QueryRejection>,
) -> Result<Response, Problem> {
    let _seat = gate.seat()?;
    let Query(ListQuery { reason, older, newer, after, limit }) = query.map_err(bad_query)?;
    let filter = filter(reason, older, newer)?;
    let after = behind(after)?;
    let limit = limit.unwrap_or(LIST).clamp(1, LIST_MAX);
    let seen = gate.seen(&asker, &function);
    let found = gate.parts.dead.list(seen, &filter, Order::NewestFirst, after, limit).await;
    let Letters { letters, next } = found.map_err(|error| gate.broker_problem(&error))?;
    let views: Vec<Value> = letters
        .iter()
        .map(|letter| {
            let mut view = json!(letter);
            view["href"] = json!(place(letter));
            view
        })
        .collect();
    Ok(json_response(&json!({ "letters": views, "next": next })))
}

/// `GET /v1/dead/{tenant}/{function}/{id}`
pub(crate) async fn show(
    State(gate): State<Arc<Gate>>,
    asker: Asker,
    CallTarget(function, id): CallTarget,
) -> Result<Response, Problem> {
    let _seat = gate.seat()?;
    let trouble = |error: BrokerError| gate.broker_problem(&error);
    let found = one(&gate, &asker, &function, id.as_str()).await?;
    let letter = gate.parts.dead.read(&found.function, found.letter).await.map_err(trouble)?;
    let letter = letter.ok_or_else(|| absent(&function, id.as_str()))?;
    let mut view = json!(letter);
    show_payload(&mut view, &letter.media_type, &letter.payload);
    Ok(json_response(&view))
}

/// `POST /v1/dead/{tenant}/{function}/{id}/redrive`
pub(crate) async fn redrive_one(
    State(gate): State<Arc<Gate>>,
    asker: Asker,
    CallTarget(function, id): CallTarget,
) -> Result<Response, Problem> {
    let _seat = gate.seat()?;
    let found = one(&gate, &asker, &function, id.as_str()).await?;
    quota::admit(&gate, &found.function, 1).await?;
    let letters = std::slice::from_ref(&found);
    let ends = gate.parts.dead.redrive(&found.function, letters).await.map_err(|error| gate.broker_problem(&error))?;
    match (ends.first(), &found.id) {
        (Some(Redriven::SentAgain), Some(call)) => {
            Ok(json_response(&json!({ "id": call, "href": location(&found.function, call) })))
        }
        (Some(Redriven::Ended), _) => Err(Problem::new(409, "ended-since")
            .detail("the call has ended in another way since; that result stands, and the letter can be dropped")),
        (Some(Redriven::NotWhole), _) | (Some(Redriven::SentAgain), None) => {
            Err(Problem::new(409, "not-whole").detail("the letter does not hold a whole call; it can only be dropped"))
        }
        (Some(Redriven::UnderWay), _) => Err(Problem::new(409, "under-way")
            .detail("the call is under way again; the letter can be sent again once it has ended, or be dropped")),
        (Some(Redriven::Gone) | None, _) => Err(absent(&function, id.as_str())),
    }
}

/// `POST /v1/dead/{tenant}/{function}/redrive`
pub(crate) async fn redrive_meant(
    State(gate): State<Arc<Gate>>,
    asker: Asker,
    Target(function): Target,
    query: Result<Query<Meant>, QueryRejection>,
) -> Result<Response, Problem> {
    let _seat = gate.seat()?;
    let (filter, after) = meant(query)?;
    let function = gate.seen(&asker, &function);
    let reach = Reach::of_one_request(after, quota::room(&gate, function, STEP_MAX).await?);
    let tally = gate.parts.dead.redrive_meant(function, &filter, reach).await;
    Ok(json_response(&tally.map_err(|error| gate.broker_problem(&error))?))
}

/// `DELETE /v1/dead/{tenant}/{function}/{id}`
pub(crate) async fn drop_one(
    State(gate): State<Arc<Gate>>,
    asker: Asker,
    CallTarget(function, id): CallTarget,
) -> Result<Response, Problem> {
    let _seat = gate.seat()?;
    let found = one(&gate, &asker, &function, id.as_str()).await?;
    let dropped = gate.parts.dead.drop_letters(&found.function, std::slice::from_ref(&found)).await;
    match dropped.map_err(|error| gate.broker_problem(&error))? {
        0 => Err(absent(&function, id.as_str())),
        dropped => Ok(json_response(&json!({ "dropped": dropped }))),
    }
}

/// `DELETE /v1/dead/{tenant}/{function}`
pub(crate) async fn drop_meant(
    State(gate): State<Arc<Gate>>,
    asker: Asker,
    Target(function): Target,
    query: Result<Query<Meant>, QueryRejection>,
) -> Result<Response, Problem> {
    let _seat = gate.seat()?;
    let (filter, after) = meant(query)?;
    let reach = Reach::of_one_request(after, STEP_MAX);
    let dropped = gate.parts.dead.drop_meant(gate.seen(&asker, &function), &filter, reach).await;
    let (dropped, next) = dropped.map_err(|error| gate.broker_problem(&error))?;
    Ok(json_response(&json!({ "dropped": dropped, "more": next.is_some(), "next": next })))
}

/// The letter that a path names, by its own id or by that of its call.
async fn one(gate: &Gate, asker: &Asker, function: &FunctionId, id: &str) -> Result<LetterSummary, Problem> {
    let found = gate.parts.dead.find(gate.seen(asker, function), id).await;
    found.map_err(|error| gate.broker_problem(&error))?.ok_or_else(|| absent(function, id))
}
