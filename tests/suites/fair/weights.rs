//! Seats by weight.

use anyhow::{Result, ensure};
use baton_tests::settings::{PATIENCE, SEATS};
use baton_tests::{Stage, sample, until};

use super::starts;

#[tokio::test]
async fn two_backlogs_are_worked_off_by_weight() -> Result<()> {
    let mut stage = Stage::with(&[]).await?;
    let sleep = sample("sleep")?;
    stage.folder.install("light/sleep", &sleep)?;
    stage.folder.install("heavy/sleep", &sleep)?;
    stage.folder.write_tenant("heavy", "weight = 2\n")?;
    // Both are there before anybody reads, so that neither has a start.
    let calls = 600;
    let light = stage.caller.send_many("light/sleep", r#"{"ms":20}"#, calls).await?;
    let heavy = stage.caller.send_many("heavy/sleep", r#"{"ms":20}"#, calls).await?;
    let _host = stage.host().setting(SEATS, 24).start_ready(&["light/sleep", "heavy/sleep"]).await?;
    let heavy = starts(&stage.caller.results("heavy/sleep", &heavy, PATIENCE).await?)?;
    let light = starts(&stage.caller.results("light/sleep", &light, PATIENCE).await?)?;
    // While both had a backlog: from when the first of each had begun to when the last of the heavy one did. The functions
    // are loaded one by one, so one of them may have been alone at first.
    let (from, to) = (heavy[0].max(light[0]), *heavy.last().unwrap_or(&0));
    let within = |starts: &[u64]| starts.iter().filter(|at| (from..to).contains(*at)).count() as f64;
    let (heavy, light) = (within(&heavy), within(&light));
    println!("while both had calls, {heavy} of the heavy tenant began and {light} of the light one");
    let share = heavy / (heavy + light);
    ensure!(heavy > 300.0, "they had calls at the same time for most of it");
    ensure!((share / (2.0 / 3.0) - 1.0).abs() < 0.1, "the heavy tenant had {share:.3}; its weight is two thirds");
    Ok(())
}

#[tokio::test]
async fn a_tenant_with_a_backlog_holds_up_no_other() -> Result<()> {
    let mut stage = Stage::with(&[]).await?;
    let sleep = sample("sleep")?;
    stage.folder.install("greedy/sleep", &sleep)?;
    stage.folder.install("modest/sleep", &sleep)?;
    let host = stage.host().setting(SEATS, 16).start_ready(&["greedy/sleep", "modest/sleep"]).await?;
    let backlog = stage.caller.send_many("greedy/sleep", r#"{"ms":50}"#, 1_000).await?;
    // It has three quarters of the seats, and the rest are kept.
    stage.caller.until_pending("greedy/sleep", 12).await?;
    for _ in 0..20 {
        stage.caller.call("modest/sleep", r#"{"ms":5}"#).await?;
    }
    ensure!(stage.caller.pending("greedy/sleep").await?.len() <= 12, "what waits, waits in Redis");
    let left = stage.caller.entries("greedy/sleep").await?;
    ensure!(left > 300, "the modest tenant's calls did not wait for the backlog: {left} of it are left");
    stage.caller.results("greedy/sleep", &backlog, PATIENCE).await?;
    stage.caller.quiescent("greedy/sleep").await?;
    ensure!(host.lines().warnings().is_empty(), "nothing was worth a warning: {:?}", host.lines().warnings());
    Ok(())
}

#[tokio::test]
async fn a_tenant_alone_has_every_seat() -> Result<()> {
    let mut stage = Stage::with(&[]).await?;
    stage.folder.install("greedy/sleep", &sample("sleep")?)?;
    let _host = stage.host().setting(SEATS, 16).start_ready(&["greedy/sleep"]).await?;
    let calls = stage.caller.send_many("greedy/sleep", r#"{"ms":300}"#, 16).await?;
    let results = stage.caller.results("greedy/sleep", &calls, PATIENCE).await?;
    ensure!(super::at_once(&results) == 16, "all sixteen run at once");
    Ok(())
}

#[tokio::test]
async fn a_tenant_that_comes_newly_gets_seats_from_one_that_had_all() -> Result<()> {
    let mut stage = Stage::with(&[]).await?;
    let sleep = sample("sleep")?;
    stage.folder.install("greedy/sleep", &sleep)?;
    let mut host = stage.host().setting(SEATS, 4).start_ready(&["greedy/sleep"]).await?;
    let backlog = stage.caller.send_many("greedy/sleep", r#"{"ms":100}"#, 400).await?;
    stage.caller.until_pending("greedy/sleep", 4).await?;
    stage.folder.install("modest/sleep", &sleep)?;
    host.ready("modest/sleep").await?;
    stage.caller.call("modest/sleep", r#"{"ms":5}"#).await?;
    ensure!(stage.caller.entries("greedy/sleep").await? > 50, "it did not wait for the backlog");
    // What is left of it is not needed, and its end is another test's.
    drop(backlog);
    until("the host still works", PATIENCE, async || Ok(Some(stage.caller.call("modest/sleep", r#"{"ms":1}"#).await?)))
        .await?;
    Ok(())
}
