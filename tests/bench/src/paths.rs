//! The message path: bare, through the broker's crate, and with the host and real functions. The variants take turns in
//! every round, each on a Redis of its own.

use anyhow::{Context, Result};
use baton_tests::{Folder, Process, Redis};
use indicatif::ProgressBar;
use serde_json::{Value, json};

use crate::flood::{Flood, Window};
use crate::host::{self, Host};
use crate::plan::Plan;
use crate::plots::Line;
use crate::report::{Goal, Part};
use crate::table::{Table, median, percent, rate};
use crate::worker::Kind;

/// How many calls are under way.
pub(crate) const IN_FLIGHT: [usize; 3] = [1, 64, 512];

/// Who answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Variant {
    Worker(Kind),
    Host(&'static str),
}

/// What is compared. The first is what the others are measured by.
pub(crate) const VARIANTS: [Variant; 5] = [
    Variant::Worker(Kind::Bare),
    Variant::Worker(Kind::Kept),
    Variant::Worker(Kind::Broker),
    Variant::Host("echo"),
    Variant::Host("hello"),
];

impl Variant {
    fn name(self) -> &'static str {
        match self {
            Self::Worker(Kind::Bare) => "bare",
            Self::Worker(Kind::Kept) => "bare, results kept",
            Self::Worker(Kind::Broker) => "broker, no wasm",
            Self::Host(function) => function,
        }
    }

    fn function(self) -> &'static str {
        match self {
            Self::Worker(_) => "default/echo",
            Self::Host("echo") => "default/echo",
            Self::Host(_) => "default/hello",
        }
    }
}

/// The process that answers; ended when dropped.
enum Answering {
    Worker(Process),
    Host(Host),
}

impl Answering {
    fn pid(&self) -> u32 {
        match self {
            Self::Worker(process) => process.pid(),
            Self::Host(host) => host.pid(),
        }
    }
}

/// One window's figures, or their medians over the rounds.
#[derive(Debug, Clone, Copy)]
struct Figures {
    per_second: f64,
    p50_us: f64,
    p99_us: f64,
    redis_us: f64,
    host_us: f64,
    caller_us: f64,
}

impl Figures {
    fn of(window: &Window) -> Result<Self> {
        let calls = window.calls as f64;
        let cpu = |n: usize| window.cpu.get(n).map(|time| time.as_secs_f64() * 1e6 / calls).context("a process");
        Ok(Self {
            per_second: calls / window.lasted.as_secs_f64(),
            p50_us: window.latency.value_at_quantile(0.5) as f64,
            p99_us: window.latency.value_at_quantile(0.99) as f64,
            redis_us: cpu(0)?,
            host_us: cpu(1)?,
            caller_us: cpu(2)?,
        })
    }

    fn medians(rounds: &[Self]) -> Self {
        let of = |field: fn(&Self) -> f64| median(rounds.iter().map(field));
        Self {
            per_second: of(|f| f.per_second),
            p50_us: of(|f| f.p50_us),
            p99_us: of(|f| f.p99_us),
            redis_us: of(|f| f.redis_us),
            host_us: of(|f| f.host_us),
            caller_us: of(|f| f.caller_us),
        }
    }

    fn json(&self) -> Value {
        json!({
            "calls_per_second": self.per_second, "p50_us": self.p50_us, "p99_us": self.p99_us,
            "cpu_us_a_call": {"redis": self.redis_us, "host": self.host_us, "caller": self.caller_us},
        })
    }
}

pub(crate) async fn measure(plan: &Plan, bar: &ProgressBar) -> Result<Part> {
    let mut rounds = vec![vec![Vec::new(); IN_FLIGHT.len()]; VARIANTS.len()];
    for round in 0..plan.rounds {
        for turn in 0..VARIANTS.len() {
            // There and back, so that none always comes first.
            let v = if round % 2 == 0 { turn } else { VARIANTS.len() - 1 - turn };
            for (level, window) in one(VARIANTS[v], plan, bar).await?.iter().enumerate() {
                rounds[v][level].push(Figures::of(window)?);
            }
        }
    }
    let figures: Vec<Vec<Figures>> =
        rounds.iter().map(|levels| levels.iter().map(|rounds| Figures::medians(rounds)).collect()).collect();
    let mut part = Part::default();
    part.tables.push(table(&figures, &rounds));
    goals(&mut part, &figures, &rounds);
    for (v, variant) in VARIANTS.iter().enumerate() {
        let levels = IN_FLIGHT.iter().enumerate().map(|(level, in_flight)| {
            let each: Vec<Value> = rounds[v][level].iter().map(Figures::json).collect();
            (in_flight.to_string(), json!({"median": figures[v][level].json(), "rounds": each}))
        });
        part.json(variant.name(), Value::Object(levels.collect()));
        let line = |field: fn(&Figures) -> f64| Line {
            name: variant.name(),
            points: IN_FLIGHT.iter().zip(&figures[v]).map(|(n, f)| (*n as f64, field(f))).collect(),
        };
        part.throughput.push(line(|f| f.per_second));
        part.latency.push((line(|f| f.p50_us), line(|f| f.p99_us)));
    }
    Ok(part)
}

