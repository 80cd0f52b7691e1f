//! Dead letters: looked at, sent again once the function is mended, dropped.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use baton_model::{Digest, PastAttempt, Status};
use baton_tests::settings::{HOSTS_LOST_MAX, PATIENCE, TIME_MAX_MS};
use baton_tests::{Commands, Event, Fleet, Http, Stage, now_ms, sample, until};
use serde_json::{Value, json};

const TRAP: &str = r#"{"kind":"trap","ms":600}"#;
/// How many are given up, and sent again after the fix.
const MANY: usize = 1_000;

/// Adds calls that are given up, and waits until they lie there.
async fn give_up(stage: &mut Stage, function: &str, count: usize) -> Result<Vec<String>> {
    let ids = stage.caller.send_many(function, TRAP, count).await?;
    let ended = stage.caller.results(function, &ids, PATIENCE).await?;
    ensure!(ended.iter().all(|result| result.status == Status::Dead), "{:?}", ended.first());
    Ok(ids)
}

/// Replaces a function at every host of the fleet.
async fn mend(stage: &Stage, fleet: &mut Fleet, function: &str, by: &str) -> Result<()> {
    let component = sample(by)?;
    stage.folder.install(function, &component)?;
    let (id, digest) = (function.parse()?, Digest::of(&component));
    for at in 0..fleet.ids().len() {
        let host = fleet.id(at).clone();
        let is_it = |event: &Event| event.tells("ready", &id) && event.is_of(&host) && event.digest() == Some(digest);
        fleet.host_mut(at).events()?.wait_for("the new revision", PATIENCE, is_it).await?;
    }
    Ok(())
}

async fn letters(stage: &mut Stage, function: &str) -> Result<usize> {
    let key = format!("baton:{{default/{function}}}:dead");
    Ok(redis::cmd("XLEN").arg(key).query_async(stage.caller.connection()).await?)
}

#[tokio::test]
async fn a_thousand_letters_are_sent_again_after_the_fix_and_answered_once_each() -> Result<()> {
    let mut stage = Stage::with(&[]).await?;
    stage.folder.install("job", &sample("fail")?)?;
    let mut fleet = Fleet::of(2, &stage.host(), &["job"]).await?;
    let ids = give_up(&mut stage, "job", MANY).await?;
    mend(&stage, &mut fleet, "job", "echo").await?;

    // Who sends them again is killed in the middle; what was done is done, and the rest is done the second time.
    let commands = fleet.host(0).commands().clone();
    let redrive = ["dead", "redrive", "--function", "job", "--all", "--json"];
    let mut first = Box::pin(commands.run(&redrive));
    let begun =
        until("some letters are gone", PATIENCE, async || Ok((letters(&mut stage, "job").await? < MANY).then_some(())));
    tokio::select! {
        biased;
        begun = begun => begun?,
        ended = &mut first => { ended?.expect(0)?; }
    }
    drop(first);
    commands.run(&redrive).await?.expect(0)?;

    let answers = stage.caller.results("job", &ids, PATIENCE).await?;
    for answer in &answers {
        ensure!(
            answer.status == Status::Ok && answer.attempts == 2,
            "answered once, in its second attempt: {answer:?}"
        );
        ensure!(&answer.payload[..] == TRAP.as_bytes(), "the input is the same: {answer:?}");
    }
    ensure!(letters(&mut stage, "job").await? == 0, "nothing is left");
    let again = commands.run(&redrive).await?.expect(0)?.json()?;
    ensure!(again["redriven"] == 0, "what was sent again is not sent a third time: {again}");
    stage.caller.quiescent("job").await
}

