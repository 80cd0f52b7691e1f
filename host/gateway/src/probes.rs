//! What orchestrators and monitors ask: probes, health, metrics, and the description of this interface.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderValue, StatusCode};
use axum::response::Response;
use serde::Serialize;
use serde_json::json;

use crate::gate::{Executions, Gate};
use crate::listings::json_response;
use crate::problem::Problem;

/// The interface, as it is served.
pub(crate) const OPENAPI: &str = include_str!("openapi.json");

/// `GET /livez`: the process answers. Whether Redis does is no reason to restart it.
pub(crate) async fn livez() -> Response {
    json_response(&json!({ "status": "live" }))
}

/// `GET /readyz`: calls may be sent here.
pub(crate) async fn readyz(State(gate): State<Arc<Gate>>) -> Result<Response, Problem> {
    let status = gate.status();
    let why = if status.draining {
        "this host is ending and takes no new calls"
    } else if !status.started {
        "this host has not loaded its functions yet"
    } else if !(gate.parts.redis_reachable)().await {
        "Redis cannot be reached, or takes no writes; the host goes on trying, `baton doctor` looks for the reason"
    } else {
        return Ok(json_response(&json!({ "status": "ready" })));
    };
    Err(Problem::new(503, "not-ready").detail(why).retry_after(gate.config.retry_after))
}

/// `GET /startupz`: the first look at the folder is over.
pub(crate) async fn startupz(State(gate): State<Arc<Gate>>) -> Result<Response, Problem> {
    if gate.status().started {
        return Ok(json_response(&json!({ "status": "started" })));
    }
    let detail = "this host has not loaded its functions yet; ask again";
    Err(Problem::new(503, "not-started").detail(detail).retry_after(gate.config.retry_after))
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Health {
    status: &'static str,
    active_executions: u64,
    total_executions: u64,
    ready_for_termination: bool,
}

/// `GET /health`
pub(crate) async fn health(State(gate): State<Arc<Gate>>) -> Response {
    let status = gate.status();
    let Executions { active, total } = (gate.parts.executions)();
    let mut response = json_response(&Health {
        status: if status.draining { "draining" } else { "healthy" },
        active_executions: active,
        total_executions: total,
        // Before it drains a new call may come at any time.
        ready_for_termination: status.draining && active == 0,
    });
    if status.draining {
        *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    }
    response
}

/// `GET /metrics`
pub(crate) async fn metrics(State(gate): State<Arc<Gate>>) -> Response {
    let mut response = Response::new(Body::from((gate.parts.metrics)().await));
    let media_type = HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, media_type);
    response
}

/// `GET /openapi.json`
pub(crate) async fn openapi() -> Response {
    let mut response = Response::new(Body::from(OPENAPI));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}
