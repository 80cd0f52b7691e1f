//! Trouble that is nobody's absence: long calls, a Redis that hangs, a Redis that dies.

use std::time::Duration;

use anyhow::{Result, ensure};
use baton_tests::settings::{GROUP, LEASE_MS, PATIENCE, SEATS, full_length};
use baton_tests::{Batch, Caller, Fleet, Redis, Signal, Stage};

use super::{SHORT_LEASE, SOON};

#[tokio::test]
async fn a_long_call_on_a_live_host_is_never_taken_away() -> Result<()> {
    let (lease, lasts) = if full_length() {
        (Duration::from_secs(30), Duration::from_secs(120))
    } else {
        (SHORT_LEASE, SHORT_LEASE * 7 / 2)
    };
    let mut stage = Stage::with(&["sleep"]).await?;
    let plan = stage.host().setting(SEATS, 10).setting(LEASE_MS, lease.as_millis());
    let fleet = Fleet::of(3, &plan, &["sleep"]).await?;
    let payload = format!(r#"{{"ms":{}}}"#, lasts.as_millis());
    let mut batch = Batch::send(&stage.redis.address(), "sleep", &payload, 30).await?;
    let owners = batch.owners().await?;
    let mut looks = tokio::time::interval(lease / 4);
    loop {
        looks.tick().await;
        let pending = stage.caller.pending("sleep").await?;
        for (entry, consumer) in &pending {
            ensure!(owners.get(entry) == Some(consumer), "{entry} was claimed by {consumer}: {owners:?}");
        }
        if pending.is_empty() {
            break;
        }
    }
    for answer in batch.answers(PATIENCE).await? {
        ensure!(answer.attempts == 1, "{answer:?}");
        ensure!(owners.get(answer.id.as_str()).map(String::as_str) == answer.host.as_ref().map(|id| id.as_str()));
    }
    batch.check_notices().await?;
    let claims: u64 =
        redis::cmd("HLEN").arg("baton:{default/sleep}:claims").query_async(stage.caller.connection()).await?;
    ensure!(claims == 0, "{claims} claims were counted");
    let offline = fleet.logged("host offline");
    ensure!(offline.is_empty(), "nobody was away: {offline:?}");
    stage.caller.quiescent("sleep").await
}

/// The trouble a Redis can be in without having gone away.
enum Hang {
    /// It takes commands and carries out none.
    Paused,
    /// The whole process stands still.
    Stopped,
}

async fn hang(stage: &mut Stage, hang: &Hang, lasts: Duration) -> Result<()> {
    match hang {
        Hang::Paused => {
            let ms = lasts.as_millis().to_string();
            redis::cmd("CLIENT").arg(&["PAUSE", &ms, "ALL"]).exec_async(stage.caller.connection()).await?;
            tokio::time::sleep(lasts).await;
        }
        Hang::Stopped => {
            stage.redis.signal(Signal::STOP)?;
            tokio::time::sleep(lasts).await;
            stage.redis.signal(Signal::CONT)?;
        }
    }
    Ok(())
}

#[tokio::test]
async fn nobody_is_taken_for_dead_while_redis_hangs() -> Result<()> {
    let mut stage = Stage::with(&["sleep"]).await?;
    let mut fleet = Fleet::of(3, &stage.host().setting(SEATS, 10), &["sleep"]).await?;
    // The second time is longer than a command of a host may take, so that connections are given up and made again.
    for (kind, seconds) in [(Hang::Paused, 3), (Hang::Stopped, 3), (Hang::Paused, 7)] {
        let lasts = Duration::from_secs(seconds);
        let payload = format!(r#"{{"ms":{}}}"#, (lasts + SOON).as_millis());
        let mut batch = Batch::send(&stage.redis.address(), "sleep", &payload, 30).await?;
        batch.owners().await?;
        hang(&mut stage, &kind, lasts).await?;
        for answer in batch.answers(PATIENCE).await? {
            ensure!(answer.attempts == 1, "its host lives: {answer:?}");
        }
        batch.check_notices().await?;
    }
    let offline = fleet.logged("host offline");
    ensure!(offline.is_empty(), "nobody was away: {offline:?}");
    ensure!(fleet.all_run()?, "no host ends over it");
    stage.caller.quiescent("sleep").await
}

#[tokio::test]
async fn nobody_is_taken_for_dead_when_redis_is_killed_and_restarted() -> Result<()> {
    let mut stage = Stage::on(Redis::durable().await?, &["sleep"]).await?;
    let mut fleet = Fleet::of(3, &stage.host().setting(SEATS, 10), &["sleep"]).await?;
    for down in [Duration::ZERO, Duration::from_secs(2)] {
        let payload = format!(r#"{{"ms":{}}}"#, (down + SOON).as_millis());
        let ids = stage.caller.send_many("sleep", &payload, 30).await?;
        stage.caller.until_pending("sleep", 30).await?;
        stage.redis.kill9().await?;
        tokio::time::sleep(down).await;
        stage.redis.restart().await?;
        stage.caller = Caller::of(&stage.redis.address()).await?;
        for answer in stage.caller.results("sleep", &ids, PATIENCE).await? {
            ensure!(answer.attempts == 1, "its host lived all the time: {answer:?}");
        }
        for at in 0..3 {
            fleet.until_state(at, "online", PATIENCE).await?;
        }
    }
    let offline = fleet.logged("host offline");
    ensure!(offline.is_empty(), "nobody was away: {offline:?}");
    ensure!(fleet.all_run()?, "no host ends over it");
    stage.caller.quiescent("sleep").await
}

#[tokio::test]
async fn hosts_list_themselves_again_after_the_loss_of_all_data() -> Result<()> {
    let mut stage = Stage::with(&["sleep"]).await?;
    let plan = stage.host().setting(LEASE_MS, SHORT_LEASE.as_millis());
    let mut fleet = Fleet::of(3, &plan, &["sleep"]).await?;
    redis::cmd("FLUSHALL").exec_async(stage.caller.connection()).await?;
    for at in 0..3 {
        fleet.until_state(at, "online", PATIENCE).await?;
    }
    let mut batch = Batch::send(&stage.redis.address(), "sleep", r#"{"ms":100}"#, 30).await?;
    batch.answers(PATIENCE).await?;
    batch.check_notices().await?;
    let groups: Vec<redis::Value> = redis::cmd("XINFO")
        .arg(&["GROUPS", "baton:{default/sleep}:calls"])
        .query_async(stage.caller.connection())
        .await?;
    ensure!(groups.len() == 1, "the group {GROUP:?} was made again: {groups:?}");
    ensure!(fleet.all_run()?, "no host ends over it");
    let offline = fleet.logged("host offline");
    ensure!(offline.is_empty(), "nobody was away: {offline:?}");
    stage.caller.quiescent("sleep").await
}
