//! A call is found by its id however many wait beside it, and a search that ends early says so.

use anyhow::{Context, Result, ensure};
use baton_model::{Status, WAITS_FOR_TURN_MS};
use baton_tests::settings::{DRAIN_TIMEOUT, NO_FUNCTIONS, PATIENCE, SEATS};
use baton_tests::{Http, HttpAnswer, Stage, until};

/// More than any search looks at.
const MANY: usize = 12_000;
const REJECT: &str = r#"{"kind":"reject"}"#;

/// Puts so many calls aside that are due before everything else here that is due then or later.
async fn crowd_of_delayed(stage: &mut Stage, function: &str, due_ms: u64) -> Result<()> {
    let add = "for i = 1, ARGV[2] do redis.call('ZADD', KEYS[1], ARGV[1], cmsgpack.pack({'payload', 'x', 'id', 'n-' .. i, 'attempt', '1', 'accepted', ARGV[1]})) end";
    let key = format!("baton:{{default/{function}}}:delayed");
    Ok(redis::cmd("EVAL").arg(add).arg(1).arg(key).arg(due_ms).arg(MANY).query_async(stage.caller.connection()).await?)
}

async fn state(http: &Http, function: &str, id: &str) -> Result<HttpAnswer> {
    http.get(&format!("/v1/calls/default/{function}/{id}")).await
}

#[tokio::test]
async fn a_call_that_waits_for_its_time_is_found_and_taken_back_behind_thousands() -> Result<()> {
    let mut stage = Stage::with(&["fail"]).await?;
    let host = stage.host().http().start_ready(&["fail"]).await?;
    let http = Http::of(&host).await?;
    let retry = r#"{"kind":"retry","after_ms":900000}"#;
    let plain = stage.caller.send("fail", retry).await?;
    stage.caller.add("fail", &[("payload", retry.as_bytes()), ("id", b"raw")]).await?;
    let sent = http.post_with("/v1/send/fail", &[("baton-delay", "15m")], retry).await?.expect(202)?.json()?;
    let ours = sent["id"].as_str().context("an id")?.to_owned();
    let high = [("idempotency-key", "high"), ("baton-priority", "high")];
    http.post_with("/v1/send/fail", &high, retry).await?.expect(202)?;
    until("all four wait", PATIENCE, async || Ok((stage.caller.delayed("fail").await? == 4).then_some(()))).await?;
    crowd_of_delayed(&mut stage, "fail", baton_tests::now_ms() + 300_000).await?;
    for (id, attempt) in [(plain.as_str(), 2), ("raw", 2), ("high", 2), (&ours, 1)] {
        let view = state(&http, "fail", id).await?.expect(200)?.json()?;
        ensure!(view["state"] == "delayed" && view["attempt"] == attempt, "{view}");
        let why = host.commands().run(&["why", id, "--function", "fail", "--json"]).await?.expect(0)?.json()?;
        ensure!(why["due_ms"].is_u64(), "{why}");
        let gone = http.delete_with(&format!("/v1/calls/default/fail/{id}"), &[]).await?.expect(200)?.json()?;
        ensure!(gone["state"] == "cancelled", "{gone}");
        let mark = format!("baton:{{default/fail}}:id:{id}");
        let is_left: bool = redis::cmd("EXISTS").arg(mark).query_async(stage.caller.connection()).await?;
        ensure!(!is_left, "what was known of {id} is gone with it");
    }
    ensure!(stage.caller.delayed("fail").await? == MANY, "nothing else was taken out");
    Ok(())
}

