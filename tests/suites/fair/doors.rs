//! Quotas at the gateway: what would be too much is refused with 429 and when to come back, and was never accepted.

use anyhow::{Result, ensure};
use baton_tests::settings::PATIENCE;
use baton_tests::{Http, Stage, sample, until};

#[tokio::test]
async fn a_full_queue_is_answered_with_429_and_takes_calls_again_when_it_is_not() -> Result<()> {
    let mut stage = Stage::with(&[]).await?;
    stage.folder.install("acme/sleep", &sample("sleep")?)?;
    stage.folder.write_tenant("acme", "quotas.queue_calls = 3\nquotas.concurrency = 1\n")?;
    let host = stage.host().http().start_ready(&["acme/sleep"]).await?;
    let http = Http::of(&host).await?;
    http.post("/v1/send/acme/sleep", r#"{"ms":1500}"#).await?.expect(202)?;
    stage.caller.until_pending("acme/sleep", 1).await?;
    for _ in 0..3 {
        http.post("/v1/send/acme/sleep", r#"{"ms":1}"#).await?.expect(202)?;
    }
    for path in ["/v1/send/acme/sleep", "/v1/call/acme/sleep"] {
        let refused = http.post(path, r#"{"ms":1}"#).await?.problem(429, "quota-queue-calls")?;
        ensure!(refused.header("retry-after").parse::<u32>()? >= 1, "it says when to come back: {refused:?}");
    }
    ensure!(stage.caller.entries("acme/sleep").await? == 4, "what was refused was not accepted");
    stage.caller.quiescent("acme/sleep").await?;
    http.post("/v1/call/acme/sleep", r#"{"ms":1}"#).await?.expect(200)?;
    Ok(())
}

#[tokio::test]
async fn a_queue_has_room_for_so_many_bytes() -> Result<()> {
    let mut stage = Stage::with(&["sleep"]).await?;
    stage.folder.write_manifest("sleep", "quotas.queue_bytes = 100000\nquotas.concurrency = 1\n")?;
    let host = stage.host().http().start_ready(&["sleep"]).await?;
    let http = Http::of(&host).await?;
    http.post("/v1/send/sleep", r#"{"ms":2000}"#).await?.expect(202)?;
    stage.caller.until_pending("sleep", 1).await?;
    let large = format!(r#"{{"ms":1,"filler":"{}"}}"#, "x".repeat(150_000));
    http.post("/v1/send/sleep", large.clone()).await?.expect(202)?;
    http.post("/v1/send/sleep", large).await?.problem(429, "quota-queue-bytes")?;
    stage.caller.quiescent("sleep").await?;
    http.post("/v1/call/sleep", r#"{"ms":1}"#).await?.expect(200)?;
    Ok(())
}

#[tokio::test]
async fn a_tenant_may_have_refused_what_would_wait() -> Result<()> {
    let mut stage = Stage::with(&[]).await?;
    let sleep = sample("sleep")?;
    stage.folder.install("acme/sleep", &sleep)?;
    stage.folder.install("patient/sleep", &sleep)?;
    stage.folder.write_tenant("acme", "over = \"refuse\"\nquotas.concurrency = 1\n")?;
    stage.folder.write_tenant("patient", "quotas.concurrency = 1\n")?;
    let host = stage.host().http().start_ready(&["acme/sleep", "patient/sleep"]).await?;
    let http = Http::of(&host).await?;
    for tenant in ["acme", "patient"] {
        http.post(&format!("/v1/send/{tenant}/sleep"), r#"{"ms":1500}"#).await?.expect(202)?;
        stage.caller.until_pending(&format!("{tenant}/sleep"), 1).await?;
    }
    http.post("/v1/call/acme/sleep", r#"{"ms":1}"#).await?.problem(429, "quota-concurrency")?;
    http.post("/v1/call/patient/sleep", r#"{"ms":1}"#).await?.expect(200)?;
    until("the tenant has its seat back", PATIENCE, async || {
        Ok((http.post("/v1/call/acme/sleep", r#"{"ms":1}"#).await?.status == 200).then_some(()))
    })
    .await
}
