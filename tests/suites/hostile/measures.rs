//! What is measured of a host under attack.

use std::time::Duration;

use anyhow::{Context, Result};
use baton_model::ResultDocument;
use baton_tests::{Load, LoadReport, Stage};

/// What a process holds at one moment.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Held {
    pub(crate) rss_bytes: u64,
    pub(crate) files: usize,
    pub(crate) maps: usize,
    pub(crate) threads: usize,
}

impl Held {
    pub(crate) fn by(pid: u32) -> Result<Self> {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
        let number = |name: &str| -> Result<u64> {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).with_context(|| name.to_owned())?;
            Ok(line.trim_start_matches(':').trim().trim_end_matches(" kB").parse()?)
        };
        Ok(Self {
            rss_bytes: number("VmRSS")? * 1024,
            files: std::fs::read_dir(format!("/proc/{pid}/fd"))?.count(),
            maps: std::fs::read_to_string(format!("/proc/{pid}/maps"))?.lines().count(),
            threads: usize::try_from(number("Threads")?)?,
        })
    }
}

/// The neighbour's calls for so long: 200 a second to `friend/echo`.
pub(crate) async fn neighbour(stage: &Stage, lasts: Duration) -> Result<LoadReport> {
    let load = Load { function: "friend/echo".to_owned(), per_second: 200, lasts, in_flight_max: 1_000 };
    load.start(stage.redis.address()).report().await
}

/// How long after its start a call was over; none for a call that never started.
pub(crate) fn took(document: &ResultDocument) -> Option<Duration> {
    Some(Duration::from_millis(document.finished_ms.saturating_sub(document.started_ms?)))
}
