//! Requests to the gateway, by route, method and status. Whatever is handed in, the number of series is bounded.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use prometheus_client::metrics::histogram::Histogram;

use super::function::fine;

/// The most routes that are told apart. The gateway has far fewer.
const ROUTES_MAX: usize = 64;

/// What stands for a route or a method that is none of those that are known; OpenTelemetry's word.
const OTHER: &str = "_OTHER";

/// Route, method, status.
pub(super) type Request = (String, &'static str, u16);

/// Counts requests. A lock and no message: it is held for one look into a small map.
#[derive(Debug, Default)]
pub(super) struct Requests(Mutex<Table>);

#[derive(Debug, Default)]
struct Table {
    routes: BTreeSet<String>,
    durations: BTreeMap<Request, Histogram>,
}

impl Requests {
    pub(super) fn count(&self, route: &str, method: &str, status: u16, duration: Duration) {
        let mut table = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let route = if table.routes.contains(route) {
            route
        } else if table.routes.len() < ROUTES_MAX {
            table.routes.insert(route.to_owned());
            route
        } else {
            OTHER
        };
        // A status beyond what HTTP has is nobody's; 0 says so.
        let status = if (100..600).contains(&status) { status } else { 0 };
        let key = (route.to_owned(), known_method(method), status);
        table.durations.entry(key).or_insert_with(fine).observe(duration.as_secs_f64());
    }

    pub(super) fn all(&self) -> BTreeMap<Request, Histogram> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).durations.clone()
    }
}

/// The methods of RFC 9110 and PATCH; a caller may choose any other word.
fn known_method(method: &str) -> &'static str {
    const KNOWN: [&str; 9] = ["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"];
    KNOWN.into_iter().find(|known| *known == method).unwrap_or(OTHER)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_is_asked_for_the_series_are_bounded() {
        let requests = Requests::default();
        for i in 0..1_000_u16 {
            requests.count(&format!("/{i}"), &format!("M{i}"), 0, Duration::ZERO);
        }
        let all = requests.all();
        assert_eq!(all.len(), ROUTES_MAX + 1);
        assert!(all.keys().all(|(_, method, status)| *method == OTHER && *status == 0));
        requests.count("/0", "GET", 200, Duration::from_millis(1));
        assert!(requests.all().contains_key(&("/0".to_owned(), "GET", 200)));
    }
}
