//! A caller of a function that nobody has yet.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use baton_tests::settings::{CALL_TIMEOUT, PATIENCE};
use baton_tests::{Address, Commands, Finished, Fleet, Stage, sample, until};
use serde_json::Value;
use tokio::task::JoinHandle;

use super::SOON;

/// A `baton call` of `sleep` that has been accepted and waits.
async fn waiting_call(stage: &mut Stage) -> Result<JoinHandle<Result<Finished>>> {
    let commands = Commands::at_redis(&stage.redis.url());
    let call =
        tokio::spawn(
            async move { commands.run(&["call", "sleep", "--data", r#"{"ms":1}"#, CALL_TIMEOUT, "25s"]).await },
        );
    until("the call stands in its stream", PATIENCE, async || {
        Ok((stage.caller.entries("sleep").await? == 1).then_some(()))
    })
    .await?;
    ensure!(!call.is_finished(), "it waits");
    Ok(call)
}

/// Whether the call was answered well, and was sent once.
async fn is_answered(stage: &mut Stage, call: JoinHandle<Result<Finished>>) -> Result<()> {
    let finished = tokio::time::timeout(SOON, call).await.context("the caller was not woken")???.expect(0)?;
    ensure!(finished.stdout.trim() == "slept 1", "{finished:?}");
    let sent = sent(stage).await?;
    ensure!(sent == 1, "the call was sent {sent} times");
    stage.caller.quiescent("sleep").await
}

/// How many entries the stream ever had.
async fn sent(stage: &mut Stage) -> Result<u64> {
    let mut ask = redis::cmd("XINFO");
    ask.arg(&["STREAM", "baton:{default/sleep}:calls"]);
    let mut facts: BTreeMap<String, redis::Value> = ask.query_async(stage.caller.connection()).await?;
    let added = facts.remove("entries-added").context("Redis counts what was added")?;
    Ok(redis::from_redis_value(added)?)
}

#[tokio::test]
async fn a_caller_of_an_absent_function_is_answered_when_it_becomes_ready() -> Result<()> {
    let mut stage = Stage::with(&["echo"]).await?;
    let mut fleet = Fleet::of(2, &stage.host(), &["echo"]).await?;
    let call = waiting_call(&mut stage).await?;
    stage.folder.install("sleep", &sample("sleep")?)?;
    fleet.host_mut(0).ready("sleep").await?;
    is_answered(&mut stage, call).await
}

#[tokio::test]
async fn a_caller_is_answered_when_the_first_host_comes() -> Result<()> {
    let mut stage = Stage::with(&["sleep"]).await?;
    let call = waiting_call(&mut stage).await?;
    let mut host = stage.host().start().await?;
    host.ready("sleep").await?;
    is_answered(&mut stage, call).await
}

/// Kills every subscription again and again, as long as it is kept.
struct NoPubSub(JoinHandle<Result<()>>);

impl NoPubSub {
    async fn on(redis: &Address) -> Result<Self> {
        let mut connection = redis.connect().await?;
        Ok(Self(tokio::spawn(async move {
            let mut due = tokio::time::interval(Duration::from_millis(50));
            loop {
                due.tick().await;
                redis::cmd("CLIENT").arg(&["KILL", "TYPE", "pubsub"]).exec_async(&mut connection).await?;
            }
        })))
    }
}

impl Drop for NoPubSub {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[tokio::test]
async fn without_pub_sub_a_caller_of_an_absent_function_is_answered_all_the_same() -> Result<()> {
    let mut stage = Stage::with(&["echo"]).await?;
    let mut host = stage.host().start_ready(&["echo"]).await?;
    let no_pub_sub = NoPubSub::on(&stage.redis.address()).await?;
    let call = waiting_call(&mut stage).await?;
    stage.folder.install("sleep", &sample("sleep")?)?;
    host.listed("sleep").await?;
    is_answered(&mut stage, call).await?;
    ensure!(!no_pub_sub.0.is_finished(), "subscriptions were killed all the time");
    // And a call to a function that is there.
    let start = Instant::now();
    let finished =
        host.commands().run(&["call", "echo", "--data", r#""again""#, CALL_TIMEOUT, "25s"]).await?.expect(0)?;
    ensure!(
        finished.stdout.trim() == r#""again""# && start.elapsed() < SOON,
        "{finished:?} after {:?}",
        start.elapsed()
    );
    ensure!(host.runs()?, "the host goes on");
    Ok(())
}

/// Yes, or a number of them.
fn says_yes(value: &Value) -> bool {
    value.as_bool().or(value.as_u64().map(|count| count > 0)).unwrap_or(false)
}

#[tokio::test]
async fn a_listing_says_that_callers_wait_for_a_function_that_nobody_has() -> Result<()> {
    let mut stage = Stage::with(&["echo"]).await?;
    let fleet = Fleet::of(1, &stage.host(), &["echo"]).await?;
    let call = waiting_call(&mut stage).await?;
    let listing = fleet.listing().await?;
    let row = listing.function("default/sleep").context("a function that is called for is listed")?;
    ensure!(row["available"] == false && says_yes(&row["callers_waiting"]), "{row}");
    stage.folder.install("sleep", &sample("sleep")?)?;
    is_answered(&mut stage, call).await?;
    let listing = fleet.listing().await?;
    let row = listing.function("default/sleep").context("it is listed")?;
    ensure!(row["available"] == true && !says_yes(&row["callers_waiting"]), "{row}");
    ensure!(row["healthy_hosts"] == 1, "{row}");
    Ok(())
}
