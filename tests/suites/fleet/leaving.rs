//! Hosts that are asked to leave while there is work.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use baton_model::Digest;
use baton_tests::settings::{DRAIN_TIMEOUT, PATIENCE, SEATS, full_length};
use baton_tests::{Batch, CommandStats, Fleet, Load, Signal, Stage, now_ms, sample};

use super::{SOON, host_of, only_these_consume};

#[tokio::test]
async fn a_rolling_restart_under_load_is_seen_by_no_caller() -> Result<()> {
    let (per_second, lasts) =
        if full_length() { (1_000, Duration::from_secs(30)) } else { (300, Duration::from_secs(8)) };
    let mut stage = Stage::with(&["sleep"]).await?;
    let mut fleet = Fleet::of(3, &stage.host().setting(SEATS, 128), &["sleep"]).await?;
    let load = Load { function: "sleep".into(), per_second, lasts, in_flight_max: 100_000 };
    let load = load.start_sleeping(stage.redis.address(), Duration::from_millis(20));
    for at in 0..3 {
        tokio::time::sleep(lasts / 8).await;
        fleet.stop(at).await?;
        fleet.replace(at).await?;
    }
    let report = load.report().await?;
    println!("{}", report.summary());
    ensure!(report.calls.len() == (lasts.as_secs() * u64::from(per_second)) as usize, "Redis took every call");
    report.check_exact(&BTreeSet::from([Digest::of(&sample("sleep")?)]))?;
    stage.caller.quiescent("sleep").await?;
    only_these_consume(&mut stage.caller, "sleep", &fleet).await
}

/// What `docker stop` does: SIGTERM, and SIGKILL when that took too long.
#[tokio::test]
async fn a_host_that_is_killed_while_it_drains_loses_nothing() -> Result<()> {
    let (call_ms, grace) =
        if full_length() { (60_000, Duration::from_secs(10)) } else { (6_000, Duration::from_secs(2)) };
    const CALLS: usize = 20;
    let mut stage = Stage::with(&["sleep"]).await?;
    let plan = stage.host().setting(SEATS, 32).argument(DRAIN_TIMEOUT).argument("120s");
    let mut fleet = Fleet::of(1, &plan, &["sleep"]).await?;
    let payload = format!(r#"{{"ms":{call_ms}}}"#);
    let mut batch = Batch::send(&stage.redis.address(), "sleep", &payload, CALLS).await?;
    batch.owners().await?;
    let successor = fleet.add(plan).await?;

    fleet.signal(0, Signal::TERM)?;
    ensure!(fleet.exit_within(0, grace).await.is_err(), "it waits for its calls");
    ensure!(batch.owners().await?.len() == CALLS, "and all of them are still its own");
    let killed_ms = now_ms();
    fleet.kill(0).await?;
    let limit = Duration::from_millis(call_ms) + PATIENCE * 2;
    for answer in batch.answers(limit).await? {
        ensure!(host_of(&answer)? == fleet.id(successor).as_str() && answer.attempts == 2, "{answer:?}");
        let waited = answer.started_ms.context("an attempt has a start")?.saturating_sub(killed_ms);
        ensure!(u128::from(waited) < SOON.as_millis(), "it waited {waited} ms for its lease: {answer:?}");
    }
    batch.check_notices().await?;
    stage.caller.quiescent("sleep").await
}

#[tokio::test]
async fn a_host_that_drains_beside_others_leaves_redis_alone() -> Result<()> {
    let mut stage = Stage::with(&["sleep"]).await?;
    let mut fleet = Fleet::of(2, &stage.host().setting(SEATS, 10), &["sleep"]).await?;
    let mut batch = Batch::send(&stage.redis.address(), "sleep", r#"{"ms":3000}"#, 20).await?;
    batch.owners().await?;
    let before = CommandStats::read(stage.caller.connection()).await?;
    fleet.signal(0, Signal::TERM)?;
    ensure!(fleet.exit_within(0, PATIENCE).await?.code() == Some(0), "it leaves with 0");
    let used = CommandStats::read(stage.caller.connection()).await?.since(&before);
    // Two hosts look at each other some times a second for three seconds; one that spins does so some ten thousand times.
    ensure!(used.total < 500, "a drain is quiet: {used}");
    batch.answers(PATIENCE).await?;
    stage.caller.quiescent("sleep").await
}
