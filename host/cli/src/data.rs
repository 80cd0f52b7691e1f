//! Input and results as they are typed and printed.

use std::io::{IsTerminal as _, Read as _, Write as _};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use base64::Engine as _;
use baton_broker::{SendOptions, state_of};
use baton_model::{CallId, DELAY_MAX, FunctionId, Reply, ResultDocument, RetryWish, Status};
use serde_json::{Value, json};

use crate::args::{Content, Input};
use crate::exit::{Exit, UsageError};

/// The input's bytes, and what is said with them.
pub(crate) fn input(input: &Input) -> anyhow::Result<(Vec<u8>, SendOptions)> {
    let payload = bytes(input.data.as_deref(), input.r#type.as_deref())?;
    let deadline_ms = input.deadline.map(|after| {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        u64::try_from((now + after).as_millis()).unwrap_or(u64::MAX)
    });
    if let Some(delay) = input.delay {
        if delay > DELAY_MAX {
            return Err(UsageError("--delay is longer than 366d, which is the most; make it shorter".to_owned()).into());
        }
        if input.deadline.is_some_and(|deadline| deadline <= delay) {
            return Err(UsageError(
                "the call would be due when its --deadline has passed; make --delay shorter".to_owned(),
            )
            .into());
        }
    }
    let options = SendOptions {
        id: input.id.clone(),
        media_type: input.r#type.clone(),
        key: input.key.clone(),
        priority: input.priority,
        deadline_ms,
        retry: RetryWish {
            attempts_max: input.attempts,
            backoff_base: input.backoff,
            backoff_max: input.backoff_max,
            on: input.retry_on,
        },
        headers: input.header.clone(),
        delay: input.delay.filter(|delay| !delay.is_zero()),
        ..SendOptions::default()
    };
    Ok((payload, options))
}

/// What is handed over, and what it is.
pub(crate) fn content(content: &Content) -> anyhow::Result<Reply> {
    let Content { data, r#type } = content;
    let body = bytes(data.as_deref(), r#type.as_deref())?.into();
    Ok(Reply { media_type: r#type.clone().unwrap_or_else(|| "application/json".to_owned()), body })
}

fn bytes(data: Option<&str>, media_type: Option<&str>) -> anyhow::Result<Vec<u8>> {
    Ok(match data {
        None => Vec::new(),
        Some("-") => {
            let mut bytes = Vec::new();
            std::io::stdin().lock().read_to_end(&mut bytes).context("cannot read standard input")?;
            bytes
        }
        Some(text) => match text.strip_prefix('@') {
            Some(path) => std::fs::read(path).map_err(|error| UsageError(format!("cannot read {path}: {error}")))?,
            None => {
                inline(text, media_type)?;
                text.as_bytes().to_vec()
            }
        },
    })
}

/// What is typed as JSON should be JSON: a quoting slip of the shell is told here, and not by the function.
fn inline(text: &str, media_type: Option<&str>) -> anyhow::Result<()> {
    if media_type.is_none_or(|media_type| media_type == "application/json")
        && let Err(error) = serde_json::from_str::<serde::de::IgnoredAny>(text)
    {
        return Err(UsageError(format!(
            "--data is not JSON ({error}); quote it as in --data '{{\"name\":\"Ada\"}}', or say what it is, as in \
             --type text/plain"
        ))
        .into());
    }
    Ok(())
}

/// Prints a result and says how the command ends.
pub(crate) fn print_result(function: &FunctionId, result: &ResultDocument, as_json: bool) -> anyhow::Result<Exit> {
    let mut out = std::io::stdout().lock();
    if as_json {
        writeln!(out, "{}", whole(function, result)?)?;
    } else if result.status == Status::Ok {
        out.write_all(&result.payload)?;
        // Text gets its line end; other bytes only on a terminal, so that a pipe gets the answer alone.
        let is_text = result.media_type.starts_with("text/") || result.media_type.starts_with("application/json");
        if (is_text || out.is_terminal()) && !result.payload.ends_with(b"\n") {
            writeln!(out)?;
        }
    }
    out.flush()?;
    if result.status == Status::Ok {
        return Ok(Exit::Ok);
    }
    if !as_json && let Some(error) = &result.error {
        eprintln!("{function} {}: {} ({}), call {}", result.status, error.message, error.code, result.id);
    }
    Ok(Exit::Failed)
}

/// Prints what came of a call to several functions, and says how the command ends: not before each has its result.
pub(crate) fn print_results(
    id: &CallId,
    calls: &[(FunctionId, CallId)],
    results: &[Option<ResultDocument>],
    as_json: bool,
) -> anyhow::Result<Exit> {
    let mut out = std::io::stdout().lock();
    let ended = results.iter().flatten().count();
    if as_json {
        let mut views = Vec::new();
        for ((function, _), result) in calls.iter().zip(results) {
            let state = result.as_ref().map_or("pending", |result| state_of(result.status));
            let mut view = json!({ "function": function, "state": state });
            if let Some(result) = result {
                view["result"] = whole(function, result)?;
            }
            views.push(view);
        }
        let state = if ended == calls.len() { "completed" } else { "pending" };
        writeln!(out, "{}", json!({ "id": id, "state": state, "ended": ended, "calls": views }))?;
    } else {
        let widest = calls.iter().map(|(function, _)| function.to_string().len()).max().unwrap_or(0);
        for ((function, _), result) in calls.iter().zip(results) {
            let (status, said) = match result {
                None => ("pending".to_owned(), String::new()),
                Some(result) => (result.status.to_string(), in_a_line(result)),
            };
            writeln!(out, "{:widest$}  {status:9}  {said}", function.to_string())?;
        }
    }
    out.flush()?;
    let all_ok = results.iter().flatten().all(|result| result.status == Status::Ok);
    Ok(match ended == calls.len() {
        true if all_ok => Exit::Ok,
        true => Exit::Failed,
        false => Exit::NoAnswer,
    })
}

/// The answer, or why there is none, in one line.
fn in_a_line(result: &ResultDocument) -> String {
    if let Some(error) = &result.error {
        return format!("{} ({})", error.message.lines().next().unwrap_or_default(), error.code);
    }
    match std::str::from_utf8(&result.payload) {
        Ok(text) if !text.trim_end().contains(char::is_control) => text.trim_end().to_owned(),
        Ok(_) | Err(_) => format!("({} bytes; --json has them)", result.payload.len()),
    }
}

/// The result document as one object: the fields of its line, the function, and the payload in the plainest form.
fn whole(function: &FunctionId, result: &ResultDocument) -> anyhow::Result<Value> {
    let mut value = serde_json::to_value(result)?;
    value["function"] = json!(function);
    show_payload(&mut value, &result.media_type, &result.payload);
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

/// Says that there is no result yet, and how to get it later.
pub(crate) fn no_answer(function: &FunctionId, id: &CallId) -> Exit {
    eprintln!("no answer yet; it will be under: baton get {id} --function {function} --wait 60s");
    Exit::NoAnswer
}

/// A reply channel of this process alone.
pub(crate) fn reply_channel() -> baton_model::ReplyTo {
    let text = format!("cli-{}-{:016x}", std::process::id(), rand::random::<u64>());
    baton_model::ReplyTo::parse(&text).expect("it is short and printable")
}
