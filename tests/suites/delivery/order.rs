//! Calls with a key: one after another, whatever hosts there are and whatever becomes of each.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use baton_model::{ResultDocument, Status};
use baton_tests::settings::{ATTEMPTS_MAX, PATIENCE};
use baton_tests::{Fleet, Http, Stage, until};
use redis::AsyncCommands as _;

async fn send(stage: &mut Stage, function: &str, key: &str, payload: &str) -> Result<String> {
    stage.caller.add(function, &[("payload", payload.as_bytes()), ("key", key.as_bytes())]).await
}

/// None of these began before all that had begun before it had ended.
fn one_after_another(results: &mut [ResultDocument]) -> Result<()> {
    results.sort_by_key(|result| (result.started_ms, result.finished_ms));
    for pair in results.windows(2) {
        let next = pair[1].started_ms.context("it was run")?;
        ensure!(pair[0].finished_ms <= next, "{} ended after {} began: {pair:?}", pair[0].id, pair[1].id);
    }
    Ok(())
}

/// Nothing is left of turns and of those that wait for them.
async fn nobody_waits(stage: &mut Stage, function: &str) -> Result<()> {
    stage.caller.quiescent(function).await?;
    for what in ["turns", "line"] {
        let key = format!("baton:{{default/{function}}}:{what}");
        ensure!(!stage.caller.connection().exists::<_, bool>(&key).await?, "{key} is left");
    }
    Ok(())
}

#[tokio::test]
async fn calls_with_one_key_run_in_their_order_and_others_beside_them() -> Result<()> {
    let mut stage = Stage::with(&["sleep"]).await?;
    let host = stage.host().http().start_ready(&["sleep"]).await?;
    let (mut of_a, mut of_b) = (Vec::new(), Vec::new());
    for _ in 0..12 {
        of_a.push(send(&mut stage, "sleep", "a", r#"{"ms":40}"#).await?);
        of_b.push(send(&mut stage, "sleep", "b", r#"{"ms":40}"#).await?);
    }
    let http = Http::of(&host).await?;
    let last = http.get(&format!("/v1/calls/default/sleep/{}", of_a[11])).await?.expect(200)?.json()?;
    ensure!(last["state"] == "queued" && last["waits_for"] == "key" && last["due_ms"].is_null(), "{last}");
    let mut a = stage.caller.results("sleep", &of_a, PATIENCE).await?;
    let mut b = stage.caller.results("sleep", &of_b, PATIENCE).await?;
    for (results, sent) in [(&mut a, &of_a), (&mut b, &of_b)] {
        ensure!(results.iter().all(|result| (result.status, result.attempts) == (Status::Ok, 1)), "{results:?}");
        one_after_another(results)?;
        let ran: Vec<&str> = results.iter().map(|result| result.id.as_str()).collect();
        ensure!(ran == *sent, "in the order in which they came: {ran:?}");
    }
    let overlaps = |one: &ResultDocument| {
        b.iter().any(|other| one.started_ms < Some(other.finished_ms) && other.started_ms < Some(one.finished_ms))
    };
    ensure!(a.iter().any(overlaps), "those with another key wait for nobody");
    nobody_waits(&mut stage, "sleep").await
}

#[tokio::test]
async fn hosts_together_keep_the_order_and_one_that_dies_leaves_the_turn_with_its_call() -> Result<()> {
    let mut stage = Stage::with(&["sleep"]).await?;
    let mut fleet = Fleet::of(3, &stage.host(), &["sleep"]).await?;
    let mut sent = Vec::new();
    for n in 0..30 {
        sent.push(send(&mut stage, "sleep", if n % 3 == 0 { "other" } else { "one" }, r#"{"ms":60}"#).await?);
    }
    // Whoever has a turn now, dies with it.
    let held = stage.caller.until_pending("sleep", 2).await?;
    let place = fleet.place_of(&held[0].1)?;
    fleet.kill(place).await?;
    let results = stage.caller.results("sleep", &sent, PATIENCE).await?;
    ensure!(results.iter().all(|result| result.status == Status::Ok), "{results:?}");
    ensure!(results.iter().any(|result| result.attempts == 2), "one was begun twice: the host died with it");
    let (mut other, mut one): (Vec<_>, Vec<_>) = results.into_iter().enumerate().partition(|(n, _)| n % 3 == 0);
    for results in [&mut other, &mut one] {
        let mut results: Vec<ResultDocument> = results.drain(..).map(|(_, result)| result).collect();
        one_after_another(&mut results)?;
    }
    nobody_waits(&mut stage, "sleep").await
}

#[tokio::test]
async fn a_turn_ends_with_its_call_however_that_ends_and_not_before() -> Result<()> {
    let mut stage = Stage::with(&["fail"]).await?;
    let host = stage.host().setting(ATTEMPTS_MAX, 3).start_ready(&["fail"]).await?;
    // The first fails for a while and keeps its turn; the second is refused, the third is given up, the fourth is taken
    // back while it waits, the fifth while it waits for its next attempt.
    let mut sent = Vec::new();
    for payload in [
        r#"{"kind":"retry","after_ms":300}"#,
        r#"{"kind":"reject"}"#,
        r#"{"kind":"trap"}"#,
        r#"{"kind":"reject"}"#,
        r#"{"kind":"retry","after_ms":600000}"#,
        r#"{"kind":"reject"}"#,
    ] {
        sent.push(send(&mut stage, "fail", "order/7", payload).await?);
    }
    until("five wait for the first", PATIENCE, async || Ok((stage.caller.delayed("fail").await? >= 5).then_some(())))
        .await?;
    host.commands().run(&["cancel", &sent[3], "--function", "fail"]).await?.expect(0)?;
    stage.caller.result_within("fail", &sent[2], Duration::from_secs(20)).await?;
    host.commands().run(&["cancel", &sent[4], "--function", "fail"]).await?.expect(0)?;
    let mut results = stage.caller.results("fail", &sent, PATIENCE).await?;
    let ends: Vec<Status> = results.iter().map(|result| result.status).collect();
    ensure!(
        ends[1..] == [Status::Error, Status::Dead, Status::Cancelled, Status::Cancelled, Status::Error]
            && (ends[0], results[0].attempts) == (Status::Dead, 3),
        "each ends as it would without a key: {results:?}"
    );
    results.retain(|result| result.started_ms.is_some());
    one_after_another(&mut results)?;
    nobody_waits(&mut stage, "fail").await
}

#[tokio::test]
async fn every_door_takes_a_key() -> Result<()> {
    let mut stage = Stage::with(&["echo"]).await?;
    let host = stage.host().http().start_ready(&["echo"]).await?;
    let http = Http::of(&host).await?;
    http.post_with("/v1/call/echo", &[("baton-key", "k")], "1").await?.expect(200)?;
    http.post_with("/v1/call/echo", &[("baton-key", "two words")], "1").await?.problem(400, "bad-key")?;
    let called = host.commands().run(&["call", "echo", "--data", "2", "--key", "k"]).await?.expect(0)?;
    ensure!(called.stdout.trim() == "2");
    let sent = http.post("/v1/batch/echo", "{\"payload\":3,\"key\":\"k\"}\n{\"payload\":4,\"key\":\"k\"}").await?;
    let sent = sent.expect(202)?.json()?;
    for call in sent["calls"].as_array().context("they are listed")? {
        let id = call["id"].as_str().context("an id")?;
        ensure!(stage.caller.result("echo", id).await?.status == Status::Ok);
    }
    nobody_waits(&mut stage, "echo").await
}
