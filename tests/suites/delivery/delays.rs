//! Calls that wait for their time: at every door, over every host, and whatever dies in between.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use baton_model::{ResultDocument, Status};
use baton_tests::settings::{GROUP, LEASE_MS, NO_FUNCTIONS, PATIENCE};
use baton_tests::{Fleet, Host, Http, Signal, Stage, now_ms, until};

/// How long most calls here wait.
const WAIT_MS: u64 = 700;
/// Long enough for a loaded machine, and long before a host looks at what nobody told it of.
const SOON: Duration = Duration::from_secs(12);

/// It was answered, no earlier than `due_ms` by the clock of Redis, and at the first attempt.
fn ran_in_time(answer: &ResultDocument, due_ms: u64) -> Result<()> {
    ensure!((answer.status, answer.attempts) == (Status::Ok, 1), "{answer:?}");
    let started = answer.started_ms.context("it was run")?;
    ensure!(started >= due_ms, "{} ms too early: {answer:?}", due_ms - started);
    Ok(())
}

async fn until_delayed(stage: &mut Stage, count: usize) -> Result<()> {
    until("the calls wait for their time", PATIENCE, async || {
        Ok((stage.caller.delayed("echo").await? == count).then_some(()))
    })
    .await
}

#[tokio::test]
async fn a_raw_entry_with_a_delay_waits_and_keeps_its_id() -> Result<()> {
    let mut stage = Stage::with(&["echo"]).await?;
    let host = stage.host().http().start_ready(&["echo"]).await?;
    let delay = WAIT_MS.to_string();
    let id = stage.caller.add("echo", &[("payload", b"1"), ("delay", delay.as_bytes())]).await?;
    until_delayed(&mut stage, 1).await?;
    ensure!(stage.caller.entries("echo").await? == 0, "it stands in one place alone");
    let view = Http::of(&host).await?.get(&format!("/v1/calls/default/echo/{id}")).await?.expect(200)?.json()?;
    let accepted_ms: u64 = id.split('-').next().context("an entry id")?.parse()?;
    let due_ms = accepted_ms + WAIT_MS;
    ensure!(view["state"] == "delayed" && view["due_ms"] == due_ms && view["attempt"] == 1, "{view}");
    let answer = stage.caller.result("echo", &id).await?;
    ran_in_time(&answer, due_ms)?;
    ensure!(answer.accepted_ms == accepted_ms, "{answer:?}");
    stage.caller.quiescent("echo").await
}

#[tokio::test]
async fn every_door_takes_a_delay_and_gives_the_id_back() -> Result<()> {
    let mut stage = Stage::with(&["echo"]).await?;
    let host = stage.host().start_ready(&["echo"]).await?;
    // A front runs nothing: what it accepts is for the other host to wake, which has to be told.
    let front = stage.host().http().argument(NO_FUNCTIONS).start().await?;
    let http = Http::of(&front).await?;
    let delay = format!("{WAIT_MS}ms");
    let before = now_ms();
    let sent = http.post_with("/v1/send/echo", &[("baton-delay", &delay)], "1").await?.expect(202)?;
    let first = sent.json()?["id"].as_str().context("an id")?.to_owned();
    ensure!(sent.header("location").ends_with(&first), "{sent:?}");
    let sent = host.commands().run(&["send", "echo", "--data", "2", "--delay", &delay, "--id", "mine"]).await?;
    ensure!(sent.expect(0)?.stdout.trim() == "mine");
    let mut due = before + WAIT_MS;
    for id in [first.as_str(), "mine"] {
        ran_in_time(&stage.caller.result_within("echo", id, SOON).await?, due)?;
    }
    due = now_ms() + 300;
    let called = http.post_with("/v1/call/echo", &[("baton-delay", "300ms")], "3").await?.expect(200)?;
    ensure!(&called.body[..] == b"3" && now_ms() >= due, "whoever waits for the answer waits for the call's time too");
    http.post_with("/v1/send/echo", &[("baton-delay", "5s"), ("baton-deadline", "5s")], "")
        .await?
        .problem(400, "bad-time")?;
    stage.caller.quiescent("echo").await
}

