//! Buckets of keys and values that outlive a call, as the manifest grants them under `[grants.keyvalue]`.
//!
//! ```
//! use baton_sdk::keyvalue::Bucket;
//! use baton_sdk::prelude::*;
//!
//! #[baton_sdk::function]
//! fn count(name: String) -> Result<u64> {
//!     Ok(Bucket::open("default")?.increment(&name, 1)?)
//! }
//!
//! // In a test the bucket is in memory, and the test's own.
//! assert_eq!(count("ada".to_owned()), Ok(1));
//! assert_eq!(count("ada".to_owned()), Ok(2));
//! ```
//!
//! A key has at most 1 KiB and a value at most 1 MiB. What all functions of a tenant keep together has a limit too.

use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt;

use crate::Bytes;

/// An open bucket.
#[derive(Debug)]
pub struct Bucket(host::Bucket);

/// Why a bucket could not be opened, read or written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error(String);

impl fmt::Display for Error {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl core::error::Error for Error {}

/// Some of a bucket's keys.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Keys {
    /// The keys, in no order.
    pub keys: Vec<String>,
    /// What to ask for the next with; none if these were the last.
    pub next: Option<u64>,
}

impl Bucket {
    /// Opens a bucket by its name in the manifest.
    ///
    /// # Errors
    /// If the manifest does not grant it.
    pub fn open(name: &str) -> Result<Self, Error> {
        host::open(name).map(Self)
    }

    /// The value under a key.
    ///
    /// # Errors
    /// If the host cannot read it.
    pub fn get(&self, key: &str) -> Result<Option<Bytes>, Error> {
        Ok(host::get(&self.0, key)?.map(Bytes::from))
    }

    /// Writes a value, in place of the one that is there.
    ///
    /// # Errors
    /// If it is too large, the tenant has no room for it, or the host cannot write it.
    pub fn set(&self, key: &str, value: impl AsRef<[u8]>) -> Result<(), Error> {
        host::set(&self.0, key, value.as_ref())
    }

    /// Takes a key and its value out, if they are there.
    ///
    /// # Errors
    /// If the host cannot.
    pub fn delete(&self, key: &str) -> Result<(), Error> {
        host::delete(&self.0, key)
    }

    /// Whether there is a value under a key.
    ///
    /// # Errors
    /// If the host cannot tell.
    pub fn exists(&self, key: &str) -> Result<bool, Error> {
        host::exists(&self.0, key)
    }

    /// Adds to a number and gives the sum, in one step whoever else does the same. It is kept as decimal text, and what is
    /// not there is 0.
    ///
    /// # Errors
    /// If what stands there is no whole number, the sum is above [`i64::MAX`], or the host cannot.
    pub fn increment(&self, key: &str, delta: u64) -> Result<u64, Error> {
        host::increment(&self.0, key, delta)
    }

    /// Some keys: the first ones, or those after an earlier page. A key that is there all the time comes at least once.
    ///
    /// # Errors
    /// If the host cannot.
    pub fn keys(&self, after: Option<u64>) -> Result<Keys, Error> {
        let (keys, next) = host::keys(&self.0, after)?;
        Ok(Keys { keys, next })
    }

    /// The values under several keys, in order, in one go.
    ///
    /// # Errors
    /// If they are too many or too large together, or the host cannot.
    pub fn get_many(&self, keys: &[&str]) -> Result<Vec<Option<Bytes>>, Error> {
        let keys: Vec<String> = keys.iter().map(ToString::to_string).collect();
        Ok(host::get_many(&self.0, &keys)?.into_iter().map(|value| value.map(Bytes::from)).collect())
    }

    /// Writes several pairs, all or none, in one go.
    ///
    /// # Errors
    /// As [`Bucket::set`], or if they are too many.
    pub fn set_many(&self, pairs: &[(String, Vec<u8>)]) -> Result<(), Error> {
        host::set_many(&self.0, pairs)
    }
}

#[cfg(all(target_os = "wasi", target_env = "p2"))]
mod host {
    use super::{Error, String, ToString, Vec};
    use crate::bindings::wasi::keyvalue::{atomics, batch, store};

    pub(super) use store::Bucket;

    impl From<store::Error> for Error {
        fn from(error: store::Error) -> Self {
            Self(match error {
                store::Error::NoSuchStore => "the manifest grants no bucket of that name".to_string(),
                store::Error::AccessDenied => "the bucket may not be used".to_string(),
                store::Error::Other(reason) => reason,
            })
        }
    }

    pub(super) fn open(name: &str) -> Result<Bucket, Error> {
        Ok(store::open(name)?)
    }

