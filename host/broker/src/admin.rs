//! What operators ask: which functions have queues, how long they are, and where a call's result lies.

use std::time::Duration;

use baton_model::{CallId, FunctionId, Priority};
use redis::{Value, cmd};
use serde::Serialize;

use crate::BrokerError;
use crate::keys::Keys;
use crate::link::{BrokerConfig, Link};
use crate::meter::Role;
use crate::script::Lua;

/// How much work one function has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct QueueDepth {
    /// Calls that no host has taken yet.
    pub queued: u64,
    /// Calls that a host holds.
    pub pending: u64,
    /// Calls that wait for their time.
    pub delayed: u64,
    /// Dead letters.
    pub dead: u64,
}

/// How much work one function has, and for how long the oldest of it waits.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct QueueLook {
    /// How much.
    pub depth: QueueDepth,
    /// For how long the oldest call stands there that no host has taken yet; none if there is none.
    pub oldest_waiting: Option<Duration>,
}

/// What waits in the queue of one function.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct QueueSize {
    /// Calls that no host has taken yet, and those that wait for their time.
    pub calls: u64,
    /// What [`Admin::queue_bytes`] counts.
    pub bytes: u64,
}

/// Looks from outside; changes nothing.
pub struct Admin {
    link: Link,
    keys: Keys,
    look: Lua,
}

impl Admin {
    /// Looks with these settings.
    ///
    /// # Errors
    /// [`BrokerError::BadUrl`].
    pub fn new(config: &BrokerConfig) -> Result<Self, BrokerError> {
        Ok(Self {
            link: Link::new(config.client()?).counted(config, Role::Admin),
            keys: config.keys(),
            look: Lua::new(include_str!("scripts/look.lua")),
        })
    }

    /// Every function that has a call stream, sorted. It walks the whole key space, in steps that do not hold up Redis.
    ///
    /// # Errors
    /// Any [`BrokerError`].
    pub async fn functions(&self) -> Result<Vec<FunctionId>, BrokerError> {
        let mut found = Vec::new();
        let mut cursor = "0".to_owned();
        loop {
            let mut scan = cmd("SCAN");
            scan.arg(&cursor).arg("MATCH").arg(self.keys.calls_pattern()).arg("COUNT").arg(1000);
            let answer = self.link.run(&scan).await?;
            let (next, keys): (String, Vec<String>) =
                redis::from_redis_value(answer).map_err(|e| BrokerError::shape("SCAN", &e.to_string()))?;
            found.extend(keys.iter().filter_map(|key| self.keys.function_of_calls(key)));
            if next == "0" {
                break;
            }
            cursor = next;
        }
        found.sort();
        found.dedup();
        Ok(found)
    }

    /// How much work `function` has.
    ///
    /// # Errors
    /// Any [`BrokerError`].
    pub async fn depth(&self, function: &FunctionId) -> Result<QueueDepth, BrokerError> {
        let mut look = redis::pipe();
        for calls in self.streams_of(function) {
            look.cmd("XLEN").arg(&calls);
            look.cmd("XPENDING").arg(&calls).arg(self.keys.group());
        }
        look.cmd("ZCARD").arg(self.keys.delayed(function));
        look.cmd("XLEN").arg(self.keys.dead(function));
        let answers = self.link.run_all(&look).await?;
        let Some((streams, rest)) = answers.split_at_checked(2 * Priority::ALL.len()) else {
            return Err(BrokerError::shape("XLEN", &answers));
        };
        let pending = pending_in(streams);
        Ok(QueueDepth {
            queued: entries_in(streams).saturating_sub(pending),
            pending,
            delayed: rest.first().map_or(0, count),
            dead: rest.get(1).map_or(0, count),
        })
    }

    /// The call streams that a function can have.
    fn streams_of(&self, function: &FunctionId) -> [String; 3] {
        Priority::ALL.map(|level| self.keys.calls_at(function, level))
    }

    /// The work of each of these functions, in order, in one round trip. None where Redis refuses to look: something else
    /// stands under one of the function's keys.
    ///
    /// # Errors
    /// Any [`BrokerError`].
    pub async fn looks(&self, functions: &[FunctionId]) -> Result<Vec<Option<QueueLook>>, BrokerError> {
        let mut look = redis::Pipeline::with_capacity(functions.len() + 1);
        look.add_command(self.look.load());
        for function in functions {
            let mut call = self.look.call(3);
            call.arg(self.keys.calls(function)).arg(self.keys.delayed(function)).arg(self.keys.dead(function));
            look.add_command(call.arg(self.keys.group()).to_owned());
        }
        let answers = self.link.run_all(&look).await?.into_iter().skip(1);
        Ok(answers.map(|answer| looked(&answer)).collect())
    }

