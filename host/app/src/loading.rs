//! Loading one function: read, check the pin, compile off the call path, try one instance.

use std::sync::Arc;
use std::time::{Duration, Instant};

use baton_engine::{Component, Engine};
use baton_model::mutants::{Rule, is_left_out};
use baton_model::{Digest, FunctionId, RetryPolicy};
use tokio::sync::Semaphore;

use crate::catalog::Revision;
use crate::folder::{self, Contents, Found};
use crate::metrics::Metrics;
use crate::policy::{Manifest, Secrets, Terms};
use crate::services::{Providers, trial_services};
use crate::tenants::Allowed;

/// How a load ended.
pub(crate) enum Ended {
    /// It can take calls.
    Loaded {
        /// The new revision.
        revision: Arc<Revision>,
        /// From the stable file to here.
        took: Duration,
    },
    /// It is what is loaded already.
    Same,
    /// The file changed while it was read.
    Changed,
    /// It is no function that this host runs.
    Refused {
        /// Which component, if it could be read.
        digest: Option<Digest>,
        /// The rule and the mend.
        reason: String,
    },
}

/// Loads functions, no more at once than the machine has cores.
#[derive(Clone)]
pub(crate) struct Loader {
    engine: Engine,
    retry: RetryPolicy,
    secrets: Secrets,
    providers: Providers,
    metrics: Arc<Metrics>,
    turns: Arc<Semaphore>,
}

/// What is to become a revision once its trial has gone well.
struct Draft {
    component: Component,
    bytes: Option<Arc<[u8]>>,
    terms: Terms,
}

impl Loader {
    pub(crate) fn new(
        engine: Engine,
        retry: RetryPolicy,
        secrets: Secrets,
        providers: Providers,
        metrics: Arc<Metrics>,
    ) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Self { engine, retry, secrets, providers, metrics, turns: Arc::new(Semaphore::new(cores)) }
    }

    /// Loads what was found, on the terms that its tenant is allowed.
    pub(crate) async fn load(
        &self,
        function: &FunctionId,
        found: Found,
        current: Option<Arc<Revision>>,
        allowed: Allowed,
    ) -> Ended {
        let started = Instant::now();
        let _turn = self.turns.acquire().await;
        let this = self.clone();
        let loaded = tokio::task::spawn_blocking(move || this.load_blocking(&found, current, &allowed)).await;
        let Draft { component, bytes, terms } = match loaded {
            Ok(Ok(draft)) => draft,
            Ok(Err(ended)) => return ended,
            Err(error) => return Ended::Refused { digest: None, reason: format!("loading it failed: {error}") },
        };
        let tried = match is_left_out(Rule::TrialInstance) {
            false => component.trial(&terms.limits, trial_services(function, &terms.grants)).await,
            true => Ok(()),
        };
        match tried {
            Ok(()) => {
                // Only what was loaded has a name in the metrics.
                let metrics = self.metrics.function(function);
                let services = self.providers.services(function, &terms.grants);
                let revision = Arc::new(Revision::new(function.clone(), component, bytes, terms, services, metrics));
                Ended::Loaded { revision, took: started.elapsed() }
            }
            Err(error) => Ended::Refused { digest: Some(component.digest()), reason: error.to_string() },
        }
    }

    fn load_blocking(&self, found: &Found, current: Option<Arc<Revision>>, allowed: &Allowed) -> Result<Draft, Ended> {
        let refused = |digest, reason| Ended::Refused { digest, reason };
        let caps = allowed.as_ref().as_ref();
        let caps = caps.map_err(|reason| refused(None, format!("its tenant's tenant.toml is wrong: {reason}")))?;
        let contents = folder::read(found).map_err(|reason| refused(None, reason))?.ok_or(Ended::Changed)?;
        let digest = Digest::of(&contents.component);
        let of_this = |reason| refused(Some(digest), reason);
        let Contents { component: bytes, manifest: text, digest: pinned, signature } = &contents;
        caps.trust.check(bytes, digest, pinned.as_deref(), signature.as_deref()).map_err(of_this)?;
        let manifest = match text {
            Some(text) => Manifest::parse(text).map_err(|e| of_this(format!("its manifest is wrong: {e}")))?,
            None => Manifest::default(),
        };
        let terms = manifest.terms(caps, &self.retry, &self.secrets).map_err(|wrong| {
            let wrong = wrong.found_in(text.as_deref().unwrap_or_default());
            of_this(format!("its manifest is wrong: {wrong}"))
        })?;
        let component = match current {
            Some(old) if old.component.digest() == digest && old.terms() == terms => return Err(Ended::Same),
            // What was held against the same grants before is not looked at again.
            Some(old) if old.component.digest() == digest && old.grants == terms.grants => old.component.clone(),
            Some(_) | None => self.engine.load(bytes, &terms.grants).map_err(|error| of_this(error.to_string()))?,
        };
        let bytes = component.is_durable().then(|| Arc::from(bytes.as_slice()));
        Ok(Draft { component, bytes, terms })
    }
}
