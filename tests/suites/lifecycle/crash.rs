//! A host that dies.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Result, ensure};
use baton_model::{Digest, ResultDocument, Status};
use baton_tests::settings::{GROUP, LEASE_MS, PATIENCE, SEATS};
use baton_tests::{HostPlan, Load, Stage, Subscription, sample};

/// A host whose leases lapse soon, with room for all calls of a test.
fn quick_lease(stage: &Stage) -> HostPlan {
    stage.host().setting(SEATS, 64).setting(LEASE_MS, 1_000)
}

/// How many documents were published for each call so far.
async fn told(notices: &mut Subscription) -> Result<BTreeMap<String, u32>> {
    let mut count = BTreeMap::new();
    for (_, mut text) in notices.drain().await? {
        while !text.is_empty() {
            *count.entry(ResultDocument::decode(&mut text)?.id.to_string()).or_default() += 1;
        }
    }
    Ok(count)
}

#[tokio::test]
async fn fifty_calls_in_flight_survive_the_kill_of_their_host_and_are_answered_once() -> Result<()> {
    let mut stage = Stage::with(&["sleep"]).await?;
    let mut notices = stage.redis.subscribe(&["baton:reply:inbox"]).await?;
    let mut host = quick_lease(&stage).start_ready(&["sleep"]).await?;
    let mut ids = Vec::new();
    for _ in 0..50 {
        let fields: [(&str, &[u8]); 2] = [("payload", br#"{"ms":1500}"#), ("reply", b"inbox")];
        ids.push(stage.caller.add("sleep", &fields).await?);
    }
    stage.caller.until_pending("sleep", 50).await?;
    host.kill9().await?;
    let next = quick_lease(&stage).start_ready(&["sleep"]).await?;
    let next_id = next.id().await?;
    for answer in stage.caller.results("sleep", &ids, PATIENCE).await? {
        ensure!(answer.status == Status::Ok && answer.host.as_ref() == Some(&next_id), "{answer:?}");
    }
    stage.caller.quiescent("sleep").await?;
    let told = told(&mut notices).await?;
    ensure!(told.len() == 50 && told.values().all(|times| *times == 1), "every caller is told once: {told:?}");
    ensure!(stage.caller.dead("sleep").await?.is_empty(), "nothing was given up");
    Ok(())
}

#[tokio::test]
async fn what_a_host_of_old_left_pending_is_served_beside_what_nobody_took() -> Result<()> {
    let mut stage = Stage::with(&["echo"]).await?;
    let ids = stage.caller.send_many("echo", "old", 300).await?;
    let calls = "baton:{default/echo}:calls";
    let mut read = redis::pipe();
    read.cmd("XGROUP").arg(&["CREATE", calls, GROUP, "0"]).ignore();
    read.cmd("XREADGROUP").arg(&["GROUP", GROUP, "host-of-old", "COUNT", "200", "STREAMS", calls, ">"]).ignore();
    read.exec_async(stage.caller.connection()).await?;
    assert_eq!(stage.caller.pending("echo").await?.len(), 200);

    let _host = quick_lease(&stage).start_ready(&["echo"]).await?;
    for answer in stage.caller.results("echo", &ids, PATIENCE).await? {
        ensure!(answer.status == Status::Ok, "{answer:?}");
    }
    stage.caller.quiescent("echo").await
}

#[tokio::test]
async fn hosts_that_are_killed_one_after_the_other_under_load_lose_nothing() -> Result<()> {
    let mut stage = Stage::with(&["echo"]).await?;
    let mut hosts =
        vec![quick_lease(&stage).start_ready(&["echo"]).await?, quick_lease(&stage).start_ready(&["echo"]).await?];
    let lasts = Duration::from_secs(6);
    let load = Load { function: "echo".into(), per_second: 300, lasts, in_flight_max: 100_000 };
    let load = load.start(stage.redis.address());
    let mut due = tokio::time::interval(Duration::from_millis(1_100));
    for _ in 0..4 {
        due.tick().await;
        let mut oldest = hosts.remove(0);
        oldest.kill9().await?;
        hosts.push(quick_lease(&stage).start_ready(&["echo"]).await?);
    }
    let report = load.report().await?;
    println!("{}", report.summary());
    ensure!(report.calls.len() == 1_800 && report.errors.is_empty(), "Redis took every call");
    report.check_answers(&BTreeSet::from([Digest::of(&sample("echo")?)]))?;
    let doubled: Vec<_> = report.calls.iter().filter(|call| call.notices != 1).collect();
    ensure!(doubled.is_empty(), "every caller is told once: {doubled:?}");
    stage.caller.quiescent("echo").await
}
