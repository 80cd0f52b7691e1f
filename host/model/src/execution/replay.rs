//! What a function is answered that asks for its steps, one after another: from the log as far as it goes, and then nothing.

use std::collections::{HashMap, VecDeque};

use super::event::{Event, Pause, Received, StepCall};
use super::log::Log;
use crate::{Name, Reply, ResultDocument};

/// A step that a function asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ask {
    /// Call a function.
    Call(StepCall),
    /// Sleep.
    Sleep(Pause),
    /// Wait for an event, for so many milliseconds at the most.
    Event(Name, Option<u64>),
    /// Tell something.
    Emit(Name, Reply),
}

/// What comes of a step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// The call's result.
    Called(Box<ResultDocument>),
    /// The sleep, or the patience, is over.
    Woken,
    /// The event.
    Event(Received),
    /// It is told.
    Told,
    /// Nothing is known yet: the function waits.
    Wait,
}

/// A function asks for other steps than those in its log.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("step {step} is {logged} in the log, and the function asks for {asked}")]
pub struct Divergence {
    /// The first step that differs.
    pub step: u32,
    /// What the log has.
    pub logged: String,
    /// What the function asks for instead.
    pub asked: String,
}

/// One run of a function over its log.
#[derive(Debug)]
pub struct Replay {
    log: Log,
    /// Where each step was asked for, by its number less one.
    asked: Vec<usize>,
    /// Where a step's answer stands.
    answers: HashMap<u32, usize>,
    /// Where events stand that nobody has waited for yet.
    inbox: HashMap<Name, VecDeque<usize>>,
    steps: u32,
    now_ms: u64,
    fresh: Vec<Event>,
}

impl Replay {
    /// Begins at the start of the log.
    #[must_use]
    pub fn new(log: Log) -> Self {
        let (mut asked, mut answers) = (Vec::new(), HashMap::new());
        let mut inbox: HashMap<Name, VecDeque<usize>> = HashMap::new();
        for (at, fact) in log.facts().iter().enumerate() {
            if fact.event.asked_in().is_some() {
                asked.push(at);
            } else if let Some(step) = fact.event.answers() {
                answers.insert(step, at);
            } else if let Event::EventReceived(received) = &fact.event {
                inbox.entry(received.name.clone()).or_default().push_back(at);
            }
        }
        let now_ms = log.facts().first().map_or(0, |fact| fact.at_ms);
        Self { log, asked, answers, inbox, steps: 0, now_ms, fresh: Vec::new() }
    }

    /// The log.
    #[must_use]
    pub fn log(&self) -> &Log {
        &self.log
    }

    /// The time that the function sees: when that was written which it learned last, in Unix milliseconds.
    #[must_use]
    pub fn now_ms(&self) -> u64 {
        self.now_ms
    }

    /// The step that is asked for next; the first is 1.
    #[must_use]
    pub fn next_step(&self) -> u32 {
        self.steps + 1
    }

    /// Whether the function has asked for all that the log knows: what it does now, it does for the first time.
    #[must_use]
    pub fn is_past_log(&self) -> bool {
        self.steps as usize >= self.asked.len()
    }

    /// The function asks for its next step. `clock_ms` is the time now, from which a new sleep is counted.
    ///
    /// # Errors
    /// [`Divergence`] if the log has another step there.
    pub fn ask(&mut self, ask: &Ask, clock_ms: u64) -> Result<Answer, Divergence> {
        let step = self.next_step();
        let fresh = ask.event(step, clock_ms);
        match self.asked.get(self.steps as usize) {
            Some(at) => {
                let logged = &self.log.facts()[*at].event;
                if !same(logged, &fresh) {
                    return Err(divergence(step, logged, &fresh));
                }
            }
            None => self.fresh.push(fresh),
        }
        self.steps = step;
        Ok(self.answer(step, ask))
    }

    /// The function has ended.
    ///
    /// # Errors
    /// [`Divergence`] if the log has more steps than it asked for.
    pub fn end(&self) -> Result<(), Divergence> {
        match self.asked.get(self.steps as usize) {
            None => Ok(()),
            Some(at) => Err(Divergence {
                step: self.next_step(),
                logged: self.log.facts()[*at].event.to_string(),
                asked: "nothing more".to_owned(),
            }),
        }
    }

