//! CloudEvents: what an event says of itself reaches the function, in whichever mode it is sent.

use anyhow::Result;
use reqwest::Method;
use serde_json::json;

use crate::stage::Stage;

#[tokio::test]
async fn an_event_reaches_the_function_in_both_modes() -> Result<()> {
    let stage = Stage::new().await?;
    let _host = stage.host(&["default/echo"]).await?;
    let binary = [
        ("content-type", "text/plain"),
        ("ce-specversion", "1.0"),
        ("ce-id", "e-1"),
        ("ce-source", "/shop"),
        ("ce-type", "order.placed"),
        ("ce-subject", "%C3%84da"),
        ("x-colour", "blue"),
    ];
    let whole = [("content-type", "application/cloudevents+json"), ("x-colour", "blue"), ("ce-id", "not this one")];
    let body = r#"{"specversion":"1.0","id":"e-1","source":"/shop","type":"order.placed","subject":"Äda",
        "datacontenttype":"text/plain","data":"describe"}"#;
    for (headers, body) in [(&binary[..], "describe"), (&whole[..], body)] {
        let said = stage.ask(Method::POST, "/v1/call/echo", headers, body).await?.json();
        let mut all: Vec<(String, String)> = serde_json::from_value(said["headers"].clone())?;
        all.sort();
        let expected = [
            ["ce-id", "e-1"],
            ["ce-source", "/shop"],
            ["ce-specversion", "1.0"],
            ["ce-subject", "Äda"],
            ["ce-type", "order.placed"],
            ["x-colour", "blue"],
        ];
        assert_eq!(json!(all), json!(expected), "{headers:?}");
        assert_eq!((&said["type"], &said["own"]), (&json!("text/plain"), &json!(false)), "its id is no call's");
    }
    Ok(())
}

#[tokio::test]
async fn what_is_no_event_is_refused_at_the_door() -> Result<()> {
    let stage = Stage::new().await?;
    let _host = stage.host(&["default/echo"]).await?;
    let whole = [("content-type", "application/cloudevents+json")];
    stage.ask(Method::POST, "/v1/call/echo", &whole, "{}").await?.is_problem(400, "bad-event");
    stage.ask(Method::POST, "/v1/send/echo", &[("ce-id", "e-1")], "{}").await?.is_problem(400, "bad-event");
    let batch = [("content-type", "application/cloudevents-batch+json")];
    stage.ask(Method::POST, "/v1/call/echo", &batch, "[]").await?.is_problem(415, "unsupported-event");
    let long = format!(r#"{{"specversion":"1.0","id":"e","source":"s","type":"{}"}}"#, "t".repeat(4097));
    stage.ask(Method::POST, "/v1/call/echo", &whole, long).await?.is_problem(431, "headers-too-large");
    Ok(())
}