#[tokio::test]
async fn a_call_that_was_sent_again_survives_its_host_and_has_all_its_attempts_anew() -> Result<()> {
    let mut stage = Stage::with(&[]).await?;
    stage.folder.install("job", &sample("fail")?)?;
    let plan = stage.host().setting("BATON_RETRY__ATTEMPTS_MAX", 2).setting(HOSTS_LOST_MAX, 1);
    let mut fleet = Fleet::of(2, &plan, &["job"]).await?;
    let id = &give_up(&mut stage, "job", 1).await?[0];
    mend(&stage, &mut fleet, "job", "sleep").await?;

    let commands = fleet.host(0).commands().clone();
    commands.run(&["dead", "redrive", id, "--function", "job"]).await?.expect(0)?;
    ensure!(stage.caller.result_now("job", id).await?.is_none(), "the result `dead` is gone while it runs");
    let owner = stage.caller.until_pending("job", 1).await?[0].1.clone();
    fleet.kill(fleet.place_of(&owner)?).await?;
    let answer = stage.caller.result("job", id).await?;
    // One that was given up, one whose host was killed, and one: more than two, but not since people had it sent again.
    ensure!((answer.status, answer.attempts) == (Status::Ok, 3), "{answer:?}");
    let accepted_ms: u64 = id.split('-').next().unwrap_or_default().parse()?;
    ensure!(answer.accepted_ms == accepted_ms, "it is still the same call: {answer:?}");
    stage.caller.quiescent("job").await
}

