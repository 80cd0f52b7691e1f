//! How much one execution may be: its log, its unread events, how deep its calls are.

use anyhow::{Context, Result, ensure};
use baton_model::execution::{LOG_BYTES_MAX, LOG_EVENTS_MAX};
use baton_tests::settings::{ATTEMPTS_MAX, PATIENCE};
use baton_tests::{Http, Stage, steps_guest, until};

use super::edges::alone;
use super::shop::{Order, stuck};

#[tokio::test]
async fn an_answer_that_the_log_has_no_room_for_is_a_failure() -> Result<()> {
    let (mut stage, _host, http) = alone().await?;
    let order = Order::with(&http, r#"[{"calls-at-once":1}]"#).await?;
    order.until_last("call-scheduled").await?;
    let mut fill = redis::cmd("HSET");
    fill.arg(format!("baton:{{default/order}}:exec:{}", order.id)).arg("bytes").arg(LOG_BYTES_MAX - 10);
    fill.query_async::<()>(stage.caller.connection()).await?;
    let history = order.history().await?;
    let call = history.iter().find_map(|event| event["call"].as_str()).context("it called")?;
    http.delete_with(&format!("/v1/calls/default/echo/{call}"), &[]).await?.expect(200)?;
    order.result().await?.problem(422, "log-full")?;
    ensure!(order.words().await?.ends_with(&["call-completed".to_owned(), "failed".to_owned()]));
    Ok(())
}

#[tokio::test]
async fn executions_that_wait_take_no_room_in_a_queue() -> Result<()> {
    let mut stage = Stage::with(&["echo"]).await?;
    stage.folder.install("order", &steps_guest()?)?;
    let manifest = "[quotas]\nqueue_calls = 2\n[grants.calls]\nfunctions = [\"echo\"]\n";
    stage.folder.write_manifest("order", manifest)?;
    stage.folder.write_manifest("echo", "[quotas]\nqueue_calls = 2\n")?;
    let host = stage.host().http().start_ready(&["order", "echo"]).await?;
    let http = Http::of(&host).await?;
    let mut waiting = Vec::new();
    for _ in 0..5 {
        let order = Order::with(&http, r#"[{"sleep-until":9000000000000},{"event":"go"}]"#).await?;
        order.until_last("timer-set").await?;
        waiting.push(order);
    }
    ensure!(stage.caller.timers("order").await? == 5 && stage.caller.delayed("order").await? == 0);
    let order = Order::with(&http, r#"[{"event":"go"},{"calls":1}]"#).await?;
    order.tell("go", "go").await?.expect(202)?;
    order.result().await?.expect(200)?;
    Ok(())
}

#[tokio::test]
async fn a_log_of_many_pages_is_read_and_one_that_lacks_an_entry_is_not() -> Result<()> {
    let (mut stage, _host, http) = alone().await?;
    let order = Order::with(&http, r#"[{"emit":900},{"event":"go"}]"#).await?;
    order.until_last("event-awaited").await?;
    let history = order.history().await?;
    let positions: Vec<_> = history.iter().filter_map(|event| event["position"].as_u64()).collect();
    ensure!(positions == (1..=903).collect::<Vec<_>>(), "{} positions", positions.len());
    let cut = Order::with(&http, r#"[{"emit":900},{"event":"go"}]"#).await?;
    cut.until_last("event-awaited").await?;
    let mut take = redis::cmd("XDEL");
    take.arg(format!("baton:{{default/order}}:log:{}", cut.id)).arg("600-0");
    take.query_async::<()>(stage.caller.connection()).await?;
    let damage = cut.show().await?["damage"].to_string();
    ensure!(damage.contains("after position 599"), "{damage}");
    order.tell("go", "go").await?.expect(202)?;
    order.result().await?.expect(200)?;
    Ok(())
}

#[tokio::test]
async fn a_log_has_an_end_and_so_has_what_is_not_read() -> Result<()> {
    let (_stage, _host, http) = alone().await?;
    let long = Order::with(&http, &format!(r#"[{{"emit":{}}}]"#, LOG_EVENTS_MAX + 1)).await?;
    let full = Order::with(&http, r#"[{"event":"go"},{"restart":[]}]"#).await?;
    full.until_last("event-awaited").await?;
    for n in 0..=1_000 {
        full.tell("other", &format!("e{n}")).await?.expect(202)?;
    }
    full.tell("go", "go").await?.expect(202)?;
    let why = stuck(&full).await?;
    ensure!(why.contains("1001 events") && why.contains("wait for them first"), "{why}");
    let why = stuck(&long).await?;
    ensure!(why.contains("50000 events") && why.contains("restart now and then"), "{why}");
    let shown = long.show().await?;
    ensure!(shown["events"].as_u64().is_some_and(|events| events <= LOG_EVENTS_MAX as u64), "{shown}");
    Ok(())
}

#[tokio::test]
async fn executions_that_call_each_other_have_a_depth() -> Result<()> {
    let stage = Stage::with(&[]).await?;
    for function in ["order", "echo"] {
        stage.folder.install(function, &steps_guest()?)?;
        stage.folder.write_manifest(function, "[grants.calls]\nfunctions = [\"echo\"]\n")?;
    }
    let host = stage.host().setting(ATTEMPTS_MAX, 1).http().start_ready(&["order", "echo"]).await?;
    let http = Http::of(&host).await?;
    let nested = (0..9).fold("[]".to_owned(), |steps, _| format!(r#"[{{"call-with":{steps}}}]"#));
    let order = Order::with(&http, &nested).await?;
    let why = until("the deepest is stuck", PATIENCE, async || {
        let listed = http.get("/v1/exec/default/echo?state=stuck").await?.expect(200)?.json()?;
        Ok(listed["executions"][0]["stuck"].as_str().map(str::to_owned))
    });
    let why = why.await?;
    ensure!(why.contains("8 calls wait for this one"), "{why}");
    let listed = http.get("/v1/exec/default/echo").await?.expect(200)?.json()?;
    ensure!(listed["executions"].as_array().is_some_and(|all| all.len() == 8), "{listed}");
    ensure!(order.show().await?["state"] == "running");
    Ok(())
}
