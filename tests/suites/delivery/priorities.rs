//! Levels: which calls of a function go first, that none starves, and that a call keeps its level whatever becomes of it.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use baton_model::{ResultDocument, Status};
use baton_tests::settings::{BACKOFF_BASE_MS, DRAIN_TIMEOUT, GROUP, PATIENCE, SEATS};
use baton_tests::{CommandStats, Commands, Fleet, Http, Signal, Stage, until};

const LEVELS: [&str; 3] = [":high", "", ":low"];

async fn send(stage: &mut Stage, function: &str, level: &str, payload: &str) -> Result<String> {
    stage.caller.add_at(function, level, &[("payload", payload.as_bytes())]).await
}

/// How many entries the function's streams ever had: of high, normal and low calls.
async fn ever_added(stage: &mut Stage, function: &str) -> Result<[u64; 3]> {
    let mut added = [0; 3];
    for (added, level) in added.iter_mut().zip(LEVELS) {
        let mut ask = redis::cmd("XINFO");
        ask.arg("STREAM").arg(format!("baton:{{default/{function}}}:calls{level}"));
        let facts: redis::RedisResult<BTreeMap<String, redis::Value>> =
            ask.query_async(stage.caller.connection()).await;
        // There is no such stream.
        let Ok(mut facts) = facts else { continue };
        *added = redis::from_redis_value(facts.remove("entries-added").context("Redis 7 counts entries")?)?;
    }
    Ok(added)
}

fn ok(answer: &ResultDocument, attempts: u32) -> Result<()> {
    ensure!((answer.status, answer.attempts) == (Status::Ok, attempts), "{answer:?}");
    Ok(())
}

