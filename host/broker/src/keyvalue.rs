//! The buckets of functions: pairs of keys and values in Redis, counted for each tenant as they are written.
//!
//! Which bucket a function may open, and what a key or a value may be, is decided before it comes here.

use baton_model::{Bucket, PAIR_BYTES};
use redis::{Cmd, Value, cmd};

use crate::BrokerError;
use crate::keys::Keys;
use crate::link::{BrokerConfig, Link};
use crate::meter::Role;
use crate::script::Lua;

/// About how many keys one page has.
const PAGE_KEYS: usize = 256;
/// About how many bytes Redis looks at for one page.
const PAGE_BYTES: usize = 64 << 10;

/// How a write ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stored {
    /// It was written.
    Written,
    /// Nothing was: all buckets of the tenant would hold so many bytes.
    Full {
        /// How many.
        bytes: u64,
    },
}

/// How an addition ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Incremented {
    /// This is the sum.
    To(i64),
    /// Nothing was written: what stands there is no number, or the sum needs more than 64 bits.
    NoNumber,
    /// Nothing was written: all buckets of the tenant would hold so many bytes.
    Full {
        /// How many.
        bytes: u64,
    },
}

/// How a swap ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Swapped {
    /// As a write does.
    Stored(Stored),
    /// Nothing was written: something else stands there by now.
    Other,
}

/// Values that are too much to be handed over at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooMuch {
    /// How many bytes they have together.
    pub bytes: u64,
}

/// Some keys of a bucket, and where to go on; none if that was all.
pub type Page = (Vec<String>, Option<u64>);

/// Reads and writes buckets, on a connection of its own, so that functions do not delay each other's calls.
pub struct KeyValue {
    link: Link,
    keys: Keys,
    get: Lua,
    set: Lua,
    delete: Lua,
    increment: Lua,
    swap: Lua,
    list: Lua,
}

impl KeyValue {
    /// Buckets in this Redis. It connects on first use.
    ///
    /// # Errors
    /// [`BrokerError::BadUrl`].
    pub fn new(config: &BrokerConfig) -> Result<Self, BrokerError> {
        Ok(Self {
            link: Link::new(config.client()?).counted(config, Role::KeyValue),
            keys: config.keys(),
            get: Lua::new(include_str!("scripts/keyvalue_get.lua")),
            set: Lua::new(include_str!("scripts/keyvalue_set.lua")),
            delete: Lua::new(include_str!("scripts/keyvalue_delete.lua")),
            increment: Lua::new(include_str!("scripts/keyvalue_increment.lua")),
            swap: Lua::new(include_str!("scripts/keyvalue_swap.lua")),
            list: Lua::new(include_str!("scripts/keyvalue_list.lua")),
        })
    }

    /// The value under a key.
    ///
    /// # Errors
    /// Any [`BrokerError`].
    pub async fn get(&self, bucket: &Bucket, key: &str) -> Result<Option<Vec<u8>>, BrokerError> {
        optional(self.link.run(cmd("HGET").arg(self.keys.bucket(bucket)).arg(key)).await?)
    }

    /// Whether there is a value under a key.
    ///
    /// # Errors
    /// Any [`BrokerError`].
    pub async fn exists(&self, bucket: &Bucket, key: &str) -> Result<bool, BrokerError> {
        match self.link.run(cmd("HEXISTS").arg(self.keys.bucket(bucket)).arg(key)).await? {
            Value::Int(n) => Ok(n == 1),
            other => Err(BrokerError::shape("HEXISTS", &other)),
        }
    }

    /// The values under several keys, in order, unless they have more than `bytes_max` together.
    ///
    /// # Errors
    /// Any [`BrokerError`].
    pub async fn get_many(
        &self,
        bucket: &Bucket,
        keys: &[String],
        bytes_max: usize,
    ) -> Result<Result<Vec<Option<Vec<u8>>>, TooMuch>, BrokerError> {
        let mut call = self.get.call(1);
        call.arg(self.keys.bucket(bucket)).arg(bytes_max).arg(keys);
        match self.get.run(&self.link, &call).await? {
            Value::Array(values) => values.into_iter().map(optional).collect::<Result<_, _>>().map(Ok),
            Value::Int(bytes) => Ok(Err(TooMuch { bytes: u64::try_from(bytes).unwrap_or_default() })),
            other => Err(BrokerError::shape("keyvalue_get.lua", &other)),
        }
    }

    /// Writes pairs, all or none.
    ///
    /// # Errors
    /// Any [`BrokerError`]; whether they were written is then unknown, and it may be tried again.
    pub async fn set(
        &self,
        bucket: &Bucket,
        pairs: &[(String, Vec<u8>)],
        tenant_bytes_max: u64,
    ) -> Result<Stored, BrokerError> {
        let mut call = self.write(&self.set, bucket, tenant_bytes_max);
        for (key, value) in pairs {
            call.arg(key).arg(value);
        }
        match self.set.run(&self.link, &call).await? {
            Value::Int(-1) => Ok(Stored::Written),
            other => full(&other).ok_or_else(|| BrokerError::shape("keyvalue_set.lua", &other)),
        }
    }

