//! What the engine, its components and their attempts share. Nothing happens here.

use std::sync::Arc;

use baton_model::Digest;
use wasmtime::component::Linker;

use crate::bindings::FunctionPre;
use crate::cache::Cache;
use crate::egress::Egress;
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
    pub(crate) memory_bytes_max: usize,
    /// Sends the requests of those that were granted any.
    pub(crate) egress: Egress,
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
