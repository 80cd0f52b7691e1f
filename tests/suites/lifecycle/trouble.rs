//! A Redis in trouble for a while: hosts wait, quietly and cheaply, say it once, and go on by themselves.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use baton_model::Status;
use baton_tests::settings::{LEASE_MS, PATIENCE, full_length};
use baton_tests::{CLIENT_NAME, CommandStats, Host, Http, Link, Proxy, Stage, cpu_time, until};

/// The most that all parts of a host together may ask of a Redis in trouble, and connect to it, in a second. A part
/// that spins asks some thousands of times.
const ASKS_A_SECOND_MAX: f64 = 100.0;
/// The share of one core that a host in trouble may use.
const CPU_SHARE_MAX: f64 = 0.25;

/// How long a trouble lasts: as long as the goals say, or the few seconds of every day.
fn lasts() -> Duration {
    Duration::from_secs(if full_length() { 30 } else { 4 })
}

/// What a host and its Redis had used when the trouble began.
struct Before {
    at: Instant,
    cpu: Duration,
    commands: CommandStats,
    warnings: usize,
}

impl Before {
    async fn the_trouble(stage: &mut Stage, host: &Host) -> Result<Self> {
        Ok(Self {
            at: Instant::now(),
            cpu: cpu_time(host.pid())?,
            commands: CommandStats::read(stage.caller.connection()).await?,
            warnings: host.lines().warnings().len(),
        })
    }

    /// While the trouble lasts: the host runs and waits, and says so to whoever asks whether calls may be sent to it,
    /// if it `is_trouble` for callers. `connections` is how many it has made meanwhile, where that
    /// is known.
    async fn check_calm(&self, stage: &mut Stage, host: &mut Host, connections: usize, is_trouble: bool) -> Result<()> {
        ensure!(host.runs()?, "a host never exits because Redis is in trouble");
        let http = Http::of(host).await?;
        if is_trouble {
            http.get("/readyz").await?.problem(503, "not-ready")?;
        } else {
            http.get("/readyz").await?.expect(200)?;
        }
        http.get("/livez").await?.expect(200)?;
        let seconds = self.at.elapsed().as_secs_f64();
        let cpu = (cpu_time(host.pid())? - self.cpu).as_secs_f64();
        let used = CommandStats::read(stage.caller.connection()).await?.since(&self.commands);
        println!("in {seconds:.1} s of trouble: {cpu:.2} s of CPU time, {connections} connections, {used}");
        ensure!(cpu < CPU_SHARE_MAX * seconds, "it spins: {cpu:.2} s of CPU time in {seconds:.1} s");
        let asks = used.total as f64 + used.rejected as f64 + connections as f64;
        ensure!(asks < ASKS_A_SECOND_MAX * seconds, "it spins: {asks} in {seconds:.1} s: {used}");
        Ok(())
    }

    /// When the trouble is over: the host serves again by itself, and has said what was wrong once.
    async fn check_well_again(&self, stage: &mut Stage, host: &mut Host) -> Result<()> {
        ensure!(stage.caller.call("echo", "after").await?.status == Status::Ok, "calls are served again");
        ensure!(host.runs()?, "the host goes on");
        let http = Http::of(host).await?;
        until("it says that it is ready", PATIENCE, async || {
            Ok((http.get("/readyz").await?.status == 200).then_some(()))
        })
        .await?;
        host.listed("echo").await?;
        stage.caller.quiescent("echo").await?;
        let warnings = host.lines().warnings().split_off(self.warnings);
        ensure!(warnings.len() == 1, "the trouble is said once: {warnings:#?}");
        Ok(())
    }
}

/// A host that has answered a call, so that all of its connections are there. It lists itself again within a lease.
async fn settled_host(stage: &mut Stage) -> Result<Host> {
    let host = stage.host().http().setting(LEASE_MS, 2_000).start_ready(&["echo"]).await?;
    stage.caller.call("echo", "before").await?;
    Ok(host)
}

#[tokio::test]
async fn a_redis_that_cannot_be_reached_is_waited_for() -> Result<()> {
    let mut stage = Stage::with(&["echo"]).await?;
    let proxy = Proxy::to(&stage.redis.address()).await?;
    let mut host = stage.host().http().through(&proxy).setting(LEASE_MS, 2_000).start_ready(&["echo"]).await?;
    stage.caller.call("echo", "before").await?;
    let before = Before::the_trouble(&mut stage, &host).await?;
    let connections = proxy.accepted();
    proxy.set(Link::Cut);
    tokio::time::sleep(lasts()).await;
    before.check_calm(&mut stage, &mut host, proxy.accepted() - connections, true).await?;
    proxy.set(Link::Pass);
    before.check_well_again(&mut stage, &mut host).await
}

#[tokio::test]
async fn a_link_that_carries_nothing_is_waited_for() -> Result<()> {
    let mut stage = Stage::with(&["echo"]).await?;
    let proxy = Proxy::to(&stage.redis.address()).await?;
    let mut host = stage.host().http().through(&proxy).setting(LEASE_MS, 2_000).start_ready(&["echo"]).await?;
    stage.caller.call("echo", "before").await?;
    let before = Before::the_trouble(&mut stage, &host).await?;
    let connections = proxy.accepted();
    proxy.set(Link::HalfOpen);
    // Longer than a command may take, so that connections are given up.
    tokio::time::sleep(lasts() + Duration::from_secs(8)).await;
    before.check_calm(&mut stage, &mut host, proxy.accepted() - connections, true).await?;
    proxy.set(Link::Pass);
    before.check_well_again(&mut stage, &mut host).await
}

