//! What `baton ps` says of hosts that are gone.

use anyhow::{Context, Result, ensure};
use baton_tests::settings::PATIENCE;
use baton_tests::{Fleet, Signal, Stage, now_ms};
use serde_json::json;

use super::SOON;

#[tokio::test]
async fn a_killed_host_is_listed_as_crashed_and_an_interrupted_one_as_shut_down() -> Result<()> {
    let stage = Stage::with(&["echo"]).await?;
    let mut fleet = Fleet::of(2, &stage.host(), &["echo"]).await?;
    let (killed, interrupted) = (fleet.id(0).clone(), fleet.id(1).clone());
    let before_ms = now_ms();
    fleet.kill(0).await?;
    fleet.until_state(0, "offline (crashed)", SOON).await?;
    let listing = fleet.listing().await?;
    ensure!(listing.state(&interrupted) == "online", "{listing:?}");
    let machine = listing.machine_of(&killed).context("its machine is listed")?;
    ensure!((&machine["state"], &machine["online"]) == (&json!("online"), &json!(1)), "one of it lives: {machine}");
    let last_seen = listing.host(&killed).context("it is listed")?["last_seen_ms"].as_u64();
    ensure!(
        last_seen.is_some_and(|seen| seen + 60_000 > before_ms && seen <= now_ms()),
        "when it was last seen, in Unix ms: {listing:?}"
    );
    let row = listing.function("default/echo").context("its function is listed")?;
    ensure!((&row["available"], &row["healthy_hosts"]) == (&json!(true), &json!(1)), "{row}");

    fleet.signal(1, Signal::INT)?;
    ensure!(fleet.exit_within(1, PATIENCE).await?.code() == Some(0), "it leaves with 0");
    // At once: the first look says so.
    let listing = fleet.listing().await?;
    ensure!(listing.state(&interrupted) == "offline (shutdown)", "{listing:?}");
    ensure!(listing.state(&killed) == "offline (crashed)", "it stays listed: {listing:?}");
    let machine = listing.machine_of(&killed).context("its machine is listed")?;
    ensure!((&machine["state"], &machine["online"]) == (&json!("offline"), &json!(0)), "none of it lives: {machine}");
    let row = listing.function("default/echo").context("its function is still known")?;
    ensure!((&row["available"], &row["healthy_hosts"]) == (&json!(false), &json!(0)), "{row}");
    let text = fleet.host(0).commands().run(&["ps"]).await?.expect(0)?.stdout;
    for word in ["offline (crashed)", "offline (shutdown)"] {
        ensure!(text.contains(word), "{word:?} is missing: {text}");
    }
    Ok(())
}

#[tokio::test]
async fn the_only_host_is_seen_to_have_crashed_by_whoever_looks() -> Result<()> {
    let stage = Stage::with(&["echo"]).await?;
    let mut fleet = Fleet::of(1, &stage.host(), &["echo"]).await?;
    fleet.kill(0).await?;
    fleet.until_state(0, "offline (crashed)", SOON).await?;
    let former = fleet.id(0).clone();
    // The next one knows of it too, and does not take it for alive.
    fleet.replace(0).await?;
    fleet.until_state(0, "online", SOON).await?;
    let listing = fleet.listing().await?;
    ensure!(listing.state(&former) == "offline (crashed)", "{listing:?}");
    Ok(())
}

#[tokio::test]
async fn whoever_notices_a_crash_logs_what_was_taken_over_and_from_whom() -> Result<()> {
    let stage = Stage::with(&["echo"]).await?;
    let mut fleet = Fleet::of(3, &stage.host(), &["echo"]).await?;
    let killed = fleet.id(0).clone();
    fleet.kill(0).await?;
    let told = baton_tests::until("a survivor logs that a host is offline", SOON, async || {
        Ok(fleet.logged("host offline").first().cloned())
    })
    .await?;
    ensure!(told["host"] == killed.as_str() && told["reason"] == "crashed", "{told}");
    ensure!(told["machine"].is_string() && told["calls"].is_number(), "which machine, how many calls: {told}");
    Ok(())
}