#[tokio::test]
async fn a_call_that_waits_for_its_turn_is_found_and_taken_back_behind_thousands() -> Result<()> {
    let mut stage = Stage::with(&["sleep"]).await?;
    let host = stage.host().http().start_ready(&["sleep"]).await?;
    let http = Http::of(&host).await?;
    let long = br#"{"ms":60000}"#;
    let first = stage.caller.add("sleep", &[("payload", long), ("key", b"order/7")]).await?;
    stage.caller.until_pending("sleep", 1).await?;
    let plain = stage.caller.add("sleep", &[("payload", long), ("key", b"order/7")]).await?;
    let high = [("idempotency-key", "high"), ("baton-priority", "high"), ("baton-key", "order/7")];
    http.post_with("/v1/send/sleep", &high, r#"{"ms":60000}"#).await?.expect(202)?;
    until("both wait", PATIENCE, async || Ok((stage.caller.delayed("sleep").await? == 2).then_some(()))).await?;
    // Whatever waits for a turn has this score.
    crowd_of_delayed(&mut stage, "sleep", WAITS_FOR_TURN_MS).await?;
    // It is the same call still.
    http.post_with("/v1/send/sleep", &high, r#"{"ms":60000}"#).await?.expect(202)?;
    for id in [plain.as_str(), "high"] {
        let view = state(&http, "sleep", id).await?.expect(200)?.json()?;
        ensure!(view["state"] == "queued" && view["waits_for"] == "key", "{view}");
        let why = host.commands().run(&["why", id, "--function", "sleep", "--json"]).await?.expect(0)?.json()?;
        ensure!(why["waits_for"] == "key", "{why}");
        let gone = http.delete_with(&format!("/v1/calls/default/sleep/{id}"), &[]).await?.expect(200)?.json()?;
        ensure!(gone["state"] == "cancelled", "{gone}");
        let mark = format!("baton:{{default/sleep}}:id:{id}");
        let is_left: bool = redis::cmd("EXISTS").arg(mark).query_async(stage.caller.connection()).await?;
        ensure!(!is_left, "what was known of {id} is gone with it");
    }
    ensure!(stage.caller.delayed("sleep").await? == MANY, "nothing else was taken out");
    http.delete_with(&format!("/v1/calls/default/sleep/{first}"), &[]).await?.expect(200)?;
    for what in ["turns", "line"] {
        let key = format!("baton:{{default/sleep}}:{what}");
        let is_left: bool = redis::cmd("EXISTS").arg(&key).query_async(stage.caller.connection()).await?;
        ensure!(!is_left, "{key} is left");
    }
    Ok(())
}

#[tokio::test]
async fn a_call_that_was_put_back_is_found_behind_thousands_and_ends_without_a_trace() -> Result<()> {
    let mut stage = Stage::with(&["fail"]).await?;
    let plan = stage.host().setting(SEATS, 1).argument(DRAIN_TIMEOUT).argument("50ms");
    let mut host = plan.start_ready(&["fail"]).await?;
    let front = stage.host().argument(NO_FUNCTIONS).http().start().await?;
    let http = Http::of(&front).await?;
    let id = stage.caller.send("fail", r#"{"kind":"steps","steps":["loop","ok"]}"#).await?;
    stage.caller.until_pending("fail", 1).await?;
    let others = stage.caller.send_many("fail", REJECT, MANY).await?;
    // Its host ends, and hands it over: it stands behind all others now.
    host.stop().await?;
    let view = state(&http, "fail", &id).await?.expect(200)?.json()?;
    ensure!(view["state"] == "queued" && view["attempt"] == 2, "{view}");
    let raw = [("payload", REJECT.as_bytes()), ("id", b"raw")];
    stage.caller.add("fail", &raw).await?;
    for unknown in ["raw", "nobody"] {
        let answer = state(&http, "fail", unknown).await?.problem(404, "unknown-call")?.json()?;
        ensure!(answer["detail"].to_string().contains("XADD"), "it says that not all was looked at: {answer}");
        let path = format!("/v1/calls/default/fail/{unknown}");
        let answer = http.delete_with(&path, &[]).await?.problem(404, "unknown-call")?.json()?;
        ensure!(answer["detail"].to_string().contains("XADD"), "{answer}");
    }
    let said = front.commands().run(&["cancel", "nobody", "--function", "fail"]).await?.expect(1)?;
    ensure!(said.stderr.contains("XADD"), "{said:?}");
    // By hand, so that the test need not run them all.
    let mut drop = redis::cmd("XDEL");
    drop.arg("baton:{default/fail}:calls").arg(&others);
    let () = drop.query_async(stage.caller.connection()).await?;
    let answer = state(&http, "fail", "nobody").await?.problem(404, "unknown-call")?.json()?;
    ensure!(!answer["detail"].to_string().contains("XADD"), "now all was looked at: {answer}");
    ensure!(state(&http, "fail", "raw").await?.expect(200)?.json()?["state"] == "queued");
    let _host = stage.host().start_ready(&["fail"]).await?;
    let result = stage.caller.result("fail", &id).await?;
    ensure!((result.status, result.attempts) == (Status::Ok, 2), "{result:?}");
    stage.caller.quiescent("fail").await?;
    let marks: Vec<String> = redis::cmd("KEYS").arg("*:id:*").query_async(stage.caller.connection()).await?;
    ensure!(marks.is_empty(), "{marks:?}");
    Ok(())
}
