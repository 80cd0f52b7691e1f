//! What belongs to one attempt while it runs: its limits, its end, its log and, once it asks, its WASI context.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use baton_model::Setting;
use wasmtime::component::ResourceTable;
use wasmtime_wasi::{WasiCtx, WasiCtxView, WasiView};
use wasmtime_wasi_http::{WasiHttpCtxView, WasiHttpView};

use crate::bindings::wasi::logging::logging;
use crate::egress::{self, Egress, Outbox};
use crate::limiter::Limiter;
use crate::loaded::Shared;
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
    /// Who sends the requests of a function that was granted any.
    egress: Option<Egress>,
    // Made when the guest first asks for anything of WASI: many import it and few calls use it.
    wasi: Option<Box<Wasi>>,
}

struct Wasi {
    ctx: WasiCtx,
    table: ResourceTable,
    // Made with the first request, or header field.
    outbox: Option<Box<Outbox>>,
}

impl State {
    pub(crate) fn new(
        limiter: Limiter,
        end: Instant,
        log: CallLog,
        services: Option<Arc<Services>>,
        engine: &Shared,
    ) -> Self {
        let sends = services.as_ref().is_some_and(|services| services.grants.http.is_some());
        let egress = sends.then(|| engine.egress.clone());
        Self { limiter, end, is_interrupted: false, log: Arc::new(log), services, egress, wasi: None }
    }

    /// The function's settings, if it was granted any.
    pub(crate) fn config(&self) -> Option<&BTreeMap<String, Setting>> {
        self.services.as_ref()?.grants.config.as_ref()
    }

    fn wasi(&mut self) -> &mut Wasi {
        self.wasi.get_or_insert_with(|| {
            let resources_max = if self.egress.is_some() { egress::RESOURCES_MAX } else { RESOURCES_MAX };
            Box::new(Wasi::new(&self.log, resources_max))
        })
    }
}

impl Wasi {
    /// Nothing is granted: no arguments, environment, directories or sockets, and an empty standard input.
    fn new(log: &Arc<CallLog>, resources_max: usize) -> Self {
        let ctx = WasiCtx::builder()
            .stdout(OutputPipe { log: Arc::clone(log), pipe: Pipe::Stdout })
            .stderr(OutputPipe { log: Arc::clone(log), pipe: Pipe::Stderr })
            .allow_tcp(false)
            .allow_udp(false)
            .allow_ip_name_lookup(false)
            .max_random_size(RANDOM_BYTES_MAX)
            .build();
        let mut table = ResourceTable::new();
        table.set_max_capacity(resources_max);
        Self { ctx, table, outbox: None }
    }
}

impl WasiView for State {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        let wasi = self.wasi();
        WasiCtxView { ctx: &mut wasi.ctx, table: &mut wasi.table }
    }
}

impl WasiHttpView for State {
    fn http(&mut self) -> WasiHttpCtxView<'_> {
        let (egress, log) = (self.egress.clone(), Arc::clone(&self.log));
        let grant = self.services.as_ref().and_then(|services| services.grants.http.clone());
        let wasi = self.wasi();
        let outbox = wasi.outbox.get_or_insert_with(|| {
            Box::new(match (egress, grant) {
                (Some(egress), Some(grant)) => egress.outbox(grant, log),
                // A trial: whatever is sent in it is refused.
                (_, _) => Egress::new(Vec::new()).outbox(egress::nothing(), log),
            })
        });
        WasiHttpCtxView { ctx: &mut outbox.ctx, table: &mut wasi.table, hooks: &mut outbox.hooks }
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
