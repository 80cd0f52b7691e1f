//! `baton why`: where a call is and why, and where its time went.

use anyhow::{Result, ensure};
use baton_tests::settings::{BACKOFF_BASE_MS, PATIENCE, SEATS};
use baton_tests::{Commands, Fleet, Http, Stage, until};
use serde_json::Value;

async fn why(commands: &Commands, id: &str) -> Result<Value> {
    commands.run(&["why", id, "--json"]).await?.expect(0)?.json()
}

/// Asks until the call waits for this: what hosts say of themselves follows what they do.
async fn until_waits_for(commands: &Commands, id: &str, reason: &str) -> Result<Value> {
    until(&format!("{id} waits for {reason}"), PATIENCE, async || {
        let said = why(commands, id).await?;
        Ok((said["waits_for"] == reason).then_some(said))
    })
    .await
}

#[tokio::test]
async fn a_call_that_waits_says_what_for_and_since_when() -> Result<()> {
    let mut stage = Stage::with(&["sleep", "fail", "echo"]).await?;
    stage.folder.write_manifest("echo", "[quotas]\ncalls_per_second = 1\n")?;
    let commands = Commands::at_redis(&stage.redis.url());
    let deadline_ms = baton_tests::now_ms() + 600_000;
    let deadline = deadline_ms.to_string();
    let long = br#"{"ms":60000}"#;
    let first = stage.caller.add("sleep", &[("payload", long), ("deadline", deadline.as_bytes())]).await?;
    let said = until_waits_for(&commands, &first, "host").await?;
    let accepted: u64 = first.split('-').next().unwrap_or_default().parse()?;
    ensure!(said["state"] == "queued" && said["since_ms"] == accepted && said["accepted_ms"] == accepted, "{said}");
    ensure!(said["deadline_ms"] == deadline_ms && said["function"] == "default/sleep", "{said}");

    let plan = stage.host().setting(SEATS, 2).setting(BACKOFF_BASE_MS, 600_000).http();
    let host = plan.start_ready(&["sleep", "fail", "echo"]).await?;
    let http = Http::of(&host).await?;
    // A call over the rate, before all seats are taken.
    let ids = stage.caller.send_many("echo", "x", 40).await?;
    let last = ids.last().expect("forty were sent");
    let said = until_waits_for(&commands, last, "calls-per-second").await?;
    ensure!(said["hosts"][0]["held"] == "calls-per-second" && said["hosts"][0]["seats"] == 2, "{said}");
    // A retry that waits for its time.
    let retry = stage.caller.send("fail", r#"{"kind":"retry","after_ms":600000}"#).await?;
    let said = until_waits_for(&commands, &retry, "retry").await?;
    ensure!(said["state"] == "delayed" && said["attempt"] == 2 && said["due_ms"].is_u64(), "{said}");
    // A seat: two calls have both.
    let second = stage.caller.send("sleep", long).await?;
    stage.caller.until_pending("sleep", 2).await?;
    let third = stage.caller.send("sleep", long).await?;
    let said = until_waits_for(&commands, &third, "seat").await?;
    ensure!(said["hosts"][0]["in_flight"].as_u64() >= Some(2) && said["state"] == "queued", "{said}");
    let text = commands.run(&["why", &third, "--function", "sleep"]).await?.expect(0)?.stdout;
    ensure!(text.contains("every host that has the function runs as many calls as it may"), "{text}");
    // One that runs, asked over HTTP, which tells nothing of hosts.
    let said = http.get(&format!("/v1/calls/default/sleep/{second}/why")).await?.expect(200)?.json()?;
    let id = host.id().await?;
    ensure!(said["state"] == "running" && said["host"] == id.as_str() && said["since_ms"].is_u64(), "{said}");
    ensure!(said["waits_for"].is_null() && said["hosts"].is_null(), "{said}");
    http.get("/v1/calls/default/sleep/nobody/why").await?.problem(404, "unknown-call")?;
    commands.run(&["why", "nobody"]).await?.expect(1)?;
    Ok(())
}

#[tokio::test]
async fn the_time_of_a_call_is_split_though_its_first_host_died() -> Result<()> {
    let mut stage = Stage::with(&["sleep"]).await?;
    let waited = stage.caller.send("sleep", r#"{"ms":40}"#).await?;
    // It stands in its stream for as long as a host takes to start.
    let mut fleet = Fleet::of(2, &stage.host(), &["sleep"]).await?;
    let commands = fleet.host(0).commands().clone();
    stage.caller.result("sleep", &waited).await?;
    let said = why(&commands, &waited).await?;
    let time = |part: &str| said["time"][part].as_u64().unwrap_or_default();
    ensure!(said["state"] == "completed" && said["status"] == "ok", "{said}");
    ensure!(time("host_us") >= 40_000, "it slept in the host: {said}");
    ensure!(time("run_us") < time("host_us") && time("instantiate_us") > 0, "and did nothing itself: {said}");
    ensure!(time("queue_us") > 1_000 && time("earlier_us") == 0, "{said}");
    let parts = ["queue_us", "admission_us", "instantiate_us", "run_us", "host_us"].map(time);
    let sum: u64 = parts.into_iter().sum();
    // Some of it is told in whole milliseconds.
    ensure!(sum <= time("total_us") + 5_000 && sum + 20_000 >= time("total_us"), "{sum} in all: {said}");
    ensure!(said["time"]["settle_ms"].is_u64(), "one clock serves both: {said}");

    let lost = stage.caller.send("sleep", r#"{"ms":700}"#).await?;
    let owner = stage.caller.until_pending("sleep", 1).await?.remove(0).1;
    fleet.kill(fleet.place_of(&owner)?).await?;
    stage.caller.result("sleep", &lost).await?;
    let said = why(&commands, &lost).await?;
    ensure!(said["attempt"] == 2 && said["host"] != owner, "{said}");
    ensure!(said["time"]["earlier_us"].as_u64().is_some_and(|us| us > 1_000), "the lost attempt took its time: {said}");
    let text = commands.run(&["why", &lost]).await?.expect(0)?.stdout;
    for word in ["earlier attempts", "queue", "admission", "instantiate", "run", "host calls", "settle"] {
        ensure!(text.contains(word), "{word}: {text}");
    }
    Ok(())
}
