//! Calls that a call makes: through the queue like any other, one deeper each time, and never at the cost of a seat.
//!
//! Who waits for another call gives its seat back meanwhile. If it kept it, as many of them as there are seats would
//! leave none for the calls that they wait for. How many may wait so is limited by where they begin: a call of a function
//! that makes calls begins with a permit for it, of which each tenant has its share (`nested/permits.rs`). Who goes on
//! again does so within the quotas.

mod door;
mod permits;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use baton_broker::{BrokerConfig, BrokerError, Caller, Presence, SendOptions};
use baton_engine::{Asked, Calls, CallsError, Request};
use baton_model::{
    Call, CallsGrant, FunctionId, Name, ReplyTo, RetryWish, SCHEDULE_HEADERS, Status, Tenants, chosen_id,
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::catalog::{Published, Revision};
use crate::clock::now_ms;
use crate::ledger::Ledger;
use crate::seats::{Seat, Seats};
use door::Door;
use permits::{DEPTH_MAX, Permit, Permits, Place, Share};

/// The header that says how many calls wait for this one, each for the next. No caller can write it.
const DEPTH: &str = "x-baton-depth";
/// Headers that start so are the host's.
const OWN_HEADERS: &str = "x-baton-";
/// The most headers that a call may carry beside the one that says its depth.
const HEADERS_MAX: usize = 63;
/// How long a call may go on to wait for another one when its host ends; other hosts are there to answer it.
const ENDING: Duration = Duration::from_secs(2);
/// Of how many tenants something is kept before that is given up which nobody needs just now.
const TENANTS_MAX: usize = 256;

/// What all calls of this host that make calls share.
pub(crate) struct Nesting {
    broker: BrokerConfig,
    /// One for each tenant that makes calls, because a notice's channel names its tenant. A lock and no message: it is held for one map
    /// operation.
    callers: Mutex<HashMap<Name, Arc<Caller>>>,
    seats: Seats,
    ledger: Arc<Ledger>,
    permits: Arc<Permits>,
    door: Door,
    catalog: Arc<Published>,
    /// What the shares depend on. A lock and no message: it is held to see whether there is anything new.
    news: Mutex<News>,
    /// Cancelled when this host ends.
    stop: CancellationToken,
}

/// What the shares of the tenants depend on.
struct News {
    changes: watch::Receiver<u64>,
    tenants: watch::Receiver<Tenants>,
}

/// How many instances may wait for calls, beside those on seats.
pub(crate) fn waiting_max(seats: u32) -> u32 {
    permits::total(seats)
}

impl Nesting {
    /// Connects to nothing yet.
    pub(crate) fn new(
        broker: &BrokerConfig,
        seats: Seats,
        ledger: Arc<Ledger>,
        catalog: Arc<Published>,
        presence: Arc<Presence>,
        first_pass: watch::Receiver<bool>,
        stop: CancellationToken,
    ) -> Result<Self, BrokerError> {
        let door = Door::new(broker, presence, catalog.clone(), first_pass)?;
        let permits = Arc::new(Permits::new(seats.total()));
        let (mut changes, mut tenants) = (catalog.changes(), broker.tenants.clone());
        changes.mark_changed();
        tenants.mark_changed();
        let news = Mutex::new(News { changes, tenants });
        let (broker, callers) = (broker.clone(), Mutex::default());
        Ok(Self { broker, callers, seats, ledger, permits, door, catalog, news, stop })
    }

    /// What a call begins with whose function makes calls. If too many of them run already it has to wait, or those that it
    /// would wait for find no room.
    pub(crate) fn begin(self: &Arc<Self>, call: &Arc<Call>, revision: &Arc<Revision>) -> Begin {
        self.share_out();
        let depth = depth(call);
        let permit = self.permits.take(&call.function, depth, revision.quotas.concurrency_max);
        let started =
            |permit| Begun { nesting: self.clone(), call: call.clone(), revision: revision.clone(), depth, permit };
        match permit {
            Ok(permit) => Begin::Now(started(permit)),
            Err(permits::Taken) => match self.permits.line_up(&call.function, depth) {
                Some(place) => {
                    Begin::InTurn(Turn { nesting: self.clone(), call: call.clone(), revision: revision.clone(), place })
                }
                None => Begin::Later,
            },
        }
    }

    /// Gives each tenant its share anew if there are others than before, or if something else is said about them.
    fn share_out(&self) {
        let mut news = self.news.lock().unwrap_or_else(PoisonError::into_inner);
        let is_new = news.changes.has_changed().unwrap_or(false) || news.tenants.has_changed().unwrap_or(false);
        if !is_new {
            return;
        }
        news.changes.mark_unchanged();
        let tenants = news.tenants.borrow_and_update().clone();
        let catalog = self.catalog.snapshot();
        let makes_calls =
            |function: &&FunctionId| catalog.get(function).is_some_and(|revision| revision.grants.calls.is_some());
        let names = catalog.functions().filter(makes_calls).map(FunctionId::tenant);
        self.permits.share_out(names.map(|name| {
            let policy = tenants.of(name);
            (name.clone(), Share { weight: policy.weight, concurrency_max: policy.quotas.concurrency_max })
        }));
    }

    /// Goes on, on a seat if one is free. It does not wait for one: whoever reads holds the free seats until calls come. So
    /// there may be more attempts than seats, by as many as there are permits. In the books it counts either way, and the
    /// quotas are waited for.
    async fn seat_again(&self, function: &FunctionId) -> Option<Seat> {
        let entry = self.ledger.resume(function).await;
        let seat = self.seats.at_most_one()?;
        Some(match entry {
            Some(entry) => seat.entered(entry),
            None => seat,
        })
    }

    fn caller(&self, tenant: &Name) -> Result<Arc<Caller>, BrokerError> {
        let mut callers = self.callers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(caller) = callers.get(tenant) {
            return Ok(caller.clone());
        }
        if callers.len() >= TENANTS_MAX {
            callers.retain(|_, caller| Arc::strong_count(caller) > 1);
        }
        let reply = ReplyTo::parse(&format!("{:016x}", rand::random::<u64>()));
        let reply = reply.expect("a number is printable and short");
        let caller = Arc::new(Caller::new(&self.broker, reply)?);
        callers.insert(tenant.clone(), caller.clone());
        Ok(caller)
    }
}

/// Whether only hosts may say this.
fn is_of_hosts(header: &str) -> bool {
    header.starts_with(OWN_HEADERS) || SCHEDULE_HEADERS.contains(&header)
}

/// How many calls wait for this one, as the host said that sent it.
fn depth(call: &Call) -> u32 {
    let said = call.headers.iter().find(|(name, _)| name == DEPTH);
    said.and_then(|(_, depth)| depth.parse().ok()).unwrap_or(0)
}

/// Whether a call may begin whose function makes calls.
pub(crate) enum Begin {
    /// It may.
    Now(Begun),
    /// When its turn comes, here.
    InTurn(Turn),
    /// Not here: too many wait for their turn already.
    Later,
}

/// A call that waits here to begin, without a seat.
pub(crate) struct Turn {
    nesting: Arc<Nesting>,
    call: Arc<Call>,
    revision: Arc<Revision>,
    place: Place,
}

impl Turn {
    /// What it begins with, and a seat; none if its turn has not come after `patience`, or if the host ends.
    pub(crate) async fn come(self, patience: Duration) -> Option<(Begun, Seat)> {
        let Self { nesting, call, revision, place } = self;
        let stop = nesting.stop.clone();
        let begun = async {
            let permit = place.permit(&call.function, revision.quotas.concurrency_max).await;
            let seat = nesting.seat_again(&call.function).await?;
            let depth = depth(&call);
            Some((Begun { nesting: nesting.clone(), call: call.clone(), revision, depth, permit }, seat))
        };
        tokio::select! {
            begun = tokio::time::timeout(patience, begun) => begun.ok().flatten(),
            () = stop.cancelled() => None,
        }
    }
}

/// A call that may make calls, before it has its seat.
pub(crate) struct Begun {
    nesting: Arc<Nesting>,
    call: Arc<Call>,
    revision: Arc<Revision>,
    depth: u32,
    permit: Permit,
}

impl Begun {
    /// What makes its calls, giving this seat back while it waits.
    pub(crate) fn on(self, seat: Seat) -> Arc<Nested> {
        let Self { nesting, call, revision, depth, permit } = self;
        Arc::new(Nested { nesting, call, revision, depth, seat: Mutex::new(Some(seat)), _permit: permit })
    }
}

/// The calls of one call.
pub(crate) struct Nested {
    nesting: Arc<Nesting>,
    call: Arc<Call>,
    revision: Arc<Revision>,
    depth: u32,
    /// None while it waits. A lock and no message: it is held to put the seat in or take it out.
    seat: Mutex<Option<Seat>>,
    _permit: Permit,
}

impl Nesting {
    /// Whether the queues of these functions of one tenant have room for so many calls with so many bytes. Those of one step go
    /// together: a queue that has room for one takes them all. The text says which has none.
    pub(crate) async fn room_for(&self, calls: &BTreeMap<FunctionId, (u64, usize)>) -> Result<(), String> {
        for (function, (calls, bytes)) in calls {
            self.door.room(function, *calls, *bytes).await.map_err(|full| full.to_string())?;
        }
        Ok(())
    }
}

impl Nested {
    /// The seat, when the attempt is over or begins to wait.
    pub(crate) fn take_seat(&self) -> Option<Seat> {
        self.seat.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    async fn take_back_seat(&self) {
        let seat = self.nesting.seat_again(&self.call.function).await;
        *self.seat.lock().unwrap_or_else(PoisonError::into_inner) = seat;
    }

    /// The function and what is said with the call, if all of it may be.
    fn checked(&self, request: &Request, useful: Option<Duration>) -> Result<(FunctionId, SendOptions), CallsError> {
        let invalid = |rule: String| Err(CallsError::Invalid(rule));
        let function = Name::parse(&request.function).map_err(|error| CallsError::Invalid(error.to_string()))?;
        if !self.revision.grants.calls.as_ref().is_some_and(|grant: &CallsGrant| grant.allows(&function)) {
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
            Some(id) => Some(chosen_id(id).map_err(CallsError::Invalid)?),
        };
        if let Some((name, _)) = request.headers.iter().find(|(name, _)| !name.starts_with("x-") || is_of_hosts(name)) {
            return invalid(format!("the header {name:?} does not start with x-, or is for hosts alone"));
        }
        if request.headers.len() > HEADERS_MAX {
            return invalid(format!("there are {} headers, there may be {HEADERS_MAX}", request.headers.len()));
        }
        let ms = |useful: Duration| u64::try_from(useful.as_millis()).unwrap_or(u64::MAX);
        let options = SendOptions {
            id,
            media_type: Some(request.media_type.clone()),
            deadline_ms: useful.map(|useful| now_ms().saturating_add(ms(useful))),
            traceparent: self.call.traceparent.clone(),
            tracestate: self.call.tracestate.clone(),
            retry: RetryWish::default(),
            headers: request.headers.clone(),
            depth: self.depth + 1,
            ..SendOptions::default()
        };
        Ok((FunctionId::new(self.call.function.tenant().clone(), function), options))
    }
}

impl Calls for Nested {
    fn call(&self, request: Request, patience: Duration) -> Asked<'_, (String, Vec<u8>), CallsError> {
        Box::pin(async move {
            let (function, options) = self.checked(&request, Some(patience))?;
            self.nesting.door.admit(&function, request.payload.len()).await?;
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
            self.take_back_seat().await;
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
            self.nesting.door.admit(&function, request.payload.len()).await?;
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
