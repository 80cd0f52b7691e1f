//! Which fault comes when: decided by the seed alone, before anything runs.

use std::time::Duration;

use serde_json::{Value, json};

use crate::chance::Chance;
use crate::plan::Plan;

/// What is done to the world. Durations and amounts stand in [`Event`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// `kill -9` of a host; another is started in its place.
    KillHost,
    /// SIGSTOP, and SIGCONT later: shorter than a lease, or longer.
    FreezeHost,
    /// SIGTERM; another is started in its place.
    StopHost,
    /// The connection by which a host is handed calls is closed by Redis.
    KillReader,
    /// That by which it settles.
    KillSettler,
    /// That by which its peers see it.
    KillPresence,
    /// All that have no name: commands, and the renewal of leases.
    KillNameless,
    /// Every connection of a host is reset, and so are new ones.
    CutLink,
    /// Nothing passes either way, and sockets stay open.
    HalfOpenLink,
    /// What a host says to Redis is carried out, and the answers are lost.
    DropReplies,
    /// Nothing passes, and everything comes late: what a host said before it was overtaken arrives after it.
    HoldLink,
    /// Every chunk takes its time.
    SlowLink,
    /// `kill -9` of Redis, and a start on the same append-only file.
    KillRedis,
    /// SIGSTOP of Redis.
    FreezeRedis,
    /// Every fsync takes longer.
    SlowDisk,
    /// The disk of the append-only file takes no more; Redis gives up, and is started when there is room.
    FullDisk,
    /// Redis has no memory for more.
    FullMemory,
    /// The wall clock of Redis jumps.
    JumpClock,
    /// The wall clock of a host jumps, which must not matter to anybody.
    JumpHostClock,
    /// Another build of the functions is put into the folders.
    Reload,
    /// Something that is no function takes the place of one for a while.
    BadFile,
    /// Everything in Redis is gone.
    FlushAll,
}

impl Fault {
    /// Its name in histories and reports.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::KillHost => "kill-host",
            Self::FreezeHost => "freeze-host",
            Self::StopHost => "stop-host",
            Self::KillReader => "kill-reader",
            Self::KillSettler => "kill-settler",
            Self::KillPresence => "kill-presence",
            Self::KillNameless => "kill-nameless",
            Self::CutLink => "cut-link",
            Self::HalfOpenLink => "half-open-link",
            Self::DropReplies => "drop-replies",
            Self::HoldLink => "hold-link",
            Self::SlowLink => "slow-link",
            Self::KillRedis => "kill-redis",
            Self::FreezeRedis => "freeze-redis",
            Self::SlowDisk => "slow-disk",
            Self::FullDisk => "full-disk",
            Self::FullMemory => "full-memory",
            Self::JumpClock => "jump-clock",
            Self::JumpHostClock => "jump-host-clock",
            Self::Reload => "reload",
            Self::BadFile => "bad-file",
            Self::FlushAll => "flush-all",
        }
    }

    /// The fault of this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::DECK.into_iter().chain([Self::FlushAll]).find(|fault| fault.name() == name)
    }

    /// What is dealt out again and again: each as often as it stands here. `FlushAll` comes once in a run, for what is
    /// promised ends there and begins anew.
    const DECK: [Self; 28] = [
        Self::KillHost,
        Self::KillHost,
        Self::KillHost,
        Self::KillHost,
        Self::FreezeHost,
        Self::FreezeHost,
        Self::StopHost,
        Self::StopHost,
        Self::KillReader,
        Self::KillSettler,
        Self::KillPresence,
        Self::KillNameless,
        Self::CutLink,
        Self::HalfOpenLink,
        Self::DropReplies,
        Self::DropReplies,
        Self::HoldLink,
        Self::SlowLink,
        Self::KillRedis,
        Self::FreezeRedis,
        Self::SlowDisk,
        Self::FullDisk,
        Self::FullMemory,
        Self::JumpClock,
        Self::JumpHostClock,
        Self::Reload,
        Self::Reload,
        Self::BadFile,
    ];

    /// How long it lasts, and an amount, whose meaning is the fault's own.
    fn measure(self, chance: &mut Chance, lease: Duration) -> (u64, i64) {
        let lease_ms = u64::try_from(lease.as_millis()).expect("a lease is short");
        let any = |amount: u64| i64::try_from(amount).expect("amounts are small");
        match self {
            Self::KillHost | Self::StopHost => (chance.between(100, 1_500), 0),
            // Every second one outlasts its lease.
            Self::FreezeHost | Self::HalfOpenLink | Self::HoldLink => {
                let longest = if chance.percent(50) { lease_ms * 2 } else { lease_ms * 3 / 4 };
                (chance.between(longest / 3, longest), 0)
            }
            Self::KillReader | Self::KillSettler | Self::KillPresence | Self::KillNameless | Self::FlushAll => (0, 0),
            Self::CutLink | Self::DropReplies => (chance.between(100, 3_000), 0),
            Self::SlowLink => (chance.between(1_000, 4_000), any(chance.between(5, 60))),
            Self::KillRedis => (chance.between(50, 2_500), 0),
            Self::FreezeRedis => (chance.between(200, 3_500), 0),
            Self::SlowDisk => (chance.between(1_000, 4_000), any(chance.between(20, 300))),
            Self::FullDisk => (chance.between(100, 1_000), 0),
            Self::FullMemory => (chance.between(500, 2_500), 0),
            // Forward by more than a lease, or a little back. Ahead it stays: time goes on from there.
            Self::JumpClock | Self::JumpHostClock => {
                let back = chance.percent(30);
                (0, if back { -any(chance.between(500, 4_000)) } else { any(chance.between(lease_ms, 120_000)) })
            }
            Self::Reload => (0, any(chance.between(0, 4))),
            Self::BadFile => (chance.between(1_000, 3_000), any(chance.between(0, 4))),
        }
    }
}

