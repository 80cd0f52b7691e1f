//! Tells a collector outside of its host when an attempt begins and when it ends, and holds a connection to it for as long
//! as it lives: when the host dies, the system closes that connection, and the collector sees the end that nobody told.
//!
//! The payload is `{"k":"…","ms":50,"mode":"ok"}`; the answer is a function of the payload and of the build alone. Built for
//! wasm32-wasip2 alone; for the machine itself it is an empty crate.
#![cfg(all(target_os = "wasi", target_env = "p2"))]

use std::time::Duration;

use baton_sdk::config;
use baton_sdk::prelude::*;
use wasip2::http::outgoing_handler::handle;
use wasip2::http::types::{Fields, IncomingResponse, Method, OutgoingRequest, Scheme};

/// Which build this is. The suite writes another number into the file, which gives it another digest.
#[used]
static BUILD: [u8; 12] = *b"build-000000";

#[derive(Deserialize)]
struct Order {
    /// The caller's own name for the call.
    k: String,
    /// How long the attempt takes, in milliseconds.
    ms: u64,
    /// How it ends: `ok`, `reject`, `retry` (the first attempt asks for another) or `trap`.
    mode: String,
}

#[baton_sdk::function]
fn witness_guest(context: &Context, payload: Bytes) -> Result<Reply> {
    let order: Order = payload.json()?;
    let build = build();
    let collector =
        config::get("collector").ok_or_else(|| Failure::reject("no-collector", "the manifest names none"))?;
    let slot = config::get("slot").unwrap_or_default();
    let (id, attempt, tenant) = (context.call_id(), context.attempt(), context.tenant());
    let begin = format!("/begin?slot={slot}&tenant={tenant}&id={id}&attempt={attempt}&build={build}&k={}", order.k);
    // Not read and not dropped: the connection stands as long as the attempt.
    let held = ask(&collector, &begin)?;
    let number = held.headers().get("x-execution").into_iter().next();
    let number = number.and_then(|value| String::from_utf8(value).ok()).unwrap_or_default();
    std::thread::sleep(Duration::from_millis(order.ms));
    ask(&collector, &format!("/end?x={number}&build={}", self::build()))?;
    drop(held);
    match order.mode.as_str() {
        "reject" => Err(Failure::reject("asked-for", format!("{} {build}", order.k))),
        "retry" if attempt == 1 => Err(Failure::retry("asked for")),
        "trap" => panic!("asked for"),
        _ok => {
            let sum = fnv1a(build.as_bytes().iter().chain(payload.iter()));
            Ok(Reply::new("application/json", format!(r#"{{"k":"{}","build":"{build}","sum":"{sum:016x}"}}"#, order.k)))
        }
    }
}

/// Read anew each time, so that no compiler puts the text anywhere else.
fn build() -> String {
    String::from_utf8_lossy(core::hint::black_box(&BUILD)).into_owned()
}

/// The hash of Fowler, Noll and Vo, 64 bits, variant 1a.
fn fnv1a<'a>(bytes: impl Iterator<Item = &'a u8>) -> u64 {
    bytes.fold(0xcbf2_9ce4_8422_2325, |sum, byte| (sum ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

/// Sends one request without a body and waits for the head of the answer.
fn ask(authority: &str, path: &str) -> Result<IncomingResponse> {
    let away = |why: String| Failure::retry(format!("the collector does not answer: {why}"));
    let request = OutgoingRequest::new(Fields::new());
    let is_set = request.set_method(&Method::Get).is_ok()
        && request.set_scheme(Some(&Scheme::Http)).is_ok()
        && request.set_authority(Some(authority)).is_ok()
        && request.set_path_with_query(Some(path)).is_ok();
    if !is_set {
        return Err(Failure::reject("bad-request", path));
    }
    let answer = handle(request, None).map_err(|code| away(format!("{code:?}")))?;
    answer.subscribe().block();
    let answer = answer.get().ok_or_else(|| away("nothing".into()))?.map_err(|()| away("taken twice".into()))?;
    answer.map_err(|code| away(format!("{code:?}")))
}
