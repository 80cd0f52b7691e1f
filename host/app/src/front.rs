//! The front: what the gateway is told of the host in whose process it stands, and its own way to Redis.

use std::sync::Arc;
use std::time::Duration;

use baton_broker::{Admin, BrokerConfig, Caller, Cancel, DeadLetters, Inspect, Presence, Queue};
use baton_gateway::{
    Allowance, Allowances, Ask, Bound, Executions, Gateway, GatewayConfig, HostStatus, Parts, PayloadLimit,
};
use baton_model::{HostState, Over, ReplyTo, Tenants};
use tokio::sync::{Mutex, watch};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::backoff::Trouble;
use crate::catalog::Published;
use crate::flights::Flights;
use crate::ledger::Ledger;
use crate::metrics::Metrics;

/// How long Redis may take to answer before it is held for unreachable.
const ANSWER_MAX: Duration = Duration::from_secs(1);
/// How old such an answer may be, so that probes are no load.
const FRESH: Duration = Duration::from_millis(500);

/// What the gateway's view of the host is made from.
pub(crate) struct Front {
    pub(crate) queue: Arc<Queue>,
    pub(crate) presence: Arc<Presence>,
    pub(crate) catalog: Arc<Published>,
    pub(crate) ledger: Arc<Ledger>,
    pub(crate) flights: Arc<Flights>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) trouble: Arc<Trouble>,
    pub(crate) tenants: watch::Receiver<Tenants>,
    pub(crate) state: watch::Receiver<HostState>,
    pub(crate) first_pass: watch::Receiver<bool>,
    pub(crate) fault: CancellationToken,
    pub(crate) entrants: TaskTracker,
}

impl Front {
    /// Takes the address. Nobody is served before the gateway runs.
    ///
    /// # Errors
    /// If the address cannot be had; the message names it and the mend.
    pub(crate) async fn bind(self, config: GatewayConfig, broker: &BrokerConfig) -> anyhow::Result<Bound> {
        let config = GatewayConfig { body_bytes_max: broker.payload_bytes_max, ..config };
        let reply = format!("http-{:016x}", rand::random::<u64>());
        let reply = ReplyTo::parse(&reply).expect("it is short and printable");
        let parts = Parts {
            caller: Arc::new(Caller::new(broker, reply)?),
            presence: self.presence.clone(),
            admin: Arc::new(Admin::new(broker)?),
            inspect: Arc::new(Inspect::new(broker)?),
            dead: Arc::new(DeadLetters::new(broker)?),
            cancel: Arc::new(Cancel::new(broker)?),
            durable: Arc::new(baton_broker::Executions::new(broker)?),
            tenants: self.tenants.clone(),
            allowance: allowances(self.tenants.clone(), self.catalog.clone(), self.ledger.clone()),
            payload_bytes_max: payload_bytes_max(self.catalog.clone()),
            redis_reachable: reachable(self.queue.clone(), self.trouble.clone()),
            metrics: metrics(self.metrics.clone()),
            http_meter: self.metrics.http_meter(),
            fault: self.fault.clone(),
            entrants: self.entrants.clone(),
            executions: executions(self.flights.clone(), self.metrics.clone()),
            status: Arc::new(move || self.status()),
        };
        Ok(Gateway::bind(config, parts).await?)
    }

    fn status(&self) -> HostStatus {
        HostStatus { draining: *self.state.borrow() == HostState::Draining, started: *self.first_pass.borrow() }
    }
}

/// What quotas leave a function: what is said of its tenant, and of itself if this host has it.
fn allowances(tenants: watch::Receiver<Tenants>, catalog: Arc<Published>, ledger: Arc<Ledger>) -> Allowances {
    Arc::new(move |function| {
        let policy = tenants.borrow().of(function.tenant()).clone();
        let held = match policy.over {
            Over::Wait => None,
            Over::Refuse => ledger.held(function, std::time::Instant::now()),
        };
        Allowance {
            function: catalog.snapshot().get(function).map(|revision| revision.quotas).unwrap_or_default(),
            tenant: policy.quotas,
            over: policy.over,
            held: held.and_then(|(held, wait)| Some((held.quota()?, wait))),
        }
    })
}

fn payload_bytes_max(catalog: Arc<Published>) -> PayloadLimit {
    Arc::new(move |function| Some(catalog.snapshot().get(function)?.limits.payload_bytes_max))
}

fn executions(flights: Arc<Flights>, metrics: Arc<Metrics>) -> Arc<dyn Fn() -> Executions + Send + Sync> {
    Arc::new(move || Executions { active: flights.load().0 as u64, total: metrics.total() })
}

/// Whether Redis does what this host needs: no task of the host has trouble with it, and it answers. It is asked at
/// most twice a second.
fn reachable(queue: Arc<Queue>, trouble: Arc<Trouble>) -> Ask<bool> {
    // A lock and no message: it is held while one task asks for all.
    let last: Arc<Mutex<Option<(Instant, bool)>>> = Arc::default();
    Arc::new(move || {
        let (queue, last, trouble) = (queue.clone(), last.clone(), trouble.clone());
        Box::pin(async move {
            if trouble.is_there() {
                return false;
            }
            let mut last = last.lock().await;
            match *last {
                Some((at, answered)) if at.elapsed() < FRESH => answered,
                _ => {
                    let answered = timeout(ANSWER_MAX, queue.probe()).await.is_ok_and(|answer| answer.is_ok());
                    *last = Some((Instant::now(), answered));
                    answered
                }
            }
        })
    })
}

/// The metrics as OpenMetrics text.
fn metrics(metrics: Arc<Metrics>) -> Ask<String> {
    Arc::new(move || {
        let metrics = metrics.clone();
        Box::pin(async move { metrics.render().await })
    })
}
