//! HTTP: Baton's gateway, which is durable and goes through Redis, beside `wasmtime serve`, which has no queue. Both run a
//! fresh instance for each call.

use std::time::Duration;

use anyhow::{Context, Result};
use baton_tests::settings::PATIENCE;
use baton_tests::{Folder, Http, Process, Redis, cpu_time, until};
use indicatif::ProgressBar;
use tempfile::TempDir;
use tokio::process::Command;

use super::Plan;
use super::against::Against;
use super::queues::REDIS;
use super::rates::{self, Figures, HEAD, IN_FLIGHT, mib};
use crate::plots::Line;
use crate::report::{Goal, Part};
use crate::table::{Table, percent, rate};
use crate::{flood, folders, host, wrk};

const GUEST: &str = "http_echo";
const SERVE: &str = "wasmtime serve";
const BATON: &str = "Baton, HTTP";
/// What is compared, in the order of the table.
const NAMES: [&str; 2] = [BATON, SERVE];

/// `wasmtime serve` as it comes, at this address.
pub(super) fn command(address: &str) -> Result<Vec<String>> {
    let (program, guest) = (folders::wasmtime()?, folders::guest(GUEST)?);
    let name = |path: std::path::PathBuf| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    Ok(vec![name(program), "serve".into(), "--addr".into(), address.into(), name(guest)])
}

/// A running `wasmtime serve`; ended when dropped.
pub(super) struct Serve {
    pub(super) process: Process,
    pub(super) url: String,
    _log: TempDir,
}

impl Serve {
    /// Starts one and waits until it answers.
    pub(super) async fn start(address: &str) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("bb-").tempdir_in("/tmp")?;
        let path = dir.path().join("log");
        let log = std::fs::File::create(&path)?;
        let mut command = Command::new(folders::wasmtime()?);
        command.args(&self::command(address)?[1..4]).arg(folders::guest(GUEST)?);
        command.stdin(std::process::Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let mut process = Process::start("wasmtime", command)?;
        let url = until("`wasmtime serve` says where it listens", PATIENCE, async || {
            let said = std::fs::read_to_string(&path)?;
            anyhow::ensure!(process.ended()?.is_none(), "`wasmtime serve` ended: {said}");
            Ok(said
                .lines()
                .find_map(|line| line.strip_prefix("Serving HTTP on "))
                .map(|url| url.trim_end_matches('/').to_owned()))
        })
        .await?;
        let answer = Http::at(&url)?.post("/", flood::payload(1)).await?.expect(200)?;
        anyhow::ensure!(answer.body[..] == flood::payload(1)[..], "it gives back what it gets: {answer:?}");
        Ok(Self { process, url, _log: dir })
    }
}

pub(super) fn steps(plan: &Plan) -> u64 {
    (plan.rounds * NAMES.len() * IN_FLIGHT.len()) as u64
}

/// A window for each number of connections. Redis, if there is one, is the first of the watched processes.
async fn windows(url: &str, redis: Option<u32>, worker: u32, plan: &Plan, bar: &ProgressBar) -> Result<Vec<Figures>> {
    let cpu_us = |pid: u32| Ok::<f64, anyhow::Error>(cpu_time(pid)?.as_secs_f64() * 1e6);
    let mut figures = Vec::new();
    wrk::run(url, &flood::payload(1), IN_FLIGHT[1], 1).await?;
    for in_flight in IN_FLIGHT {
        let before = (redis.map(cpu_us).transpose()?, cpu_us(worker)?);
        let said = wrk::run(url, &flood::payload(1), in_flight, plan.http_seconds).await?;
        let after = (redis.map(cpu_us).transpose()?, cpu_us(worker)?);
        let calls = said.calls as f64;
        figures.push(Figures {
            per_second: said.per_second,
            p50_us: said.p50_us,
            p99_us: said.p99_us,
            redis_us: after.0.zip(before.0).map_or(f64::NAN, |(after, before)| (after - before) / calls),
            worker_us: (after.1 - before.1) / calls,
            caller_us: f64::NAN,
            worker_mib: mib(worker)?,
        });
        bar.inc(1);
    }
    Ok(figures)
}

async fn baton(plan: &Plan, bar: &ProgressBar) -> Result<Vec<Figures>> {
    let redis = Redis::with(&REDIS).await?;
    let folder = Folder::with(&["echo"])?;
    let host = host::Host::with_http(&redis, &folder, &["echo".to_owned()]).await?;
    let url = host.http().await? + "/v1/call/echo";
    windows(&url, redis.pid(), host.pid(), plan, bar).await
}

async fn serve(plan: &Plan, bar: &ProgressBar) -> Result<Vec<Figures>> {
    let serve = Serve::start("127.0.0.1:0").await?;
    windows(&serve.url, None, serve.process.pid(), plan, bar).await
}

pub(super) async fn measure(plan: &Plan, against: &mut Against, bar: &ProgressBar) -> Result<Part> {
    let mut rounds = vec![vec![Vec::new(); IN_FLIGHT.len()]; NAMES.len()];
    for round in 0..plan.rounds {
        for turn in 0..NAMES.len() {
            let n = if round % 2 == 0 { turn } else { NAMES.len() - 1 - turn };
            bar.set_message(NAMES[n]);
            let figures = if NAMES[n] == BATON { baton(plan, bar).await } else { serve(plan, bar).await };
            for (at, figures) in rounds[n].iter_mut().zip(figures.context(NAMES[n])?) {
                at.push(figures);
            }
            // Closed connections of `wrk` are cleared away by the kernel meanwhile.
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }
    let figures: Vec<Vec<Figures>> =
        rounds.iter().map(|row| row.iter().map(|rounds| Figures::medians(rounds)).collect()).collect();
    let mut part = Part::default();
    let head: Vec<&str> = std::iter::once("who answers").chain(HEAD).collect();
    let mut table = Table::new("Calls over HTTP, by `wrk` with so many connections", &head);
    for (name, at) in NAMES.iter().zip(&figures) {
        for (in_flight, figures) in IN_FLIGHT.into_iter().zip(at) {
            table.row(std::iter::once((*name).to_owned()).chain(figures.cells(in_flight)).collect());
            part.json(&format!("{name}, {in_flight} in flight"), figures.json());
        }
        let line = |field: fn(&Figures) -> f64| Line {
            name,
            points: IN_FLIGHT.iter().zip(at).map(|(n, figures)| (*n as f64, field(figures))).collect(),
        };
        part.throughput.push(line(|f| f.per_second));
        part.latency.push((line(|f| f.p50_us), line(|f| f.p99_us)));
    }
    table.note = "`wasmtime serve` has no queue and keeps nothing; a call over Baton's HTTP is an entry in Redis first, and its \
                  result is kept.";
    part.tables.push(table);
    let (ours, theirs) = (figures[0][1].per_second, figures[1][1].per_second);
    let figure = format!("{} ({} of {}/s)", percent(ours / theirs), rate(ours), rate(theirs));
    part.goal(Goal::at_least("4", "echo over HTTP, 64 connections: `wasmtime serve`", ours / theirs, 1.0, figure, "x"));
    for (n, in_flight) in IN_FLIGHT.into_iter().enumerate() {
        rates::compare(against, in_flight, &figures[0][n], SERVE, &figures[1][n]);
    }
    Ok(part)
}
