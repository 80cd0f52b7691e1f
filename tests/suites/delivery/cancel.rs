//! Calls that are taken back: one that waits is taken out, one that runs is stopped, on whichever host.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use baton_model::{ResultDocument, Status};
use baton_tests::settings::{BACKOFF_BASE_MS, LEASE_MS, NO_FUNCTIONS, PATIENCE, SEATS};
use baton_tests::{Commands, Fleet, Http, Signal, Stage, until};
use tokio::task::JoinSet;

#[tokio::test]
async fn a_call_that_waits_in_its_stream_is_taken_out_and_its_caller_is_told() -> Result<()> {
    let mut stage = Stage::with(&["echo"]).await?;
    let commands = Commands::at_redis(&stage.redis.url());
    let mut notices = stage.redis.subscribe(&["baton:reply:*"]).await?;
    let kept = stage.caller.send("echo", "kept").await?;
    let plain = stage.caller.add("echo", &[("payload", b"a"), ("reply", b"default.me"), ("attempt", b"2")]).await?;
    stage.caller.add("echo", &[("payload", b"b"), ("id", b"order-1"), ("reply", b"somebody")]).await?;
    for id in [plain.as_str(), "order-1"] {
        let said = commands.run(&["cancel", id, "--function", "echo"]).await?.expect(0)?;
        ensure!(said.stdout.contains(id), "{said:?}");
        let result = stage.caller.result_now("echo", id).await?.context("a call that was taken back has a result")?;
        let error = result.error.as_ref().map(|error| error.code.as_str());
        ensure!((result.status, error) == (Status::Cancelled, Some("cancelled")), "{result:?}");
        ensure!(
            result.host.is_none() && result.accepted_ms > 0 && result.finished_ms >= result.accepted_ms,
            "{result:?}"
        );
        ensure!(result.attempts == u32::from(id == plain), "the attempts that were begun are counted: {result:?}");
        ensure!(stage.caller.result_ttl_ms("echo", id).await? > 0, "it is not kept for ever");
        // Asked again, it is the same; and so it is for whoever does not know the function's name.
        commands.run(&["cancel", id]).await?.expect(0)?;
    }
    ensure!(stage.caller.entries("echo").await? == 1, "what was not taken back is still there");
    // A command does not know whose channels are whose: it tells those alone that are the tenant's by their names.
    let told = notices.drain().await?;
    ensure!(told.len() == 1 && told[0].0 == "baton:reply:default.me", "{told:?}");
    ensure!(ResultDocument::decode(&mut told[0].1.clone())?.status == Status::Cancelled, "{told:?}");

    let _host = stage.host().start_ready(&["echo"]).await?;
    ensure!(stage.caller.result("echo", &kept).await?.status == Status::Ok);
    let ended = commands.run(&["cancel", &kept, "--function", "echo"]).await?.expect(1)?;
    ensure!(ended.stderr.contains("ok"), "it says how the call had ended: {ended:?}");
    let unknown = commands.run(&["cancel", "nobody", "--function", "echo"]).await?.expect(1)?;
    ensure!(unknown.stderr.contains("no call nobody"), "{unknown:?}");
    // The same id is the same call, and that one was taken back.
    stage.caller.add("echo", &[("payload", b"again"), ("id", b"order-1")]).await?;
    stage.caller.quiescent("echo").await?;
    ensure!(stage.caller.result("echo", "order-1").await?.status == Status::Cancelled);
    Ok(())
}

