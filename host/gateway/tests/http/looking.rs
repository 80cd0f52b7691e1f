//! Calls that were sent, functions, hosts: what can be asked about them.

use anyhow::Result;
use reqwest::Method;
use serde_json::json;

use crate::stage::Stage;

#[tokio::test]
async fn a_sent_call_is_accepted_and_its_result_waits_at_its_location() -> Result<()> {
    let stage = Stage::new().await?;
    let _host = stage.host(&["default/echo"]).await?;
    let sent = stage.post("/v1/send/echo", r#"{"n":1}"#).await?;
    assert_eq!(sent.status, 202, "{sent:?}");
    let id = sent.header("baton-call-id");
    assert_eq!(sent.json(), json!({ "id": id }));
    assert_eq!(sent.header("location"), format!("/v1/calls/default/echo/{id}"));
    let call = stage.get(&format!("{}?wait=10s", sent.header("location"))).await?.json();
    assert_eq!(
        (&call["id"], &call["function"], &call["state"]),
        (&json!(id), &json!("default/echo"), &json!("completed"))
    );
    assert_eq!((&call["result"]["status"], &call["result"]["payload"]), (&json!("ok"), &json!({ "n": 1 })));
    let raw = stage.get(call["result"]["href"].as_str().unwrap_or_default()).await?;
    assert_eq!((raw.status.as_u16(), &raw.body[..]), (200, &br#"{"n":1}"#[..]));
    let head = stage.ask(Method::HEAD, sent.header("location"), &[], "").await?;
    assert_eq!((head.status.as_u16(), head.body.len()), (200, 0));
    Ok(())
}

#[tokio::test]
async fn a_call_is_queued_then_running_then_delayed_and_never_lost_from_sight() -> Result<()> {
    let stage = Stage::new().await?;
    stage.has_had("default/echo").await?;
    for key in [None, Some("own/id 1".replace(' ', "#"))] {
        let mut headers = Vec::new();
        headers.extend(key.as_deref().map(|key| ("idempotency-key", key)));
        let sent = stage.ask(Method::POST, "/v1/send/echo", &headers, "later").await?;
        let call = stage.get(sent.header("location")).await?.json();
        assert_eq!((&call["state"], &call["attempt"]), (&json!("queued"), &json!(1)), "{call}");
    }
    let held = stage.post("/v1/send/echo", "hold").await?;
    let host = stage.host(&["default/echo"]).await?;
    host.has_read(3).await;
    let call = stage.get(held.header("location")).await?.json();
    assert_eq!((&call["state"], &call["host"]), (&json!("running"), &json!("host-1")));
    // What waits for its time keeps its id, whether it had one of its own or not.
    let place = "/v1/calls/default/echo/own%2Fid%231";
    let mut call = stage.get(place).await?.json();
    while call["state"] == "running" {
        call = stage.get(place).await?.json();
    }
    assert_eq!((&call["state"], &call["attempt"]), (&json!("delayed"), &json!(2)), "{call}");
    assert!(call["due_ms"].is_u64());
    Ok(())
}

#[tokio::test]
async fn a_call_that_nobody_knows_is_not_found() -> Result<()> {
    let stage = Stage::new().await?;
    let _host = stage.host(&["default/echo"]).await?;
    for id in ["1-0", "nobody", "nobody/result"] {
        stage.get(&format!("/v1/calls/default/echo/{id}?wait=10s")).await?.is_problem(404, "unknown-call");
    }
    stage.get("/v1/calls/default/nobody/1-0").await?.is_problem(404, "unknown-call");
    Ok(())
}

#[tokio::test]
async fn the_entry_of_a_call_with_an_id_of_its_own_is_no_call() -> Result<()> {
    let stage = Stage::new().await?;
    stage.has_had("default/echo").await?;
    stage.ask(Method::POST, "/v1/send/echo", &[("idempotency-key", "1-0")], "{}").await?;
    assert_eq!(stage.get("/v1/calls/default/echo/1-0").await?.json()["state"], "queued");
    Ok(())
}

#[tokio::test]
async fn bytes_that_are_no_text_are_shown_as_base64() -> Result<()> {
    let stage = Stage::new().await?;
    let _host = stage.host(&["default/echo"]).await?;
    let sent = stage.ask(Method::POST, "/v1/send/echo", &[("content-type", "image/png")], vec![0_u8, 255]).await?;
    let call = stage.get(&format!("{}?wait=10s", sent.header("location"))).await?.json();
    assert_eq!(call["result"]["payload_base64"], "AP8=");
    Ok(())
}

#[tokio::test]
async fn what_runs_now_is_listed_with_its_host() -> Result<()> {
    let stage = Stage::new().await?;
    let host = stage.host(&["default/echo", "acme/echo"]).await?;
    let sent = stage.ask(Method::POST, "/v1/send/acme/echo", &[("idempotency-key", "mine")], "hold").await?;
    host.has_read(1).await;
    let list = stage.get("/v1/calls?state=running").await?.json();
    let calls = list["calls"].as_array().cloned().unwrap_or_default();
    assert_eq!(calls.len(), 1, "{list}");
    assert_eq!(
        (&calls[0]["id"], &calls[0]["function"], &calls[0]["host"]),
        (&json!("mine"), &json!("acme/echo"), &json!("host-1"))
    );
    assert_eq!((&calls[0]["state"], &calls[0]["attempt"]), (&json!("running"), &json!(1)));
    assert!(
        calls[0]["since_ms"].as_u64() >= calls[0]["accepted_ms"].as_u64() && calls[0]["since_ms"].is_u64(),
        "{list}"
    );
    assert_eq!(calls[0]["href"], sent.header("location"));
    let of_other = stage.get("/v1/calls?state=running&function=default/echo").await?.json();
    assert_eq!(of_other, json!({ "calls": [] }));
    for bad in ["/v1/calls", "/v1/calls?state=queued", "/v1/calls?colour=red", "/v1/calls?state=running&function=A"] {
        stage.get(bad).await?.is_problem(400, "bad-query");
    }
    Ok(())
}

#[tokio::test]
async fn functions_and_hosts_are_listed_with_what_they_have_to_do() -> Result<()> {
    let stage = Stage::new().await?;
    stage.has_had("acme/away").await?;
    stage.post("/v1/send/acme/away", "{}").await?;
    let host = stage.host(&["default/echo"]).await?;
    let sent = stage.post("/v1/send/echo", "hold").await?;
    assert_eq!(sent.status, 202);
    host.has_read(1).await;
    // A snapshot of before may serve for a quarter of a second.
    let mut list = stage.get("/v1/functions").await?.json();
    while list["functions"][1]["available"] != true {
        list = stage.get("/v1/functions").await?.json();
    }
    let (away, echo) = (&list["functions"][0], &list["functions"][1]);
    assert_eq!(
        (&away["function"], &away["available"], &away["callers_waiting"], &away["queued"]),
        (&json!("acme/away"), &json!(false), &json!(true), &json!(1))
    );
    assert_eq!(
        (&echo["function"], &echo["available"], &echo["healthy_hosts"], &echo["pending"]),
        (&json!("default/echo"), &json!(true), &json!(1), &json!(1))
    );
    assert_eq!(echo["hosts"][0]["host"], "host-1");
    let list = stage.get("/v1/hosts").await?.json();
    let one = &list["hosts"][0];
    assert_eq!(
        (&one["id"], &one["state"], &one["in_flight"], &one["seats"]),
        (&json!("host-1"), &json!("online"), &json!(1), &json!(8))
    );
    assert_eq!(list["machines"], json!([{ "machine": "machine-1", "state": "online", "hosts": 1, "online": 1 }]));
    Ok(())
}
