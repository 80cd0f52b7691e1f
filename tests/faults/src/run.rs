//! One run from its first process to the checker's word.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use baton_tests::settings::{PATIENCE, PREFIX, repository};
use baton_tests::{Address, until};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;
use tokio::process::Command;
use tokio::sync::Mutex;
use tokio::task::LocalSet;

use crate::builds::Builds;
use crate::callers::Callers;
use crate::collector::Collector;
use crate::history::{Book, History};
use crate::plan::Plan;
use crate::player::{Player, Server};
use crate::schedule::{Event, faults};
use crate::slots::{Doors, Setting, Slot};
use crate::workload::{FUNCTIONS, calls};
use crate::world::{World, library};

/// How long after the last fault a caller goes on sending, and how long results may take then.
const HEALED_WITHIN: Duration = Duration::from_secs(60);

/// How long after the last fault is due the world may take to be whole.
const WHOLE_WITHIN: Duration = Duration::from_secs(240);

/// How often the host that is spared is looked at.
const SAMPLE_EVERY: Duration = Duration::from_secs(2);

/// What the checker said.
#[derive(Debug)]
pub struct Verdict {
    /// Whether every invariant holds.
    pub holds: bool,
    /// Where histories, logs and the checker's report lie.
    pub dir: PathBuf,
}

/// Runs it. Everything it leaves is in `dir`.
///
/// # Errors
/// If something cannot be started or played: then nothing is proven either way.
pub async fn run(plan: &Plan, binary: &Path, dir: &Path) -> Result<Verdict> {
    LocalSet::new().run_until(run_here(plan, binary, dir)).await
}

async fn run_here(plan: &Plan, binary: &Path, dir: &Path) -> Result<Verdict> {
    if dir.exists() {
        std::fs::remove_dir_all(dir).with_context(|| format!("cannot empty {}", dir.display()))?;
    }
    std::fs::create_dir_all(dir)?;
    let dir = dir.canonicalize()?;
    let bar = bar(plan.calls)?;
    bar.set_message("starting Redis and hosts");
    let stage = Stage::set(plan, binary, &dir).await?;
    let events = faults(plan);
    std::fs::write(dir.join("schedule.jsonl"), lines(&events))?;

    let start = Instant::now();
    let patience = start + plan.lasts + HEALED_WITHIN;
    let redis = stage.player.server.lock().await.redis.address();
    let address = redis.clone();
    let callers = Callers::new(Arc::clone(&stage.history), redis, stage.doors, plan.seed, patience);
    let helpers = [tokio::spawn(Arc::clone(&callers).look()), tokio::spawn(Arc::clone(&callers).listen())];
    let made = tokio::spawn(Arc::clone(&callers).make(calls(plan), start));
    let sampler = plan.soaks.then(|| tokio::task::spawn_local(sample(Arc::clone(&stage.player))));
    let ticker = tokio::spawn(tick(bar.clone(), Arc::clone(&callers)));
    let tell = bar.clone();
    let tell = move |event: &Event| tell.set_message(format!("{} ({} s)", event.fault.name(), event.at.as_secs()));
    let played = Arc::clone(&stage.player).play(events, start, tell);
    let failed = tokio::time::timeout(plan.lasts + WHOLE_WITHIN, played).await;
    let failed = failed.context("a fault is played without end; faults.jsonl has the last ones")?;
    bar.set_message("the faults are over; callers wait for the rest");
    stage.history.write(Book::Faults, json!({"ev": "quiet"}));
    made.await?;
    // What is still missing then is for the checker to name.
    _ = until("every accepted call has its result", HEALED_WITHIN, async || {
        Ok((callers.open() == 0 || is_quiet(&address).await).then_some(()))
    })
    .await;
    stage.history.write(Book::Faults, json!({"ev": "over", "not_played": failed}));
    ticker.abort();
    sampler.iter().for_each(tokio::task::JoinHandle::abort);
    helpers.iter().for_each(tokio::task::JoinHandle::abort);
    stage.history.flush()?;
    bar.set_message("checking");
    stage.player.describe(plan, &dir).await?;
    let holds = bar.suspend_for_check(&dir).await?;
    bar.finish_and_clear();
    stage.player.end(&dir, holds).await?;
    if !failed.is_empty() {
        bail!("{} faults could not be played, so this run proves less than it says: {failed:#?}", failed.len());
    }
    Ok(Verdict { holds, dir })
}

/// Whether no call waits or runs anywhere: what has no result then gets none, as those that FLUSHALL took.
async fn is_quiet(redis: &Address) -> bool {
    let Ok(mut redis) = redis.connect().await else { return false };
    for function in FUNCTIONS {
        let mut ask = redis::pipe();
        for level in ["", ":high", ":low"] {
            ask.cmd("XLEN").arg(format!("{PREFIX}:{{{function}}}:calls{level}"));
        }
        ask.cmd("ZCARD").arg(format!("{PREFIX}:{{{function}}}:delayed"));
        if !ask.query_async(&mut redis).await.is_ok_and(|waiting: [u64; 4]| waiting == [0; 4]) {
            return false;
        }
    }
    true
}

/// What stands before the first call.
struct Stage {
    history: Arc<History>,
    doors: Arc<Doors>,
    player: Arc<Player>,
    _collector: Collector,
}

