//! Calls that a call makes: through the queue like any other, one deeper each time, and never at the cost of a seat.
//!
//! Who waits for another call gives its seat back meanwhile. If it kept it, as many of them as there are seats would
//! leave none for the calls that they wait for. How many may wait so is limited by where they begin: a call of a function
//! that makes calls begins with a permit for it, of which deeper calls have some of their own.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use baton_broker::{BrokerConfig, BrokerError, Caller, SendOptions};
use baton_engine::{Asked, Calls, CallsError, Request};
use baton_model::{Call, CallId, CallsGrant, FunctionId, Grants, Name, ReplyTo, Status};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

use crate::clock::now_ms;
use crate::ledger::Ledger;
use crate::seats::{Seat, Seats};

/// The header that says how many calls wait for this one, each for the next.
const DEPTH: &str = "x-baton-depth";
/// Headers that start so are the host's.
const OWN_HEADERS: &str = "x-baton-";
/// The most calls that wait for each other.
const DEPTH_MAX: u32 = 8;
/// Permits that only calls of a depth and deeper ones can have.
const PERMITS_A_DEPTH: u32 = 16;
/// How long a call may go on to wait for another one when its host ends; other hosts are there to answer it.
const ENDING: Duration = Duration::from_secs(2);

/// What all calls of this host that make calls share.
pub(crate) struct Nesting {
    broker: BrokerConfig,
    /// One for each tenant that makes calls, because a notice's channel names its tenant. A lock and no message: it is held for one map
    /// operation.
    callers: Mutex<HashMap<Name, Arc<Caller>>>,
    seats: Seats,
    ledger: Arc<Ledger>,
    /// By depth: calls that make calls, and run or wait.
    permits: Vec<Arc<Semaphore>>,
    /// Cancelled when this host ends.
    stop: CancellationToken,
}

/// How many instances may wait for calls, beside those on seats.
pub(crate) fn waiting_max(seats: u32) -> u32 {
    seats.clamp(PERMITS_A_DEPTH, 512) + DEPTH_MAX * PERMITS_A_DEPTH
}

impl Nesting {
    /// Connects to nothing yet.
    pub(crate) fn new(broker: &BrokerConfig, seats: Seats, ledger: Arc<Ledger>, stop: CancellationToken) -> Self {
        let of_depth = |depth| if depth == 0 { seats.total().clamp(PERMITS_A_DEPTH, 512) } else { PERMITS_A_DEPTH };
        let permits = (0..=DEPTH_MAX).map(|depth| Arc::new(Semaphore::new(of_depth(depth) as usize))).collect();
        Self { broker: broker.clone(), callers: Mutex::default(), seats, ledger, permits, stop }
    }

    /// What a call begins with whose function makes calls. None if too many of them run already: then it has to wait in
    /// Redis, or those that it would wait for find no room.
    pub(crate) fn begin(self: &Arc<Self>, call: &Arc<Call>, grants: &Arc<Grants>) -> Option<Begun> {
        let depth = depth(call);
        let levels = &self.permits[..=depth.min(DEPTH_MAX) as usize];
        let permit = levels.iter().rev().find_map(|level| level.clone().try_acquire_owned().ok())?;
        Some(Begun { nesting: self.clone(), call: call.clone(), grants: grants.clone(), depth, permit })
    }

    fn caller(&self, tenant: &Name) -> Result<Arc<Caller>, BrokerError> {
        let mut callers = self.callers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(caller) = callers.get(tenant) {
            return Ok(caller.clone());
        }
        let reply = ReplyTo::parse(&format!("{tenant}.{:016x}", rand::random::<u64>()));
        let reply = reply.expect("a name and a number are printable and short");
        let caller = Arc::new(Caller::new(&self.broker, reply)?);
        callers.insert(tenant.clone(), caller.clone());
        Ok(caller)
    }
}

/// How many calls wait for this one. Callers from outside may say so too, and gain nothing by it.
fn depth(call: &Call) -> u32 {
    let said = call.headers.iter().find(|(name, _)| name == DEPTH);
    said.and_then(|(_, depth)| depth.parse().ok()).unwrap_or(0)
}

/// A call that may make calls, before it has its seat.
pub(crate) struct Begun {
    nesting: Arc<Nesting>,
    call: Arc<Call>,
    grants: Arc<Grants>,
    depth: u32,
    permit: OwnedSemaphorePermit,
}

impl Begun {
    /// What makes its calls, giving this seat back while it waits.
    pub(crate) fn on(self, seat: Seat) -> Arc<Nested> {
        let Self { nesting, call, grants, depth, permit } = self;
        Arc::new(Nested { nesting, call, grants, depth, seat: Mutex::new(Some(seat)), _permit: permit })
    }
}

/// The calls of one call.
pub(crate) struct Nested {
    nesting: Arc<Nesting>,
    call: Arc<Call>,
    grants: Arc<Grants>,
    depth: u32,
    /// None while it waits. A lock and no message: it is held to put the seat in or take it out.
    seat: Mutex<Option<Seat>>,
    _permit: OwnedSemaphorePermit,
}

