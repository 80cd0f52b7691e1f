//! What a durable function learns beside its steps: nothing that would be another the next time.

use anyhow::{Result, ensure};
use baton_tests::settings::PATIENCE;
use baton_tests::{Stage, steps_guest};

use super::edges::alone;
use super::shop::{Order, stuck};

#[tokio::test]
async fn clocks_and_random_numbers_are_the_same_when_it_is_run_again_and_its_log_is_said_once() -> Result<()> {
    let (_stage, host, http) = alone().await?;
    let order =
        Order::with(&http, r#"[{"witness":1},{"event":"go"},{"witness":2},{"event":"end"},{"witness":3}]"#).await?;
    order.until_last("event-awaited").await?;
    order.tell("go", "go").await?.expect(202)?;
    order.until_last("event-awaited").await?;
    order.tell("end", "end").await?.expect(202)?;
    // It would be stuck, if it emitted something else where its log has what it emitted before.
    order.result().await?.expect(200)?;
    let history = order.history().await?;
    let seen: Vec<_> =
        history.iter().filter_map(|event| event["payload"].as_str().filter(|_| event["event"] == "emitted")).collect();
    ensure!(seen.len() == 3 && seen[0] != seen[1] && seen[1] != seen[2], "time passes, and numbers differ: {seen:?}");
    let other = Order::with(&http, r#"[{"witness":4}]"#).await?;
    other.result().await?.expect(200)?;
    let others = other.history().await?;
    let other = others.iter().find(|event| event["event"] == "emitted");
    ensure!(other.is_some_and(|other| other["payload"] != seen[0]), "another execution has other numbers: {others:?}");
    // What is said last has come through; what was said again would have come before it.
    host.lines().wait_for_several(1, PATIENCE, |line| line.contains("witness 4")).await?;
    for n in 1..=4 {
        let text = format!("witness {n}");
        let said = host.lines().wait_for_several(1, PATIENCE, |line| line.contains(&text)).await?;
        ensure!(said.len() == 1, "it is said once, and not again in each run: {said:?}");
    }
    Ok(())
}

#[tokio::test]
async fn a_wait_by_the_standard_clock_is_refused_and_says_what_to_use() -> Result<()> {
    let stage = Stage::with(&[]).await?;
    stage.folder.install("order", &steps_guest()?)?;
    stage.folder.write_manifest("order", "[retry]\nattempts_max = 1\n")?;
    let host = stage.host().http().start_ready(&["order"]).await?;
    let http = baton_tests::Http::of(&host).await?;
    let order = Order::with(&http, r#"[{"doze":3600000}]"#).await?;
    let why = stuck(&order).await?;
    ensure!(why.contains("cannot wait by the standard clock") && why.contains("execution.sleep"), "{why}");
    Order::with(&http, r#"[{"doze":0}]"#).await?.result().await?.expect(200)?;
    Ok(())
}
