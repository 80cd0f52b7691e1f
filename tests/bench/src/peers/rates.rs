//! How many calls a second each queue answers, how soon, and what of the machine that takes. The peers take turns in every
//! round.

use anyhow::{Context, Result};
use baton_tests::{cpu_time, resident_bytes};
use indicatif::ProgressBar;
use serde_json::{Value, json};

use super::Plan;
use super::against::Against;
use super::caller::Caller;
use super::queues::{Queue, Stage};
use crate::flood::Flood;
use crate::plots::Line;
use crate::report::{Goal, Part};
use crate::table::{Table, median, rate};

/// How many calls are under way.
pub(super) const IN_FLIGHT: [usize; 3] = [1, 64, 512];

/// Who answers, and who calls.
struct Row {
    queue: Queue,
    /// The way of a Node caller, or else the benchmark's own.
    way: Option<&'static str>,
    name: &'static str,
    caller: &'static str,
}

const ROWS: [Row; 5] = [
    Row { queue: Queue::Baton, way: Some("baton"), name: "Baton", caller: "Node" },
    Row { queue: Queue::Baton, way: None, name: "Baton, Rust caller", caller: "Rust" },
    Row { queue: Queue::BullMq, way: Some("bullmq"), name: "BullMQ", caller: "Node" },
    Row { queue: Queue::BullMq, way: Some("bullmq-bulk"), name: "BullMQ, addBulk", caller: "Node" },
    Row { queue: Queue::Streams, way: Some("streams"), name: "plain Streams worker", caller: "Node" },
];
/// Where they stand in the rows.
const BATON: usize = 0;
const BATON_RUST: usize = 1;
const BULLMQ: usize = 2;
const BULLMQ_BULK: usize = 3;
const STREAMS: usize = 4;

/// Figures of one window, or their medians over the rounds.
#[derive(Debug, Clone, Copy)]
pub(super) struct Figures {
    pub(super) per_second: f64,
    pub(super) p50_us: f64,
    pub(super) p99_us: f64,
    pub(super) redis_us: f64,
    pub(super) worker_us: f64,
    pub(super) caller_us: f64,
    pub(super) worker_mib: f64,
}

impl Figures {
    pub(super) fn medians(rounds: &[Self]) -> Self {
        let of = |field: fn(&Self) -> f64| median(rounds.iter().map(field));
        Self {
            per_second: of(|f| f.per_second),
            p50_us: of(|f| f.p50_us),
            p99_us: of(|f| f.p99_us),
            redis_us: of(|f| f.redis_us),
            worker_us: of(|f| f.worker_us),
            caller_us: of(|f| f.caller_us),
            worker_mib: of(|f| f.worker_mib),
        }
    }

    pub(super) fn json(&self) -> Value {
        json!({
            "calls_per_second": self.per_second, "p50_us": self.p50_us, "p99_us": self.p99_us, "worker_mib": self.worker_mib,
            "cpu_us_a_call": {"redis": self.redis_us, "worker": self.worker_us, "caller": self.caller_us},
        })
    }

    /// The cells of a row behind its name. What was not measured is left empty.
    pub(super) fn cells(&self, in_flight: usize) -> Vec<String> {
        let some = |figure: f64, text: String| if figure.is_nan() { String::new() } else { text };
        let used = |figure: f64| some(figure, format!("{figure:.1}"));
        vec![
            in_flight.to_string(),
            rate(self.per_second),
            format!("{:.0}", self.p50_us),
            format!("{:.0}", self.p99_us),
            used(self.redis_us),
            used(self.worker_us),
            used(self.caller_us),
            format!("{:.0}", self.worker_mib),
        ]
    }
}

/// The head of tables with such figures.
pub(super) const HEAD: [&str; 8] =
    ["in flight", "calls/s", "p50 µs", "p99 µs", "Redis µs", "worker µs", "caller µs", "worker MiB"];

/// How much of the machine a process has in use.
pub(super) fn mib(pid: u32) -> Result<f64> {
    Ok(resident_bytes(pid)? as f64 / f64::from(1 << 20))
}

pub(super) fn steps(plan: &Plan) -> u64 {
    (plan.rounds * ROWS.len() * IN_FLIGHT.len()) as u64
}

/// Measures one row of one round: a window for each number of calls in flight.
async fn measure_row(row: &Row, plan: &Plan, bar: &ProgressBar) -> Result<Vec<Figures>> {
    let stage = Stage::start(row.queue).await?;
    let worker = stage.worker().await?;
    let redis = stage.redis.pid().context("Redis runs")?;
    let mut figures = Vec::new();
    let Some(way) = row.way else {
        let mut flood = Flood::start(&stage.redis.socket(), "default/echo").await?;
        for in_flight in IN_FLIGHT {
            bar.set_message(format!("{}, {in_flight} in flight", row.name));
            let watched = [redis, worker.pid(), std::process::id()];
            let window = flood.run(in_flight, plan.warm_up, plan.window, &watched).await?;
            let calls = window.calls as f64;
            let used = |process: usize| window.cpu[process].as_secs_f64() * 1e6 / calls;
            figures.push(Figures {
                per_second: calls / window.lasted.as_secs_f64(),
                p50_us: window.latency.value_at_quantile(0.5) as f64,
                p99_us: window.latency.value_at_quantile(0.99) as f64,
                redis_us: used(0),
                worker_us: used(1),
                caller_us: used(2),
                worker_mib: mib(worker.pid())?,
            });
            bar.inc(1);
        }
        return Ok(figures);
    };
    let mut caller = Caller::start(way, &stage.redis.socket().display().to_string()).await?;
    let watched = [redis, worker.pid(), caller.pid()];
    let cpu_us = || watched.iter().map(|pid| Ok(cpu_time(*pid)?.as_secs_f64() * 1e6)).collect::<Result<Vec<f64>>>();
    bar.set_message(format!("{}, warming up", row.name));
    caller.window(IN_FLIGHT[1], plan.warm_up * 3, plan.warm_up, || Ok(())).await?;
    for in_flight in IN_FLIGHT {
        bar.set_message(format!("{}, {in_flight} in flight", row.name));
        let (window, before, after) = caller.window(in_flight, plan.warm_up, plan.window, cpu_us).await?;
        let used = |process: usize| (after[process] - before[process]) / window.calls as f64;
        figures.push(Figures {
            per_second: window.calls as f64 / window.seconds,
            p50_us: window.p50_us,
            p99_us: window.p99_us,
            redis_us: used(0),
            worker_us: used(1),
            caller_us: used(2),
            worker_mib: mib(worker.pid())?,
        });
        bar.inc(1);
    }
    Ok(figures)
}

