//! One run of a durable function: its log is read, the function is run over it, and what comes of that is written behind it.

use std::sync::Arc;
use std::time::Instant;

use baton_broker::{BrokerError, Delivery, Loaded, NEWEST, Next};
use baton_engine::{Component, DurableRun, Executed, Invocation, Ran, Stop};
use baton_model::execution::{Event, Log, Replay, Started, calls_of};
use baton_model::{Call, CallError, Digest, Disposition, Outcome, decide};

use super::leaving::{Count, Settling, send};
use super::written::{From, Written, calls_made, depth_of, over, stuck};
use super::{PanicGuard, Runner, ToSettler, first_line};
use crate::catalog::Revision;
use crate::clock::now_ms;
use crate::executions::NOT_KEPT;
use crate::flights::FlightKey;
use crate::guest_log::GuestLog;
use crate::metrics::Ended;
use crate::seats::Seat;

/// What a component is that knows no steps.
const NOT_DURABLE: &str = "is not durable: it does not import baton:durable/steps";

/// For how long an execution is not moved back, without being told to, to a component that it was moved away from: while a build is
/// being rolled out, hosts have different ones. Then it is: somebody has taken the new build back. One that fails is moved at once.
const BACK_AFTER_MS: u64 = 300_000;

/// What every run of one execution is made from.
struct RunOver<'a> {
    call: &'a Arc<Call>,
    seat: &'a Seat,
    revision: &'a Revision,
    /// What is known of it beside its log.
    known: &'a Loaded,
}

/// To which component it is to be moved before it is run, and how that was said; none if it stays where it is. The text says
/// what is wrong with the wish.
fn target(known: &Loaded, log: &Log, attempt: u32, revision: &Revision) -> Option<(String, Result<Digest, String>)> {
    let (newest, pinned) = (revision.component.digest(), log.digest());
    let target = match known.wish.as_str() {
        "" => {
            let was_refused = known.refused.as_ref().is_some_and(|said| said.starts_with(&newest.to_string()));
            // One that was never run goes to the newest in any case.
            let is_young = |at_ms: u64| known.now_ms.saturating_sub(at_ms) < BACK_AFTER_MS;
            // One that fails on the build where it is has nothing to lose.
            let is_well = attempt == 1 && known.stuck.is_none();
            let is_old = is_well && log.left(newest).is_some_and(is_young);
            (revision.moves && pinned.is_some() && !was_refused && !is_old).then_some(Ok(newest))
        }
        NEWEST => Some(Ok(newest)),
        wish => Some(Digest::parse(wish).ok_or_else(|| "is no digest of a component".to_owned())),
    }?;
    let said = target.as_ref().map_or_else(|_| known.wish.clone(), Digest::to_string);
    (target != Ok(pinned.unwrap_or(newest))).then_some((said, target))
}

/// Why an execution cannot go on that has no component.
fn without(digest: Digest, why: &str) -> String {
    format!(
        "its component {digest} {why}; put a file of it back, or move the execution to another build (`baton exec move`)"
    )
}

fn put_back(call: &Call, error: &BrokerError) {
    tracing::debug!(function = %call.function, execution = %call.id, %error, "an execution is put back");
}

impl Runner {
    /// Runs an execution for which a wake came.
    pub(super) async fn advance(
        self: Arc<Self>,
        delivery: Delivery,
        seat: Seat,
        revision: Arc<Revision>,
        settler: ToSettler,
    ) {
        let key = FlightKey::of(&delivery);
        let guard = PanicGuard { runner: &self, key: &key };
        let written = self.run_execution(&delivery, &seat, &revision).await;
        drop(guard);
        let Some(Written { settlement, ended, fate }) = written else {
            // Redis does not say how it stands; another time, or another host.
            return self.hand_back(delivery, Some(seat), Some(self.hand_back_after), &settler).await;
        };
        if let Err(full) = self.nesting.room_for(&calls_made(&delivery.call, &settlement)).await {
            // Nothing of it is written, so it is run again when there may be room.
            tracing::debug!(function = %delivery.call.function, execution = %delivery.call.id, full, "an execution is put back");
            return self.hand_back(delivery, Some(seat), Some(self.hand_back_after), &settler).await;
        }
        if !self.flights.begin_settling(&key) {
            return;
        }
        let Delivery { call, lease, .. } = delivery;
        let settled = Settling { function: call.function.clone(), lease, read: None, next: Next::Nothing, settlement };
        send(&settler, settled, Count { ended, fate, metrics: revision.metrics.clone() }, Some(seat)).await;
    }

