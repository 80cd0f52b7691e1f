//! Batches and fan-outs: whatever host dies, each of their calls is run, and none is sent twice.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use baton_model::Status;
use baton_tests::settings::{NO_FUNCTIONS, PATIENCE, SEATS};
use baton_tests::{Caller, Fleet, Host, Http, HttpAnswer, Link, Proxy, Stage, until};
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use crate::twice::ever_added;

/// How late everything comes on a slow link: what Redis has carried out is known here long before its door knows it.
const LATE: Duration = Duration::from_millis(500);

/// So many calls, each with an id of its own.
fn batch(count: usize, payload: &Value) -> (Vec<String>, String) {
    let ids: Vec<String> = (0..count).map(|n| format!("order-{n}")).collect();
    let lines: Vec<String> = ids.iter().map(|id| json!({ "payload": payload, "id": id }).to_string()).collect();
    (ids, lines.join("\n"))
}

/// A host that serves HTTP and runs nothing, and learns late of what Redis did.
async fn far_door(stage: &Stage) -> Result<(Host, Http, Proxy)> {
    let proxy = Proxy::to(&stage.redis.address()).await?;
    let host = stage.host().http().argument(NO_FUNCTIONS).through(&proxy).start().await?;
    let http = Http::of(&host).await?;
    // Everything that is asked of it first is asked before the link is slow.
    until("it is ready", PATIENCE, async || Ok((http.get("/readyz").await?.status == 200).then_some(()))).await?;
    proxy.set(Link::Slow(LATE));
    Ok((host, http, proxy))
}

fn posting(http: &Http, path: &'static str, key: &'static str, body: &str) -> JoinHandle<Result<HttpAnswer>> {
    let (http, body) = (http.clone(), body.to_owned());
    let headers = [("content-type", "application/json"), ("idempotency-key", key)];
    let named = headers.len() - usize::from(key.is_empty());
    tokio::spawn(async move { http.post_with(path, &headers[..named], body).await })
}

async fn until_accepted(caller: &mut Caller, function: &str, count: usize) -> Result<()> {
    until(&format!("Redis has {count} calls of {function}"), PATIENCE, async || {
        Ok((caller.entries(function).await? == count).then_some(()))
    })
    .await
}

#[tokio::test]
async fn of_a_batch_each_call_is_run_though_a_host_dies_with_some_of_them() -> Result<()> {
    let mut stage = Stage::with(&["sleep"]).await?;
    let mut fleet = Fleet::of(3, &stage.host().setting(SEATS, 8).http(), &["sleep"]).await?;
    let http = Http::of(fleet.host(0)).await?;
    let (ids, lines) = batch(60, &json!({ "ms": 250 }));
    let said = http.post("/v1/batch/sleep", lines).await?.expect(202)?.json()?;
    ensure!(said["accepted"] == 60, "{said}");
    // One that runs some of them, and one that took them.
    let victim = fleet.id(1).as_str().to_owned();
    until("it runs some", PATIENCE, async || {
        let pending = stage.caller.pending("sleep").await?;
        Ok((pending.iter().filter(|(_, owner)| *owner == victim).count() >= 4).then_some(()))
    })
    .await?;
    fleet.kill(1).await?;
    fleet.kill(0).await?;
    let results = stage.caller.results("sleep", &ids, PATIENCE).await?;
    ensure!(results.iter().all(|result| result.status == Status::Ok && result.attempts <= 2), "{results:?}");
    ensure!(results.iter().any(|result| result.attempts == 2), "some were begun twice");
    ensure!(ever_added(&mut stage.caller, "sleep").await? == 60, "and no call was added for another");
    stage.caller.quiescent("sleep").await
}

