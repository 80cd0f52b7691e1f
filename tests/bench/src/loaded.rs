//! What functions cost that are loaded and not called: throughput with few and with many of them, and memory.

use anyhow::{Context, Result};
use baton_tests::{Folder, Redis, resident_bytes, sample, variant};
use indicatif::ProgressBar;
use serde_json::json;

use crate::flood::Flood;
use crate::host::Host;
use crate::plan::Plan;
use crate::report::{Goal, Part};
use crate::table::{Table, median, percent, rate};

/// How many functions are loaded, each a component of its own, and how many of them are called.
pub(crate) const LOADED: [(u32, u32); 3] = [(1, 1), (10, 10), (1_000, 10)];
/// Where those stand that are compared: the same calls, with few functions and with many.
const FEW: usize = 1;
const MANY: usize = 2;
/// Calls under way, in all.
const IN_FLIGHT: usize = 60;
/// How many are put into the folder at once: each has its time limit then, and not all of them one together.
const BATCH: usize = 100;
/// How much of the throughput should be kept.
const KEPT: f64 = 0.9;

/// A host with so many functions, and callers of those that are called.
struct Stage {
    callers: Vec<Flood>,
    /// Of all callers together, in each round.
    per_second: Vec<f64>,
    /// What the host holds before the first call.
    idle_bytes: u64,
    // They are there to be called, and end before their Redis.
    host: Host,
    _folder: Folder,
    _redis: Redis,
}

impl Stage {
    async fn start(loaded: u32, called: u32) -> Result<Self> {
        let redis = Redis::start().await?;
        let folder = Folder::new()?;
        let echo = sample("echo")?;
        let functions: Vec<String> = (0..loaded).map(|n| format!("echo-{n}")).collect();
        let mut host = Host::start(&redis, &folder, &[]).await?;
        for (batch, functions) in (0..).zip(functions.chunks(BATCH)) {
            for (n, function) in (0..).zip(functions) {
                folder.install(function, &variant(&echo, batch * BATCH as u32 + n))?;
            }
            for function in functions {
                host.ready(function, None).await?;
            }
        }
        let idle_bytes = resident_bytes(host.pid())?;
        let mut callers = Vec::new();
        // Spread over all that are loaded.
        for function in functions.iter().step_by((loaded / called) as usize) {
            callers.push(Flood::start(&redis.socket(), &format!("default/{function}")).await?);
        }
        Ok(Self { callers, per_second: Vec::new(), idle_bytes, host, _folder: folder, _redis: redis })
    }

    async fn round(&mut self, plan: &Plan) -> Result<()> {
        let in_flight = IN_FLIGHT / self.callers.len();
        let windows = self.callers.iter_mut().map(|caller| caller.run(in_flight, plan.warm_up, plan.window, &[]));
        let windows = futures_util::future::try_join_all(windows).await?;
        self.per_second.push(windows.iter().map(|window| window.calls as f64 / window.lasted.as_secs_f64()).sum());
        Ok(())
    }
}

pub(crate) async fn measure(plan: &Plan, bar: &ProgressBar) -> Result<Part> {
    let mut stages = Vec::new();
    for (loaded, called) in LOADED {
        bar.set_message(format!("loading {loaded}"));
        stages.push(Stage::start(loaded, called).await.with_context(|| format!("{loaded} functions"))?);
        bar.inc(1);
    }
    for _ in 0..plan.rounds {
        for ((loaded, _), stage) in LOADED.iter().zip(&mut stages) {
            bar.set_message(format!("{loaded} loaded"));
            stage.round(plan).await?;
            bar.inc(1);
        }
    }
    let mut part = Part::default();
    let head = ["functions loaded", "called", "in flight", "calls/s", "idle host MiB", "host MiB"];
    let mut table = Table::new("Functions that are loaded and not called (`echo`, each a component of its own)", &head);
    let mib = |bytes: u64| format!("{:.0}", bytes as f64 / f64::from(1 << 20));
    for ((loaded, called), stage) in LOADED.iter().zip(&stages) {
        let in_flight = IN_FLIGHT / stage.callers.len() * stage.callers.len();
        let (per_second, after) = (median(stage.per_second.iter().copied()), resident_bytes(stage.host.pid())?);
        table.row(vec![
            loaded.to_string(),
            called.to_string(),
            in_flight.to_string(),
            rate(per_second),
            mib(stage.idle_bytes),
            mib(after),
        ]);
        let json = json!({
            "called": called, "calls_per_second": stage.per_second, "idle_bytes": stage.idle_bytes, "bytes_after": after,
        });
        part.json(&format!("{loaded} loaded"), json);
    }
    part.tables.push(table);
    let (few, many) = (&stages[FEW], &stages[MANY]);
    let kept = median(many.per_second.iter().zip(&few.per_second).map(|(many, few)| many / few));
    let what = format!("throughput with {} functions loaded, of that with {}", LOADED[MANY].0, LOADED[FEW].0);
    part.goal(Goal::at_least("5", what, kept * 100.0, KEPT * 100.0, percent(kept), "%"));
    let more = f64::from(LOADED[MANY].0 - LOADED[FEW].0);
    let each = many.idle_bytes.saturating_sub(few.idle_bytes) as f64 / more;
    part.json("bytes_a_loaded_function", json!(each));
    part.goal(Goal::reported("5", "memory of a function that is loaded and idle", format!("{:.0} KiB", each / 1024.0)));
    Ok(part)
}
