//! Stands in for both services of a shop, the stock and the shipping: counts each of its attempts in the bucket `ledger`
//! before it does anything else, and answers with its input or fails, as the item says.
//!
//! Built for wasm32-wasip2 alone; for the machine itself it is an empty crate.
#![cfg(all(target_os = "wasi", target_env = "p2"))]

use baton_sdk::keyvalue::Bucket;
use baton_sdk::prelude::*;

/// What both services are told of; other input has neither.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Told {
    item: String,
    /// Only the shipping is told how long it takes.
    ms: Option<u64>,
}

#[baton_sdk::function]
fn clerk_guest(context: &Context, payload: Bytes) -> Result<Reply> {
    let attempt = context.attempt();
    Bucket::open("ledger")?.increment(&format!("{} {attempt}", context.call_id()), 1)?;
    let Told { item, ms } = payload.json().unwrap_or_default();
    if let Some(ms) = ms {
        std::thread::sleep(std::time::Duration::from_millis(ms));
    }
    match (item.as_str(), ms) {
        ("sold-out", None) => Err(Failure::reject("sold-out", "none is left")),
        ("fragile", Some(_)) => Err(Failure::reject("broken", "it broke on its way")),
        ("flaky", Some(_)) if attempt == 1 => Err(Failure::retry("nobody opened")),
        ("lost", Some(_)) => Err(Failure::retry("it is looked for")),
        ("cursed", Some(_)) => panic!("nobody can ship this"),
        _ => Ok(Reply::new(context.media_type(), payload)),
    }
}
