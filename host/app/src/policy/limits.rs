//! Limits: what a manifest asks for, and the most that it may ask for.

use std::num::NonZeroU64;
use std::time::Duration;

use baton_model::Limits;
use schemars::JsonSchema;
use serde::Deserialize;

use super::caps::{Most, Source};
use super::text::Wrong;

/// The smallest memory with which a component can be tried: one page of WebAssembly.
const MEMORY_BYTES_MIN: u64 = 65_536;

/// What one call may use. What is left out is as much as the operator allows.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct LimitsTable {
    /// The longest that a call may take, in milliseconds, waiting included.
    time_ms: Option<NonZeroU64>,
    /// The most memory, in bytes; at least 65536.
    memory_bytes: Option<NonZeroU64>,
    /// The largest payload of a call, in bytes. A larger one is not run: the call ends as `dead`, reason `oversize`.
    payload_bytes: Option<u64>,
    /// The largest answer, in bytes.
    result_bytes: Option<u64>,
    /// The most that a call may write to its log, standard output and standard error together, in bytes; the rest is
    /// counted and dropped.
    log_bytes: Option<u64>,
}

/// The most that each limit may be, and who says so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LimitCaps {
    time_ms: Most,
    memory_bytes: Most,
    payload_bytes: Most,
    result_bytes: Most,
    log_bytes: Most,
}

impl LimitCaps {
    pub(super) fn of_host(limits: &Limits) -> Self {
        let most = |bytes: usize| Most { value: bytes as u64, by: Source::Host };
        Self {
            time_ms: Most { value: u64::try_from(limits.time_max.as_millis()).unwrap_or(u64::MAX), by: Source::Host },
            memory_bytes: most(limits.memory_bytes_max),
            payload_bytes: most(limits.payload_bytes_max),
            result_bytes: most(limits.result_bytes_max),
            log_bytes: most(limits.log_bytes_max),
        }
    }

    /// The same, and no more than `table` says.
    pub(super) fn lowered(&self, table: &LimitsTable, by: Source) -> Self {
        Self {
            time_ms: self.time_ms.lowered(table.time_ms.map(NonZeroU64::get), by),
            memory_bytes: self.memory_bytes.lowered(table.memory_bytes.map(NonZeroU64::get), by),
            payload_bytes: self.payload_bytes.lowered(table.payload_bytes, by),
            result_bytes: self.result_bytes.lowered(table.result_bytes, by),
            log_bytes: self.log_bytes.lowered(table.log_bytes, by),
        }
    }

    /// The limits of a function whose manifest says `asked`.
    pub(super) fn grant(&self, asked: &LimitsTable) -> Result<Limits, Wrong> {
        asked.check()?;
        let bytes = |key: &'static str, most: &Most, asked: Option<u64>| {
            let bytes = most.grant(&["limits", key], asked)?;
            usize::try_from(bytes).map_err(|_| Wrong::new(&["limits", key], "is more than this machine can address"))
        };
        let time_ms = self.time_ms.grant(&["limits", "time_ms"], asked.time_ms.map(NonZeroU64::get))?;
        Ok(Limits {
            time_max: Duration::from_millis(time_ms),
            memory_bytes_max: bytes("memory_bytes", &self.memory_bytes, asked.memory_bytes.map(NonZeroU64::get))?,
            payload_bytes_max: bytes("payload_bytes", &self.payload_bytes, asked.payload_bytes)?,
            result_bytes_max: bytes("result_bytes", &self.result_bytes, asked.result_bytes)?,
            log_bytes_max: bytes("log_bytes", &self.log_bytes, asked.log_bytes)?,
        })
    }
}

impl LimitsTable {
    /// What no operator can allow.
    pub(super) fn check(&self) -> Result<(), Wrong> {
        match self.memory_bytes {
            Some(bytes) if bytes.get() < MEMORY_BYTES_MIN => {
                let rule = format!("is {bytes}, but a component needs {MEMORY_BYTES_MIN} at the least");
                Err(Wrong::new(&["limits", "memory_bytes"], rule))
            }
            Some(_) | None => Ok(()),
        }
    }
}
