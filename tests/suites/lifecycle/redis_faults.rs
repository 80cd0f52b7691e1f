//! A Redis that forgets, drops connections or dies.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Result, ensure};
use baton_model::{Digest, Status};
use baton_tests::settings::{GROUP, LEASE_MS, PATIENCE};
use baton_tests::{CLIENT_NAME, Caller, Link, Load, Proxy, Redis, RunningLoad, Signal, Stage, sample, until};

const CALLS: &str = "baton:{default/echo}:calls";

/// A load of `echo` that never waits for answers, as those may be missed while Redis is away.
fn load(stage: &Stage, per_second: u32, seconds: u64) -> RunningLoad {
    let lasts = Duration::from_secs(seconds);
    let load = Load { function: "echo".into(), per_second, lasts, in_flight_max: 1_000_000 };
    load.start(stage.redis.address())
}

fn published() -> Result<BTreeSet<Digest>> {
    Ok(BTreeSet::from([Digest::of(&sample("echo")?)]))
}

#[tokio::test]
async fn a_destroyed_group_is_made_again_and_its_backlog_served() -> Result<()> {
    let mut stage = Stage::with(&["echo"]).await?;
    let mut host = stage.host().start_ready(&["echo"]).await?;
    stage.caller.call("echo", "before").await?;
    for round in 0..3 {
        let mut destroy = redis::pipe();
        // In one step with calls that are then in a stream without a group: the new group has to begin at its start.
        destroy.atomic().cmd("XGROUP").arg(&["DESTROY", CALLS, GROUP]).ignore();
        for _ in 0..5 {
            destroy.cmd("XADD").arg(&[CALLS, "*", "payload", "backlog"]);
        }
        let ids: Vec<String> = destroy.query_async(stage.caller.connection()).await?;
        for answer in stage.caller.results("echo", &ids, PATIENCE).await? {
            ensure!(answer.status == Status::Ok, "round {round}: {answer:?}");
        }
        ensure!(host.runs()?, "round {round}: the host goes on");
    }
    stage.caller.quiescent("echo").await
}

#[tokio::test]
async fn a_deleted_stream_is_made_again_under_a_waiting_reader() -> Result<()> {
    let mut stage = Stage::with(&["echo", "hello"]).await?;
    let mut host = stage.host().start_ready(&["echo", "hello"]).await?;
    for _ in 0..3 {
        redis::cmd("DEL").arg(CALLS).exec_async(stage.caller.connection()).await?;
        ensure!(stage.caller.call("echo", "again").await?.status == Status::Ok, "it is served again");
        ensure!(stage.caller.call("hello", "{}").await?.status == Status::Ok, "and so is its neighbour");
    }
    ensure!(host.runs()?, "the host goes on");
    Ok(())
}

