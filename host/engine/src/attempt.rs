//! One attempt: a fresh store, its limits, its end, the call. What its end means is decided in `outcome`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use baton_model::{Call, Limits, Outcome};
use wasmtime::{Store, UpdateDeadline};

use crate::bindings::Function;
use crate::bindings::exports::baton::function::handler::Context;
use crate::check::{LoadError, brief};
use crate::durable::{DurableRun, Ran, Stop};
use crate::end::End;
use crate::limiter::Limiter;
use crate::loaded::Loaded;
use crate::log::{CallLog, LogSink, LogStream};
use crate::outcome::{self, Stage};
use crate::services::Services;
use crate::state::{RESOURCES_MAX, State};
use crate::ticker::TICK;
use crate::turns::{self, Party, Spent};

/// The least that a guest may hand to the host in one go; with a larger limit on answers it is that and some more.
const HOSTCALL_BYTES: usize = 4 << 20;

/// The longest that a trial instance may take to come to life.
const TRIAL_TIME_MAX: Duration = Duration::from_secs(10);

/// What one attempt is made from.
pub struct Invocation {
    /// The call.
    pub call: Arc<Call>,
    /// What the attempt may use.
    pub limits: Limits,
    /// Where the guest's lines go.
    pub log: Arc<dyn LogSink>,
    /// Whether it is known to take its time: then it waits for its turn before it begins, not only after a tick.
    pub waits: bool,
    /// The weight of its tenant beside others, where several share the processors.
    pub weight: u32,
    /// What the function was granted beside its call; none for most.
    pub services: Option<Arc<Services>>,
    /// The log over which a durable function is run; none for any other.
    pub durable: Option<DurableRun>,
}

/// How long the two halves of an attempt took.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Timings {
    /// Making the store and the instance; none if it did not come to life.
    pub instantiate: Option<Duration>,
    /// The call itself, to its end or to where it was stopped; none if it was not begun.
    pub run: Option<Duration>,
    /// How long it waited for its turn before it began.
    pub let_in: Duration,
    /// How much of the call it waited for further turns on the processor.
    pub turned: Duration,
    /// How much of both it waited for what it had asked of the host.
    pub waited: Duration,
}

/// What one attempt came to.
#[derive(Debug)]
pub struct Executed {
    /// How it ended.
    pub outcome: Outcome,
    /// How long it took.
    pub timings: Timings,
    /// Where in its code the guest was when it was ended, a line for each frame, the innermost first; none if it ended by
    /// itself or waited.
    pub backtrace: Option<String>,
    /// What a durable function did; none if there was no time for it, and for any other.
    pub ran: Option<Ran>,
}

impl Executed {
    /// Where a durable function asked for other steps than its log has, if it did: and with what it ended, if it ended by itself.
    #[must_use]
    pub fn divergence(&self) -> Option<String> {
        let Some(Ran { stop: Some(Stop::Diverged(divergence)), .. }) = &self.ran else { return None };
        Some(match &self.outcome {
            Outcome::Rejected(refusal) => format!("{divergence}: it ends with {}: {}", refusal.code, refusal.message),
            _ => divergence.to_string(),
        })
    }
}

/// When the halves of an attempt were over, as far as they are.
#[derive(Default)]
struct Laps {
    /// When its turn came, if it waited for one before it began.
    let_in: Option<Instant>,
    instantiated: Option<Instant>,
    ended: Option<Instant>,
}

impl Laps {
    fn timings(&self, began: Instant, spent: &Spent) -> Timings {
        let ended = self.ended.unwrap_or_else(Instant::now);
        let let_in = self.let_in.unwrap_or(began);
        let first = let_in.duration_since(began);
        let busy = spent.busy(ended).saturating_add(spent.turned);
        Timings {
            instantiate: self.instantiated.map(|at| at.duration_since(let_in)),
            run: self.instantiated.map(|from| ended.duration_since(from)),
            let_in: first,
            turned: spent.turned.saturating_sub(first),
            waited: ended.duration_since(began).saturating_sub(busy),
        }
    }
}

pub(crate) async fn execute(component: &Loaded, invocation: Invocation) -> Executed {
    let Invocation { call, limits, log, waits, weight, services, durable } = invocation;
    let Some(end) = End::of(&limits, call.deadline_ms) else {
        return Executed { outcome: Outcome::DeadlinePassed, timings: Timings::default(), backtrace: None, ran: None };
    };
    let (mut laps, mut spent) = (Laps::default(), Spent::from(end.began));
    let _running = component.engine.ticker.running();
    let attempt = async {
        if waits {
            component.engine.turns.wait(Party { tenant: Some(call.function.tenant()), weight }).await;
            laps.let_in = Some(Instant::now());
        }
        let mut store = store(component, Some((&call, weight)), &limits, end, log, services);
        if let Some(run) = durable {
            store.data_mut().begin(run);
        }
        let answer = run(component, &mut store, &call, &mut laps).await;
        // Before the store goes: returning its memory is no part of the run.
        laps.ended = Some(Instant::now());
        let stage = if laps.instantiated.is_some() { Stage::Calling } else { Stage::Instantiating };
        let backtrace = outcome::backtrace(&answer);
        let ran = store.data_mut().steps.take().map(|steps| steps.ran(answer.is_ok()));
        (outcome::of(answer, store.data(), stage, &limits, end), backtrace, ran)
    };
    let attempt = turns::in_turns(attempt, &mut spent);
    // The clock interrupts a guest that computes; this one ends a guest that waits, in the host or for its turn.
    let (outcome, backtrace, ran) = match tokio::time::timeout(end.after, attempt).await {
        Ok(ended) => ended,
        Err(_) => (outcome::too_late(&limits, end), None, None),
    };
    Executed { outcome, timings: laps.timings(end.began, &spent), backtrace, ran }
}