#[tokio::test]
async fn a_batch_that_was_accepted_by_a_door_that_died_is_the_same_batch_at_another() -> Result<()> {
    let mut stage = Stage::with(&["echo"]).await?;
    let mut runner = stage.host().http().start_ready(&["echo"]).await?;
    let there = Http::of(&runner).await?;
    runner.signal(baton_tests::Signal::STOP)?;
    let (mut door, here, _proxy) = far_door(&stage).await?;
    let (ids, lines) = batch(40, &json!({ "n": 1 }));
    let posted = posting(&here, "/v1/batch/echo", "", &lines);
    until_accepted(&mut stage.caller, "echo", 40).await?;
    ensure!(!posted.is_finished(), "the door does not know it yet");
    door.kill9().await?;
    ensure!(posted.await?.is_err(), "nobody was told");
    runner.signal(baton_tests::Signal::CONT)?;
    let said = there.post("/v1/batch/echo", lines).await?.expect(202)?.json()?;
    ensure!(said["accepted"] == 40, "{said}");
    let results = stage.caller.results("echo", &ids, PATIENCE).await?;
    ensure!(results.iter().all(|result| result.status == Status::Ok), "{results:?}");
    ensure!(ever_added(&mut stage.caller, "echo").await? == 40, "each was accepted once");
    stage.caller.quiescent("echo").await?;
    runner.stop().await
}

const FUNCTIONS: [&str; 3] = ["echo", "sleep", "wordcount"];
const ORDER: &str = r#"{"functions":["echo","sleep","wordcount"],"payload":{"ms":600,"text":"a b"}}"#;

/// What a fan-out has come to, asked there.
async fn gathered(http: &Http, path: &str) -> Result<Value> {
    let said = http.get(path).await?.expect(200)?.json()?;
    ensure!(said["calls"].as_array().is_some_and(|calls| calls.len() == 3), "{said}");
    Ok(said)
}

/// Each function had one call of it, and each of those ended well.
async fn once_each(stage: &mut Stage, said: &Value, id: &str) -> Result<()> {
    ensure!(said["state"] == "completed" && said["ended"] == 3, "{said}");
    for (function, call) in FUNCTIONS.iter().zip(said["calls"].as_array().context("calls")?) {
        ensure!(call["state"] == "completed", "{call}");
        ensure!(ever_added(&mut stage.caller, function).await? == 1, "{function} was sent one call");
        ensure!(stage.caller.result(function, id).await?.status == Status::Ok);
        stage.caller.quiescent(function).await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_fan_out_is_gathered_at_another_host_though_its_own_dies_while_it_runs() -> Result<()> {
    let mut stage = Stage::with(&FUNCTIONS).await?;
    let mut fleet = Fleet::of(2, &stage.host().http(), &FUNCTIONS).await?;
    let (here, there) = (Http::of(fleet.host(0)).await?, Http::of(fleet.host(1)).await?);
    let sent = here.post("/v1/fanout", ORDER).await?.expect(202)?.json()?;
    let id = sent["id"].as_str().context("an id")?.to_owned();
    stage.caller.until_pending("sleep", 1).await?;
    fleet.kill(0).await?;
    let said = gathered(&there, &format!("/v1/fanout/default/{id}?wait=20s")).await?;
    once_each(&mut stage, &said, &id).await
}

#[tokio::test]
async fn a_fan_out_whose_door_died_in_the_middle_is_finished_under_the_same_key() -> Result<()> {
    let mut stage = Stage::with(&FUNCTIONS).await?;
    let runner = stage.host().http().start_ready(&FUNCTIONS).await?;
    let there = Http::of(&runner).await?;
    let (mut door, here, _proxy) = far_door(&stage).await?;
    let posted = posting(&here, "/v1/fanout", "order-7", ORDER);
    until("the first of its calls is accepted", PATIENCE, async || {
        Ok((ever_added(&mut stage.caller, "echo").await? > 0).then_some(()))
    })
    .await?;
    ensure!(!posted.is_finished(), "the door does not know it yet");
    door.kill9().await?;
    ensure!(posted.await?.is_err(), "nobody was told");
    // Where it went to is known elsewhere, whatever of it was sent.
    gathered(&there, "/v1/fanout/default/order-7").await?;
    posting(&there, "/v1/fanout", "order-7", ORDER).await??.expect(202)?;
    let said = gathered(&there, "/v1/fanout/default/order-7?wait=20s").await?;
    once_each(&mut stage, &said, "order-7").await
}
