//! Quotas: how much of a host a function, or all functions of a tenant, may take.

use std::num::{NonZeroU32, NonZeroU64};

use baton_model::Quotas;
use schemars::JsonSchema;
use serde::Deserialize;

/// How much of a host this function may take. What is left out is not limited; the tenant's quotas bind as well.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct QuotasTable {
    /// The most calls at once, on one host.
    concurrency: Option<NonZeroU32>,
    /// The most calls that begin in a second, on one host.
    calls_per_second: Option<NonZeroU32>,
    /// The most CPU time in a second, in milliseconds, on one host.
    cpu_ms_per_second: Option<NonZeroU32>,
    /// The most calls that wait, over all hosts; HTTP refuses more with 429.
    queue_calls: Option<NonZeroU64>,
    /// The most bytes of payload that wait, over all hosts; HTTP refuses more with 429.
    queue_bytes: Option<NonZeroU64>,
}

impl QuotasTable {
    pub(super) fn quotas(&self) -> Quotas {
        Quotas {
            concurrency_max: self.concurrency.map(NonZeroU32::get),
            calls_per_second: self.calls_per_second.map(NonZeroU32::get),
            cpu_ms_per_second: self.cpu_ms_per_second.map(NonZeroU32::get),
            queue_calls_max: self.queue_calls.map(NonZeroU64::get),
            queue_bytes_max: self.queue_bytes.map(NonZeroU64::get),
        }
    }
}

/// How much a tenant may take, for all its functions together. What is left out is not limited.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct TenantQuotasTable {
    /// The most calls at once, on one host.
    concurrency: Option<NonZeroU32>,
    /// The most calls that begin in a second, on one host.
    calls_per_second: Option<NonZeroU32>,
    /// The most CPU time in a second, in milliseconds, on one host.
    cpu_ms_per_second: Option<NonZeroU32>,
    /// The most calls that wait, over all hosts; HTTP refuses more with 429.
    queue_calls: Option<NonZeroU64>,
    /// The most bytes of payload that wait, over all hosts; HTTP refuses more with 429.
    queue_bytes: Option<NonZeroU64>,
    /// The most bytes, keys and values together, that its functions keep with `wasi:keyvalue`.
    #[schemars(extend("default" = super::caps::STORED_BYTES))]
    stored_bytes: Option<u64>,
}

impl TenantQuotasTable {
    pub(super) fn quotas(&self) -> Quotas {
        let Self { concurrency, calls_per_second, cpu_ms_per_second, queue_calls, queue_bytes, stored_bytes: _ } =
            *self;
        QuotasTable { concurrency, calls_per_second, cpu_ms_per_second, queue_calls, queue_bytes }.quotas()
    }

    pub(super) fn stored_bytes(&self) -> Option<u64> {
        self.stored_bytes
    }
}