#[tokio::test]
async fn the_same_id_is_not_delayed_anew_once_it_has_a_result() -> Result<()> {
    let mut stage = Stage::with(&["echo"]).await?;
    let host = stage.host().http().start_ready(&["echo"]).await?;
    stage.caller.add("echo", &[("payload", b"first"), ("id", b"order")]).await?;
    let first = stage.caller.result("echo", "order").await?;
    let sent = host.commands().run(&["send", "echo", "--data", "2", "--delay", "1h", "--id", "order"]).await?;
    ensure!(sent.expect(0)?.stdout.trim() == "order");
    ensure!(stage.caller.delayed("echo").await? == 0, "it has ended");
    ensure!(stage.caller.result("echo", "order").await? == first);
    stage.caller.quiescent("echo").await
}

#[tokio::test]
async fn a_delayed_call_outlives_the_host_that_took_it() -> Result<()> {
    let mut stage = Stage::with(&["echo"]).await?;
    let mut doomed = stage.host().start_ready(&["echo"]).await?;
    let before = now_ms();
    let raw = stage.caller.add("echo", &[("payload", b"1"), ("delay", b"1500")]).await?;
    let ours = send_later(&doomed, "1500ms").await?;
    until_delayed(&mut stage, 2).await?;
    // It alone knew when they are due.
    doomed.kill9().await?;
    let _other = stage.host().start_ready(&["echo"]).await?;
    for id in [&raw, &ours] {
        ran_in_time(&stage.caller.result("echo", id).await?, before + 1500)?;
    }
    stage.caller.quiescent("echo").await
}

async fn send_later(host: &Host, delay: &str) -> Result<String> {
    let sent = host.commands().run(&["send", "echo", "--delay", delay]).await?.expect(0)?;
    Ok(sent.stdout.trim().to_owned())
}

#[tokio::test]
async fn a_host_that_dies_before_it_put_the_call_aside_changes_nothing() -> Result<()> {
    let mut stage = Stage::with(&["echo"]).await?;
    let plan = stage.host().setting(LEASE_MS, 1_000);
    plan.clone().start_ready(&["echo"]).await?.stop().await?;
    let id = stage.caller.add("echo", &[("payload", b"1"), ("delay", b"2500")]).await?;
    // A host has read the entry and is gone before it said anything of it to Redis.
    let _read: redis::Value = redis::cmd("XREADGROUP")
        .arg(&["GROUP", GROUP, "gone", "STREAMS", "baton:{default/echo}:calls", ">"])
        .query_async(stage.caller.connection())
        .await?;
    let _host = plan.start_ready(&["echo"]).await?;
    let accepted_ms: u64 = id.split('-').next().context("an entry id")?.parse()?;
    until_delayed(&mut stage, 1).await?;
    let due: Vec<(Vec<u8>, u64)> = redis::cmd("ZRANGE")
        .arg(&["baton:{default/echo}:delayed", "0", "-1", "WITHSCORES"])
        .query_async(stage.caller.connection())
        .await?;
    ensure!(due[0].1 == accepted_ms + 2500, "its wait is counted from when it was accepted: {}", due[0].1);
    ran_in_time(&stage.caller.result("echo", &id).await?, accepted_ms + 2500)?;
    stage.caller.quiescent("echo").await
}

#[tokio::test]
async fn what_a_host_could_not_hear_it_looks_for() -> Result<()> {
    let mut stage = Stage::with(&["echo"]).await?;
    let host = stage.host().start_ready(&["echo"]).await?;
    let name = format!("name=baton-presence-{}", host.id().await?);
    let list: String = redis::cmd("CLIENT").arg("LIST").query_async(stage.caller.connection()).await?;
    let line = list.lines().find(|line| line.contains(&name)).context("the host stands at Redis")?;
    let connection = line.split(' ').find_map(|field| field.strip_prefix("id=")).context("it has an id")?;
    // In one step its ears are taken away and a call is accepted that is due in a while.
    let accept = "redis.call('ZADD', KEYS[1], ARGV[1], cmsgpack.pack({'payload', 'x', 'id', 'unheard', 'attempt', '1', 'accepted', ARGV[1]}))";
    let due_ms = now_ms() + WAIT_MS;
    let mut step = redis::pipe();
    step.atomic().cmd("CLIENT").arg("KILL").arg("ID").arg(connection).ignore();
    step.cmd("EVAL").arg(accept).arg(1).arg("baton:{default/echo}:delayed").arg(due_ms).ignore();
    let () = step.query_async(stage.caller.connection()).await?;
    ran_in_time(&stage.caller.result_within("echo", "unheard", SOON).await?, due_ms)?;
    stage.caller.quiescent("echo").await
}

