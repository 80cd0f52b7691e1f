//! Calls functions as its payload tells it to, and answers with what came of it.

use std::collections::BTreeMap;
use std::time::Duration;

use baton_sdk::calls::Call;
use baton_sdk::prelude::*;
use serde_json::{Value, json};

/// What to do.
#[derive(Deserialize)]
struct Order {
    /// The function to call; without one the answer is how the order came.
    call: Option<String>,
    /// The payload of that call: text as it is, anything else as JSON.
    #[serde(default)]
    with: Value,
    timeout_ms: Option<u64>,
    id: Option<String>,
    header: Option<String>,
    /// Calls itself with this very order, for ever if it may.
    #[serde(default)]
    again: bool,
    /// Does not wait.
    #[serde(default)]
    send: bool,
    /// Sends so many calls, of itself with this very order if none is named, and answers with how many were taken.
    #[serde(default)]
    fork: usize,
}

#[baton_sdk::function]
fn nested(context: &Context, payload: Bytes) -> Result<Value> {
    let order: Order = payload.json()?;
    if order.fork > 0 {
        let call = Call::to(order.call.as_deref().unwrap_or(context.function())).payload(payload);
        return Ok(json!((0..order.fork).filter(|_| call.clone().send().is_ok()).count()));
    }
    let call = match (order.call, order.with) {
        _ if order.again => Call::to(context.function()).payload(payload),
        (Some(function), Value::String(text)) => Call::to(function).media_type("text/plain").payload(text),
        (Some(function), with) => Call::to(function).json(&with)?,
        (None, _) => {
            return Ok(json!({
                "depth": context.header("x-baton-depth"),
                "header": context.header("x-said"),
                "traceparent": context.traceparent(),
                "deadline_ms": context.deadline_ms(),
                "call_id": context.call_id(),
                "type": context.media_type(),
                "headers": context.headers().collect::<BTreeMap<_, _>>(),
            }));
        }
    };
    let call = order.timeout_ms.into_iter().fold(call, |call, ms| call.timeout(Duration::from_millis(ms)));
    let call = order.id.into_iter().fold(call, Call::id);
    let call = order.header.into_iter().fold(call, |call, name| call.header(name, "yes"));
    if order.send {
        return Ok(call.send().map_or_else(|error| json!(format!("{error:?}")), Value::String));
    }
    Ok(match call.wait() {
        Ok(reply) => reply.json().unwrap_or_else(|_| json!(reply.text())),
        Err(error) => json!(format!("{error:?}")),
    })
}