/// One fault, when it is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Event {
    /// From the beginning of the run on.
    pub at: Duration,
    /// What.
    pub fault: Fault,
    /// Which host, if it is about one; if that is not there just then, the next one that is.
    pub slot: usize,
    /// For how long.
    pub lasts: Duration,
    /// How much, in the fault's own unit: milliseconds, or which of several ways.
    pub amount: i64,
}

impl Event {
    /// As it stands in the history.
    #[must_use]
    pub fn json(&self) -> Value {
        json!({"at_ms": self.at.as_millis() as u64, "fault": self.fault.name(), "slot": self.slot,
               "lasts_ms": self.lasts.as_millis() as u64, "amount": self.amount})
    }
}

/// All faults of a run, in order.
#[must_use]
pub fn faults(plan: &Plan) -> Vec<Event> {
    let mut chance = Chance::of(plan.seed, 1);
    let every_ms = u64::try_from(plan.fault_every.as_millis()).expect("a pause is short");
    let mut events = Vec::new();
    let mut deck: Vec<Fault> = Vec::new();
    let mut at = Duration::from_millis(every_ms);
    while at < plan.lasts {
        // Now and then the world is left alone for long enough that a call which is late shows.
        if !events.is_empty() && events.len() % Fault::DECK.len() == 0 {
            at += plan.rest();
        }
        if deck.is_empty() {
            deck = Fault::DECK.into_iter().filter(|fault| plan.plays(*fault)).collect();
            chance.shuffle(&mut deck);
        }
        let Some(fault) = deck.pop() else { break };
        events.push(event(fault, at, plan, &mut chance));
        at += Duration::from_millis(chance.between(every_ms / 2, every_ms * 3 / 2));
    }
    if plan.plays(Fault::FlushAll) {
        // Before the last third, so that what comes after it is seen too.
        let at = plan.lasts.mul_f64(0.4) + Duration::from_millis(chance.between(0, every_ms * 4));
        events.push(event(Fault::FlushAll, at, plan, &mut chance));
        events.sort_by_key(|event| event.at);
    }
    events
}

fn event(fault: Fault, at: Duration, plan: &Plan, chance: &mut Chance) -> Event {
    let (lasts_ms, amount) = fault.measure(chance, plan.lease);
    let slot = usize::try_from(chance.between(0, plan.hosts as u64)).expect("there are few hosts");
    Event { at, fault, slot, lasts: Duration::from_millis(lasts_ms), amount }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn a_seed_gives_one_schedule_and_another_seed_another() {
        assert_eq!(faults(&Plan::short(5)), faults(&Plan::short(5)));
        assert_ne!(faults(&Plan::short(5)), faults(&Plan::short(6)));
    }

    #[test]
    fn every_kind_of_fault_comes_in_every_tier() {
        let all: BTreeSet<Fault> = Fault::DECK.into_iter().chain([Fault::FlushAll]).collect();
        for plan in (0..20).flat_map(|seed| [Plan::short(seed), Plan::usual(seed)]) {
            let played: BTreeSet<Fault> = faults(&plan).iter().map(|event| event.fault).collect();
            assert_eq!(played, all, "seed {}", plan.seed);
        }
    }
}
