//! Probes, draining, the end of the gateway, and the loss of Redis.

use std::time::Duration;

use anyhow::Result;
use baton_gateway::{Executions, HostStatus};
use reqwest::Method;
use serde_json::json;

use crate::stage::{PATIENCE, Stage};

#[tokio::test]
async fn probes_tell_where_the_host_stands() -> Result<()> {
    let stage = Stage::new().await?;
    let expect = async |status: HostStatus, readyz: u16, startupz: u16, health: u16| -> Result<()> {
        stage.status.send_replace(status);
        for (path, expected) in [("/livez", 200), ("/readyz", readyz), ("/startupz", startupz), ("/health", health)] {
            assert_eq!(stage.get(path).await?.status, expected, "{path} at {status:?}");
        }
        Ok(())
    };
    let online = HostStatus { started: true, ..HostStatus::default() };
    expect(HostStatus { started: false, ..online }, 503, 503, 200).await?;
    stage.reachable.send_replace(false);
    expect(online, 503, 200, 200).await?;
    stage.reachable.send_replace(true);
    expect(HostStatus { draining: true, ..online }, 503, 200, 503).await?;
    expect(online, 200, 200, 200).await?;
    Ok(())
}

#[tokio::test]
async fn health_says_when_the_host_may_be_ended() -> Result<()> {
    let stage = Stage::new().await?;
    for (draining, active, word, ready) in
        [(false, 2, "healthy", false), (true, 2, "draining", false), (true, 0, "draining", true)]
    {
        stage.status.send_replace(HostStatus { draining, started: true });
        stage.executions.send_replace(Executions { active, total: 7 });
        let expected = json!({ "status": word, "activeExecutions": active, "totalExecutions": 7,
            "readyForTermination": ready });
        assert_eq!(stage.get("/health").await?.json(), expected);
    }
    Ok(())
}

#[tokio::test]
async fn metrics_and_the_description_are_served_as_they_are() -> Result<()> {
    let stage = Stage::new().await?;
    let metrics = stage.get("/metrics").await?;
    assert!(metrics.header("content-type").starts_with("application/openmetrics-text; version=1.0.0"));
    assert_eq!(&metrics.body[..], b"# EOF\n");
    // Each path of the document can be asked by its methods and by no other.
    let document = stage.get("/openapi.json").await?.json();
    assert_eq!(document["openapi"], "3.1.0");
    for (path, methods) in document["paths"].as_object().cloned().unwrap_or_default() {
        let path = path.replace("{tenant}", "default").replace("{function}", "nobody").replace("{id}", "1-0");
        for method in [Method::GET, Method::POST, Method::PUT, Method::PATCH, Method::DELETE] {
            let answer = stage.ask(method.clone(), &path, &[], "").await?;
            let is_described = methods.get(method.as_str().to_lowercase()).is_some();
            assert_eq!(answer.status != 405, is_described, "{method} {path}: {answer:?}");
            assert!(!String::from_utf8_lossy(&answer.body).contains("no-such-path"), "{method} {path}");
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_draining_host_takes_no_new_calls_and_answers_the_ones_it_has() -> Result<()> {
    let stage = Stage::new().await?;
    let host = stage.host(&["default/echo"]).await?;
    let (answer, refused) = tokio::join!(stage.post("/v1/call/echo", "hold"), async {
        host.has_read(1).await;
        stage.status.send_modify(|status| status.draining = true);
        let refused = stage.post("/v1/call/echo", "{}").await?;
        stage.post("/v1/send/echo", "{}").await?.is_problem(503, "draining");
        assert_eq!(stage.get("/v1/hosts").await?.status, 200, "what can be read can still be read");
        assert_eq!(stage.get("/v1/calls?state=running").await?.status, 200);
        host.release();
        anyhow::Ok(refused)
    });
    let refused = refused?;
    refused.is_problem(503, "draining");
    assert_eq!(refused.header("connection"), "close");
    assert_eq!(answer?.status, 200);
    Ok(())
}

#[tokio::test]
async fn at_the_end_accepted_requests_are_answered_and_nothing_else_is_taken() -> Result<()> {
    let mut stage = Stage::new().await?;
    let host = stage.host(&["default/echo"]).await?;
    // An idle connection does not hold up the end.
    assert_eq!(stage.get("/livez").await?.status, 200);
    let (answer, ()) = tokio::join!(stage.post("/v1/call/echo", "hold"), async {
        host.has_read(1).await;
        stage.stop.cancel();
        while tokio::net::TcpStream::connect(stage.address).await.is_ok() {
            tokio::task::yield_now().await;
        }
        host.release();
    });
    assert_eq!(answer?.status, 200);
    tokio::time::timeout(PATIENCE, &mut stage.running).await??;
    Ok(())
}

#[tokio::test]
async fn a_request_that_would_hold_up_the_end_is_told_where_its_result_will_be() -> Result<()> {
    let mut stage = Stage::with(|config| config.end_time_max = Duration::from_millis(50)).await?;
    let host = stage.host(&["default/echo"]).await?;
    let (answer, ()) = tokio::join!(stage.post("/v1/call/echo", "hold"), async {
        host.has_read(1).await;
        stage.stop.cancel();
    });
    let answer = answer?;
    answer.is_problem(503, "ending");
    assert!(answer.header("location").ends_with(answer.header("baton-call-id")), "{answer:?}");
    tokio::time::timeout(PATIENCE, &mut stage.running).await??;
    Ok(())
}

#[tokio::test]
async fn without_redis_calls_are_refused_and_the_process_lives() -> Result<()> {
    let mut stage = Stage::new().await?;
    let _host = stage.host(&["default/echo"]).await?;
    assert_eq!(stage.post("/v1/call/echo", "{}").await?.status, 200);
    stage.kill_redis()?;
    for (method, path) in [
        (Method::POST, "/v1/call/echo"),
        (Method::POST, "/v1/send/nobody"),
        (Method::GET, "/v1/calls/default/echo/1-0"),
        (Method::GET, "/v1/functions"),
    ] {
        let answer = stage.ask(method, path, &[], "{}").await?;
        answer.is_problem(503, "redis-unreachable");
        assert!(!String::from_utf8_lossy(&answer.body).contains("sock"), "no address in an answer: {answer:?}");
    }
    assert_eq!(stage.get("/livez").await?.status, 200);
    Ok(())
}

#[tokio::test]
async fn a_request_that_panics_is_the_hosts_fault_and_nobody_elses() -> Result<()> {
    let stage = Stage::new().await?;
    let host = stage.host(&["default/echo"]).await?;
    let (answer, told) = tokio::join!(stage.post("/v1/call/echo", "hold"), async {
        host.has_read(1).await;
        stage.metrics.send_replace("cut off");
        assert!(stage.get("/metrics").await.is_err(), "there is no answer to it");
        let told = tokio::time::timeout(PATIENCE, stage.fault.cancelled()).await;
        host.release();
        told
    });
    told?;
    assert_eq!(answer?.status, 200);
    Ok(())
}
