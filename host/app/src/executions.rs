//! What hosts need to run executions beside what calls need: their logs, and the components that they stay on.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use baton_broker::{BrokerConfig, BrokerError, Executions};
use baton_engine::{Component, Engine};
use baton_model::{Digest, FunctionId, Grants};

use crate::catalog::Revision;

/// How many components are held that are not in the catalog.
const OLD_MAX: usize = 64;

/// Shared by all executions of a host.
pub(crate) struct Shelf {
    pub(crate) redis: Executions,
    engine: Engine,
    /// When a component was last told to be kept. A lock and no message: it is held for one map operation.
    kept: Mutex<HashMap<(FunctionId, Digest), Instant>>,
    /// Components that executions run on and that the catalog does not have, and when each was last needed. A lock and no
    /// message, for the same reason.
    old: Mutex<HashMap<(FunctionId, Digest), (Component, Instant)>>,
    /// Whoever loads one of those. After a restart many executions need the same one at once, and it is loaded once.
    loading: tokio::sync::Mutex<()>,
}

impl Shelf {
    /// Connects to nothing yet.
    pub(crate) fn new(broker: &BrokerConfig, engine: Engine) -> Result<Self, BrokerError> {
        let (kept, old, loading) = (Mutex::default(), Mutex::default(), tokio::sync::Mutex::default());
        Ok(Self { redis: Executions::new(broker)?, engine, kept, old, loading })
    }

    /// Sees to it that every host can have this revision's component for as long as executions run on it.
    pub(crate) async fn keep(&self, revision: &Revision) -> Result<(), BrokerError> {
        let Some(bytes) = &revision.bytes else { return Ok(()) };
        let name = (revision.function.clone(), revision.component.digest());
        let lasts = self.redis.kept_for() / 2;
        let is_kept = |kept: &HashMap<_, Instant>| kept.get(&name).is_some_and(|since| since.elapsed() < lasts);
        if is_kept(&self.kept.lock().unwrap_or_else(PoisonError::into_inner)) {
            return Ok(());
        }
        self.redis.keep(&revision.function, &name.1, bytes).await?;
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).insert(name, Instant::now());
        Ok(())
    }

    /// A component that the catalog does not have. The text says why it cannot be had, for people.
    pub(crate) async fn old(
        &self,
        function: &FunctionId,
        digest: Digest,
        grants: &Arc<Grants>,
    ) -> Result<Result<Component, String>, BrokerError> {
        let name = (function.clone(), digest);
        if let Some(component) = self.held(&name) {
            return Ok(Ok(component));
        }
        let _turn = self.loading.lock().await;
        if let Some(component) = self.held(&name) {
            return Ok(Ok(component));
        }
        let Some(bytes) = self.redis.component(function, &digest).await? else {
            return Ok(Err(format!("its component {digest} is not kept any more")));
        };
        if Digest::of(&bytes) != digest {
            return Ok(Err(format!("what is kept as its component {digest} is something else")));
        }
        let (engine, grants) = (self.engine.clone(), grants.clone());
        let loaded = tokio::task::spawn_blocking(move || engine.load(&bytes, &grants)).await;
        let component = match loaded {
            Ok(Ok(component)) => component,
            Ok(Err(error)) => return Ok(Err(format!("its component {digest} cannot be loaded: {error}"))),
            Err(error) => return Ok(Err(format!("loading its component {digest} failed: {error}"))),
        };
        let mut old = self.old.lock().unwrap_or_else(PoisonError::into_inner);
        if old.len() >= OLD_MAX
            && let Some(longest) = old.iter().min_by_key(|(_, (_, needed))| *needed).map(|(name, _)| name.clone())
        {
            old.remove(&longest);
        }
        old.insert(name, (component.clone(), Instant::now()));
        Ok(Ok(component))
    }

    fn held(&self, name: &(FunctionId, Digest)) -> Option<Component> {
        let mut old = self.old.lock().unwrap_or_else(PoisonError::into_inner);
        let (component, needed) = old.get_mut(name)?;
        *needed = Instant::now();
        Some(component.clone())
    }
}
