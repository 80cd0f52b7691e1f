//! What stands behind the grants of functions: the engine's traits over the broker.

mod turns;

use std::sync::Arc;

use baton_broker::{BrokerConfig, BrokerError, Incremented, KeyValue, Stored, Swapped, TooMuch};
use baton_engine::{Asked, KeyValueError, Services};
use baton_model::{Bucket, FunctionId, Grants};

use turns::Turns;

/// What the functions of this host share of it.
#[derive(Clone)]
pub(crate) struct Providers {
    buckets: Arc<Buckets>,
}

impl Providers {
    /// Connects to nothing yet.
    pub(crate) fn new(broker: &BrokerConfig) -> Result<Self, BrokerError> {
        Ok(Self { buckets: Arc::new(Buckets { store: KeyValue::new(broker)?, turns: Turns::default() }) })
    }

    /// What a function with these grants is given with each call; none if it was granted nothing that takes any.
    pub(crate) fn services(&self, function: &FunctionId, grants: &Arc<Grants>) -> Option<Arc<Services>> {
        let Grants { logging: _, clock: _, random: _, config, keyvalue, http, scratch, calls } = &**grants;
        let is_nothing =
            config.is_none() && keyvalue.is_none() && http.is_none() && scratch.is_none() && calls.is_none();
        (!is_nothing).then(|| {
            Arc::new(Services {
                function: function.clone(),
                grants: grants.clone(),
                calls: None,
                keyvalue: keyvalue.is_some().then(|| self.buckets.clone() as Arc<dyn baton_engine::KeyValue>),
            })
        })
    }
}

/// What a trial of a function with these grants sees of them: its settings, and nothing that reaches outside.
pub(crate) fn trial_services(function: &FunctionId, grants: &Grants) -> Option<Arc<Services>> {
    let config = Some(grants.config.clone()?);
    let grants = Arc::new(Grants { config, ..Grants::default() });
    Some(Arc::new(Services { function: function.clone(), grants, keyvalue: None, calls: None }))
}

/// What Redis looks at for a page of keys, as far as turns go.
const PAGE_BYTES: usize = 128 << 10;

/// Buckets in Redis.
struct Buckets {
    store: KeyValue,
    turns: Turns,
}

fn bytes_of(values: &[Option<Vec<u8>>]) -> usize {
    values.iter().flatten().map(Vec::len).sum()
}

impl baton_engine::KeyValue for Buckets {
    fn get<'a>(
        &'a self,
        bucket: &'a Bucket,
        keys: &'a [String],
        bytes_max: usize,
    ) -> Asked<'a, Vec<Option<Vec<u8>>>, KeyValueError> {
        Box::pin(async move {
            let turn = self.turns.next(&bucket.tenant).await;
            if let [key] = keys {
                let found = vec![self.store.get(bucket, key).await.map_err(unavailable)?];
                turn.ended(1, bytes_of(&found));
                return Ok(found);
            }
            let found = self.store.get_many(bucket, keys, bytes_max).await.map_err(unavailable)?;
            turn.ended(keys.len(), found.as_ref().map_or(0, |found| bytes_of(found)));
            found.map_err(|TooMuch { bytes }| KeyValueError::TooMuch { bytes, bytes_max })
        })
    }

    fn exists<'a>(&'a self, bucket: &'a Bucket, key: &'a str) -> Asked<'a, bool, KeyValueError> {
        Box::pin(async move {
            let turn = self.turns.next(&bucket.tenant).await;
            let is_there = self.store.exists(bucket, key).await.map_err(unavailable)?;
            turn.ended(1, 0);
            Ok(is_there)
        })
    }

    fn keys<'a>(&'a self, bucket: &'a Bucket, cursor: u64) -> Asked<'a, (Vec<String>, Option<u64>), KeyValueError> {
        Box::pin(async move {
            let turn = self.turns.next(&bucket.tenant).await;
            let page = self.store.keys(bucket, cursor).await.map_err(unavailable)?;
            turn.ended(page.0.len(), PAGE_BYTES);
            Ok(page)
        })
    }

    fn set<'a>(
        &'a self,
        bucket: &'a Bucket,
        pairs: &'a [(String, Vec<u8>)],
        bytes_max: u64,
    ) -> Asked<'a, (), KeyValueError> {
        Box::pin(async move {
            let turn = self.turns.next(&bucket.tenant).await;
            let end = self.store.set(bucket, pairs, bytes_max).await.map_err(unavailable)?;
            turn.ended(pairs.len(), pairs.iter().map(|(_, value)| value.len()).sum());
            stored(end, bytes_max)
        })
    }

    fn delete<'a>(&'a self, bucket: &'a Bucket, keys: &'a [String]) -> Asked<'a, (), KeyValueError> {
        Box::pin(async move {
            let turn = self.turns.next(&bucket.tenant).await;
            self.store.delete(bucket, keys).await.map_err(unavailable)?;
            turn.ended(keys.len(), 0);
            Ok(())
        })
    }

    fn increment<'a>(
        &'a self,
        bucket: &'a Bucket,
        key: &'a str,
        delta: i64,
        bytes_max: u64,
    ) -> Asked<'a, i64, KeyValueError> {
        Box::pin(async move {
            let turn = self.turns.next(&bucket.tenant).await;
            let end = self.store.increment(bucket, key, delta, bytes_max).await.map_err(unavailable)?;
            turn.ended(1, 0);
            match end {
                Incremented::To(sum) => Ok(sum),
                Incremented::NoNumber => Err(KeyValueError::NoNumber),
                Incremented::Full { bytes } => Err(KeyValueError::Full { bytes, bytes_max }),
            }
        })
    }

    fn swap<'a>(
        &'a self,
        bucket: &'a Bucket,
        key: &'a str,
        read: Option<&'a [u8]>,
        value: &'a [u8],
        bytes_max: u64,
    ) -> Asked<'a, bool, KeyValueError> {
        Box::pin(async move {
            let turn = self.turns.next(&bucket.tenant).await;
            let end = self.store.swap(bucket, key, read, value, bytes_max).await.map_err(unavailable)?;
            turn.ended(1, value.len() + read.map_or(0, <[u8]>::len));
            match end {
                Swapped::Stored(end) => stored(end, bytes_max).map(|()| true),
                Swapped::Other => Ok(false),
            }
        })
    }
}

fn stored(end: Stored, bytes_max: u64) -> Result<(), KeyValueError> {
    match end {
        Stored::Written => Ok(()),
        Stored::Full { bytes } => Err(KeyValueError::Full { bytes, bytes_max }),
    }
}

/// A function is told that it cannot be done, and no more: what stands in the error is the operator's.
fn unavailable(error: BrokerError) -> KeyValueError {
    tracing::warn!(%error, "a bucket could not be read or written");
    KeyValueError::Unavailable("try again later".to_owned())
}
