//! The engine: made once a process, loads components. Running them is the component's.

use std::path::PathBuf;
use std::sync::Arc;

use baton_model::Grants;
use wasmtime::component::{HasSelf, Linker};

use crate::bindings::wasi::logging::logging;
use crate::cache::{Cache, CacheError};
use crate::calls;
use crate::check::{self, LoadError};
use crate::component::Component;
use crate::config::EngineConfig;
use crate::durable;
use crate::egress::Egress;
use crate::keyvalue;
use crate::loaded::Shared;
use crate::pauses;
use crate::scratch::{self, Home};
use crate::settings;
use crate::state::State;
use crate::ticker::Ticker;
use crate::turns::Turns;

/// Loads and runs components. Clones are the same engine; its clock stops with the last clone and the last component.
#[derive(Clone)]
pub struct Engine(Arc<Shared>);

/// Why there is no engine.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// wasmtime refuses the settings, or the machine has no room for the pool.
    #[error("cannot set up an engine for {instances_max} instances: {reason}; try fewer, or a larger `ulimit -v`")]
    Settings {
        /// How many instances were asked for.
        instances_max: u32,
        /// wasmtime's words.
        reason: String,
    },
    /// The host's own interfaces cannot be offered.
    #[error("cannot offer the host's interfaces: {0}")]
    Interfaces(String),
    /// The cache directory is not to be trusted, or cannot be used.
    #[error("cannot use the cache directory {}: {reason}", .path.display())]
    Cache {
        /// The directory.
        path: PathBuf,
        /// What is wrong with it, and what to do.
        reason: CacheError,
    },
    /// There is no place for scratch directories.
    #[error("cannot keep scratch files in {}: {reason}; make it writable, or set `data.dir` to a folder that is", .path.display())]
    Scratch {
        /// The directory.
        path: PathBuf,
        /// What is wrong with it.
        reason: std::io::Error,
    },
    /// The clock's thread did not start.
    #[error("cannot start the engine's clock: {0}")]
    Clock(std::io::Error),
}

impl Engine {
    /// Makes the engine, its pool and its clock, and opens the cache.
    ///
    /// # Errors
    /// [`EngineError`] if the machine, the settings or the cache directory do not allow it.
    pub fn new(config: EngineConfig) -> Result<Self, EngineError> {
        let refused = |e: wasmtime::Error| EngineError::Settings {
            instances_max: config.instances_max,
            reason: format!("{e:#}"),
        };
        let settings = config.to_wasmtime().map_err(refused)?;
        let wasmtime = wasmtime::Engine::new(&settings).map_err(refused)?;
        let linker = linker(&wasmtime).map_err(|e| EngineError::Interfaces(format!("{e:#}")))?;
        let cache = match config.cache_dir {
            None => None,
            Some(path) => {
                Some(Cache::open(path.clone(), &wasmtime).map_err(|reason| EngineError::Cache { path, reason })?)
            }
        };
        let ticker = Ticker::start(wasmtime.clone()).map_err(EngineError::Clock)?;
        let memory_bytes_max = config.memory_bytes_max;
        let egress = Egress::new(config.egress_networks);
        let scratch = match config.scratch_dir {
            None => None,
            Some(path) => Some(Home::open(&path).map_err(|reason| EngineError::Scratch { path, reason })?),
        };
        Ok(Self(Arc::new(Shared {
            ticker,
            turns: Arc::new(Turns::new()),
            wasmtime,
            linker,
            cache,
            compiler: config.compiler,
            compile: config.compile,
            memory_bytes_max,
            egress,
            scratch,
        })))
    }

    /// Checks a file's bytes, has them compiled or takes the machine code from the cache, demands the exact exports and
    /// resolves the imports, each of which must be offered to everybody or granted. It takes milliseconds to seconds of
    /// CPU time: call it where blocking is allowed.
    ///
    /// # Errors
    /// [`LoadError`] says which rule the file breaks and how to mend it.
    pub fn load(&self, bytes: &[u8], grants: &Grants) -> Result<Component, LoadError> {
        check::kind(bytes)?;
        let digest = baton_model::Digest::of(bytes);
        let cached = self.0.cache.as_ref().and_then(|cache| cache.load(&self.0.wasmtime, &digest));
        let (code, fresh) = match cached {
            Some(code) => (code, None),
            None => {
                let (code, artifact) = self.0.compile(bytes)?;
                (code, Some(artifact))
            }
        };
        let imports = check::names(&self.0.wasmtime, &code, grants)?;
        let instance =
            self.0.linker.instantiate_pre(&code).map_err(|e| LoadError::WrongTypes(check::brief(&format!("{e:#}"))))?;
        // The first instance would do this; it is no work for a call.
        code.initialize_copy_on_write_image().map_err(|e| LoadError::Host(format!("{e:#}")))?;
        let from_cache = fresh.is_none();
        if let (Some(artifact), Some(cache)) = (fresh, &self.0.cache) {
            cache.store(&digest, artifact);
        }
        Component::new(Arc::clone(&self.0), digest, bytes.len(), imports, from_cache, instance)
    }
}

/// Everything that a function may import if it was granted. Who was, is looked at before: see `offer`.
fn linker(engine: &wasmtime::Engine) -> wasmtime::Result<Linker<State>> {
    let mut linker = Linker::new(engine);
    wasmtime_wasi::p2::add_to_linker_async(&mut linker)?;
    logging::add_to_linker::<State, HasSelf<State>>(&mut linker, |state| state)?;
    settings::add_to_linker(&mut linker)?;
    scratch::add_to_linker(&mut linker)?;
    wasmtime_wasi_http::p2::add_only_http_to_linker_async(&mut linker)?;
    keyvalue::add_to_linker(&mut linker)?;
    calls::add_to_linker(&mut linker)?;
    durable::add_to_linker(&mut linker)?;
    pauses::add_to_linker(&mut linker)?;
    Ok(linker)
}
