//! Hosts that come and go under load: killed and replaced, and replaced one after the other in order. What it costs
//! callers, and how soon the calls of a host that was killed run elsewhere.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use anyhow::{Context, Result};
use baton_model::{Digest, Status};
use baton_tests::{Caller, Folder, Load, LoadReport, LoadedCall, Redis, RunningLoad, now_ms, sample};
use indicatif::ProgressBar;
use serde_json::{Value, json};
use tokio::time::{Instant, MissedTickBehavior, interval_at};

use crate::host::Host;
use crate::plan::Plan;
use crate::plots::Course;
use crate::report::{Goal, Part};
use crate::table::{Table, largest, quantile};

/// How many hosts share the load.
pub(crate) const HOSTS: usize = 3;
const FUNCTION: &str = "sleep";
/// Calls a second, and how long each takes.
const PER_SECOND: u32 = 1_000;
const EACH: Duration = Duration::from_millis(20);
/// How long hosts that find a Redis of a few seconds' age are given before one of them is killed: until then they hold
/// nobody for crashed, because after a restart of Redis all of them come back in their own time.
const SETTLED: Duration = Duration::from_secs(4);
/// How long after a kill the next host is started. It says that it is there, at which the others look around; what is
/// measured is how soon they see it by themselves.
const REPLACED_AFTER: Duration = Duration::from_secs(1);
/// How often hosts look at each other. A new host sets the beat of all looks, so each comes a little later after its kill
/// than the one before, and the next kill falls on another moment between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// The width of a point in the plots.
const WINDOW_MS: u64 = 100;
/// The most milliseconds from a kill to the start of a call elsewhere.
const REDELIVERY_MS: f64 = 1_000.0;

/// Hosts by age on a Redis of their own.
struct Fleet {
    hosts: VecDeque<Host>,
    folder: Folder,
    redis: Redis,
}

impl Fleet {
    async fn start() -> Result<Self> {
        let mut fleet =
            Self { hosts: VecDeque::new(), folder: Folder::with(&[FUNCTION])?, redis: Redis::start().await? };
        for _ in 0..HOSTS {
            fleet.add().await?;
        }
        Ok(fleet)
    }

    /// Starts one more and waits until it takes calls.
    async fn add(&mut self) -> Result<()> {
        self.hosts.push_back(Host::start(&self.redis, &self.folder, &[FUNCTION.to_owned()]).await?);
        Ok(())
    }

    fn oldest(&mut self) -> Result<Host> {
        self.hosts.pop_front().context("a fleet has hosts")
    }

    fn load(&self, lasts: Duration) -> RunningLoad {
        let load = Load { function: FUNCTION.into(), per_second: PER_SECOND, lasts, in_flight_max: 100_000 };
        load.start_sleeping(self.redis.address(), EACH)
    }
}

/// A host that was killed: when, and which calls it had.
struct Kill {
    at_ms: u64,
    calls: Vec<String>,
}

/// A rolling restart, in Unix milliseconds: when the first new host was started, when each old one was told to end, and
/// when the last one was gone.
struct Restart {
    from_ms: u64,
    told_ms: Vec<u64>,
    to_ms: u64,
}

pub(crate) async fn measure(plan: &Plan, bar: &ProgressBar) -> Result<Part> {
    let mut part = Part::default();
    let head =
        ["under load", "calls", "lost", "answered twice", "errors", "executed again", "p50 ms", "p99 ms", "longest ms"];
    let title = format!("Hosts that come and go ({HOSTS}, `{FUNCTION}` of {} ms, 1,000 calls/s)", EACH.as_millis());
    let mut table = Table::new(&title, &head);

    let (report, kills) = killed(plan, bar).await?;
    let name = format!("{} kills in {} s", kills.len(), lasts(plan).as_secs());
    table.row(row(&name, &report, true, &latencies(&report, |_| true)));
    judge(&mut part, "kills", &report)?;
    part.course.push(course(format!("{name}: each mark is a kill"), &report, kills.iter().map(|kill| kill.at_ms)));
    let redelivery = redelivery_ms(&report, &kills);

    let (report, restart) = restarted(plan, bar).await?;
    table.row(row("rolling restart, the whole load", &report, true, &latencies(&report, |_| true)));
    let before = latencies(&report, |ms| ms < restart.from_ms);
    table.row(row("rolling restart, before it", &report, false, &before));
    let during = latencies(&report, |ms| (restart.from_ms..restart.to_ms).contains(&ms));
    table.row(row("rolling restart, during it", &report, false, &during));
    judge(&mut part, "rolling restart", &report)?;
    let counts = Counts::of(&report);
    let figure = format!("{}, {} and {}", counts.lost, counts.again, counts.errors);
    let all = (counts.lost + counts.again + counts.errors) as f64;
    part.goal(Goal::at_most("7", "rolling restart: calls lost, executed twice, errors", all, 0.0, figure, "calls"));
    let name = "rolling restart: each mark is a SIGTERM".to_owned();
    part.course.push(course(name, &report, restart.told_ms.iter().copied()));
    part.json(
        "restart",
        json!({"seconds": (restart.to_ms - restart.from_ms) as f64 / 1e3, "before": figures(&before), "during": figures(&during)}),
    );
    part.tables.push(table);
    redelivered(&mut part, kills.len(), &redelivery);
    Ok(part)
}

