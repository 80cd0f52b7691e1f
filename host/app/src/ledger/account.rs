//! One account: what a tenant or a function has of this host, and what its quotas leave it.

use std::time::{Duration, Instant};

use baton_model::{Quota, Quotas};

use super::bucket::Bucket;

/// What holds a call back: a closed set of words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Held {
    /// All seats that its tenant may have are taken.
    Seats,
    /// As many attempts run as may.
    Concurrency,
    /// As many attempts began as may in this time.
    Rate,
    /// As much CPU time was used as may be in this time.
    Cpu,
}

impl Held {
    pub(crate) const ALL: [Self; 4] = [Self::Seats, Self::Concurrency, Self::Rate, Self::Cpu];

    /// The quota; none if it is the share of the tenant.
    pub(crate) fn quota(self) -> Option<Quota> {
        match self {
            Self::Seats => None,
            Self::Concurrency => Some(Quota::Concurrency),
            Self::Rate => Some(Quota::CallsPerSecond),
            Self::Cpu => Some(Quota::CpuMsPerSecond),
        }
    }

    /// As it stands in manifests and labels.
    pub(crate) fn as_str(self) -> &'static str {
        self.quota().map_or("seats", Quota::as_str)
    }
}

/// How many calls may begin now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Room {
    /// So many.
    pub(crate) calls: u32,
    /// What holds the others back, if none may.
    pub(crate) held: Option<Held>,
    /// How long it takes until that is over, if time alone ends it; none if an attempt has to end.
    pub(crate) wait: Option<Duration>,
}

impl Room {
    const OPEN: Self = Self { calls: u32::MAX, held: None, wait: None };

    fn of(held: Held, calls: u32, wait: impl FnOnce() -> Option<Duration>) -> Self {
        if calls > 0 {
            return Self { calls, ..Self::OPEN };
        }
        Self { calls, held: Some(held), wait: wait() }
    }

    /// What two accounts leave together.
    pub(crate) fn and(self, other: Self) -> Self {
        match (self.calls, other.calls) {
            // Both are waited for. What an attempt has to end is not over with time.
            (0, 0) if self.wait < other.wait && self.wait.is_some() => other,
            (0, 0) if other.wait.is_none() => other,
            (one, two) if one <= two => self,
            (_, _) => other,
        }
    }
}

/// The account. One without quotas only counts.
#[derive(Default)]
pub(super) struct Account {
    in_use: u32,
    /// Attempts that had left and mean to go on.
    returning: u32,
    concurrency_max: Option<u32>,
    calls: Option<Bucket>,
    /// In microseconds.
    cpu: Option<Bucket>,
    /// How much CPU time an attempt usually uses, in µs: a moving average over about eight. Zero until one has ended.
    usual_us: u32,
}

impl Account {
    /// Takes quotas in. What was used counts on.
    pub(super) fn set(&mut self, quotas: &Quotas, now: Instant) {
        self.concurrency_max = quotas.concurrency_max;
        set(&mut self.calls, quotas.calls_per_second, now);
        set(&mut self.cpu, quotas.cpu_ms_per_second.map(|ms| ms.saturating_mul(1000)), now);
    }

    /// Whether anything limits what begins here. How much may wait is no matter of a host.
    pub(super) fn has_quota(&self) -> bool {
        self.concurrency_max.is_some() || self.calls.is_some() || self.cpu.is_some()
    }

    pub(super) fn in_use(&self) -> u32 {
        self.in_use
    }

    /// With those that mean to go on: they come before others.
    pub(super) fn claimed(&self) -> u32 {
        self.in_use.saturating_add(self.returning)
    }

    pub(super) fn seats_max(&self) -> Option<u32> {
        self.concurrency_max
    }

    pub(super) fn pays_cpu(&self) -> bool {
        self.cpu.is_some()
    }

    /// How many calls may begin now.
    pub(super) fn room(&mut self, now: Instant) -> Room {
        let mut room = Room::OPEN;
        if let Some(max) = self.concurrency_max {
            room = room.and(Room::of(Held::Concurrency, max.saturating_sub(self.claimed()), || None));
        }
        if let Some(calls) = &mut self.calls {
            room = room.and(Room::of(Held::Rate, calls.whole(now), || Some(calls.wait(now))));
        }
        if let Some(cpu) = &mut self.cpu {
            room = room.and(match cpu.whole(now) {
                0 => Room::of(Held::Cpu, 0, || Some(cpu.wait(now))),
                // Of attempts whose cost is not known one may go, and of the others as many as there is time for.
                left => {
                    let fit = left.checked_div(self.usual_us).unwrap_or(1).max(1);
                    Room::of(Held::Cpu, fit.saturating_sub(self.in_use), || None)
                }
            });
        }
        room
    }

