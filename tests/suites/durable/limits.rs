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
