//! Many calls of one function in one request.

use anyhow::Result;
use reqwest::Method;
use serde_json::{Value, json};

use crate::stage::Stage;

const JSON: (&str, &str) = ("content-type", "application/json");

/// Looks each call up that was accepted, waits for it, and gives what its function answered.
async fn answers(stage: &Stage, said: &Value) -> Result<Vec<Value>> {
    let mut answers = Vec::new();
    for call in said["calls"].as_array().expect("calls are listed") {
        let Some(href) = call["href"].as_str() else { continue };
        let ended = stage.get(&format!("{href}?wait=10s")).await?.json();
        assert_eq!((&ended["id"], &ended["state"]), (&call["id"], &json!("completed")), "{ended}");
        answers.push(ended["result"]["payload"].clone());
    }
    Ok(answers)
}

#[tokio::test]
async fn a_thousand_calls_are_accepted_in_one_request_and_each_is_run() -> Result<()> {
    let stage = Stage::new().await?;
    let _host = stage.host(&["acme/echo"]).await?;
    let lines: String = (0..1_000).map(|n| format!("{{\"payload\": {{\"n\":{n}}}}}\n")).collect();
    let answer = stage.ask(Method::POST, "/v1/batch/acme/echo", &[], lines).await?;
    assert_eq!(answer.status, 202, "{answer:?}");
    let said = answer.json();
    assert_eq!(said["accepted"], 1_000);
    let all: Vec<Value> = (0..1_000).map(|n| json!({ "n": n })).collect();
    assert_eq!(answers(&stage, &said).await?, all, "in the order in which they were sent");
    Ok(())
}

#[tokio::test]
async fn what_is_wrong_with_one_call_is_said_of_it_and_the_others_are_accepted() -> Result<()> {
    let stage = Stage::new().await?;
    let _host = stage.host(&["default/echo"]).await?;
    let batch = json!([
        { "payload": [1, 2] },
        { "payload": 1, "id": "with space" },
        { "id": "nothing" },
        { "payload": 1, "payload_base64": "AA==" },
        { "payload_base64": "%" },
        { "payload": 1, "type": "none" },
        { "payload": 1, "colour": 9 },
        7,
        { "payload": "last" },
    ]);
    let answer = stage.ask(Method::POST, "/v1/batch/echo", &[JSON], batch.to_string()).await?;
    assert_eq!(answer.status, 207, "{answer:?}");
    let said = answer.json();
    assert_eq!(said["accepted"], 2);
    let codes: Vec<&str> =
        said["calls"].as_array().unwrap().iter().map(|call| call["error"]["code"].as_str().unwrap_or("")).collect();
    let bad = "bad-call";
    assert_eq!(codes, ["", "bad-id", bad, bad, bad, "bad-content-type", bad, bad, ""]);
    assert!(said["calls"][6]["error"]["detail"].as_str().unwrap().contains("`colour`"), "{said}");
    assert_eq!(answers(&stage, &said).await?, [json!([1, 2]), json!("last")]);
    Ok(())
}

#[tokio::test]
async fn the_same_id_in_a_batch_is_the_same_call() -> Result<()> {
    let stage = Stage::new().await?;
    let _host = stage.host(&["default/echo"]).await?;
    let one = r#"{"payload": "first", "id": "a"}"#;
    let said = stage.post("/v1/batch/echo", one).await?.json();
    assert_eq!(answers(&stage, &said).await?, [json!("first")]);
    let more = r#"{"payload": "again", "id": "a"} {"#.replace(" {", "\n") + r#"{"payload": "b", "id": "b"}"# + "\n";
    let more = more + r#"{"payload": "c", "id": "b"}"#;
    let said = stage.post("/v1/batch/echo", more).await?.json();
    assert_eq!(said["calls"].as_array().unwrap().iter().map(|call| &call["id"]).collect::<Vec<_>>(), ["a", "b", "b"]);
    assert_eq!(answers(&stage, &said).await?, [json!("first"), json!("b"), json!("b")]);
    Ok(())
}

#[tokio::test]
async fn the_headers_hold_for_each_call_and_bytes_have_their_type() -> Result<()> {
    let stage = Stage::new().await?;
    let _host = stage.host(&["default/echo"]).await?;
    let batch = "{\"payload_base64\":\"AP8=\",\"type\":\"image/png\"}\n{\"payload_base64\":\"AP8=\"}";
    let headers = [("x-colour", "blue"), ("baton-deadline", "20s")];
    let said = stage.ask(Method::POST, "/v1/batch/echo", &headers, batch).await?.json();
    for (call, kind) in said["calls"].as_array().unwrap().iter().zip(["image/png", "application/octet-stream"]) {
        let href = call["href"].as_str().unwrap();
        let result = stage.get(&format!("{href}/result?wait=10s")).await?;
        assert_eq!((&result.body[..], result.header("content-type")), (&[0, 255][..], kind));
    }
    let said = stage
        .ask(Method::POST, "/v1/batch/echo", &headers, r#"{"payload_base64":"ZGVzY3JpYmU=","type":"application/json"}"#)
        .await?
        .json();
    let described = &answers(&stage, &said).await?[0];
    assert_eq!(described["headers"], json!([["x-colour", "blue"]]));
    assert!(described["deadline"].is_u64(), "{described}");
    Ok(())
}

#[tokio::test]
async fn a_batch_that_is_none_is_refused_with_its_rule() -> Result<()> {
    let stage = Stage::new().await?;
    let _host = stage.host(&["default/echo"]).await?;
    for body in ["", " \n ", "[", "[]", "\u{0}"] {
        let answer = stage.post("/v1/batch/echo", body).await?;
        assert!(answer.status == 400 || answer.status == 207, "{body:?}: {answer:?}");
    }
    stage.post("/v1/batch/echo", "[1,").await?.is_problem(400, "bad-batch");
    let many = "{\"payload\":1}\n".repeat(1_001);
    stage.post("/v1/batch/echo", many).await?.is_problem(413, "batch-too-large");
    let named = [("idempotency-key", "one")];
    let answer = stage.ask(Method::POST, "/v1/batch/echo", &named, "{\"payload\":1}").await?;
    answer.is_problem(400, "bad-idempotency-key");
    stage.post("/v1/batch/nobody-has-it", "{\"payload\":1}").await?.is_problem(404, "unknown-function");
    Ok(())
}
