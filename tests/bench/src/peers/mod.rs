//! Baton beside what people use today, in one run: BullMQ, a plain worker on Redis Streams, and `wasmtime serve`.
//!
//! Callers of queues are Node processes with one driver for all (tests/bench/peers/caller.mjs), HTTP is called by `wrk`. Each
//! peer has a redis-server of its own that keeps an append-only file, as Baton's own does.

mod against;
mod caller;
mod idle;
mod kills;
mod queues;
mod rates;
mod web;

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use indicatif::MultiProgress;
use tokio::process::Command;

use crate::report::{PEERS, Part, Report};
use crate::{folders, progress, show};
use against::Against;
use queues::{Queue, REDIS};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// About four minutes instead of about eight: fewer rounds, shorter ones
    #[arg(long)]
    quick: bool,
    /// Put the table into docs/performance.md and the plots beside it
    #[arg(long)]
    write_docs: bool,
    /// Where the JSON goes [default: bench-results in the repository]
    #[arg(long, value_name = "DIR")]
    results: Option<PathBuf>,
}

/// How often and how long each part measures.
#[derive(Debug, Clone)]
struct Plan {
    name: &'static str,
    /// Rounds of the rates; the peers take turns in each.
    rounds: usize,
    /// What comes before each measured window, and, thrice, before the first: Node compiles what is hot meanwhile.
    warm_up: Duration,
    window: Duration,
    /// `wrk` knows whole seconds.
    http_seconds: u64,
    /// Calls that meet a kill.
    kill_calls: usize,
    /// How long they may take. BullMQ's looks for stalled jobs are 30 s apart, and it takes two or three of them.
    kill_limit: Duration,
    idle: Duration,
}

impl Plan {
    fn full() -> Self {
        Self {
            name: "full",
            rounds: 3,
            warm_up: Duration::from_millis(500),
            window: Duration::from_secs(2),
            http_seconds: 3,
            kill_calls: 2_000,
            kill_limit: Duration::from_secs(150),
            idle: Duration::from_secs(30),
        }
    }

    fn quick() -> Self {
        Self {
            name: "quick",
            rounds: 1,
            warm_up: Duration::from_millis(300),
            window: Duration::from_secs(1),
            http_seconds: 1,
            idle: Duration::from_secs(10),
            ..Self::full()
        }
    }
}

pub(crate) async fn run(args: &Args) -> Result<()> {
    let plan = if args.quick { Plan::quick() } else { Plan::full() };
    let versions = versions().await?;
    let mut report = Report::new(&PEERS, plan.name)?;
    let (screen, mut against) = (MultiProgress::new(), Against::default());
    for (n, name) in SECTIONS.into_iter().enumerate() {
        let steps = match name {
            "rates" => rates::steps(&plan),
            "http" => web::steps(&plan),
            "kills" => kills::STEPS,
            _ => 1,
        };
        let bar = progress(&screen, steps, format!("{}/{} {name}", n + 1, SECTIONS.len()))?;
        let started = report.begin(name);
        let part = match name {
            "rates" => rates::measure(&plan, &mut against, &bar).await,
            "http" => web::measure(&plan, &mut against, &bar).await,
            "kills" => Box::pin(kills::measure(&plan, &mut against, &bar)).await,
            _ => idle::measure(&plan, &mut against, &bar).await,
        };
        report.end(started, part);
        bar.finish_with_message("done");
    }
    let mut last = Part::default();
    last.remarks.push(against.remark());
    last.remarks.push(("Versions".to_owned(), versions));
    last.remarks.push(("Commands (as one terminal would start them)".to_owned(), commands()?));
    report.end(report.begin("against"), Ok(last));
    show(&report, args.results.clone(), args.write_docs)
}

const SECTIONS: [&str; 4] = ["rates", "http", "kills", "idle"];

/// What is compared, by what each says of itself. An error if something is not installed.
async fn versions() -> Result<Vec<String>> {
    let packages = folders::peers().join("node_modules");
    let mut said = vec![format!("Baton {}", env!("CARGO_PKG_VERSION"))];
    for package in ["bullmq", "ioredis", "redis"] {
        let path = packages.join(package).join("package.json");
        let text = std::fs::read_to_string(&path)
            .with_context(|| format!("{} cannot be read: `make bench-peers` installs it", path.display()))?;
        let about: serde_json::Value = serde_json::from_str(&text)?;
        said.push(format!("{package} {} (npm)", about["version"].as_str().context("a package has a version")?));
    }
    let node = output(Command::new("node").arg("--version")).await.context("`make bench-peers` installs Node")?;
    said.push(format!("Node {node}"));
    let wasmtime = folders::wasmtime()?;
    let version = output(Command::new(&wasmtime).arg("--version")).await;
    said.push(version.with_context(|| format!("{}: `make bench-peers` installs it", wasmtime.display()))?);
    Ok(said)
}

async fn output(command: &mut Command) -> Result<String> {
    let output = command.stdin(Stdio::null()).output().await?;
    ensure!(output.status.success(), "it ended with {}: {}", output.status, String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}

/// What is started. Folders of a run are written as variables.
fn commands() -> Result<Vec<String>> {
    let redis: Vec<String> = REDIS.iter().map(|(name, value)| format!("--{name} {value}")).collect();
    let mut lines = vec![
        format!("`redis-server --port 0 --save '' {} --unixsocket $SOCKET --dir $DIR`", redis.join(" ")),
        "`baton serve --redis redis+unix://$SOCKET --plugins $PLUGINS --data $DATA --no-http`, and with `--http 127.0.0.1:0` \
         where HTTP is measured"
            .to_owned(),
    ];
    for queue in Queue::ALL {
        lines.extend(queue.worker_file().map(|file| format!("`node tests/bench/peers/{file} $SOCKET`")));
        lines.extend(queue.callers().iter().map(|file| format!("`node tests/bench/peers/caller.mjs {file} $SOCKET`")));
    }
    lines.push(format!("`{}`", web::command("127.0.0.1:0")?.join(" ")));
    lines.push(
        "`wrk --threads 1 --latency --timeout 10s --connections N --duration Ts --script POST.lua $URL`".to_owned(),
    );
    Ok(lines)
}