    pub(super) fn get(bucket: &Bucket, key: &str) -> Result<Option<Vec<u8>>, Error> {
        Ok(bucket.get(key)?)
    }

    pub(super) fn set(bucket: &Bucket, key: &str, value: &[u8]) -> Result<(), Error> {
        Ok(bucket.set(key, value)?)
    }

    pub(super) fn delete(bucket: &Bucket, key: &str) -> Result<(), Error> {
        Ok(bucket.delete(key)?)
    }

    pub(super) fn exists(bucket: &Bucket, key: &str) -> Result<bool, Error> {
        Ok(bucket.exists(key)?)
    }

    pub(super) fn increment(bucket: &Bucket, key: &str, delta: u64) -> Result<u64, Error> {
        Ok(atomics::increment(bucket, key, delta)?)
    }

    pub(super) fn keys(bucket: &Bucket, after: Option<u64>) -> Result<(Vec<String>, Option<u64>), Error> {
        let page = bucket.list_keys(after)?;
        Ok((page.keys, page.cursor))
    }

    pub(super) fn get_many(bucket: &Bucket, keys: &[String]) -> Result<Vec<Option<Vec<u8>>>, Error> {
        Ok(batch::get_many(bucket, keys)?.into_iter().map(|pair| pair.map(|(_, value)| value)).collect())
    }

    pub(super) fn set_many(bucket: &Bucket, pairs: &[(String, Vec<u8>)]) -> Result<(), Error> {
        Ok(batch::set_many(bucket, pairs)?)
    }
}

/// In memory, for the test that this thread runs. Every bucket is granted.
#[cfg(not(all(target_os = "wasi", target_env = "p2")))]
mod host {
    use std::cell::RefCell;
    use std::collections::BTreeMap;

    use super::{Error, String, ToString, Vec};

    pub(super) type Bucket = String;

    std::thread_local! {
        static PAIRS: RefCell<BTreeMap<(String, String), Vec<u8>>> = const { RefCell::new(BTreeMap::new()) };
    }

    fn place(bucket: &str, key: &str) -> (String, String) {
        (bucket.to_string(), key.to_string())
    }

    pub(super) fn open(name: &str) -> Result<Bucket, Error> {
        Ok(name.to_string())
    }

    pub(super) fn get(bucket: &str, key: &str) -> Result<Option<Vec<u8>>, Error> {
        Ok(PAIRS.with_borrow(|pairs| pairs.get(&place(bucket, key)).cloned()))
    }

    pub(super) fn set(bucket: &str, key: &str, value: &[u8]) -> Result<(), Error> {
        PAIRS.with_borrow_mut(|pairs| pairs.insert(place(bucket, key), value.to_vec()));
        Ok(())
    }

    pub(super) fn delete(bucket: &str, key: &str) -> Result<(), Error> {
        PAIRS.with_borrow_mut(|pairs| pairs.remove(&place(bucket, key)));
        Ok(())
    }

    pub(super) fn exists(bucket: &str, key: &str) -> Result<bool, Error> {
        Ok(get(bucket, key)?.is_some())
    }

    pub(super) fn increment(bucket: &str, key: &str, delta: u64) -> Result<u64, Error> {
        let no_number = || Error("what stands there is no whole number, or the sum is too large".to_string());
        let old = get(bucket, key)?.unwrap_or_else(|| b"0".to_vec());
        let old: u64 = String::from_utf8(old).ok().and_then(|text| text.parse().ok()).ok_or_else(no_number)?;
        let sum = old.checked_add(delta).filter(|sum| i64::try_from(*sum).is_ok()).ok_or_else(no_number)?;
        set(bucket, key, sum.to_string().as_bytes())?;
        Ok(sum)
    }

    pub(super) fn keys(bucket: &str, _: Option<u64>) -> Result<(Vec<String>, Option<u64>), Error> {
        let keys = PAIRS.with_borrow(|pairs| {
            let places = pairs.keys().filter(|(name, _)| name == bucket);
            places.map(|(_, key)| key.clone()).collect()
        });
        Ok((keys, None))
    }

    pub(super) fn get_many(bucket: &str, keys: &[String]) -> Result<Vec<Option<Vec<u8>>>, Error> {
        keys.iter().map(|key| get(bucket, key)).collect()
    }

    pub(super) fn set_many(bucket: &str, pairs: &[(String, Vec<u8>)]) -> Result<(), Error> {
        pairs.iter().try_for_each(|(key, value)| set(bucket, key, value))
    }
}
