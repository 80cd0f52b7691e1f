//! What the engine, its components and their attempts share. Attempts are not made here.

use std::sync::Arc;

use baton_model::Digest;
use wasmtime::component::Linker;

use crate::artifact;
use crate::bindings::FunctionPre;
use crate::cache::Cache;
use crate::check::{self, LoadError, brief};
use crate::compiler::Compiler;
use crate::config::CompileSpeed;
use crate::egress::Egress;
use crate::scratch::Home;
use crate::state::State;
use crate::ticker::Ticker;
use crate::turns::Turns;

/// What every component holds on to.
pub(crate) struct Shared {
    // First, so that the clock's thread is gone before what it ticks.
    pub(crate) ticker: Ticker,
    pub(crate) turns: Arc<Turns>,
    pub(crate) wasmtime: wasmtime::Engine,
    pub(crate) linker: Linker<State>,
    pub(crate) cache: Option<Cache>,
    pub(crate) compiler: Compiler,
    pub(crate) compile: CompileSpeed,
    pub(crate) memory_bytes_max: usize,
    /// Sends the requests of those that were granted any.
    pub(crate) egress: Egress,
    /// Where the directories of those lie that were granted one; without it they get none.
    pub(crate) scratch: Option<Home>,
}

impl Shared {
    /// Checks a component's bytes, has them compiled, and gives the component with its artifact.
    pub(crate) fn compile(&self, bytes: &[u8]) -> Result<(wasmtime::component::Component, Vec<u8>), LoadError> {
        check::before_compiling(bytes)?;
        let code = self.compiler.compile(&self.wasmtime, self.compile, bytes)?;
        // It may need more than the pool has, which nobody looked at before.
        let component =
            artifact::load(&self.wasmtime, &code).map_err(|e| LoadError::Invalid(brief(&format!("{e:#}"))))?;
        Ok((component, code))
    }
}

/// One component, ready for instances.
pub(crate) struct Loaded {
    pub(crate) engine: Arc<Shared>,
    pub(crate) function: FunctionPre<State>,
    pub(crate) digest: Digest,
    pub(crate) size_bytes: usize,
    pub(crate) imports: Vec<String>,
    pub(crate) from_cache: bool,
}
