//! `baton:durable`: the steps of an execution, answered from its log. A step that the log does not answer ends the instance.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use baton_model::execution::{Answer, Ask, Divergence, Event, Pause, Replay, StepCall, call_id};
use baton_model::{CallsGrant, Name, Reply, Status};
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use sha2::{Digest as _, Sha256};
use wasmtime::component::{ComponentType, Lift, Linker, Lower};
use wasmtime::{Result, StoreContextMut, bail};
use wasmtime_wasi::{HostMonotonicClock, HostWallClock, WasiCtxBuilder};

use crate::log::CallLog;
use crate::state::State;

/// Who imports this is durable.
pub(crate) const NAME: &str = "baton:durable/steps@0.1.0";

/// The most calls that one step makes at once.
const CALLS_MAX: usize = 1_000;
/// How many steps, and bytes of them, are written at once: one script writes them, and Redis does nothing else meanwhile.
const FACTS_MAX: usize = 1_000;
const BYTES_MAX: usize = 2 << 20;
/// The most calls that wait for each other.
const DEPTH_MAX: u32 = 8;

/// What one run of a durable function is made from, beside what every attempt is made from.
pub struct DurableRun {
    /// Its log.
    pub replay: Replay,
    /// How the ids of its calls begin ([`calls_of`](baton_model::execution::calls_of)).
    pub calls_begin: String,
    /// How many calls wait for this execution, each for the next.
    pub depth: u32,
    /// The time by Redis's clock when this was made, in Unix milliseconds.
    pub clock_ms: u64,
    /// Which functions it may call.
    pub calls: Option<CallsGrant>,
    /// The most bytes that it may hand over in one step.
    pub payload_bytes_max: usize,
    /// Who looks on, step by step; the function's own log is then heard from the start.
    pub watch: Option<Arc<dyn StepWatch>>,
}

/// Looks on while a function runs over its log.
pub trait StepWatch: Send + Sync {
    /// The function has asked for a step that its log has, and this is what it was answered.
    fn step(&self, asked: &Event, answer: &Answer);
}

/// Why a run ended without an answer of the function.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stop {
    /// It waits for what its log does not answer.
    Waits,
    /// It has taken as many steps as are written at once, and goes on when they are.
    GoesOn,
    /// It asks for other steps than its log has.
    Diverged(Divergence),
    /// It begins anew.
    Restarts {
        /// With this input.
        input: Reply,
        /// What came and it has not waited for: the next run finds it.
        unread: Vec<Event>,
    },
}

/// What a run came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ran {
    /// Why it was stopped; none if it ended by itself, whatever it ended with.
    pub stop: Option<Stop>,
    /// The steps that its log did not have, to be written behind it.
    pub fresh: Vec<Event>,
}

/// The run as it goes on in a store.
pub(crate) struct Steps {
    run: DurableRun,
    since: Instant,
    random: ChaCha20Rng,
    /// The function's time, which its clocks read too.
    now_ms: Arc<AtomicU64>,
    /// It hears only what the function says for the first time.
    log: Arc<CallLog>,
    /// How many steps the log does not have, and how many bytes they hand over.
    facts: usize,
    bytes: usize,
    stop: Option<Stop>,
}

/// The guest is stopped where it stands; why stands in [`Steps::stop`].
#[derive(Debug, thiserror::Error)]
#[error("the run ends here")]
struct Stopped;

impl Steps {
    pub(crate) fn new(run: DurableRun, log: Arc<CallLog>) -> Self {
        log.silence(run.watch.is_none() && !run.replay.is_past_log());
        let now_ms = Arc::new(AtomicU64::new(run.replay.now_ms()));
        let random = random_of(run.replay.log().started().seed, 0);
        Self { run, since: Instant::now(), random, now_ms, log, facts: 0, bytes: 0, stop: None }
    }

    /// The function ends by itself. It has to have asked for all that its log has.
    fn end(&mut self) {
        if let (None, Err(divergence)) = (&self.stop, self.run.replay.end()) {
            self.stop = Some(Stop::Diverged(divergence));
        }
    }

    /// What came of it, if it ended by itself or was stopped.
    pub(crate) fn ran(mut self, by_itself: bool) -> Ran {
        if by_itself {
            self.end();
        }
        Ran { stop: self.stop, fresh: self.run.replay.into_fresh() }
    }

    /// The guest's standard clocks and random numbers come from the log too, each of them apart from the others.
    pub(crate) fn answer_for(&self, wasi: &mut WasiCtxBuilder) {
        let clock = LogClock { now_ms: Arc::clone(&self.now_ms), began_ms: self.run.replay.log().facts()[0].at_ms };
        let random = |stream| random_of(self.run.replay.log().started().seed, stream);
        wasi.wall_clock(clock.clone()).monotonic_clock(clock);
        wasi.secure_random(random(1)).insecure_random(random(2));
        let mut seed = random(3);
        wasi.insecure_random_seed(u128::from(seed.next_u64()) << 64 | u128::from(seed.next_u64()));
    }

