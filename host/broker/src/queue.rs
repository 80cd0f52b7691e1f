//! The housekeeping of call streams: groups, what other hosts left, what waits for its time, and notices.

mod sweep;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use baton_model::{
    AHEAD_MAX, EntryId, FunctionId, HostId, LATE_MAX, Lease, Missed, Priority, SCHEDULE_HEADERS, Schedule,
};
use redis::{Value, cmd};

use crate::BrokerError;
use crate::entry::Rules;
use crate::execution;
use crate::keys::{Keys, Notice};
use crate::levels::{Levels, STREAM};
use crate::link::{BrokerConfig, Link};
use crate::meter::Role;
use crate::reader::{Delivery, Incoming, parse_entry};
use crate::script::Lua;
use crate::seal::Seal;
use crate::turns::{self, Turn};

pub use self::sweep::{Backlog, SweepPlan, Swept};

/// The most entries that are looked at in one step of a search.
const PAGE: usize = 1000;
/// The most delayed calls that one round trip moves, whichever function's, and how many each function may move in any case.
/// Forty of them hold Redis for some 0.4 ms.
const PROMOTE_MAX: usize = 40;
const PROMOTE_MIN: usize = 10;
/// After how many bytes of them a function moves no further one.
const PROMOTE_BYTES_MAX: usize = 256 << 10;

/// What was found of functions whose consumer groups were made sure of.
#[derive(Debug, Default)]
pub struct Ensured {
    /// Those for which Redis refuses that, with its reason.
    pub refused: Vec<(FunctionId, String)>,
    /// Those that have more call streams than one.
    pub levels: Vec<(FunctionId, Levels)>,
}

/// What Redis says of a schedule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ticked {
    /// Whether the call of the tick was made now.
    pub made: bool,
    /// Up to when all ticks were dealt with, in Unix milliseconds.
    pub done_ms: u64,
    /// The time now, in Unix milliseconds of Redis's clock.
    pub now_ms: u64,
}

/// When the next call of a function is due whose calls were moved; none if none waits any more.
pub type Promoted = Result<Option<Duration>, BrokerError>;

/// Housekeeping on one shared connection.
pub struct Queue {
    link: Link,
    keys: Keys,
    lease: Duration,
    rules: Rules,
    seal: Arc<Seal>,
    sweep: Lua,
    promote: Lua,
    tick: Lua,
    leave: Lua,
    ensure: Lua,
    renew: Lua,
    turn: Lua,
}

impl Queue {
    /// Housekeeping with these settings.
    ///
    /// # Errors
    /// [`BrokerError::BadUrl`].
    pub fn new(config: &BrokerConfig) -> Result<Self, BrokerError> {
        Ok(Self {
            link: Link::new(config.client()?).counted(config, Role::Queue),
            keys: config.keys(),
            lease: config.lease,
            rules: config.rules(),
            seal: config.seal.clone(),
            sweep: Lua::new(include_str!("scripts/sweep.lua")),
            promote: execution::before(include_str!("scripts/promote.lua")),
            tick: Lua::new(include_str!("scripts/tick.lua")),
            leave: Lua::new(include_str!("scripts/leave.lua")),
            ensure: Lua::new(include_str!("scripts/ensure.lua")),
            renew: Lua::new(include_str!("scripts/renew.lua")),
            turn: Lua::new(include_str!("scripts/turn.lua")),
        })
    }

    /// The keys under this prefix.
    #[must_use]
    pub fn keys(&self) -> &Keys {
        &self.keys
    }

    /// Waits for no longer than one connection attempt and says whether Redis answers.
    ///
    /// # Errors
    /// Any [`BrokerError`] that says why it does not.
    pub async fn ping(&self) -> Result<(), BrokerError> {
        self.link.run(&cmd("PING")).await.map(drop)
    }

