//! Functions that call functions.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use baton_model::Status;
use baton_tests::sample;
use baton_tests::settings::{ATTEMPTS_MAX, PATIENCE, SEATS};
use serde_json::{Value, json};

use crate::nested::{ALL, stage, told};

/// An order that goes through so many calls of `one`.
fn chain(length: usize) -> Value {
    (0..length).fold(json!({}), |inner, _| json!({ "call": "one", "with": inner }))
}

#[tokio::test]
async fn a_call_carries_its_depth_its_trace_and_its_deadline_along() -> Result<()> {
    let mut stage = stage(&[("one", ALL)]).await?;
    let _host = stage.host().start_ready(&["one"]).await?;
    let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_millis() as u64;
    let deadline = (now + 20_000).to_string();
    let payload = chain(2).to_string();
    let fields: [(&str, &[u8]); 3] =
        [("payload", payload.as_bytes()), ("traceparent", trace.as_bytes()), ("deadline", deadline.as_bytes())];
    let id = stage.caller.add("one", &fields).await?;
    let answer: Value = serde_json::from_slice(&stage.caller.result("one", &id).await?.payload)?;
    assert_eq!((&answer["depth"], &answer["traceparent"]), (&json!("2"), &json!(trace)));
    let carried = answer["deadline_ms"].as_u64().context("there is a deadline")?;
    ensure!((now..=now + 20_010).contains(&carried), "{carried} is not within {deadline}");
    let order = json!({ "call": "one", "with": {}, "id": "mine", "header": "x-said" });
    let answer = told(&mut stage, "one", &order).await?;
    assert_eq!((&answer["call_id"], &answer["header"]), (&json!("mine"), &json!("yes")));
    Ok(())
}

#[tokio::test]
async fn a_function_that_calls_itself_ends_at_a_depth_of_eight() -> Result<()> {
    let mut stage = stage(&[("one", ALL)]).await?;
    let _host = stage.host().start_ready(&["one"]).await?;
    let began = Instant::now();
    let answer = told(&mut stage, "one", &json!({ "again": true })).await?;
    ensure!(answer.as_str().is_some_and(|text| text.starts_with("TooDeep(\"8 calls wait")), "{answer}");
    ensure!(began.elapsed() < Duration::from_secs(10), "it took {:?}", began.elapsed());
    assert_eq!(told(&mut stage, "one", &chain(8)).await?["depth"], "8");
    Ok(())
}

#[tokio::test]
async fn calls_that_wait_for_calls_do_not_hold_up_their_host() -> Result<()> {
    let mut stage = stage(&[("one", ALL)]).await?;
    let _host = stage.host().setting(SEATS, 1).start_ready(&["one"]).await?;
    // More of them than there are seats, each waiting for others of the same function.
    let calls = stage.caller.send_many("one", &chain(5).to_string(), 40).await?;
    for answer in stage.caller.results("one", &calls, PATIENCE).await? {
        assert_eq!((answer.status, answer.attempts), (Status::Ok, 1), "{:?}", answer.error);
        assert_eq!(serde_json::from_slice::<Value>(&answer.payload)?["depth"], "5");
    }
    stage.caller.quiescent("one").await
}

#[tokio::test]
async fn only_granted_functions_of_the_same_tenant_are_called() -> Result<()> {
    let only = "grants.calls.functions = [\"two\"]\n";
    let mut stage = stage(&[("acme/one", only), ("acme/two", ""), ("acme/three", ALL), ("other/two", ALL)]).await?;
    let mut host = stage.host().start_ready(&["acme/one", "acme/three", "other/two"]).await?;
    let refused = |line: &str| line.contains("acme/two") && line.contains("is refused");
    let said = host.lines().wait_for_several(1, PATIENCE, refused).await?.concat();
    ensure!(said.contains("baton:calls/calls@0.1.0") && said.contains("[grants.calls]"), "{said}");
    stage.folder.write_manifest("acme/two", "grants.calls.functions = []\n")?;
    host.ready("acme/two").await?;

    assert_eq!(told(&mut stage, "acme/one", &json!({ "call": "two", "with": {} })).await?["depth"], "1");
    for (asked, word) in [("three", "Denied"), ("one", "Denied"), ("other/two", "Invalid"), ("", "Invalid")] {
        let answer = told(&mut stage, "acme/one", &json!({ "call": asked })).await?.to_string();
        ensure!(answer.contains(word), "{asked}: {answer}");
    }
    let order = json!({ "call": "one", "with": { "call": "two", "with": {} }, "header": "x-baton-depth" });
    let answer = told(&mut stage, "acme/three", &order).await?.to_string();
    ensure!(answer.contains("Invalid") && answer.contains("x-baton-"), "a depth is not for guests to say: {answer}");
    let sent = told(&mut stage, "acme/one", &json!({ "call": "two", "with": {}, "send": true })).await?;
    let id = sent.as_str().context("a call that is sent has an id")?.to_owned();
    assert_eq!(stage.caller.result("acme/two", &id).await?.status, Status::Ok);
    Ok(())
}

#[tokio::test]
async fn a_call_that_fails_or_never_ends_is_told_apart_and_in_time() -> Result<()> {
    let mut stage =
        stage(&[("one", ALL), ("brief", "grants.calls.functions = \"all\"\nlimits.time_ms = 700\n")]).await?;
    stage.folder.install("fail", &sample("fail")?)?;
    let host = stage.host().setting(ATTEMPTS_MAX, 1);
    let _host = host.start_ready(&["one", "brief", "fail"]).await?;
    for (kind, word) in [("reject", "code: \"as-asked\""), ("trap", "code: \"trap\"")] {
        let answer = told(&mut stage, "one", &json!({ "call": "fail", "with": { "kind": kind } })).await?.to_string();
        ensure!(answer.replace('\\', "").contains(word), "{kind}: {answer}");
    }
    let began = Instant::now();
    let order = json!({ "call": "fail", "with": { "kind": "loop" }, "timeout_ms": 300 });
    let answer = told(&mut stage, "one", &order).await?.to_string();
    ensure!(answer.contains("TimedOut"), "{answer}");
    ensure!(began.elapsed() < Duration::from_secs(5), "it took {:?}", began.elapsed());
    // Under the same id it has expired already, which is told at once and not when the one who calls runs out of time.
    let order = json!({ "call": "fail", "with": { "kind": "loop" }, "timeout_ms": 300, "id": "same" });
    told(&mut stage, "one", &order).await?;
    assert_eq!(stage.caller.result("fail", "same").await?.status, Status::Expired);
    let order = json!({ "call": "fail", "with": { "kind": "loop" }, "id": "same" });
    let answer = told(&mut stage, "one", &order).await?.to_string();
    ensure!(answer.contains("TimedOut"), "{answer}");
    // Without a time of its own it has the time that the call has left which waits; with the time gone, so is that call.
    let order = json!({ "call": "fail", "with": { "kind": "loop" } });
    let ended = stage.caller.call("brief", order.to_string()).await?;
    let error = ended.error.context("it cannot have ended well")?;
    assert_eq!((ended.status, error.code.as_str()), (Status::Dead, "timeout"), "{}", error.message);
    let took = ended.finished_ms - ended.started_ms.context("it was started")?;
    ensure!(took < 2_000, "it took {took} ms");
    // The loop had the deadline of the call that waited for it.
    stage.caller.quiescent("fail").await
}
