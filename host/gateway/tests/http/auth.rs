//! Tokens: who is let in, and that nobody learns of what is another tenant's.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::Result;
use baton_gateway::Auth;
use baton_model::{Digest, Name, TenantPolicy, Tenants, Token};
use reqwest::Method;
use serde_json::{Value, json};

use crate::stage::{Answer, Stage};

fn token(text: &str) -> Token {
    Token { name: "test".to_owned(), sha256: Digest::of(text.as_bytes()), expires_ms: None }
}

/// Each of these tenants, with one token that is its name and `-token`.
fn tenants(names: &[&str]) -> Tenants {
    let policy = |name: &str| TenantPolicy { tokens: vec![token(&format!("{name}-token"))], ..TenantPolicy::default() };
    let said = names.iter().map(|name| (Name::parse(name).expect("a name"), Arc::new(policy(name))));
    Tenants::new(said.collect::<BTreeMap<_, _>>())
}

/// A gateway before `acme`, `other` and an operator, each with a token.
async fn stage() -> Result<Stage> {
    let stage = Stage::with(|config| config.operator_tokens = vec![token("operator-token")]).await?;
    stage.tenants.send_replace(tenants(&["acme", "other"]));
    Ok(stage)
}

async fn ask(stage: &Stage, who: &str, method: Method, path: &str, body: &str) -> Result<Answer> {
    stage.ask(method, path, &[("authorization", &format!("Bearer {who}-token"))], body.to_owned()).await
}

async fn get(stage: &Stage, who: &str, path: &str) -> Result<Answer> {
    ask(stage, who, Method::GET, path, "").await
}

async fn post(stage: &Stage, who: &str, path: &str, body: &str) -> Result<Answer> {
    ask(stage, who, Method::POST, path, body).await
}

const PATHS: [(&str, Method); 9] = [
    ("/v1/call/echo", Method::POST),
    ("/v1/call/acme/echo", Method::POST),
    ("/v1/call/Not-A-Name", Method::POST),
    ("/v1/send/acme/nobody", Method::POST),
    ("/v1/calls?state=running", Method::GET),
    ("/v1/calls/acme/echo/1-0", Method::GET),
    ("/v1/calls/acme/echo/1-0/result", Method::GET),
    ("/v1/functions", Method::GET),
    ("/v1/nothing", Method::GET),
];

#[tokio::test]
async fn without_any_token_everything_is_open_and_with_one_every_path_asks_for_it() -> Result<()> {
    let stage = Stage::new().await?;
    let _host = stage.host(&["default/echo", "acme/echo"]).await?;
    let operators = [("/v1/hosts", Method::GET), ("/metrics", Method::GET)];
    for (path, method) in PATHS.into_iter().chain(operators.clone()) {
        assert_ne!(stage.ask(method, path, &[], "").await?.status, 401, "{path}");
    }
    stage.tenants.send_replace(tenants(&["acme"]));
    for (path, method) in PATHS.into_iter().chain(operators) {
        for (header, challenge) in [
            (None, "Bearer realm=\"baton\""),
            (Some("Bearer other-token"), "Bearer realm=\"baton\", error=\"invalid_token\""),
            (Some("Basic YWNtZTphY21lLXRva2Vu"), "Bearer realm=\"baton\", error=\"invalid_token\""),
        ] {
            let headers: Vec<(&str, &str)> = header.map(|value| ("authorization", value)).into_iter().collect();
            let answer = stage.ask(method.clone(), path, &headers, "").await?;
            answer.is_problem(401, "unauthorized");
            assert_eq!(answer.header("www-authenticate"), challenge, "{path} {header:?}");
        }
    }
    for open in ["/livez", "/readyz", "/startupz", "/health", "/openapi.json"] {
        assert_eq!(stage.get(open).await?.status, 200, "{open}");
    }
    stage.tenants.send_replace(Tenants::default());
    stage.get("/v1/functions").await?.is_problem(401, "unauthorized");
    Ok(())
}

