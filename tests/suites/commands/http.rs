//! HTTP at real hosts: calls, probes, draining, and a front without functions.

use anyhow::{Context, Result, ensure};
use baton_tests::settings::{HTTP_ENABLED, HTTP_LISTEN, NO_FUNCTIONS, PATIENCE, PAYLOAD_BYTES_MAX};
use baton_tests::{Commands, Folder, HostPlan, Http, Signal, Stage, nested_guest, until};
use serde_json::json;

const ADA: &str = r#"{"name":"Ada"}"#;
const HELLO_ADA: &[u8] = br#"{"greeting":"Hello, Ada"}"#;

#[tokio::test]
async fn a_call_over_http_is_answered_with_the_functions_own_body_and_type() -> Result<()> {
    let stage = Stage::with(&["hello", "echo"]).await?;
    let host = stage.host().http().start_ready(&["hello", "echo"]).await?;
    let http = Http::of(&host).await?;
    for path in ["/v1/call/hello", "/v1/call/default/hello"] {
        let answer = http.post(path, ADA).await?.expect(200)?;
        ensure!(answer.body == HELLO_ADA && answer.header("content-type") == "application/json", "{answer:?}");
        ensure!(!answer.header("baton-call-id").is_empty(), "it names its call: {answer:?}");
    }
    let picture = [("content-type", "image/png")];
    let answer = http.post_with("/v1/call/echo", &picture, vec![0, 255, 7]).await?.expect(200)?;
    ensure!(answer.body[..] == [0, 255, 7] && answer.header("content-type") == "image/png", "{answer:?}");
    Ok(())
}

#[tokio::test]
async fn a_sent_call_has_its_state_and_result_at_its_location() -> Result<()> {
    let stage = Stage::with(&["hello"]).await?;
    let host = stage.host().http().start_ready(&["hello"]).await?;
    let http = Http::of(&host).await?;
    let own = [("content-type", "application/json"), ("idempotency-key", "order/1")];
    let sent = http.post_with("/v1/send/hello", &own, ADA).await?.expect(202)?;
    ensure!(sent.json()? == json!({ "id": "order/1" }), "{sent:?}");
    let place = sent.header("location").to_owned();
    let call = http.get(&format!("{place}?wait=10s")).await?.expect(200)?.json()?;
    ensure!(call["state"] == "completed" && call["result"]["payload"]["greeting"] == "Hello, Ada", "{call}");
    let result = http.get(&format!("{place}/result")).await?.expect(200)?;
    ensure!(result.body == HELLO_ADA, "{result:?}");
    let got = host.commands().run(&["get", "order/1"]).await?.expect(0)?;
    ensure!(got.stdout.as_bytes().trim_ascii_end() == HELLO_ADA, "{got:?}");
    http.get("/v1/calls/default/hello/nobody").await?.problem(404, "unknown-call")?;
    Ok(())
}

