//! The facts of a log.

use std::fmt;

use bytes::Bytes;

use crate::{CallError, CallId, Digest, FunctionId, Name, Reply, ResultDocument};

/// One fact. Those with a `step` belong to what the function asked for; the first step is 1.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// It began. Always the first, and nowhere else.
    Started(Started),
    /// The function called another one.
    CallScheduled {
        /// Which step.
        step: u32,
        /// The call.
        call: StepCall,
    },
    /// That call has its end.
    CallCompleted {
        /// The step that made it.
        step: u32,
        /// Its result.
        result: Box<ResultDocument>,
    },
    /// The function sleeps.
    TimerSet {
        /// Which step.
        step: u32,
        /// What it asked for.
        pause: Pause,
        /// When it wakes, in Unix milliseconds.
        due_ms: u64,
    },
    /// A sleep, or the patience of a wait, is over.
    TimerFired {
        /// The step that set it.
        step: u32,
    },
    /// The function waits for an event from outside.
    EventAwaited {
        /// Which step.
        step: u32,
        /// The event's name.
        name: Name,
        /// How long it waits, in milliseconds; none if for ever.
        patience_ms: Option<u64>,
        /// When its patience ends, in Unix milliseconds.
        due_ms: Option<u64>,
    },
    /// Somebody sent an event.
    EventReceived(Received),
    /// The function told something to whoever reads along.
    Emitted {
        /// Which step.
        step: u32,
        /// The event's name.
        name: Name,
        /// What it tells.
        payload: Reply,
    },
    /// From here on it runs on another component.
    MovedToDigest {
        /// That component.
        digest: Digest,
    },
    /// It has its answer.
    Completed(Reply),
    /// It was refused or given up.
    Failed(CallError),
    /// Somebody took it back.
    Cancelled,
}

/// For whom an event is that came as an entry of the call stream; its payload and its id are the entry's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventFor {
    /// The execution.
    pub execution: CallId,
    /// The event's name.
    pub name: Name,
}

/// How an execution began.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Started {
    /// Which run of the execution this is: one more each time the function begins anew. The first is 1.
    pub run: u32,
    /// Where its random numbers come from.
    pub seed: u64,
    /// The input.
    pub input: Reply,
    /// `x-…` headers and trace of who started it.
    pub headers: Vec<(String, String)>,
}

/// A call that a function makes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StepCall {
    /// The function, of the same tenant.
    pub function: Name,
    /// The call's id, made from the execution, its run and the step: the same after every crash.
    pub id: CallId,
    /// The input.
    pub payload: Reply,
}

/// How the ids of the calls begin that an execution makes: 32 hexadecimal digits of the SHA-256 of its function, its id and the
/// seed of its run, with line ends between them. Executions of different functions may have one id, and an id may be used again
/// once what is known of its execution has expired.
#[must_use]
pub fn calls_of(function: &FunctionId, execution: &CallId, seed: u64) -> String {
    Digest::of(format!("{function}\n{execution}\n{seed}").as_bytes()).to_string()[..32].to_owned()
}

/// The id of the call of a step: `calls` is how those of its execution begin.
#[must_use]
pub fn call_id(calls: &str, run: u32, step: u32) -> Option<CallId> {
    CallId::parse(&format!("{calls}.{run}.{step}"))
}

/// Whose step a call is: its end is written into that log. As text it is the step, the run, the function and the execution.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct StepRef {
    /// The function of the execution.
    pub function: FunctionId,
    /// The execution.
    pub execution: CallId,
    /// Its run.
    pub run: u32,
    /// The step.
    pub step: u32,
}

impl fmt::Display for StepRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {} {}", self.step, self.run, self.function, self.execution)
    }
}

impl StepRef {
    /// Reads what `Display` wrote.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.splitn(4, ' ');
        let (step, run) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
        let (function, execution) = (parts.next()?.parse().ok()?, CallId::parse(parts.next()?)?);
        Some(Self { function, execution, run, step })
    }
}

/// How long a function sleeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pause {
    /// So many milliseconds.
    For(u64),
    /// Until this time, in Unix milliseconds.
    Until(u64),
}

