//! Calls that are not answered: refused, tried again, given up or too late.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use baton_model::{Digest, ResultDocument, Status};
use baton_tests::settings::{ATTEMPTS_MAX, BACKOFF_BASE_MS, PATIENCE, SEATS, TIME_MAX_MS};
use baton_tests::{Stage, now_ms, sample, until};

fn error_code(document: &ResultDocument) -> &str {
    document.error.as_ref().map_or("", |error| &error.code)
}

#[tokio::test]
async fn a_refused_call_ends_with_the_functions_own_code() -> Result<()> {
    let mut stage = Stage::with(&["fail", "hello"]).await?;
    let _host = stage.host().start_ready(&["fail", "hello"]).await?;
    let refused = stage.caller.call("fail", r#"{"kind":"reject"}"#).await?;
    assert_eq!((refused.status, error_code(&refused), refused.attempts), (Status::Error, "as-asked", 1));
    assert_eq!(refused.error.context("an error")?.message, "rejected as asked");
    let refused = stage.caller.call("hello", "no json").await?;
    assert_eq!((refused.status, error_code(&refused)), (Status::Error, "bad-input"));
    for function in ["fail", "hello"] {
        assert!(stage.caller.dead(function).await?.is_empty(), "a refusal is the caller's to mend");
        stage.caller.quiescent(function).await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_call_that_breaks_its_instance_is_given_up_with_the_reason() -> Result<()> {
    let mut stage = Stage::with(&["fail"]).await?;
    let mut host = stage.host().setting(TIME_MAX_MS, 400).start_ready(&["fail"]).await?;
    for (n, (kind, reason)) in [("trap", "trap"), ("loop", "timeout"), ("exit", "exit")].into_iter().enumerate() {
        let payload = format!(r#"{{"kind":"{kind}"}}"#);
        let given_up = stage.caller.call("fail", &payload).await?;
        ensure!(given_up.status == Status::Dead, "{kind}: {given_up:?}");
        ensure!(error_code(&given_up) == reason && given_up.attempts == 1, "{kind}: {given_up:?}");
        let letter = &stage.caller.until_dead("fail", n + 1).await?[n];
        ensure!(letter.text("reason") == reason, "{kind}: {letter:?}");
        ensure!(!letter.text("error").is_empty() && letter.text("attempts") == "1", "{kind}: {letter:?}");
        ensure!(letter.bytes("payload") == Some(payload.as_bytes()), "{kind}: {letter:?}");
    }
    ensure!(host.runs()?, "the host goes on");
    stage.caller.quiescent("fail").await
}

#[tokio::test]
async fn a_dead_letter_has_every_field_of_its_call_and_of_its_death() -> Result<()> {
    let mut stage = Stage::with(&["fail"]).await?;
    let _host = stage.host().start_ready(&["fail"]).await?;
    let deadline = (now_ms() + 60_000).to_string();
    let fields: [(&str, &[u8]); 9] = [
        ("payload", br#"{"kind":"trap"}"#),
        ("id", b"order-7"),
        ("type", b"application/json"),
        ("reply", b"inbox"),
        ("deadline", deadline.as_bytes()),
        ("traceparent", b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
        ("tracestate", b"vendor=value"),
        ("x-colour", b"blue"),
        ("v", b"1"),
    ];
    let before = now_ms();
    let mut notices = stage.redis.subscribe(&["baton:reply:inbox"]).await?;
    stage.caller.add("fail", &fields).await?;
    let letter = &stage.caller.until_dead("fail", 1).await?[0];
    for (name, value) in fields {
        assert_eq!(letter.bytes(name), Some(value), "the field {name} of {letter:?}");
    }
    assert_eq!((letter.text("reason").as_str(), letter.text("attempts").as_str()), ("trap", "1"));
    assert_eq!(letter.text("digest"), Digest::of(&sample("fail")?).to_string());
    assert!(!letter.text("error").is_empty());
    let died_ms: u64 = letter.text("died_ms").parse()?;
    assert!((before - 1000..=now_ms() + 1000).contains(&died_ms), "{died_ms}");

    let result = stage.caller.result("fail", "order-7").await?;
    assert_eq!(result.status, Status::Dead);
    let (_, mut notice) = tokio::time::timeout(PATIENCE, notices.next()).await?.context("the caller is told")?;
    let notice = ResultDocument::decode(&mut notice)?;
    assert_eq!((notice.status, notice.id), (Status::Dead, result.id));
    Ok(())
}

#[tokio::test]
async fn a_call_that_asks_for_it_waits_in_the_delayed_set() -> Result<()> {
    let mut stage = Stage::with(&["fail"]).await?;
    let _host = stage.host().setting(BACKOFF_BASE_MS, 10).start_ready(&["fail"]).await?;
    let before = now_ms();
    let id = stage.caller.send("fail", r#"{"kind":"retry","after_ms":60000}"#).await?;
    until("the call is delayed", PATIENCE, async || Ok((stage.caller.delayed("fail").await? == 1).then_some(())))
        .await?;
    assert_eq!(stage.caller.entries("fail").await?, 0, "it stands in one place alone");
    assert!(stage.caller.pending("fail").await?.is_empty());
    assert!(stage.caller.result_now("fail", &id).await?.is_none(), "it has not ended");
    let due: Vec<(Vec<u8>, f64)> = redis::cmd("ZRANGE")
        .arg(&["baton:{default/fail}:delayed", "0", "-1", "WITHSCORES"])
        .query_async(stage.caller.connection())
        .await?;
    let due_in = Duration::from_millis(due[0].1 as u64).saturating_sub(Duration::from_millis(before));
    assert!((59..=70).contains(&due_in.as_secs()), "not before the function asked for: {due_in:?}");
    Ok(())
}

#[tokio::test]
async fn a_call_that_fails_again_and_again_is_given_up_after_its_attempts() -> Result<()> {
    let mut stage = Stage::with(&["fail"]).await?;
    let plan = stage.host().setting(BACKOFF_BASE_MS, 20).setting(ATTEMPTS_MAX, 3);
    let _host = plan.start_ready(&["fail"]).await?;
    let id = stage.caller.send("fail", r#"{"kind":"retry"}"#).await?;
    let given_up = stage.caller.result("fail", &id).await?;
    assert_eq!((given_up.status, given_up.attempts), (Status::Dead, 3), "{given_up:?}");
    let accepted_ms: u64 = id.split('-').next().unwrap_or_default().parse()?;
    assert_eq!(given_up.accepted_ms, accepted_ms, "the first entry counts, however often it was put back");
    let dead = stage.caller.until_dead("fail", 1).await?;
    assert_eq!(dead[0].text("reason"), "attempts-exhausted", "{:?}", dead[0]);
    assert_eq!(dead[0].text("attempts"), "3");
    assert_eq!(dead[0].text("id"), id, "a dead letter of a retried call still has the id that the caller knows");
    assert!(dead[0].text("error").contains("failed as asked"), "{:?}", dead[0]);
    stage.caller.quiescent("fail").await
}

#[tokio::test]
async fn a_delayed_call_is_tried_again_when_its_time_has_come() -> Result<()> {
    let mut stage = Stage::with(&["fail"]).await?;
    let plan = stage.host().setting(BACKOFF_BASE_MS, 1).setting(ATTEMPTS_MAX, 2);
    let _host = plan.start_ready(&["fail"]).await?;
    let given_up = stage.caller.call("fail", r#"{"kind":"retry","after_ms":600}"#).await?;
    let waited = given_up.started_ms.context("it was tried")? - given_up.accepted_ms;
    assert!((600..5_000).contains(&waited), "the second attempt started {waited} ms after the call came");
    Ok(())
}

#[tokio::test]
async fn a_call_past_its_deadline_is_not_started() -> Result<()> {
    let mut stage = Stage::with(&["sleep"]).await?;
    let _host = stage.host().start_ready(&["sleep"]).await?;
    let past = (now_ms() - 1).to_string();
    let fields: [(&str, &[u8]); 2] = [("payload", br#"{"ms":60000}"#), ("deadline", past.as_bytes())];
    let id = stage.caller.add("sleep", &fields).await?;
    let late = stage.caller.result("sleep", &id).await?;
    assert_eq!((late.status, late.attempts), (Status::Expired, 0), "{late:?}");
    assert!(late.started_ms.is_none() && late.error.is_some(), "{late:?}");
    assert!(stage.caller.dead("sleep").await?.is_empty(), "a late call is no dead letter");
    stage.caller.quiescent("sleep").await
}

#[tokio::test]
async fn an_attempt_ends_at_the_calls_deadline() -> Result<()> {
    let mut stage = Stage::with(&["sleep"]).await?;
    let _host = stage.host().start_ready(&["sleep"]).await?;
    let soon = (now_ms() + 500).to_string();
    let fields: [(&str, &[u8]); 2] = [("payload", br#"{"ms":60000}"#), ("deadline", soon.as_bytes())];
    let id = stage.caller.add("sleep", &fields).await?;
    let late = stage.caller.result("sleep", &id).await?;
    assert_eq!(late.status, Status::Expired, "{late:?}");
    assert!(late.started_ms.is_some(), "it was started in time: {late:?}");
    stage.caller.quiescent("sleep").await
}

#[tokio::test]
async fn a_neighbour_is_answered_while_another_tenants_function_loops() -> Result<()> {
    let mut stage = Stage::with(&[]).await?;
    stage.folder.install("noisy/fail", &sample("fail")?)?;
    stage.folder.install("quiet/echo", &sample("echo")?)?;
    let plan = stage.host().setting(TIME_MAX_MS, 4_000).setting(SEATS, 16);
    let host = plan.start_ready(&["noisy/fail", "quiet/echo"]).await?;
    let loops = stage.caller.send_many("noisy/fail", r#"{"kind":"loop"}"#, 8).await?;
    stage.caller.until_pending("noisy/fail", loops.len()).await?;
    for n in 0..20 {
        let answer = stage.caller.call("quiet/echo", n.to_string()).await?;
        assert_eq!(answer.status, Status::Ok);
    }
    let ended = stage.caller.results_now("noisy/fail", &loops).await?.into_iter().flatten().count();
    assert_eq!(ended, 0, "the neighbour was answered while all of them looped");
    for given_up in stage.caller.results("noisy/fail", &loops, PATIENCE).await? {
        assert_eq!(given_up.status, Status::Dead);
    }
    assert!(host.lines().containing("panicked").is_empty());
    Ok(())
}
