//! What a Redis says of itself: its version, and the settings on which the promise depends.

use std::collections::HashMap;

use redis::cmd;

use crate::BrokerError;
use crate::link::{BrokerConfig, Link, address};

/// Facts about a Redis server. A setting is none where the server does not let this client read it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerFacts {
    /// Where it is, without a password.
    pub address: String,
    /// `redis` or `valkey`.
    pub server: String,
    /// Its version.
    pub version: String,
    /// What it does when memory is full.
    pub maxmemory_policy: Option<String>,
    /// How much memory it may use, in bytes; 0 = no limit.
    pub maxmemory_bytes: Option<u64>,
    /// Whether it keeps an append-only file.
    pub appendonly: Option<bool>,
    /// When it forces that file to disk: `always`, `everysec` or `no`.
    pub appendfsync: Option<String>,
    /// Its snapshot rule; empty = none.
    pub save: Option<String>,
    /// `master` or `slave`.
    pub role: String,
}

impl ServerFacts {
    /// Asks the server.
    ///
    /// # Errors
    /// Any [`BrokerError`].
    pub async fn ask(config: &BrokerConfig) -> Result<Self, BrokerError> {
        let link = Link::new(config.client()?);
        let info: String = text(link.run(&cmd("INFO")).await?)?;
        let info: HashMap<&str, &str> = info.lines().filter_map(|line| line.split_once(':')).collect();
        let fact = |name: &str| info.get(name).map(|value| value.trim().to_owned());
        let mut settings: HashMap<String, String> = HashMap::new();
        for name in ["maxmemory-policy", "maxmemory", "appendonly", "appendfsync", "save"] {
            // Managed servers forbid CONFIG; what they do not tell stays unknown.
            if let Ok(answer) = link.run(cmd("CONFIG").arg("GET").arg(name)).await
                && let Ok(pairs) = redis::from_redis_value::<HashMap<String, String>>(answer)
            {
                settings.extend(pairs);
            }
        }
        let valkey = fact("valkey_version");
        Ok(Self {
            address: address(link.client()),
            server: if valkey.is_some() { "valkey" } else { "redis" }.to_owned(),
            version: valkey.or_else(|| fact("redis_version")).unwrap_or_else(|| "unknown".to_owned()),
            maxmemory_policy: settings.remove("maxmemory-policy").or_else(|| fact("maxmemory_policy")),
            maxmemory_bytes: settings.remove("maxmemory").and_then(|n| n.parse().ok()),
            appendonly: settings.remove("appendonly").map(|v| v == "yes"),
            appendfsync: settings.remove("appendfsync"),
            save: settings.remove("save"),
            role: fact("role").unwrap_or_else(|| "unknown".to_owned()),
        })
    }
}

impl ServerFacts {
    /// The version as numbers: major and minor. None if it cannot be read.
    #[must_use]
    pub fn version_numbers(&self) -> Option<(u32, u32)> {
        let mut parts = self.version.split('.');
        Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
    }
}

fn text(value: redis::Value) -> Result<String, BrokerError> {
    redis::from_redis_value(value).map_err(|e| BrokerError::shape("INFO", &e.to_string()))
}