    /// An attempt begins.
    pub(super) fn enter(&mut self, now: Instant) {
        self.in_use = self.in_use.saturating_add(1);
        if let Some(calls) = &mut self.calls {
            calls.charge(1, now);
        }
    }

    /// What has begun was no attempt: it is not to count as one. It leaves in any case.
    pub(super) fn repay(&mut self, now: Instant) {
        if let Some(calls) = &mut self.calls {
            calls.give_back(1, now);
        }
    }

    /// An attempt means to go on that had left.
    pub(super) fn begin_return(&mut self) {
        self.returning = self.returning.saturating_add(1);
    }

    /// Whether one of them may go on now. What it costs to begin it has paid.
    pub(super) fn may_return(&self) -> bool {
        self.concurrency_max.is_none_or(|max| self.in_use < max)
    }

    /// One of them goes on, or has given up.
    pub(super) fn end_return(&mut self, goes_on: bool) {
        self.returning = self.returning.saturating_sub(1);
        self.in_use = self.in_use.saturating_add(u32::from(goes_on));
    }

    /// An attempt has ended, or waits for a call of its own.
    pub(super) fn leave(&mut self) {
        self.in_use = self.in_use.saturating_sub(1);
    }

    /// An attempt that runs has used this much CPU time.
    pub(super) fn charge_cpu(&mut self, used: Duration, now: Instant) {
        if let Some(cpu) = &mut self.cpu {
            cpu.charge(u32::try_from(used.as_micros()).unwrap_or(u32::MAX), now);
        }
    }

    /// An attempt that has ended used this much CPU time in all.
    pub(super) fn used_cpu(&mut self, used: Duration) {
        let us = u32::try_from(used.as_micros()).unwrap_or(u32::MAX).max(1);
        self.usual_us = if self.usual_us == 0 { us } else { self.usual_us - self.usual_us / 8 + us / 8 };
    }
}

fn set(bucket: &mut Option<Bucket>, per_second: Option<u32>, now: Instant) {
    match (bucket.as_mut(), per_second) {
        (_, None) => *bucket = None,
        (None, Some(rate)) => *bucket = Some(Bucket::new(rate, now)),
        (Some(bucket), Some(rate)) => bucket.set(rate, now),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_quota_that_leaves_least_binds_and_says_when() {
        let now = Instant::now();
        let mut account = Account::default();
        assert_eq!(account.room(now), Room::OPEN);
        let quotas = Quotas { concurrency_max: Some(3), calls_per_second: Some(2), ..Quotas::default() };
        account.set(&quotas, now);
        assert_eq!(account.room(now).calls, 2);
        account.enter(now);
        account.enter(now);
        let half = Duration::from_millis(500);
        assert_eq!(account.room(now), Room { calls: 0, held: Some(Held::Rate), wait: Some(half) });
        account.enter(now);
        assert_eq!(account.room(now), Room { calls: 0, held: Some(Held::Concurrency), wait: None }, "it has to end");
        account.leave();
        assert_eq!(account.room(now).wait, Some(Duration::from_secs(1)), "what began too much is waited for");
        account.repay(now);
        account.leave();
        assert_eq!(account.room(now).wait, Some(half), "unless it was no attempt");
        (0..3).for_each(|_| account.repay(now));
        account.leave();
        assert_eq!(account.room(now).calls, 2, "nobody is given more than there was");
    }

    #[test]
    fn cpu_time_is_given_out_as_attempts_usually_use_it() {
        let now = Instant::now();
        let mut account = Account::default();
        account.set(&Quotas { cpu_ms_per_second: Some(100), ..Quotas::default() }, now);
        assert_eq!(account.room(now).calls, 1, "what it costs is not known yet");
        account.enter(now);
        assert_eq!(account.room(now).held, Some(Held::Cpu));
        account.charge_cpu(Duration::from_millis(20), now);
        account.used_cpu(Duration::from_millis(20));
        account.leave();
        assert_eq!(account.room(now).calls, 4, "80 ms are left");
        account.charge_cpu(Duration::from_millis(180), now);
        assert_eq!(account.room(now).held, Some(Held::Cpu));
        assert_eq!(account.room(now + Duration::from_millis(990)).calls, 0, "a debt of 100 ms is a second");
        assert_eq!(account.room(now + Duration::from_millis(1100)).calls, 1);
    }
}