    /// None if Redis does not answer.
    async fn run_execution(&self, delivery: &Delivery, seat: &Seat, revision: &Revision) -> Option<Written> {
        let Delivery { call, lease, .. } = delivery;
        let read = self.shelf.redis.read(&call.function, &call.id).await.inspect_err(|e| put_back(call, e)).ok()?;
        let Some((known, log)) = read.filter(|(known, _)| known.ended_ms.is_none()) else {
            // It has ended, or is forgotten: nothing is written, and the wake goes.
            return Some(over(call));
        };
        let log = match log {
            Ok(log) => log,
            Err(error) => return Some(stuck(call, &known, error.to_string(), String::new())),
        };
        if lease.claims > revision.retry.hosts_lost_max {
            let why = format!("{} hosts were lost while they ran it", lease.claims);
            return Some(stuck(call, &known, why, String::new()));
        }
        let run = RunOver { call, seat, revision, known: &known };
        let mut refused = String::new();
        if let Some((said, target)) = target(&known, &log, call.attempt, revision) {
            match self.try_on(&run, target, log.clone()).await? {
                Ok(written) => return Some(written),
                Err(why) => refused = format!("{said} {why}"),
            }
            tracing::warn!(function = %call.function, execution = %call.id, refused, "an execution is not moved");
        }
        let pinned = log.digest();
        let component = match self.component(&run, pinned.unwrap_or(revision.component.digest())).await? {
            Ok(component) => component,
            Err(why) => {
                let digest = pinned.unwrap_or(revision.component.digest());
                return Some(stuck(call, &known, without(digest, &why), refused));
            }
        };
        if !component.is_durable() {
            let error = CallError {
                code: "not-durable".to_owned(),
                message: format!("{} {NOT_DURABLE}; call it instead", call.function),
            };
            let Started { headers, .. } = log.started().clone();
            let from = From { known: &known, first: Vec::new(), open: None, headers, started_ms: now_ms(), refused };
            return Some(self.ends(call, &component, from, Vec::new(), Ended::Rejected, Err(error)));
        }
        let first = match pinned {
            Some(_) => Ok(Vec::new()),
            None => self.moves_to(&run, &component).await?,
        };
        let first = match first {
            Ok(first) => first,
            Err(why) => return Some(stuck(call, &known, without(component.digest(), &why), refused)),
        };
        let (from, executed) = self.run_over(&run, &component, log, first, refused).await;
        Some(self.came_of(call, revision, &component, from, executed))
    }

    /// Runs an execution on another component over its whole log. What comes of that is what it goes on with, if the log has the
    /// steps that the component asks for; the text says why not. None if Redis does not answer.
    async fn try_on(
        &self,
        run: &RunOver<'_>,
        target: Result<Digest, String>,
        log: Log,
    ) -> Option<Result<Written, String>> {
        let RunOver { call, revision, .. } = run;
        let digest = match target {
            Ok(digest) => digest,
            Err(why) => return Some(Err(why)),
        };
        let component = match self.component(run, digest).await? {
            Ok(component) => component,
            Err(why) => return Some(Err(why)),
        };
        if !component.is_durable() {
            return Some(Err(NOT_DURABLE.to_owned()));
        }
        let first = match self.moves_to(run, &component).await? {
            Ok(first) => first,
            Err(why) => return Some(Err(why)),
        };
        let (from, executed) = self.run_over(run, &component, log, first, String::new()).await;
        if let Some(divergence) = executed.divergence() {
            return Some(Err(divergence));
        }
        match &executed.ran {
            Some(Ran {
                stop: Some(Stop::Diverged(_) | Stop::Waits | Stop::GoesOn | Stop::Restarts { .. }), ..
            }) => {}
            Some(Ran { stop: None, .. }) if matches!(executed.outcome, Outcome::RetryAsked { .. }) => {}
            Some(Ran { stop: None, .. }) | None => {
                let decided = decide(executed.outcome.clone(), call.attempt, &revision.retry, None, 0.0);
                if let Disposition::Bury { error, .. } = decided {
                    return Some(Err(format!("{}: {}", error.code, first_line(&error.message))));
                }
            }
        }
        Some(Ok(self.came_of(call, revision, &component, from, executed)))
    }

