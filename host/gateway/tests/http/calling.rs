//! New calls, and how each end of a call is answered.

use std::time::Duration;

use anyhow::Result;
use baton_broker::Inspect;
use reqwest::Method;
use serde_json::json;

use crate::stage::Stage;

#[tokio::test]
async fn a_call_is_answered_with_the_body_and_the_type_of_the_function() -> Result<()> {
    let stage = Stage::new().await?;
    let _host = stage.host(&["default/echo", "acme/echo"]).await?;
    let body = vec![0, 255, b'\n', 7];
    for path in ["/v1/call/echo", "/v1/call/default/echo", "/v1/call/acme/echo"] {
        let answer = stage.ask(Method::POST, path, &[("content-type", "image/png")], body.clone()).await?;
        assert_eq!((answer.status.as_u16(), &answer.body[..]), (200, &body[..]), "{path}");
        assert_eq!(answer.header("content-type"), "image/png");
        assert!(answer.header("baton-call-id").contains('-'), "{answer:?}");
    }
    Ok(())
}

#[tokio::test]
async fn what_the_headers_say_reaches_the_function() -> Result<()> {
    let stage = Stage::new().await?;
    let _host = stage.host(&["default/echo"]).await?;
    let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let headers = [
        ("idempotency-key", "order/1"),
        ("traceparent", trace),
        ("tracestate", "a=b"),
        ("baton-deadline", "5s"),
        ("x-colour", "blue"),
        ("x-forwarded-for", "10.0.0.1"),
        ("authorization", "Bearer secret"),
    ];
    let answer = stage.ask(Method::POST, "/v1/call/echo", &headers, "describe").await?;
    let said = answer.json();
    assert_eq!((answer.header("baton-call-id"), &said["own"]), ("order/1", &json!(true)));
    assert_eq!(said["headers"], json!([["x-colour", "blue"]]));
    assert_eq!((&said["traceparent"], &said["tracestate"]), (&json!(trace), &json!("a=b")));
    assert!(said["deadline"].is_u64() && said["type"] == "application/json", "{said}");
    Ok(())
}

#[tokio::test]
async fn each_way_in_which_a_call_can_fail_has_its_status() -> Result<()> {
    let stage = Stage::new().await?;
    let _host = stage.host(&["default/echo"]).await?;
    for (payload, status, code) in [("refuse", 422, "too-blue"), ("trap", 502, "trap"), ("expire", 504, "deadline")] {
        let answer = stage.post("/v1/call/echo", payload).await?;
        answer.is_problem(status, code);
        assert_eq!(answer.json()["id"], answer.header("baton-call-id"));
        assert!(stage.get(answer.header("location")).await?.json()["state"] == "failed");
    }
    Ok(())
}

#[tokio::test]
async fn a_function_that_nobody_has_had_is_unknown_and_leaves_nothing_behind() -> Result<()> {
    let stage = Stage::new().await?;
    stage.post("/v1/call/nobody", "").await?.is_problem(404, "unknown-function");
    stage.post("/v1/send/acme/nobody", "").await?.is_problem(404, "unknown-function");
    let inspect = Inspect::new(&stage.broker)?;
    assert!(!inspect.has_stream(&"default/nobody".parse()?).await?);
    // The host comes; no answer of before stands in its way.
    let _host = stage.host(&["default/nobody"]).await?;
    assert_eq!(stage.post("/v1/call/nobody", "{}").await?.status, 200);
    Ok(())
}

#[tokio::test]
async fn a_call_to_a_function_that_is_away_is_answered_when_it_comes_back() -> Result<()> {
    let stage = Stage::new().await?;
    stage.has_had("default/echo").await?;
    let (answer, host) = tokio::join!(stage.post("/v1/call/echo", "{}"), async {
        stage.queued("default/echo", 1).await?;
        stage.host(&["default/echo"]).await
    });
    host?;
    assert_eq!(answer?.status, 200);
    Ok(())
}

#[tokio::test]
async fn while_a_host_loads_its_functions_an_unknown_one_is_waited_for() -> Result<()> {
    let stage = Stage::new().await?;
    stage.host_is_starting().await?;
    let (answer, host) = tokio::join!(stage.post("/v1/call/echo", "{}"), async {
        stage.asked_for("exists", 2).await?;
        stage.host(&["default/echo"]).await
    });
    host?;
    assert_eq!(answer?.status, 200);
    Ok(())
}

#[tokio::test]
async fn a_function_that_does_not_come_with_the_start_of_a_host_is_unknown() -> Result<()> {
    let stage = Stage::with(|config| config.start_time_max = Duration::from_millis(300)).await?;
    stage.host_is_starting().await?;
    stage.post("/v1/call/echo", "{}").await?.is_problem(404, "unknown-function");
    let hurried = [("baton-deadline", "50ms")];
    let answer = stage.ask(Method::POST, "/v1/call/echo", &hurried, "{}").await?;
    answer.is_problem(404, "unknown-function");
    Ok(())
}

