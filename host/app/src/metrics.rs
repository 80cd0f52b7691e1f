//! What a host counts, and how it is told: OpenMetrics text. docs/metrics.md names every metric.
//!
//! A call counts through the [`FunctionMetrics`] of its revision; everything else is rare and counts here. Labels come
//! from closed sets and from the names of functions that were loaded, never from what a caller chooses.

mod exposition;
mod families;
mod function;
mod http;
mod scrape;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use baton_broker::{BrokerConfig, BrokerError, Meter};
use baton_gateway::HttpMeter;
use baton_model::FunctionId;
use prometheus_client::metrics::histogram::Histogram;

use crate::catalog::Published;
use crate::flights::Flights;
use crate::ledger::Ledger;
use exposition::Exposition;
pub(crate) use function::{Ended, Fate, FunctionMetrics, LeaseLoss};
use http::Requests;
use scrape::{FUNCTIONS_MAX, Inquiry, Process};

/// How a file of a function was dealt with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reload {
    /// It serves.
    Loaded,
    /// It is no function that this host runs.
    Refused,
    /// It is gone, and its function with it.
    Removed,
}

impl Reload {
    const ALL: [Self; 3] = [Self::Loaded, Self::Refused, Self::Removed];

    fn as_str(self) -> &'static str {
        match self {
            Self::Loaded => "loaded",
            Self::Refused => "refused",
            Self::Removed => "removed",
        }
    }
}

/// The metrics of one process.
pub struct Metrics {
    /// Every function that was loaded since the start. A lock and no message: it is written when a function is loaded
    /// for the first time, and read by what is rare.
    functions: RwLock<BTreeMap<FunctionId, Arc<FunctionMetrics>>>,
    reloads: [AtomicU64; Reload::ALL.len()],
    loading: Histogram,
    refusing: Histogram,
    drains: AtomicU64,
    offline: function::Words,
    http: Requests,
    meter: Arc<Meter>,
    catalog: Arc<Published>,
    flights: Arc<Flights>,
    ledger: Arc<Ledger>,
    inquiry: Inquiry,
    started_s: f64,
}

impl Metrics {
    /// The metrics of a host with these parts.
    ///
    /// # Errors
    /// [`BrokerError::BadUrl`].
    pub(crate) fn of_host(
        broker: &BrokerConfig,
        catalog: Arc<Published>,
        flights: Arc<Flights>,
        ledger: Arc<Ledger>,
    ) -> Result<Arc<Self>, BrokerError> {
        let started = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Ok(Arc::new(Self {
            functions: RwLock::default(),
            reloads: Default::default(),
            loading: function::coarse(),
            refusing: function::coarse(),
            drains: AtomicU64::new(0),
            offline: function::Words::known(&["shutdown", "crashed", "silent"]),
            http: Requests::default(),
            meter: broker.meter.clone(),
            catalog,
            flights,
            ledger,
            inquiry: Inquiry::new(broker)?,
            started_s: started.as_secs_f64(),
        }))
    }

    /// The metrics of a process that runs no functions, such as a gateway that is a front for others' hosts.
    ///
    /// # Errors
    /// [`BrokerError::BadUrl`].
    pub fn alone(broker: &BrokerConfig) -> Result<Arc<Self>, BrokerError> {
        Self::of_host(broker, Arc::new(Published::new()), Arc::default(), Arc::new(Ledger::new(0)))
    }

    /// Everything as OpenMetrics text, to its `# EOF`. It answers within little more than two seconds: what Redis does
    /// not tell by then is left out, and `baton_redis_up` is 0.
    pub async fn render(self: &Arc<Self>) -> String {
        let loaded: Vec<FunctionId> = self.catalog.snapshot().functions().cloned().collect();
        let answers = self.inquiry.ask(loaded.iter().take(FUNCTIONS_MAX).cloned().collect()).await;
        let exposition = Exposition {
            metrics: self.clone(),
            loaded,
            in_flight: self.flights.load().0,
            answers,
            process: Process::default(),
        };
        // Many functions are a long text, and nobody's calls are to wait for it.
        let text = tokio::task::spawn_blocking(move || Exposition { process: Process::now(), ..exposition }.text());
        text.await.unwrap_or_default()
    }

    /// Counts a request to the gateway. A route that is none of the first 64, and an unknown method, count as `_OTHER`.
    pub fn http_request(&self, route: &str, method: &str, status: u16, duration: Duration) {
        self.http.count(route, method, status, duration);
    }

    /// [`Metrics::http_request`] for whoever does not know this crate.
    #[must_use]
    pub fn http_meter(self: &Arc<Self>) -> HttpMeter {
        let this = self.clone();
        Arc::new(move |route, method, status, duration| this.http_request(route, method, status, duration))
    }

    /// This host found another to be gone, for this reason: one of a closed set.
    pub fn host_offline(&self, reason: &'static str) {
        self.offline.count(reason);
    }

    /// What is counted of `function`, which this host has loaded or had.
    pub(crate) fn function(&self, function: &FunctionId) -> Arc<FunctionMetrics> {
        let known = self.functions.read().unwrap_or_else(PoisonError::into_inner).get(function).cloned();
        known.unwrap_or_else(|| {
            let mut functions = self.functions.write().unwrap_or_else(PoisonError::into_inner);
            functions.entry(function.clone()).or_default().clone()
        })
    }

    /// A file was dealt with; `took` is how long, where that means anything.
    pub(crate) fn reloaded(&self, reload: Reload, took: Option<Duration>) {
        self.reloads[reload as usize].fetch_add(1, Relaxed);
        let histogram = match reload {
            Reload::Loaded => &self.loading,
            Reload::Refused => &self.refusing,
            Reload::Removed => return,
        };
        took.iter().for_each(|took| histogram.observe(took.as_secs_f64()));
    }

    /// How many calls have ended here, however they did.
    pub(crate) fn total(&self) -> u64 {
        let functions = self.functions.read().unwrap_or_else(PoisonError::into_inner);
        let ended =
            |metrics: &Arc<FunctionMetrics>| Ended::ALL.into_iter().map(|ended| metrics.ended(ended)).sum::<u64>();
        functions.values().map(ended).sum()
    }

    /// This host begins to drain.
    pub(crate) fn drain_began(&self) {
        self.drains.fetch_add(1, Relaxed);
    }

    /// How many calls ended how since the start, in one line for the log.
    pub(crate) fn summary(&self) -> String {
        let functions = self.functions.read().unwrap_or_else(PoisonError::into_inner);
        let (mut ok, mut fenced) = (0, 0);
        let mut others: BTreeMap<&str, u64> = BTreeMap::new();
        for metrics in functions.values() {
            fenced += metrics.fenced.load(Relaxed);
            ok += metrics.ended(Ended::Ok);
            let lost = metrics.leases_taken.load(Relaxed) + metrics.leases_lapsed.load(Relaxed);
            if lost > 0 {
                *others.entry("lost leases").or_default() += lost;
            }
            let refused = metrics.refused.load(Relaxed);
            if refused > 0 {
                *others.entry("refused").or_default() += refused;
            }
            for ended in Ended::ALL.into_iter().filter(|ended| *ended != Ended::Ok && metrics.ended(*ended) > 0) {
                *others.entry(ended.word()).or_default() += metrics.ended(ended);
            }
        }
        let mut parts = vec![format!("ok {ok}")];
        if fenced > 0 {
            parts.push(format!("fenced {fenced}"));
        }
        parts.extend(others.iter().map(|(word, count)| format!("{word} {count}")));
        parts.join(", ")
    }
}
