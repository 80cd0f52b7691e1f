//! Which path leads where, and what every answer has in common.

use std::sync::Arc;
use std::time::Instant;

use axum::Router;
use axum::extract::{MatchedPath, Request, State};
use axum::http::header::{CACHE_CONTROL, CONNECTION};
use axum::http::{HeaderValue, Method, Uri};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{MethodRouter, get, post};

use crate::gate::Gate;
use crate::problem::Problem;
use crate::{calls, exec, listings, probes};

/// What requests count under that lead nowhere.
const NO_ROUTE: &str = "_OTHER";

/// Every path, as `openapi.json` lists it. `GET` answers `HEAD` too.
fn routes() -> Vec<(&'static str, MethodRouter<Arc<Gate>>)> {
    vec![
        ("/v1/call/{function}", post(exec::call)),
        ("/v1/call/{tenant}/{function}", post(exec::call)),
        ("/v1/send/{function}", post(exec::send)),
        ("/v1/send/{tenant}/{function}", post(exec::send)),
        ("/v1/calls", get(calls::list)),
        ("/v1/calls/{tenant}/{function}/{id}", get(calls::state)),
        ("/v1/calls/{tenant}/{function}/{id}/result", get(calls::result)),
        ("/v1/functions", get(listings::functions)),
        ("/v1/hosts", get(listings::hosts)),
        ("/livez", get(probes::livez)),
        ("/readyz", get(probes::readyz)),
        ("/startupz", get(probes::startupz)),
        ("/health", get(probes::health)),
        ("/metrics", get(probes::metrics)),
        ("/openapi.json", get(probes::openapi)),
    ]
}

pub(crate) fn router(gate: Arc<Gate>) -> Router {
    let start = Router::new();
    routes()
        .into_iter()
        .fold(start, |router, (path, methods)| router.route(path, methods))
        .fallback(no_such_path)
        .method_not_allowed_fallback(wrong_method)
        .layer(from_fn_with_state(gate.clone(), in_common))
        .with_state(gate)
}

async fn no_such_path(uri: Uri) -> Problem {
    let path: String = uri.path().chars().take(80).collect();
    Problem::new(404, "no-such-path").detail(format!("there is nothing at {path}; /openapi.json lists every path"))
}

async fn wrong_method(method: Method) -> Problem {
    let method: String = method.as_str().chars().take(20).collect();
    Problem::new(405, "wrong-method").detail(format!("{method} is not possible here; the header Allow says what is"))
}

/// Answers are of the moment. While the host drains, clients are sent to look for another one. Each is counted.
async fn in_common(
    State(gate): State<Arc<Gate>>,
    route: Option<MatchedPath>,
    request: Request,
    next: Next,
) -> Response {
    let began = Instant::now();
    let method = request.method().clone();
    let mut response = match is_from_elsewhere(&request) {
        false => next.run(request).await,
        true => cross_site().into_response(),
    };
    // What stands in a path is a caller's choice, and no label.
    let route = route.as_ref().map_or(NO_ROUTE, MatchedPath::as_str);
    (gate.parts.http_meter)(route, method.as_str(), response.status().as_u16(), began.elapsed());
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if gate.status().draining {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

/// Whether a page of another site has a browser send this. Such a page may not read an answer, but a call would be done.
fn is_from_elsewhere(request: &Request) -> bool {
    let site = request.headers().get("sec-fetch-site").map(HeaderValue::as_bytes);
    !request.method().is_safe() && matches!(site, Some(b"cross-site" | b"same-site"))
}

fn cross_site() -> Problem {
    let detail = "a page of another site made the browser send this; calls are taken from this site and from programs";
    Problem::new(403, "cross-site").detail(detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_openapi_document_has_every_path_and_no_other() {
        let document: serde_json::Value = serde_json::from_str(probes::OPENAPI).unwrap();
        let described: Vec<&String> = document["paths"].as_object().unwrap().keys().collect();
        let mut routed: Vec<&str> = routes().into_iter().map(|(path, _)| path).collect();
        routed.sort_unstable();
        assert_eq!(described, routed);
    }
}
