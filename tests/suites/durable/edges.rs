//! What an execution does where it touches others: calls that are taken back, runs that begin anew, tenants that are not its own.

use anyhow::{Context, Result, ensure};
use baton_tests::settings::PATIENCE;
use baton_tests::{Host, Http, Stage, sample, steps_guest, until};

use super::shop::Order;

/// A host with the function that takes the steps that it is told, and nobody who would serve it.
pub(crate) async fn alone() -> Result<(Stage, Host, Http)> {
    let stage = Stage::with(&[]).await?;
    stage.folder.install("order", &steps_guest()?)?;
    stage.folder.write_manifest("order", "[grants.calls]\nfunctions = [\"echo\"]\n")?;
    let host = stage.host().http().start_ready(&["order"]).await?;
    let http = Http::of(&host).await?;
    Ok((stage, host, http))
}

#[tokio::test]
async fn an_execution_learns_that_its_call_was_taken_back() -> Result<()> {
    let (_stage, _host, http) = alone().await?;
    let order = Order::with(&http, r#"[{"calls-at-once":2}]"#).await?;
    order.until_last("call-scheduled").await?;
    let history = order.history().await?;
    for call in history.iter().filter_map(|event| event["call"].as_str()) {
        http.delete_with(&format!("/v1/calls/default/echo/{call}"), &[]).await?.expect(200)?;
    }
    order.result().await?.problem(422, "cancelled")?;
    let words = order.words().await?;
    let ends = words.iter().filter(|word| *word == "call-completed").count();
    ensure!(ends == 2 && words.last().is_some_and(|last| last == "failed"), "{words:?}");
    Ok(())
}

#[tokio::test]
async fn a_run_that_begins_anew_finds_what_the_last_one_did_not_read() -> Result<()> {
    let (_stage, _host, http) = alone().await?;
    let order = Order::with(&http, r#"[{"event":"first"},{"restart":[{"event":"second"}]}]"#).await?;
    order.until_last("event-awaited").await?;
    order.tell("second", "e2").await?.expect(202)?;
    order.tell("first", "e1").await?.expect(202)?;
    order.result().await?.expect(200)?;
    let words = order.words().await?;
    ensure!(words == ["started", "event-received", "moved-to-digest", "event-awaited", "completed"], "{words:?}");
    let shown = order.show().await?;
    ensure!(shown["run"] == 2 && shown["state"] == "completed", "{shown}");
    // An event that came in the first run is known in the second.
    order.tell("second", "e2").await?.expect(202)?;
    Ok(())
}

#[tokio::test]
async fn an_execution_is_found_and_taken_back_as_a_call() -> Result<()> {
    let (mut stage, _host, http) = alone().await?;
    let order = Order::with(&http, r#"[{"event":"never"}]"#).await?;
    order.until_last("event-awaited").await?;
    let path = format!("/v1/calls/default/order/{}", order.id);
    let state = http.get(&path).await?.expect(200)?.json()?;
    ensure!(state["state"] == "execution" && state["waits_for"] == "steps", "{state}");
    let taken = http.delete_with(&path, &[]).await?.expect(200)?.json()?;
    ensure!(taken["state"] == "cancelled", "{taken}");
    ensure!(order.words().await?.last().is_some_and(|last| last == "cancelled"));
    // Its id is known: a call under it is the same, and has ended.
    let again = http.post_with("/v1/call/order", &[("idempotency-key", &order.id)], "[]").await?;
    again.problem(409, "cancelled")?;
    // To take it back is answered the same again, also when its result has expired.
    let result = format!("baton:{{default/order}}:result:{}", order.id);
    redis::cmd("DEL").arg(&result).query_async::<()>(stage.caller.connection()).await?;
    let again = http.delete_with(&format!("/v1/exec/default/order/{}", order.id), &[]).await?.expect(200)?.json()?;
    ensure!(again["state"] == "cancelled", "{again}");
    http.get("/v1/exec/default/order?after=first").await?.problem(400, "bad-query")?;
    Ok(())
}

#[tokio::test]
async fn what_an_execution_does_not_take_is_said() -> Result<()> {
    let (_stage, _host, http) = alone().await?;
    for header in ["baton-deadline", "baton-delay"] {
        let refused = http.post_with("/v1/exec/order", &[(header, "5s")], "[]").await?.problem(400, "bad-header")?;
        ensure!(refused.json()?["detail"].as_str().is_some_and(|text| text.contains("leave it out")), "{refused:?}");
    }
    http.post("/v1/exec/order/nobody/events/x", "").await?.problem(404, "no-such-path")?;
    http.post("/v1/exec/default/order/nobody/move", "").await?.problem(404, "unknown-execution")?;
    http.post("/v1/exec/default/order/nobody/move?digest=x", "").await?.problem(400, "bad-query")?;
    http.get("/v1/exec/default/order?state=ended").await?.problem(400, "bad-query")?;
    let order = Order::with(&http, r#"[{"event":"go"}]"#).await?;
    let event = format!("/v1/exec/default/order/{}/events/go", order.id);
    http.post_with(&event, &[("baton-delay", "5s")], "").await?.problem(400, "bad-header")?;
    Ok(())
}

#[tokio::test]
async fn an_execution_waits_for_one_that_it_called() -> Result<()> {
    let (stage, _host, http) = alone().await?;
    // A durable function too, which takes no number for a list of steps.
    stage.folder.install("echo", &steps_guest()?)?;
    let order = Order::with(&http, r#"[{"calls":1}]"#).await?;
    order.result().await?.problem(422, "bad-input")?;
    let history = order.history().await?;
    let call = history.iter().find_map(|event| event["call"].as_str()).context("it called")?;
    let called = http.get(&format!("/v1/exec/default/echo/{call}")).await?.expect(200)?.json()?;
    ensure!(called["state"] == "failed", "{called}");
    // One that answers, and one that is taken back, tell it too.
    let order = Order::with(&http, r#"[{"call-with":[{"emit":3}]}]"#).await?;
    order.result().await?.expect(200)?;
    let order = Order::with(&http, r#"[{"call-with":[{"event":"never"}]}]"#).await?;
    order.until_last("call-scheduled").await?;
    let history = order.history().await?;
    let call = history.iter().find_map(|event| event["call"].as_str()).context("it called")?;
    let path = format!("/v1/exec/default/echo/{call}");
    until("it is an execution", PATIENCE, async || Ok((http.get(&path).await?.status == 200).then_some(()))).await?;
    http.delete_with(&path, &[]).await?.expect(200)?;
    order.result().await?.problem(422, "cancelled")?;
    Ok(())
}

#[tokio::test]
async fn executions_of_two_functions_may_have_one_id() -> Result<()> {
    let (stage, _host, http) = alone().await?;
    stage.folder.install("refund", &steps_guest()?)?;
    stage.folder.write_manifest("refund", "[grants.calls]\nfunctions = [\"echo\"]\n")?;
    stage.folder.install("echo", &sample("echo")?)?;
    let mut made = Vec::new();
    for function in ["order", "refund"] {
        http.post_with(&format!("/v1/exec/{function}"), &[("idempotency-key", "42")], r#"[{"calls":1}]"#)
            .await?
            .expect(202)?;
        let path = format!("/v1/exec/default/{function}/42");
        http.get(&format!("{path}/result?wait=30s")).await?.expect(200)?;
        let history = http.get(&format!("{path}/history")).await?.expect(200)?.json()?;
        let events = history["events"].as_array().context("events")?;
        made.extend(events.iter().filter_map(|event| event["call"].as_str().map(str::to_owned)));
    }
    ensure!(made.len() == 2 && made[0] != made[1], "{made:?}");
    Ok(())
}

#[tokio::test]
async fn a_plain_call_with_a_level_or_a_key_begins_an_execution_too() -> Result<()> {
    let (mut stage, _host, http) = alone().await?;
    let high = [("baton-priority", "high")];
    http.post_with("/v1/call/order", &high, r#"[{"emit":1}]"#).await?.expect(200)?;
    // The first never ends, and holds up no other for that.
    let key = [("baton-key", "k"), ("idempotency-key", "first")];
    http.post_with("/v1/send/order", &key, r#"[{"event":"never"}]"#).await?.expect(202)?;
    for _ in 0..2 {
        http.post_with("/v1/call/order", &[("baton-key", "k")], r#"[{"emit":1}]"#).await?.expect(200)?;
    }
    let long = "x".repeat(128);
    http.post_with("/v1/call/order", &[("idempotency-key", &long)], r#"[{"emit":1}]"#).await?.expect(200)?;
    ensure!(stage.caller.entries("order").await? == 0, "nothing of them stands in the queue");
    Ok(())
}

#[tokio::test]
async fn more_steps_than_are_written_at_once_are_written_one_part_after_another() -> Result<()> {
    let (_stage, _host, http) = alone().await?;
    let order = Order::with(&http, r#"[{"emit":2500}]"#).await?;
    order.result().await?.expect(200)?;
    let emitted = order.words().await?.iter().filter(|word| *word == "emitted").count();
    ensure!(emitted == 2500, "{emitted}");
    Ok(())
}

#[tokio::test]
async fn calls_that_are_made_together_wake_their_function_when_all_have_ended() -> Result<()> {
    let (_stage, _host, http) = alone().await?;
    let order = Order::with(&http, r#"[{"calls-at-once":8}]"#).await?;
    order.until_last("call-scheduled").await?;
    for call in order.history().await?.iter().filter_map(|event| event["call"].as_str()) {
        http.delete_with(&format!("/v1/calls/default/echo/{call}"), &[]).await?.expect(200)?;
    }
    order.result().await?.problem(422, "cancelled")?;
    let metrics = String::from_utf8_lossy(&http.get("/metrics").await?.expect(200)?.body).into_owned();
    let waits = r#"faas_invocations_total{faas_name="default/order",outcome="waits"} 1"#;
    ensure!(metrics.lines().any(|line| line == waits), "it ran in vain: {metrics}");
    Ok(())
}

#[tokio::test]
async fn steps_wait_for_room_in_the_queue_of_what_they_call() -> Result<()> {
    let stage = Stage::with(&[]).await?;
    stage.folder.install("order", &steps_guest()?)?;
    stage.folder.write_manifest("order", "[grants.calls]\nfunctions = [\"echo\"]\n")?;
    stage.folder.write_tenant("default", "[quotas]\nqueue_calls = 3\n")?;
    let host = stage.host().http().start_ready(&["order"]).await?;
    let http = Http::of(&host).await?;
    // Nobody takes calls of `echo`: three fill the queue.
    let first = Order::with(&http, r#"[{"calls-at-once":3}]"#).await?;
    first.until_last("call-scheduled").await?;
    let second = Order::with(&http, r#"[{"calls":1}]"#).await?;
    let held = r#"faas_invocations_total{faas_name="default/order",outcome="handed-back"}"#;
    until("the second is put back", PATIENCE, async || {
        let metrics = http.get("/metrics").await?.expect(200)?;
        Ok(String::from_utf8_lossy(&metrics.body).contains(held).then_some(()))
    })
    .await?;
    ensure!(second.words().await? == ["started"], "nothing of it is written before there is room");
    for call in first.history().await?.iter().filter_map(|event| event["call"].as_str()) {
        http.delete_with(&format!("/v1/calls/default/echo/{call}"), &[]).await?.expect(200)?;
    }
    second.until_last("call-scheduled").await
}
