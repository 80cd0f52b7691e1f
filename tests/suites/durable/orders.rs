//! One host, and the life of an order.

use std::time::Duration;

use anyhow::{Result, ensure};
use baton_tests::Http;

use super::shop::{Order, open, stage};

const HOUR: Duration = Duration::from_secs(3600);

#[tokio::test]
async fn an_order_waits_for_its_payments_and_is_shipped() -> Result<()> {
    let mut stage = stage().await?;
    let (_host, http) = open(&stage).await?;
    let order = Order::of(&http, 300, HOUR).await?;
    order.until_last("event-awaited").await?;
    let waiting = order.show().await?;
    ensure!(
        waiting["state"] == "running"
            && waiting["waits_for"][0]["what"].as_str().is_some_and(|what| what.contains("payment")),
        "{waiting}"
    );
    ensure!(stage.caller.entries("order").await? == 0, "nothing of it stands in the queue");
    order.pay(100, "p1").await?;
    // Sent again, it is the same event.
    let (first, again) = (order.pay(100, "p1").await?, order.pay(100, "p1").await?);
    ensure!(first["position"] == again["position"], "{first} {again}");
    // The first is looked at before the second comes.
    order.until_last("event-awaited").await?;
    order.pay(200, "p2").await?;
    let receipt = order.result().await?.expect(200)?.json()?;
    ensure!(receipt["paid"] == 300 && receipt["item"] == "lamp", "{receipt}");
    let words = order.words().await?;
    let expected = [
        "started",
        "moved-to-digest",
        "call-scheduled",
        "call-completed",
        "emitted",
        "event-awaited",
        "event-received",
        "event-awaited",
        "event-received",
        "call-scheduled",
        "call-completed",
        "completed",
    ];
    ensure!(words == expected, "{words:?}");
    ensure!(stage.caller.timers("order").await? == 0, "no timer is left");
    let ended = order.show().await?;
    ensure!(ended["state"] == "completed" && ended["waits_for"].as_array().is_some_and(Vec::is_empty), "{ended}");
    Ok(())
}

#[tokio::test]
async fn what_is_not_paid_in_time_is_released() -> Result<()> {
    let stage = stage().await?;
    let (_host, http) = open(&stage).await?;
    let order = Order::of(&http, 300, Duration::from_millis(300)).await?;
    order.pay(100, "p1").await?;
    let refused = order.result().await?.problem(422, "not-paid")?;
    ensure!(refused.json()?["detail"].as_str().is_some_and(|text| text.contains("100 of 300")), "{refused:?}");
    let words = order.words().await?;
    ensure!(
        words.contains(&"timer-fired".to_owned()) && words.last().is_some_and(|last| last == "failed"),
        "{words:?}"
    );
    let emitted: Vec<_> = order.history().await?.into_iter().filter(|event| event["event"] == "emitted").collect();
    ensure!(emitted.len() == 2 && emitted[1]["name"] == "released", "{emitted:?}");
    Ok(())
}

#[tokio::test]
async fn a_plain_call_of_a_durable_function_begins_an_execution_and_waits_for_its_end() -> Result<()> {
    let mut stage = stage().await?;
    let (_host, http) = open(&stage).await?;
    let input = br#"{"item":"lamp","price":1,"patience_ms":3600000}"#;
    stage.caller.add("order", &[("payload", input), ("id", b"mine")]).await?;
    let order = Order { http: &http, id: "mine".to_owned() };
    baton_tests::until("it has begun", baton_tests::settings::PATIENCE, async || {
        Ok((http.get("/v1/exec/default/order/mine").await?.status == 200).then_some(()))
    })
    .await?;
    order.pay(1, "p1").await?;
    let result = stage.caller.result("order", "mine").await?;
    ensure!(result.payload.starts_with(b"{\"reservation\""), "{result:?}");
    Ok(())
}

#[tokio::test]
async fn one_that_is_taken_back_ends_and_takes_no_events() -> Result<()> {
    let stage = stage().await?;
    let (_host, http) = open(&stage).await?;
    let order = Order::of(&http, 300, HOUR).await?;
    order.until_last("event-awaited").await?;
    http.delete_with(&format!("/v1/exec/default/order/{}", order.id), &[]).await?.expect(200)?;
    order.result().await?.problem(409, "cancelled")?;
    ensure!(order.words().await?.last().is_some_and(|last| last == "cancelled"));
    let path = format!("/v1/exec/default/order/{}/events/payment", order.id);
    http.post(&path, "{}").await?.problem(409, "ended")?;
    // Asking again is answered as before.
    http.delete_with(&format!("/v1/exec/default/order/{}", order.id), &[]).await?.expect(200)?;
    for (path, code) in [("nobody", "unknown-execution"), ("nobody/history", "unknown-execution")] {
        http.get(&format!("/v1/exec/default/order/{path}")).await?.problem(404, code)?;
    }
    http.post("/v1/exec/default/order/nobody/events/payment", "{}").await?.problem(404, "unknown-execution")?;
    Ok(())
}

async fn stuck(http: &Http, order: &Order<'_>) -> Result<String> {
    baton_tests::until("it is stuck", baton_tests::settings::PATIENCE, async || {
        let shown = http.get(&format!("/v1/exec/default/order/{}", order.id)).await?.expect(200)?.json()?;
        Ok(shown["stuck"].as_str().map(str::to_owned))
    })
    .await
}

#[tokio::test]
async fn a_log_that_somebody_cut_stops_the_execution_and_says_so() -> Result<()> {
    let mut stage = stage().await?;
    let (_host, http) = open(&stage).await?;
    let order = Order::of(&http, 300, HOUR).await?;
    order.until_last("event-awaited").await?;
    let log = format!("baton:{{default/order}}:log:{}", order.id);
    redis::cmd("XDEL").arg(&log).arg("3-0").query_async::<()>(stage.caller.connection()).await?;
    let path = format!("/v1/exec/default/order/{}/events/payment", order.id);
    http.post(&path, "{}").await?.problem(409, "log-damaged")?;
    // A wake all the same, as a timer would be.
    stage.caller.add("order", &[("payload", b""), ("id", order.id.as_bytes()), ("execution", b"1")]).await?;
    let why = stuck(&http, &order).await?;
    ensure!(why.contains("after position 2 of the log comes 4"), "{why}");
    Ok(())
}
