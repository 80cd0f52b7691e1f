//! What is loaded where, and which hosts there are.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::http::HeaderValue;
use axum::http::header::CONTENT_TYPE;
use axum::response::Response;
use baton_broker::{BrokerError, QueueDepth};
use baton_model::{AboutSchedule, Digest, FunctionId, HostId, HostState, ScheduleView, machines, schedule_views};
use serde::Serialize;
use serde_json::json;

use crate::auth::Asker;
use crate::gate::{Gate, now_ms};
use crate::problem::Problem;

/// An answer of JSON.
pub(crate) fn json_response(value: &impl Serialize) -> Response {
    let body = serde_json::to_vec(value).expect("what is listed has only fields that JSON can hold");
    let mut response = Response::new(Body::from(body));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

#[derive(Serialize)]
struct Loaded {
    host: HostId,
    digest: Digest,
    state: HostState,
}

#[derive(Serialize)]
struct FunctionView {
    function: FunctionId,
    /// Whether a host takes calls for it now.
    available: bool,
    healthy_hosts: usize,
    hosts: Vec<Loaded>,
    /// Whether calls wait for a host to come.
    callers_waiting: bool,
    #[serde(flatten)]
    depth: QueueDepth,
    /// When it is called by itself.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    schedules: Vec<ScheduleView>,
}

/// `GET /v1/functions`
pub(crate) async fn functions(State(gate): State<Arc<Gate>>, asker: Asker) -> Result<Response, Problem> {
    let _seat = gate.seat()?;
    let trouble = |error: BrokerError| gate.broker_problem(&error);
    let snapshot = gate.directory.hosts().await.map_err(trouble)?;
    let mut rows: BTreeMap<FunctionId, (Vec<Loaded>, Vec<AboutSchedule>)> = BTreeMap::new();
    for function in gate.parts.admin.functions().await.map_err(trouble)? {
        rows.entry(function).or_default();
    }
    for record in &snapshot.hosts {
        for loaded in &record.functions {
            let (hosts, schedules) = rows.entry(loaded.function.clone()).or_default();
            hosts.push(Loaded { host: record.id.clone(), digest: loaded.digest, state: record.state });
            schedules.extend_from_slice(&loaded.schedules);
        }
    }
    // What is not the asker's is not even counted.
    rows.retain(|function, _| asker.may_see(function));
    let mut views = Vec::with_capacity(rows.len());
    for (function, (hosts, schedules)) in rows {
        let depth = gate.parts.admin.depth(&function).await.map_err(trouble)?;
        let healthy_hosts = hosts.iter().filter(|loaded| loaded.state == HostState::Online).count();
        let available = healthy_hosts > 0;
        let callers_waiting = !available && depth.queued > 0;
        let schedules = schedule_views(schedules, now_ms());
        views.push(FunctionView { function, available, healthy_hosts, hosts, callers_waiting, depth, schedules });
    }
    Ok(json_response(&json!({ "functions": views })))
}

/// `GET /v1/hosts`
pub(crate) async fn hosts(State(gate): State<Arc<Gate>>) -> Result<Response, Problem> {
    let _seat = gate.seat()?;
    let trouble = |error: BrokerError| gate.broker_problem(&error);
    let mut hosts = gate.parts.presence.survey().await.map_err(trouble)?;
    let functions: BTreeSet<&FunctionId> =
        hosts.iter().flat_map(|host| &host.functions).map(|loaded| &loaded.function).collect();
    let functions: Vec<FunctionId> = functions.into_iter().cloned().collect();
    let in_flight = gate.parts.inspect.in_flight(&functions).await.map_err(trouble)?;
    for host in &mut hosts {
        // What a gone host has left is nobody's yet; it is still counted as what that host had.
        host.in_flight = in_flight.get(&host.id).copied().unwrap_or(0);
    }
    Ok(json_response(&json!({ "machines": machines(&hosts), "hosts": hosts })))
}
