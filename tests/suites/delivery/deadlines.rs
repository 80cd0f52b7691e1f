//! Deadlines, when the host of a call dies.

use anyhow::{Result, ensure};
use baton_model::Status;
use baton_tests::settings::PATIENCE;
use baton_tests::{Fleet, Stage, now_ms, until};

#[tokio::test]
async fn a_call_whose_deadline_passes_while_nobody_has_it_is_not_begun_again() -> Result<()> {
    let mut stage = Stage::with(&["sleep"]).await?;
    let mut fleet = Fleet::of(1, &stage.host(), &["sleep"]).await?;
    let deadline = now_ms() + 2_500;
    let (long, text) = (br#"{"ms":60000}"#, deadline.to_string());
    let lost = stage.caller.add("sleep", &[("payload", long), ("deadline", text.as_bytes())]).await?;
    stage.caller.until_pending("sleep", 1).await?;
    fleet.kill(0).await?;
    until("the deadline has passed", PATIENCE, async || Ok((now_ms() > deadline).then_some(()))).await?;
    fleet.replace(0).await?;
    let result = stage.caller.result("sleep", &lost).await?;
    // The attempt that was lost counts; no other was begun.
    ensure!((result.status, result.attempts, result.started_ms) == (Status::Expired, 1, None), "{result:?}");
    stage.caller.quiescent("sleep").await
}

#[tokio::test]
async fn a_call_that_is_taken_over_is_stopped_at_its_deadline_all_the_same() -> Result<()> {
    let mut stage = Stage::with(&["sleep"]).await?;
    let mut fleet = Fleet::of(2, &stage.host(), &["sleep"]).await?;
    let deadline = now_ms() + 4_000;
    let (long, text) = (br#"{"ms":60000}"#, deadline.to_string());
    let id = stage.caller.add("sleep", &[("payload", long), ("deadline", text.as_bytes())]).await?;
    let owner = stage.caller.until_pending("sleep", 1).await?.remove(0).1;
    let at = fleet.place_of(&owner)?;
    fleet.kill(at).await?;
    let result = stage.caller.result("sleep", &id).await?;
    ensure!((result.status, result.attempts) == (Status::Expired, 2), "{result:?}");
    ensure!(result.finished_ms >= deadline && result.started_ms.is_some_and(|at| at < deadline), "{result:?}");
    stage.caller.quiescent("sleep").await
}
