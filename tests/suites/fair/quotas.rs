//! Quotas of functions and tenants: what is over them waits, and is then run.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use baton_tests::settings::{PATIENCE, SEATS};
use baton_tests::{CommandStats, Stage, cpu_time, sample, until};

use super::{at_once, starts};

#[tokio::test]
async fn a_function_runs_no_more_at_once_than_its_quota_and_the_rest_waits_in_redis() -> Result<()> {
    let mut stage = Stage::with(&["sleep", "echo"]).await?;
    stage.folder.write_manifest("sleep", "quotas.concurrency = 2\n")?;
    let _host = stage.host().start_ready(&["sleep", "echo"]).await?;
    let calls = stage.caller.send_many("sleep", r#"{"ms":20}"#, 60).await?;
    let mut most_pending = 0;
    let results = until("all have a result", PATIENCE, async || {
        most_pending = most_pending.max(stage.caller.pending("sleep").await?.len());
        // A sibling without a quota is not held up.
        stage.caller.call("echo", "x").await?;
        let found = stage.caller.results_now("sleep", &calls).await?;
        Ok(found.iter().all(Option::is_some).then(|| found.into_iter().flatten().collect::<Vec<_>>()))
    })
    .await?;
    starts(&results)?;
    ensure!(at_once(&results) == 2, "{} ran at once", at_once(&results));
    ensure!(most_pending <= 2, "the rest waits in Redis, where other hosts have it: {most_pending}");
    stage.caller.quiescent("sleep").await
}

#[tokio::test]
async fn a_tenant_s_quota_binds_all_its_functions_together() -> Result<()> {
    let mut stage = Stage::with(&[]).await?;
    let sleep = sample("sleep")?;
    let names = ["acme/a", "acme/b", "acme/c", "other/d"];
    names.iter().try_for_each(|name| stage.folder.install(name, &sleep))?;
    stage.folder.write_tenant("acme", "quotas.concurrency = 2\n")?;
    let _host = stage.host().start_ready(&names).await?;
    let mut calls = Vec::new();
    for name in &names[..3] {
        calls.push((name, stage.caller.send_many(name, r#"{"ms":20}"#, 20).await?));
    }
    stage.caller.call("other/d", r#"{"ms":1}"#).await?;
    let mut all = Vec::new();
    for (name, ids) in &calls {
        all.extend(stage.caller.results(name, ids, PATIENCE).await?);
    }
    starts(&all)?;
    ensure!(at_once(&all) == 2, "{} ran at once", at_once(&all));
    Ok(())
}

#[tokio::test]
async fn calls_begin_at_their_rate_after_a_burst_of_a_second() -> Result<()> {
    let mut stage = Stage::with(&["echo"]).await?;
    stage.folder.write_manifest("echo", "quotas.calls_per_second = 20\n")?;
    let _host = stage.host().start_ready(&["echo"]).await?;
    let calls = stage.caller.send_many("echo", "x", 60).await?;
    let begun = starts(&stage.caller.results("echo", &calls, PATIENCE).await?)?;
    let took = begun[59] - begun[0];
    println!("60 calls at 20 a second began within {took} ms");
    // Twenty at once, then one every 50 ms; a millisecond is lost by rounding.
    ensure!(took >= 1_949, "{took} ms");
    ensure!(begun[19] - begun[0] < took / 2, "a burst is let through: {begun:?}");
    Ok(())
}

#[tokio::test]
async fn cpu_time_is_held_to_its_quota() -> Result<()> {
    let mut stage = Stage::with(&["wordcount"]).await?;
    stage.folder.write_manifest("wordcount", "limits.time_ms = 60000\n")?;
    let mut host = stage.host().start_ready(&["wordcount"]).await?;
    let text = format!(r#"{{"text":"{}"}}"#, "so many words to count and never an end of them ".repeat(18_000));
    let before = cpu_time(host.pid())?;
    for _ in 0..20 {
        stage.caller.call("wordcount", &text).await?;
    }
    let free = cpu_time(host.pid())? - before;
    // A quarter of it may be the host's own: reading, settling, and whatever else it does.
    let quota = (free / 8).as_millis().max(2) as u64;
    stage
        .folder
        .write_manifest("wordcount", &format!("limits.time_ms = 60000\nquotas.cpu_ms_per_second = {quota}\n"))?;
    host.ready("wordcount").await?;
    let began = Instant::now();
    let calls = stage.caller.send_many("wordcount", &text, 20).await?;
    starts(&stage.caller.results("wordcount", &calls, PATIENCE * 2).await?)?;
    println!("{free:?} of CPU time took {:?} with {quota} ms a second", began.elapsed());
    ensure!(
        began.elapsed() > Duration::from_secs(3),
        "eight seconds' worth, less the burst and what was the host's own"
    );
    Ok(())
}

#[tokio::test]
async fn a_quota_that_is_lifted_holds_back_no_more() -> Result<()> {
    let mut stage = Stage::with(&[]).await?;
    stage.folder.install("acme/sleep", &sample("sleep")?)?;
    stage.folder.write_tenant("acme", "quotas.concurrency = 1\n")?;
    let _host = stage.host().start_ready(&["acme/sleep"]).await?;
    let calls = stage.caller.send_many("acme/sleep", r#"{"ms":500}"#, 40).await?;
    stage.caller.until_pending("acme/sleep", 1).await?;
    stage.folder.write_tenant("acme", "weight = 1\n")?;
    let results = stage.caller.results("acme/sleep", &calls, PATIENCE).await?;
    ensure!(at_once(&results) > 10, "the rest ran at once: {}", at_once(&results));
    Ok(())
}

#[tokio::test]
async fn a_host_that_ends_gives_back_what_waits_for_a_quota() -> Result<()> {
    let mut stage = Stage::with(&[]).await?;
    let sleep = sample("sleep")?;
    let names = ["acme/a", "acme/b", "acme/c", "acme/d"];
    names.iter().try_for_each(|name| stage.folder.install(name, &sleep))?;
    stage.folder.write_tenant("acme", "quotas.concurrency = 1\n")?;
    // One each, there before the host is: a read brings them together, and all but one wait for their turn.
    for name in names {
        stage.caller.send(name, r#"{"ms":400}"#).await?;
    }
    let mut host = stage.host().start_ready(&names).await?;
    until("one of them runs", PATIENCE, async || {
        let mut pending = 0;
        for name in names {
            pending += stage.caller.pending(name).await?.len();
        }
        Ok((pending > 0).then_some(()))
    })
    .await?;
    host.stop().await?;
    let mut left = 0;
    for name in names {
        ensure!(stage.caller.pending(name).await?.is_empty(), "nothing of {name} is left with a host that is gone");
        left += stage.caller.entries(name).await?;
    }
    println!("{left} calls were left for others");
    let _next = stage.host().start_ready(&names).await?;
    for name in names {
        stage.caller.quiescent(name).await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_host_that_is_held_back_leaves_redis_alone() -> Result<()> {
    let mut stage = Stage::with(&["sleep", "echo"]).await?;
    stage.folder.write_manifest("sleep", "quotas.concurrency = 1\n")?;
    let _host = stage.host().setting(SEATS, 8).start_ready(&["sleep", "echo"]).await?;
    stage.caller.call("echo", "x").await?;
    stage.caller.send_many("sleep", r#"{"ms":20000}"#, 10).await?;
    stage.caller.until_pending("sleep", 1).await?;
    // The window is what is measured, not something waited for.
    let window = Duration::from_secs(5);
    let before = CommandStats::read(stage.caller.connection()).await?;
    tokio::time::sleep(window).await;
    let used = CommandStats::read(stage.caller.connection()).await?.since(&before);
    println!("within {window:?}: {used}");
    ensure!(used.total <= 15, "whoever waits for an end is told of it, and does not ask: {used}");
    Ok(())
}
