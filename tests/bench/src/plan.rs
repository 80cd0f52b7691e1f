//! How long everything takes: the two sizes of a run. No figure of a goal is here.

use std::time::Duration;

use clap::ValueEnum;

/// A part of the benchmark.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Section {
    /// A call inside the process
    Cost,
    /// The message path, bare and with the host
    Paths,
    /// Calls over HTTP
    Gateway,
    /// A new build, cold and warm
    Reload,
    /// New builds under load
    Swaps,
    /// Hosts that are killed, and hosts that are replaced, under load
    Fleet,
    /// Functions that are loaded and not called
    Loaded,
    /// Tenants that share a host, with backlogs
    Fair,
    /// Calls that wait for their time
    Delayed,
    /// Executions that take steps, wait for events, are replayed, and sleep
    Durable,
    /// SIGTERM, wake-up, and what an idle host says to Redis
    Stop,
}

impl Section {
    /// All, in the order in which they run.
    pub(crate) const ALL: [Self; 11] = [
        Self::Cost,
        Self::Paths,
        Self::Gateway,
        Self::Reload,
        Self::Swaps,
        Self::Fleet,
        Self::Loaded,
        Self::Fair,
        Self::Delayed,
        Self::Durable,
        Self::Stop,
    ];

    /// As it is written in arguments and JSON.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Cost => "cost",
            Self::Paths => "paths",
            Self::Gateway => "gateway",
            Self::Reload => "reload",
            Self::Swaps => "swaps",
            Self::Fleet => "fleet",
            Self::Loaded => "loaded",
            Self::Fair => "fair",
            Self::Delayed => "delayed",
            Self::Durable => "durable",
            Self::Stop => "stop",
        }
    }
}

/// How often and how long each part measures.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    /// `full` or `quick`.
    pub(crate) name: &'static str,
    /// Batches of calls in process.
    pub(crate) cost_batches: usize,
    /// Calls in each of them.
    pub(crate) cost_calls: u32,
    /// Rounds of the message path; the variants take turns in each.
    pub(crate) rounds: usize,
    /// What comes before each measured window.
    pub(crate) warm_up: Duration,
    /// Each measured window.
    pub(crate) window: Duration,
    /// New builds of each kind.
    pub(crate) reloads: u32,
    /// Replacements under load.
    pub(crate) swaps: u32,
    /// How long the load with replacements lasts.
    pub(crate) swaps_last: Duration,
    /// How long the load without them lasts, once before and once after.
    pub(crate) swaps_baseline: Duration,
    /// Hosts that are killed under load.
    pub(crate) kills: u32,
    /// The time between two of them.
    pub(crate) kills_every: Duration,
    /// How long the load around a rolling restart lasts, which begins after a third of it.
    pub(crate) restart_lasts: Duration,
    /// How long each look at HTTP lasts; `wrk` knows whole seconds.
    pub(crate) http_seconds: u64,
    /// How long one tenant calls before it is measured.
    pub(crate) fair_warm_up: Duration,
    /// How long it calls alone, and how long at the most beside a backlog.
    pub(crate) fair_lasts: Duration,
    /// How often [`crate::durable`] begins as many executions as take steps at once.
    pub(crate) durable_waves: usize,
    /// Events that are reacted to, one after another.
    pub(crate) durable_reactions: usize,
    /// Executions that sleep.
    pub(crate) durable_sleepers: usize,
    /// Ends of an idle host.
    pub(crate) stops: usize,
    /// Wake-ups of a reader.
    pub(crate) wakes: usize,
    /// How long an idle host is listened to.
    pub(crate) idle: Duration,
}

impl Plan {
    /// About eight minutes.
    pub(crate) fn full() -> Self {
        Self {
            name: "full",
            cost_batches: 40,
            cost_calls: 500,
            rounds: 3,
            warm_up: Duration::from_millis(300),
            window: Duration::from_millis(1_500),
            reloads: 10,
            swaps: 200,
            swaps_last: Duration::from_secs(60),
            swaps_baseline: Duration::from_secs(6),
            kills: 12,
            kills_every: Duration::from_secs(5),
            restart_lasts: Duration::from_secs(15),
            http_seconds: 3,
            fair_warm_up: Duration::from_millis(500),
            fair_lasts: Duration::from_secs(6),
            durable_waves: 8,
            durable_reactions: 500,
            durable_sleepers: 100_000,
            stops: 10,
            wakes: 200,
            idle: Duration::from_secs(30),
        }
    }

    /// About three minutes.
    pub(crate) fn quick() -> Self {
        Self {
            name: "quick",
            cost_batches: 12,
            cost_calls: 250,
            rounds: 2,
            warm_up: Duration::from_millis(150),
            window: Duration::from_millis(600),
            reloads: 4,
            swaps: 20,
            swaps_last: Duration::from_secs(6),
            swaps_baseline: Duration::from_secs(2),
            kills: 3,
            kills_every: Duration::from_secs(3),
            restart_lasts: Duration::from_secs(6),
            http_seconds: 1,
            fair_warm_up: Duration::from_millis(200),
            fair_lasts: Duration::from_secs(2),
            durable_waves: 2,
            durable_reactions: 100,
            durable_sleepers: 5_000,
            stops: 5,
            wakes: 50,
            idle: Duration::from_secs(10),
        }
    }

    /// How many steps a part's progress has.
    pub(crate) fn steps(&self, section: Section) -> u64 {
        let steps = match section {
            Section::Cost => 2 * 2,
            Section::Paths => self.rounds * crate::paths::VARIANTS.len() * crate::paths::IN_FLIGHT.len(),
            Section::Gateway => self.rounds * crate::gateway::VARIANTS.len(),
            Section::Reload => 2 * (1 + 2 * self.reloads as usize),
            Section::Swaps => self.swaps as usize + 3,
            Section::Fleet => self.kills as usize + crate::fleet::HOSTS + 2,
            Section::Loaded => (self.rounds + 1) * crate::loaded::LOADED.len(),
            Section::Fair => (self.rounds + 1) * crate::fair::WORKS.len(),
            Section::Delayed => crate::delayed::steps(self),
            Section::Durable => crate::durable::steps(self),
            Section::Stop => self.stops + 2,
        };
        steps as u64
    }
}