/// An event from outside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Received {
    /// Its sender's id for it: the same id is the same event.
    pub id: CallId,
    /// Its name.
    pub name: Name,
    /// What it says.
    pub payload: Reply,
}

impl Event {
    /// The word for it in the log.
    #[must_use]
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Started(_) => "started",
            Self::CallScheduled { .. } => "call-scheduled",
            Self::CallCompleted { .. } => "call-completed",
            Self::TimerSet { .. } => "timer-set",
            Self::TimerFired { .. } => "timer-fired",
            Self::EventAwaited { .. } => "event-awaited",
            Self::EventReceived(_) => "event-received",
            Self::Emitted { .. } => "emitted",
            Self::MovedToDigest { .. } => "moved-to-digest",
            Self::Completed(_) => "completed",
            Self::Failed(_) => "failed",
            Self::Cancelled => "cancelled",
        }
    }

    /// The step that the function asked for, if this is where it did.
    #[must_use]
    pub fn asked_in(&self) -> Option<u32> {
        match self {
            Self::CallScheduled { step, .. }
            | Self::TimerSet { step, .. }
            | Self::EventAwaited { step, .. }
            | Self::Emitted { step, .. } => Some(*step),
            Self::Started(_)
            | Self::CallCompleted { .. }
            | Self::TimerFired { .. }
            | Self::EventReceived(_)
            | Self::MovedToDigest { .. }
            | Self::Completed(_)
            | Self::Failed(_)
            | Self::Cancelled => None,
        }
    }

    /// The word for what answers this step some time; none if nothing does, or only an event from outside.
    #[must_use]
    pub fn answered_by(&self) -> Option<&'static str> {
        match self {
            Self::CallScheduled { .. } => Some("call-completed"),
            Self::TimerSet { .. } | Self::EventAwaited { due_ms: Some(_), .. } => Some("timer-fired"),
            Self::EventAwaited { due_ms: None, .. }
            | Self::Emitted { .. }
            | Self::Started(_)
            | Self::CallCompleted { .. }
            | Self::TimerFired { .. }
            | Self::EventReceived(_)
            | Self::MovedToDigest { .. }
            | Self::Completed(_)
            | Self::Failed(_)
            | Self::Cancelled => None,
        }
    }

    /// The step that this answers.
    #[must_use]
    pub fn answers(&self) -> Option<u32> {
        match self {
            Self::CallCompleted { step, .. } | Self::TimerFired { step } => Some(*step),
            Self::Started(_)
            | Self::CallScheduled { .. }
            | Self::TimerSet { .. }
            | Self::EventAwaited { .. }
            | Self::EventReceived(_)
            | Self::Emitted { .. }
            | Self::MovedToDigest { .. }
            | Self::Completed(_)
            | Self::Failed(_)
            | Self::Cancelled => None,
        }
    }

    /// Whether nothing comes after it.
    #[must_use]
    pub fn is_end(&self) -> bool {
        matches!(self, Self::Completed(_) | Self::Failed(_) | Self::Cancelled)
    }
}

/// What a step is, for people: `a call of reserve with 14 bytes`.
impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CallScheduled { call, .. } => {
                write!(
                    f,
                    "a call of {} with {} bytes of {}",
                    call.function,
                    size(&call.payload.body),
                    call.payload.media_type
                )
            }
            Self::TimerSet { pause: Pause::For(ms), .. } => write!(f, "a sleep of {ms} ms"),
            Self::TimerSet { pause: Pause::Until(ms), .. } => write!(f, "a sleep until {ms}"),
            Self::EventAwaited { name, patience_ms: Some(ms), .. } => {
                write!(f, "a wait of {ms} ms for the event {name}")
            }
            Self::EventAwaited { name, patience_ms: None, .. } => write!(f, "a wait for the event {name}"),
            Self::Emitted { name, payload, .. } => write!(f, "{name} emitted with {} bytes", size(&payload.body)),
            Self::Started(_)
            | Self::CallCompleted { .. }
            | Self::TimerFired { .. }
            | Self::EventReceived(_)
            | Self::MovedToDigest { .. }
            | Self::Completed(_)
            | Self::Failed(_)
            | Self::Cancelled => f.write_str(self.as_str()),
        }
    }
}

fn size(bytes: &Bytes) -> usize {
    bytes.len()
}