#[tokio::test]
async fn a_token_is_required_or_never_asked_for_if_the_setting_says_so() -> Result<()> {
    let always = Stage::with(|config| config.auth = Auth::Required).await?;
    always.get("/v1/functions").await?.is_problem(401, "unauthorized");
    let never = Stage::with(|config| config.auth = Auth::Off).await?;
    never.tenants.send_replace(tenants(&["acme"]));
    assert_eq!(never.get("/v1/hosts").await?.status, 200);
    Ok(())
}

#[tokio::test]
async fn a_tenant_calls_its_own_functions_and_sees_their_calls() -> Result<()> {
    let stage = stage().await?;
    let _host = stage.host(&["acme/echo", "default/echo"]).await?;
    for who in ["acme", "operator"] {
        assert_eq!(post(&stage, who, "/v1/call/acme/echo", "7").await?.body, "7");
        let sent = post(&stage, who, "/v1/send/acme/echo", "8").await?;
        assert_eq!(sent.status, 202, "{sent:?}");
        let place = sent.header("location").to_owned();
        assert_eq!(get(&stage, who, &format!("{place}?wait=10s")).await?.json()["state"], "completed");
        assert_eq!(get(&stage, who, &format!("{place}/result")).await?.body, "8");
    }
    assert_eq!(post(&stage, "operator", "/v1/call/echo", "9").await?.body, "9");
    Ok(())
}

/// Everything of an answer that a client sees and that is not of the moment.
fn shape(answer: &Answer) -> (u16, Vec<(String, String)>, Vec<u8>) {
    let headers = answer.headers.iter().filter(|(name, _)| *name != "date");
    let headers = headers.map(|(name, value)| (name.to_string(), format!("{value:?}"))).collect();
    (answer.status.as_u16(), headers, answer.body.to_vec())
}

#[tokio::test]
async fn what_is_another_tenants_is_answered_like_what_is_not_there_at_the_same_cost() -> Result<()> {
    let stage = stage().await?;
    let _host = stage.host(&["acme/echo"]).await?;
    let own = [("authorization", "Bearer acme-token"), ("idempotency-key", "order-1")];
    let sent = stage.ask(Method::POST, "/v1/send/acme/echo", &own, "secret").await?;
    assert_eq!(
        get(&stage, "acme", &format!("{}?wait=10s", sent.header("location"))).await?.json()["state"],
        "completed"
    );
    let begun = [("authorization", "Bearer acme-token"), ("idempotency-key", "order-2")];
    assert_eq!(stage.ask(Method::POST, "/v1/exec/acme/echo", &begun, "secret").await?.status, 202);
    // Scripts are loaded with their first use.
    get(&stage, "acme", "/v1/calls/acme/ecco/order-1").await?.is_problem(404, "unknown-call");
    for (path, method) in [("/move", Method::POST), ("", Method::DELETE)] {
        let path = format!("/v1/exec/acme/ecco/order-2{path}");
        ask(&stage, "acme", method, &path, "").await?.is_problem(404, "unknown-execution");
    }
    assert_eq!(get(&stage, "acme", "/v1/calls?state=running").await?.status, 200);
    let cost = async |path: &str, method: Method| {
        let before = stage.commands().await?;
        let answer = ask(&stage, "other", method, path, "secret").await?;
        let after = stage.commands().await?;
        let spent = |name: &str| after.get(name).unwrap_or(&0) - before.get(name).unwrap_or(&0);
        // A look at the hosts, which is made now and then whatever is asked, costs one each of these two.
        let gets = spent("get") - spent("smembers");
        anyhow::Ok((answer, [spent("exists"), spent("evalsha"), gets, spent("xadd")]))
    };
    for (path, method) in [
        ("/v1/call/acme/echo", Method::POST),
        ("/v1/send/acme/echo", Method::POST),
        ("/v1/calls/acme/echo/order-1", Method::GET),
        ("/v1/calls/acme/echo/order-1?wait=10s", Method::GET),
        ("/v1/calls/acme/echo/order-1/result", Method::GET),
        ("/v1/calls?state=running&function=acme/echo", Method::GET),
        ("/v1/exec/acme/echo", Method::POST),
        ("/v1/exec/acme/echo/order-2", Method::GET),
        ("/v1/exec/acme/echo/order-2/history", Method::GET),
        ("/v1/exec/acme/echo/order-2/result", Method::GET),
        ("/v1/exec/acme/echo/order-2/move", Method::POST),
        ("/v1/exec/acme/echo/order-2", Method::DELETE),
        ("/v1/exec/acme/echo/order-2/events/paid", Method::POST),
    ] {
        // `ecco` is as long as `echo`, and nobody has it.
        let (there, cost_there) = cost(path, method.clone()).await?;
        let (not_there, cost_not_there) = cost(&path.replace("acme/echo", "acme/ecco"), method.clone()).await?;
        let (status, headers, body) = shape(&not_there);
        let body = String::from_utf8(body)?.replace("ecco", "echo").into_bytes();
        assert_eq!(shape(&there), (status, headers, body), "{path}");
        assert_eq!(cost_there, cost_not_there, "{path}");
        assert_eq!(cost_there[3], 0, "{path}: nothing is added");
    }
    post(&stage, "other", "/v1/call/acme/echo", "").await?.is_problem(404, "unknown-function");
    get(&stage, "other", "/v1/calls/acme/echo/order-1").await?.is_problem(404, "unknown-call");
    get(&stage, "other", "/v1/exec/acme/echo/order-2").await?.is_problem(404, "unknown-execution");
    Ok(())
}