pub(super) async fn measure(plan: &Plan, against: &mut Against, bar: &ProgressBar) -> Result<Part> {
    let mut rounds = vec![vec![Vec::new(); IN_FLIGHT.len()]; ROWS.len()];
    for round in 0..plan.rounds {
        for turn in 0..ROWS.len() {
            // There and back, so that none always comes first.
            let r = if round % 2 == 0 { turn } else { ROWS.len() - 1 - turn };
            let figures = measure_row(&ROWS[r], plan, bar).await.with_context(|| ROWS[r].name)?;
            for (at, figures) in rounds[r].iter_mut().zip(figures) {
                at.push(figures);
            }
        }
    }
    let figures: Vec<Vec<Figures>> =
        rounds.iter().map(|row| row.iter().map(|rounds| Figures::medians(rounds)).collect()).collect();
    let mut part = Part::default();
    let head: Vec<&str> = ["who answers", "caller"].into_iter().chain(HEAD).collect();
    let mut table =
        Table::new("Calls over Redis, results awaited (µs of Redis, worker and caller: CPU time a call)", &head);
    for (row, at) in ROWS.iter().zip(&figures) {
        for (in_flight, figures) in IN_FLIGHT.into_iter().zip(at) {
            let mut cells = vec![row.name.to_owned(), row.caller.to_owned()];
            cells.extend(figures.cells(in_flight));
            table.row(cells);
            part.json(&format!("{}, {in_flight} in flight", row.name), figures.json());
        }
        let line = |field: fn(&Figures) -> f64| Line {
            name: row.name,
            points: IN_FLIGHT.iter().zip(at).map(|(n, figures)| (*n as f64, field(figures))).collect(),
        };
        part.throughput.push(line(|f| f.per_second));
        part.latency.push((line(|f| f.p50_us), line(|f| f.p99_us)));
    }
    table.note = "A Node caller is the same process with the same driver everywhere. With many calls in flight it takes about as \
                  much of the machine as Baton's host does.";
    part.tables.push(table);
    goals(&mut part, &figures);
    for peer in [BULLMQ, BULLMQ_BULK, STREAMS] {
        for (n, in_flight) in IN_FLIGHT.into_iter().enumerate() {
            compare(against, in_flight, &figures[BATON][n], ROWS[peer].name, &figures[peer][n]);
        }
    }
    Ok(part)
}

/// Compares everything that two rows have in common.
pub(super) fn compare(against: &mut Against, in_flight: usize, ours: &Figures, peer: &str, theirs: &Figures) {
    let what = |what: &str| format!("{what}, {in_flight} in flight");
    against.higher(&what("calls a second"), ours.per_second, peer, theirs.per_second, "/s");
    against.lower(&what("p50"), ours.p50_us, peer, theirs.p50_us, "µs");
    against.lower(&what("p99"), ours.p99_us, peer, theirs.p99_us, "µs");
    // Who has no Redis is compared by what all of its processes take together.
    let used = |f: &Figures| f.worker_us + if f.redis_us.is_nan() { 0.0 } else { f.redis_us };
    against.lower(&what("CPU of worker and Redis a call"), used(ours), peer, used(theirs), "µs");
    against.lower(&what("memory of the worker"), ours.worker_mib, peer, theirs.worker_mib, "MiB");
}

fn goals(part: &mut Part, figures: &[Vec<Figures>]) {
    for baton in [BATON, BATON_RUST] {
        let who = format!("{} caller", ROWS[baton].caller);
        let (ours, bullmq) = (figures[baton][0].p50_us, figures[BULLMQ][0].p50_us);
        let what = format!("echo, 1 {who}: p50 of BullMQ's");
        let figure = format!("{:.2} x ({ours:.0} of {bullmq:.0} µs)", ours / bullmq);
        part.goal(Goal::at_most("2", what, ours / bullmq, 0.2, figure, "x"));
    }
    for (peer, aim) in [(BULLMQ, 12.0), (BULLMQ_BULK, 12.0), (STREAMS, 3.0)] {
        for baton in [BATON, BATON_RUST] {
            let (ours, theirs) = (figures[baton][1].per_second, figures[peer][1].per_second);
            let what = format!("echo, 64 in flight, {} caller: {}", ROWS[baton].caller, ROWS[peer].name);
            let figure = format!("{:.1} x ({} of {}/s)", ours / theirs, rate(ours), rate(theirs));
            part.goal(Goal::at_least("3", what, ours / theirs, aim, figure, "x"));
        }
    }
}
