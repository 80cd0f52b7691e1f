//! Which path leads where, and what every answer has in common.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use axum::Router;
use axum::extract::{MatchedPath, Request, State};
use axum::http::header::{CACHE_CONTROL, CONNECTION};
use axum::http::{HeaderValue, Method, Uri};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{MethodRouter, get, post};

use crate::auth::{Access, Asker};
use crate::gate::Gate;
use crate::problem::Problem;
use crate::{batch, calls, dead, durable, exec, fanout, host, listings, probes};

/// What requests count under that lead nowhere.
const NO_ROUTE: &str = "_OTHER";

/// Every path, as `openapi.json` lists it, and who may ask for it. `GET` answers `HEAD` too.
fn routes() -> Vec<(&'static str, Access, MethodRouter<Arc<Gate>>)> {
    use Access::{Everybody, Operators, Tenants};
    vec![
        ("/v1/call/{function}", Tenants, post(exec::call)),
        ("/v1/call/{tenant}/{function}", Tenants, post(exec::call)),
        ("/v1/send/{function}", Tenants, post(exec::send)),
        ("/v1/send/{tenant}/{function}", Tenants, post(exec::send)),
        ("/v1/batch/{function}", Tenants, post(batch::send)),
        ("/v1/batch/{tenant}/{function}", Tenants, post(batch::send)),
        ("/v1/calls", Tenants, get(calls::list)),
        ("/v1/calls/{tenant}/{function}/{id}", Tenants, get(calls::state).delete(calls::cancel)),
        ("/v1/calls/{tenant}/{function}/{id}/result", Tenants, get(calls::result)),
        ("/v1/dead/{tenant}/{function}", Tenants, get(dead::list).delete(dead::drop_meant)),
        (
            "/v1/dead/{tenant}/{function}/redrive",
            Tenants,
            post(dead::redrive_meant).get(dead::show).delete(dead::drop_one),
        ),
        ("/v1/dead/{tenant}/{function}/{id}", Tenants, get(dead::show).delete(dead::drop_one)),
        ("/v1/dead/{tenant}/{function}/{id}/redrive", Tenants, post(dead::redrive_one)),
        ("/v1/calls/{tenant}/{function}/{id}/why", Tenants, get(calls::why)),
        ("/v1/exec/{function}", Tenants, post(durable::start)),
        ("/v1/exec/{tenant}/{function}", Tenants, get(durable::list).post(durable::start)),
        ("/v1/exec/{tenant}/{function}/{id}", Tenants, get(durable::show).delete(durable::cancel)),
        ("/v1/exec/{tenant}/{function}/{id}/history", Tenants, get(durable::history)),
        ("/v1/exec/{tenant}/{function}/{id}/move", Tenants, post(durable::move_to)),
        ("/v1/exec/{tenant}/{function}/{id}/result", Tenants, get(durable::result)),
        ("/v1/exec/{tenant}/{function}/{id}/events/{event}", Tenants, post(durable::event)),
        ("/v1/fanout", Tenants, post(fanout::send)),
        ("/v1/fanout/{tenant}/{id}", Tenants, get(fanout::gather)),
        ("/v1/functions", Tenants, get(listings::functions)),
        ("/v1/hosts", Operators, get(listings::hosts)),
        ("/livez", Everybody, get(probes::livez)),
        ("/readyz", Everybody, get(probes::readyz)),
        ("/startupz", Everybody, get(probes::startupz)),
        ("/health", Everybody, get(probes::health)),
        ("/metrics", Operators, get(probes::metrics)),
        ("/openapi.json", Everybody, get(probes::openapi)),
    ]
}

pub(crate) fn router(gate: Arc<Gate>) -> Router {
    let start = Router::new();
    let access = routes().iter().map(|(path, access, _)| (*path, *access)).collect();
    let common = Arc::new(Common { gate: gate.clone(), access });
    routes()
        .into_iter()
        .fold(start, |router, (path, _, methods)| router.route(path, methods))
        .fallback(no_such_path)
        .method_not_allowed_fallback(wrong_method)
        .layer(from_fn_with_state(common, in_common))
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

/// What is done with every request.
struct Common {
    gate: Arc<Gate>,
    access: HashMap<&'static str, Access>,
}

/// Who asks is found out before anything else is. Answers are of the moment. While the host drains, clients are sent to
/// look for another one. Each is counted.
async fn in_common(
    State(common): State<Arc<Common>>,
    route: Option<MatchedPath>,
    mut request: Request,
    next: Next,
) -> Response {
    let Common { gate, access } = &*common;
    let began = Instant::now();
    let method = request.method().clone();
    // What stands in a path is a caller's choice, and no label.
    let route = route.as_ref().map_or(NO_ROUTE, MatchedPath::as_str);
    // What is nothing today may be a path tomorrow.
    let access = access.get(route).copied().unwrap_or(Access::Tenants);
    let admitted = match is_from_elsewhere(&request) {
        false => gate.guard.admit(request.headers(), access),
        true => Err(cross_site()),
    };
    let admitted = admitted.and_then(|asker| match (&asker, access) {
        (Asker::Anybody, Access::Tenants | Access::Operators) if gate.is_local => {
            host::known(&request, &gate.config.hosts).map(|()| asker)
        }
        (Asker::Anybody | Asker::Operator | Asker::Tenant(_), _) => Ok(asker),
    });
    let mut response = match admitted {
        Ok(asker) => {
            request.extensions_mut().insert(asker);
            next.run(request).await
        }
        Err(problem) => problem.into_response(),
    };
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
        let mut routed: Vec<&str> = routes().into_iter().map(|(path, ..)| path).collect();
        routed.sort_unstable();
        assert_eq!(described, routed);
    }

    #[test]
    fn the_openapi_document_says_which_paths_ask_for_a_token() {
        let document: serde_json::Value = serde_json::from_str(probes::OPENAPI).unwrap();
        for (path, access, _) in routes() {
            let methods = document["paths"][path].as_object().unwrap();
            let asks =
                methods.values().all(|about| about["security"].is_array() && !about["responses"]["401"].is_null());
            assert_eq!(asks, access != Access::Everybody, "{path}");
        }
    }
}
