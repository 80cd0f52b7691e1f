//! A whole log, and what is wrong with one that somebody cut, changed or put in another order.

use std::collections::{HashMap, HashSet};

use super::event::{Event, Started};
use super::record::{Record, RecordError, chain, chain_said};
use crate::Digest;

/// One fact in its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Logged {
    /// When Redis wrote it, in Unix milliseconds. Nothing is ordered by it.
    pub at_ms: u64,
    /// What it says.
    pub event: Event,
}

/// A log that was looked through: it is whole, and each fact may stand where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Log {
    started: Started,
    facts: Vec<Logged>,
    digest: Option<Digest>,
}

/// What is wrong with a log. Positions count from 1.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LogError {
    /// There is nothing.
    #[error("the log is empty")]
    Empty,
    /// Positions are left out, or not in order.
    #[error(
        "after position {after} of the log comes {}: it was cut, put in another order, or written to by somebody else",
        place(*found)
    )]
    Gap {
        /// The last that was in order.
        after: u64,
        /// What stands behind it.
        found: u64,
    },
    /// It is shorter or longer than its execution says.
    #[error(
        "the log ends at position {found}, and its execution says {said}: it was cut, or written to by somebody else"
    )]
    Length {
        /// Where it ends.
        found: u64,
        /// Where it should.
        said: u64,
    },
    /// Its entries fit to each other, and not to what its execution says.
    #[error("the log ends with another link than its execution says: it was rewritten from some position on")]
    Rewritten,
    /// An entry does not fit to those before it.
    #[error(
        "position {position} of the log was changed, or put where it does not belong: its chain does not fit to those before it"
    )]
    Chain {
        /// Which.
        position: u64,
    },
    /// An entry is no fact.
    #[error("position {position} of the log cannot be read: {reason}")]
    Unreadable {
        /// Which.
        position: u64,
        /// Why.
        reason: RecordError,
    },
    /// A fact that cannot stand there.
    #[error("position {position} of the log cannot be: {reason}")]
    Misplaced {
        /// Which.
        position: u64,
        /// Why.
        reason: String,
    },
}

/// A position for people; an entry whose id is none stands behind all others.
fn place(position: u64) -> String {
    if position == u64::MAX { "an entry that has no position".to_owned() } else { position.to_string() }
}

/// Reads a log an entry at a time, as they come.
#[derive(Debug, Default)]
pub struct LogReader {
    facts: Vec<Logged>,
    last: u64,
    link: String,
    fault: Option<LogError>,
}

impl LogReader {
    /// Takes the next entry. What comes behind one that is wrong is not looked at.
    pub fn take(&mut self, position: u64, record: &Record) {
        if self.fault.is_none() {
            self.fault = self.append(position, record).err();
        }
    }

    fn append(&mut self, position: u64, record: &Record) -> Result<(), LogError> {
        if position != self.last + 1 {
            return Err(LogError::Gap { after: self.last, found: position });
        }
        self.last = position;
        self.link = chain(&self.link, record.iter().map(|(name, value)| (&**name, &**value)));
        if chain_said(record) != Some(self.link.as_bytes()) {
            return Err(LogError::Chain { position });
        }
        let (event, at_ms) = Event::of_record(record).map_err(|reason| LogError::Unreadable { position, reason })?;
        self.facts.push(Logged { at_ms, event });
        Ok(())
    }

    /// That was all. `length` and `link` are what its execution says of its end.
    ///
    /// # Errors
    /// As [`Log::read_to`].
    pub fn end_at(self, length: u64, link: &str) -> Result<Log, LogError> {
        let (log, last) = self.end(Some(length))?;
        if last == link { Ok(log) } else { Err(LogError::Rewritten) }
    }

    fn end(self, length: Option<u64>) -> Result<(Log, String), LogError> {
        if let Some(fault) = self.fault {
            return Err(fault);
        }
        if let Some(said) = length.filter(|said| *said != self.last) {
            return Err(LogError::Length { found: self.last, said });
        }
        Ok((Log::of(self.facts)?, self.link))
    }
}

impl Log {
    /// Reads a log from its entries: their positions and fields, in order. `length` is what the execution says, if it does.
    ///
    /// # Errors
    /// [`LogError`] names the first position at which something is wrong.
    pub fn read(entries: impl IntoIterator<Item = (u64, Record)>, length: Option<u64>) -> Result<Self, LogError> {
        Self::read_linked(entries, length).map(|(log, _)| log)
    }

