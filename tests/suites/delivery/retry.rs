//! When, how often and after which failures a call is tried again.

use std::time::Duration;

use anyhow::{Result, ensure};
use baton_model::{PastAttempt, ResultDocument, Status};
use baton_tests::settings::{BACKOFF_BASE_MS, HOSTS_LOST_MAX, PATIENCE, SEATS, TIME_MAX_MS, full_length};
use baton_tests::{Fleet, Http, Stage, now_ms, sample, until};

fn steps(steps: &[&str]) -> String {
    serde_json::json!({ "kind": "steps", "steps": steps }).to_string()
}

fn code(document: &ResultDocument) -> &str {
    document.error.as_ref().map_or("", |error| &error.code)
}

#[tokio::test]
async fn a_manifest_names_the_failures_after_which_its_calls_are_tried_again() -> Result<()> {
    let mut stage = Stage::with(&[]).await?;
    for (name, on) in [("usual", ""), ("named", "on = [\"trap\", \"timeout\", \"exit\"]"), ("none", "on = []")] {
        stage.folder.write_manifest(name, &format!("[retry]\nattempts_max = 3\nbackoff_base_ms = 1\n{on}\n"))?;
        stage.folder.install(name, &sample("fail")?)?;
    }
    let _host = stage.host().setting(TIME_MAX_MS, 300).start_ready(&["usual", "named", "none"]).await?;
    let table: [(&str, &[&str], Status, &str, u32); 8] = [
        ("usual", &["retry", "retry", "ok"], Status::Ok, "", 3),
        ("usual", &["retry", "trap"], Status::Dead, "trap", 2),
        ("named", &["trap", "loop", "ok"], Status::Ok, "", 3),
        ("named", &["exit", "reject"], Status::Error, "as-asked", 2),
        ("named", &["trap"], Status::Dead, "trap", 3),
        ("named", &["retry", "ok"], Status::Dead, "retry", 1),
        ("none", &["retry", "ok"], Status::Dead, "retry", 1),
        ("none", &["trap", "ok"], Status::Dead, "trap", 1),
    ];
    for (function, asked, status, error, attempts) in table {
        let ended = stage.caller.call(function, steps(asked)).await?;
        let (as_said, tries) = (ended.status == status && code(&ended) == error, ended.attempts == attempts);
        ensure!(as_said && tries, "{function} {asked:?}: {ended:?}");
    }
    let reasons: Vec<String> = stage.caller.until_dead("named", 2).await?.iter().map(|l| l.text("reason")).collect();
    ensure!(reasons == ["attempts-exhausted", "retry"], "{reasons:?}");
    Ok(())
}

#[tokio::test]
async fn a_caller_says_how_often_and_after_what_its_call_is_tried_again() -> Result<()> {
    let mut stage = Stage::with(&["fail"]).await?;
    let host = stage.host().http().setting(BACKOFF_BASE_MS, 60_000).start_ready(&["fail"]).await?;
    let (patient, trapping) = (steps(&["retry", "retry", "retry", "retry", "ok"]), steps(&["trap", "ok"]));
    // Over Redis, by the command line and over HTTP.
    let fields: [(&str, &[u8]); 4] =
        [("payload", patient.as_bytes()), ("attempts_max", b"5"), ("backoff_base_ms", b"1"), ("backoff_max_ms", b"3")];
    let id = stage.caller.add("fail", &fields).await?;
    let ended = stage.caller.result("fail", &id).await?;
    ensure!((ended.status, ended.attempts) == (Status::Ok, 5), "{ended:?}");
    let wishes = ["--attempts", "2", "--backoff", "1ms", "--retry-on", "trap", "--json"];
    let called = [&["call", "fail", "--data", &trapping], &wishes[..]].concat();
    let ended = host.commands().run(&called).await?.expect(0)?.json()?;
    ensure!(ended["attempts"] == 2, "{ended}");
    let http = Http::of(&host).await?;
    let wishes = [
        ("content-type", "application/json"),
        ("baton-attempts", "5"),
        ("baton-backoff", "1ms"),
        ("baton-backoff-max", "3ms"),
    ];
    http.post_with("/v1/call/fail", &wishes, patient.clone()).await?.expect(200)?;
    let wishes = [("content-type", "application/json"), ("baton-attempts", "1")];
    http.post_with("/v1/call/fail", &wishes, patient).await?.problem(502, "retry")?;
    Ok(())
}

