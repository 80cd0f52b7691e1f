//! The manifest beside a component: text becomes types here, and an unknown key is an error.

use std::time::Duration;

use baton_model::{Limits, RetryPolicy};
use serde::Deserialize;

/// What `NAME.toml` may say. What it leaves out is the host's default; a limit above the host's is an error.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Manifest {
    #[serde(default)]
    limits: LimitsTable,
    #[serde(default)]
    retry: RetryTable,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct LimitsTable {
    time_ms: Option<u64>,
    memory_bytes: Option<usize>,
    result_bytes: Option<usize>,
    log_bytes: Option<usize>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct RetryTable {
    attempts_max: Option<u32>,
    backoff_base_ms: Option<u64>,
    backoff_max_ms: Option<u64>,
    hosts_lost_max: Option<u32>,
}

impl Manifest {
    /// Reads a manifest's text.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        toml::from_str(text).map_err(|error| error.to_string().trim_end().to_owned())
    }

    /// The limits of the function, none above `host`'s.
    pub(crate) fn limits(&self, host: &Limits) -> Result<Limits, String> {
        let table = &self.limits;
        let time_ms = u64::try_from(host.time_max.as_millis()).unwrap_or(u64::MAX);
        Ok(Limits {
            time_max: Duration::from_millis(within("limits.time_ms", table.time_ms, time_ms)?),
            memory_bytes_max: within("limits.memory_bytes", table.memory_bytes, host.memory_bytes_max)?,
            result_bytes_max: within("limits.result_bytes", table.result_bytes, host.result_bytes_max)?,
            log_bytes_max: within("limits.log_bytes", table.log_bytes, host.log_bytes_max)?,
        })
    }

    /// The function's retry policy.
    pub(crate) fn retry(&self, host: &RetryPolicy) -> Result<RetryPolicy, String> {
        let table = &self.retry;
        if table.attempts_max == Some(0) {
            return Err("retry.attempts_max is 0; a call gets at least 1 attempt".to_owned());
        }
        Ok(RetryPolicy {
            attempts_max: table.attempts_max.unwrap_or(host.attempts_max),
            backoff_base: table.backoff_base_ms.map_or(host.backoff_base, Duration::from_millis),
            backoff_max: table.backoff_max_ms.map_or(host.backoff_max, Duration::from_millis),
            hosts_lost_max: table.hosts_lost_max.unwrap_or(host.hosts_lost_max),
        })
    }
}

fn within<T: PartialOrd + std::fmt::Display>(key: &str, asked: Option<T>, most: T) -> Result<T, String> {
    match asked {
        Some(asked) if asked > most => Err(format!("{key} is {asked}, but this host allows {most} at the most")),
        Some(asked) => Ok(asked),
        None => Ok(most),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_manifest_leaves_out_is_the_hosts() {
        let manifest = Manifest::parse("[limits]\ntime_ms = 500\n").unwrap();
        let limits = manifest.limits(&Limits::default()).unwrap();
        assert_eq!(limits.time_max, Duration::from_millis(500));
        assert_eq!(limits.memory_bytes_max, Limits::default().memory_bytes_max);
        assert_eq!(manifest.retry(&RetryPolicy::default()).unwrap(), RetryPolicy::default());
    }

    #[test]
    fn an_unknown_key_and_a_limit_above_the_hosts_are_named() {
        let error = Manifest::parse("[limits]\ntime = 5\n").unwrap_err();
        assert!(error.contains("time") && error.contains("time_ms"), "{error}");
        let error = Manifest::parse("limits.log_bytes = 99999999").unwrap().limits(&Limits::default()).unwrap_err();
        assert!(error.contains("limits.log_bytes") && error.contains("65536"), "{error}");
    }
}
