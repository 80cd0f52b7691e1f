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
    /// A new build, cold and warm
    Reload,
    /// New builds under load
    Swaps,
    /// SIGTERM, wake-up, and what an idle host says to Redis
    Stop,
}

impl Section {
    /// All, in the order in which they run.
    pub(crate) const ALL: [Self; 5] = [Self::Cost, Self::Paths, Self::Reload, Self::Swaps, Self::Stop];

    /// As it is written in arguments and JSON.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Cost => "cost",
            Self::Paths => "paths",
            Self::Reload => "reload",
            Self::Swaps => "swaps",
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
    /// Ends of an idle host.
    pub(crate) stops: usize,
    /// Wake-ups of a reader.
    pub(crate) wakes: usize,
    /// How long an idle host is listened to.
    pub(crate) idle: Duration,
}

impl Plan {
    /// About four minutes.
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
            stops: 10,
            wakes: 200,
            idle: Duration::from_secs(30),
        }
    }

    /// About a minute.
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
            Section::Reload => 2 * (1 + 2 * self.reloads as usize),
            Section::Swaps => self.swaps as usize + 3,
            Section::Stop => self.stops + 2,
        };
        steps as u64
    }
}
