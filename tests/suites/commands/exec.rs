//! `baton exec`: an order from its start to its end, as a person sees it; and histories that are replayed.

use anyhow::{Context, Result, ensure};
use baton_tests::settings::PATIENCE;
use baton_tests::{Commands, Host, Stage, patched, saga_guest, until};

const ORDER: &str = r#"{"item":"lamp","price":300,"patience_ms":3600000}"#;

async fn shop() -> Result<(Stage, Host)> {
    let stage = Stage::with(&["order", "echo", "sleep"]).await?;
    stage.folder.write_manifest("order", "[grants.calls]\nfunctions = [\"echo\", \"sleep\"]\n")?;
    let host = stage.host().start_ready(&["order", "echo", "sleep"]).await?;
    Ok((stage, host))
}

/// Waits until the execution waits for a step like this.
async fn until_waiting(commands: &Commands, id: &str, what: &str) -> Result<()> {
    until(&format!("{id} waits for {what}"), PATIENCE, async || {
        let shown = commands.run(&["exec", "show", id]).await?.expect(0)?;
        Ok(shown.stdout.lines().any(|line| line.contains("waits for") && line.contains(what)).then_some(()))
    })
    .await
}

#[tokio::test]
async fn an_order_is_begun_paid_and_looked_at() -> Result<()> {
    let (_stage, host) = shop().await?;
    let commands = host.commands();
    let begun = commands.run(&["exec", "start", "order", "--id", "lamp-1", "--data", ORDER]).await?.expect(0)?;
    ensure!(begun.stdout == "lamp-1\n", "{begun:?}");
    let again = commands.run(&["exec", "start", "order", "--id", "lamp-1", "--data", ORDER]).await?.expect(0)?;
    ensure!(again.stderr.contains("begun before"), "{again:?}");
    until_waiting(commands, "lamp-1", "the event payment, for 59m").await?;
    let early = commands.run(&["exec", "result", "lamp-1"]).await?.expect(3)?;
    ensure!(early.stderr.contains("baton exec show lamp-1"), "{early:?}");
    let why = commands.run(&["why", "lamp-1"]).await?.expect(0)?;
    ensure!(why.stdout.contains("is execution") && why.stdout.contains("baton exec show"), "{why:?}");

    let pay = ["exec", "event", "lamp-1", "payment", "--event-id", "p1", "--data", r#"{"amount":300}"#];
    ensure!(commands.run(&pay).await?.expect(0)?.stdout == "p1\n");
    let result = commands.run(&["exec", "result", "lamp-1", "--wait", "30s"]).await?.expect(0)?;
    ensure!(result.json()?["paid"] == 300, "{result:?}");
    let shown = commands.run(&["exec", "show", "lamp-1", "--json"]).await?.expect(0)?.json()?;
    ensure!(shown["state"] == "completed" && shown["waits_for"].as_array().is_some_and(Vec::is_empty), "{shown}");
    let history = commands.run(&["exec", "history", "lamp-1"]).await?.expect(0)?.stdout;
    for part in
        ["    1      +0.000s  started", "step 1    echo", "event-received             payment  p1  {\"amount\":300}"]
    {
        ensure!(history.contains(part), "{part} is not in\n{history}");
    }
    let listed = commands.run(&["exec", "list", "--state", "completed"]).await?.expect(0)?.stdout;
    ensure!(listed.lines().any(|line| line.starts_with("lamp-1     default/order  completed")), "{listed}");
    ensure!(commands.run(&["exec", "list", "--state", "stuck"]).await?.expect(0)?.stdout.contains("(none)"));
    Ok(())
}

#[tokio::test]
async fn what_is_not_there_or_over_is_said() -> Result<()> {
    let (_stage, host) = shop().await?;
    let commands = host.commands();
    for command in [
        &["show", "nobody"][..],
        &["history", "nobody"],
        &["cancel", "nobody"],
        &["move", "nobody"],
        &["event", "nobody", "x"],
    ] {
        let said = commands.run(&[&["exec"], command].concat()).await?.expect(1)?;
        ensure!(said.stderr.contains("execution nobody: the id is wrong"), "{command:?}: {said:?}");
    }
    commands.run(&["exec", "start", "order", "--id", "lamp-1", "--data", ORDER]).await?.expect(0)?;
    until_waiting(commands, "lamp-1", "payment").await?;
    ensure!(commands.run(&["exec", "cancel", "lamp-1"]).await?.expect(0)?.stdout.contains("is taken back"));
    ensure!(commands.run(&["exec", "cancel", "lamp-1"]).await?.expect(0)?.stdout.contains("is taken back"));
    ensure!(commands.run(&["exec", "event", "lamp-1", "payment"]).await?.expect(1)?.stderr.contains("has ended"));
    let early = commands.run(&["exec", "start", "later", "--data", "1"]).await?.expect(0)?;
    ensure!(early.stderr.contains("no host has had default/later yet"), "{early:?}");
    // A function that is no durable one is said so at once, and not kept waiting.
    commands.run(&["exec", "start", "echo", "--id", "plain"]).await?.expect(0)?;
    let plain = commands.run(&["exec", "result", "plain", "--wait", "30s"]).await?.expect(1)?;
    ensure!(plain.stderr.contains("not-durable") && plain.stderr.contains("call it instead"), "{plain:?}");
    Ok(())
}

#[tokio::test]
async fn an_execution_is_replayed_and_moved_and_where_another_build_differs_is_named() -> Result<()> {
    let stage = Stage::with(&["echo"]).await?;
    let first = saga_guest()?;
    let other = patched(&first, "saga-build-0", "saga-build-1")?;
    stage.folder.install("saga", &first)?;
    stage.folder.write_manifest("saga", "[grants.calls]\nfunctions = [\"echo\"]\n")?;
    let host = stage.host().start_ready(&["saga", "echo"]).await?;
    let files = tempfile::tempdir()?;
    let (same, differs) = (files.path().join("same.wasm"), files.path().join("differs.wasm"));
    std::fs::write(&same, &first)?;
    std::fs::write(&differs, &other)?;
    let (same, differs) = (same.to_str().context("UTF-8")?, differs.to_str().context("UTF-8")?);
    let commands = host.commands();
    commands.run(&["exec", "start", "saga", "--id", "s1", "--data", "1"]).await?.expect(0)?;
    until_waiting(commands, "s1", "the event go").await?;

    let replayed = commands.run(&["exec", "replay", "s1", "--component", same]).await?.expect(0)?.stdout;
    for part in [
        "step 1: a call of echo",
        "-> ok, 5 bytes",
        "the same 3 steps as in the log; the function waits where the log ends",
    ] {
        ensure!(replayed.contains(part), "{part} is not in\n{replayed}");
    }
    let differing = commands.run(&["exec", "replay", "s1", "--component", differs]).await?.expect(1)?.stdout;
    ensure!(differing.contains("it differs: step 1 is a call of echo"), "{differing}");

    // The same from a file, without Redis.
    let history = commands.run(&["exec", "history", "s1", "--json"]).await?.expect(0)?.stdout;
    let kept = files.path().join("s1.json");
    std::fs::write(&kept, &history)?;
    let kept = kept.to_str().context("UTF-8")?;
    commands.run(&["exec", "replay", "--history", kept, "--component", same]).await?.expect(0)?;
    std::fs::write(kept, history.replacen("\"payload\":\"\\\"one\\\"\"", "\"payload\":\"\\\"two\\\"\"", 1))?;
    let forged = commands.run(&["exec", "replay", "--history", kept, "--component", same]).await?.expect(1)?;
    ensure!(forged.stderr.contains("position 3 of the log was changed"), "{forged:?}");

    // To the build of other steps it is not moved, and goes on with the one that it has.
    stage.folder.install("saga", &other)?;
    let digest = baton_model::Digest::of(&other).to_string();
    until("the host has the other build", PATIENCE, async || {
        let listed = commands.run(&["ps", "--json"]).await?.expect(0)?.stdout;
        Ok(listed.contains(&digest).then_some(()))
    })
    .await?;
    let refused = commands.run(&["exec", "move", "s1", "--wait", "30s"]).await?.expect(1)?;
    ensure!(
        refused.stderr.contains(&digest[..12]) && refused.stderr.contains("step 1 is a call of echo"),
        "{refused:?}"
    );
    let stays = commands.run(&["exec", "show", "s1"]).await?.expect(0)?.stdout;
    ensure!(stays.contains("was not moved to") && stays.contains("is running"), "{stays}");
    commands.run(&["exec", "event", "s1", "go"]).await?.expect(0)?;
    let ended = commands.run(&["exec", "result", "s1", "--wait", "30s"]).await?.expect(0)?.stdout;
    ensure!(ended.trim() == "saga-build-0", "{ended}");
    let whole = commands.run(&["exec", "replay", "s1", "--component", same]).await?.expect(0)?.stdout;
    ensure!(whole.contains("as in the log"), "{whole}");
    Ok(())
}