#[tokio::test]
async fn what_goes_wrong_has_a_status_a_word_and_an_explanation() -> Result<()> {
    let stage = Stage::with(&["fail"]).await?;
    let host = stage.host().http().setting(PAYLOAD_BYTES_MAX, 1000).start_ready(&["fail"]).await?;
    let http = Http::of(&host).await?;
    http.post("/v1/call/nobody", "{}").await?.problem(404, "unknown-function")?;
    http.post("/v1/call/Not-A-Name", "{}").await?.problem(400, "bad-name")?;
    http.post("/v1/call/fail", vec![b' '; 1001]).await?.problem(413, "body-too-large")?;
    let refused = http.post("/v1/call/fail", r#"{"kind":"reject"}"#).await?.problem(422, "as-asked")?;
    let call = http.get(refused.header("location")).await?.expect(200)?.json()?;
    ensure!(call["state"] == "failed", "{call}");
    http.post("/v1/call/fail", r#"{"kind":"trap"}"#).await?.problem(502, "trap")?;
    Ok(())
}

#[tokio::test]
async fn a_draining_host_refuses_new_calls_and_answers_those_that_it_accepted() -> Result<()> {
    let mut stage = Stage::with(&["sleep"]).await?;
    let mut host = stage.host().http().start_ready(&["sleep"]).await?;
    let http = Http::of(&host).await?;
    let (accepted, refused) = tokio::join!(http.post("/v1/call/sleep", r#"{"ms":1500}"#), async {
        stage.caller.until_pending("sleep", 1).await?;
        host.signal(Signal::TERM)?;
        let function = "sleep".parse()?;
        host.events()?.wait_for("shutdown", PATIENCE, |event| event.tells("shutdown", &function)).await?;
        http.post("/v1/call/sleep", r#"{"ms":1}"#).await?.problem(503, "draining")?;
        http.post("/v1/send/sleep", r#"{"ms":1}"#).await?.problem(503, "draining")?;
        http.get("/readyz").await?.problem(503, "not-ready")?;
        http.get("/livez").await?.expect(200)?;
        let health = http.get("/health").await?.expect(503)?.json()?;
        ensure!(health["status"] == "draining" && health["readyForTermination"] == false, "{health}");
        ensure!(health["activeExecutions"] == 1, "{health}");
        Ok(())
    });
    refused?;
    let accepted = accepted?.expect(200)?;
    ensure!(accepted.body[..] == *b"slept 1500", "{accepted:?}");
    let status = host.exit_within(PATIENCE).await?;
    ensure!(status.code() == Some(0), "{status}");
    ensure!(stage.caller.entries("sleep").await? == 0, "the refused call was not added");
    Ok(())
}

#[tokio::test]
async fn an_end_does_not_wait_for_requests_whose_calls_nobody_has() -> Result<()> {
    let mut stage = Stage::with(&["hello"]).await?;
    let mut host = stage.host().http().start_ready(&["hello"]).await?;
    let http = Http::of(&host).await?;
    stage.folder.delete("hello")?;
    let function = "hello".parse()?;
    host.events()?.wait_for("offline", PATIENCE, |event| event.tells("offline", &function)).await?;
    let (answer, status) = tokio::join!(http.post("/v1/call/hello", ADA), async {
        until("the call waits", PATIENCE, async || Ok((stage.caller.entries("hello").await? == 1).then_some(())))
            .await?;
        host.signal(Signal::TERM)?;
        host.exit_within(PATIENCE).await
    });
    let answer = answer?.problem(503, "ending")?;
    ensure!(answer.header("location").starts_with("/v1/calls/default/hello/"), "{answer:?}");
    ensure!(status?.code() == Some(0));
    Ok(())
}

#[tokio::test]
async fn probes_metrics_and_the_description_answer_from_the_start() -> Result<()> {
    let stage = Stage::with(&["hello"]).await?;
    let host = stage.host().http().start_ready(&["hello"]).await?;
    let http = Http::of(&host).await?;
    http.get("/livez").await?.expect(200)?;
    for probe in ["/readyz", "/startupz"] {
        let ready = async || Ok((http.get(probe).await?.status == 200).then_some(()));
        until(&format!("{probe} is 200"), PATIENCE, ready).await?;
    }
    http.post("/v1/call/hello", ADA).await?.expect(200)?;
    let counted = async || {
        let health = http.get("/health").await?.expect(200)?.json()?;
        Ok((health["totalExecutions"] == 1 && health["activeExecutions"] == 0).then_some(health))
    };
    let health = until("the call is counted", PATIENCE, counted).await?;
    ensure!(health["status"] == "healthy" && health["readyForTermination"] == false, "{health}");
    let metrics = http.get("/metrics").await?.expect(200)?;
    ensure!(metrics.header("content-type").starts_with("application/openmetrics-text"), "{metrics:?}");
    ensure!(metrics.body.ends_with(b"# EOF\n"), "{metrics:?}");

    let document = http.get("/openapi.json").await?.expect(200)?.json()?;
    let paths = document["paths"].as_object().context("it has paths")?;
    for path in [
        "/v1/call/{function}",
        "/v1/call/{tenant}/{function}",
        "/v1/send/{function}",
        "/v1/send/{tenant}/{function}",
        "/v1/batch/{function}",
        "/v1/batch/{tenant}/{function}",
        "/v1/fanout",
        "/v1/fanout/{tenant}/{id}",
        "/v1/calls",
        "/v1/calls/{tenant}/{function}/{id}",
        "/v1/calls/{tenant}/{function}/{id}/result",
        "/v1/functions",
        "/v1/hosts",
        "/livez",
        "/readyz",
        "/startupz",
        "/health",
        "/metrics",
        "/openapi.json",
    ] {
        ensure!(paths.contains_key(path), "{path} is not described");
    }
    Ok(())
}

#[tokio::test]
async fn a_call_that_comes_while_the_host_loads_is_answered() -> Result<()> {
    let stage = Stage::with(&["hello"]).await?;
    let host = stage.host().http().start().await?;
    let answer = Http::of(&host).await?.post("/v1/call/hello", ADA).await?.expect(200)?;
    ensure!(answer.body == HELLO_ADA, "{answer:?}");
    Ok(())
}

#[tokio::test]
async fn a_front_without_functions_serves_the_hosts_that_have_them() -> Result<()> {
    let stage = Stage::with(&["hello"]).await?;
    let none = Folder::new()?;
    let mut front = HostPlan::on(&stage.redis, &none).http().argument(NO_FUNCTIONS).start().await?;
    let http = Http::of(&front).await?;
    http.post("/v1/call/hello", ADA).await?.problem(404, "unknown-function")?;
    let mut host = stage.host().start_ready(&["hello"]).await?;
    // What the front knows of the hosts may be a quarter of a second old.
    let answered = async || Ok(Some(http.post("/v1/call/hello", ADA).await?).filter(|answer| answer.status == 200));
    let answer = until("the front has heard of the function", PATIENCE, answered).await?;
    ensure!(answer.body == HELLO_ADA, "{answer:?}");
    let record = front.record().await?;
    ensure!(record.seats == 0 && record.functions.is_empty(), "{record:?}");
    let both = async || {
        let hosts = http.get("/v1/hosts").await?.expect(200)?.json()?;
        Ok((hosts["hosts"].as_array().map(Vec::len) == Some(2)).then_some(()))
    };
    until("the front lists both hosts", PATIENCE, both).await?;

    // While the function is away, a call to it waits for it.
    host.stop().await?;
    let (answer, again) = tokio::join!(http.post("/v1/call/hello", ADA), async {
        let mut caller = stage.caller.clone();
        until("the call waits", PATIENCE, async || Ok((caller.entries("hello").await? == 1).then_some(()))).await?;
        stage.host().start_ready(&["hello"]).await
    });
    ensure!(answer?.expect(200)?.body == HELLO_ADA);
    drop(again?);
    front.stop().await
}

#[tokio::test]
async fn what_runs_now_is_listed_with_its_host() -> Result<()> {
    let mut stage = Stage::with(&["sleep"]).await?;
    let host = stage.host().http().start_ready(&["sleep"]).await?;
    let http = Http::of(&host).await?;
    let idle = host.commands().run(&["ps", "--calls"]).await?.expect(0)?;
    ensure!(idle.stdout.contains("none"), "{idle:?}");
    let id = stage.caller.send("sleep", r#"{"ms":20000}"#).await?;
    stage.caller.until_pending("sleep", 1).await?;
    let listed = host.commands().run(&["ps", "--calls", "--json"]).await?.expect(0)?.json()?;
    let call = &listed["calls"][0];
    ensure!(call["function"] == "default/sleep" && call["id"] == id.as_str() && call["attempt"] == 1, "{listed}");
    ensure!(call["host"] == host.id().await?.as_str(), "{listed}");
    ensure!(call["since_ms"].as_u64() >= call["accepted_ms"].as_u64() && call["since_ms"].is_u64(), "{listed}");
    let over_http = http.get("/v1/calls?state=running").await?.expect(200)?.json()?;
    ensure!(over_http["calls"][0]["id"] == id.as_str(), "{over_http}");
    let readable = host.commands().run(&["ps", "--calls"]).await?.expect(0)?;
    ensure!(readable.stdout.contains(&id) && readable.stdout.contains("default/sleep"), "{readable:?}");
    Ok(())
}

#[tokio::test]
async fn an_address_that_is_taken_is_an_error_with_the_mend() -> Result<()> {
    let stage = Stage::with(&["hello"]).await?;
    let host = stage.host().http().start_ready(&["hello"]).await?;
    let base = host.http().await?;
    let address = base.strip_prefix("http://").context("a URL")?;
    let by_argument = stage.host().http_at(address);
    let by_setting = stage.host().http_unsaid().setting(HTTP_LISTEN, address);
    for plan in [by_argument, by_setting] {
        let mut second = plan.start().await?;
        let status = second.exit_within(PATIENCE).await?;
        ensure!(status.code() == Some(1), "{status}");
        let said = second.lines().wait_for_several(1, PATIENCE, |line| line.starts_with("error")).await?;
        for word in [address, "--http", "--no-http"] {
            ensure!(said[0].contains(word), "{word} is not in {said:?}");
        }
    }
    ensure!(host.commands().hosts().await?.len() == 1, "they left no record behind");
    Ok(())
}

#[tokio::test]
async fn http_is_served_as_settings_and_arguments_say() -> Result<()> {
    let stage = Stage::with(&["hello"]).await?;
    let set = stage.host().http_unsaid().setting(HTTP_LISTEN, "127.0.0.1:0").start_ready(&["hello"]).await?;
    Http::of(&set).await?.get("/livez").await?.expect(200)?;
    // What is typed stands above what is set.
    let typed = stage.host().http().setting(HTTP_ENABLED, "false").start_ready(&["hello"]).await?;
    Http::of(&typed).await?.get("/livez").await?.expect(200)?;
    let off = stage.host().http_unsaid().setting(HTTP_ENABLED, "false").start_ready(&["hello"]).await?;
    ensure!(off.lines().containing("listening").is_empty(), "it serves none");

    let mut wrong = stage.host().http_unsaid().setting("BATON_HTTP__COLOUR", "red").start().await?;
    ensure!(wrong.exit_within(PATIENCE).await?.code() == Some(2), "an unknown key is an error");
    let mut nothing = stage.host().http_unsaid().setting(HTTP_ENABLED, "false").argument(NO_FUNCTIONS).start().await?;
    ensure!(nothing.exit_within(PATIENCE).await?.code() == Some(2), "a host that does nothing is an error");
    for arguments in [&["serve", "--no-functions", "--no-http"][..], &["serve", "--http", "7070"]] {
        Commands::alone().run(arguments).await?.expect(2)?;
    }
    Ok(())
}

#[tokio::test]
async fn who_calls_a_function_that_no_host_has_is_told_so_after_a_while() -> Result<()> {
    let stage = Stage::with(&[]).await?;
    let commands = Commands::at_redis(&stage.redis.url());
    let call = commands.run(&["call", "nobody", "--data", "{}", "--timeout", "2s"]).await?.expect(3)?;
    ensure!(call.stderr.contains("no host has default/nobody now"), "{call:?}");
    ensure!(call.stdout.is_empty(), "{call:?}");
    Ok(())
}

#[tokio::test]
async fn the_attributes_of_an_event_reach_a_function_in_its_context() -> Result<()> {
    let stage = Stage::with(&[]).await?;
    // It tells how it was called.
    stage.folder.write_manifest("teller", "grants.calls.functions = \"all\"\n")?;
    stage.folder.install("teller", &nested_guest()?)?;
    let host = stage.host().http().start_ready(&["teller"]).await?;
    let http = Http::of(&host).await?;
    let binary = [
        ("content-type", "application/json"),
        ("ce-specversion", "1.0"),
        ("ce-id", "e-1"),
        ("ce-source", "/shop"),
        ("ce-type", "order.placed"),
        ("ce-subject", "%C3%84da"),
        ("x-colour", "blue"),
    ];
    let structured = [("content-type", "application/cloudevents+json"), ("x-colour", "blue")];
    let event = json!({
        "specversion": "1.0", "id": "e-1", "source": "/shop", "type": "order.placed", "subject": "Äda",
        "datacontenttype": "application/json", "data": {},
    });
    for (headers, body) in [(&binary[..], "{}".to_owned()), (&structured[..], event.to_string())] {
        let told = http.post_with("/v1/call/teller", headers, body).await?.expect(200)?.json()?;
        let expected = json!({
            "ce-id": "e-1", "ce-source": "/shop", "ce-specversion": "1.0", "ce-subject": "Äda", "ce-type": "order.placed",
            "x-colour": "blue",
        });
        ensure!(told["headers"] == expected && told["type"] == "application/json", "{told}");
        ensure!(told["call_id"] != "e-1", "the event's id is not the call's: {told}");
    }
    Ok(())
}
