//! The long run: reloads and calls without an end in sight, and a host that does not grow by them. `make soak`.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use baton_model::Status;
use baton_tests::settings::{RESULT_TTL_MS, full_length, is_asked};
use baton_tests::{Stage, sample, variant};

use crate::measures::Held;

/// How many calls are sent in one go.
const BATCH: usize = 500;

/// After so many reloads a host is warm: its pool has places that were used before for whatever comes.
const WARM_RELOADS: u32 = 300;

/// The share by which a warm host's memory may grow until the end.
const GROWTH_MAX: f64 = 0.05;

/// The same of the short run, in which a thread that comes late is three per cent.
const GROWTH_MAX_SHORT: f64 = 0.10;

#[tokio::test]
async fn a_host_does_not_grow_by_reloads_and_calls() -> Result<()> {
    let (reloads, calls, growth_max) = match (full_length(), is_asked("BATON_SOAK")) {
        (true, _) => (10_000, 1_000_000, GROWTH_MAX),
        (false, true) => (1_000, 100_000, GROWTH_MAX),
        // With all other tests: just beyond the point where a host is warm.
        (false, false) => (500, 50_000, GROWTH_MAX_SHORT),
    };
    let stage = Stage::with(&["hello", "echo"]).await?;
    // Results of a minute ago are of no use here, and would fill Redis.
    let mut host = stage.host().setting(RESULT_TTL_MS, 60_000).start_ready(&["hello", "echo"]).await?;
    let hello = sample("hello")?;
    let mut caller = stage.caller.clone();
    let mut first = None;
    let start = Instant::now();
    let mut sent = 0;
    for n in 1..=reloads {
        let next = variant(&hello, n);
        stage.folder.install("hello", &next)?;
        // Calls go on while the file is taken in, half of them to the function that changes.
        while sent < calls / reloads as usize * n as usize {
            for function in ["hello", "echo"] {
                let ids = caller.send_many(function, "{}", BATCH / 2).await?;
                let answers = caller.results(function, &ids, Duration::from_secs(60)).await?;
                ensure!(answers.iter().all(|answer| answer.status == Status::Ok), "a call failed after {sent} calls");
            }
            sent += BATCH;
        }
        host.ready_with("hello", &next).await?;
        if n % (reloads / 10) == 0 {
            let held = Held::by(host.pid())?;
            println!("{n} reloads, {sent} calls, {:.0?}: {held:?}", start.elapsed());
            if n >= WARM_RELOADS {
                first.get_or_insert(held);
            }
        }
    }
    let (first, last) = (first.expect("it got warm"), Held::by(host.pid())?);
    let grown = last.rss_bytes as f64 / first.rss_bytes as f64 - 1.0;
    println!("grown by {:.1} % from {first:?} to {last:?}", grown * 100.0);
    ensure!(grown < growth_max, "the host has grown by {:.1} %: from {first:?} to {last:?}", grown * 100.0);
    ensure!(last.files <= first.files + 2 && last.threads <= first.threads + 2, "from {first:?} to {last:?}");
    ensure!(last.maps <= first.maps + first.maps / 20 + 16, "from {first:?} to {last:?}");
    Ok(())
}
