//! Answers each request with its body; one to `/sleep/MS` after so many milliseconds. It does without the standard
//! library, so that it imports no more than it needs, as `plugins/echo` does.
//!
//! Built for wasm32-wasip2 alone; for the machine itself it is an empty crate.
#![cfg(all(target_os = "wasi", target_env = "p2"))]
#![no_std]
#![allow(unsafe_code, missing_docs, reason = "the macro of wasip2 makes the exports")]

use wasip2::clocks::monotonic_clock::subscribe_duration;
use wasip2::exports::http::incoming_handler::Guest;
use wasip2::http::types::{Fields, IncomingRequest, OutgoingBody, OutgoingResponse, ResponseOutparam};
use wasip2::io::streams::{OutputStream, StreamError};

/// How much is read at a time.
const PIECE: u64 = 64 << 10;

baton_sdk::no_std_runtime!();

struct Echo;

wasip2::http::proxy::export!(Echo);

impl Guest for Echo {
    fn handle(request: IncomingRequest, answer_to: ResponseOutparam) {
        let path = request.path_with_query().unwrap_or_default();
        if let Some(ms) = path.strip_prefix("/sleep/") {
            let ms: u64 = ms.parse().expect("a number of milliseconds");
            subscribe_duration(ms * 1_000_000).block();
        }
        let asked = request.consume().expect("the body is taken once");
        let from = asked.stream().expect("its stream too");
        let answer = OutgoingResponse::new(Fields::new());
        let body = answer.body().expect("a fresh answer has a body");
        ResponseOutparam::set(answer_to, Ok(answer));
        let to = body.write().expect("a fresh body has a stream");
        loop {
            match from.blocking_read(PIECE) {
                Ok(piece) => write(&to, &piece),
                Err(StreamError::Closed) => break,
                Err(StreamError::LastOperationFailed(_)) => panic!("the caller is gone"),
            }
        }
        // Streams go before what they belong to.
        drop((from, to));
        OutgoingBody::finish(body, None).expect("the body is whole");
    }
}

/// Writes all of it, and waits only if there is no room.
fn write(to: &OutputStream, mut piece: &[u8]) {
    while !piece.is_empty() {
        let room = to.check_write().expect("the caller listens");
        if room == 0 {
            to.subscribe().block();
            continue;
        }
        let (now, later) = piece.split_at(piece.len().min(room as usize));
        to.write(now).expect("there is room");
        piece = later;
    }
}
