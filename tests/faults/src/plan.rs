//! How large a run is.

use std::time::Duration;

use crate::schedule::Fault;

/// A run, before anything of it is decided by chance.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// What decides everything else.
    pub seed: u64,
    /// How many calls are made, further submissions of the same call not counted.
    pub calls: usize,
    /// How long faults come; the calls are spread over it.
    pub lasts: Duration,
    /// How many hosts run functions.
    pub hosts: usize,
    /// The mean pause between two faults.
    pub fault_every: Duration,
    /// The lease of the hosts: far shorter than the usual one, so that leases lapse within a run.
    pub lease: Duration,
    /// How long a host may drain.
    pub drain: Duration,
    /// The longest that an attempt takes of its own.
    pub work_max: Duration,
    /// What Redis does about its disk.
    pub durability: Durability,
    /// How much longer each fsync takes all the time.
    pub disk_ms: i64,
    /// The only faults that are played, if there is a choice.
    pub only: Vec<Fault>,
    /// Whether the last host is spared its death, and looked at for growth.
    pub soaks: bool,
}

/// How Redis keeps what it has acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// `appendfsync always`: nothing that was acknowledged is lost.
    Always,
    /// `appendfsync everysec`: the counter-example with a disk.
    EverySecond,
    /// No append-only file: the counter-example without one.
    Nothing,
}

impl Durability {
    /// Its settings in redis.conf.
    #[must_use]
    pub fn settings(self) -> [(&'static str, &'static str); 2] {
        match self {
            Self::Always => [("appendonly", "yes"), ("appendfsync", "always")],
            Self::EverySecond => [("appendonly", "yes"), ("appendfsync", "everysec")],
            Self::Nothing => [("appendonly", "no"), ("appendfsync", "no")],
        }
    }

    /// Its name in reports.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Always => "always",
            Self::EverySecond => "everysec",
            Self::Nothing => "none",
        }
    }
}

impl Plan {
    /// Ten thousand calls in ten minutes.
    #[must_use]
    pub fn usual(seed: u64) -> Self {
        Self {
            seed,
            calls: 10_000,
            lasts: Duration::from_secs(540),
            hosts: 4,
            fault_every: Duration::from_millis(1_800),
            lease: Duration::from_secs(4),
            drain: Duration::from_secs(12),
            work_max: Duration::from_secs(6),
            durability: Durability::Always,
            disk_ms: 0,
            only: Vec::new(),
            soaks: false,
        }
    }

    /// What `make test` has time for, with every kind of fault in it.
    #[must_use]
    pub fn short(seed: u64) -> Self {
        Self {
            calls: 2_000,
            lasts: Duration::from_secs(70),
            hosts: 3,
            fault_every: Duration::from_millis(1_600),
            ..Self::usual(seed)
        }
    }

    /// A hundred thousand calls in an hour and a half.
    #[must_use]
    pub fn full(seed: u64) -> Self {
        Self { calls: 100_000, lasts: Duration::from_secs(5_400), soaks: true, ..Self::usual(seed) }
    }

    /// Redis dies again and again with a disk that cannot follow: what weaker settings lose.
    #[must_use]
    pub fn counter_example(seed: u64, durability: Durability) -> Self {
        Self {
            calls: 4_000,
            lasts: Duration::from_secs(40),
            hosts: 2,
            fault_every: Duration::from_millis(4_000),
            durability,
            disk_ms: 3_000,
            only: vec![Fault::KillRedis],
            ..Self::usual(seed)
        }
    }

    /// How long the world is left alone now and then: longer than a call may be late.
    #[must_use]
    pub fn rest(&self) -> Duration {
        self.lease * 2 + Duration::from_secs(6)
    }

    /// Whether this fault is played at all.
    #[must_use]
    pub fn plays(&self, fault: Fault) -> bool {
        self.only.is_empty() || self.only.contains(&fault)
    }
}
