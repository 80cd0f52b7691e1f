//! What other hosts left: entries of those that are gone, and those whose leases have lapsed.

use std::time::Duration;

use baton_model::{FunctionId, HostId, Priority};
use redis::Value;

use super::{Queue, millis, wait};
use crate::BrokerError;
use crate::levels::Levels;
use crate::reader::{Incoming, parse_entry};

/// What a sweep of one function found.
#[derive(Debug, Default)]
pub struct Swept {
    /// The entries that are this host's from now on.
    pub claimed: Vec<Incoming>,
    /// What is left to wait for.
    pub backlog: Backlog,
    /// Hosts that hold lapsed entries and were not cut off: nothing was claimed from them.
    pub whole: Vec<String>,
    /// How many entries of gone hosts are this host's share, and had no room.
    pub mine_left: usize,
    /// How many entries of gone hosts are left to other hosts.
    pub others_left: usize,
    /// Which call streams the function has; all of them were looked at.
    pub levels: Levels,
}

/// What a sweep goes by.
#[derive(Debug, Clone, Copy)]
pub struct SweepPlan<'a> {
    /// The hosts that are known to live, with their own leases: another setting there is no reason to take theirs.
    pub live: &'a [(HostId, Duration)],
    /// Hosts that are gone, connections and all: their entries are claimed whatever their leases.
    pub gone: &'a [HostId],
    /// Hosts that were cut off by [`crate::Presence::cut_off`]: their entries are claimed when their leases have lapsed.
    pub cut: &'a [String],
    /// Among how many hosts the entries of gone hosts are shared out, and which of them this host is, from 0 on.
    pub share: (usize, usize),
    /// How many entries may be claimed.
    pub room: usize,
    /// Which call streams the function is known to have: what was left there is claimed from the highest level on.
    pub levels: Levels,
}

/// What a function's keys hold that will want attention later.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Backlog {
    /// When the next lease of another host can lapse; none if no other host holds any.
    pub next_lapse: Option<Duration>,
    /// When the first delayed call is due; none if none waits.
    pub next_due: Option<Duration>,
}

impl Backlog {
    /// What is to be attended to of both.
    fn and(self, other: Self) -> Self {
        let sooner = |a: Option<Duration>, b: Option<Duration>| a.into_iter().chain(b).min();
        Self { next_lapse: sooner(self.next_lapse, other.next_lapse), next_due: sooner(self.next_due, other.next_due) }
    }
}

impl Swept {
    /// With what was found in another stream of the function.
    fn add(&mut self, other: Self) {
        let Self { claimed, backlog, whole, mine_left, others_left, levels: _ } = other;
        self.claimed.extend(claimed);
        self.backlog = self.backlog.and(backlog);
        self.whole.extend(whole);
        self.mine_left += mine_left;
        self.others_left += others_left;
    }
}

impl Queue {
    /// Claims, for `host`, entries of `function` that nobody works on any more; deletes empty consumers of hosts that
    /// are gone, or that are not known to live.
    ///
    /// # Errors
    /// Any [`BrokerError`]. Entries may have been claimed all the same, by an answer that was lost: the caller has to
    /// have [`crate::Reader::recover`] look for them.
    pub async fn sweep(&self, host: &HostId, function: &FunctionId, plan: SweepPlan<'_>) -> Result<Swept, BrokerError> {
        self.know_seal().await?;
        let mut all = Swept { levels: plan.levels, ..Swept::default() };
        let above: Vec<Priority> = plan.levels.all().take_while(|level| !level.is_normal()).collect();
        for level in above.iter().chain([&Priority::Normal]) {
            self.sweep_beside(host, function, *level, plan, &mut all).await?;
        }
        for level in all.levels.others().filter(|level| !above.contains(level)) {
            self.sweep_beside(host, function, level, plan, &mut all).await?;
        }
        Ok(all)
    }