    /// The step that was asked for last, as it stands in the log; none if the log does not have it.
    #[must_use]
    pub fn last_asked(&self) -> Option<&Event> {
        let at = self.asked.get((self.steps as usize).checked_sub(1)?)?;
        Some(&self.log.facts()[*at].event)
    }

    /// The events that came and that the function has not waited for, in their order.
    #[must_use]
    pub fn unread(&self) -> Vec<Event> {
        let mut positions: Vec<usize> = self.inbox.values().flatten().copied().collect();
        positions.sort_unstable();
        positions.into_iter().map(|at| self.log.facts()[at].event.clone()).collect()
    }

    /// What is to be written behind the log: the steps that it did not know.
    #[must_use]
    pub fn into_fresh(self) -> Vec<Event> {
        self.fresh
    }

    /// An answer depends on what stands before it in the log and on nothing behind, so it is the same in every replay.
    fn answer(&mut self, step: u32, ask: &Ask) -> Answer {
        let answered = self.answers.get(&step).copied();
        match ask {
            Ask::Emit(..) => Answer::Told,
            Ask::Call(_) | Ask::Sleep(_) => match answered {
                Some(at) => self.learn(at),
                None => Answer::Wait,
            },
            Ask::Event(name, _) => {
                let inbox = self.inbox.get_mut(name);
                let received =
                    inbox.filter(|inbox| inbox.front().is_some_and(|at| answered.is_none_or(|end| *at < end)));
                match (received.and_then(VecDeque::pop_front), answered) {
                    (Some(at), _) | (None, Some(at)) => self.learn(at),
                    (None, None) => Answer::Wait,
                }
            }
        }
    }

    fn learn(&mut self, at: usize) -> Answer {
        let fact = &self.log.facts()[at];
        self.now_ms = self.now_ms.max(fact.at_ms);
        match &fact.event {
            Event::CallCompleted { result, .. } => Answer::Called(result.clone()),
            Event::TimerFired { .. } => Answer::Woken,
            Event::EventReceived(received) => Answer::Event(received.clone()),
            // None of these answers a step.
            Event::Started(_)
            | Event::CallScheduled { .. }
            | Event::TimerSet { .. }
            | Event::EventAwaited { .. }
            | Event::Emitted { .. }
            | Event::MovedToDigest { .. }
            | Event::Completed(_)
            | Event::Failed(_)
            | Event::Cancelled => Answer::Wait,
        }
    }
}

impl Ask {
    /// How it is written.
    fn event(&self, step: u32, clock_ms: u64) -> Event {
        match self {
            Self::Call(call) => Event::CallScheduled { step, call: call.clone() },
            Self::Sleep(pause) => {
                let due_ms = match pause {
                    Pause::For(ms) => clock_ms.saturating_add(*ms),
                    Pause::Until(ms) => *ms,
                };
                Event::TimerSet { step, pause: *pause, due_ms }
            }
            Self::Event(name, patience_ms) => Event::EventAwaited {
                step,
                name: name.clone(),
                patience_ms: *patience_ms,
                due_ms: patience_ms.map(|ms| clock_ms.saturating_add(ms)),
            },
            Self::Emit(name, payload) => Event::Emitted { step, name: name.clone(), payload: payload.clone() },
        }
    }
}

/// Whether the function asked for this when it was written. When a sleep ends depends on when it was asked for.
fn same(logged: &Event, asked: &Event) -> bool {
    match (logged, asked) {
        (Event::TimerSet { pause: a, .. }, Event::TimerSet { pause: b, .. }) => a == b,
        (
            Event::EventAwaited { name: a, patience_ms: for_a, .. },
            Event::EventAwaited { name: b, patience_ms: for_b, .. },
        ) => a == b && for_a == for_b,
        (a, b) => a == b,
    }
}

fn divergence(step: u32, logged: &Event, asked: &Event) -> Divergence {
    let (logged, mut asked) = (logged.to_string(), asked.to_string());
    if logged == asked {
        asked.push_str(" that has other contents");
    }
    Divergence { step, logged, asked }
}
