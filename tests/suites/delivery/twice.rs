//! The same id is the same call: sent twice through any door, it is one execution and one result.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use baton_model::Status;
use baton_tests::settings::{BACKOFF_BASE_MS, PATIENCE, RESULT_TTL_MS};
use baton_tests::{Caller, Fleet, Http, Stage, until};
use tokio::task::JoinSet;

/// How many entries the function's stream ever had.
pub(crate) async fn ever_added(caller: &mut Caller, function: &str) -> Result<u64> {
    let mut ask = redis::cmd("XINFO");
    ask.arg("STREAM").arg(format!("baton:{{default/{function}}}:calls"));
    let facts: std::collections::BTreeMap<String, redis::Value> = ask.query_async(caller.connection()).await?;
    Ok(redis::from_redis_value(facts.get("entries-added").context("Redis 7 counts them")?.clone())?)
}

async fn is_marked(caller: &mut Caller, function: &str, id: &str) -> Result<bool> {
    let mark = format!("baton:{{default/{function}}}:id:{id}");
    Ok(redis::cmd("EXISTS").arg(mark).query_async(caller.connection()).await?)
}

#[tokio::test]
async fn an_id_sent_at_once_through_every_door_is_one_call_though_its_host_dies() -> Result<()> {
    let mut stage = Stage::with(&["sleep"]).await?;
    let mut fleet = Fleet::of(3, &stage.host().http(), &["sleep"]).await?;
    let doors = [Http::of(fleet.host(0)).await?, Http::of(fleet.host(1)).await?];
    let commands = fleet.host(0).commands().clone();
    let mut asking = JoinSet::new();
    for number in 0..24 {
        let (http, commands) = (doors[number % 2].clone(), commands.clone());
        asking.spawn(async move {
            let header = [("idempotency-key", "order-1"), ("content-type", "application/json")];
            let payload = r#"{"ms":1500}"#;
            anyhow::Ok(match number % 8 {
                6 => http.post_with("/v1/send/sleep", &header, payload).await?.expect(202)?.json()?["id"] == "order-1",
                7 => {
                    let call = ["call", "sleep", "--id", "order-1", "--data", payload];
                    commands.run(&call).await?.expect(0)?.stdout.contains("1500")
                }
                _ => {
                    let answer = http.post_with("/v1/call/sleep", &header, payload).await?.expect(200)?;
                    answer.header("baton-call-id") == "order-1"
                }
            })
        });
    }
    let held = stage.caller.until_pending("sleep", 1).await?.remove(0);
    ensure!(is_marked(&mut stage.caller, "sleep", "order-1").await?, "it is known that the call was accepted");
    // The worst moment: it was accepted, its host is gone, and it is sent again. The doors stay.
    let owner = fleet.place_of(&held.1)?;
    if owner == 2 {
        fleet.kill(owner).await?;
    }
    while let Some(answered) = asking.join_next().await {
        ensure!(answered??, "every door answers with the one call");
    }
    ensure!(ever_added(&mut stage.caller, "sleep").await? == 1, "the call was added once");
    let result = stage.caller.result("sleep", "order-1").await?;
    ensure!(result.attempts == if owner == 2 { 2 } else { 1 }, "and begun as often as it had to be: {result:?}");
    ensure!(!is_marked(&mut stage.caller, "sleep", "order-1").await?, "the result says from now on that it was there");
    // Sent again it is the same call still.
    let header = [("idempotency-key", "order-1")];
    doors[1].post_with("/v1/call/sleep", &header, r#"{"ms":1}"#).await?.expect(200)?;
    ensure!(ever_added(&mut stage.caller, "sleep").await? == 1);
    stage.caller.quiescent("sleep").await
}

#[tokio::test]
async fn an_id_is_remembered_while_its_call_waits_to_be_tried_again_and_as_long_as_its_result() -> Result<()> {
    let mut stage = Stage::with(&["fail", "echo"]).await?;
    let plan = stage.host().setting(BACKOFF_BASE_MS, 600_000).setting(RESULT_TTL_MS, 1_000).http();
    let mut host = plan.start_ready(&["fail", "echo"]).await?;
    let http = Http::of(&host).await?;
    let header = [("idempotency-key", "again")];
    let retry = r#"{"kind":"retry","after_ms":600000}"#;
    http.post_with("/v1/send/fail", &header, retry).await?.expect(202)?;
    let waits = async |caller: &mut Caller| Ok((caller.delayed("fail").await? == 1).then_some(()));
    until("it waits for its second attempt", PATIENCE, async || waits(&mut stage.caller).await).await?;
    // The host that had it is gone, and another door does not know it from there.
    host.kill9().await?;
    let host = stage.host().setting(RESULT_TTL_MS, 1_000).http().start_ready(&["fail", "echo"]).await?;
    let http = Http::of(&host).await?;
    http.post_with("/v1/send/fail", &header, retry).await?.expect(202)?;
    ensure!(stage.caller.entries("fail").await? == 0 && stage.caller.delayed("fail").await? == 1, "no second call");
    http.delete_with("/v1/calls/default/fail/again", &[]).await?.expect(200)?;
    ensure!(!is_marked(&mut stage.caller, "fail", "again").await?, "it has ended");

    // One that is to wait is the same call as well, whether it is sent again to wait or not.
    for delay in [Some("600s"), Some("1s"), None] {
        let mut headers = vec![("idempotency-key", "later")];
        headers.extend(delay.map(|delay| ("baton-delay", delay)));
        http.post_with("/v1/send/echo", &headers, "x").await?.expect(202)?;
    }
    ensure!(stage.caller.delayed("echo").await? == 1 && stage.caller.entries("echo").await? == 0, "one call waits");
    http.delete_with("/v1/calls/default/echo/later", &[]).await?.expect(200)?;
    ensure!(!is_marked(&mut stage.caller, "echo", "later").await? && stage.caller.delayed("echo").await? == 0);

    // When the result has expired, the id is anybody's again.
    for payload in ["first", "second"] {
        let answer = http.post_with("/v1/call/echo", &[("idempotency-key", "order")], payload).await?.expect(200)?;
        ensure!(answer.body == payload, "{answer:?}");
        let end = stage.caller.result("echo", "order").await?;
        ensure!(end.status == Status::Ok);
        until("the result has expired", Duration::from_secs(10), async || {
            Ok(stage.caller.result_now("echo", "order").await?.is_none().then_some(()))
        })
        .await?;
    }
    // One that ends among the dead letters leaves no mark either.
    let trap = http.post_with("/v1/call/fail", &[("idempotency-key", "bad")], r#"{"kind":"trap"}"#).await?;
    ensure!(trap.status == 502 && !is_marked(&mut stage.caller, "fail", "bad").await?, "{trap:?}");
    Ok(())
}
