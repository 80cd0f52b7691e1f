//! A host that is asked to stop.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use baton_model::Status;
use baton_tests::settings::{DRAIN_TIMEOUT, PATIENCE, SEATS};
use baton_tests::{Host, Signal, Stage};

/// Waits until the world is told that the host stops taking calls of `function`.
async fn draining(host: &mut Host, function: &str) -> Result<serde_json::Value> {
    let function = function.parse()?;
    let told = host.events()?.wait_for("shutdown", PATIENCE, |event| event.tells("shutdown", &function)).await?;
    Ok(told.message)
}

#[tokio::test]
async fn sigterm_lets_fifty_calls_in_flight_finish_and_exits_with_zero() -> Result<()> {
    let mut stage = Stage::with(&["sleep"]).await?;
    let mut host = stage.host().setting(SEATS, 64).start_ready(&["sleep"]).await?;
    let id = host.id().await?;
    let ids = stage.caller.send_many("sleep", r#"{"ms":2000}"#, 50).await?;
    stage.caller.until_pending("sleep", 50).await?;
    let start = Instant::now();
    host.signal(Signal::TERM)?;
    let told = draining(&mut host, "sleep").await?;
    ensure!(told["host"] == id.as_str() && told["machine"].is_string(), "who shuts down: {told}");
    ensure!(told["digest"].is_string() && told["drain_ms"].is_u64(), "what and how long: {told}");
    let status = host.exit_within(PATIENCE).await?;
    println!("SIGTERM to exit with 50 calls of 2 s in flight: {:?}", start.elapsed());
    ensure!(status.code() == Some(0), "{status}");
    ensure!(start.elapsed() < Duration::from_secs(8), "it took {:?}", start.elapsed());
    let function = "sleep".parse()?;
    host.events()?.wait_for("offline", PATIENCE, |event| event.tells("offline", &function)).await?;

    // All of them are there already: nobody else is left who could answer.
    for answer in stage.caller.results_now("sleep", &ids).await? {
        let answer = answer.context("every call in flight was answered")?;
        ensure!((answer.status, answer.attempts) == (Status::Ok, 1), "{answer:?}");
    }
    stage.caller.quiescent("sleep").await?;
    ensure!(stage.caller.consumers("sleep").await?.is_empty(), "it left no consumer behind");
    let listing = host.commands().listing().await?;
    ensure!(listing.state(&id) == "offline (shutdown)", "it stays listed: {listing:?}");
    Ok(())
}

#[tokio::test]
async fn every_signal_of_the_contract_drains_the_host() -> Result<()> {
    let mut stage = Stage::with(&["sleep"]).await?;
    for signal in [Signal::TERM, Signal::INT, Signal::QUIT, Signal::HUP] {
        let mut host = stage.host().setting(SEATS, 16).start_ready(&["sleep"]).await?;
        let ids = stage.caller.send_many("sleep", r#"{"ms":800}"#, 5).await?;
        stage.caller.until_pending("sleep", 5).await?;
        host.signal(signal)?;
        let status = host.exit_within(PATIENCE).await?;
        ensure!(status.code() == Some(0), "{signal:?}: {status}");
        for answer in stage.caller.results_now("sleep", &ids).await? {
            let answer = answer.with_context(|| format!("{signal:?}: a call was not answered"))?;
            ensure!((answer.status, answer.attempts) == (Status::Ok, 1), "{signal:?}: {answer:?}");
        }
        stage.caller.quiescent("sleep").await?;
    }
    Ok(())
}

#[tokio::test]
async fn an_idle_host_exits_at_once() -> Result<()> {
    let stage = Stage::with(&["echo", "hello"]).await?;
    let mut took = Vec::new();
    for _ in 0..3 {
        let mut host = stage.host().start_ready(&["echo", "hello"]).await?;
        let start = Instant::now();
        host.stop().await?;
        took.push(start.elapsed());
    }
    took.sort();
    println!("SIGTERM to exit when idle: {took:?}");
    // The goal is 100 ms on a quiet machine. Whoever waits for a blocked read to come back takes thirty seconds.
    ensure!(took[0] < Duration::from_secs(1), "{took:?}");
    Ok(())
}

#[tokio::test]
async fn a_draining_host_takes_no_further_call() -> Result<()> {
    let mut stage = Stage::with(&["sleep", "echo"]).await?;
    let mut leaving = stage.host().setting(SEATS, 16).start_ready(&["sleep", "echo"]).await?;
    let in_flight = stage.caller.send_many("sleep", r#"{"ms":1500}"#, 4).await?;
    stage.caller.until_pending("sleep", 4).await?;
    leaving.signal(Signal::TERM)?;
    draining(&mut leaving, "echo").await?;
    // Its reader may be on its way out; what it still takes it answers. Once the host is gone, the rest waits.
    let late = stage.caller.send_many("echo", "late", 10).await?;
    ensure!(leaving.exit_within(PATIENCE).await?.code() == Some(0), "it leaves with 0");
    ensure!(stage.caller.results_now("sleep", &in_flight).await?.iter().all(Option::is_some), "what ran was answered");
    ensure!(stage.caller.pending("echo").await?.is_empty(), "nothing was taken and left");
    let _next = stage.host().start_ready(&["echo"]).await?;
    for answer in stage.caller.results("echo", &late, PATIENCE).await? {
        ensure!((answer.status, answer.attempts) == (Status::Ok, 1), "{answer:?}");
    }
    stage.caller.quiescent("echo").await
}

#[tokio::test]
async fn a_second_signal_ends_the_host_at_once_and_loses_nothing() -> Result<()> {
    let mut stage = Stage::with(&["sleep"]).await?;
    let mut host = stage.host().setting(SEATS, 32).start_ready(&["sleep"]).await?;
    let ids = stage.caller.send_many("sleep", r#"{"ms":4000}"#, 20).await?;
    stage.caller.until_pending("sleep", 20).await?;
    host.signal(Signal::TERM)?;
    draining(&mut host, "sleep").await?;
    let start = Instant::now();
    host.signal(Signal::TERM)?;
    let status = host.exit_within(PATIENCE).await?;
    println!("second signal to exit: {:?}", start.elapsed());
    ensure!(status.code() == Some(1), "{status}");
    ensure!(start.elapsed() < Duration::from_secs(2), "at once is not {:?}", start.elapsed());

    let lease = baton_tests::settings::LEASE_MS;
    let _next = stage.host().setting(SEATS, 32).setting(lease, 1_000).start_ready(&["sleep"]).await?;
    for answer in stage.caller.results("sleep", &ids, PATIENCE).await? {
        ensure!(answer.status == Status::Ok, "{answer:?}");
    }
    stage.caller.quiescent("sleep").await
}

#[tokio::test]
async fn what_outlasts_the_drain_is_handed_to_a_successor_at_once() -> Result<()> {
    let mut stage = Stage::with(&["sleep"]).await?;
    let plan = stage.host().setting(SEATS, 32).argument(DRAIN_TIMEOUT).argument("1s");
    let mut leaving = plan.start_ready(&["sleep"]).await?;
    let ids = stage.caller.send_many("sleep", r#"{"ms":5000}"#, 20).await?;
    stage.caller.until_pending("sleep", 20).await?;
    // With the lease of thirty seconds: a successor that is served in time was not waiting for it to lapse.
    let successor = stage.host().setting(SEATS, 32).start_ready(&["sleep"]).await?;
    let start = Instant::now();
    leaving.signal(Signal::TERM)?;
    let status = leaving.exit_within(Duration::from_secs(4)).await?;
    ensure!(status.code() == Some(0), "{status}");
    let id = successor.id().await?;
    for answer in stage.caller.results("sleep", &ids, Duration::from_secs(20)).await? {
        ensure!(answer.status == Status::Ok && answer.host.as_ref() == Some(&id), "{answer:?}");
    }
    println!("handed back and answered within {:?}", start.elapsed());
    stage.caller.quiescent("sleep").await
}