    fn ask(&mut self, ask: &Ask) -> Result<Answer> {
        if self.run.replay.is_past_log() {
            if self.facts >= FACTS_MAX || self.bytes >= BYTES_MAX {
                return Err(self.stop(Stop::GoesOn));
            }
            self.facts += 1;
            self.bytes += match ask {
                Ask::Call(call) => call.payload.body.len(),
                Ask::Emit(_, payload) => payload.body.len(),
                Ask::Sleep(_) | Ask::Event(..) => 0,
            };
        }
        let passed = u64::try_from(self.since.elapsed().as_millis()).unwrap_or(u64::MAX);
        match self.run.replay.ask(ask, self.run.clock_ms.saturating_add(passed)) {
            Ok(answer) => {
                self.now_ms.store(self.run.replay.now_ms(), Ordering::Relaxed);
                match &self.run.watch {
                    None => self.log.silence(!self.run.replay.is_past_log()),
                    Some(watch) => {
                        if let Some(asked) = self.run.replay.last_asked() {
                            watch.step(asked, &answer);
                        }
                    }
                }
                Ok(answer)
            }
            Err(divergence) => Err(self.stop(Stop::Diverged(divergence))),
        }
    }

    fn stop(&mut self, stop: Stop) -> wasmtime::Error {
        self.stop = Some(stop);
        Stopped.into()
    }

    fn call(&self, step: u32, call: Call) -> Result<StepCall> {
        let Call { function, payload } = call;
        let is_new = self.run.replay.is_past_log();
        let granted = |function: &Name| self.run.calls.as_ref().is_some_and(|grant| grant.allows(function));
        let function = match Name::parse(&function) {
            // What stands in the log was granted when it was written.
            Ok(name) if !is_new || granted(&name) => name,
            _ => bail!("{function:?} is not granted; name it in `[grants.calls] functions` of the manifest"),
        };
        let run = self.run.replay.log().started().run;
        if is_new && self.run.depth >= DEPTH_MAX {
            bail!("{} calls wait for this one, each for the next; that is the most", self.run.depth);
        }
        let Some(id) = call_id(&self.run.calls_begin, run, step) else {
            bail!("no call can have an id that begins with {:?}", self.run.calls_begin);
        };
        Ok(StepCall { function, id, payload: self.content(payload)? })
    }

    fn content(&self, content: Content) -> Result<Reply> {
        let Content { media_type, body } = content;
        let (bytes, most) = (body.len(), self.run.payload_bytes_max);
        if bytes > most && self.run.replay.is_past_log() {
            bail!("a step hands over {bytes} bytes, the most is {most}; hand over a reference to where they are");
        }
        if media_type.is_empty()
            || media_type.len() > 255
            || !media_type.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' ')
        {
            bail!("{media_type:?} is no media type");
        }
        Ok(Reply { media_type, body: body.into() })
    }
}

/// The random numbers of a run: ChaCha20 under the SHA-256 of the seed and the stream, eight bytes each, the lowest first. They
/// have to be the same in every version, or executions that have begun go on with others.
fn random_of(seed: u64, stream: u64) -> ChaCha20Rng {
    ChaCha20Rng::from_seed(
        Sha256::new().chain_update(seed.to_le_bytes()).chain_update(stream.to_le_bytes()).finalize().into(),
    )
}

#[derive(ComponentType, Lift, Lower)]
#[component(record)]
struct Content {
    #[component(name = "media-type")]
    media_type: String,
    body: Vec<u8>,
}

#[derive(ComponentType, Lift)]
#[component(record)]
struct Call {
    function: String,
    payload: Content,
}

#[derive(ComponentType, Lower)]
#[component(record)]
struct Failure {
    code: String,
    message: String,
}

#[derive(ComponentType, Lower)]
#[component(record)]
struct Received {
    id: String,
    payload: Content,
}