#[tokio::test]
async fn a_host_survives_the_loss_of_all_data_and_serves_new_calls() -> Result<()> {
    let mut stage = Stage::with(&["echo", "sleep"]).await?;
    // A host lists itself again within a few leases.
    let mut host = stage.host().setting(LEASE_MS, 1_000).start_ready(&["echo", "sleep"]).await?;
    let forgotten = stage.caller.send_many("sleep", r#"{"ms":500}"#, 4).await?;
    stage.caller.until_pending("sleep", 4).await?;
    redis::cmd("FLUSHALL").exec_async(stage.caller.connection()).await?;
    for n in 0..20 {
        ensure!(stage.caller.call("echo", n.to_string()).await?.status == Status::Ok, "call {n} after the loss");
    }
    ensure!(stage.caller.call("sleep", r#"{"ms":600}"#).await?.status == Status::Ok, "the other one is back, too");
    ensure!(host.runs()?, "the host goes on");
    let revived = stage.caller.results_now("sleep", &forgotten).await?.into_iter().flatten().count();
    ensure!(revived == 0, "{revived} calls that Redis forgot were settled by a host without a lease");
    host.listed("echo").await?;
    stage.caller.quiescent("sleep").await
}

#[tokio::test]
async fn a_redis_that_is_killed_and_restarted_under_load_loses_no_accepted_call() -> Result<()> {
    let mut stage = Stage::on(Redis::durable().await?, &["echo"]).await?;
    let mut host = stage.host().start_ready(&["echo"]).await?;
    let load = load(&stage, 200, 8);
    let mut due = tokio::time::interval(Duration::from_millis(2_000));
    due.tick().await;
    for _ in 0..3 {
        due.tick().await;
        stage.redis.kill9().await?;
        stage.redis.restart().await?;
        ensure!(host.runs()?, "a host never exits because Redis does");
    }
    let report = load.report().await?;
    println!("{}; callers were told: {:?}", report.summary(), report.errors);
    ensure!(report.calls.len() >= 1_000, "most calls were accepted: {}", report.summary());
    report.check_answers(&published()?)?;
    stage.caller = Caller::of(&stage.redis.address()).await?;
    stage.caller.quiescent("echo").await?;
    ensure!(host.runs()?, "the host goes on");
    host.stop().await
}

#[tokio::test]
async fn a_host_can_still_be_woken_after_redis_was_restarted() -> Result<()> {
    let mut stage = Stage::on(Redis::durable().await?, &["echo"]).await?;
    let mut host = stage.host().start_ready(&["echo"]).await?;
    for round in 0..5 {
        stage.redis.restart().await?;
        stage.caller = Caller::of(&stage.redis.address()).await?;
        ensure!(stage.caller.call("echo", "x").await?.status == Status::Ok, "round {round}: its reader is back");
        // A new function has to be read as well, so the reader has to be woken from its long read.
        let name = format!("later-{round}");
        let id = stage.caller.send(&name, "waits").await?;
        stage.folder.install(&name, &sample("echo")?)?;
        let answer = stage.caller.result_within(&name, &id, Duration::from_secs(10)).await;
        ensure!(answer?.status == Status::Ok, "round {round}");
    }
    stage.redis.restart().await?;
    stage.caller = Caller::of(&stage.redis.address()).await?;
    ensure!(stage.caller.call("echo", "x").await?.status == Status::Ok, "its reader is back");
    host.signal(Signal::TERM)?;
    ensure!(host.exit_within(Duration::from_secs(10)).await?.code() == Some(0), "it leaves with 0");
    Ok(())
}

#[tokio::test]
async fn every_connection_of_a_host_can_be_cut_under_load() -> Result<()> {
    let mut stage = Stage::with(&["echo"]).await?;
    let mut host = stage.host().start_ready(&["echo"]).await?;
    let load = load(&stage, 200, 7);
    let mut cut = BTreeSet::new();
    let mut due = tokio::time::interval(Duration::from_millis(200));
    for _ in 0..25 {
        due.tick().await;
        let Some(next) = host_connections(&mut stage.caller).await?.into_iter().find(|id| !cut.contains(id)) else {
            continue;
        };
        redis::cmd("CLIENT").arg(&["KILL", "ID", &next]).exec_async(stage.caller.connection()).await?;
        cut.insert(next);
    }
    let report = load.report().await?;
    println!("{} connections cut: {}", cut.len(), report.summary());
    ensure!(cut.len() >= 3, "a host has several connections, and made them again");
    ensure!(report.calls.len() == 1_400 && report.errors.is_empty(), "Redis took every call");
    report.check_answers(&published()?)?;
    let doubled: Vec<_> = report.calls.iter().filter(|call| call.notices != 1).collect();
    ensure!(doubled.is_empty(), "every caller is told once: {doubled:?}");
    ensure!(host.runs()?, "the host goes on");
    stage.caller.quiescent("echo").await
}

#[tokio::test]
async fn what_was_handed_over_on_a_connection_that_broke_is_found() -> Result<()> {
    let mut stage = Stage::with(&["echo"]).await?;
    let proxy = Proxy::to(&stage.redis.address()).await?;
    let mut host = stage.host().through(&proxy).start_ready(&["echo"]).await?;
    for round in 0..3 {
        stage.caller.call("echo", "before").await?;
        proxy.set(Link::Unanswered);
        let id = stage.caller.send("echo", "swallowed").await?;
        stage.caller.until_pending("echo", 1).await?;
        // All connections are reset. What was swallowed was this host's, and cannot come any more.
        proxy.set(Link::Pass);
        let answer = stage.caller.result_within("echo", &id, Duration::from_secs(15)).await;
        ensure!(answer?.status == Status::Ok, "round {round}: it is found long before its lease is over");
    }
    ensure!(host.runs()?, "the host goes on");
    stage.caller.quiescent("echo").await
}

/// The ids of all connections that are not a test's.
async fn host_connections(caller: &mut Caller) -> Result<Vec<String>> {
    let list: String = redis::cmd("CLIENT").arg("LIST").query_async(caller.connection()).await?;
    let not_ours = |line: &&str| !line.contains(&format!(" name={CLIENT_NAME} "));
    let id = |line: &str| line.split(' ').find_map(|fact| fact.strip_prefix("id=")).map(str::to_owned);
    Ok(list.lines().filter(not_ours).filter_map(id).collect())
}

#[tokio::test]
async fn a_redis_that_hangs_is_waited_for() -> Result<()> {
    let mut stage = Stage::with(&["echo"]).await?;
    let mut host = stage.host().start_ready(&["echo"]).await?;
    stage.caller.call("echo", "before").await?;
    // Longer than a command may take, so that connections are given up and made again.
    redis::cmd("CLIENT").arg(&["PAUSE", "6000", "ALL"]).exec_async(stage.caller.connection()).await?;
    let mut other = stage.caller.clone();
    let id = until("Redis answers again", PATIENCE, async || Ok(other.send("echo", "after").await.ok())).await?;
    ensure!(stage.caller.result("echo", &id).await?.status == Status::Ok, "it is served");
    ensure!(host.runs()?, "the host goes on");
    stage.caller.quiescent("echo").await
}

#[tokio::test]
async fn a_host_that_starts_while_memory_is_full_drains_what_is_there() -> Result<()> {
    let mut stage = Stage::with(&["echo"]).await?;
    let mut ids = Vec::new();
    for n in 0..50 {
        ids.push(stage.caller.send("echo", &format!("{n}")).await?);
    }
    let mut redis = stage.redis.connect().await?;
    redis::cmd("CONFIG").arg("SET").arg("maxmemory").arg(1).query_async::<()>(&mut redis).await?;
    let full = redis::cmd("SET").arg("anything").arg("x").query_async::<()>(&mut redis).await;
    ensure!(full.is_err(), "memory is full");

    let _host = stage.host().start().await?;
    for (n, result) in stage.caller.results("echo", &ids, PATIENCE).await?.iter().enumerate() {
        assert_eq!(result.payload, n.to_string());
    }
    stage.caller.quiescent("echo").await
}
