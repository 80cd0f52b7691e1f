//! Schedules: each tick is run once in the whole fleet, whichever hosts live.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use baton_model::Status;
use baton_tests::settings::{PATIENCE, full_length};
use baton_tests::{Fleet, Http, Stage, now_ms, until};

const SECOND: u64 = 1_000;
const HOUR: u64 = 3_600 * SECOND;

/// How many entries the function's stream ever had: every call that was made, whether it has ended or not.
async fn ever_added(stage: &mut Stage) -> Result<u64> {
    let facts: Vec<redis::Value> = redis::cmd("XINFO")
        .arg(&["STREAM", "baton:{default/echo}:calls"])
        .query_async(stage.caller.connection())
        .await?;
    let names = facts.iter().step_by(2).map(|name| redis::from_redis_value_ref::<String>(name).unwrap_or_default());
    let at = names.into_iter().position(|name| name == "entries-added").context("Redis 7 counts entries")?;
    Ok(redis::from_redis_value_ref(&facts[2 * at + 1])?)
}

/// Waits until the clock shows this.
async fn until_ms(at_ms: u64) {
    tokio::time::sleep(Duration::from_millis(at_ms.saturating_sub(now_ms()))).await;
}

#[tokio::test]
async fn each_tick_is_run_once_while_hosts_are_killed_and_started() -> Result<()> {
    let seconds = if full_length() { 60 } else { 5 };
    let mut stage = Stage::with(&["echo"]).await?;
    stage.folder.write_manifest(
        "echo",
        "[[schedule]]\nname = \"each-second\"\ncron = \"* * * * * *\"\npayload = '{\"n\":1}'\n",
    )?;
    let mut fleet = Fleet::of(3, &stage.host(), &["echo"]).await?;
    let first = (now_ms() / SECOND + 2) * SECOND;
    for n in 0..seconds {
        // In the very moment at which all of them are about to make the call.
        until_ms(first + n * SECOND).await;
        let victim = usize::try_from(n % 3)?;
        fleet.kill(victim).await?;
        fleet.replace(victim).await?;
    }
    let last = first + (seconds - 1) * SECOND;
    let ids: Vec<String> = (0..seconds).map(|n| format!("tick.each-second.{}", first + n * SECOND)).collect();
    for (n, answer) in (0..).zip(stage.caller.results("echo", &ids, PATIENCE).await?) {
        ensure!((answer.status, &answer.payload[..]) == (Status::Ok, br#"{"n":1}"#.as_slice()), "tick {n}: {answer:?}");
        let tick = first + n * SECOND;
        ensure!(answer.accepted_ms >= tick, "tick {n} came {} ms early", tick - answer.accepted_ms);
    }
    // Nobody makes calls any more: what was added is what was run, no tick twice.
    stage.folder.write_manifest("echo", "")?;
    let mut done = BTreeSet::new();
    until("no further tick comes", PATIENCE, async || {
        let now = ticks(&mut stage).await?;
        let is_same = done == now && ever_added(&mut stage).await? == u64::try_from(now.len())?;
        done = now;
        tokio::time::sleep(Duration::from_millis(1_100)).await;
        Ok(is_same.then_some(()))
    })
    .await?;
    ensure!(ids.iter().all(|id| done.contains(id)) && done.len() >= ids.len(), "up to {last}: {done:?}");
    stage.caller.quiescent("echo").await
}

/// The ids of all ticks that have a result.
async fn ticks(stage: &mut Stage) -> Result<BTreeSet<String>> {
    let pattern = "baton:{default/echo}:result:";
    let keys: Vec<String> =
        redis::cmd("KEYS").arg(format!("{pattern}tick.*")).query_async(stage.caller.connection()).await?;
    Ok(keys.into_iter().filter_map(|key| key.strip_prefix(pattern).map(str::to_owned)).collect())
}

#[tokio::test]
async fn of_what_was_missed_the_latest_is_run_or_nothing() -> Result<()> {
    let mut stage = Stage::with(&["echo"]).await?;
    // It came too long ago to be only a little late, and comes again tomorrow.
    let missed = (now_ms() / SECOND - 20) * SECOND;
    let (hour, minute, second) = (missed / HOUR % 24, missed / (60 * SECOND) % 60, missed / SECOND % 60);
    let schedule = |name: &str, policy: &str| {
        format!("[[schedule]]\nname = \"{name}\"\ncron = \"{second} {minute} {hour} * * *\"\nmissed = \"{policy}\"\n")
    };
    stage
        .folder
        .write_manifest("echo", &format!("{}{}", schedule("skips", "skip"), schedule("makes-up", "run-once")))?;
    let done = (missed - HOUR).to_string();
    let () = redis::cmd("HSET")
        .arg(&["baton:{default/echo}:ticks", "skips", &done, "makes-up", &done])
        .query_async(stage.caller.connection())
        .await?;
    let _host = stage.host().start_ready(&["echo"]).await?;
    let answer = stage.caller.result("echo", &format!("tick.makes-up.{missed}")).await?;
    ensure!(answer.status == Status::Ok, "{answer:?}");
    ensure!(ticks(&mut stage).await?.len() == 1, "once for all that were missed, and nothing of the other");
    stage.caller.quiescent("echo").await
}

#[tokio::test]
async fn a_clock_that_was_ahead_once_does_not_stop_a_schedule() -> Result<()> {
    let mut stage = Stage::with(&["echo"]).await?;
    let each_second = |name: &str| format!("[[schedule]]\nname = \"{name}\"\ncron = \"* * * * * *\"\n");
    stage.folder.write_manifest("echo", &format!("{}{}", each_second("each"), each_second("older")))?;
    // What hosts wrote while the clock of Redis was an hour ahead; the older ones wrote no timetable.
    let ahead = (now_ms() + HOUR).to_string();
    let () = redis::cmd("HSET")
        .arg(&["baton:{default/echo}:ticks", "each", &format!("{ahead} * * * * * * UTC"), "older", &ahead])
        .query_async(stage.caller.connection())
        .await?;
    let _host = stage.host().start_ready(&["echo"]).await?;
    until("ticks of both are run again", PATIENCE, async || {
        let run = ticks(&mut stage).await?;
        let is_run = |name: &str| run.iter().filter(|id| id.starts_with(&format!("tick.{name}."))).count() >= 2;
        Ok((is_run("each") && is_run("older")).then_some(()))
    })
    .await
}

#[tokio::test]
async fn another_timetable_has_missed_nothing() -> Result<()> {
    let mut stage = Stage::with(&["echo"]).await?;
    // It came an hour ago, by an expression that nobody had written then.
    let missed = (now_ms() - HOUR) / SECOND * SECOND;
    let (hour, minute, second) = (missed / HOUR % 24, missed / (60 * SECOND) % 60, missed / SECOND % 60);
    let schedule = |name: &str| {
        format!("[[schedule]]\nname = \"{name}\"\ncron = \"{second} {minute} {hour} * * *\"\nmissed = \"run-once\"\n")
    };
    stage.folder.write_manifest("echo", &format!("{}{}", schedule("new"), schedule("same")))?;
    let since = missed - HOUR;
    let (new, same) = (format!("{since} 0 0 3 * * * UTC"), format!("{since} {second} {minute} {hour} * * * UTC"));
    let () = redis::cmd("HSET")
        .arg(&["baton:{default/echo}:ticks", "new", &new, "same", &same])
        .query_async(stage.caller.connection())
        .await?;
    let _host = stage.host().start_ready(&["echo"]).await?;
    stage.caller.result("echo", &format!("tick.same.{missed}")).await?;
    let written = until("both were looked at", PATIENCE, async || {
        let all: Vec<String> =
            redis::cmd("HVALS").arg("baton:{default/echo}:ticks").query_async(stage.caller.connection()).await?;
        Ok(all.iter().all(|text| text.ends_with(&format!("{second} {minute} {hour} * * * UTC"))).then_some(all))
    })
    .await?;
    ensure!(written.len() == 2, "{written:?}");
    stage.caller.quiescent("echo").await?;
    ensure!(ticks(&mut stage).await?.len() == 1, "of the new one nothing was missed");
    Ok(())
}

#[tokio::test]
async fn nobody_forestalls_a_tick_through_a_door() -> Result<()> {
    let stage = Stage::with(&["echo"]).await?;
    let host = stage.host().http().start_ready(&["echo"]).await?;
    let http = Http::of(&host).await?;
    let key = [("idempotency-key", "tick.nightly.1795220000000")];
    for door in ["call", "send"] {
        http.post_with(&format!("/v1/{door}/echo"), &key, "1").await?.problem(400, "bad-idempotency-key")?;
    }
    let order = r#"{"functions":["echo"],"payload":1}"#;
    http.post_with("/v1/fanout", &key, order).await?.problem(400, "bad-idempotency-key")?;
    let batch = r#"{"payload":1,"id":"tick.nightly.1795220000000"}"#;
    let said = http.post("/v1/batch/echo", batch).await?.expect(207)?.json()?;
    ensure!(said["calls"][0]["error"]["code"] == "bad-id", "{said}");
    for arguments in [["--id", "tick.nightly.1"], ["--header", "x-schedule=nightly"], ["--header", "x-baton-depth=1"]] {
        let refused = host.commands().run(&[&["send", "echo"], &arguments[..]].concat()).await?.expect(2)?;
        ensure!(!refused.stderr.is_empty(), "{arguments:?}");
    }
    Ok(())
}

#[tokio::test]
async fn the_next_tick_is_shown_and_a_wrong_schedule_is_refused() -> Result<()> {
    let stage = Stage::with(&["echo"]).await?;
    let manifest = "[[schedule]]\nname = \"nightly\"\ncron = \"0 3 * * *\"\ntimezone = \"Europe/Berlin\"\n";
    stage.folder.write_manifest("echo", manifest)?;
    let host = stage.host().http().start_ready(&["echo"]).await?;
    let listing = host.commands().run(&["ps", "--json"]).await?.expect(0)?.json()?;
    let served = Http::of(&host).await?.get("/v1/functions").await?.expect(200)?.json()?;
    for said in [&listing["functions"][0]["schedules"], &served["functions"][0]["schedules"]] {
        ensure!(said[0]["name"] == "nightly" && said[0]["timezone"] == "Europe/Berlin", "{said}");
        let next = said[0]["next_ms"].as_u64().context("a time")?;
        ensure!((now_ms()..now_ms() + 26 * HOUR).contains(&next) && next % HOUR == 0, "{said}");
    }
    let table = host.commands().run(&["ps"]).await?.expect(0)?.stdout;
    ensure!(table.contains("NEXT TICK") && table.contains("0 3 * * *"), "{table}");
    stage.folder.write_manifest("echo", &manifest.replace("Berlin", "Nowhere"))?;
    let began = Instant::now();
    until("the log says what is wrong", PATIENCE, async || {
        Ok((!host.lines().containing("`schedule.timezone`").is_empty()).then_some(()))
    })
    .await?;
    ensure!(began.elapsed() < PATIENCE);
    Ok(())
}