/// Offers the interface.
pub(crate) fn add_to_linker(linker: &mut Linker<State>) -> Result<()> {
    let mut steps = linker.instance(NAME)?;
    steps.func_wrap("call", |mut cx, (calls,): (Vec<Call>,)| {
        let steps = steps_of(&mut cx)?;
        if calls.len() > CALLS_MAX {
            bail!("{} calls are made at once, the most is {CALLS_MAX}; make them in groups", calls.len());
        }
        // All of them are asked for before any is waited for.
        let mut answers = Vec::with_capacity(calls.len());
        for call in calls {
            let call = steps.call(steps.run.replay.next_step(), call)?;
            answers.push(steps.ask(&Ask::Call(call))?);
        }
        let ends: Option<Vec<_>> = answers.into_iter().map(end_of).collect();
        match ends {
            Some(ends) => Ok((ends,)),
            None => Err(steps.stop(Stop::Waits)),
        }
    })?;
    steps.func_wrap("sleep", |mut cx, (ms,): (u64,)| sleep(steps_of(&mut cx)?, Pause::For(ms)))?;
    steps.func_wrap("sleep-until", |mut cx, (ms,): (u64,)| sleep(steps_of(&mut cx)?, Pause::Until(ms)))?;
    steps.func_wrap("wait-event", |mut cx, (name, timeout_ms): (String, Option<u64>)| {
        let steps = steps_of(&mut cx)?;
        match steps.ask(&Ask::Event(event_name(&name)?, timeout_ms))? {
            Answer::Event(received) => {
                let payload = Content { media_type: received.payload.media_type, body: received.payload.body.into() };
                Ok((Some(Received { id: received.id.into(), payload }),))
            }
            Answer::Woken => Ok((None,)),
            Answer::Wait | Answer::Called(_) | Answer::Told => Err(steps.stop(Stop::Waits)),
        }
    })?;
    steps.func_wrap("emit", |mut cx, (name, payload): (String, Content)| {
        let steps = steps_of(&mut cx)?;
        let payload = steps.content(payload)?;
        steps.ask(&Ask::Emit(event_name(&name)?, payload))?;
        Ok(())
    })?;
    steps.func_wrap("now", |mut cx, (): ()| Ok((steps_of(&mut cx)?.run.replay.now_ms(),)))?;
    steps.func_wrap("random", |mut cx, (): ()| Ok((steps_of(&mut cx)?.random.next_u64(),)))?;
    steps.func_wrap("restart", |mut cx, (input,): (Content,)| -> Result<()> {
        let steps = steps_of(&mut cx)?;
        let input = steps.content(input)?;
        steps.end();
        if steps.stop.is_some() {
            return Err(Stopped.into());
        }
        let unread = steps.run.replay.unread();
        Err(steps.stop(Stop::Restarts { input, unread }))
    })
}

fn steps_of<'a>(cx: &'a mut StoreContextMut<'_, State>) -> Result<&'a mut Steps> {
    match cx.data_mut().steps.as_deref_mut() {
        Some(steps) => Ok(steps),
        // A trial, in which nothing is asked for but by its start.
        None => bail!("steps are taken during an execution only"),
    }
}

fn event_name(name: &str) -> Result<Name> {
    Name::parse(name).map_err(|rule| wasmtime::format_err!("{name:?} cannot be an event's name: {rule}"))
}

fn sleep(steps: &mut Steps, pause: Pause) -> Result<()> {
    match steps.ask(&Ask::Sleep(pause))? {
        Answer::Woken => Ok(()),
        Answer::Wait | Answer::Called(_) | Answer::Event(_) | Answer::Told => Err(steps.stop(Stop::Waits)),
    }
}

/// The end of a call, if it has one.
fn end_of(answer: Answer) -> Option<std::result::Result<Content, Failure>> {
    let Answer::Called(result) = answer else { return None };
    Some(match (result.status, result.error) {
        (Status::Ok, _) => Ok(Content { media_type: result.media_type, body: result.payload.into() }),
        (_, Some(error)) => Err(Failure { code: error.code, message: error.message }),
        (status, None) => Err(Failure { code: status.to_string(), message: format!("the call ended as {status}") }),
    })
}

/// The guest's clocks: both stand still between two things that it learns.
#[derive(Clone)]
pub(crate) struct LogClock {
    now_ms: Arc<AtomicU64>,
    began_ms: u64,
}

impl HostWallClock for LogClock {
    fn resolution(&self) -> Duration {
        Duration::from_millis(1)
    }

    fn now(&self) -> Duration {
        Duration::from_millis(self.now_ms.load(Ordering::Relaxed))
    }
}

impl HostMonotonicClock for LogClock {
    fn resolution(&self) -> u64 {
        1_000_000
    }

    fn now(&self) -> u64 {
        self.now_ms.load(Ordering::Relaxed).saturating_sub(self.began_ms).saturating_mul(1_000_000)
    }
}

#[cfg(test)]
mod tests {
    use super::{Rng, random_of};

    /// By Python: the keystream of ChaCha20 with a nonce and a counter of 0, read as little-endian numbers.
    #[test]
    fn random_numbers_are_the_same_in_every_version() {
        let numbers = |seed, stream| {
            let mut random = random_of(seed, stream);
            [random.next_u64(), random.next_u64()]
        };
        assert_eq!(numbers(7, 0), [0x8699_4a5e_d222_b3d6, 0xa421_b2a1_0eb0_e9e3]);
        assert_eq!(numbers(7, 1), [0x85ab_5a05_3199_66f2, 0xae83_a4f7_1f57_4d96]);
        assert_eq!(numbers(u64::MAX, 3), [0x0976_ef87_a728_6a04, 0x9d62_b3bf_7662_10f1]);
    }
}
