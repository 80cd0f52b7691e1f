//! What a host tells on the coordination channels, from its start to its end.

use anyhow::{Context, Result, ensure};
use baton_model::{FunctionId, Status};
use baton_tests::settings::{LEASE_MS, PATIENCE, SEATS};
use baton_tests::{Event, Events, Http, Signal, Stage, until};

use super::{SHORT_LEASE, SOON};

/// The last word of an event about `function`: `ready`, `shutdown`, `offline`, or the status in a notice of health.
fn word(event: &Event, function: &FunctionId) -> String {
    if event.tells_health(function) {
        return format!("health {}", event.message["status"].as_str().unwrap_or_default());
    }
    event.channel.split(':').nth(1).unwrap_or_default().to_owned()
}

#[tokio::test]
async fn a_function_is_ready_then_shut_down_then_offline_and_each_is_true_when_it_is_told() -> Result<()> {
    let mut stage = Stage::with(&["sleep"]).await?;
    let sleep: FunctionId = "sleep".parse()?;
    let mut listener = Events::with_health(&stage.redis.address()).await?;
    let mut host = stage.host().setting(SEATS, 16).start_ready(&["sleep"]).await?;
    let id = host.id().await?;
    ensure!(stage.caller.call("sleep", r#"{"ms":1}"#).await?.status == Status::Ok, "who is ready answers");
    let ids = stage.caller.send_many("sleep", r#"{"ms":1500}"#, 5).await?;
    stage.caller.until_pending("sleep", 5).await?;
    host.signal(Signal::TERM)?;
    let told = host.events()?.wait_for("shutdown", PATIENCE, |event| event.tells("shutdown", &sleep)).await?;
    ensure!(stage.caller.pending("sleep").await?.len() == 5, "it is told before the host drains");
    ensure!(told.message["drain_ms"].as_u64().is_some_and(|ms| ms > 0), "with how long it may take: {told:?}");
    ensure!(host.exit_within(PATIENCE).await?.code() == Some(0), "it leaves with 0");
    ensure!(stage.caller.results_now("sleep", &ids).await?.iter().all(Option::is_some), "what ran was answered");

    let heard = listener.heard().await?;
    ensure!(heard.iter().all(|event| event.is_of(&id)), "nobody else tells anything: {heard:#?}");
    let words: Vec<String> = heard.iter().map(|event| word(event, &sleep)).collect();
    let facts: Vec<&str> = words.iter().map(String::as_str).filter(|word| !word.starts_with("health")).collect();
    ensure!(facts == ["ready", "shutdown", "offline"], "each once, in this order: {words:?}");
    Ok(())
}

#[tokio::test]
async fn a_host_tells_its_health_when_it_changes() -> Result<()> {
    let mut stage = Stage::with(&["sleep"]).await?;
    let sleep: FunctionId = "sleep".parse()?;
    let mut listener = Events::with_health(&stage.redis.address()).await?;
    let mut host = stage.host().http().setting(SEATS, 16).start_ready(&["sleep"]).await?;
    let (record, http) = (host.record().await?, Http::of(&host).await?);
    stage.caller.send_many("sleep", r#"{"ms":1500}"#, 5).await?;
    // Redis has handed an entry out a moment before the host knows that it has it.
    until("five attempts run", PATIENCE, async || {
        Ok((http.get("/health").await?.json()?["activeExecutions"] == 5).then_some(()))
    })
    .await?;
    host.stop().await?;

    let heard = listener.heard().await?;
    let health: Vec<&Event> = heard.iter().filter(|event| event.tells_health(&sleep)).collect();
    for event in &health {
        let said = &event.message;
        ensure!(event.is_of(&record.id) && said["machine"] == record.machine, "who: {said}");
        ensure!(said["digest"].is_string() && said["seats"] == 16, "what, and with how many seats: {said}");
        ensure!(said["in_flight"].as_u64().is_some_and(|count| count <= 5), "what it has in hand: {said}");
    }
    let mut statuses: Vec<&str> = health.iter().filter_map(|event| event.message["status"].as_str()).collect();
    statuses.dedup();
    ensure!(statuses == ["healthy", "draining", "offline"], "each when it becomes true: {heard:#?}");
    let draining = health.iter().find(|event| event.message["status"] == "draining").context("it was told")?;
    ensure!(draining.message["in_flight"] == 5, "all were in flight: {draining:?}");
    Ok(())
}

#[tokio::test]
async fn a_host_tells_its_health_again_and_again_while_somebody_listens() -> Result<()> {
    let stage = Stage::with(&["echo"]).await?;
    let echo: FunctionId = "echo".parse()?;
    let plan = stage.host().setting(LEASE_MS, SHORT_LEASE.as_millis());
    let host = plan.start_ready(&["echo"]).await?;
    let id = host.id().await?;
    let mut listener = Events::with_health(&stage.redis.address()).await?;
    for n in 0..3 {
        let fits =
            |event: &Event| event.tells_health(&echo) && event.is_of(&id) && event.message["status"] == "healthy";
        let told = listener.wait_for("health", SHORT_LEASE + SOON, fits).await;
        told.with_context(|| format!("notice {n}"))?;
    }
    Ok(())
}