#[tokio::test]
async fn the_third_host_that_a_call_takes_down_is_its_last() -> Result<()> {
    let mut stage = Stage::with(&["sleep"]).await?;
    let mut fleet = Fleet::of(4, &stage.host(), &["sleep"]).await?;
    let id = stage.caller.send("sleep", r#"{"ms":20000}"#).await?;
    let mut lost = Vec::new();
    for _ in 0..3 {
        let owner = until("a host has the call that has not had it", PATIENCE, async || {
            let pending = stage.caller.pending("sleep").await?;
            Ok(pending.into_iter().map(|(_, owner)| owner).find(|owner| !lost.contains(owner)))
        })
        .await?;
        fleet.kill(fleet.place_of(&owner)?).await?;
        lost.push(owner);
    }
    let answer = stage.caller.result("sleep", &id).await?;
    ensure!((answer.status, code(&answer), answer.attempts) == (Status::Dead, "poison", 3), "{answer:?}");
    let letter = &stage.caller.until_dead("sleep", 1).await?[0];
    let history: Vec<PastAttempt> = serde_json::from_str(&letter.text("history"))?;
    ensure!(history.iter().map(|attempt| attempt.end.as_str()).eq(["host-lost"; 3]), "{history:?}");
    stage.caller.quiescent("sleep").await
}

/// Calls of which three in ten fail at each of their attempts, over three hosts, of which one after the other is killed.
/// What each call does is written down before, so that its end, its attempts and its history can be held against it.
#[tokio::test]
async fn transient_failures_and_lost_hosts_leave_each_call_with_its_right_end() -> Result<()> {
    let (count, every, kills) =
        if full_length() { (10_000, Duration::from_secs(10), 6) } else { (600, Duration::from_millis(700), 2) };
    const ATTEMPTS: usize = 3;
    let mut stage = Stage::with(&[]).await?;
    stage.folder.write_manifest("job", "[retry]\nbackoff_base_ms = 400\nbackoff_max_ms = 1000\n")?;
    stage.folder.install("job", &sample("fail")?)?;
    let mut fleet = Fleet::of(3, &stage.host().setting(HOSTS_LOST_MAX, 9).setting(SEATS, 32), &["job"]).await?;
    let fails = |call: usize, attempt: usize| (call * 7 + attempt * 13 + call / 10 * attempt) % 10 < 3;
    let plans: Vec<Vec<&str>> = (0..count)
        .map(|call| (0..ATTEMPTS).map(|attempt| if fails(call, attempt) { "retry" } else { "ok" }).collect())
        .collect();
    let mut ids = Vec::with_capacity(count);
    let pause = every * (kills + 1) / u32::try_from(count)?;
    let mut next_kill = now_ms() + millis(every);
    let mut killed = 0;
    for plan in &plans {
        ids.push(stage.caller.send("job", steps(plan)).await?);
        tokio::time::sleep(pause).await;
        if killed < kills && now_ms() >= next_kill {
            let at = usize::try_from(killed)? % 3;
            fleet.kill(at).await?;
            fleet.replace(at).await?;
            killed += 1;
            next_kill = now_ms() + millis(every);
        }
    }
    let ended = stage.caller.results("job", &ids, PATIENCE).await?;
    stage.caller.quiescent("job").await?;
    let letters = stage.caller.dead("job").await?;
    let mut dead = 0;
    for ((id, plan), end) in ids.iter().zip(&plans).zip(&ended) {
        // An attempt that was lost with its host counts, so that a call may be spared a failure, or have no retry left.
        let attempts = end.attempts as usize;
        let last = plan[attempts.clamp(1, ATTEMPTS) - 1];
        match end.status {
            Status::Ok => ensure!(last == "ok", "{id} {plan:?}: {end:?}"),
            Status::Dead => {
                dead += 1;
                ensure!(last == "retry" && attempts >= ATTEMPTS && code(end) == "retry", "{id} {plan:?}: {end:?}");
                let mine: Vec<_> = letters.iter().filter(|letter| letter.text("id") == *id).collect();
                ensure!(mine.len() == 1 && mine[0].text("reason") == "attempts-exhausted", "{id}: {mine:?}");
                check_history(id, &serde_json::from_str::<Vec<PastAttempt>>(&mine[0].text("history"))?, attempts)?;
            }
            Status::Error | Status::Cancelled | Status::Expired => anyhow::bail!("{id} {plan:?}: {end:?}"),
        }
    }
    ensure!(dead == letters.len() && dead > 0, "{dead} ended as dead, {} letters lie there", letters.len());
    ensure!(killed == kills, "{killed} of {kills} hosts were killed");
    Ok(())
}

/// Each attempt once, in order, and none sooner than the wait before it allows.
fn check_history(id: &str, history: &[PastAttempt], attempts: usize) -> Result<()> {
    let numbers: Vec<usize> = history.iter().map(|attempt| attempt.attempt as usize).collect();
    ensure!(numbers == (1..=attempts).collect::<Vec<_>>(), "{id}: {history:?}");
    for pair in history.windows(2) {
        if let (Some(ended), Some(wait), Some(started)) = (pair[0].ended_ms, pair[0].then_waited_ms, pair[1].started_ms)
        {
            // What is between the end and its settling is the host's own time, and only makes it later.
            ensure!(started >= ended + wait, "{id} was tried again {} ms too soon: {pair:?}", ended + wait - started);
        }
    }
    Ok(())
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
