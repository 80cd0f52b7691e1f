//! What hosts need to run executions beside what calls need: their logs, and the components that they stay on.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use baton_broker::{BrokerConfig, BrokerError, Executions};
use baton_engine::{Component, Engine, LoadError};
use baton_model::{Digest, FunctionId, Grants};
use tokio::sync::OnceCell;

use crate::catalog::Revision;

/// Why a component cannot be had that Redis does not have.
pub(crate) const NOT_KEPT: &str =
    "is not kept: Redis has a component from the first execution that runs on it until some days after the last";

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
    old: Mutex<HashMap<(FunctionId, Digest), (Old, Instant)>>,
}

/// After a restart many executions need the same component at once, and it is loaded once; others do not wait for it.
type Old = Arc<OnceCell<Component>>;

/// Why an old component cannot be had.
enum Missing {
    Broker(BrokerError),
    /// How a sentence about it goes on, for people.
    Gone(String),
}

impl Shelf {
    /// Connects to nothing yet.
    pub(crate) fn new(broker: &BrokerConfig, engine: Engine) -> Result<Self, BrokerError> {
        Ok(Self { redis: Executions::new(broker)?, engine, kept: Mutex::default(), old: Mutex::default() })
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

    /// Forgets what it believes of a function's components: Redis has said otherwise.
    pub(crate) fn doubt(&self, function: &FunctionId) {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).retain(|(of, _), _| of != function);
        self.old.lock().unwrap_or_else(PoisonError::into_inner).retain(|(of, _), _| of != function);
    }

    /// A component that the catalog does not have. The text says why it cannot be had, as a sentence about it goes on.
    pub(crate) async fn old(
        &self,
        function: &FunctionId,
        digest: Digest,
        grants: &Arc<Grants>,
    ) -> Result<Result<Component, String>, BrokerError> {
        let held = self.held((function.clone(), digest));
        let component = held.get_or_try_init(|| self.load(function, digest, grants)).await;
        let unfit = |error: LoadError| format!("cannot be loaded: {error}");
        match component {
            // Its grants may be others than when it was loaded.
            Ok(component) => Ok(component.fits(grants).map(|()| component.clone()).map_err(unfit)),
            Err(Missing::Gone(why)) => Ok(Err(why)),
            Err(Missing::Broker(error)) => Err(error),
        }
    }

    async fn load(&self, function: &FunctionId, digest: Digest, grants: &Arc<Grants>) -> Result<Component, Missing> {
        let gone = |why: String| Err(Missing::Gone(why));
        let Some(bytes) = self.redis.component(function, &digest).await.map_err(Missing::Broker)? else {
            return gone(NOT_KEPT.to_owned());
        };
        if Digest::of(&bytes) != digest {
            return gone("is not what is kept under its name: that is something else".to_owned());
        }
        let (engine, grants) = (self.engine.clone(), grants.clone());
        match tokio::task::spawn_blocking(move || engine.load(&bytes, &grants)).await {
            Ok(Ok(component)) => Ok(component),
            Ok(Err(error)) => gone(format!("cannot be loaded: {error}")),
            Err(error) => gone(format!("could not be loaded: {error}")),
        }
    }

    fn held(&self, name: (FunctionId, Digest)) -> Old {
        let mut old = self.old.lock().unwrap_or_else(PoisonError::into_inner);
        if old.len() >= OLD_MAX
            && !old.contains_key(&name)
            && let Some(longest) = old.iter().min_by_key(|(_, (_, needed))| *needed).map(|(name, _)| name.clone())
        {
            old.remove(&longest);
        }
        let (component, needed) = old.entry(name).or_insert_with(|| (Old::default(), Instant::now()));
        *needed = Instant::now();
        component.clone()
    }
}