/// How long the load with kills lasts.
fn lasts(plan: &Plan) -> Duration {
    plan.kills_every * plan.kills
}

/// Kills the oldest host and starts another, again and again.
async fn killed(plan: &Plan, bar: &ProgressBar) -> Result<(LoadReport, Vec<Kill>)> {
    bar.set_message("hosts settle");
    let mut fleet = Fleet::start().await?;
    tokio::time::sleep(SETTLED).await;
    let mut caller = Caller::of(&fleet.redis.address()).await?;
    let load = fleet.load(lasts(plan));
    let mut due = interval_at(Instant::now() + plan.kills_every / 2, plan.kills_every);
    due.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut kills = Vec::new();
    bar.set_message("kills");
    for n in 0..plan.kills {
        due.tick().await;
        let victim = fleet.oldest()?;
        let (id, at_ms) = (victim.id().to_owned(), now_ms());
        victim.kill().await?;
        // Long before anybody else can have noticed.
        let pending = caller.pending(FUNCTION).await?;
        let calls = pending.into_iter().filter_map(|(entry, owner)| (owner == id).then_some(entry)).collect();
        kills.push(Kill { at_ms, calls });
        tokio::time::sleep(REPLACED_AFTER + LOOK_EVERY * n / plan.kills).await;
        fleet.add().await?;
        bar.inc(1);
    }
    bar.set_message("looking at every answer");
    let report = load.report().await?;
    bar.inc(1);
    Ok((report, kills))
}

/// Replaces each host as an orchestrator with room for one more does: the new one takes calls before the old one is told.
async fn restarted(plan: &Plan, bar: &ProgressBar) -> Result<(LoadReport, Restart)> {
    bar.set_message("rolling restart");
    let mut fleet = Fleet::start().await?;
    let load = fleet.load(plan.restart_lasts);
    tokio::time::sleep(plan.restart_lasts / 3).await;
    let from_ms = now_ms();
    let mut told_ms = Vec::new();
    for _ in 0..HOSTS {
        fleet.add().await?;
        let mut old = fleet.oldest()?;
        told_ms.push(now_ms());
        old.terminate()?;
        old.ended().await?;
        bar.inc(1);
    }
    let to_ms = now_ms();
    bar.set_message("looking at every answer");
    let report = load.report().await?;
    bar.inc(1);
    Ok((report, Restart { from_ms, told_ms, to_ms }))
}

/// What became of the calls of one load.
struct Counts {
    lost: usize,
    twice: usize,
    /// Those whose callers were not told and had to look.
    untold: usize,
    errors: usize,
    again: usize,
}

impl Counts {
    fn of(report: &LoadReport) -> Self {
        let count = |is: fn(&LoadedCall) -> bool| report.calls.iter().filter(|call| is(call)).count();
        Self {
            lost: report.lost.len(),
            twice: count(|call| call.notices > 1),
            untold: count(|call| call.notices == 0),
            errors: report.errors.len() + count(|call| call.result.status != Status::Ok),
            again: report.retried(),
        }
    }
}

/// What must hold on any machine, and the JSON.
fn judge(part: &mut Part, name: &str, report: &LoadReport) -> Result<()> {
    let counts = Counts::of(report);
    let figure = format!("{}, {} and {}", counts.lost, counts.twice, counts.untold);
    let what = format!("{name}: calls lost, answered twice, not told of");
    part.goal(Goal::at_most("7", what, (counts.lost + counts.twice + counts.untold) as f64, 0.0, figure, "calls"));
    if counts.twice > 0 {
        part.broken(format!("{name}: {} calls were answered twice", counts.twice));
    }
    if let Err(error) = report.check_answers(&BTreeSet::from([Digest::of(&sample(FUNCTION)?)])) {
        part.broken(format!("{name}: {error:#}"));
    }
    let json = json!({
        "calls": report.calls.len() + counts.lost, "lost": counts.lost, "answered_twice": counts.twice,
        "not_told": counts.untold, "errors": counts.errors, "executed_again": counts.again,
        "latency": figures(&latencies(report, |_| true)),
    });
    part.json(name, json);
    Ok(())
}

