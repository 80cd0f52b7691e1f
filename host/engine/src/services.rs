//! What a function was granted beside its call, and who does it. The engine asks; what stands behind is made elsewhere.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use baton_model::{Bucket, FunctionId, Grants};

/// The grants of one attempt and what stands behind them. An attempt of a function without grants has none of it, and
/// pays nothing for it. Without what stands behind a grant (as in a trial, where nothing may reach outside) its
/// interface answers with an error.
#[derive(Clone)]
pub struct Services {
    /// Whose they are.
    pub function: FunctionId,
    /// What was granted.
    pub grants: Arc<Grants>,
    /// What stands behind `wasi:keyvalue`.
    pub keyvalue: Option<Arc<dyn KeyValue>>,
    /// What stands behind `baton:calls`, for this one attempt.
    pub calls: Option<Arc<dyn Calls>>,
}

/// What comes of asking a service.
pub type Asked<'a, T, E> = Pin<Box<dyn Future<Output = Result<T, E>> + Send + 'a>>;

/// Buckets of keys and values. Keys and values are within the engine's limits when they come here. `bytes_max` is how
/// much all buckets of the tenant may hold; a write that would exceed it writes nothing.
pub trait KeyValue: Send + Sync {
    /// The values under these keys, in order, if they are not more than `bytes_max` together.
    fn get<'a>(
        &'a self,
        bucket: &'a Bucket,
        keys: &'a [String],
        bytes_max: usize,
    ) -> Asked<'a, Vec<Option<Vec<u8>>>, KeyValueError>;

    /// Whether there is a value under this key.
    fn exists<'a>(&'a self, bucket: &'a Bucket, key: &'a str) -> Asked<'a, bool, KeyValueError>;

    /// Some keys, from a cursor on (0 at first), and the cursor of the next; none if that was all.
    fn keys<'a>(&'a self, bucket: &'a Bucket, cursor: u64) -> Asked<'a, (Vec<String>, Option<u64>), KeyValueError>;

    /// Writes all pairs or none.
    fn set<'a>(
        &'a self,
        bucket: &'a Bucket,
        pairs: &'a [(String, Vec<u8>)],
        bytes_max: u64,
    ) -> Asked<'a, (), KeyValueError>;

    /// Takes pairs out, as far as they are there.
    fn delete<'a>(&'a self, bucket: &'a Bucket, keys: &'a [String]) -> Asked<'a, (), KeyValueError>;

    /// Adds to a number and gives the sum; what is not there is 0.
    fn increment<'a>(
        &'a self,
        bucket: &'a Bucket,
        key: &'a str,
        delta: i64,
        bytes_max: u64,
    ) -> Asked<'a, i64, KeyValueError>;

    /// Writes a value if what stands there is still `read`. False if something else does.
    fn swap<'a>(
        &'a self,
        bucket: &'a Bucket,
        key: &'a str,
        read: Option<&'a [u8]>,
        value: &'a [u8],
        bytes_max: u64,
    ) -> Asked<'a, bool, KeyValueError>;
}

/// Why a bucket was not read or written. The guest reads the text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyValueError {
    /// The tenant has no room for it.
    #[error(
        "the tenant's buckets would hold {bytes} bytes, they may hold {bytes_max}; delete what is not needed, or have \
         the operator raise `stored_bytes` in tenant.toml and in [tenants.quotas]"
    )]
    Full {
        /// What they would hold.
        bytes: u64,
        /// What they may.
        bytes_max: u64,
    },
    /// The answer is too large.
    #[error("these values have {bytes} bytes together, one answer may have {bytes_max}; ask for fewer at once")]
    TooMuch {
        /// What they have.
        bytes: u64,
        /// What an answer may.
        bytes_max: usize,
    },
    /// There is nothing to add to.
    #[error("what stands there is no whole number, or the sum needs more than 64 bits")]
    NoNumber,
    /// The store cannot be reached, or is not able to do it.
    #[error("the store is not available: {0}")]
    Unavailable(String),
}

/// Calls of other functions, on behalf of one call.
pub trait Calls: Send + Sync {
    /// Calls and waits for the answer, which is a media type and a body, for as long as `patience`.
    fn call(&self, request: Request, patience: Duration) -> Asked<'_, (String, Vec<u8>), CallsError>;

    /// Calls and does not wait. The answer is of use for so long, if anything is said. Gives the call's id.
    fn send(&self, request: Request, useful: Option<Duration>) -> Asked<'_, String, CallsError>;
}

/// A call that a guest asks for, as it says it.
#[derive(Debug, Clone)]
pub struct Request {
    /// The function, by its name alone: the tenant is the guest's own.
    pub function: String,
    /// The input.
    pub payload: Vec<u8>,
    /// Media type of the input.
    pub media_type: String,
    /// An id of the guest's own.
    pub id: Option<String>,
    /// `x-…` headers.
    pub headers: Vec<(String, String)>,
}

/// Why a call has no answer. The guest reads the text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CallsError {
    /// It was not granted.
    #[error("{function:?} is not granted; name it in `[grants.calls] functions` of the manifest")]
    Denied {
        /// What was asked for.
        function: String,
    },
    /// It breaks a rule.
    #[error("{0}")]
    Invalid(String),
    /// Too many calls wait for each other.
    #[error("{depth_max} calls wait for each other already; does a function call itself?")]
    TooDeep {
        /// How many may.
        depth_max: u32,
    },
    /// It ended without an answer.
    #[error("{code}: {message}")]
    Failed {
        /// For programs.
        code: String,
        /// For people.
        message: String,
    },
    /// There was no answer in time.
    #[error("call {id} has not ended in time; it may still be run")]
    TimedOut {
        /// The call.
        id: String,
    },
    /// The host cannot do it now.
    #[error("{0}")]
    Unavailable(String),
}