    /// Takes pairs out; one that is not there is no error.
    ///
    /// # Errors
    /// Any [`BrokerError`]; whether they were taken out is then unknown, and it may be tried again.
    pub async fn delete(&self, bucket: &Bucket, keys: &[String]) -> Result<(), BrokerError> {
        let mut call = self.delete.call(2);
        call.arg(self.keys.bucket(bucket)).arg(self.keys.bucket_bytes(&bucket.tenant)).arg(PAIR_BYTES).arg(keys);
        self.delete.run(&self.link, &call).await.map(drop)
    }

    /// Adds to a number and gives the sum; nothing is 0.
    ///
    /// # Errors
    /// Any [`BrokerError`]; whether it was added is then unknown.
    pub async fn increment(
        &self,
        bucket: &Bucket,
        key: &str,
        delta: i64,
        tenant_bytes_max: u64,
    ) -> Result<Incremented, BrokerError> {
        let mut call = self.write(&self.increment, bucket, tenant_bytes_max);
        call.arg(key).arg(delta);
        match self.increment.run(&self.link, &call).await? {
            Value::Int(-1) => Ok(Incremented::NoNumber),
            Value::BulkString(sum) => match std::str::from_utf8(&sum).ok().and_then(|sum| sum.parse().ok()) {
                Some(sum) => Ok(Incremented::To(sum)),
                None => Err(BrokerError::shape("keyvalue_increment.lua", &sum)),
            },
            Value::Int(bytes) => Ok(Incremented::Full { bytes: u64::try_from(bytes).unwrap_or_default() }),
            other => Err(BrokerError::shape("keyvalue_increment.lua", &other)),
        }
    }

    /// Writes a value if what stands there is still `read`.
    ///
    /// # Errors
    /// Any [`BrokerError`]; whether it was written is then unknown.
    pub async fn swap(
        &self,
        bucket: &Bucket,
        key: &str,
        read: Option<&[u8]>,
        value: &[u8],
        tenant_bytes_max: u64,
    ) -> Result<Swapped, BrokerError> {
        let mut call = self.write(&self.swap, bucket, tenant_bytes_max);
        call.arg(key).arg(value);
        if let Some(read) = read {
            call.arg(read);
        }
        match self.swap.run(&self.link, &call).await? {
            Value::Int(-1) => Ok(Swapped::Stored(Stored::Written)),
            Value::Int(-2) => Ok(Swapped::Other),
            other => match full(&other) {
                Some(full) => Ok(Swapped::Stored(full)),
                None => Err(BrokerError::shape("keyvalue_swap.lua", &other)),
            },
        }
    }

    /// Some keys, from `cursor` on, which is 0 or what an earlier page ended with. A key that is there all the time is
    /// given at least once.
    ///
    /// # Errors
    /// Any [`BrokerError`].
    pub async fn keys(&self, bucket: &Bucket, cursor: u64) -> Result<Page, BrokerError> {
        let mut call = self.list.call(2);
        call.arg(self.keys.bucket(bucket)).arg(self.keys.bucket_bytes(&bucket.tenant));
        call.arg(cursor).arg(PAGE_KEYS).arg(PAGE_BYTES);
        let mut answer: Vec<Vec<u8>> = redis::from_redis_value(self.list.run(&self.link, &call).await?)
            .map_err(|error| BrokerError::shape("keyvalue_list.lua", &error.to_string()))?;
        let keys = answer.split_off(1.min(answer.len()));
        let next = answer.first().and_then(|text| std::str::from_utf8(text).ok()?.parse().ok());
        let next: u64 = next.ok_or_else(|| BrokerError::shape("keyvalue_list.lua", &answer))?;
        // What a function writes is text; what somebody else put there may not be.
        let keys = keys.into_iter().map(|key| String::from_utf8_lossy(&key).into_owned()).collect();
        Ok((keys, (next != 0).then_some(next)))
    }

    /// The start of a call that writes.
    fn write(&self, script: &Lua, bucket: &Bucket, tenant_bytes_max: u64) -> Cmd {
        let mut call = script.call(2);
        call.arg(self.keys.bucket(bucket)).arg(self.keys.bucket_bytes(&bucket.tenant));
        call.arg(tenant_bytes_max).arg(PAIR_BYTES);
        call
    }
}

fn full(answer: &Value) -> Option<Stored> {
    match answer {
        Value::Int(bytes) => u64::try_from(*bytes).ok().map(|bytes| Stored::Full { bytes }),
        _ => None,
    }
}

fn optional(answer: Value) -> Result<Option<Vec<u8>>, BrokerError> {
    match answer {
        Value::Nil => Ok(None),
        Value::BulkString(value) => Ok(Some(value)),
        other => Err(BrokerError::shape("HGET", &other)),
    }
}