    /// How much waits in the queue of each of these functions, in order, in one round trip. Nothing where Redis refuses to
    /// look.
    ///
    /// # Errors
    /// Any [`BrokerError`].
    pub async fn queue_sizes(&self, functions: &[FunctionId]) -> Result<Vec<QueueSize>, BrokerError> {
        let mut look = redis::pipe();
        for function in functions {
            for calls in self.streams_of(function) {
                look.cmd("XLEN").arg(&calls);
                look.cmd("XPENDING").arg(&calls).arg(self.keys.group());
            }
            look.cmd("ZCARD").arg(self.keys.delayed(function));
            self.ask_bytes(&mut look, function);
        }
        let answers = self.link.run_all(&look).await?;
        let size = |answers: &[Value]| {
            let (streams, rest) = answers.split_at_checked(2 * Priority::ALL.len())?;
            let (delayed, bytes) = rest.split_first()?;
            let calls = entries_in(streams).saturating_sub(pending_in(streams)) + count(delayed);
            Some(QueueSize { calls, bytes: bytes.iter().map(count).sum() })
        };
        let each = 3 * Priority::ALL.len() + 2;
        Ok(answers.chunks(each).map(|answers| size(answers).unwrap_or_default()).collect())
    }

    /// Asks for the bytes of the call streams and of the delayed calls.
    fn ask_bytes(&self, look: &mut redis::Pipeline, function: &FunctionId) {
        for calls in self.streams_of(function) {
            look.cmd("MEMORY").arg("USAGE").arg(calls);
        }
        look.cmd("MEMORY").arg("USAGE").arg(self.keys.delayed(function));
    }

    /// How many bytes the queues of these functions take in Redis, as it counts them: calls that hosts hold and those that
    /// wait for their time among them, and what keeping them costs. Of long queues it looks at a sample.
    ///
    /// # Errors
    /// Any [`BrokerError`].
    pub async fn queue_bytes(&self, functions: &[FunctionId]) -> Result<u64, BrokerError> {
        let mut look = redis::pipe();
        for function in functions {
            self.ask_bytes(&mut look, function);
        }
        Ok(self.link.run_all(&look).await?.iter().map(count).sum())
    }

    /// The functions among `candidates` that have a result for `id`.
    ///
    /// # Errors
    /// Any [`BrokerError`].
    pub async fn owners(&self, id: &CallId, candidates: &[FunctionId]) -> Result<Vec<FunctionId>, BrokerError> {
        let mut look = redis::pipe();
        for function in candidates {
            look.cmd("EXISTS").arg(self.keys.result(function, id));
        }
        if candidates.is_empty() {
            return Ok(Vec::new());
        }
        let answers = self.link.run_all(&look).await?;
        let pairs = candidates.iter().zip(answers);
        Ok(pairs.filter(|(_, answer)| *answer == Value::Int(1)).map(|(function, _)| function.clone()).collect())
    }
}

/// A number; what Redis refuses counts as none.
fn count(answer: &Value) -> u64 {
    match answer {
        Value::Int(n) => u64::try_from(*n).unwrap_or(0),
        _ => 0,
    }
}

/// How many entries streams have, by what was answered to a length and a pending list of each.
fn entries_in(answers: &[Value]) -> u64 {
    answers.iter().step_by(2).map(count).sum()
}

/// How many of them hosts hold. A stream without a group: no host has had it yet.
fn pending_in(answers: &[Value]) -> u64 {
    let pending = |answer: &Value| match answer {
        Value::Array(summary) => summary.first().map_or(0, count),
        _ => 0,
    };
    answers.iter().skip(1).step_by(2).map(pending).sum()
}

fn looked(answer: &Value) -> Option<QueueLook> {
    let Value::Array(parts) = answer else { return None };
    let [Value::Int(count), Value::Int(pending), Value::Int(delayed), Value::Int(dead), Value::Int(oldest)] = parts[..]
    else {
        return None;
    };
    let number = |n: i64| u64::try_from(n).unwrap_or(0);
    Some(QueueLook {
        depth: QueueDepth {
            queued: number(count.saturating_sub(pending)),
            pending: number(pending),
            delayed: number(delayed),
            dead: number(dead),
        },
        oldest_waiting: u64::try_from(oldest).ok().map(Duration::from_millis),
    })
}