#[tokio::test]
async fn a_call_that_waits_for_its_next_attempt_is_taken_out_of_the_delayed_set() -> Result<()> {
    let mut stage = Stage::with(&["fail"]).await?;
    let host = stage.host().setting(BACKOFF_BASE_MS, 600_000).http().start_ready(&["fail"]).await?;
    let http = Http::of(&host).await?;
    let retry = br#"{"kind":"retry","after_ms":600000}"#;
    let own = stage.caller.add("fail", &[("payload", &retry[..]), ("id", b"own/id")]).await?;
    let plain = stage.caller.add("fail", &[("payload", &retry[..])]).await?;
    until("both wait for their second attempt", PATIENCE, async || {
        Ok((stage.caller.delayed("fail").await? == 2).then_some(()))
    })
    .await?;
    for (path, id) in [("own%2Fid", "own/id"), (plain.as_str(), plain.as_str())] {
        let view = http.delete_with(&format!("/v1/calls/default/fail/{path}"), &[]).await?.expect(200)?.json()?;
        ensure!(view["state"] == "cancelled" && view["result"]["status"] == "cancelled", "{view}");
        let result = stage.caller.result_now("fail", id).await?.context("it has its result")?;
        ensure!((result.status, result.attempts) == (Status::Cancelled, 1), "{result:?}");
        let accepted = result.accepted_ms.to_string();
        ensure!(id == "own/id" && own.starts_with(&accepted) || plain.starts_with(&accepted), "{result:?}");
    }
    stage.caller.quiescent("fail").await?;
    ensure!(stage.caller.dead("fail").await?.is_empty(), "nobody gave it up");
    http.delete_with("/v1/calls/default/fail/nobody", &[]).await?.problem(404, "unknown-call")?;
    Ok(())
}

