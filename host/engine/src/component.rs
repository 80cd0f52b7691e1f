//! One loaded component: what it is, one trial of it, and the way into an attempt.

use std::sync::Arc;

use baton_model::{Digest, Grants, Limits, Outcome};
use wasmtime::component::InstancePre;

use crate::attempt::{self, Executed, Invocation};
use crate::bindings::FunctionPre;
use crate::check::{self, LoadError, brief};
use crate::durable;
use crate::loaded::{Loaded, Shared};
use crate::services::Services;
use crate::state::State;

/// A component that is ready to be called. Clones are the same component; its machine code is unmapped with the last
/// clone and the last attempt.
#[derive(Clone)]
pub struct Component(Arc<Loaded>);

impl Component {
    pub(crate) fn new(
        engine: Arc<Shared>,
        digest: Digest,
        size_bytes: usize,
        imports: Vec<String>,
        from_cache: bool,
        instance: InstancePre<State>,
    ) -> Result<Self, LoadError> {
        let function = FunctionPre::new(instance).map_err(|e| LoadError::WrongTypes(brief(&format!("{e:#}"))))?;
        Ok(Self(Arc::new(Loaded { engine, function, digest, size_bytes, imports, from_cache })))
    }

    /// The SHA-256 of the file.
    #[must_use]
    pub fn digest(&self) -> Digest {
        self.0.digest
    }

    /// The file's size.
    #[must_use]
    pub fn size_bytes(&self) -> usize {
        self.0.size_bytes
    }

    /// The interfaces that it imports.
    #[must_use]
    pub fn imports(&self) -> &[String] {
        &self.0.imports
    }

    /// Whether it is durable: it takes the steps of an execution.
    #[must_use]
    pub fn is_durable(&self) -> bool {
        self.0.imports.iter().any(|import| import == durable::NAME)
    }

    /// Whether its machine code came from the cache.
    #[must_use]
    pub fn from_cache(&self) -> bool {
        self.0.from_cache
    }

    /// Whether it may be run with these grants: those under which it was loaded, or a changed manifest's.
    ///
    /// # Errors
    /// [`LoadError::NotGranted`] names the imports that they do not cover, and how to mend it.
    pub fn fits(&self, grants: &Grants) -> Result<(), LoadError> {
        check::granted(&self.0.imports, grants)
    }

    /// Makes one instance under these limits, at most ten seconds long, checks the handler's type and drops it. The
    /// handler is not called. What its start reaches beside it is what stands in `services`.
    ///
    /// # Errors
    /// [`LoadError::Trial`] if the instance traps, exits, takes too long or needs too much;
    /// [`LoadError::WrongTypes`] if the handler is not the contract's; [`LoadError::Host`] if the pool is exhausted.
    pub async fn trial(&self, limits: &Limits, services: Option<Arc<Services>>) -> Result<(), LoadError> {
        attempt::trial(&self.0, limits, services).await
    }

    /// Runs one attempt in a fresh instance. Dropping the future stops the guest.
    pub async fn execute(&self, invocation: Invocation) -> Outcome {
        self.execute_timed(invocation).await.outcome
    }

    /// The same, and says how long making the instance and running it took.
    pub async fn execute_timed(&self, invocation: Invocation) -> Executed {
        attempt::execute(&self.0, invocation).await
    }
}