    /// Whether Redis takes writes: one that is full, read-only or away does not.
    ///
    /// # Errors
    /// Any [`BrokerError`] that says why it does not.
    pub async fn probe(&self) -> Result<(), BrokerError> {
        let write = cmd("SET").arg(self.keys.probe()).arg(1).arg("PX").arg(1000).to_owned();
        match self.link.run(&write).await {
            // A connection that Redis or somebody between closed while it was idle says nothing of Redis.
            Err(BrokerError::Unreachable(_)) => self.link.run(&write).await.map(drop),
            other => other.map(drop),
        }
    }

    /// Ends the server. Only for one that this process has started.
    ///
    /// # Errors
    /// Any [`BrokerError`]; a server that obeys hangs up, which is [`BrokerError::Unreachable`].
    pub async fn shut_server_down(&self) -> Result<(), BrokerError> {
        self.link.run(&cmd("SHUTDOWN")).await.map(drop)
    }

    /// Learns the seal of the hosts, if it is not known yet: no entry may be read without it.
    async fn know_seal(&self) -> Result<(), BrokerError> {
        if self.seal.is_known() { Ok(()) } else { self.seal.learn(&self.link, &self.keys).await }
    }

    /// Makes the consumer groups of each function, from the start of its streams on, where they are missing. Tells which
    /// streams each has, and of which functions Redis refuses it: something else stands under the key of their stream, and
    /// a read that asked for it would fail for all.
    ///
    /// # Errors
    /// Any other [`BrokerError`]; some groups may have been made.
    pub async fn ensure_groups(&self, functions: &[FunctionId]) -> Result<Ensured, BrokerError> {
        if !functions.is_empty() {
            // Where groups are missing, all may have been, and other hosts have made a new one.
            self.seal.learn(&self.link, &self.keys).await?;
        }
        let mut ensured = Ensured::default();
        for page in functions.chunks(PAGE) {
            let mut make = redis::pipe();
            make.add_command(self.ensure.load());
            for function in page {
                let mut call = self.ensure.call(1);
                make.add_command(call.arg(self.keys.calls(function)).arg(self.keys.group()).to_owned());
            }
            let answers = self.link.run_all(&make).await?.into_iter().skip(1);
            for (function, answer) in page.iter().zip(answers) {
                match answer.extract_error().map_err(BrokerError::from) {
                    Ok(Value::Int(0)) => {}
                    Ok(Value::Int(levels)) => ensured.levels.push((function.clone(), Levels::of_number(levels))),
                    Ok(other) => return Err(BrokerError::shape("ensure.lua", &other)),
                    Err(BrokerError::Refused(reason)) => ensured.refused.push((function.clone(), reason)),
                    Err(other) => return Err(other),
                }
            }
        }
        Ok(ensured)
    }

    /// Which call streams each of these functions has. What stands under such a key and is no stream is none.
    ///
    /// # Errors
    /// Any [`BrokerError`].
    pub(crate) async fn levels_of(&self, functions: &[FunctionId]) -> Result<Vec<(FunctionId, Levels)>, BrokerError> {
        let mut found = Vec::with_capacity(functions.len());
        for page in functions.chunks(PAGE) {
            let mut look = redis::pipe();
            for function in page {
                look.cmd("TYPE").arg(self.keys.calls_at(function, Priority::High));
                look.cmd("TYPE").arg(self.keys.calls_at(function, Priority::Low));
            }
            let answers = self.link.run_all(&look).await?;
            for (function, there) in page.iter().zip(answers.chunks(2)) {
                let [Value::SimpleString(high), Value::SimpleString(low)] = there else {
                    return Err(BrokerError::shape("TYPE", &there));
                };
                let levels = [(high, Priority::High), (low, Priority::Low)];
                let levels = levels.into_iter().filter(|(kind, _)| *kind == STREAM).map(|(_, level)| level);
                found.push((function.clone(), Levels::of(levels)));
            }
        }
        Ok(found)
    }