#[tokio::test]
async fn a_call_is_woken_although_the_host_whose_turn_it_is_stands_still() -> Result<()> {
    let mut stage = Stage::with(&["echo"]).await?;
    let fleet = Fleet::of(2, &stage.host(), &["echo"]).await?;
    let first = usize::from(fleet.id(1) < fleet.id(0));
    fleet.signal(first, Signal::STOP)?;
    let frozen = fleet.id(first).as_str();
    // Redis still hands the frozen host what it had asked for. Who asked first is served first, so it is through with that when
    // the other one has answered several calls on end.
    let mut on_end = 0;
    until("the frozen host gets nothing any more", PATIENCE, async || {
        let id = stage.caller.send("echo", "1").await?;
        let is_stuck = until("the call is somebody's", PATIENCE, async || {
            let held = stage.caller.pending("echo").await?;
            let is_stuck = held.iter().any(|(entry, owner)| *entry == id && owner == frozen);
            let has_ended = stage.caller.result_now("echo", &id).await?.is_some();
            Ok((is_stuck || has_ended).then_some(is_stuck))
        })
        .await?;
        on_end = if is_stuck { 0 } else { on_end + 1 };
        Ok((on_end == 3).then_some(()))
    })
    .await?;
    let due_ms = now_ms() + WAIT_MS;
    let id = send_later(fleet.host(1 - first), &format!("{WAIT_MS}ms")).await?;
    // Long before anybody can know that the other one is silent.
    let answer = stage.caller.result_within("echo", &id, SOON).await?;
    ran_in_time(&answer, due_ms)?;
    ensure!(answer.host.as_ref() == Some(fleet.id(1 - first)), "{answer:?}");
    fleet.signal(first, Signal::CONT)
}

#[tokio::test]
async fn thousands_that_are_due_at_once_all_run_once() -> Result<()> {
    const CALLS: u64 = 3_000;
    let mut stage = Stage::with(&["echo"]).await?;
    let due_ms = now_ms() + 1_000;
    let add = "for i = 1, ARGV[2] do redis.call('ZADD', KEYS[1], ARGV[1], cmsgpack.pack({'payload', 'x', 'id', 'n-' .. i, 'attempt', '1', 'accepted', ARGV[1]})) end";
    let () = redis::cmd("EVAL")
        .arg(add)
        .arg(1)
        .arg("baton:{default/echo}:delayed")
        .arg(due_ms)
        .arg(CALLS)
        .query_async(stage.caller.connection())
        .await?;
    let _one = stage.host().start_ready(&["echo"]).await?;
    let _two = stage.host().start_ready(&["echo"]).await?;
    let ids: Vec<String> = (1..=CALLS).map(|n| format!("n-{n}")).collect();
    for answer in stage.caller.results("echo", &ids, PATIENCE).await? {
        ran_in_time(&answer, due_ms)?;
    }
    stage.caller.quiescent("echo").await
}

#[tokio::test]
async fn to_be_put_aside_counts_against_no_rate() -> Result<()> {
    let mut stage = Stage::with(&["echo"]).await?;
    stage.folder.write_manifest("echo", "[quotas]\ncalls_per_second = 1\n")?;
    let _host = stage.host().start_ready(&["echo"]).await?;
    for _ in 0..60 {
        stage.caller.add("echo", &[("payload", b"1"), ("delay", b"3600000")]).await?;
    }
    // At the rate of calls that begin, it would take a minute.
    until_delayed(&mut stage, 60).await
}