    /// A component of the function. The text says why it cannot be had. None if Redis does not answer.
    async fn component(&self, run: &RunOver<'_>, digest: Digest) -> Option<Result<Component, String>> {
        let RunOver { call, revision, .. } = run;
        if digest == revision.component.digest() {
            return Some(Ok(revision.component.clone()));
        }
        let old = self.shelf.old(&call.function, digest, &revision.grants).await;
        old.inspect_err(|error| put_back(call, error)).ok()
    }

    /// The fact that it runs on this component from here on, which is kept first. The text says why it is not. None if Redis
    /// does not answer.
    async fn moves_to(&self, run: &RunOver<'_>, component: &Component) -> Option<Result<Vec<Event>, String>> {
        let digest = component.digest();
        let kept = if digest == run.revision.component.digest() {
            self.shelf.keep(run.revision).await.map(|()| true)
        } else {
            self.shelf.redis.is_kept(&run.call.function, &digest).await
        };
        let is_kept = kept.inspect_err(|error| put_back(run.call, error)).ok()?;
        Some(if is_kept { Ok(vec![Event::MovedToDigest { digest }]) } else { Err(NOT_KEPT.to_owned()) })
    }

    async fn run_over<'a>(
        &self,
        run: &RunOver<'a>,
        component: &Component,
        log: Log,
        first: Vec<Event>,
        refused: String,
    ) -> (From<'a>, Executed) {
        let RunOver { call, seat, revision, known } = run;
        let started_ms = now_ms();
        let open = log
            .open_steps()
            .find(|event| matches!(event, Event::EventAwaited { due_ms: Some(_), .. }))
            .and_then(Event::asked_in);
        let Started { headers, input, seed, .. } = log.started().clone();
        let calls_begin = calls_of(&call.function, &call.id, seed);
        let asked = Arc::new(Call {
            headers: headers.clone(),
            media_type: input.media_type,
            payload: input.body,
            // Nothing that would not be the same the next time.
            attempt: 1,
            deadline_ms: None,
            traceparent: None,
            tracestate: None,
            ..Call::clone(call)
        });
        let durable = DurableRun {
            replay: Replay::new(log),
            calls_begin,
            depth: depth_of(&headers),
            clock_ms: known.now_ms,
            calls: revision.grants.calls.clone(),
            payload_bytes_max: revision.limits.payload_bytes_max,
            watch: None,
        };
        let executed = self.execute_over_log(component, asked, revision, seat, durable).await;
        (From { known, first, open, headers, started_ms, refused }, executed)
    }

    async fn execute_over_log(
        &self,
        component: &Component,
        call: Arc<Call>,
        revision: &Revision,
        seat: &Seat,
        run: DurableRun,
    ) -> Executed {
        let log = Arc::new(GuestLog::new(call.clone()));
        let invocation = Invocation {
            call,
            limits: revision.limits,
            log,
            waits: true,
            weight: seat.weight(),
            services: None,
            durable: Some(run),
        };
        let began = Instant::now();
        let attempt = component.execute_timed(invocation);
        let executed = match seat.cpu_meter() {
            Some(meter) => meter.run(attempt).await,
            None => attempt.await,
        };
        revision.metrics.ran(executed.timings);
        revision.took(executed.timings.run.unwrap_or_else(|| began.elapsed()));
        executed
    }
}