/// One variant at every level, on a fresh Redis that keeps nothing on disk.
async fn one(variant: Variant, plan: &Plan, bar: &ProgressBar) -> Result<Vec<Window>> {
    let redis = Redis::start().await?;
    let folder = Folder::new()?;
    let answering = match variant {
        Variant::Worker(kind) => Answering::Worker(host::worker(kind, &redis, variant.function()).await?),
        Variant::Host(name) => {
            folder.install(name, &baton_tests::sample(name)?)?;
            Answering::Host(Host::start(&redis, &folder, &[name.to_owned()]).await?)
        }
    };
    let watched = [redis.pid().context("Redis runs")?, answering.pid(), std::process::id()];
    let mut flood = Flood::start(&redis.socket(), variant.function()).await?;
    let mut windows = Vec::new();
    for in_flight in IN_FLIGHT {
        bar.set_message(format!("{}, {in_flight} in flight", variant.name()));
        let window = flood.run(in_flight, plan.warm_up, plan.window, &watched).await;
        windows.push(window.with_context(|| format!("{}, {in_flight} in flight", variant.name()))?);
        bar.inc(1);
    }
    Ok(windows)
}

/// What each variant's figure is of that of `bare`: the median over the rounds of the ratio within each, because the two
/// stood close to each other there.
fn of_bare(rounds: &[Vec<Vec<Figures>>], v: usize, level: usize, field: fn(&Figures) -> f64) -> f64 {
    median(rounds[v][level].iter().zip(&rounds[0][level]).map(|(figures, bare)| field(figures) / field(bare)))
}

fn table(figures: &[Vec<Figures>], rounds: &[Vec<Vec<Figures>>]) -> Table {
    let head =
        ["who answers", "in flight", "calls/s", "of bare", "p50 µs", "p99 µs", "Redis µs", "host µs", "caller µs"];
    let mut table = Table::new("The message path (µs of Redis, host and caller: CPU time a call)", &head);
    for (v, variant) in VARIANTS.iter().enumerate() {
        for (level, in_flight) in IN_FLIGHT.iter().enumerate() {
            let f = figures[v][level];
            table.row(vec![
                variant.name().to_owned(),
                in_flight.to_string(),
                rate(f.per_second),
                percent(of_bare(rounds, v, level, |f| f.per_second)),
                format!("{:.0}", f.p50_us),
                format!("{:.0}", f.p99_us),
                format!("{:.1}", f.redis_us),
                format!("{:.1}", f.host_us),
                format!("{:.1}", f.caller_us),
            ]);
        }
    }
    table
}

fn goals(part: &mut Part, figures: &[Vec<Figures>], rounds: &[Vec<Vec<Figures>>]) {
    let bare = &figures[0];
    for (v, (variant, f)) in VARIANTS.iter().zip(figures).enumerate() {
        let Variant::Host(function) = variant else { continue };
        let ratio = of_bare(rounds, v, 0, |f| f.p50_us);
        let figure = format!("{ratio:.2} x ({:.0} of {:.0} µs)", f[0].p50_us, bare[0].p50_us);
        part.goal(Goal::at_most("2", format!("{function}, 1 caller: p50 of bare"), ratio, 1.3, figure, "x"));
        let share = of_bare(rounds, v, 1, |f| f.per_second);
        let figure = format!("{} ({}/s)", percent(share), rate(f[1].per_second));
        let what = format!("{function}, 64 in flight: throughput of bare");
        part.goal(Goal::at_least("3", what, share * 100.0, 60.0, figure, "%"));
        let figure = format!("{:.1} µs", f[1].redis_us);
        let what = format!("{function}, 64 in flight: CPU of Redis a call");
        part.goal(Goal::at_most("3", what, f[1].redis_us, 10.0, figure, "µs"));
        let more = f[2].per_second / f[1].per_second;
        let figure = format!("{} ({}/s)", percent(more), rate(f[2].per_second));
        let what = format!("{function}, 512 in flight: throughput of 64");
        part.goal(Goal::at_least("3", what, more * 100.0, 100.0, figure, "%"));
    }
}
