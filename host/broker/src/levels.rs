//! Which call streams a function has, and the wait for those that it gets.
//!
//! Normal calls have a stream in any case. Those for high and low calls come about when the first such call is added, by
//! whomever; nobody is told of that, so a host waits for it at Redis.

use std::collections::BTreeSet;
use std::time::Duration;

use baton_model::{FunctionId, Priority};
use redis::aio::MultiplexedConnection;
use redis::{Client, Pipeline, Value, cmd};

use crate::BrokerError;
use crate::keys::Keys;
use crate::link::{BrokerConfig, open_blocking};
use crate::meter::{Meter, Role};

/// How much longer than its own limit a wait may stay silent before its connection is held for dead.
const WATCHDOG: Duration = Duration::from_secs(5);
/// The longest wait while something else stands under a key: then it is looked at again.
const REFUSED_PAUSE: Duration = Duration::from_secs(5);
/// What Redis calls a stream, and a key under which nothing stands.
pub(crate) const STREAM: &str = "stream";
const NOTHING: &str = "none";

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
    /// The keys of such streams under which something else stands. They are not waited for, for every wait would fail.
    refused: BTreeSet<String>,
}

/// The key of a stream that is waited for, and whose it is.
type Awaited<'a> = (String, &'a FunctionId, Priority);

impl LevelsWatch {
    /// With these settings. It connects on its first wait.
    ///
    /// # Errors
    /// [`BrokerError::BadUrl`].
    pub fn new(config: &BrokerConfig) -> Result<Self, BrokerError> {
        let (client, keys, meter) = (config.client()?, config.keys(), config.meter.clone());
        Ok(Self { client, keys, meter, connection: None, refused: BTreeSet::new() })
    }

    /// Waits for as long as `block` at the most until one of these functions has a call in a stream that it did not have, as
    /// is said with it, and gives those that do then. Where something else stands under the key of such a stream, that is
    /// said once, and the others are waited for.
    ///
    /// # Errors
    /// Any [`BrokerError`].
    pub async fn wait(
        &mut self,
        functions: &[(FunctionId, Levels)],
        block: Duration,
    ) -> Result<Vec<FunctionId>, BrokerError> {
        let mut streams: Vec<Awaited<'_>> = Vec::new();
        for (function, have) in functions {
            let missing = Priority::ALL.into_iter().filter(|level| !have.has(*level));
            streams.extend(missing.map(|level| (self.keys.calls_at(function, level), function, level)));
        }
        // It is put back when it is known to be good.
        let mut connection = match self.connection.take() {
            Some(open) => open,
            None => open_blocking(&self.client).await?,
        };
        if !self.refused.is_empty() {
            self.refuse(&mut connection, &streams, |key, refused| refused.contains(key)).await?;
        }
        let found = loop {
            streams.retain(|(key, ..)| !self.refused.contains(key));
            let block = if self.refused.is_empty() { block } else { block.min(REFUSED_PAUSE) };
            if streams.is_empty() {
                tokio::time::sleep(block).await;
                break Value::Nil;
            }
            match self.read(&mut connection, &streams, block).await {
                Err(error @ BrokerError::Refused(_)) => {
                    self.refuse(&mut connection, &streams, |_, _| true).await?;
                    if !streams.iter().any(|(key, ..)| self.refused.contains(key)) {
                        return Err(error);
                    }
                }
                other => break other?,
            }
        };
        self.connection = Some(connection);
        let found = match found {
            Value::Nil => return Ok(Vec::new()),
            Value::Array(found) => found,
            other => return Err(BrokerError::shape("XREAD", &other)),
        };
        let key = |stream: &Value| match stream {
            Value::Array(pair) => pair.first().and_then(|key| redis::from_redis_value_ref::<String>(key).ok()),
            _ => None,
        };
        let found: Vec<String> = found.iter().filter_map(key).collect();
        let mut have: Vec<FunctionId> = streams
            .into_iter()
            .filter(|(key, ..)| found.contains(key))
            .map(|(_, function, _)| function.clone())
            .collect();
        have.dedup();
        Ok(have)
    }

    async fn read(
        &self,
        connection: &mut MultiplexedConnection,
        streams: &[Awaited<'_>],
        block: Duration,
    ) -> Result<Value, BrokerError> {
        let mut read = cmd("XREAD");
        read.arg("COUNT").arg(1).arg("BLOCK").arg(u64::try_from(block.as_millis()).unwrap_or(u64::MAX).max(1));
        read.arg("STREAMS").arg(streams.iter().map(|(key, ..)| key.as_str()).collect::<Vec<_>>());
        for _ in streams {
            read.arg("0");
        }
        self.meter.sent(Role::Queue, 1);
        let answer = tokio::time::timeout(block + WATCHDOG, connection.send_packed_command(&read)).await;
        Ok(answer.map_err(silent)?.and_then(Value::extract_error)?)
    }

    /// Looks which of these keys hold something else than a stream, as far as they are to be looked at. What is found newly is
    /// said; what is gone is waited for again.
    async fn refuse(
        &mut self,
        connection: &mut MultiplexedConnection,
        streams: &[Awaited<'_>],
        is_doubtful: impl Fn(&str, &BTreeSet<String>) -> bool,
    ) -> Result<(), BrokerError> {
        let doubtful: Vec<_> = streams.iter().filter(|(key, ..)| is_doubtful(key, &self.refused)).collect();
        let mut look = Pipeline::with_capacity(doubtful.len());
        doubtful.iter().for_each(|(key, ..)| _ = look.cmd("TYPE").arg(key));
        self.meter.sent(Role::Queue, look.len());
        let answers = tokio::time::timeout(WATCHDOG, connection.send_packed_commands(&look, 0, look.len())).await;
        let kinds = answers.map_err(silent)??;
        let mut refused = BTreeSet::new();
        for ((key, function, level), kind) in doubtful.into_iter().zip(kinds) {
            let kind: String = redis::from_redis_value(kind).map_err(|e| BrokerError::shape("TYPE", &e.to_string()))?;
            if kind == STREAM || kind == NOTHING {
                continue;
            }
            if !self.refused.contains(key) {
                tracing::warn!(
                    %function, priority = %level, key,
                    "calls of this level cannot be read: a {kind} stands under their key, where only a stream may; delete or \
                     rename the key"
                );
            }
            refused.insert(key.clone());
        }
        self.refused = refused;
        Ok(())
    }
}

fn silent(_: tokio::time::error::Elapsed) -> BrokerError {
    BrokerError::Unreachable("a wait for new call streams was silent".to_owned())
}
