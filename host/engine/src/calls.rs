//! `baton:calls`: a function calls another of its tenant. Who may call whom, and how, is a service's.

use std::sync::Arc;
use std::time::{Duration, Instant};

use wasmtime::component::{ComponentType, Lift, Linker, Lower};
use wasmtime::{Result, StoreContextMut};

use crate::services::{Calls, CallsError, Request};
use crate::state::State;

const NAME: &str = "baton:calls/calls@0.1.0";

/// How long before an attempt's end it is held to be over for one that waits: other hosts count the milliseconds too.
const LAST: Duration = Duration::from_millis(20);

/// The most calls that one call makes.
const CALLS_MAX: u32 = 1_000;

#[derive(ComponentType, Lift)]
#[component(record)]
struct Options {
    #[component(name = "media-type")]
    media_type: String,
    id: Option<String>,
    #[component(name = "timeout-ms")]
    timeout_ms: Option<u64>,
    headers: Vec<(String, String)>,
}

#[derive(ComponentType, Lower)]
#[component(record)]
struct Answer {
    #[component(name = "media-type")]
    media_type: String,
    body: Vec<u8>,
}

#[derive(ComponentType, Lower)]
#[component(record)]
struct Failure {
    code: String,
    message: String,
}

#[derive(ComponentType, Lower)]
#[component(variant)]
enum Error {
    #[component(name = "denied")]
    Denied(String),
    #[component(name = "invalid")]
    Invalid(String),
    #[component(name = "too-deep")]
    TooDeep(String),
    #[component(name = "failed")]
    Failed(Failure),
    #[component(name = "timed-out")]
    TimedOut(String),
    #[component(name = "unavailable")]
    Unavailable(String),
}

impl From<CallsError> for Error {
    fn from(error: CallsError) -> Self {
        let text = error.to_string();
        match error {
            CallsError::Denied { .. } => Self::Denied(text),
            CallsError::Invalid(_) => Self::Invalid(text),
            CallsError::TooDeep { .. } => Self::TooDeep(text),
            CallsError::Failed { code, message } => Self::Failed(Failure { code, message }),
            CallsError::TimedOut { .. } => Self::TimedOut(text),
            CallsError::Unavailable(_) => Self::Unavailable(text),
        }
    }
}

type Asked = (String, Vec<u8>, Options);

/// Offers the interface.
pub(crate) fn add_to_linker(linker: &mut Linker<State>) -> Result<()> {
    let mut calls = linker.instance(NAME)?;
    calls.func_wrap_async("call", |cx, (function, payload, options): Asked| {
        Box::new(async move {
            let (calls, left) = match admitted(cx) {
                Ok(admitted) => admitted,
                Err(error) => return Ok((Err(error),)),
            };
            let asked = Instant::now();
            let patience = options.timeout_ms.map_or(left, Duration::from_millis);
            match calls.call(request(function, payload, options), patience.min(left)).await {
                // The attempt's own time is over, and it ends by that alone: whether the guest would still hear of it
                // would be a race. A call whose id had expired before is told at once.
                Err(CallsError::TimedOut { .. }) if patience >= left && asked.elapsed() + LAST >= left => {
                    std::future::pending().await
                }
                answer => Ok((answer.map(|(media_type, body)| Answer { media_type, body }).map_err(Error::from),)),
            }
        })
    })?;
    calls.func_wrap_async("send", |cx, (function, payload, options): Asked| {
        Box::new(async move {
            let (calls, _) = match admitted(cx) {
                Ok(admitted) => admitted,
                Err(error) => return Ok((Err(error),)),
            };
            let useful = options.timeout_ms.map(Duration::from_millis);
            let sent = calls.send(request(function, payload, options), useful).await;
            Ok((sent.map_err(Error::from),))
        })
    })
}

fn request(function: String, payload: Vec<u8>, options: Options) -> Request {
    let Options { media_type, id, timeout_ms: _, headers } = options;
    Request { function, payload, media_type, id, headers }
}

/// Who does it, and how much time the attempt has left.
fn admitted(mut cx: StoreContextMut<'_, State>) -> std::result::Result<(Arc<dyn Calls>, Duration), Error> {
    let state = cx.data_mut();
    state.calls_made += 1;
    if state.calls_made > CALLS_MAX {
        return Err(CallsError::Invalid(format!("a call may make {CALLS_MAX} calls; this one has made them")).into());
    }
    let calls = state.services().and_then(|services| services.calls.clone());
    let calls = calls.ok_or_else(|| CallsError::Unavailable("calls are made during a call only".to_owned()))?;
    Ok((calls, state.end.saturating_duration_since(Instant::now())))
}