async fn run(
    component: &Loaded,
    store: &mut Store<State>,
    call: &Call,
    laps: &mut Laps,
) -> wasmtime::Result<outcome::Answer> {
    let function = component.function.instantiate_async(&mut *store).await?;
    laps.instantiated = Some(Instant::now());
    let headers: Vec<(&str, &str)> = call.headers.iter().map(|(name, value)| (&**name, &**value)).collect();
    let context = Context {
        call_id: call.id.as_str(),
        tenant: call.function.tenant().as_str(),
        function: call.function.function().as_str(),
        attempt: call.attempt,
        deadline_ms: call.deadline_ms,
        media_type: &call.media_type,
        traceparent: call.traceparent.as_deref(),
        tracestate: call.tracestate.as_deref(),
        headers: &headers,
    };
    function.baton_function_handler().call_handle(store, context, &call.payload).await
}

pub(crate) async fn trial(
    component: &Loaded,
    limits: &Limits,
    services: Option<Arc<Services>>,
) -> Result<(), LoadError> {
    struct Nowhere;
    impl LogSink for Nowhere {
        fn line(&self, _: LogStream<'_>, _: &str) {}
        fn truncated(&self, _: u64) {}
    }

    let limits = Limits { time_max: limits.time_max.min(TRIAL_TIME_MAX), ..*limits };
    let Some(end) = End::of(&limits, None) else {
        return Err(LoadError::Trial("the time limit is zero".into()));
    };
    let _running = component.engine.ticker.running();
    let attempt = async {
        let mut store = store(component, None, &limits, end, Arc::new(Nowhere), services);
        let instance = match component.function.instance_pre().instantiate_async(&mut store).await {
            Ok(instance) => instance,
            Err(e) => return Err(outcome::of(Err(e), store.data(), Stage::Instantiating, &limits, end)),
        };
        Ok(Function::new(&mut store, &instance).map(drop))
    };
    let mut spent = Spent::from(end.began);
    let ended = tokio::time::timeout(end.after, turns::in_turns(attempt, &mut spent)).await;
    let reason = match ended.unwrap_or_else(|_| Err(outcome::too_late(&limits, end))) {
        Ok(Ok(())) => return Ok(()),
        Ok(Err(e)) => return Err(LoadError::WrongTypes(brief(&format!("{e:#}")))),
        Err(Outcome::HostFault { message }) => return Err(LoadError::Host(message)),
        Err(Outcome::OutOfMemory { bytes_max }) => format!("it needs more memory than its limit of {bytes_max} bytes"),
        Err(Outcome::TimedOut { limit }) => format!("it took longer than {} ms to start", limit.as_millis()),
        Err(Outcome::Exited { code }) => format!("it ended itself at the start, with exit code {code}"),
        Err(Outcome::Trapped { message }) => message,
        // None of these is an end of an instantiation.
        Err(
            other @ (Outcome::Replied(_)
            | Outcome::Rejected(_)
            | Outcome::RetryAsked { .. }
            | Outcome::DeadlinePassed
            | Outcome::HostsLost { .. }
            | Outcome::PayloadTooLarge { .. }
            | Outcome::ResultTooLarge { .. }),
        ) => format!("{other:?}"),
    };
    Err(LoadError::Trial(reason))
}

/// A store for one attempt, never used for another.
fn store(
    component: &Loaded,
    call: Option<(&Arc<Call>, u32)>,
    limits: &Limits,
    end: End,
    sink: Arc<dyn LogSink>,
    services: Option<Arc<Services>>,
) -> Store<State> {
    let engine = &component.engine;
    let limiter = Limiter::new(limits.memory_bytes_max.min(engine.memory_bytes_max));
    let log = CallLog::new(sink, limits.log_bytes_max);
    let mut store = Store::new(&engine.wasmtime, State::new(limiter, end.at, log, services, call.map(|_| engine)));
    store.limiter(|state| &mut state.limiter);
    store.set_hostcall_fuel(outcome::hostcall_bytes_max(limits, HOSTCALL_BYTES));
    store.set_max_component_handles(RESOURCES_MAX);
    store.set_epoch_deadline(1);
    let (turns, call) = (Arc::clone(&engine.turns), call.map(|(call, weight)| (Arc::clone(call), weight)));
    store.epoch_deadline_callback(move |mut context| {
        let (state, now) = (context.data_mut(), Instant::now());
        if now >= state.end {
            state.is_interrupted = true;
            return Ok(UpdateDeadline::Interrupt);
        }
        // The clock ticks for all alike. One that has just begun may be through before it has had a tick of its own.
        if now.duration_since(end.began) < TICK {
            return Ok(UpdateDeadline::Continue(1));
        }
        // Two ticks at the most are all that a guest gets without a turn, and one is all that a turn lasts while others
        // wait.
        let (turns, call) = (Arc::clone(&turns), call.clone());
        let next_turn = async move {
            tokio::task::yield_now().await;
            let party = match &call {
                Some((call, weight)) => Party { tenant: Some(call.function.tenant()), weight: *weight },
                None => Party { tenant: None, weight: 1 },
            };
            turns.wait(party).await;
        };
        Ok(UpdateDeadline::YieldCustom(1, Box::pin(next_turn)))
    });
    store
}