/// A row of the table: latencies, and with `counts` what became of all calls of the load.
fn row(name: &str, report: &LoadReport, counts: bool, latencies: &[f64]) -> Vec<String> {
    let all = Counts::of(report);
    let count = |n: usize| if counts { n.to_string() } else { String::new() };
    let calls = if counts { report.calls.len() + all.lost } else { latencies.len() };
    vec![
        name.to_owned(),
        calls.to_string(),
        count(all.lost),
        count(all.twice),
        count(all.errors),
        count(all.again),
        format!("{:.1}", quantile(latencies.iter().copied(), 0.5)),
        format!("{:.1}", quantile(latencies.iter().copied(), 0.99)),
        format!("{:.1}", largest(latencies.iter().copied())),
    ]
}

/// Milliseconds from when each call was due to its answer, of those that Redis accepted at such times.
fn latencies(report: &LoadReport, when: impl Fn(u64) -> bool) -> Vec<f64> {
    let those = report.calls.iter().filter(|call| when(call.result.accepted_ms));
    those.filter_map(|call| call.latency).map(ms).collect()
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

fn figures(latencies: &[f64]) -> Value {
    let quantile = |share| quantile(latencies.iter().copied(), share);
    json!({
        "calls": latencies.len(), "p50_ms": quantile(0.5), "p99_ms": quantile(0.99),
        "longest_ms": largest(latencies.iter().copied()),
    })
}

/// The p99 of the calls that were accepted in each window.
fn course(name: String, report: &LoadReport, marks_ms: impl Iterator<Item = u64>) -> Course {
    let from_ms = report.calls.iter().map(|call| call.result.accepted_ms).min().unwrap_or(0);
    let mut windows: BTreeMap<u64, Vec<f64>> = BTreeMap::new();
    for call in &report.calls {
        let window = (call.result.accepted_ms - from_ms) / WINDOW_MS;
        windows.entry(window).or_default().extend(call.latency.map(ms));
    }
    let seconds = |ms: u64| ms as f64 / 1e3;
    let points = windows.into_iter().filter(|(_, latencies)| !latencies.is_empty());
    // Each stands in the middle of its window.
    let at = |window: u64| seconds(window * WINDOW_MS + WINDOW_MS / 2);
    let points = points.map(|(window, latencies)| (at(window), quantile(latencies, 0.99))).collect();
    Course { name, points, marks: marks_ms.map(|at| seconds(at.saturating_sub(from_ms))).collect() }
}

/// Of each call that a host had when it was killed: milliseconds from then to the start of the attempt that gave the
/// result. One that lost two hosts counts from the first of them.
fn redelivery_ms(report: &LoadReport, kills: &[Kill]) -> Vec<f64> {
    let mut killed_ms: BTreeMap<&str, u64> = BTreeMap::new();
    for kill in kills {
        for call in &kill.calls {
            killed_ms.entry(call).or_insert(kill.at_ms);
        }
    }
    // One whose answer was already on its way to Redis is not redelivered.
    let again = report.calls.iter().filter(|call| call.result.attempts > 1);
    again
        .filter_map(|call| Some(call.result.started_ms?.saturating_sub(*killed_ms.get(call.id.as_str())?) as f64))
        .collect()
}

fn redelivered(part: &mut Part, kills: usize, took_ms: &[f64]) {
    let of = |share| quantile(took_ms.iter().copied(), share);
    let (p50, p99, longest) = (of(0.5), of(0.99), largest(took_ms.iter().copied()));
    let head = ["from the kill of a host to its calls elsewhere", "kills", "calls", "p50 ms", "p99 ms", "longest ms"];
    let mut table = Table::new("Redelivery", &head);
    let whole = |figure: f64| format!("{figure:.0}");
    let calls = took_ms.len().to_string();
    table.row(vec!["Baton".into(), kills.to_string(), calls, whole(p50), whole(p99), whole(longest)]);
    let (one, jobs, last) = ("1".into(), "10000".into(), "60600".into());
    table.row(vec!["BullMQ 6.7, not of this run".into(), one, jobs, String::new(), String::new(), last]);
    table.note = "A call counts that was pending for the host right after its kill. Its time is the `started_ms` of the \
                  attempt that gave the result, minus the time just before the kill: one machine, one clock. BullMQ's \
                  figure is the time from the kill of the only worker to the last of its jobs, taken by hand on another \
                  machine with two cores.";
    part.tables.push(table);
    let what = "kill -9 of a host to its calls elsewhere, p99";
    part.goal(Goal::at_most("7", what, p99, REDELIVERY_MS, format!("{p99:.0} ms ({} calls)", took_ms.len()), "ms"));
    part.json("redelivery_ms", json!({"kills": kills, "p50": p50, "p99": p99, "longest": longest, "each": took_ms}));
}