    /// Moves calls that are due into the streams of these functions, in one round trip. Tells of each, in order, when its
    /// next call is due; none if none waits any more.
    ///
    /// # Errors
    /// Any [`BrokerError`] that concerns all; one that concerns a function alone stands in its place.
    pub async fn promote(&self, functions: &[FunctionId]) -> Result<Vec<Promoted>, BrokerError> {
        let most = (PROMOTE_MAX / functions.len().max(1)).max(PROMOTE_MIN);
        let mut all = redis::Pipeline::with_capacity(functions.len() + 1);
        for function in functions {
            let mut call = self.promote.call(4);
            call.arg(self.keys.calls(function)).arg(self.keys.delayed(function));
            call.arg(self.keys.timers(function)).arg(self.keys.dead(function));
            all.add_command(call.arg(most).arg(PROMOTE_BYTES_MAX).to_owned());
        }
        let read = |answers: Vec<Value>| answers.into_iter().map(promoted).collect::<Vec<Promoted>>();
        let answers = read(self.link.run_all(&all).await?);
        if !answers.iter().any(|answer| matches!(answer, Err(BrokerError::NoScript))) {
            return Ok(answers);
        }
        self.link.run(&self.promote.load()).await?;
        Ok(read(self.link.run_all(&all).await?))
    }

    /// Makes the call of a tick, if that has come and no host has made it. Without a tick it is only asked what was done.
    ///
    /// # Errors
    /// Any [`BrokerError`]. The call may have been made all the same.
    pub async fn tick(
        &self,
        function: &FunctionId,
        schedule: &Schedule,
        tick_ms: Option<u64>,
    ) -> Result<Ticked, BrokerError> {
        let Schedule { name, timetable, payload, media_type, priority, .. } = schedule;
        let tick = tick_ms.unwrap_or(0);
        let id = schedule.call_id(tick);
        let mut call = self.tick.call(3);
        call.arg(self.keys.calls_at(function, *priority)).arg(self.keys.ticks(function));
        call.arg(self.keys.mark(function, &id)).arg(name.as_str()).arg(tick);
        let late_ms = match schedule.missed {
            Missed::Skip => i64::try_from(LATE_MAX.as_millis()).unwrap_or(i64::MAX),
            Missed::RunOnce => -1,
        };
        call.arg(late_ms).arg(format!("{} {}", timetable.cron(), timetable.zone()));
        call.arg(millis(LATE_MAX)).arg(millis(AHEAD_MAX));
        call.arg("payload").arg(payload).arg("id").arg(id.as_str()).arg("type").arg(media_type);
        if !priority.is_normal() {
            call.arg("priority").arg(priority.as_str());
        }
        let [of, at] = SCHEDULE_HEADERS;
        call.arg(of).arg(name.as_str()).arg(at).arg(tick);
        match self.tick.run(&self.link, &call).await? {
            Value::Array(parts) => match parts[..] {
                [Value::Int(made), Value::Int(done), Value::Int(now)] => {
                    let ms = |number: i64| u64::try_from(number).unwrap_or(0);
                    Ok(Ticked { made: made == 1, done_ms: ms(done), now_ms: ms(now) })
                }
                _ => Err(BrokerError::shape("tick.lua", &parts)),
            },
            other => Err(BrokerError::shape("tick.lua", &other)),
        }
    }

    /// Asks for the turns of these calls with keys, which `host` holds, in their order. Those that are told to wait are
    /// Redis's again.
    ///
    /// # Errors
    /// Any [`BrokerError`]; it may be asked again.
    pub async fn turns(&self, host: &HostId, calls: impl Iterator<Item = &Delivery>) -> Result<Vec<Turn>, BrokerError> {
        turns::read(self.link.run_all(&turns::ask(&self.turn, &self.keys, host, calls)).await?)
    }

