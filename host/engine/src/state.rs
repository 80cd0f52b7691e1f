//! What belongs to one attempt while it runs: its limits, its end, its log and, once it asks, its WASI context.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use baton_model::{Name, Setting};
use wasmtime::component::ResourceTable;
use wasmtime_wasi::filesystem::WasiFilesystemCtxView;
use wasmtime_wasi::{FsPerms, WasiCtx, WasiCtxView, WasiView};
use wasmtime_wasi_http::{WasiHttpCtxView, WasiHttpView};

use crate::bindings::wasi::logging::logging;
use crate::durable::{DurableRun, Steps};
use crate::egress::{self, Egress, Outbox};
use crate::limiter::Limiter;
use crate::loaded::Shared;
use crate::log::{CallLog, LogLevel, Pipe};
use crate::scratch::{self, Files, Scratch};
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
    /// The engine, if it does something for this attempt; a trial reaches nothing outside.
    engine: Option<Arc<Shared>>,
    /// How many keys of its buckets the call has touched.
    pub(crate) keys_touched: usize,
    /// How many calls the call has made.
    pub(crate) calls_made: u32,
    /// The steps of a durable function; none for any other.
    pub(crate) steps: Option<Box<Steps>>,
    // Made when the guest first asks for anything of WASI: many import it and few calls use it.
    wasi: Option<Box<Wasi>>,
}

struct Wasi {
    ctx: WasiCtx,
    table: ResourceTable,
    // Made with the first request, or header field.
    outbox: Option<Box<Outbox>>,
    // Last, so that the guest's files are closed before they are removed.
    scratch: Option<Scratch>,
}

impl State {
    pub(crate) fn new(
        limiter: Limiter,
        end: Instant,
        log: CallLog,
        services: Option<Arc<Services>>,
        engine: Option<&Arc<Shared>>,
    ) -> Self {
        let asks = |services: &Arc<Services>| services.grants.http.is_some() || services.grants.scratch.is_some();
        let engine = engine.filter(|_| services.as_ref().is_some_and(asks)).map(Arc::clone);
        Self {
            limiter,
            end,
            is_interrupted: false,
            log: Arc::new(log),
            services,
            engine,
            keys_touched: 0,
            calls_made: 0,
            steps: None,
            wasi: None,
        }
    }

    /// What is run here is a durable function.
    pub(crate) fn begin(&mut self, run: DurableRun) {
        self.steps = Some(Box::new(Steps::new(run, Arc::clone(&self.log))));
    }

    /// What was granted beside the call, if anything.
    pub(crate) fn services(&self) -> Option<&Services> {
        self.services.as_deref()
    }

    /// The things of the host that the guest holds.
    pub(crate) fn table(&mut self) -> &mut ResourceTable {
        self.ctx().table
    }

    /// The function's settings, if it was granted any.
    pub(crate) fn config(&self) -> Option<&BTreeMap<String, Setting>> {
        self.services.as_ref()?.grants.config.as_ref()
    }

    /// The function's files.
    pub(crate) fn files(&mut self) -> Files<'_> {
        let wasi = self.wasi();
        let inner = WasiFilesystemCtxView { ctx: wasi.ctx.filesystem(), table: &mut wasi.table };
        Files { inner, quota: wasi.scratch.as_ref().map(|scratch| Arc::clone(scratch.quota())) }
    }

    fn wasi(&mut self) -> &mut Wasi {
        let Self { wasi, log, services, engine, steps, .. } = self;
        wasi.get_or_insert_with(|| Wasi::boxed(log, granted(engine.as_ref(), services.as_ref()), steps.as_deref()))
    }
}

/// Whose requests those of a trial are.
fn nobody() -> Name {
    Name::parse("nobody").expect("it is a name")
}

/// What was granted of the engine's own.
fn granted<'a>(
    engine: Option<&'a Arc<Shared>>,
    services: Option<&'a Arc<Services>>,
) -> Option<(&'a Shared, &'a Services)> {
    Some((engine?, services?))
}

impl Wasi {
    /// Without a grant there is nothing: no arguments, environment, directories or sockets, and an empty standard
    /// input.
    fn boxed(log: &Arc<CallLog>, granted: Option<(&Shared, &Services)>, steps: Option<&Steps>) -> Box<Self> {
        let mut builder = WasiCtx::builder();
        builder
            .stdout(OutputPipe { log: Arc::clone(log), pipe: Pipe::Stdout })
            .stderr(OutputPipe { log: Arc::clone(log), pipe: Pipe::Stderr })
            .allow_tcp(false)
            .allow_udp(false)
            .allow_ip_name_lookup(false)
            .max_random_size(RANDOM_BYTES_MAX);
        if let Some(steps) = steps {
            steps.answer_for(&mut builder);
        }
        let mut table = ResourceTable::new();
        let sends = granted.is_some_and(|(_, services)| services.grants.http.is_some());
        table.set_max_capacity(if sends { egress::RESOURCES_MAX } else { RESOURCES_MAX });
        let scratch = granted.and_then(|(engine, services)| {
            let (home, grant) = (engine.scratch.as_ref()?, services.grants.scratch?);
            let mut open = || {
                let scratch = home.scratch(services.function.tenant(), grant, Arc::clone(log))?;
                builder
                    .preopened_dir(scratch.path(), scratch::GUEST_PATH, FsPerms::ReadWrite)
                    .map_err(std::io::Error::other)?;
                Ok::<_, std::io::Error>(scratch)
            };
            open().inspect_err(|error| tracing::warn!(%error, "a call gets no scratch directory")).ok()
        });
        Box::new(Self { ctx: builder.build(), table, outbox: None, scratch })
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
        let Self { wasi, log, services, engine, steps, .. } = self;
        let granted = granted(engine.as_ref(), services.as_ref());
        let wasi = wasi.get_or_insert_with(|| Wasi::boxed(log, granted, steps.as_deref()));
        let outbox = wasi.outbox.get_or_insert_with(|| {
            let grant = granted.and_then(|(engine, services)| Some((engine, services, services.grants.http.clone()?)));
            Box::new(match grant {
                Some((engine, services, grant)) => {
                    engine.egress.outbox(services.function.tenant().clone(), grant, Arc::clone(log))
                }
                // A trial: whatever is sent in it is refused.
                None => Egress::new(Vec::new()).outbox(nobody(), egress::nothing(), Arc::clone(log)),
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