#[tokio::test]
async fn a_call_that_runs_is_stopped_on_whichever_host_and_its_seat_is_free() -> Result<()> {
    let mut stage = Stage::with(&["sleep", "fail"]).await?;
    let one = stage.host().setting(SEATS, 1).http().start_ready(&["sleep", "fail"]).await?;
    let here = Http::of(&one).await?;
    // A host that runs nothing stops calls of others as well.
    let front = stage.host().argument(NO_FUNCTIONS).http().start().await?;
    let there = Http::of(&front).await?;
    for (http, function, payload) in [(&here, "sleep", r#"{"ms":60000}"#), (&there, "fail", r#"{"kind":"loop"}"#)] {
        let mut notices = stage.redis.subscribe(&["baton:reply:me"]).await?;
        let id = stage.caller.add(function, &[("payload", payload.as_bytes()), ("reply", b"me")]).await?;
        stage.caller.until_pending(function, 1).await?;
        let asked = Instant::now();
        http.delete_with(&format!("/v1/calls/default/{function}/{id}"), &[]).await?.expect(200)?;
        println!("{function} was stopped within {:?}", asked.elapsed());
        let result = stage.caller.result_now(function, &id).await?.context("it has its result")?;
        ensure!((result.status, result.attempts) == (Status::Cancelled, 1), "{result:?}");
        ensure!(result.host == Some(one.id().await?), "its host ended it: {result:?}");
        let (_, mut told) = tokio::time::timeout(PATIENCE, notices.next()).await?.context("its caller is told")?;
        ensure!(ResultDocument::decode(&mut told)? == result, "of the result that stands");
        // The only seat is free, long before the call would have ended by itself.
        ensure!(stage.caller.call("sleep", r#"{"ms":1}"#).await?.status == Status::Ok);
        stage.caller.quiescent(function).await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_call_of_a_host_that_is_frozen_is_taken_from_it_and_has_no_other_result() -> Result<()> {
    let mut stage = Stage::with(&["sleep"]).await?;
    let mut fleet = Fleet::of(2, &stage.host().setting(SEATS, 2).setting(LEASE_MS, 3_000).http(), &["sleep"]).await?;
    // What a host that stands still may have on its way must not arrive behind the result.
    let ids = stage.caller.send_many("sleep", r#"{"ms":2000}"#, 4).await?;
    let held: BTreeMap<String, String> = stage.caller.until_pending("sleep", 4).await?.into_iter().collect();
    let frozen = fleet.place_of(held.values().next().context("a host has them")?)?;
    fleet.signal(frozen, Signal::STOP)?;
    let http = Http::of(fleet.host(1 - frozen)).await?;
    let mut of_frozen = Vec::new();
    for id in ids.iter().filter(|id| held[*id] == fleet.id(frozen).as_str()) {
        let view = http.delete_with(&format!("/v1/calls/default/sleep/{id}"), &[]).await?.expect(200)?.json()?;
        ensure!(view["state"] == "cancelled", "{view}");
        of_frozen.push(stage.caller.result_bytes("sleep", id).await?.context("it has its result")?);
    }
    ensure!(!of_frozen.is_empty(), "the frozen host had some: {held:?}");
    fleet.signal(frozen, Signal::CONT)?;
    // When it answers again, alone, it is past everything that it had in hand.
    let other = fleet.id(1 - frozen).clone();
    stage.caller.results("sleep", &ids, PATIENCE).await?;
    fleet.stop(1 - frozen).await?;
    let answer = stage.caller.call("sleep", r#"{"ms":1}"#).await?;
    ensure!(answer.host.is_some_and(|host| host != other));
    for (id, first) in ids.iter().filter(|id| held[*id] == fleet.id(frozen).as_str()).zip(of_frozen) {
        ensure!(stage.caller.result_bytes("sleep", id).await? == Some(first), "the first result of {id} stands");
    }
    stage.caller.quiescent("sleep").await
}

#[tokio::test]
async fn of_many_calls_taken_back_at_random_each_has_one_end_though_a_host_dies() -> Result<()> {
    const CALLS: usize = 1_000;
    let mut stage = Stage::with(&["sleep"]).await?;
    let mut fleet = Fleet::of(3, &stage.host().setting(SEATS, 64).http(), &["sleep"]).await?;
    // Some end at once, some run for long, most wait.
    let mut ids = Vec::with_capacity(CALLS);
    for number in 0..CALLS {
        let ms = if number % 5 == 0 { 1 } else { 20_000 };
        let own = format!("own-{number}");
        let payload = format!(r#"{{"ms":{ms}}}"#);
        let mut fields: Vec<(&str, &[u8])> = vec![("payload", payload.as_bytes())];
        if number % 3 == 0 {
            fields.push(("id", own.as_bytes()));
        }
        let entry = stage.caller.add("sleep", &fields).await?;
        ids.push(if number % 3 == 0 { own } else { entry });
    }
    until("all seats are taken", PATIENCE, async || {
        Ok((stage.caller.pending("sleep").await?.len() >= 3 * 64).then_some(()))
    })
    .await?;
    let doors = [Http::of(fleet.host(0)).await?, Http::of(fleet.host(1)).await?];
    let mut order: Vec<usize> = (0..CALLS).collect();
    shuffle(&mut order);
    let (mut asking, mut slowest) = (JoinSet::new(), Duration::ZERO);
    let mut said: BTreeMap<String, u16> = BTreeMap::new();
    for (at, number) in order.into_iter().enumerate() {
        if at == CALLS / 4 {
            fleet.kill(2).await?;
        }
        let (http, id) = (doors[at % 2].clone(), ids[number].clone());
        asking.spawn(async move {
            let asked = Instant::now();
            let answer = http.delete_with(&format!("/v1/calls/default/sleep/{id}"), &[]).await?;
            anyhow::Ok((id, answer.status, asked.elapsed()))
        });
        while asking.len() >= 16 || at + 1 == CALLS {
            let Some(answered) = asking.join_next().await else { break };
            let (id, status, took) = answered??;
            slowest = slowest.max(took);
            said.insert(id, status);
        }
    }
    let results = stage.caller.results("sleep", &ids, PATIENCE).await?;
    let cancelled = results.iter().filter(|result| result.status == Status::Cancelled).count();
    println!("{cancelled} of {CALLS} taken back, the slowest within {slowest:?}");
    for result in &results {
        // What the door said is what became of the call.
        let expected = match result.status {
            Status::Cancelled => 200,
            Status::Ok => 409,
            other => anyhow::bail!("{other}: {result:?}"),
        };
        ensure!(
            said[result.id.as_str()] == expected,
            "{} was answered {}: {result:?}",
            result.id,
            said[result.id.as_str()]
        );
    }
    ensure!(cancelled > CALLS / 2, "most had not ended");
    // None runs on: seats are free, and nothing waits.
    stage.caller.quiescent("sleep").await?;
    let free = stage.caller.send_many("sleep", r#"{"ms":1}"#, 256).await?;
    ensure!(stage.caller.results("sleep", &free, Duration::from_secs(10)).await?.len() == 256);
    ensure!(stage.caller.results("sleep", &ids, PATIENCE).await? == results, "the first results stand");
    Ok(())
}

/// Another order each time; what is asserted holds in any.
fn shuffle(order: &mut [usize]) {
    let mut seed = u64::from(std::process::id()) ^ baton_tests::now_ms();
    println!("seed {seed}");
    for last in (1..order.len()).rev() {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        order.swap(last, (seed >> 33) as usize % (last + 1));
    }
}