#[tokio::test]
async fn a_redis_that_takes_no_writes_is_waited_for() -> Result<()> {
    let mut stage = Stage::with(&["echo"]).await?;
    let mut host = settled_host(&mut stage).await?;
    let before = Before::the_trouble(&mut stage, &host).await?;
    // The replica of nobody: what it has stays, and it refuses to change it.
    redis::cmd("REPLICAOF").arg(&["127.0.0.1", "1"]).exec_async(stage.caller.connection()).await?;
    ensure!(stage.caller.send("echo", "refused").await.is_err(), "no writes are taken");
    tokio::time::sleep(lasts()).await;
    before.check_calm(&mut stage, &mut host, 0, true).await?;
    redis::cmd("REPLICAOF").arg(&["NO", "ONE"]).exec_async(stage.caller.connection()).await?;
    before.check_well_again(&mut stage, &mut host).await
}

#[tokio::test]
async fn a_redis_without_memory_is_waited_for() -> Result<()> {
    let mut stage = Stage::with(&["echo"]).await?;
    let mut host = settled_host(&mut stage).await?;
    let before = Before::the_trouble(&mut stage, &host).await?;
    redis::cmd("CONFIG").arg(&["SET", "maxmemory", "1"]).exec_async(stage.caller.connection()).await?;
    ensure!(stage.caller.send("echo", "refused").await.is_err(), "memory is full");
    tokio::time::sleep(lasts()).await;
    before.check_calm(&mut stage, &mut host, 0, true).await?;
    redis::cmd("CONFIG").arg(&["SET", "maxmemory", "0"]).exec_async(stage.caller.connection()).await?;
    before.check_well_again(&mut stage, &mut host).await
}

#[tokio::test]
async fn a_flushed_redis_is_put_in_order_again_without_a_spin() -> Result<()> {
    let mut stage = Stage::with(&["echo"]).await?;
    let mut host = settled_host(&mut stage).await?;
    let before = Before::the_trouble(&mut stage, &host).await?;
    for _ in 0..3 {
        redis::cmd("FLUSHALL").exec_async(stage.caller.connection()).await?;
        ensure!(stage.caller.call("echo", "again").await?.status == Status::Ok, "calls are served again");
    }
    tokio::time::sleep(lasts()).await;
    before.check_calm(&mut stage, &mut host, 0, false).await?;
    host.listed("echo").await
}

#[tokio::test]
async fn subscriptions_that_are_killed_again_and_again_cost_no_call() -> Result<()> {
    let mut stage = Stage::with(&["echo"]).await?;
    let mut host = settled_host(&mut stage).await?;
    let before = Before::the_trouble(&mut stage, &host).await?;
    let mut kills = 0;
    while before.at.elapsed() < lasts() {
        redis::cmd("CLIENT").arg(&["KILL", "TYPE", "pubsub"]).exec_async(stage.caller.connection()).await?;
        kills += 1;
        if kills % 10 == 0 {
            ensure!(stage.caller.call("echo", "meanwhile").await?.status == Status::Ok, "calls are served meanwhile");
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    before.check_calm(&mut stage, &mut host, 0, false).await?;
    host.listed("echo").await?;
    stage.caller.quiescent("echo").await
}

#[tokio::test]
async fn each_connection_of_a_host_can_be_killed_by_its_name_one_after_the_other() -> Result<()> {
    let mut stage = Stage::with(&["echo"]).await?;
    let mut host = settled_host(&mut stage).await?;
    let before = Before::the_trouble(&mut stage, &host).await?;
    let mut killed: BTreeSet<String> = BTreeSet::new();
    // What comes anew has a name that was there before, or is killed in its turn.
    for _ in 0..50 {
        let connections = host_connections(&mut stage).await?;
        let Some((_, name)) = connections.iter().find(|(_, name)| !killed.contains(name)).cloned() else { break };
        for (id, _) in connections.iter().filter(|(_, other)| *other == name) {
            redis::cmd("CLIENT").arg(&["KILL", "ID", id]).exec_async(stage.caller.connection()).await?;
            ensure!(stage.caller.call("echo", &name).await?.status == Status::Ok, "without {name:?} calls are served");
            ensure!(host.runs()?, "the host goes on without {name:?}");
        }
        killed.insert(name);
    }
    println!("killed: {killed:?}");
    ensure!(!killed.is_empty() && killed.len() < 50, "a host has a few connections: {killed:?}");
    tokio::time::sleep(lasts()).await;
    before.check_calm(&mut stage, &mut host, 0, false).await?;
    until("it has a settling connection again", PATIENCE, async || {
        Ok(host_connections(&mut stage).await?.iter().any(|(_, name)| name.starts_with("baton-settler-")).then_some(()))
    })
    .await?;
    host.listed("echo").await?;
    stage.caller.quiescent("echo").await
}

/// Id and name of every connection that is not a test's. Those of one host that have no name are told apart by what
/// they did last.
async fn host_connections(stage: &mut Stage) -> Result<Vec<(String, String)>> {
    let list: String = redis::cmd("CLIENT").arg("LIST").query_async(stage.caller.connection()).await?;
    let mut found = Vec::new();
    for line in list.lines() {
        let field = |key: &str| line.split(' ').find_map(|field| field.strip_prefix(key)).unwrap_or_default();
        let name = match field("name=") {
            CLIENT_NAME => continue,
            "" => format!("the one that did {}", field("cmd=")),
            name => name.to_owned(),
        };
        found.push((field("id=").to_owned(), name));
    }
    Ok(found)
}
