//! Executions over Redis alone: begun and sent events by whoever may add calls.

use anyhow::{Result, ensure};
use baton_model::Status;
use baton_tests::settings::{NO_FUNCTIONS, PATIENCE};
use baton_tests::{Http, HttpAnswer, Stage, steps_guest, until};

use super::edges::alone;
use super::shop::Order;

async fn tell(stage: &mut Stage, id: &str, execution: &str, more: &[(&str, &[u8])]) -> Result<()> {
    let fields: [(&str, &[u8]); 4] =
        [("payload", b"7"), ("id", id.as_bytes()), ("execution", execution.as_bytes()), ("event", b"go")];
    stage.caller.add("order", &[&fields, more].concat()).await?;
    Ok(())
}

/// Why the call of this id was refused; that of an event is its execution, a space, and its own.
async fn refused(stage: &mut Stage, id: &str) -> Result<(Status, String, String)> {
    let result = stage.caller.result("order", id).await?;
    let error = result.error.unwrap_or_else(|| panic!("{id} is refused"));
    Ok((result.status, error.code, error.message))
}

#[tokio::test]
async fn an_execution_is_begun_and_told_by_entries_of_the_call_stream() -> Result<()> {
    let (mut stage, _host, http) = alone().await?;
    let steps: &[u8] = br#"[{"event":"go"},{"event":"go"}]"#;
    stage.caller.add("order", &[("payload", steps), ("id", b"1")]).await?;
    let order = Order { http: &http, id: "1".to_owned() };
    // Before it has begun nobody takes its events.
    let path = "/v1/exec/default/order/1";
    until("it has begun", PATIENCE, async || Ok((http.get(path).await?.status == 200).then_some(()))).await?;
    // Twice under one id is once; and one that waits by itself comes all the same.
    for _ in 0..2 {
        tell(&mut stage, "first", "1", &[]).await?;
    }
    tell(&mut stage, "second", "1", &[("delay", b"5"), ("priority", b"high")]).await?;
    let result = stage.caller.result("order", "1").await?;
    ensure!(result.status == Status::Ok, "{result:?}");
    let history = order.history().await?;
    let came: Vec<_> =
        history.iter().filter(|event| event["event"] == "event-received").map(|event| event["id"].as_str()).collect();
    ensure!(came == [Some("first"), Some("second")], "{history:?}");
    let position = history.iter().find(|event| event["id"] == "first").map(|event| event["position"].to_string());
    let first = stage.caller.result("order", "1 first").await?;
    ensure!(
        Some(format!(r#"{{"position":{}}}"#, position.unwrap_or_default()).into_bytes())
            == Some(first.payload.to_vec()),
        "{first:?}"
    );
    stage.caller.quiescent("order").await
}

#[tokio::test]
async fn an_event_that_nobody_takes_is_answered_with_why() -> Result<()> {
    let (mut stage, _host, http) = alone().await?;
    tell(&mut stage, "lost", "nobody", &[]).await?;
    let (status, code, text) = refused(&mut stage, "nobody lost").await?;
    ensure!((status, &*code) == (Status::Error, "unknown-execution") && text.contains("nobody"), "{code}: {text}");
    let order = Order::with(&http, "[]").await?;
    order.result().await?.expect(200)?;
    tell(&mut stage, "late", &order.id, &[]).await?;
    let (_, code, text) = refused(&mut stage, &format!("{} late", order.id)).await?;
    ensure!(code == "ended" && text.contains(&order.id), "{code}: {text}");
    // Half of an event is no call, and says which half is missing.
    for (id, fields, missing) in [
        ("half", [("payload", &b"1"[..]), ("id", b"half"), ("event", b"go")], "`execution` is missing"),
        ("other", [("payload", &b"1"[..]), ("id", b"other"), ("execution", b"x")], "`event` is missing"),
    ] {
        stage.caller.add("order", &fields).await?;
        let (status, code, text) = refused(&mut stage, id).await?;
        ensure!((status, &*code) == (Status::Dead, "malformed") && text.contains(missing), "{code}: {text}");
    }
    Ok(())
}

#[tokio::test]
async fn an_event_is_known_by_its_execution_and_its_id() -> Result<()> {
    let (mut stage, _host, http) = alone().await?;
    // Before its execution has begun it is refused, and taken when it is sent again.
    tell(&mut stage, "p1", "seven", &[]).await?;
    let (_, code, _) = refused(&mut stage, "seven p1").await?;
    ensure!(code == "unknown-execution", "{code}");
    let begin = async |id: &str| -> Result<HttpAnswer> {
        let steps = r#"[{"event":"go"},{"event":"go"}]"#;
        http.post_with("/v1/exec/order", &[("idempotency-key", id)], steps.to_owned()).await?.expect(202)
    };
    begin("seven").await?;
    begin("eight").await?;
    // One that is malformed ends nothing else that has its id.
    tell(&mut stage, "eight", "eight", &[("key", b"k")]).await?;
    let (_, code, text) = refused(&mut stage, "eight eight").await?;
    ensure!(code == "malformed" && text.contains("`key`"), "{code}: {text}");
    // The same id is another event for another execution, and may be the id of an execution.
    for execution in ["seven", "eight"] {
        tell(&mut stage, "p1", execution, &[]).await?;
        tell(&mut stage, execution, execution, &[]).await?;
    }
    for id in ["seven", "eight"] {
        let order = Order { http: &http, id: id.to_owned() };
        let result = order.result().await?.expect(200)?;
        ensure!(!result.body.starts_with(b"{\"position\""), "the result of {id} is its own: {result:?}");
        let position = stage.caller.result("order", &format!("{id} p1")).await?;
        ensure!(position.status == Status::Ok && position.payload.starts_with(b"{\"position\":"), "{position:?}");
    }
    stage.caller.quiescent("order").await
}

#[tokio::test]
async fn events_that_come_while_it_begins_anew_are_not_lost() -> Result<()> {
    const RUNS: usize = 40;
    let (mut stage, _host, http) = alone().await?;
    let steps = (1..RUNS)
        .fold(r#"[{"event":"go"}]"#.to_owned(), |steps, _| format!(r#"[{{"event":"go"}},{{"restart":{steps}}}]"#));
    let order = Order::with(&http, &steps).await?;
    for n in 0..RUNS {
        tell(&mut stage, &format!("e{n}"), &order.id, &[]).await?;
    }
    order.result().await?.expect(200)?;
    ensure!(order.show().await?["run"] == RUNS, "{}", order.show().await?);
    let left = order.words().await?.iter().filter(|word| *word == "event-received").count();
    ensure!(left == 1, "each run took one event, and the last one has none left: {left}");
    stage.caller.quiescent("order").await
}

#[tokio::test]
async fn a_call_of_an_execution_that_is_forgotten_answers_no_other_of_its_id() -> Result<()> {
    // Nobody has `echo` yet.
    let (mut stage, _host, http) = alone().await?;
    let begin = async || -> Result<()> {
        let steps = r#"[{"calls":1}]"#.to_owned();
        http.post_with("/v1/exec/order", &[("idempotency-key", "seven")], steps).await?.expect(202)?;
        Ok(())
    };
    begin().await?;
    let order = Order { http: &http, id: "seven".to_owned() };
    order.until_last("call-scheduled").await?;
    let keys = ["exec:seven", "log:seven", "id:seven"].map(|key| format!("baton:{{default/order}}:{key}"));
    redis::cmd("DEL").arg(&keys).query_async::<()>(stage.caller.connection()).await?;
    begin().await?;
    order.until_last("call-scheduled").await?;
    // One at a time, the older first.
    stage.folder.write_manifest("echo", "[quotas]\nconcurrency = 1\n")?;
    stage.folder.install("echo", &baton_tests::sample("echo")?)?;
    order.result().await?.expect(200)?;
    let history = order.history().await?;
    let made = history.iter().find_map(|event| event["call"].as_str()).unwrap_or_default();
    let ended = history.iter().find(|event| event["event"] == "call-completed").map(ToString::to_string);
    ensure!(
        ended.is_some_and(|ended| ended.contains(made)),
        "{made} is another call than that which ended: {history:?}"
    );
    stage.caller.quiescent("order").await
}

#[tokio::test]
async fn the_ids_of_events_are_forgotten_two_runs_later() -> Result<()> {
    let (mut stage, _host, http) = alone().await?;
    let steps = r#"[{"event":"a"},{"restart":[{"event":"b"},{"restart":[{"event":"c"}]}]}]"#;
    let order = Order::with(&http, steps).await?;
    let key = format!("baton:{{default/order}}:exec:{}", order.id);
    for (event, run) in [("a", 2), ("b", 3)] {
        order.tell(event, event).await?.expect(202)?;
        until("it begins anew", PATIENCE, async || Ok((order.show().await?["run"] == run).then_some(()))).await?;
    }
    let mut look = redis::cmd("HMGET");
    look.arg(&key).arg(&["e:a", "e:b"]);
    let ids: Vec<Option<String>> = look.query_async(stage.caller.connection()).await?;
    ensure!(ids[0].is_none() && ids[1].is_some(), "{ids:?}");
    order.tell("c", "c").await?.expect(202)?;
    order.result().await?.expect(200)?;
    Ok(())
}

#[tokio::test]
async fn a_call_under_the_id_of_an_execution_whose_result_has_expired_is_answered_from_its_log() -> Result<()> {
    let (mut stage, _host, http) = alone().await?;
    let call = async |id: &str, steps: &str| -> Result<HttpAnswer> {
        http.post_with("/v1/call/order", &[("idempotency-key", id)], steps.to_owned()).await
    };
    let answers =
        [call("ended", r#"[{"emit":1}]"#).await?.expect(200)?, call("refused", "7").await?.problem(422, "bad-input")?];
    for (id, before) in ["ended", "refused"].into_iter().zip(answers) {
        let key = format!("baton:{{default/order}}:result:{id}");
        redis::cmd("DEL").arg(&key).query_async::<()>(stage.caller.connection()).await?;
        let again = call(id, "[]").await?;
        ensure!(again.status == before.status, "{before:?}, and then {again:?}");
        ensure!(before.status != 200 || again.body == before.body, "{before:?}, and then {again:?}");
    }
    stage.caller.quiescent("order").await
}

#[tokio::test]
async fn a_wake_that_somebody_deleted_comes_with_the_next_event() -> Result<()> {
    let mut stage = Stage::with(&[]).await?;
    stage.folder.install("order", &steps_guest()?)?;
    let front = stage.host().http().argument(NO_FUNCTIONS).start().await?;
    let http = Http::of(&front).await?;
    let mut host = stage.host().start_ready(&["order"]).await?;
    let order = Order::with(&http, r#"[{"event":"go"},{"event":"go"}]"#).await?;
    order.until_last("event-awaited").await?;
    // Nobody reads: the wake stands in the stream.
    host.stop().await?;
    order.tell("go", "one").await?.expect(202)?;
    redis::cmd("DEL").arg("baton:{default/order}:calls").query_async::<()>(stage.caller.connection()).await?;
    let _host = stage.host().start_ready(&["order"]).await?;
    order.tell("go", "two").await?.expect(202)?;
    order.result().await?.expect(200)?;
    Ok(())
}
