//! What is asked at scrape time and not counted along the way: of Redis, with a limit and a short memory, and of the
//! system.

use std::sync::Arc;
use std::time::Duration;

use baton_broker::{Admin, BrokerConfig, BrokerError, Presence, QueueLook};
use baton_model::{FunctionId, HostState};
use tokio::sync::Mutex;
use tokio::time::Instant;

/// For how long an answer of Redis serves further scrapes.
const FRESH: Duration = Duration::from_secs(1);
/// How long a scrape waits for Redis; after that it goes without.
const ASK_MAX: Duration = Duration::from_secs(2);
/// The most functions that one scrape asks about.
pub(super) const FUNCTIONS_MAX: usize = 1_000;

/// How a host stands, in the order of [`STATES`].
pub(super) type HostCounts = [u64; STATES.len()];

/// Every state of a host.
pub(super) const STATES: [HostState; 4] =
    [HostState::Starting, HostState::Online, HostState::Draining, HostState::Offline];

/// What Redis said.
#[derive(Debug, Default)]
pub(super) struct Answers {
    pub(super) queues: Vec<(FunctionId, QueueLook)>,
    /// None if that alone could not be read.
    pub(super) hosts: Option<HostCounts>,
}

/// Asks Redis.
pub(super) struct Inquiry {
    admin: Admin,
    presence: Presence,
    /// The last answers. A lock and no message: it is held while one scrape asks for all that come meanwhile.
    last: Mutex<Option<(Instant, Arc<Answers>)>>,
}

impl Inquiry {
    /// It connects when it is first asked.
    ///
    /// # Errors
    /// [`BrokerError::BadUrl`].
    pub(super) fn new(broker: &BrokerConfig) -> Result<Self, BrokerError> {
        Ok(Self { admin: Admin::new(broker)?, presence: Presence::new(broker)?, last: Mutex::default() })
    }

    /// The answers about these functions, at most a second old. None if Redis does not answer, within two seconds.
    pub(super) async fn ask(&self, functions: Vec<FunctionId>) -> Option<Arc<Answers>> {
        let asked = async {
            let mut last = self.last.lock().await;
            if let Some((at, answers)) = &*last
                && at.elapsed() < FRESH
            {
                return Ok(answers.clone());
            }
            let answers = Arc::new(self.ask_redis(functions).await?);
            *last = Some((Instant::now(), answers.clone()));
            Ok::<_, BrokerError>(answers)
        };
        match tokio::time::timeout(ASK_MAX, asked).await {
            Ok(Ok(answers)) => Some(answers),
            Ok(Err(error)) => {
                tracing::debug!(%error, "a scrape goes without what Redis knows");
                None
            }
            Err(_) => {
                tracing::debug!("Redis is silent; a scrape goes without what it knows");
                None
            }
        }
    }

    async fn ask_redis(&self, functions: Vec<FunctionId>) -> Result<Answers, BrokerError> {
        let (looks, hosts) = tokio::join!(self.admin.looks(&functions), self.hosts());
        let queues = functions.into_iter().zip(looks?);
        Ok(Answers {
            queues: queues.filter_map(|(function, look)| Some((function, look?))).collect(),
            hosts: hosts.inspect_err(|error| tracing::debug!(%error, "hosts could not be counted")).ok(),
        })
    }

    async fn hosts(&self) -> Result<HostCounts, BrokerError> {
        let mut counts = HostCounts::default();
        for record in self.presence.survey().await? {
            let place = STATES.iter().position(|state| *state == record.state);
            place.into_iter().for_each(|place| counts[place] += 1);
        }
        Ok(counts)
    }
}

/// What the system says of this process. A figure that it does not give is left out.
#[derive(Debug, Default)]
pub(super) struct Process {
    pub(super) cpu_seconds: f64,
    pub(super) resident_bytes: Option<u64>,
    pub(super) open_fds: Option<u64>,
}

impl Process {
    /// As it is now. It reads from /proc, which only Linux has.
    pub(super) fn now() -> Self {
        let cpu = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
        let cpu = Duration::try_from(cpu).unwrap_or_default();
        Self {
            cpu_seconds: cpu.as_secs_f64(),
            resident_bytes: std::fs::read_to_string("/proc/self/status").ok().as_deref().and_then(resident_bytes),
            // The one through which they are counted is not counted.
            open_fds: std::fs::read_dir("/proc/self/fd").ok().map(|fds| (fds.count() as u64).saturating_sub(1)),
        }
    }
}

fn resident_bytes(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok()? * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_knows_what_it_uses() {
        assert_eq!(resident_bytes("Name:\tbaton\nVmRSS:\t    12 kB\n"), Some(12 * 1024));
        assert_eq!(resident_bytes("Name:\tbaton\n"), None);
        let process = Process::now();
        assert!(process.cpu_seconds > 0.0);
        assert!(process.resident_bytes.is_none_or(|bytes| bytes > 1 << 20), "{process:?}");
        assert!(process.open_fds.is_none_or(|fds| fds >= 3), "{process:?}");
    }

    #[tokio::test]
    async fn without_redis_a_scrape_is_not_held_up() {
        // Nothing listens on the discard port.
        let inquiry = Inquiry::new(&BrokerConfig::new("redis://127.0.0.1:9")).unwrap();
        let began = Instant::now();
        assert!(inquiry.ask(Vec::new()).await.is_none());
        assert!(began.elapsed() <= ASK_MAX + FRESH);
    }
}