    /// The same, and looks whether the log ends as its execution says: with this position, and with this link.
    ///
    /// # Errors
    /// As [`Log::read`], or [`LogError::Rewritten`].
    pub fn read_to(
        entries: impl IntoIterator<Item = (u64, Record)>,
        (length, link): (u64, &str),
    ) -> Result<Self, LogError> {
        let (log, last) = Self::read_linked(entries, Some(length))?;
        if last == link { Ok(log) } else { Err(LogError::Rewritten) }
    }

    fn read_linked(
        entries: impl IntoIterator<Item = (u64, Record)>,
        length: Option<u64>,
    ) -> Result<(Self, String), LogError> {
        let mut reading = LogReader::default();
        entries.into_iter().for_each(|(position, record)| reading.take(position, &record));
        reading.end(length)
    }

    /// Takes facts that are in order, and looks whether each may stand where it stands.
    ///
    /// # Errors
    /// [`LogError::Empty`] or [`LogError::Misplaced`].
    pub fn of(facts: Vec<Logged>) -> Result<Self, LogError> {
        let Some(Logged { event: Event::Started(started), .. }) = facts.first() else {
            return Err(match facts.first() {
                None => LogError::Empty,
                Some(_) => LogError::Misplaced { position: 1, reason: "a log begins with `started`".to_owned() },
            });
        };
        let started = started.clone();
        let (mut digest, mut steps, mut has_ended) = (None, 0, false);
        // Whether a step may be answered, by a timer or a call, and was not yet.
        let mut open: HashMap<u32, &'static str> = HashMap::new();
        for (fact, position) in facts.iter().zip(1..) {
            let misplaced = |reason: String| Err(LogError::Misplaced { position, reason });
            if has_ended {
                return misplaced(format!("`{}` after the end", fact.event.as_str()));
            }
            if let Some(step) = fact.event.asked_in() {
                if step != steps + 1 {
                    return misplaced(format!("step {step} after step {steps}"));
                }
                steps = step;
                open.extend(fact.event.answered_by().map(|answer| (step, answer)));
            }
            if let Some(step) = fact.event.answers()
                && open.remove(&step) != Some(fact.event.as_str())
            {
                return misplaced(format!("`{}` of step {step}, which does not wait for it", fact.event.as_str()));
            }
            if matches!(fact.event, Event::Started(_)) && position > 1 {
                return misplaced("it is `started` a second time".to_owned());
            }
            if let Event::MovedToDigest { digest: to } = &fact.event {
                digest = Some(*to);
            }
            has_ended = fact.event.is_end();
        }
        Ok(Self { started, facts, digest })
    }

    /// How it began.
    #[must_use]
    pub fn started(&self) -> &Started {
        &self.started
    }

    /// The component that it runs on now; none if it was not run yet.
    #[must_use]
    pub fn digest(&self) -> Option<Digest> {
        self.digest
    }

    /// When it was moved away from this component last, in Unix milliseconds; none if it never was, in this run.
    #[must_use]
    pub fn left(&self, component: Digest) -> Option<u64> {
        let moves = self.facts.iter().filter_map(|fact| match fact.event {
            Event::MovedToDigest { digest } => Some((digest, fact.at_ms)),
            _ => None,
        });
        let moves: Vec<_> = moves.collect();
        moves.windows(2).rev().find(|pair| pair[0].0 == component).map(|pair| pair[1].1)
    }

    /// All of it, the first at position 1.
    #[must_use]
    pub fn facts(&self) -> &[Logged] {
        &self.facts
    }

    /// The steps that wait for their answers.
    pub fn open_steps(&self) -> impl Iterator<Item = &Event> {
        let answered: HashSet<u32> = self.facts.iter().filter_map(|fact| fact.event.answers()).collect();
        let last = self.facts.iter().filter_map(|fact| fact.event.asked_in()).next_back();
        // Of steps that were taken together all may be open; of others, the function has gone on to the next.
        let is_open = move |event: &&Event| match event {
            Event::CallScheduled { step, .. } => !answered.contains(step),
            Event::TimerSet { step, .. } | Event::EventAwaited { step, .. } => {
                Some(*step) == last && !answered.contains(step)
            }
            _ => false,
        };
        let has_ended = self.end().is_some();
        self.facts.iter().map(|fact| &fact.event).filter(move |_| !has_ended).filter(is_open)
    }

    /// Its end, if it has one.
    #[must_use]
    pub fn end(&self) -> Option<&Event> {
        self.facts.last().map(|fact| &fact.event).filter(|event| event.is_end())
    }
}
