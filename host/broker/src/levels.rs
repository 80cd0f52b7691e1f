//! Which call streams a function has, and the wait for those that it gets.
//!
//! Normal calls have a stream in any case. Those for high and low calls come about when the first such call is added, by
//! whomever; nobody is told of that, so a host waits for it at Redis.

use std::time::Duration;

use baton_model::{FunctionId, Priority};
use redis::aio::MultiplexedConnection;
use redis::{Client, Value, cmd};

use crate::BrokerError;
use crate::keys::Keys;
use crate::link::{BrokerConfig, open_blocking};
use crate::meter::{Meter, Role};

/// How much longer than its own limit a wait may stay silent before its connection is held for dead.
const WATCHDOG: Duration = Duration::from_secs(5);

/// Which call streams a function has beside that for normal calls.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Levels(u8);

impl Levels {
    /// The normal one, and those of these levels.
    #[must_use]
    pub fn of(levels: impl IntoIterator<Item = Priority>) -> Self {
        let number = |level| match level {
            Priority::High => 1,
            Priority::Normal => 0,
            Priority::Low => 2,
        };
        Self(levels.into_iter().fold(0, |all, level| all | number(level)))
    }

    /// As the scripts say it: 1 for high ones, 2 for low ones.
    pub(crate) fn of_number(number: i64) -> Self {
        Self(u8::try_from(number & 3).unwrap_or(0))
    }

    /// Whether it has one for calls of this level.
    #[must_use]
    pub fn has(self, level: Priority) -> bool {
        match level {
            Priority::High => self.0 & 1 != 0,
            Priority::Normal => true,
            Priority::Low => self.0 & 2 != 0,
        }
    }

    /// Those for which it has one, the highest first.
    pub fn all(self) -> impl Iterator<Item = Priority> {
        Priority::ALL.into_iter().filter(move |level| self.has(*level))
    }

    /// Those for which it has one beside the normal one.
    pub fn others(self) -> impl Iterator<Item = Priority> {
        self.all().filter(|level| !level.is_normal())
    }

    /// Whether it has one for normal calls alone.
    #[must_use]
    pub fn is_plain(self) -> bool {
        self.0 == 0
    }

    /// Whether it has one for each level.
    #[must_use]
    pub fn is_whole(self) -> bool {
        self.0 == 3
    }
}

/// Waits for call streams that are not there yet. The wait takes nothing out of them, so it may be dropped at any time;
/// the next one connects anew.
pub struct LevelsWatch {
    client: Client,
    keys: Keys,
    meter: std::sync::Arc<Meter>,
    connection: Option<MultiplexedConnection>,
}

impl LevelsWatch {
    /// With these settings. It connects on its first wait.
    ///
    /// # Errors
    /// [`BrokerError::BadUrl`].
    pub fn new(config: &BrokerConfig) -> Result<Self, BrokerError> {
        Ok(Self { client: config.client()?, keys: config.keys(), meter: config.meter.clone(), connection: None })
    }

    /// Waits for as long as `block` until one of these functions has a call in a stream that it did not have, as is said
    /// with it, and gives those that do then.
    ///
    /// # Errors
    /// Any [`BrokerError`]; [`BrokerError::Refused`] if something else stands under the key of such a stream.
    pub async fn wait(
        &mut self,
        functions: &[(FunctionId, Levels)],
        block: Duration,
    ) -> Result<Vec<FunctionId>, BrokerError> {
        let mut streams: Vec<(String, &FunctionId)> = Vec::new();
        for (function, have) in functions {
            let missing = Priority::ALL.into_iter().filter(|level| !have.has(*level));
            streams.extend(missing.map(|level| (self.keys.calls_at(function, level), function)));
        }
        // It is put back when it is known to be good.
        let mut connection = match self.connection.take() {
            Some(open) => open,
            None => open_blocking(&self.client).await?,
        };
        let mut read = cmd("XREAD");
        read.arg("COUNT").arg(1).arg("BLOCK").arg(u64::try_from(block.as_millis()).unwrap_or(u64::MAX).max(1));
        read.arg("STREAMS").arg(streams.iter().map(|(key, _)| key.as_str()).collect::<Vec<_>>());
        for _ in &streams {
            read.arg("0");
        }
        self.meter.sent(Role::Queue, 1);
        let silent = |_| BrokerError::Unreachable("a wait for new call streams was silent".to_owned());
        let answer = tokio::time::timeout(block + WATCHDOG, connection.send_packed_command(&read)).await;
        let answer = answer.map_err(silent)?.and_then(Value::extract_error)?;
        self.connection = Some(connection);
        let found = match answer {
            Value::Nil => return Ok(Vec::new()),
            Value::Array(found) => found,
            other => return Err(BrokerError::shape("XREAD", &other)),
        };
        let key = |stream: &Value| match stream {
            Value::Array(pair) => pair.first().and_then(|key| redis::from_redis_value_ref::<String>(key).ok()),
            _ => None,
        };
        let found: Vec<String> = found.iter().filter_map(key).collect();
        let mut have: Vec<FunctionId> =
            streams.into_iter().filter(|(key, _)| found.contains(key)).map(|(_, function)| function.clone()).collect();
        have.dedup();
        Ok(have)
    }
}