impl Nested {
    /// The seat, when the attempt is over or begins to wait.
    pub(crate) fn take_seat(&self) -> Option<Seat> {
        self.seat.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Goes on, on a seat if one is free. It does not wait for one: whoever reads holds the free seats until calls come. So
    /// there may be more attempts than seats, by as many as there are permits. In the books it counts either way.
    fn take_back_seat(&self) {
        let seat = self.nesting.seats.at_most_one();
        let seat = seat.map(|seat| self.nesting.ledger.resume(&self.call.function, seat));
        *self.seat.lock().unwrap_or_else(PoisonError::into_inner) = seat;
    }

    /// The function and what is said with the call, if all of it may be.
    fn checked(&self, request: &Request, useful: Option<Duration>) -> Result<(FunctionId, SendOptions), CallsError> {
        let invalid = |rule: String| Err(CallsError::Invalid(rule));
        let function = Name::parse(&request.function).map_err(|error| CallsError::Invalid(error.to_string()))?;
        if !self.grants.calls.as_ref().is_some_and(|grant: &CallsGrant| grant.allows(&function)) {
            return Err(CallsError::Denied { function: request.function.clone() });
        }
        if self.depth >= DEPTH_MAX {
            return Err(CallsError::TooDeep { depth_max: DEPTH_MAX });
        }
        let (bytes, bytes_max) = (request.payload.len(), self.nesting.broker.payload_bytes_max);
        if bytes > bytes_max {
            return invalid(format!("the payload has {bytes} bytes, it may have {bytes_max}"));
        }
        let id = match &request.id {
            None => None,
            Some(id) => match CallId::parse(id) {
                Some(id) => Some(id),
                None => return invalid("an id is 1 to 128 printable ASCII characters without spaces".to_owned()),
            },
        };
        if let Some((name, _)) =
            request.headers.iter().find(|(name, _)| !name.starts_with("x-") || name.starts_with(OWN_HEADERS))
        {
            return invalid(format!("the header {name:?} does not start with x-, or starts with {OWN_HEADERS}"));
        }
        let mut headers = request.headers.clone();
        headers.push((DEPTH.to_owned(), (self.depth + 1).to_string()));
        let ms = |useful: Duration| u64::try_from(useful.as_millis()).unwrap_or(u64::MAX);
        let options = SendOptions {
            id,
            media_type: Some(request.media_type.clone()),
            deadline_ms: useful.map(|useful| now_ms().saturating_add(ms(useful))),
            traceparent: self.call.traceparent.clone(),
            tracestate: self.call.tracestate.clone(),
            headers,
        };
        Ok((FunctionId::new(self.call.function.tenant().clone(), function), options))
    }
}

impl Calls for Nested {
    fn call(&self, request: Request, patience: Duration) -> Asked<'_, (String, Vec<u8>), CallsError> {
        Box::pin(async move {
            let (function, options) = self.checked(&request, Some(patience))?;
            let caller = self.nesting.caller(self.call.function.tenant()).map_err(unavailable)?;
            let mut accepted = caller.accept(&function, &request.payload, &options).await.map_err(unavailable)?;
            drop(self.take_seat());
            let ending = async {
                self.nesting.stop.cancelled().await;
                tokio::time::sleep(ENDING).await;
            };
            let ended = tokio::select! {
                ended = caller.outcome(&mut accepted, patience) => ended.map_err(unavailable),
                () = ending => Err(CallsError::Unavailable("the host ends; try again".to_owned())),
            };
            self.take_back_seat();
            match ended? {
                None => Err(CallsError::TimedOut { id: accepted.id().to_string() }),
                Some(result) => match (result.status, result.error) {
                    (Status::Ok, _) => Ok((result.media_type, result.payload.into())),
                    (Status::Expired, _) => Err(CallsError::TimedOut { id: result.id.to_string() }),
                    (Status::Error | Status::Dead | Status::Cancelled, error) => {
                        let (code, message) = error.map(|error| (error.code, error.message)).unwrap_or_default();
                        Err(CallsError::Failed { code, message })
                    }
                },
            }
        })
    }

    fn send(&self, request: Request, useful: Option<Duration>) -> Asked<'_, String, CallsError> {
        Box::pin(async move {
            let (function, options) = self.checked(&request, useful)?;
            let caller = self.nesting.caller(self.call.function.tenant()).map_err(unavailable)?;
            let sent = caller.send(&function, &request.payload, &options).await.map_err(unavailable)?;
            Ok(sent.to_string())
        })
    }
}

/// A function is told that it cannot be done, and no more: what stands in the error is the operator's.
fn unavailable(error: BrokerError) -> CallsError {
    tracing::warn!(%error, "a call of a call could not be sent, or its result not be read");
    CallsError::Unavailable("the queue is not available; try again later".to_owned())
}
