//! Bad input at the door, and too much of it.

use std::time::Duration;

use anyhow::Result;
use reqwest::Method;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::stage::{PATIENCE, Stage};

/// Sends these bytes and reads until the gateway hangs up.
async fn raw(stage: &Stage, bytes: &[u8]) -> Result<String> {
    let mut stream = TcpStream::connect(stage.address).await?;
    stream.write_all(bytes).await?;
    let mut said = Vec::new();
    tokio::time::timeout(PATIENCE, stream.read_to_end(&mut said)).await??;
    Ok(String::from_utf8_lossy(&said).into_owned())
}

#[tokio::test]
async fn a_name_that_breaks_the_rule_is_refused_before_anything_is_asked() -> Result<()> {
    let stage = Stage::new().await?;
    for name in ["Echo", "2fast", "a%00b", "a%0d%0ab", "a%2Fb", "a_b", "%7B", &"a".repeat(64)] {
        stage.post(&format!("/v1/call/{name}"), "").await?.is_problem(400, "bad-name");
        stage.post(&format!("/v1/send/acme/{name}"), "").await?.is_problem(400, "bad-name");
        stage.get(&format!("/v1/calls/{name}/echo/1-0")).await?.is_problem(400, "bad-name");
    }
    stage.post("/v1/call/%ff", "").await?.is_problem(400, "bad-path");
    stage.get("/v1/calls/default/echo/a%20b").await?.is_problem(400, "bad-id");
    stage.get("/v1/calls/default/echo/1-0?wait=soon").await?.is_problem(400, "bad-time");
    stage.get("/v1/calls/default/echo/1-0?weit=1s").await?.is_problem(400, "bad-query");
    Ok(())
}

#[tokio::test]
async fn a_path_that_leads_nowhere_and_a_method_that_does_not_fit_are_problems_too() -> Result<()> {
    let stage = Stage::new().await?;
    for path in ["/", "/v1", "/v1/call/", "/v1/call/a/b/c", "/v2/call/echo"] {
        stage.post(path, "").await?.is_problem(404, "no-such-path");
    }
    for (method, path, allowed) in [
        (Method::PUT, "/v1/calls/default/echo/1-0", "GET,HEAD,DELETE"),
        (Method::GET, "/v1/call/echo", "POST"),
        (Method::POST, "/health", "GET,HEAD"),
    ] {
        let answer = stage.ask(method, path, &[], "").await?;
        answer.is_problem(405, "wrong-method");
        assert_eq!(answer.header("allow"), allowed, "{path}");
    }
    Ok(())
}

#[tokio::test]
async fn what_a_page_of_another_site_has_a_browser_send_is_not_done() -> Result<()> {
    let stage = Stage::new().await?;
    let _host = stage.host(&["default/echo"]).await?;
    let ask = async |method, path, site| stage.ask(method, path, &[("sec-fetch-site", site)], "{}").await;
    for site in ["cross-site", "same-site"] {
        for path in ["/v1/call/echo", "/v1/send/echo"] {
            ask(Method::POST, path, site).await?.is_problem(403, "cross-site");
        }
        assert_eq!(ask(Method::GET, "/v1/hosts", site).await?.status, 200, "the browser keeps the answer to itself");
    }
    for site in ["same-origin", "none"] {
        assert_eq!(ask(Method::POST, "/v1/call/echo", site).await?.status, 200, "{site}");
    }
    Ok(())
}

#[tokio::test]
async fn a_page_whose_name_leads_to_this_machine_calls_nothing() -> Result<()> {
    let stage = Stage::new().await?;
    let _host = stage.host(&["default/echo"]).await?;
    let ask = async |method, path, host| stage.ask(method, path, &[("host", host)], "{}").await;
    for (method, path) in [(Method::POST, "/v1/call/echo"), (Method::GET, "/v1/hosts"), (Method::GET, "/metrics")] {
        ask(method, path, "evil.example:7070").await?.is_problem(403, "unknown-host");
    }
    assert_eq!(ask(Method::GET, "/livez", "evil.example").await?.status, 200, "a probe tells nothing");
    assert_eq!(ask(Method::POST, "/v1/call/echo", "localhost").await?.status, 200);
    Ok(())
}

#[tokio::test]
async fn a_header_that_cannot_be_followed_is_refused() -> Result<()> {
    let stage = Stage::new().await?;
    let _host = stage.host(&["default/echo"]).await?;
    for (name, value, code) in [
        ("baton-delay", "30", "bad-time"),
        ("baton-deadline", "soon", "bad-time"),
        ("idempotency-key", "a b", "bad-idempotency-key"),
        ("content-type", "json", "bad-content-type"),
        ("x-a.b", "1", "bad-header"),
    ] {
        stage.ask(Method::POST, "/v1/call/echo", &[(name, value)], "").await?.is_problem(400, code);
        stage.ask(Method::POST, "/v1/send/echo", &[(name, value)], "").await?.is_problem(400, code);
    }
    Ok(())
}

