//! What every request needs: the parts that the gateway is given, its limits, and the seats of requests.

use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use baton_broker::{Admin, BrokerError, Caller, Cancel, DeadLetters, Inspect, Presence};
use baton_model::{FunctionId, Name, Tenants};
use tokio::sync::{Semaphore, SemaphorePermit, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::GatewayConfig;
use crate::auth::{Asker, Guard};
use crate::directory::Directory;
use crate::problem::Problem;
use crate::quota::Allowances;

/// What the host in whose process the gateway stands says of itself.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct HostStatus {
    /// It takes no new calls and finishes what it has.
    pub draining: bool,
    /// Everything that it loads at its start was loaded or refused. A gateway without functions has started at once.
    pub started: bool,
}

/// How much the host in whose process the gateway stands has to do.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Executions {
    /// Attempts that run now.
    pub active: u64,
    /// Attempts that ended, since the start.
    pub total: u64,
}

/// Something that is asked for anew each time, and may take a moment.
pub type Ask<T> = Arc<dyn Fn() -> Pin<Box<dyn Future<Output = T> + Send>> + Send + Sync>;

/// The largest payload of a function, where it is known. It is asked for every call, so it has to be quick.
pub type PayloadLimit = Arc<dyn Fn(&FunctionId) -> Option<usize> + Send + Sync>;

/// What counts one request: the template of its route, its method, the status of the answer, how long it took.
pub type HttpMeter = Arc<dyn Fn(&str, &str, u16, Duration) + Send + Sync>;

/// What the gateway is made from.
pub struct Parts {
    /// Sends calls and hears of their results; one for all requests.
    pub caller: Arc<Caller>,
    /// Which hosts there are.
    pub presence: Arc<Presence>,
    /// How much work functions have.
    pub admin: Arc<Admin>,
    /// Where calls stand.
    pub inspect: Arc<Inspect>,
    /// Calls that were given up.
    pub dead: Arc<DeadLetters>,
    /// Executions of durable functions.
    pub durable: Arc<baton_broker::Executions>,
    /// Takes calls back.
    pub cancel: Arc<Cancel>,
    /// What is said about tenants: whose tokens there are.
    pub tenants: watch::Receiver<Tenants>,
    /// The largest payload that a function takes, if the host itself runs it.
    pub payload_bytes_max: PayloadLimit,
    /// What quotas leave a function.
    pub allowance: Allowances,
    /// What the host says of itself now. It is asked for every request, so it has to be quick.
    pub status: Arc<dyn Fn() -> HostStatus + Send + Sync>,
    /// How much the host has to do.
    pub executions: Arc<dyn Fn() -> Executions + Send + Sync>,
    /// Whether Redis answers.
    pub redis_reachable: Ask<bool>,
    /// The metrics as OpenMetrics text, `# EOF` included.
    pub metrics: Ask<String>,
    /// Holds a token for each request whose call is on its way to Redis. Who ends the host waits for them after
    /// `draining` is said, and reads what they brought.
    pub entrants: TaskTracker,
    /// Counts each request.
    pub http_meter: HttpMeter,
    /// Cancelled when a request panics: that is a fault of the host, which then ends in order.
    pub fault: CancellationToken,
}

/// Shared by all requests.
pub(crate) struct Gate {
    pub(crate) config: GatewayConfig,
    pub(crate) parts: Parts,
    pub(crate) directory: Arc<Directory>,
    pub(crate) guard: Guard,
    /// Cancelled when requests that still wait have to be answered at once.
    pub(crate) ending: CancellationToken,
    seats: Semaphore,
    /// A function that nobody has: what an asker may not see is looked up under its name.
    nobody: FunctionId,
    /// Whether only programs of this machine reach it, browsers among them.
    pub(crate) is_local: bool,
}

impl Gate {
    pub(crate) fn new(config: GatewayConfig, parts: Parts) -> Self {
        let directory = Directory::new(parts.presence.clone(), parts.inspect.clone());
        let guard = Guard::new(config.auth, config.operator_tokens.clone(), parts.tenants.clone());
        let seats = Semaphore::new(config.requests_max);
        let ending = CancellationToken::new();
        let is_local = config.listen.ip().is_loopback();
        Self { config, parts, directory: Arc::new(directory), guard, ending, seats, nobody: nobody(), is_local }
    }

    pub(crate) fn status(&self) -> HostStatus {
        (self.parts.status)()
    }

    /// The function as the asker sees it. One that is not the asker's gives way to one that nobody has, so that what is
    /// asked of Redis for it, and how long that takes, is the same as for a function that is not there.
    pub(crate) fn seen<'a>(&'a self, asker: &Asker, function: &'a FunctionId) -> &'a FunctionId {
        if asker.may_see(function) { function } else { &self.nobody }
    }

    /// The same of a tenant.
    pub(crate) fn seen_tenant<'a>(&'a self, asker: &Asker, tenant: &'a Name) -> &'a Name {
        match asker {
            Asker::Tenant(own) if own != tenant => self.nobody.tenant(),
            Asker::Tenant(_) | Asker::Anybody | Asker::Operator => tenant,
        }
    }

    /// A seat for one request, held until its answer is made.
    pub(crate) fn seat(&self) -> Result<SemaphorePermit<'_>, Problem> {
        self.seats.try_acquire().map_err(|_| {
            Problem::new(503, "overloaded")
                .detail(format!(
                    "{} requests are being worked on, which is the limit; try again a little later",
                    self.config.requests_max
                ))
                .retry_after(self.config.retry_after)
        })
    }

    /// What a client is told when Redis did not do what was asked. The reason is for the log: it names addresses.
    pub(crate) fn broker_problem(&self, error: &BrokerError) -> Problem {
        match error {
            BrokerError::Unreachable(_) => {
                tracing::debug!(%error, "a request could not be served");
                Problem::new(503, "redis-unreachable")
                    .detail("Redis cannot be reached; try again a little later. A new call may or may not have been accepted: with an Idempotency-Key it can be sent again")
                    .retry_after(self.config.retry_after)
            }
            BrokerError::Unable(_) | BrokerError::NoScript => {
                tracing::debug!(%error, "a request could not be served");
                Problem::new(503, "redis-unable")
                    .detail("Redis is not able to do this now: it loads, is out of memory, is read-only or fails over; try again later")
                    .retry_after(self.config.retry_after)
            }
            BrokerError::BadUrl { .. } | BrokerError::NoGroup(_) | BrokerError::Refused(_) => {
                tracing::error!(%error, "a request could not be served");
                Problem::new(500, "internal")
                    .detail("Redis refused what the gateway asked of it; the gateway's log says why")
            }
        }
    }
}

/// A name that nobody can guess, and therefore nobody has.
fn nobody() -> FunctionId {
    let random = || RandomState::new().build_hasher().finish();
    let name = |text: String| Name::parse(&text).expect("it starts with a letter, and digits follow");
    FunctionId::new(name(format!("n{:016x}", random())), name(format!("n{:016x}{:016x}", random(), random())))
}

/// Now, in Unix milliseconds.
pub(crate) fn now_ms() -> u64 {
    millis(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default())
}

pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
