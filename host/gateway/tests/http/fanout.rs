//! One call to many functions, and their results under one id.

use anyhow::Result;
use reqwest::Method;
use serde_json::{Value, json};

use crate::stage::Stage;

const ALL: &str = r#"{"functions":["acme/a","acme/b","acme/c"],"payload":{"n":1}}"#;

fn states(said: &Value) -> Vec<&str> {
    said["calls"].as_array().unwrap().iter().map(|call| call["state"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn one_payload_goes_to_many_functions_and_their_results_come_under_one_id() -> Result<()> {
    let stage = Stage::new().await?;
    stage.has_had("acme/c").await?;
    let _host = stage.host(&["acme/a", "acme/b"]).await?;
    let answer = stage.post("/v1/fanout", ALL).await?;
    assert_eq!(answer.status, 202, "{answer:?}");
    let sent = answer.json();
    let place = sent["href"].as_str().unwrap();
    assert_eq!(answer.header("location"), place);
    for call in &sent["calls"].as_array().unwrap()[..2] {
        let href = call["href"].as_str().unwrap();
        assert_eq!(stage.get(&format!("{href}?wait=10s")).await?.json()["state"], "completed");
    }
    let said = stage.get(place).await?.json();
    assert_eq!((&said["state"], &said["ended"], &said["id"]), (&json!("pending"), &json!(2), &sent["id"]));
    assert_eq!(states(&said), ["completed", "completed", "pending"]);
    let _late = stage.host(&["acme/c"]).await?;
    let said = stage.get(&format!("{place}?wait=10s")).await?.json();
    assert_eq!((&said["state"], &said["ended"]), (&json!("completed"), &json!(3)));
    for call in said["calls"].as_array().unwrap() {
        assert_eq!(call["result"]["payload"], json!({ "n": 1 }), "{call}");
    }
    Ok(())
}

#[tokio::test]
async fn a_function_that_fails_ends_its_part_alone() -> Result<()> {
    let stage = Stage::new().await?;
    let _host = stage.host(&["acme/a", "acme/b"]).await?;
    let order = json!({ "functions": ["acme/a", "acme/b"], "payload_base64": "dHJhcA==", "type": "text/plain" });
    let sent = stage.post("/v1/fanout", order.to_string()).await?.json();
    let said = stage.get(&format!("{}?wait=10s", sent["href"].as_str().unwrap())).await?.json();
    assert_eq!((states(&said), &said["state"]), (vec!["failed", "failed"], &json!("completed")));
    assert_eq!(said["calls"][0]["result"]["error"]["code"], "trap", "{said}");
    Ok(())
}

#[tokio::test]
async fn the_same_key_is_the_same_fan_out() -> Result<()> {
    let stage = Stage::new().await?;
    let _host = stage.host(&["acme/a", "acme/b", "acme/c"]).await?;
    let key = [("idempotency-key", "order/7")];
    let first = stage.ask(Method::POST, "/v1/fanout", &key, ALL).await?.json();
    assert_eq!(first["href"], "/v1/fanout/acme/order%2F7");
    let done = stage.get("/v1/fanout/acme/order%2F7?wait=10s").await?.json();
    assert_eq!(done["state"], "completed");
    assert_eq!(stage.ask(Method::POST, "/v1/fanout", &key, ALL).await?.json(), first);
    assert_eq!(stage.get("/v1/fanout/acme/order%2F7").await?.json(), done, "nothing ran again");
    let other = r#"{"functions":["acme/a"],"payload":1}"#;
    stage.ask(Method::POST, "/v1/fanout", &key, other).await?.is_problem(409, "other-fanout");
    Ok(())
}

#[tokio::test]
async fn an_order_that_breaks_a_rule_is_refused_and_nothing_is_sent() -> Result<()> {
    let stage = Stage::new().await?;
    let _host = stage.host(&["acme/a", "other/b"]).await?;
    for (functions, status, code) in [
        (json!([]), 400, "bad-fanout"),
        (json!(["acme/a", "other/b"]), 400, "bad-fanout"),
        (json!(["acme/a", "acme/a"]), 400, "bad-fanout"),
        (json!(["Acme"]), 400, "bad-fanout"),
        (json!(["acme/a", "acme/nobody-has-it"]), 404, "unknown-function"),
        (json!(vec!["acme/a"; 101]), 400, "bad-fanout"),
    ] {
        let order = json!({ "functions": functions, "payload": 1 });
        stage.post("/v1/fanout", order.to_string()).await?.is_problem(status, code);
    }
    stage.post("/v1/fanout", r#"{"functions":["acme/a"]}"#).await?.is_problem(400, "bad-call");
    stage.get("/v1/fanout/acme/none").await?.is_problem(404, "unknown-fanout");
    assert_eq!(stage.commands().await?.get("xadd"), None, "nothing was sent");
    Ok(())
}
