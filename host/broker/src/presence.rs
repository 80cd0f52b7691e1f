//! Which hosts there are: each keeps a record of itself that expires unless it is kept.

use std::time::Duration;

use baton_model::{HostId, HostRecord};
use redis::{Value, cmd};

use crate::BrokerError;
use crate::keys::{Keys, settler_name};
use crate::link::{BrokerConfig, Link, ids_of};
use crate::meter::Role;

/// The longest that a reader of a host may be blocked at Redis.
const BLOCKED_MAX: Duration = Duration::from_secs(35);

/// Reads and writes host records.
pub struct Presence {
    link: Link,
    keys: Keys,
    lasts: Duration,
}

impl Presence {
    /// Records that last for three leases unless they are kept, and for longer than any blocking read: a host that is
    /// forgotten must not be handed another call.
    ///
    /// # Errors
    /// [`BrokerError::BadUrl`].
    pub fn new(config: &BrokerConfig) -> Result<Self, BrokerError> {
        Ok(Self {
            link: Link::new(config.client()?).counted(config, Role::Presence),
            keys: config.keys(),
            lasts: (config.lease * 3).max(config.lease + BLOCKED_MAX),
        })
    }

    /// Writes a host's record, for the first time or anew; it lasts from now on.
    ///
    /// # Errors
    /// Any [`BrokerError`].
    pub async fn register(&self, record: &HostRecord) -> Result<(), BrokerError> {
        let json = serde_json::to_string(record).map_err(|e| BrokerError::Refused(format!("a host record: {e}")))?;
        let ttl_ms = u64::try_from(self.lasts.as_millis()).unwrap_or(u64::MAX);
        let mut write = redis::pipe();
        write.cmd("SADD").arg(self.keys.hosts()).arg(record.id.as_str());
        write.cmd("SET").arg(self.keys.host(&record.id)).arg(json).arg("PX").arg(ttl_ms);
        self.link.run_all(&write).await?.into_iter().try_for_each(|answer| answer.extract_error().map(drop))?;
        Ok(())
    }

    /// Takes a host's record away: it is gone, and left nothing.
    ///
    /// # Errors
    /// Any [`BrokerError`].
    pub async fn remove(&self, host: &HostId) -> Result<(), BrokerError> {
        let mut remove = redis::pipe();
        remove.cmd("DEL").arg(self.keys.host(host));
        remove.cmd("SREM").arg(self.keys.hosts()).arg(host.as_str());
        self.link.run_all(&remove).await.map(drop)
    }

    /// Has Redis close the connections through which these hosts settle, whatever their number. To be done before their entries are claimed:
    /// what a stopped process had on its way is then refused when it goes on.
    ///
    /// # Errors
    /// Any [`BrokerError`]; nothing may be claimed then.
    pub async fn cut_off(&self, hosts: &[String]) -> Result<(), BrokerError> {
        let names: Vec<String> = hosts.iter().map(|host| settler_name(host)).collect();
        let list = self.link.run(cmd("CLIENT").arg("LIST").arg("TYPE").arg("normal")).await?;
        let list: String =
            redis::from_redis_value(list).map_err(|e| BrokerError::shape("CLIENT LIST", &e.to_string()))?;
        for id in ids_of(&list, |name| names.iter().any(|wanted| wanted == name)) {
            self.link.run(cmd("CLIENT").arg("KILL").arg("ID").arg(id)).await?;
        }
        Ok(())
    }

    /// The ids of all hosts that registered and were not removed, dead or alive. One cheap command.
    ///
    /// # Errors
    /// Any [`BrokerError`].
    pub async fn known(&self) -> Result<Vec<HostId>, BrokerError> {
        let answer = self.link.run(cmd("SMEMBERS").arg(self.keys.hosts())).await?;
        let ids: Vec<String> =
            redis::from_redis_value(answer).map_err(|e| BrokerError::shape("SMEMBERS", &e.to_string()))?;
        Ok(ids.iter().filter_map(|id| HostId::parse(id)).collect())
    }

    /// The records of these hosts, in order; none for a host whose record has expired, or cannot be read.
    ///
    /// # Errors
    /// Any [`BrokerError`].
    pub async fn records(&self, hosts: &[HostId]) -> Result<Vec<Option<HostRecord>>, BrokerError> {
        if hosts.is_empty() {
            return Ok(Vec::new());
        }
        let keys: Vec<String> = hosts.iter().map(|host| self.keys.host(host)).collect();
        match self.link.run(cmd("MGET").arg(keys)).await? {
            Value::Array(records) => Ok(records
                .into_iter()
                .map(|record| match record {
                    Value::BulkString(json) => serde_json::from_slice(&json).ok(),
                    _ => None,
                })
                .collect()),
            other => Err(BrokerError::shape("MGET", &other)),
        }
    }
}