/// Adds so many calls in a few round trips.
async fn fill(stage: &mut Stage, key: &str, payload: &str, count: usize) -> Result<()> {
    for _ in 0..count.div_ceil(10_000) {
        let mut add = redis::pipe();
        for _ in 0..count.min(10_000) {
            add.cmd("XADD").arg(key).arg("*").arg("payload").arg(payload).ignore();
        }
        let () = add.query_async(stage.caller.connection()).await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_high_call_goes_past_a_backlog_of_a_hundred_thousand_from_the_first_one_on() -> Result<()> {
    const BACKLOG: usize = 100_000;
    let mut stage = Stage::with(&["sleep"]).await?;
    fill(&mut stage, "baton:{default/sleep}:calls", r#"{"ms":20}"#, BACKLOG).await?;
    // The host runs, all of its seats are taken, and it has never heard of another level; nobody tells it anything: this
    // caller does nothing but XADD.
    let _host = stage.host().setting(SEATS, 2).start_ready(&["sleep"]).await?;
    // Nor does a sweep find them: that of its start is over, and a host that is alone makes the next after two minutes.
    until("the host has swept", PATIENCE, async || {
        let used = CommandStats::read(stage.caller.connection()).await?;
        Ok(used.by_name.contains_key("xinfo|consumers").then_some(()))
    })
    .await?;
    let mut sent = Vec::new();
    for _ in 0..8 {
        sent.push(send(&mut stage, "sleep", ":high", r#"{"ms":20}"#).await?);
    }
    for answer in stage.caller.results("sleep", &sent, PATIENCE).await? {
        ok(&answer, 1)?;
        ensure!(answer.id.as_str().ends_with("-high"), "its id is not that of a normal entry: {answer:?}");
    }
    let left = stage.caller.entries("sleep").await?;
    ensure!(left > BACKLOG / 2, "they went past the backlog, of which {left} are left");
    Ok(())
}

#[tokio::test]
async fn of_any_sixteen_calls_that_are_read_while_all_levels_wait_four_are_normal_and_one_is_low() -> Result<()> {
    const EACH: usize = 66;
    let mut stage = Stage::with(&["sleep"]).await?;
    let mut sent = Vec::new();
    for level in LEVELS {
        for _ in 0..EACH {
            sent.push(send(&mut stage, "sleep", level, r#"{"ms":2}"#).await?);
        }
    }
    // One seat: what is begun in which order is what was read in which order.
    let _host = stage.host().setting(SEATS, 1).start_ready(&["sleep"]).await?;
    let mut ran = stage.caller.results("sleep", &sent, PATIENCE).await?;
    ran.sort_by_key(|answer| (answer.started_ms, answer.finished_ms));
    let level_of = |answer: &ResultDocument| answer.id.as_str().split('-').nth(2).unwrap_or_default().to_owned();
    let ran: Vec<String> = ran.iter().map(level_of).collect();
    let count = |part: &[String], level: &str| part.iter().filter(|of| *of == level).count();
    let all_wait = ran.iter().rposition(|level| level == "high").context("high calls were run")?;
    ensure!(all_wait > 5 * 16, "{ran:?}");
    for window in ran[..all_wait].windows(16) {
        let shares = (count(window, "high"), count(window, ""), count(window, "low"));
        ensure!(shares == (11, 4, 1), "{shares:?} in {window:?}, of {ran:?}");
    }
    // When no high ones are left, the normal ones go before the low ones in the same way.
    let last_normal = ran.iter().rposition(String::is_empty).context("normal calls were run")?;
    let between = &ran[all_wait + 1..last_normal];
    ensure!(count(between, "low") <= between.len() / 16 + 1, "{between:?}");
    stage.caller.quiescent("sleep").await
}

#[tokio::test]
async fn the_calls_of_a_killed_host_are_finished_once_each_on_their_levels() -> Result<()> {
    let mut stage = Stage::with(&["sleep"]).await?;
    let mut fleet = Fleet::of(1, &stage.host().setting(SEATS, 6), &["sleep"]).await?;
    let mut sent = Vec::new();
    for level in LEVELS {
        for _ in 0..2 {
            sent.push(send(&mut stage, "sleep", level, r#"{"ms":2000}"#).await?);
        }
    }
    let mut held = stage.caller.until_pending("sleep", 6).await?;
    // This one has read nothing of any level.
    let heir = fleet.add(stage.host().setting(SEATS, 6)).await?;
    let heir = fleet.id(heir).as_str().to_owned();
    fleet.kill(0).await?;
    let mut taken = until("the other host has all of them", PATIENCE, async || {
        let now = stage.caller.pending("sleep").await?;
        Ok((now.len() == 6 && now.iter().all(|(_, host)| *host == heir)).then_some(now))
    })
    .await?;
    held.sort();
    taken.sort();
    let entries = |all: &[(String, String)]| all.iter().map(|(entry, _)| entry.clone()).collect::<Vec<_>>();
    ensure!(entries(&held) == entries(&taken), "each entry stands where it stood: {held:?}, {taken:?}");
    for answer in stage.caller.results("sleep", &sent, PATIENCE).await? {
        ok(&answer, 2)?;
    }
    stage.caller.quiescent("sleep").await?;
    ensure!(ever_added(&mut stage, "sleep").await? == [2, 2, 2], "nothing was added anew");
    for level in LEVELS {
        let claims = format!("baton:{{default/sleep}}:claims{level}");
        ensure!(
            !redis::AsyncCommands::exists::<_, bool>(stage.caller.connection(), &claims).await?,
            "{claims} is left"
        );
        let mut ask = redis::cmd("XINFO");
        ask.arg("CONSUMERS").arg(format!("baton:{{default/sleep}}:calls{level}")).arg(GROUP);
        until("the dead host is no consumer any more", PATIENCE, async || {
            let rows: Vec<BTreeMap<String, redis::Value>> = ask.query_async(stage.caller.connection()).await?;
            Ok((rows.len() == 1).then_some(()))
        })
        .await?;
    }
    Ok(())
}

#[tokio::test]
async fn of_the_calls_of_a_killed_host_the_high_ones_are_taken_over_first() -> Result<()> {
    let mut stage = Stage::with(&["sleep"]).await?;
    let mut fleet = Fleet::of(1, &stage.host().setting(SEATS, 6), &["sleep"]).await?;
    let mut sent = Vec::new();
    for level in LEVELS.into_iter().rev() {
        for _ in 0..2 {
            sent.push(send(&mut stage, "sleep", level, r#"{"ms":1000}"#).await?);
        }
    }
    stage.caller.until_pending("sleep", 6).await?;
    fleet.kill(0).await?;
    // One seat: what is begun in which order is what was taken over in which order.
    fleet.add(stage.host().setting(SEATS, 1)).await?;
    let mut ran = stage.caller.results("sleep", &sent, PATIENCE).await?;
    ran.sort_by_key(|answer| answer.started_ms);
    let levels: Vec<_> = ran.iter().map(|answer| answer.id.as_str().split('-').nth(2).unwrap_or_default()).collect();
    ensure!(levels == ["high", "high", "", "", "low", "low"], "{levels:?}");
    stage.caller.quiescent("sleep").await
}

#[tokio::test]
async fn a_call_keeps_its_level_when_it_is_tried_again_waits_or_is_sent_again() -> Result<()> {
    let mut stage = Stage::with(&["echo", "fail", "sleep"]).await?;
    let plan = stage.host().setting(BACKOFF_BASE_MS, 1).argument(DRAIN_TIMEOUT).argument("100ms");
    let mut host = plan.http().start_ready(&["echo", "fail", "sleep"]).await?;
    let http = Http::of(&host).await?;

    // A retry, of a call of which its stream alone says the level.
    let retried = send(&mut stage, "fail", ":high", r#"{"kind":"steps","steps":["retry","ok"]}"#).await?;
    ok(&stage.caller.result("fail", &retried).await?, 2)?;
    ensure!(ever_added(&mut stage, "fail").await? == [2, 0, 0], "both attempts were high ones");
    // Given up and sent again.
    let buried = send(&mut stage, "fail", ":low", r#"{"kind":"trap"}"#).await?;
    ensure!(stage.caller.result("fail", &buried).await?.status == Status::Dead);
    let letter = stage.caller.until_dead("fail", 1).await?.remove(0);
    ensure!((letter.text("id"), letter.text("priority")) == (buried.clone(), "low".to_owned()), "{letter:?}");
    host.commands().run(&["dead", "redrive", &buried, "--function", "fail"]).await?.expect(0)?;
    stage.caller.until_dead("fail", 1).await?;
    stage.caller.quiescent("fail").await?;
    ensure!(ever_added(&mut stage, "fail").await? == [2, 0, 2], "it was a low one both times");

    // A delay, from a door and in an entry.
    let headers = [("baton-priority", "low"), ("baton-delay", "50ms")];
    let sent = http.post_with("/v1/send/echo", &headers, "1").await?.expect(202)?.json()?;
    let delayed = sent["id"].as_str().context("an id")?.to_owned();
    let fields: [(&str, &[u8]); 3] = [("payload", b"2"), ("priority", b"high"), ("delay", b"50")];
    let raw = stage.caller.add("echo", &fields).await?;
    for id in [&delayed, &raw] {
        ok(&stage.caller.result("echo", id).await?, 1)?;
    }
    ensure!(ever_added(&mut stage, "echo").await? == [1, 1, 1], "the raw entry stood among normal calls to begin with");
    // A low call that was put among the normal ones goes to its level, and a high one runs as it comes.
    let low = stage.caller.add("echo", &[("payload", b"3"), ("priority", b"low")]).await?;
    let high = stage.caller.add("echo", &[("payload", b"4"), ("priority", b"high")]).await?;
    for id in [&low, &high] {
        ok(&stage.caller.result("echo", id).await?, 1)?;
    }
    stage.caller.quiescent("echo").await?;
    ensure!(ever_added(&mut stage, "echo").await? == [1, 3, 2], "the low one was moved and nothing else");

    // A turn that is waited for, and a host that ends before its attempts do.
    let ordered = |payload: &'static str| [("payload", payload.as_bytes()), ("key", &b"k"[..])];
    let first = stage.caller.add_at("sleep", ":high", &ordered(r#"{"ms":300}"#)).await?;
    let second = stage.caller.add_at("sleep", ":high", &ordered(r#"{"ms":0}"#)).await?;
    for id in [&first, &second] {
        ok(&stage.caller.result("sleep", id).await?, 1)?;
    }
    ensure!(ever_added(&mut stage, "sleep").await? == [3, 0, 0], "the second waited for its turn and came back");
    let handed = send(&mut stage, "sleep", ":low", r#"{"ms":1500}"#).await?;
    stage.caller.until_pending("sleep", 1).await?;
    host.stop().await?;
    ensure!(stage.caller.pending("sleep").await?.is_empty(), "its host gave it back");
    ensure!(ever_added(&mut stage, "sleep").await? == [3, 0, 2], "to its level");
    let _next = stage.host().start_ready(&["sleep"]).await?;
    ok(&stage.caller.result("sleep", &handed).await?, 2)?;
    stage.caller.quiescent("sleep").await
}

#[tokio::test]
async fn calls_of_every_level_are_counted_found_explained_and_taken_back() -> Result<()> {
    let mut stage = Stage::with(&["sleep"]).await?;
    let commands = Commands::at_redis(&stage.redis.url());
    let unnamed = send(&mut stage, "sleep", ":high", r#"{"ms":60000}"#).await?;
    let own = ["send", "sleep", "--data", r#"{"ms":60000}"#, "--priority", "low", "--id", "mine"];
    commands.run(&own).await?.expect(0)?;
    commands.run(&own).await?.expect(0)?;
    ensure!(ever_added(&mut stage, "sleep").await? == [1, 0, 1], "the same id is the same call");
    let listing = commands.listing().await?;
    let row = listing.function("default/sleep").context("a function is known by any of its streams")?;
    ensure!(row["queued"] == 2 && row["pending"] == 0, "{row}");
    for (id, level) in [(unnamed.as_str(), "high"), ("mine", "low")] {
        let why = commands.run(&["why", id, "--function", "sleep", "--json"]).await?.expect(0)?.json()?;
        ensure!(why["state"] == "queued" && why["priority"] == level && why["waits_for"] == "host", "{why}");
        commands.run(&["cancel", id, "--function", "sleep"]).await?.expect(0)?;
        let result = stage.caller.result_now("sleep", id).await?.context("it has its result")?;
        ensure!(result.status == Status::Cancelled, "{result:?}");
    }
    ensure!(stage.caller.entries("sleep").await? == 0, "nothing waits any more");

    // One that runs is stopped by what it is called in its stream, and by nothing that is called the same elsewhere.
    let host = stage.host().http().start_ready(&["sleep"]).await?;
    let running = send(&mut stage, "sleep", ":high", r#"{"ms":60000}"#).await?;
    stage.caller.until_pending("sleep", 1).await?;
    let http = Http::of(&host).await?;
    let path = format!("/v1/calls/default/sleep/{running}");
    let view = http.get(&path).await?.expect(200)?.json()?;
    ensure!(view["state"] == "running" || view["state"] == "starting", "{view}");
    let namesake = running.trim_end_matches("-high");
    http.delete_with(&format!("/v1/calls/default/sleep/{namesake}"), &[]).await?.problem(404, "unknown-call")?;
    http.delete_with(&path, &[]).await?.expect(200)?;
    ensure!(stage.caller.result("sleep", &running).await?.status == Status::Cancelled);
    stage.caller.quiescent("sleep").await
}

#[tokio::test]
async fn every_door_takes_a_level_and_refuses_what_is_none() -> Result<()> {
    let mut stage = Stage::with(&["echo", "hello"]).await?;
    stage.folder.write_manifest("hello", "[[schedule]]\ncron = \"* * * * * *\"\npriority = \"low\"\n")?;
    let mut host = stage.host().http().start_ready(&["echo", "hello"]).await?;
    let http = Http::of(&host).await?;
    let answer = http.post_with("/v1/call/echo", &[("baton-priority", "high")], "1").await?.expect(200)?;
    ensure!(answer.header("baton-call-id").ends_with("-high"), "{answer:?}");
    let called = host.commands().run(&["call", "echo", "--data", "2", "--priority", "low"]).await?.expect(0)?;
    ensure!(called.stdout.trim() == "2");
    let batch = "{\"payload\":3,\"priority\":\"high\"}\n{\"payload\":4}\n{\"payload\":5,\"priority\":\"normal\"}";
    let sent = http.post_with("/v1/batch/echo", &[("baton-priority", "low")], batch).await?.expect(202)?.json()?;
    for call in sent["calls"].as_array().context("they are listed")? {
        let id = call["id"].as_str().context("an id")?;
        ok(&stage.caller.result("echo", id).await?, 1)?;
    }
    let order = r#"{"functions":["echo"],"payload":6,"priority":"high"}"#;
    let id = http.post("/v1/fanout", order).await?.expect(202)?.json()?["id"].as_str().context("an id")?.to_owned();
    ok(&stage.caller.result("echo", &id).await?, 1)?;
    ensure!(ever_added(&mut stage, "echo").await? == [3, 1, 2], "each went to its level");
    until("a tick has been run as a low call", PATIENCE, async || {
        Ok((ever_added(&mut stage, "hello").await?[2] > 0).then_some(()))
    })
    .await?;

    let said =
        http.post_with("/v1/call/echo", &[("baton-priority", "urgent")], "1").await?.problem(400, "bad-priority")?;
    ensure!(
        said.json()?["detail"].as_str().is_some_and(|detail| detail.contains("`high`, `normal` or `low`")),
        "{said:?}"
    );
    let said = http.post("/v1/batch/echo", r#"[{"payload":1,"priority":"urgent"}]"#).await?.expect(207)?.json()?;
    ensure!(said["accepted"] == 0 && said["calls"][0]["error"]["code"] == "bad-priority", "{said}");
    let wrong = r#"{"functions":["echo"],"payload":6,"priority":"1"}"#;
    http.post("/v1/fanout", wrong).await?.problem(400, "bad-priority")?;
    let said = host.commands().run(&["send", "echo", "--priority", "urgent"]).await?.expect(2)?;
    ensure!(said.stderr.contains("`high`, `normal` or `low`"), "{said:?}");
    for level in ["", ":low"] {
        let id = stage.caller.add_at("echo", level, &[("payload", b"1"), ("priority", b"urgent")]).await?;
        let result = stage.caller.result("echo", &id).await?;
        let said = result.error.context("it says what is wrong")?;
        ensure!(said.code == "malformed" && said.message.contains("`high`, `normal` or `low`"), "{said:?}");
    }
    host.signal(Signal::TERM)?;
    host.exit_within(Duration::from_secs(10)).await?;
    Ok(())
}
