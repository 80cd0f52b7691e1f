//! The door to the queue for calls that functions make: what HTTP holds a call against, these are held against too. A
//! function may not be called that nobody has had, and a queue takes no more than it may hold.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use baton_broker::{Admin, BrokerConfig, BrokerError, Inspect, Presence, QueueSize};
use baton_engine::CallsError;
use baton_gateway::{Directory, Standing};
use baton_model::{FunctionId, Name, Quota, Tenants};
use tokio::sync::watch;
use tokio::time::Instant;

use super::{TENANTS_MAX, unavailable};
use crate::catalog::Published;

/// The most bytes that a tenant's queues may have when one of its functions adds to them, unless the operator has said
/// how many: functions are not trusted as those are who call them.
const QUEUE_BYTES_MAX: u64 = 256 << 20;
/// What a call takes in a queue beside its payload, about.
const CALL_BYTES: u64 = 256;
/// How old a look at a tenant's queues may be. What this host has added since is counted.
const FRESH: Duration = Duration::from_millis(100);
/// How long a function is waited for that nobody has had, while a host is loading its functions, and how often it is
/// looked for.
const START_MAX: Duration = Duration::from_secs(10);
const START_PAUSE: Duration = Duration::from_millis(100);

/// What a tenant's queues hold.
#[derive(Default)]
struct Look {
    at: Option<Instant>,
    queues: HashMap<FunctionId, QueueSize>,
}

pub(super) struct Door {
    admin: Admin,
    directory: Arc<Directory>,
    catalog: Arc<Published>,
    tenants: watch::Receiver<Tenants>,
    /// Whether everything in this host's folder was loaded or refused.
    first_pass: watch::Receiver<bool>,
    /// By tenant. A lock and no message: it is held for one map operation; that within, while one call looks for all.
    looks: Mutex<HashMap<Name, Arc<tokio::sync::Mutex<Look>>>>,
}

impl Door {
    /// Connects to nothing yet.
    pub(super) fn new(
        broker: &BrokerConfig,
        presence: Arc<Presence>,
        catalog: Arc<Published>,
        first_pass: watch::Receiver<bool>,
    ) -> Result<Self, BrokerError> {
        let directory = Arc::new(Directory::new(presence, Arc::new(Inspect::new(broker)?)));
        let (admin, tenants) = (Admin::new(broker)?, broker.tenants.clone());
        Ok(Self { admin, directory, catalog, tenants, first_pass, looks: Mutex::default() })
    }

    /// Whether a call of `function` with so many bytes may be added to its queue now.
    pub(super) async fn admit(&self, function: &FunctionId, bytes: usize) -> Result<(), CallsError> {
        if self.catalog.snapshot().get(function).is_none() && !self.is_known(function).await.map_err(unavailable)? {
            let name = function.function();
            return Err(CallsError::Invalid(format!("no host has had a function {name:?} of this tenant")));
        }
        self.room(function, 1, bytes).await
    }

    /// Whether the queue of `function` has room for a call. If it has, so many calls with so many bytes are counted.
    pub(super) async fn room(&self, function: &FunctionId, calls: u64, bytes: usize) -> Result<(), CallsError> {
        let look = self.look_of(function.tenant());
        // One of the tenant's calls at a time, so that what each adds is counted before the next is let through.
        let mut look = look.lock().await;
        if look.at.is_none_or(|at| at.elapsed() >= FRESH) || !look.queues.contains_key(function) {
            *look = self.look(function).await.map_err(unavailable)?;
        }
        let own = self.catalog.snapshot().get(function).map(|revision| revision.quotas).unwrap_or_default();
        let all = self.tenants.borrow().of(function.tenant()).quotas;
        let bytes_max = all.queue_bytes_max.or(own.queue_bytes_max.is_none().then_some(QUEUE_BYTES_MAX));
        let of_function = look.queues.get(function).copied().unwrap_or_default();
        let of_tenant = look.queues.values().fold(QueueSize::default(), |sum, queue| QueueSize {
            calls: sum.calls + queue.calls,
            bytes: sum.bytes + queue.bytes,
        });
        for (whose, quota, used, most) in [
            ("the function", Quota::QueueCalls, of_function.calls, own.queue_calls_max),
            ("the function", Quota::QueueBytes, of_function.bytes, own.queue_bytes_max),
            ("the tenant", Quota::QueueCalls, of_tenant.calls, all.queue_calls_max),
            ("the tenant", Quota::QueueBytes, of_tenant.bytes, bytes_max),
        ] {
            if let Some(most) = most.filter(|most| used >= *most) {
                let quota = quota.as_str();
                let text = format!("the queue of {whose} has {used} of the {most} that its quota `{quota}` gives it");
                return Err(CallsError::Unavailable(format!("{text}; try again later")));
            }
        }
        let queue = look.queues.entry(function.clone()).or_default();
        queue.calls += calls;
        queue.bytes += bytes as u64 + calls * CALL_BYTES;
        Ok(())
    }

    fn look_of(&self, tenant: &Name) -> Arc<tokio::sync::Mutex<Look>> {
        let mut looks = self.looks.lock().unwrap_or_else(PoisonError::into_inner);
        if looks.len() >= TENANTS_MAX && !looks.contains_key(tenant) {
            looks.retain(|_, look| Arc::strong_count(look) > 1);
        }
        looks.entry(tenant.clone()).or_default().clone()
    }

    /// Whether any host has had it.
    async fn is_known(&self, function: &FunctionId) -> Result<bool, BrokerError> {
        let end = Instant::now() + START_MAX;
        loop {
            match self.directory.standing(function).await? {
                Standing::Available | Standing::Away => return Ok(true),
                Standing::Unknown => {}
            }
            let may_come = !*self.first_pass.borrow() || self.directory.is_starting().await?;
            if !may_come || Instant::now() >= end {
                return Ok(false);
            }
            tokio::time::sleep(START_PAUSE).await;
        }
    }

    /// Looks at the queues of all functions of the tenant that any host has.
    async fn look(&self, function: &FunctionId) -> Result<Look, BrokerError> {
        let at = Some(Instant::now());
        let is_sibling = |other: &&FunctionId| other.tenant() == function.tenant();
        let mut functions: BTreeSet<FunctionId> =
            self.directory.hosts().await?.functions().filter(is_sibling).cloned().collect();
        functions.extend(self.catalog.snapshot().functions().filter(is_sibling).cloned());
        functions.insert(function.clone());
        let functions: Vec<FunctionId> = functions.into_iter().collect();
        let sizes = self.admin.queue_sizes(&functions).await?;
        Ok(Look { at, queues: functions.into_iter().zip(sizes).collect() })
    }
}