    /// Takes `host` out of the groups of these functions, where nothing is pending for it.
    ///
    /// # Errors
    /// Any [`BrokerError`]; some groups may have been left.
    pub async fn leave(&self, host: &HostId, functions: &[FunctionId]) -> Result<(), BrokerError> {
        for (function, levels) in self.levels_of(functions).await? {
            for level in levels.all() {
                let mut call = self.leave.call(1);
                call.arg(self.keys.calls_at(&function, level)).arg(self.keys.group()).arg(host.as_str());
                self.leave.run(&self.link, &call).await?;
            }
        }
        Ok(())
    }

    /// How many entries of these functions are pending for `host`. Nothing of a function that Redis does not tell.
    ///
    /// # Errors
    /// Any [`BrokerError`].
    pub async fn held_by(&self, host: &HostId, functions: &[FunctionId]) -> Result<u64, BrokerError> {
        let mut held = 0;
        for page in functions.chunks(PAGE) {
            let mut look = redis::pipe();
            for stream in page.iter().flat_map(|f| Priority::ALL.map(|level| self.keys.calls_at(f, level))) {
                look.cmd("XPENDING").arg(stream).arg(self.keys.group());
            }
            for answer in self.link.run_all(&look).await? {
                // How many, the first, the last, and how many for each consumer. A stream without a group has none.
                type Summary = (u64, Option<String>, Option<String>, Option<Vec<(String, u64)>>);
                let Ok((.., Some(holders))) = redis::from_redis_value::<Summary>(answer) else { continue };
                held +=
                    holders.iter().filter(|(holder, _)| holder == host.as_str()).map(|(_, count)| count).sum::<u64>();
            }
        }
        Ok(held)
    }

    /// Tells a fact about a function to whoever listens, and returns how many those are. The fact can be read elsewhere
    /// too: a notice may be missed.
    ///
    /// # Errors
    /// Any [`BrokerError`].
    pub async fn tell(&self, notice: Notice, function: &FunctionId, message: &str) -> Result<u64, BrokerError> {
        let publish = cmd("PUBLISH").arg(self.keys.notice_channel(notice, function)).arg(message).to_owned();
        match self.link.run(&publish).await? {
            Value::Int(listeners) => Ok(u64::try_from(listeners).unwrap_or(0)),
            other => Err(BrokerError::shape("PUBLISH", &other)),
        }
    }

    /// The functions among these whose health channel somebody is subscribed to, but for subscriptions by pattern,
    /// which Redis does not tell.
    ///
    /// # Errors
    /// Any [`BrokerError`].
    pub async fn listened_to(&self, functions: &[FunctionId]) -> Result<Vec<FunctionId>, BrokerError> {
        let answer = self.link.run(cmd("PUBSUB").arg("CHANNELS").arg(self.keys.health_pattern())).await?;
        let channels: HashSet<String> =
            redis::from_redis_value(answer).map_err(|e| BrokerError::shape("PUBSUB CHANNELS", &e.to_string()))?;
        let is_heard = |function: &&FunctionId| channels.contains(&self.keys.notice_channel(Notice::Health, function));
        Ok(functions.iter().filter(is_heard).cloned().collect())
    }

    /// The result document of a call that has ended, as bytes. None if it has not, or if its result has expired.
    ///
    /// # Errors
    /// Any [`BrokerError`].
    pub async fn result(
        &self,
        function: &FunctionId,
        id: &baton_model::CallId,
    ) -> Result<Option<Vec<u8>>, BrokerError> {
        match self.link.run(cmd("GET").arg(self.keys.result(function, id))).await? {
            Value::Nil => Ok(None),
            Value::BulkString(document) => Ok(Some(document)),
            other => Err(BrokerError::shape("GET", &other)),
        }
    }

