//! The end of an idle host, the wake-up of a blocked reader, and what an idle host says to Redis.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use baton_broker::{BrokerConfig, Queue, ReadEnd, Reader};
use baton_model::{FunctionId, HostId};
use baton_tests::{CommandStats, Folder, Redis, sample, until, variant};
use indicatif::ProgressBar;
use serde_json::json;
use tokio::sync::mpsc;

use crate::host::Host;
use crate::plan::Plan;
use crate::report::{Goal, Part};
use crate::table::{Table, largest, median, quantile};

/// How many functions the idle host has.
const IDLE_FUNCTIONS: u32 = 20;
/// How long a host is left alone before it is held for idle.
const REST: Duration = Duration::from_millis(500);

const EXIT_MS: f64 = 100.0;
const WAKE_US: f64 = 1_000.0;
const IDLE_COMMANDS: f64 = 0.2;

pub(crate) async fn measure(plan: &Plan, bar: &ProgressBar) -> Result<Part> {
    let mut part = Part::default();
    let mut table = Table::new("Ends and idleness", &["what", "median", "longest", "unit"]);

    bar.set_message("SIGTERM");
    let exits = exits_ms(plan, bar).await?;
    row(&mut table, "SIGTERM to the end of an idle host", &exits, "ms");
    let worst = largest(exits.iter().copied());
    part.goal(Goal::at_most("7", "SIGTERM to exit, the longest", worst, EXIT_MS, format!("{worst:.1} ms"), "ms"));

    bar.set_message("wake-up");
    let wakes = wakes_us(plan).await?;
    bar.inc(1);
    row(&mut table, "wake-up of a blocked reader", &wakes, "µs");
    let p99 = quantile(wakes.iter().copied(), 0.99);
    part.goal(Goal::at_most("7", "wake-up of a reader, p99", p99, WAKE_US, format!("{p99:.0} µs"), "µs"));

    bar.set_message(format!("{} s of silence", plan.idle.as_secs()));
    let (said, per_second) = idle(plan).await?;
    bar.inc(1);
    let text = said.by_name.iter().map(|(name, count)| format!("{name} {count}")).collect::<Vec<_>>().join(", ");
    let what = format!("Redis commands of an idle host with {IDLE_FUNCTIONS} functions");
    table.row(vec![what, format!("{per_second:.2}"), String::new(), "a second".into()]);
    let figure = format!("{per_second:.2} a second ({text})");
    part.goal(Goal::at_most("5", "commands of an idle host", per_second, IDLE_COMMANDS, figure, "a second"));

    part.tables.push(table);
    part.json("sigterm_to_exit_ms", json!(exits));
    part.json("wake_up_us", json!({"median": median(wakes.iter().copied()), "p99": p99, "longest": largest(wakes)}));
    part.json("idle", json!({"seconds": plan.idle.as_secs(), "commands": said.by_name, "per_second": per_second}));
    Ok(part)
}

fn row(table: &mut Table, what: &str, figures: &[f64], unit: &str) {
    let (middle, longest) = (median(figures.iter().copied()), largest(figures.iter().copied()));
    table.row(vec![what.into(), format!("{middle:.1}"), format!("{longest:.1}"), unit.into()]);
}

async fn exits_ms(plan: &Plan, bar: &ProgressBar) -> Result<Vec<f64>> {
    let redis = Redis::start().await?;
    let folder = Folder::with(&["echo", "hello"])?;
    let mut took = Vec::new();
    for _ in 0..plan.stops {
        let mut host = Host::start(&redis, &folder, &["echo".to_owned(), "hello".to_owned()]).await?;
        tokio::time::sleep(REST).await;
        let start = Instant::now();
        host.terminate()?;
        host.ended().await?;
        took.push(start.elapsed().as_secs_f64() * 1e3);
        bar.inc(1);
    }
    Ok(took)
}

/// From the request to wake a reader to its return, in microseconds.
async fn wakes_us(plan: &Plan) -> Result<Vec<f64>> {
    let redis = Redis::start().await?;
    let mut look = redis.connect().await?;
    let config = BrokerConfig::new(redis.url());
    let function: FunctionId = "default/echo".parse()?;
    let queue = Queue::new(&config)?;
    queue.ensure_groups(std::slice::from_ref(&function)).await?;
    let (mut reader, waker) = Reader::new(&config, HostId::parse("bench").context("a host id")?)?;
    let from = ReadEnd::new(queue.keys(), vec![function]);
    let (tell, mut returned) = mpsc::channel(4);
    let reading = tokio::spawn(async move {
        loop {
            let read = reader.read(&from, 1, Some(Duration::from_secs(30))).await;
            let is_over = read.is_err();
            // The other side is gone when all is measured.
            if tell.send((Instant::now(), read)).await.is_err() || is_over {
                return;
            }
        }
    });
    let mut took = Vec::new();
    for _ in 0..plan.wakes {
        until("the reader blocks", Duration::from_secs(10), async || {
            let said: String = redis::cmd("INFO").arg("clients").query_async(&mut look).await?;
            Ok(said.contains("blocked_clients:1").then_some(()))
        })
        .await?;
        // A wake-up that meets a read also ends the next one, so that none is missed; that return is not measured.
        while returned.try_recv().is_ok() {}
        let start = Instant::now();
        waker.wake().await;
        let (at, read) = returned.recv().await.context("the reader ended")?;
        ensure!(read?.is_empty(), "there was nothing to read");
        took.push(at.saturating_duration_since(start).as_secs_f64() * 1e6);
    }
    reading.abort();
    Ok(took)
}

/// What an idle host said to Redis, and how many commands a second that is.
async fn idle(plan: &Plan) -> Result<(CommandStats, f64)> {
    let redis = Redis::start().await?;
    let folder = Folder::new()?;
    let echo = sample("echo")?;
    let functions: Vec<String> = (0..IDLE_FUNCTIONS).map(|n| format!("idle-{n}")).collect();
    for (n, function) in (0..).zip(&functions) {
        folder.install(function, &variant(&echo, n))?;
    }
    let _host = Host::start(&redis, &folder, &functions).await?;
    tokio::time::sleep(REST * 4).await;
    let mut look = redis.connect().await?;
    let before = CommandStats::read(&mut look).await?;
    tokio::time::sleep(plan.idle).await;
    let mut said = CommandStats::read(&mut look).await?.since(&before);
    // The first of our own two looks is among them.
    said.total -= 1;
    said.by_name.remove("info");
    let per_second = said.total as f64 / plan.idle.as_secs_f64();
    Ok((said, per_second))
}
