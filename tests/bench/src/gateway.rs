//! Calls over HTTP: at a host that also runs them, and at a front before it; beside a caller on Redis in the same rounds.

use anyhow::{Context, Result, bail, ensure};
use baton_tests::{Folder, Http, Redis, cpu_time};
use indicatif::ProgressBar;
use serde_json::{Value, json};

use crate::flood::{self, Flood};
use crate::host::Host;
use crate::plan::Plan;
use crate::plots::Line;
use crate::report::{Goal, Part};
use crate::table::{Table, median, percent, rate};
use crate::wrk;

const FUNCTION: &str = "echo";
/// How many calls are under way; over HTTP each has a connection of its own.
const MANY: usize = 64;
/// What `wasmtime serve` 48 does with 64 connections and no queue, and its p50 with one: taken by hand on another machine
/// with two cores.
const WASMTIME_SERVE_PER_SECOND: f64 = 17_467.0;
const WASMTIME_SERVE_P50_US: &str = "137";

/// By which way calls come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Redis,
    Http,
    Front,
}

/// A way, and how many calls are under way on it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Variant {
    way: Way,
    in_flight: usize,
}

impl Variant {
    const fn new(way: Way, in_flight: usize) -> Self {
        Self { way, in_flight }
    }

    fn name(self) -> &'static str {
        match self.way {
            Way::Redis => "over Redis",
            Way::Http => "over HTTP",
            Way::Front => "over HTTP, a front before the host",
        }
    }
}

/// What is compared.
pub(crate) const VARIANTS: [Variant; 5] = [ONE_REDIS, ONE_HTTP, MANY_REDIS, MANY_HTTP, MANY_FRONT];
const ONE_REDIS: Variant = Variant::new(Way::Redis, 1);
const ONE_HTTP: Variant = Variant::new(Way::Http, 1);
const MANY_REDIS: Variant = Variant::new(Way::Redis, MANY);
const MANY_HTTP: Variant = Variant::new(Way::Http, MANY);
const MANY_FRONT: Variant = Variant::new(Way::Front, MANY);

/// Figures of one window, or their medians over the rounds. The host's CPU time is that of the front too.
#[derive(Debug, Clone, Copy)]
struct Figures {
    per_second: f64,
    p50_us: f64,
    p99_us: f64,
    redis_us: f64,
    hosts_us: f64,
}

impl Figures {
    fn medians(rounds: &[Self]) -> Self {
        let of = |field: fn(&Self) -> f64| median(rounds.iter().map(field));
        Self {
            per_second: of(|f| f.per_second),
            p50_us: of(|f| f.p50_us),
            p99_us: of(|f| f.p99_us),
            redis_us: of(|f| f.redis_us),
            hosts_us: of(|f| f.hosts_us),
        }
    }

    fn json(&self) -> Value {
        json!({
            "calls_per_second": self.per_second, "p50_us": self.p50_us, "p99_us": self.p99_us,
            "cpu_us_a_call": {"redis": self.redis_us, "hosts": self.hosts_us},
        })
    }
}

/// What all variants of a round are measured at.
struct Stage {
    flood: Flood,
    /// Where the function is called at the host, and at the front.
    host_url: String,
    front_url: String,
    /// The processes whose CPU time counts: Redis first.
    watched: [u32; 3],
    // They are there to be called, and end before their Redis.
    _host: Host,
    _front: Host,
    _folder: Folder,
    _redis: Redis,
}

impl Stage {
    async fn start() -> Result<Self> {
        let redis = Redis::start().await?;
        let folder = Folder::with(&[FUNCTION])?;
        let host = Host::with_http(&redis, &folder, &[FUNCTION.to_owned()]).await?;
        let front = Host::front(&redis, &folder).await?;
        let mut urls = Vec::new();
        for base in [host.http().await?, front.http().await?] {
            let path = format!("/v1/call/{FUNCTION}");
            let answer = Http::at(&base)?.post(&path, flood::payload(1)).await?.expect(200)?;
            ensure!(answer.body[..] == flood::payload(1)[..], "{FUNCTION} gives back what it gets: {answer:?}");
            urls.push(base + &path);
        }
        let front_url = urls.pop().context("two have HTTP")?;
        let host_url = urls.pop().context("two have HTTP")?;
        let flood = Flood::start(&redis.socket(), &format!("default/{FUNCTION}")).await?;
        let watched = [redis.pid().context("Redis runs")?, host.pid(), front.pid()];
        Ok(Self { flood, host_url, front_url, watched, _host: host, _front: front, _folder: folder, _redis: redis })
    }

    async fn measure(&mut self, variant: Variant, plan: &Plan) -> Result<Figures> {
        match variant.way {
            Way::Redis => self.over_redis(variant.in_flight, plan).await,
            Way::Http => self.over_http(&self.host_url, variant.in_flight, plan).await,
            Way::Front => self.over_http(&self.front_url, variant.in_flight, plan).await,
        }
    }