#[tokio::test]
async fn what_curl_sends_by_itself_is_json_if_it_is_json() -> Result<()> {
    let stage = Stage::new().await?;
    let _host = stage.host(&["default/echo"]).await?;
    let form = "application/x-www-form-urlencoded";
    for (body, expected) in [
        (r#"{"name":"Ada"}"#, "application/json"),
        (" [1, 2]", "application/json"),
        ("name=Ada", form),
        ("{name", form),
        ("7", form),
    ] {
        let answer = stage.ask(Method::POST, "/v1/call/echo", &[("content-type", form)], body).await?;
        assert_eq!((answer.status.as_u16(), answer.header("content-type")), (200, expected), "{body}");
    }
    Ok(())
}

#[tokio::test]
async fn a_deadline_ends_the_wait() -> Result<()> {
    let stage = Stage::new().await?;
    stage.has_had("default/echo").await?;
    let answer = stage.ask(Method::POST, "/v1/call/echo", &[("baton-deadline", "50ms")], "{}").await?;
    answer.is_problem(504, "deadline");
    assert!(answer.json()["detail"].as_str().is_some_and(|text| text.contains("no host had default/echo")));
    assert_eq!(stage.get(answer.header("location")).await?.json()["state"], "queued");
    Ok(())
}

#[tokio::test]
async fn an_answer_that_comes_too_late_for_the_request_is_fetched_from_its_location() -> Result<()> {
    let stage = Stage::with(|config| config.call_time_max = Duration::from_millis(100)).await?;
    let host = stage.host(&["default/echo"]).await?;
    let answer = stage.post("/v1/call/echo", "hold").await?;
    answer.is_problem(504, "still-running");
    let place = answer.header("location");
    let call = stage.get(place).await?.json();
    assert_eq!((&call["state"], &call["host"], &call["attempt"]), (&json!("running"), &json!("host-1"), &json!(1)));
    host.release();
    let mut answer = stage.get(&format!("{place}/result?wait=10s")).await?;
    while answer.status == 404 {
        answer = stage.get(&format!("{place}/result?wait=10s")).await?;
    }
    assert_eq!((answer.status.as_u16(), &answer.body[..]), (200, &b"default/echo was held"[..]));
    Ok(())
}

#[tokio::test]
async fn the_same_idempotency_key_is_the_same_call() -> Result<()> {
    let stage = Stage::new().await?;
    let host = stage.host(&["default/echo"]).await?;
    let key = [("idempotency-key", "\"order-1\"")];
    let first = stage.ask(Method::POST, "/v1/call/echo", &key, "first").await?;
    let second = stage.ask(Method::POST, "/v1/call/echo", &key, "second").await?;
    assert_eq!((&first.body[..], &second.body[..]), (&b"first"[..], &b"first"[..]));
    let sent = stage.ask(Method::POST, "/v1/send/echo", &key, "third").await?;
    assert_eq!((sent.status.as_u16(), &sent.json()["id"]), (202, &json!("order-1")));
    assert_eq!(*host.read.borrow(), 1, "it ran once");
    Ok(())
}

#[tokio::test]
async fn calls_of_one_id_to_two_functions_get_each_its_own_answer() -> Result<()> {
    let stage = Stage::new().await?;
    let host = stage.host(&["acme/echo", "umbrella/echo"]).await?;
    let key = [("idempotency-key", "same")];
    let began = std::time::Instant::now();
    let (one, other, ()) = tokio::join!(
        stage.ask(Method::POST, "/v1/call/acme/echo", &key, "hold"),
        stage.ask(Method::POST, "/v1/call/umbrella/echo", &key, "hold"),
        async {
            host.has_read(2).await;
            host.release();
        }
    );
    assert_eq!(&one?.body[..], b"acme/echo was held");
    assert_eq!(&other?.body[..], b"umbrella/echo was held");
    assert!(began.elapsed() < Duration::from_millis(900), "neither had to read its key");
    Ok(())
}

#[tokio::test]
async fn two_requests_for_one_call_are_both_told_of_its_end() -> Result<()> {
    let stage = Stage::new().await?;
    let host = stage.host(&["default/echo"]).await?;
    let key = [("idempotency-key", "same")];
    let (one, other, ()) = tokio::join!(
        stage.ask(Method::POST, "/v1/call/echo", &key, "hold"),
        stage.ask(Method::POST, "/v1/call/echo", &key, "hold"),
        async {
            host.has_read(1).await;
            // The script is asked for, loaded, and asked for again; the third time it is the other request.
            stage.asked_for("evalsha", 3).await.expect("both requests come in");
            host.release();
        }
    );
    assert_eq!((one?.status.as_u16(), other?.status.as_u16()), (200, 200));
    assert_eq!(stage.commands().await?.get("xadd"), Some(&1), "it is one call");
    Ok(())
}

#[tokio::test]
async fn a_call_costs_the_gateway_one_command() -> Result<()> {
    let stage = Stage::new().await?;
    let _host = stage.host(&["default/echo"]).await?;
    stage.post("/v1/call/echo", "{}").await?;
    let before = stage.commands().await?;
    for _ in 0..50 {
        assert_eq!(stage.post("/v1/call/echo", "{}").await?.status, 200);
    }
    let after = stage.commands().await?;
    let spent = |name: &str| after.get(name).unwrap_or(&0) - before.get(name).unwrap_or(&0);
    assert_eq!(spent("xadd"), 50);
    // EXISTS is the settling script's, once a call. Nothing else is asked on the way, but for the hosts now and then.
    assert_eq!((spent("exists"), spent("get"), spent("subscribe"), spent("psubscribe")), (50, 0, 0, 0));
    assert!(spent("smembers") <= 5, "{} looks at the hosts", spent("smembers"));
    Ok(())
}