    /// The calls of `function` in the stream of this level that are pending for `host` and that `in_flight` does not know.
    pub(crate) async fn pending_of(
        &self,
        host: &HostId,
        function: &FunctionId,
        level: Priority,
        in_flight: impl Fn(&FunctionId, EntryId) -> bool,
    ) -> Result<Vec<Incoming>, BrokerError> {
        self.know_seal().await?;
        let stream = self.keys.calls_at(function, level);
        let mut found = Vec::new();
        let mut from = "-".to_owned();
        loop {
            let look = cmd("XPENDING")
                .arg(&stream)
                .arg(self.keys.group())
                .arg(&from)
                .arg("+")
                .arg(PAGE)
                .arg(host.as_str())
                .to_owned();
            let page: Vec<(String, String, i64, i64)> = match redis::from_redis_value(self.link.run(&look).await?) {
                Ok(page) => page,
                Err(error) => return Err(BrokerError::shape("XPENDING", &error.to_string())),
            };
            let Some((last, ..)) = page.last() else { return Ok(found) };
            from = format!("({last}");
            let full = page.len() == PAGE;
            let ids = page.iter().filter_map(|(id, ..)| EntryId::parse(id)).map(|id| id.of_level(level));
            for id in ids.filter(|id| !in_flight(function, *id)) {
                let Some(incoming) = self.entry(function, &stream, id).await? else { continue };
                if self.take_up(host, function, incoming.lease()).await? {
                    found.push(incoming);
                }
            }
            if !full {
                return Ok(found);
            }
        }
    }

    /// Renews a lease before its call is begun: the entry may be about to lapse, for nobody has kept it, and may have been
    /// claimed since it was listed. False if it is another's by now.
    async fn take_up(&self, host: &HostId, function: &FunctionId, lease: Lease) -> Result<bool, BrokerError> {
        let mut call = self.renew.call(2);
        let level = lease.entry.level();
        call.arg(self.keys.calls_at(function, level)).arg(self.keys.claims_at(function, level));
        call.arg(self.keys.group()).arg(host.as_str()).arg(lease.entry.in_stream()).arg(lease.claims);
        match self.renew.run(&self.link, &call).await? {
            Value::Array(answer) => Ok(answer == [Value::Int(1)]),
            other => Err(BrokerError::shape("renew.lua", &other)),
        }
    }

    async fn entry(&self, function: &FunctionId, stream: &str, id: EntryId) -> Result<Option<Incoming>, BrokerError> {
        let (claims, level, name) = (self.keys.claims_at(function, id.level()), id.level(), id.in_stream());
        let mut look = redis::pipe();
        look.cmd("XRANGE").arg(stream).arg(&name).arg(&name);
        look.cmd("HGET").arg(&claims).arg(&name);
        let (entry, claimed) = match <[Value; 2]>::try_from(self.link.run_all(&look).await?) {
            Ok([Value::Array(mut entries), claimed]) => (entries.pop(), claimed),
            other => return Err(BrokerError::shape("XRANGE", &other)),
        };
        let claimed: Option<u32> = redis::from_redis_value(claimed).unwrap_or(None);
        match entry {
            Some(entry) => parse_entry(function, level, entry, claimed.unwrap_or(0), None, self.rules.of(function)),
            None => {
                // Somebody deleted the entry while it was pending. There is no call any more.
                let mut forget = redis::pipe();
                forget.cmd("XACK").arg(stream).arg(self.keys.group()).arg(&name);
                forget.cmd("HDEL").arg(&claims).arg(&name);
                self.link.run_all(&forget).await?;
                Ok(None)
            }
        }
    }
}

fn promoted(answer: Value) -> Promoted {
    match answer.extract_error()? {
        Value::Array(parts) => match parts[..] {
            [Value::Int(_), Value::Int(next)] => Ok(wait(next)),
            _ => Err(BrokerError::shape("promote.lua", &parts)),
        },
        other => Err(BrokerError::shape("promote.lua", &other)),
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn wait(ms: i64) -> Option<Duration> {
    u64::try_from(ms).ok().map(Duration::from_millis)
}