#[tokio::test]
async fn a_body_over_the_limit_is_refused_whether_announced_or_not() -> Result<()> {
    let stage = Stage::with(|config| config.body_bytes_max = 1000).await?;
    let _host = stage.host(&["default/echo"]).await?;
    assert_eq!(stage.post("/v1/call/echo", vec![b'1'; 1000]).await?.status, 200);
    stage.post("/v1/call/echo", vec![b'1'; 1001]).await?.is_problem(413, "body-too-large");
    let chunk = "2".repeat(1001);
    let request = format!(
        "POST /v1/call/echo HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n3e9\r\n{chunk}\r\n0\r\n\r\n"
    );
    let said = raw(&stage, request.as_bytes()).await?;
    assert!(said.starts_with("HTTP/1.1 413 ") && said.contains("body-too-large"), "{said}");
    Ok(())
}

#[tokio::test]
async fn slow_headers_and_slow_bodies_are_not_waited_for() -> Result<()> {
    let stage = Stage::with(|config| {
        config.header_time_max = Duration::from_millis(100);
        config.body_time_max = Duration::from_millis(100);
    })
    .await?;
    let _host = stage.host(&["default/echo"]).await?;
    let said = raw(&stage, b"POST /v1/call/echo HTTP/1.1\r\nhost: localhost\r\nx-slow: ").await?;
    assert!(!said.contains(" 200 "), "{said}");
    let head =
        b"POST /v1/call/echo HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-length: 10\r\n\r\n12345";
    let said = raw(&stage, head).await?;
    assert!(said.starts_with("HTTP/1.1 408 ") && said.contains("body-too-slow"), "{said}");
    Ok(())
}

#[tokio::test]
async fn a_function_that_takes_less_is_not_sent_more() -> Result<()> {
    let stage = Stage::new().await?;
    let _host = stage.host(&["default/echo", "default/tiny"]).await?;
    for way in ["call", "send"] {
        stage.post(&format!("/v1/{way}/tiny"), vec![b'1'; 11]).await?.is_problem(413, "body-too-large");
    }
    assert_eq!(stage.post("/v1/call/tiny", vec![b'1'; 10]).await?.status, 200);
    assert_eq!(stage.post("/v1/call/echo", vec![b'1'; 11]).await?.status, 200);
    Ok(())
}

#[tokio::test]
async fn too_many_and_too_large_headers_are_refused() -> Result<()> {
    let stage = Stage::new().await?;
    let many: String = (0..101).map(|n| format!("x-h{n}: 1\r\n")).collect();
    let large = format!("x-large: {}\r\n", "a".repeat(17 << 10));
    for headers in [many, large] {
        let said = raw(&stage, format!("GET /livez HTTP/1.1\r\nhost: localhost\r\n{headers}\r\n").as_bytes()).await?;
        assert!(said.starts_with("HTTP/1.1 431 "), "{said}");
    }
    let _host = stage.host(&["default/echo"]).await?;
    let fields: String = (0..65).map(|n| format!("x-h{n}: 1\r\n")).collect();
    let request = format!(
        "POST /v1/call/echo HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n{fields}content-length: 0\r\n\r\n"
    );
    let said = raw(&stage, request.as_bytes()).await?;
    assert!(said.starts_with("HTTP/1.1 431 ") && said.contains("headers-too-large"), "{said}");
    Ok(())
}

#[tokio::test]
async fn beyond_the_most_requests_callers_are_told_to_come_back_and_probes_are_not() -> Result<()> {
    let stage = Stage::with(|config| config.requests_max = 1).await?;
    let host = stage.host(&["default/echo"]).await?;
    let (first, second) = tokio::join!(stage.post("/v1/call/echo", "hold"), async {
        host.has_read(1).await;
        let second = stage.post("/v1/call/echo", "{}").await;
        for probe in ["/livez", "/readyz", "/startupz", "/health", "/metrics"] {
            assert_eq!(stage.get(probe).await?.status, 200, "{probe}");
        }
        host.release();
        second
    });
    assert_eq!(first?.status, 200);
    second?.is_problem(503, "overloaded");
    assert_eq!(stage.post("/v1/call/echo", "{}").await?.status, 200, "the seat is free again");
    Ok(())
}

#[tokio::test]
async fn beyond_the_most_connections_a_client_is_told_and_not_left_waiting() -> Result<()> {
    let stage = Stage::with(|config| config.connections_max = 1).await?;
    let mut first = TcpStream::connect(stage.address).await?;
    first.write_all(b"GET /livez HTTP/1.1\r\nhost: localhost\r\n\r\n").await?;
    let mut start = [0; 15];
    first.read_exact(&mut start).await?;
    assert_eq!(&start, b"HTTP/1.1 200 OK");
    stage.get("/livez").await?.is_problem(503, "overloaded");
    Ok(())
}