    /// Looks at one of the call streams after others.
    async fn sweep_beside(
        &self,
        host: &HostId,
        function: &FunctionId,
        level: Priority,
        plan: SweepPlan<'_>,
        all: &mut Swept,
    ) -> Result<(), BrokerError> {
        let room = plan.room.saturating_sub(all.claimed.len());
        match self.sweep_level(host, function, level, SweepPlan { room, ..plan }).await {
            Ok(swept) => {
                if level.is_normal() {
                    all.levels = swept.levels;
                }
                all.add(swept);
            }
            Err(error @ (BrokerError::Refused(_) | BrokerError::NoGroup(_)))
                if !level.is_normal() || !all.claimed.is_empty() =>
            {
                // The fault lies with this stream. What was claimed of the others is to be worked on.
                tracing::warn!(%function, priority = %level, %error, "what other hosts left of these calls cannot be seen");
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Looks at one of the call streams.
    async fn sweep_level(
        &self,
        host: &HostId,
        function: &FunctionId,
        level: Priority,
        plan: SweepPlan<'_>,
    ) -> Result<Swept, BrokerError> {
        let SweepPlan { live, gone, cut, share: (shares, share), room, levels: _ } = plan;
        let mut call = self.sweep.call(4);
        call.arg(self.keys.calls_at(function, level)).arg(self.keys.claims_at(function, level));
        call.arg(self.keys.delayed(function)).arg(self.keys.timers(function));
        call.arg(self.keys.group()).arg(host.as_str()).arg(millis(self.lease)).arg(room);
        call.arg(shares.max(1)).arg(share).arg(gone.len()).arg(cut.len());
        let names = gone.iter().map(HostId::as_str).chain(cut.iter().map(String::as_str));
        names.for_each(|host| {
            call.arg(host);
        });
        for (host, lease) in live {
            call.arg(host.as_str()).arg(millis(*lease));
        }
        let answer = self.sweep.run(&self.link, &call).await?;
        let Value::Array(parts) = answer else { return Err(BrokerError::shape("sweep.lua", &answer)) };
        let (next_lapse, next_due, taken, whole, mine_left, others_left, levels) = match <[Value; 7]>::try_from(parts) {
            Ok(
                [
                    Value::Int(lapse),
                    Value::Int(due),
                    Value::Array(taken),
                    Value::Array(whole),
                    Value::Int(mine),
                    Value::Int(others),
                    Value::Int(levels),
                ],
            ) => (lapse, due, taken, whole, mine, others, levels),
            other => return Err(BrokerError::shape("sweep.lua", &other)),
        };
        // A consumer need not be a host of ours; whatever its name, its entries are not to be left for ever.
        let whole = whole.into_iter().filter_map(|name| match name {
            Value::BulkString(name) => String::from_utf8(name).ok(),
            _ => None,
        });
        let whole = whole.collect();
        let mut claimed = Vec::with_capacity(taken.len());
        for entry in taken {
            claimed.extend(self.claimed(function, level, entry)?);
        }
        Ok(Swept {
            claimed,
            backlog: Backlog { next_lapse: wait(next_lapse), next_due: wait(next_due) },
            whole,
            mine_left: usize::try_from(mine_left).unwrap_or(0),
            others_left: usize::try_from(others_left).unwrap_or(0),
            levels: Levels::of_number(levels),
        })
    }

    fn claimed(&self, function: &FunctionId, level: Priority, entry: Value) -> Result<Option<Incoming>, BrokerError> {
        let parts = match entry {
            Value::Array(parts) => <[Value; 3]>::try_from(parts),
            other => return Err(BrokerError::shape("sweep.lua", &other)),
        };
        match parts {
            Ok([id, Value::Int(claims), fields]) => {
                let claims = u32::try_from(claims).unwrap_or(u32::MAX);
                parse_entry(function, level, Value::Array(vec![id, fields]), claims, None, self.rules.of(function))
            }
            other => Err(BrokerError::shape("sweep.lua", &other)),
        }
    }
}