#[tokio::test]
async fn what_may_end_hosts_is_sent_again_only_if_it_is_meant() -> Result<()> {
    let mut stage = Stage::with(&["sleep"]).await?;
    let mut fleet = Fleet::of(2, &stage.host().setting(HOSTS_LOST_MAX, 0), &["sleep"]).await?;
    let id = stage.caller.send("sleep", r#"{"ms":1000}"#).await?;
    let owner = stage.caller.until_pending("sleep", 1).await?[0].1.clone();
    let killed = fleet.place_of(&owner)?;
    fleet.kill(killed).await?;
    ensure!(stage.caller.result("sleep", &id).await?.status == Status::Dead);
    let commands = fleet.host(1 - killed).commands().clone();
    let redrive = async |more: &[&str]| -> Result<Value> {
        let arguments = [&["dead", "redrive", "--function", "sleep", "--json"], more].concat();
        commands.run(&arguments).await?.expect(0)?.json()
    };
    let all = redrive(&["--all"]).await?;
    ensure!(all["redriven"] == 0 && all["quarantined"] == 1, "{all}");
    let named = redrive(&["--reason", "poison"]).await?;
    ensure!(named["redriven"] == 1, "{named}");
    ensure!(stage.caller.result("sleep", &id).await?.status == Status::Ok);
    Ok(())
}

#[tokio::test]
async fn letters_are_listed_shown_and_dropped_by_what_people_know_of_them() -> Result<()> {
    let mut stage = Stage::with(&["fail"]).await?;
    let host = stage.host().start_ready(&["fail"]).await?;
    let past = (now_ms() + 1_000).to_string();
    let fields: [(&str, &[u8]); 4] =
        [("payload", br#"{"kind":"exit"}"#), ("id", b"order-7"), ("x-colour", b"blue"), ("deadline", past.as_bytes())];
    stage.caller.add("fail", &fields).await?;
    stage.caller.until_dead("fail", 1).await?;
    give_up(&mut stage, "fail", 3).await?;
    let commands = host.commands();
    let list = async |more: &[&str]| -> Result<Vec<Value>> {
        let listed = commands.run(&[&["dead", "ls", "--json"], more].concat()).await?.expect(0)?.json()?;
        Ok(listed["letters"].as_array().context("a list")?.clone())
    };
    let reasons = |letters: &[Value]| letters.iter().map(|l| l["reason"].clone()).collect::<Vec<_>>();
    ensure!(reasons(&list(&[]).await?) == ["trap", "trap", "trap", "exit"], "the latest comes first");
    ensure!(list(&["fail", "--limit", "2"]).await?.len() == 2);
    ensure!(list(&["fail", "--reason", "exit"]).await?.len() == 1);
    ensure!(list(&["--older", "1h"]).await?.is_empty() && list(&["--newer", "1h"]).await?.len() == 4);
    let people = commands.run(&["dead", "ls"]).await?.expect(0)?.stdout;
    ensure!(people.contains("REASON") && people.contains("order-7") && people.contains("default/fail"), "{people}");

    let shown = commands.run(&["dead", "show", "order-7", "--json"]).await?.expect(0)?.json()?;
    ensure!(shown["reason"] == "exit" && shown["id"] == "order-7" && shown["attempts"] == 1, "{shown}");
    ensure!(shown["payload"] == json!({"kind": "exit"}) && shown["fields"]["x-colour"] == "blue", "{shown}");
    let people = commands.run(&["dead", "show", shown["letter"].as_str().context("an id")?]).await?.expect(0)?.stdout;
    ensure!(people.contains("x-colour: blue") && people.contains(r#"{"kind":"exit"}"#), "{people}");

    for (arguments, code) in [
        (&["dead", "drop", "--function", "fail"] as &[&str], 2),
        (&["dead", "drop", "--all"], 2),
        (&["dead", "drop", "order-7", "--all"], 2),
        (&["dead", "show", "nobody"], 1),
        (&["dead", "redrive", "nobody"], 1),
        (&["dead", "drop", "nobody"], 1),
    ] {
        let refused = commands.run(arguments).await?.expect(code)?;
        ensure!(!refused.stderr.is_empty(), "{refused:?}");
    }
    ensure!(list(&[]).await?.len() == 4, "nothing was done by a slip");
    commands.run(&["dead", "drop", "--function", "fail", "--reason", "trap"]).await?.expect(0)?;
    ensure!(reasons(&list(&[]).await?) == ["exit"]);
    commands.run(&["dead", "drop", "order-7"]).await?.expect(0)?;
    ensure!(list(&[]).await?.is_empty());
    ensure!(
        stage.caller.result("fail", "order-7").await?.status == Status::Dead,
        "what became of the call is known on"
    );
    Ok(())
}

#[tokio::test]
async fn a_result_that_came_since_stands_and_a_deadline_that_passed_is_left_out() -> Result<()> {
    let mut stage = Stage::with(&["fail"]).await?;
    let host = stage.host().start_ready(&["fail"]).await?;
    let soon = (now_ms() + 1_500).to_string();
    let fields: [(&str, &[u8]); 3] = [("payload", TRAP.as_bytes()), ("id", b"late"), ("deadline", soon.as_bytes())];
    stage.caller.add("fail", &fields).await?;
    stage.caller.until_dead("fail", 1).await?;
    let key = "baton:{default/fail}:result:late";
    let document = stage.caller.result_bytes("fail", "late").await?.context("a result")?;
    let other = String::from_utf8(document.clone())?.replace(r#""status":"dead""#, r#""status":"error""#);
    let set = async |stage: &mut Stage, value: &[u8]| -> Result<()> {
        Ok(redis::cmd("SET").arg(key).arg(value).query_async(stage.caller.connection()).await?)
    };
    set(&mut stage, other.as_bytes()).await?;
    let redrive = ["dead", "redrive", "late", "--function", "fail", "--json"];
    let left = host.commands().run(&redrive).await?.expect(1)?.json()?;
    ensure!(left["redriven"] == 0 && left["ended"] == 1, "{left}");
    ensure!(letters(&mut stage, "fail").await? == 1 && stage.caller.entries("fail").await? == 0);

    set(&mut stage, &document).await?;
    until("the deadline has passed", PATIENCE, async || Ok((now_ms() > soon.parse()?).then_some(()))).await?;
    host.commands().run(&redrive).await?.expect(0)?;
    let again = stage.caller.result("fail", "late").await?;
    ensure!((again.status, again.attempts) == (Status::Dead, 2), "it was tried, and not found to be late: {again:?}");
    Ok(())
}

#[tokio::test]
async fn over_http_a_tenant_deals_with_its_own_letters_alone() -> Result<()> {
    let mut stage = Stage::with(&[]).await?;
    for tenant in ["acme", "other"] {
        stage.folder.install(&format!("{tenant}/fail"), &sample("fail")?)?;
        stage.folder.write_tenant(tenant, "")?;
    }
    let plugins = stage.folder.path().display().to_string();
    let make = ["tenant", "token", "acme", "--plugins", &plugins];
    let token = Commands::alone().run(&make).await?.expect(0)?.stdout;
    let bearer = format!("Bearer {}", token.trim_end());
    let headers = [("authorization", bearer.as_str())];
    let host = stage.host().http().start_ready(&["acme/fail", "other/fail"]).await?;
    let http = Http::of(&host).await?;
    for tenant in ["acme", "other"] {
        give_up(&mut stage, &format!("{tenant}/fail"), 2).await?;
    }
    http.get("/v1/dead/acme/fail").await?.problem(401, "unauthorized")?;
    let listed = http.get_with("/v1/dead/acme/fail?limit=1", &headers).await?.expect(200)?.json()?;
    ensure!(listed["letters"].as_array().is_some_and(|l| l.len() == 1), "{listed}");
    let next = listed["next"].as_str().context("there is more")?;
    let rest = http.get_with(&format!("/v1/dead/acme/fail?after={next}"), &headers).await?.expect(200)?.json()?;
    ensure!(rest["letters"].as_array().is_some_and(|l| l.len() == 1) && rest["next"].is_null(), "{rest}");
    let place = rest["letters"][0]["href"].as_str().context("a place")?.to_owned();
    let shown = http.get_with(&place, &headers).await?.expect(200)?.json()?;
    ensure!(shown["payload"]["kind"] == "trap" && shown["reason"] == "trap", "{shown}");

    // Another's letters are as if they were not there, and stay.
    let empty = http.get_with("/v1/dead/other/fail", &headers).await?.expect(200)?.json()?;
    ensure!(empty["letters"] == json!([]), "{empty}");
    let others = stage.caller.dead("other/fail").await?[0].text("id");
    http.get_with(&format!("/v1/dead/other/fail/{others}"), &headers).await?.problem(404, "unknown-letter")?;
    let tried = http.post_with("/v1/dead/other/fail/redrive?all=true", &headers, "").await?.expect(200)?.json()?;
    ensure!(tried["redriven"] == 0, "{tried}");
    let tried = http.delete_with("/v1/dead/other/fail?all=true", &headers).await?.expect(200)?.json()?;
    ensure!(tried["dropped"] == 0 && stage.caller.dead("other/fail").await?.len() == 2, "{tried}");

    http.post_with("/v1/dead/acme/fail/redrive", &headers, "").await?.problem(400, "bad-query")?;
    let again = http.post_with(&format!("{place}/redrive"), &headers, "").await?.expect(200)?.json()?;
    let call = again["href"].as_str().context("where the call is")?;
    let ended = http.get_with(&format!("{call}?wait=10s"), &headers).await?.expect(200)?.json()?;
    ensure!(ended["result"]["attempts"] == 2 && ended["result"]["status"] == "dead", "{ended}");
    let gone = http.delete_with("/v1/dead/acme/fail?reason=trap", &headers).await?.expect(200)?.json()?;
    ensure!(gone["dropped"] == 2 && gone["more"] == false, "{gone}");
    until("acme has no letters", Duration::from_secs(1), async || {
        Ok(stage.caller.dead("acme/fail").await?.is_empty().then_some(()))
    })
    .await
}

#[tokio::test]
async fn a_letter_has_all_that_is_needed_to_understand_its_call() -> Result<()> {
    let mut stage = Stage::with(&[]).await?;
    stage.folder.install("job", &sample("fail")?)?;
    stage.folder.write_manifest("job", "[limits]\ntime_ms = 20000\nlog_bytes = 4096\n")?;
    let mut fleet = Fleet::of(2, &stage.host(), &["job"]).await?;
    // First an attempt that asks for another, then one that is lost with its host, then one that traps.
    let fields: [(&str, &[u8]); 3] = [
        ("payload", br#"{"kind":"steps","steps":["retry","loop","trap"]}"#),
        ("id", b"order-7"),
        ("backoff_base_ms", b"1"),
    ];
    stage.caller.add("job", &fields).await?;
    let owner = until("the second attempt runs", PATIENCE, async || {
        let entry: Vec<(String, Vec<(String, String)>)> = redis::cmd("XRANGE")
            .arg("baton:{default/job}:calls")
            .arg("-")
            .arg("+")
            .query_async(stage.caller.connection())
            .await?;
        let second =
            entry.iter().any(|(_, fields)| fields.iter().any(|(name, value)| name == "attempt" && value == "2"));
        Ok(stage.caller.pending("job").await?.pop().filter(|_| second).map(|(_, owner)| owner))
    })
    .await?;
    fleet.kill(fleet.place_of(&owner)?).await?;
    let letter = &stage.caller.until_dead("job", 1).await?[0];
    ensure!(letter.text("reason") == "trap" && letter.text("attempts") == "3", "{letter:?}");
    let limits: Value = serde_json::from_str(&letter.text("limits"))?;
    ensure!(limits["time_ms"] == 20_000 && limits["log_bytes"] == 4_096 && limits["memory_bytes"].is_u64(), "{limits}");
    let history: Vec<PastAttempt> = serde_json::from_str(&letter.text("history"))?;
    let ends: Vec<&str> = history.iter().map(|attempt| attempt.end.as_str()).collect();
    ensure!(ends == ["retry", "host-lost", "trap"], "{history:?}");
    let (first, last) = (&history[0], &history[2]);
    let digest = Digest::of(&sample("fail")?);
    ensure!(last.digest == Some(digest) && last.host.as_ref().is_some_and(|host| host.as_str() != owner), "{last:?}");
    ensure!(
        first.error.contains("failed as asked") && first.then_waited_ms == Some(0) || first.then_waited_ms == Some(1)
    );
    ensure!(
        first.ended_ms >= first.started_ms && last.started_ms >= first.ended_ms && first.started_ms.is_some(),
        "{history:?}"
    );
    let backtrace = letter.text("backtrace");
    ensure!(backtrace.lines().count() > 2 && backtrace.contains("panic"), "frames with their names: {backtrace}");
    ensure!(letter.text("log").contains("stderr: trapped as asked"), "what it said last: {}", letter.text("log"));
    let commands = fleet.host(1 - fleet.place_of(&owner)?).commands();
    let people = commands.run(&["dead", "show", "order-7"]).await?.expect(0)?.stdout;
    for expected in ["host-lost", "backtrace", "panic", "stderr: ", "time_ms 20000", "then waited"] {
        ensure!(people.contains(expected), "{expected}: {people}");
    }

    // Sent again, its history goes on.
    commands.run(&["dead", "redrive", "order-7"]).await?.expect(0)?;
    let letter = &stage.caller.until_dead("job", 1).await?[0];
    let history: Vec<PastAttempt> = serde_json::from_str(&letter.text("history"))?;
    let attempts: Vec<u32> = history.iter().map(|attempt| attempt.attempt).collect();
    ensure!(attempts == [1, 2, 3, 4], "{history:?}");
    Ok(())
}

#[tokio::test]
async fn a_letter_says_where_in_its_code_a_function_was_ended() -> Result<()> {
    let mut stage = Stage::with(&["fail", "sleep"]).await?;
    let _host = stage.host().setting(TIME_MAX_MS, 400).start_ready(&["fail", "sleep"]).await?;
    for (n, kind) in ["trap", "loop", "exit"].into_iter().enumerate() {
        stage.caller.call("fail", format!(r#"{{"kind":"{kind}"}}"#)).await?;
        let letter = &stage.caller.until_dead("fail", n + 1).await?[n];
        let frames = letter.text("backtrace");
        ensure!(frames.contains("handle"), "{kind}: {frames:?}");
    }
    stage.caller.call("sleep", r#"{"ms":5000}"#).await?;
    let letter = &stage.caller.until_dead("sleep", 1).await?[0];
    ensure!(letter.text("reason") == "timeout" && letter.bytes("backtrace").is_none(), "it waited: {letter:?}");
    Ok(())
}

/// Adds a call under this id that is given up, and forgets its result, as time does.
async fn forgotten_letter(stage: &mut Stage, function: &str, id: &str) -> Result<()> {
    let before = letters(stage, function).await?;
    let payload = br#"{"kind":"trap","ms":2500}"#;
    stage.caller.add(function, &[("payload", payload), ("id", id.as_bytes())]).await?;
    stage.caller.until_dead(function, before + 1).await?;
    let key = format!("baton:{{default/{function}}}:result:{id}");
    Ok(redis::cmd("DEL").arg(key).query_async(stage.caller.connection()).await?)
}

#[tokio::test]
async fn two_letters_of_one_id_and_an_id_that_runs_again_are_one_execution() -> Result<()> {
    let mut stage = Stage::with(&[]).await?;
    stage.folder.install("job", &sample("fail")?)?;
    let mut fleet = Fleet::of(2, &stage.host().http(), &["job"]).await?;
    for id in ["order", "order", "sent-again"] {
        forgotten_letter(&mut stage, "job", id).await?;
    }
    mend(&stage, &mut fleet, "job", "sleep").await?;
    let http = Http::of(fleet.host(1)).await?;
    // Somebody has sent the one again, before anybody looked at its letter.
    let key = [("idempotency-key", "sent-again")];
    http.post_with("/v1/send/job", &key, r#"{"ms":4000}"#).await?.expect(202)?;
    let commands = fleet.host(1).commands().clone();
    let all = ["dead", "redrive", "--function", "job", "--all", "--json"];
    let tally = commands.run(&all).await?.expect(0)?.json()?;
    ensure!(tally["redriven"] == 1 && tally["under_way"] == 2, "{tally}");
    let named = commands.run(&["dead", "redrive", "order", "--function", "job"]).await?.expect(1)?;
    ensure!(named.stdout.contains("under way"), "{named:?}");
    http.post_with("/v1/dead/default/job/sent-again/redrive", &[], "").await?.problem(409, "under-way")?;
    // Whoever runs them dies; they are under way all the same.
    stage.caller.until_pending("job", 2).await?;
    fleet.kill(0).await?;
    let tally = commands.run(&all).await?.expect(0)?.json()?;
    ensure!(tally["redriven"] == 0, "{tally}");
    for id in ["order", "sent-again"] {
        ensure!(stage.caller.result("job", id).await?.status == Status::Ok);
    }
    let tally = commands.run(&all).await?.expect(0)?.json()?;
    ensure!(tally["redriven"] == 0 && tally["ended"] == 2, "{tally}");
    stage.caller.quiescent("job").await
}

#[tokio::test]
async fn a_letter_is_found_by_its_call_however_many_lie_there() -> Result<()> {
    let mut stage = Stage::with(&["fail"]).await?;
    let host = stage.host().http().start_ready(&["fail"]).await?;
    let http = Http::of(&host).await?;
    for id in ["order", "redrive"] {
        forgotten_letter(&mut stage, "fail", id).await?;
    }
    let plain = give_up(&mut stage, "fail", 1).await?.remove(0);
    // More than any search looks at.
    let mut crowd = redis::pipe();
    for _ in 0..12_000 {
        crowd
            .cmd("XADD")
            .arg("baton:{default/fail}:dead")
            .arg("*")
            .arg("payload")
            .arg("x")
            .arg("reason")
            .arg("trap")
            .ignore();
    }
    let () = crowd.query_async(stage.caller.connection()).await?;
    for id in ["order", "redrive", &plain] {
        let path = format!("/v1/dead/default/fail/{id}");
        let shown = http.get(&path).await?.expect(200)?.json()?;
        ensure!(shown["id"] == id && shown["payload"]["kind"] == "trap", "{shown}");
    }
    http.get("/v1/dead/default/fail/nobody").await?.problem(404, "unknown-letter")?;
    // The end of all lists, and what stands before it.
    let listed = http.get("/v1/dead/default/fail?after=0-0").await?.expect(200)?.json()?;
    ensure!(listed["letters"] == json!([]) && listed["next"].is_null(), "{listed}");
    http.get("/v1/dead/default/fail?after=nothing").await?.problem(400, "bad-query")?;
    http.post_with("/v1/dead/default/fail/redrive/redrive", &[], "").await?.expect(200)?;
    ensure!(
        stage.caller.result("fail", "redrive").await?.status == Status::Dead,
        "it was sent again, and given up again"
    );
    http.delete_with("/v1/dead/default/fail/redrive", &[]).await?.expect(200)?;
    http.get("/v1/dead/default/fail/redrive").await?.problem(404, "unknown-letter")?;
    Ok(())
}

#[tokio::test]
async fn no_more_letters_are_sent_again_than_the_queue_has_room_for() -> Result<()> {
    let mut stage = Stage::with(&[]).await?;
    stage.folder.install("job", &sample("fail")?)?;
    stage.folder.write_manifest("job", "[quotas]\nqueue_calls = 30\n")?;
    let host = stage.host().http().start_ready(&["job"]).await?;
    let http = Http::of(&host).await?;
    give_up(&mut stage, "job", 40).await?;
    // A delayed call stands in the queue too.
    http.post_with("/v1/send/job", &[("baton-delay", "1h")], "{}").await?.expect(202)?;
    let tally = http.post_with("/v1/dead/default/job/redrive?all=true", &[], "").await?.expect(200)?.json()?;
    ensure!(tally["redriven"] == 29 && tally["more"] == true, "{tally}");
    Ok(())
}

#[tokio::test]
async fn a_letter_that_does_not_bear_its_calls_id_alone_leaves_nothing_behind_when_it_is_dropped() -> Result<()> {
    let mut stage = Stage::with(&["echo"]).await?;
    let host = stage.host().start_ready(&["echo"]).await?;
    stage.caller.add("echo", &[("payload", b"1"), ("id", b"a"), ("id", b"b")]).await?;
    stage.caller.add("echo", &[("payload", b"2"), ("id", b"two words")]).await?;
    stage.caller.add("echo", &[("payload", b"3"), ("unknown", b"x")]).await?;
    let malformed = stage.caller.until_dead("echo", 3).await?;
    ensure!(malformed.iter().all(|letter| letter.text("reason") == "malformed"), "{malformed:?}");
    host.commands().run(&["dead", "drop", "--function", "echo", "--all"]).await?.expect(0)?;
    stage.caller.until_dead("echo", 0).await?;
    let left: Vec<String> =
        redis::cmd("HKEYS").arg("baton:{default/echo}:letters").query_async(stage.caller.connection()).await?;
    ensure!(left.is_empty(), "it is still known which letter is the latest of {left:?}");
    Ok(())
}

#[tokio::test]
async fn a_request_looks_at_no_more_than_ten_thousand_letters_and_says_where_to_go_on() -> Result<()> {
    let mut stage = Stage::with(&["echo"]).await?;
    let host = stage.host().http().start_ready(&["echo"]).await?;
    let http = Http::of(&host).await?;
    let write = "for i = 1, ARGV[1] do redis.call('XADD', KEYS[1], '*', 'payload', 'x', 'id', 'n-' .. i, 'reason', i > 10000 and 'trap' \
                 or 'poison', 'error', '', 'attempts', '1', 'digest', '', 'died_ms', '1') end";
    let key = "baton:{default/echo}:dead";
    let () = redis::cmd("EVAL").arg(write).arg(1).arg(key).arg(10_002).query_async(stage.caller.connection()).await?;
    let redrive = "/v1/dead/default/echo/redrive?all=true";
    let first = http.post(redrive, "").await?.expect(200)?.json()?;
    ensure!(first["redriven"] == 0 && first["quarantined"] == 10_000 && first["more"] == true, "{first}");
    let next = first["next"].as_str().context("it says where to go on")?;
    let second = http.post(&format!("{redrive}&after={next}"), "").await?.expect(200)?.json()?;
    ensure!(second["redriven"] == 2 && second["quarantined"] == 0 && second["more"] == false, "{second}");
    ensure!(second["next"].is_null(), "{second}");

    let drop = "/v1/dead/default/echo?reason=trap";
    let first = http.delete_with(drop, &[]).await?.expect(200)?.json()?;
    ensure!(first["dropped"] == 0 && first["more"] == true, "{first}");
    let next = first["next"].as_str().context("it says where to go on")?;
    let second = http.delete_with(&format!("{drop}&after={next}"), &[]).await?.expect(200)?.json()?;
    ensure!(second["dropped"] == 0 && second["more"] == false, "they were sent again: {second}");
    http.post(&format!("{redrive}&after=x"), "").await?.problem(400, "bad-query")?;
    Ok(())
}
