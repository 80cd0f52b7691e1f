//! What belongs to one attempt while it runs: its limits, its end, its log and, once it asks, its WASI context.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use baton_model::Setting;
use wasmtime::component::ResourceTable;
use wasmtime_wasi::{WasiCtx, WasiCtxView, WasiView};

use crate::bindings::wasi::logging::logging;
use crate::limiter::Limiter;
use crate::log::{CallLog, LogLevel, Pipe};
use crate::services::Services;
use crate::stdio::OutputPipe;

/// The most random bytes that a guest gets at once.
const RANDOM_BYTES_MAX: u64 = 64 << 10;

/// The most things of the host (streams, clocks, ...) that a guest holds at once.
pub(crate) const RESOURCES_MAX: usize = 4_096;

/// The data of one store.
pub(crate) struct State {
    pub(crate) limiter: Limiter,
    /// When the attempt is over.
    pub(crate) end: Instant,
    /// Whether the guest was interrupted because of that.
    pub(crate) is_interrupted: bool,
    log: Arc<CallLog>,
    /// What was granted beside the call; none for most functions.
    services: Option<Arc<Services>>,
    // Made when the guest first asks for anything of WASI: many import it and few calls use it.
    wasi: Option<Box<Wasi>>,
}

struct Wasi {
    ctx: WasiCtx,
    table: ResourceTable,
}

impl State {
    pub(crate) fn new(limiter: Limiter, end: Instant, log: CallLog, services: Option<Arc<Services>>) -> Self {
        Self { limiter, end, is_interrupted: false, log: Arc::new(log), services, wasi: None }
    }

    /// The function's settings, if it was granted any.
    pub(crate) fn config(&self) -> Option<&BTreeMap<String, Setting>> {
        self.services.as_ref()?.grants.config.as_ref()
    }
}

impl Wasi {
    /// Nothing is granted: no arguments, environment, directories or sockets, and an empty standard input.
    fn new(log: &Arc<CallLog>) -> Self {
        let ctx = WasiCtx::builder()
            .stdout(OutputPipe { log: Arc::clone(log), pipe: Pipe::Stdout })
            .stderr(OutputPipe { log: Arc::clone(log), pipe: Pipe::Stderr })
            .allow_tcp(false)
            .allow_udp(false)
            .allow_ip_name_lookup(false)
            .max_random_size(RANDOM_BYTES_MAX)
            .build();
        let mut table = ResourceTable::new();
        table.set_max_capacity(RESOURCES_MAX);
        Self { ctx, table }
    }
}

impl WasiView for State {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        let wasi = self.wasi.get_or_insert_with(|| Box::new(Wasi::new(&self.log)));
        WasiCtxView { ctx: &mut wasi.ctx, table: &mut wasi.table }
    }
}

impl logging::Host for State {
    fn log(&mut self, level: logging::Level, context: String, message: String) {
        let level = match level {
            logging::Level::Trace => LogLevel::Trace,
            logging::Level::Debug => LogLevel::Debug,
            logging::Level::Info => LogLevel::Info,
            logging::Level::Warn => LogLevel::Warn,
            logging::Level::Error => LogLevel::Error,
            logging::Level::Critical => LogLevel::Critical,
        };
        self.log.log(level, &context, &message);
    }
}