impl Stage {
    async fn set(plan: &Plan, binary: &Path, dir: &Path) -> Result<Self> {
        let history = Arc::new(History::new(dir)?);
        let library = library(dir)?;
        let (world, redis) = World::start(dir, &library, plan.durability).await?;
        let collector = Collector::start(Arc::clone(&history)).await?;
        let doors = Arc::<Doors>::default();
        let setting = Arc::new(Setting {
            plan: plan.clone(),
            binary: binary.to_owned(),
            redis: redis.address(),
            history: Arc::clone(&history),
            doors: Arc::clone(&doors),
            collector: collector.authority().to_owned(),
            library,
        });
        let builds = Builds::new()?;
        history.write(Book::Faults, builds.json()?);
        let mut slots = Vec::new();
        for at in 0..plan.hosts {
            let mut slot = Slot::new(&setting, at, &builds).await?;
            slot.start().await?;
            slots.push(Arc::new(Mutex::new(slot)));
        }
        world.slow_disk(plan.disk_ms)?;
        let server = Arc::new(Mutex::new(Server { world, redis }));
        let builds = Arc::new(Mutex::new(builds));
        let player = Arc::new(Player {
            history: Arc::clone(&history),
            slots,
            server,
            builds,
            drain: plan.drain,
            spares: plan.soaks,
        });
        Ok(Self { history, doors, player, _collector: collector })
    }
}

impl Player {
    /// Writes down what the checker needs to know beside the histories.
    async fn describe(&self, plan: &Plan, dir: &Path) -> Result<()> {
        let server = self.server.lock().await;
        let (mut live, mut fallen) = (Vec::new(), Vec::new());
        for slot in &self.slots {
            let mut slot = slot.lock().await;
            if slot.runs()? {
                live.push(slot.host.clone());
            } else {
                fallen.push(slot.host.clone());
            }
        }
        let facts = json!({
            "seed": plan.seed, "calls": plan.calls, "prefix": "baton", "group": "hosts",
            "durability": plan.durability.name(), "lease_ms": plan.lease.as_millis() as u64,
            "drain_ms": plan.drain.as_millis() as u64, "work_max_ms": plan.work_max.as_millis() as u64,
            "hosts_lost_max": 5, "attempts_max": 3, "redis": server.redis.socket(), "redis_dir": server.redis.dir(),
            "live_hosts": live, "fallen_hosts": fallen, "soaks": plan.soaks,
        });
        Ok(std::fs::write(dir.join("run.json"), serde_json::to_string_pretty(&facts)?)?)
    }

    /// Stops every host in order. Of a run that failed, what Redis has written is kept.
    async fn end(&self, dir: &Path, holds: bool) -> Result<()> {
        for slot in &self.slots {
            let mut slot = slot.lock().await;
            if slot.runs()? {
                slot.stop(PATIENCE).await?;
            }
        }
        let mut server = self.server.lock().await;
        server.redis.kill9().await?;
        if !holds {
            // What the checker read: `check.py --again` reads it once more.
            let from = server.redis.dir();
            std::fs::copy(from.join("redis.log"), dir.join("redis.log"))?;
            let kept = dir.join("appendonlydir");
            std::fs::create_dir_all(&kept)?;
            for file in std::fs::read_dir(from.join("appendonlydir")).into_iter().flatten().flatten() {
                std::fs::copy(file.path(), kept.join(file.file_name()))?;
            }
        }
        self.history.flush()
    }
}

fn lines(events: &[Event]) -> String {
    events.iter().map(|event| format!("{}\n", event.json())).collect()
}

fn bar(calls: usize) -> Result<ProgressBar> {
    let bar = ProgressBar::new(calls as u64);
    bar.set_style(ProgressStyle::with_template("[{bar:24}] {pos}/{len} results {msg}")?.progress_chars("=> "));
    bar.tick();
    Ok(bar)
}

/// Where there is no terminal, a line now and then.
async fn tick(bar: ProgressBar, callers: Arc<Callers>) {
    let mut ticks = tokio::time::interval(Duration::from_millis(500));
    for n in 0u64.. {
        ticks.tick().await;
        bar.set_position(callers.seen() as u64);
        // So that a run which hangs can be looked into.
        _ = callers.history().flush();
        if bar.is_hidden() && n % 60 == 0 {
            eprintln!("==> {} results of {}, {}", callers.seen(), bar.length().unwrap_or(0), bar.message());
        }
    }
}

/// Writes down, now and then, what the host that is spared has of memory, files and maps.
async fn sample(player: Arc<Player>) {
    let mut ticks = tokio::time::interval(SAMPLE_EVERY);
    loop {
        ticks.tick().await;
        // Where a fault is at work just then, the next look will do.
        let Some(Ok(slot)) = player.slots.last().map(|slot| slot.try_lock()) else { continue };
        let Some(pid) = slot.pid() else { continue };
        let proc = PathBuf::from(format!("/proc/{pid}"));
        let Ok(status) = std::fs::read_to_string(proc.join("status")) else { continue };
        let rss = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let rss_kb: Option<u64> = rss.and_then(|rest| rest.split_whitespace().next()?.parse().ok());
        let files = std::fs::read_dir(proc.join("fd")).map_or(0, Iterator::count);
        let maps = std::fs::read_to_string(proc.join("maps")).map_or(0, |maps| maps.lines().count());
        let line = json!({"ev": "sample", "host": slot.host, "rss_kb": rss_kb, "files": files, "maps": maps});
        player.history.write(Book::Faults, line);
    }
}

trait Check {
    async fn suspend_for_check(&self, dir: &Path) -> Result<bool>;
}

impl Check for ProgressBar {
    /// Lets the checker print, and gives whether every invariant holds.
    async fn suspend_for_check(&self, dir: &Path) -> Result<bool> {
        self.set_draw_target(indicatif::ProgressDrawTarget::hidden());
        let checker = repository().join("tests/faults/check.py");
        let mut python = Command::new("python3");
        python.arg(&checker).arg(dir).stdin(Stdio::null());
        let status = python.status().await.context("there is no python3; the checker is written in it")?;
        match status.code() {
            Some(0) => Ok(true),
            Some(1) => Ok(false),
            _broken => bail!("the checker itself failed with {status}"),
        }
    }
}
