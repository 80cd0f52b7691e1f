//! How much of a host a tenant or a function may take. A limit that is not set does not bind.

/// The quotas of a tenant, for all its functions together, or of one function.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Quotas {
    /// The most attempts at once, on one host.
    pub concurrency_max: Option<u32>,
    /// The most attempts that begin in a second, on one host. A burst of one second's worth is let through.
    pub calls_per_second: Option<u32>,
    /// The most CPU time that guests may use, in milliseconds for each second, on one host.
    pub cpu_ms_per_second: Option<u32>,
    /// The most calls that wait, over all hosts. The gateway, and hosts to functions that call, refuse
    /// more; see [`Over`].
    pub queue_calls_max: Option<u64>,
    /// The most bytes of payload that wait, over all hosts. Refused likewise.
    pub queue_bytes_max: Option<u64>,
}

impl Quotas {
    /// The same, and no more than `most`: of two limits the lower binds.
    #[must_use]
    pub fn lowered(&self, most: &Self) -> Self {
        fn lower<T: Ord>(one: Option<T>, other: Option<T>) -> Option<T> {
            // Of an option, none is the lowest, and here it is no limit at all.
            [one, other].into_iter().flatten().min()
        }
        Self {
            concurrency_max: lower(self.concurrency_max, most.concurrency_max),
            calls_per_second: lower(self.calls_per_second, most.calls_per_second),
            cpu_ms_per_second: lower(self.cpu_ms_per_second, most.cpu_ms_per_second),
            queue_calls_max: lower(self.queue_calls_max, most.queue_calls_max),
            queue_bytes_max: lower(self.queue_bytes_max, most.queue_bytes_max),
        }
    }
}

/// Which quota, where one is told of: a closed set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Quota {
    /// [`Quotas::concurrency_max`].
    Concurrency,
    /// [`Quotas::calls_per_second`].
    CallsPerSecond,
    /// [`Quotas::cpu_ms_per_second`].
    CpuMsPerSecond,
    /// [`Quotas::queue_calls_max`].
    QueueCalls,
    /// [`Quotas::queue_bytes_max`].
    QueueBytes,
}

impl Quota {
    /// Its key in manifests.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Concurrency => "concurrency",
            Self::CallsPerSecond => "calls_per_second",
            Self::CpuMsPerSecond => "cpu_ms_per_second",
            Self::QueueCalls => "queue_calls",
            Self::QueueBytes => "queue_bytes",
        }
    }
}

/// What the gateway does with a call that would wait because its tenant or its function is over concurrency or rate.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Over {
    /// It takes the call, which waits in Redis for its turn.
    #[default]
    Wait,
    /// It answers 429 with `Retry-After`.
    Refuse,
}