#[tokio::test]
async fn lists_have_what_is_the_askers_and_hosts_are_for_operators() -> Result<()> {
    let stage = stage().await?;
    let host = stage.host(&["acme/echo", "other/echo"]).await?;
    for path in ["/v1/send/acme/echo", "/v1/send/other/echo"] {
        assert_eq!(post(&stage, "operator", path, "hold").await?.status, 202);
    }
    host.has_read(2).await;
    let named = |list: &Value, what: &str| -> Vec<String> {
        let rows = list[what].as_array().cloned().unwrap_or_default();
        let mut names: Vec<String> = rows.iter().filter_map(|row| Some(row["function"].as_str()?.to_owned())).collect();
        names.sort();
        names
    };
    for (who, seen) in [
        ("acme", json!(["acme/echo"])),
        ("other", json!(["other/echo"])),
        ("operator", json!(["acme/echo", "other/echo"])),
    ] {
        let functions = get(&stage, who, "/v1/functions").await?.json();
        assert_eq!(json!(named(&functions, "functions")), seen, "{functions}");
        let calls = get(&stage, who, "/v1/calls?state=running").await?.json();
        assert_eq!(json!(named(&calls, "calls")), seen, "{calls}");
    }
    for path in ["/v1/hosts", "/metrics"] {
        get(&stage, "acme", path).await?.is_problem(403, "operators-only");
        assert_eq!(get(&stage, "operator", path).await?.status, 200, "{path}");
    }
    Ok(())
}

#[tokio::test]
async fn a_name_that_is_percent_encoded_is_refused_though_it_would_be_one() -> Result<()> {
    let stage = Stage::new().await?;
    let _host = stage.host(&["acme/echo"]).await?;
    for path in ["/v1/call/acme/%65cho", "/v1/call/%61cme/echo", "/v1/send/%61cme/echo"] {
        stage.post(path, "{}").await?.is_problem(400, "bad-name");
    }
    stage.get("/v1/calls/%61cme/echo/1-0").await?.is_problem(400, "bad-name");
    stage.get("/v1/calls/acme/echo/1%2D0").await?.is_problem(404, "unknown-call");
    Ok(())
}