    async fn over_redis(&mut self, in_flight: usize, plan: &Plan) -> Result<Figures> {
        let window = self.flood.run(in_flight, plan.warm_up, plan.window, &self.watched).await?;
        let calls = window.calls as f64;
        let cpu: Vec<f64> = window.cpu.iter().map(|time| time.as_secs_f64() * 1e6 / calls).collect();
        Ok(Figures {
            per_second: calls / window.lasted.as_secs_f64(),
            p50_us: window.latency.value_at_quantile(0.5) as f64,
            p99_us: window.latency.value_at_quantile(0.99) as f64,
            redis_us: cpu[0],
            hosts_us: cpu[1] + cpu[2],
        })
    }

    async fn over_http(&self, url: &str, in_flight: usize, plan: &Plan) -> Result<Figures> {
        let cpu_us =
            || self.watched.iter().map(|pid| Ok(cpu_time(*pid)?.as_secs_f64() * 1e6)).collect::<Result<Vec<_>>>();
        let before = cpu_us()?;
        let said = wrk::run(url, &flood::payload(1), in_flight, plan.http_seconds).await?;
        let after = cpu_us()?;
        let used = |process: usize| (after[process] - before[process]) / said.calls as f64;
        Ok(Figures {
            per_second: said.per_second,
            p50_us: said.p50_us,
            p99_us: said.p99_us,
            redis_us: used(0),
            hosts_us: used(1) + used(2),
        })
    }
}

pub(crate) async fn measure(plan: &Plan, bar: &ProgressBar) -> Result<Part> {
    let mut rounds = vec![Vec::new(); VARIANTS.len()];
    for round in 0..plan.rounds {
        let mut stage = Stage::start().await?;
        for turn in 0..VARIANTS.len() {
            // There and back, so that none always comes first.
            let v = if round % 2 == 0 { turn } else { VARIANTS.len() - 1 - turn };
            let variant = VARIANTS[v];
            bar.set_message(format!("{}, {} in flight", variant.name(), variant.in_flight));
            rounds[v].push(stage.measure(variant, plan).await.with_context(|| variant.name())?);
            bar.inc(1);
        }
    }
    let figures: Vec<Figures> = rounds.iter().map(|rounds| Figures::medians(rounds)).collect();
    let mut part = Part::default();
    part.tables.push(table(&figures));
    for ((variant, figures), rounds) in VARIANTS.iter().zip(&figures).zip(&rounds) {
        let each: Vec<Value> = rounds.iter().map(Figures::json).collect();
        let name = format!("{}, {} in flight", variant.name(), variant.in_flight);
        part.json(&name, json!({"median": figures.json(), "rounds": each}));
    }
    let [_, one_http, many_redis, many_http, _] = figures[..] else { bail!("each variant has its figures") };
    let share = percent(many_http.per_second / many_redis.per_second);
    let figure = format!("{}/s ({share} of a caller on Redis)", rate(many_http.per_second));
    let what = format!("{FUNCTION} over HTTP, {MANY} connections: `wasmtime serve`");
    part.goal(Goal::at_least("4", what, many_http.per_second, WASMTIME_SERVE_PER_SECOND, figure, "/s"));
    let line = |field: fn(&Figures) -> f64| Line {
        name: "echo, HTTP",
        points: vec![(1.0, field(&one_http)), (MANY as f64, field(&many_http))],
    };
    part.throughput.push(line(|f| f.per_second));
    part.latency.push((line(|f| f.p50_us), line(|f| f.p99_us)));
    Ok(part)
}

fn table(figures: &[Figures]) -> Table {
    let head = ["`echo` is called", "in flight", "calls/s", "p50 µs", "p99 µs", "Redis µs", "hosts µs"];
    let mut table = Table::new("Over HTTP (µs of Redis and hosts: CPU time a call, that of the front too)", &head);
    for (variant, f) in VARIANTS.iter().zip(figures) {
        table.row(vec![
            variant.name().to_owned(),
            variant.in_flight.to_string(),
            rate(f.per_second),
            format!("{:.0}", f.p50_us),
            format!("{:.0}", f.p99_us),
            format!("{:.1}", f.redis_us),
            format!("{:.1}", f.hosts_us),
        ]);
    }
    let none = String::new;
    let serve = || "`wasmtime serve` 48, not of this run".to_owned();
    table.row(vec![serve(), "1".into(), none(), WASMTIME_SERVE_P50_US.into(), none(), none(), none()]);
    let many = rate(WASMTIME_SERVE_PER_SECOND);
    table.row(vec![serve(), MANY.to_string(), many, none(), none(), none(), none()]);
    table.note = "`wasmtime serve` has no queue and keeps nothing; its figures were taken by hand on another machine with \
                  two cores.";
    table
}
