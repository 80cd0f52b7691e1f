//! The composition root: builds the parts of a host, runs them, and ends them in order.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use baton_broker::{BrokerConfig, LeaseKeeper, Presence, Queue, Reader, Settler, Verdict};
use baton_engine::{CompileSpeed, Engine, EngineConfig, Tuning};
use baton_model::{HostId, HostRecord, HostState, Limits, RetryPolicy};
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::announcer::Announcer;
use crate::catalog::Published;
use crate::clock::now_ms;
use crate::consumer::Consumer;
use crate::drain::{Drain, Parts};
use crate::flights::Flights;
use crate::intake::{Alarm, Intake};
use crate::keeper::Keeper;
use crate::loading::Loader;
use crate::metrics::Metrics;
use crate::promoter::{Due, Promoter};
use crate::reloader::{Reloader, ensure_folder};
use crate::renewer::Renewer;
use crate::runner::{Runner, Ticket};
use crate::seats::Seats;
use crate::signals::Signals;
use crate::sweeper::Sweeper;

/// Instances beyond the seats: trial instances, and calls whose memory is being returned.
const SPARE_INSTANCES: u32 = 16;

/// For how long changes of the catalog are gathered before the reader is woken for them.
const COALESCE: Duration = Duration::from_millis(5);

/// What a host is made from.
#[derive(Debug, Clone)]
pub struct HostConfig {
    /// How it deals with Redis.
    pub broker: BrokerConfig,
    /// The folder of functions.
    pub plugins: PathBuf,
    /// Where it keeps what it need not make twice.
    pub data: PathBuf,
    /// How many attempts run at once, at the most.
    pub seats: u32,
    /// What an attempt may use, unless its manifest says less.
    pub limits: Limits,
    /// When failed calls are tried again, unless a manifest says otherwise.
    pub retry: RetryPolicy,
    /// How long attempts in flight may go on after the signal to end.
    pub drain_timeout: Duration,
    /// How often the folder is looked at when no event tells that it changed.
    pub rescan: Duration,
    /// How much the compiler tries.
    pub compile: CompileSpeed,
}

/// How a host ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// Asked to, and in order.
    InOrder,
    /// At once, by a second signal. What was in flight is taken over when its leases lapse.
    AtOnce,
    /// By a fault of its own, after a drain.
    ByFault,
}

/// Runs a host until a signal ends it. `ready` is called once, when everything in the folder was loaded or refused and
/// calls are taken.
///
/// # Errors
/// If it cannot start: the engine, the folder or the URL is at fault. An unreachable Redis is none: it waits for it.
pub async fn run(config: HostConfig, signals: &mut Signals, ready: impl FnOnce()) -> anyhow::Result<Ended> {
    let mut host = Host::start(config)?;
    let mut ready = Some(ready);
    let is_fault = loop {
        tokio::select! {
            name = signals.next() => {
                tracing::info!(signal = name, "ending");
                break false;
            }
            ended = host.parts.next_end() => {
                match ended {
                    Err(error) if error.is_panic() => tracing::error!(%error, "a part of the host failed; ending"),
                    _ => tracing::error!("a part of the host ended by itself; ending"),
                }
                break true;
            }
            () = host.fault.cancelled() => break true,
            _ = host.first_pass.wait_for(|done| *done), if ready.is_some() => {
                host.state.send_replace(HostState::Online);
                ready.take().into_iter().for_each(|ready| ready());
            }
        }
    };
    host.state.send_replace(HostState::Draining);
    tokio::select! {
        () = host.drain.run(host.parts) => {}
        name = signals.next() => {
            tracing::warn!(signal = name, "second signal: ending at once; calls in flight are taken over by other hosts");
            return Ok(Ended::AtOnce);
        }
    }
    Ok(if is_fault { Ended::ByFault } else { Ended::InOrder })
}

/// A host that runs.
struct Host {
    parts: Parts,
    drain: Drain,
    fault: CancellationToken,
    state: watch::Sender<HostState>,
    first_pass: watch::Receiver<bool>,
    _corridor: Corridor,
}

/// The thread on which calls are read and settled.
struct Corridor(Option<Runtime>);

impl Corridor {
    fn start() -> anyhow::Result<Self> {
        let one = Builder::new_multi_thread().worker_threads(1).thread_name("corridor").enable_all().build();
        Ok(Self(Some(one.context("cannot start the thread that reads and settles")?)))
    }

    fn handle(&self) -> &Handle {
        self.0.as_ref().expect("it is there until it is dropped").handle()
    }
}

impl Drop for Corridor {
    /// Without waiting: by now it has nothing to do, and this may run where nobody may wait.
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

impl Host {
    fn start(config: HostConfig) -> anyhow::Result<Self> {
        let HostConfig { broker, .. } = &config;
        let id = new_host_id();
        ensure_folder(&config.plugins)
            .with_context(|| format!("cannot make the plugins folder {}", config.plugins.display()))?;
        let engine = Engine::new(EngineConfig {
            instances_max: config.seats.saturating_add(SPARE_INSTANCES),
            memory_bytes_max: config.limits.memory_bytes_max,
            cache_dir: Some(config.data.join("cache")),
            compile: config.compile,
            tuning: Tuning::Tuned,
        })?;

        let catalog = Arc::new(Published::new());
        let flights = Arc::new(Flights::default());
        let metrics = Metrics::of_host(broker, catalog.clone(), flights.clone(), config.seats)?;
        let seats = Seats::new(config.seats);
        let queue = Arc::new(Queue::new(broker)?);
        let presence = Arc::new(Presence::new(broker)?);
        let (reader, waker) = Reader::new(broker, id.clone())?;
        let alarm = Alarm::new(waker.clone());
        let (settler, to_settler) = Settler::new(broker, id.clone())?;
        let (to_promoter, promoter_inbox) = mpsc::unbounded_channel();
        let (news, news_inbox) = mpsc::channel(1024);
        let (state, state_seen) = watch::channel(HostState::Starting);
        let (first_pass_done, first_pass) = watch::channel(false);
        let (record_written, record_seen) = watch::channel(0);
        let fault = CancellationToken::new();
        let runner = Arc::new(Runner {
            host: id.clone(),
            queue: queue.clone(),
            catalog: catalog.clone(),
            flights: flights.clone(),
            metrics: metrics.clone(),
            guests: Handle::current(),
            fault: fault.clone(),
            hand_back_after: Duration::from_secs(1),
        });
        let record = HostRecord {
            id: id.clone(),
            machine: machine_name(),
            pid: std::process::id(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            state: HostState::Starting,
            seats: seats.total(),
            started_ms: now_ms(),
            functions: Vec::new(),
        };
        tracing::info!(host = %id, seats = seats.total(), plugins = %config.plugins.display(), "host starting");

        let stop = CancellationToken::new();
        let last = CancellationToken::new();
        let mut intake = JoinSet::new();
        let mut upkeep = JoinSet::new();
        let announcer = tokio::spawn(
            Announcer {
                queue: queue.clone(),
                host: id.clone(),
                machine: record.machine.clone(),
                drain_ms: u64::try_from(config.drain_timeout.as_millis()).unwrap_or(u64::MAX),
                written: record_seen,
                inbox: news_inbox,
            }
            .run(),
        );
        intake.spawn(
            Reloader {
                folder: config.plugins.clone(),
                rescan: config.rescan,
                loader: Loader::new(engine, config.limits, config.retry, metrics.clone()),
                catalog: catalog.clone(),
                news: news.clone(),
                metrics: metrics.clone(),
                first_pass: first_pass_done,
            }
            .run(stop.clone()),
        );
        intake.spawn(wake_on_change(catalog.clone(), alarm.clone(), stop.clone()));
        // Reading and settling share one thread: a call that is through at once then wakes no other.
        let corridor = Corridor::start()?;
        intake.spawn_on(
            Consumer {
                intake: Intake::new(reader, queue.clone(), catalog.clone(), alarm.clone()),
                flights: flights.clone(),
                seats: seats.clone(),
                runner: runner.clone(),
                settler: to_settler.clone(),
            }
            .run(stop.clone()),
            corridor.handle(),
        );
        intake.spawn(
            Sweeper {
                host: id.clone(),
                queue: queue.clone(),
                presence: presence.clone(),
                catalog: catalog.clone(),
                flights: flights.clone(),
                seats,
                runner: runner.clone(),
                settler: to_settler.clone(),
                alarm: alarm.clone(),
                promoter: to_promoter.clone(),
                lease: broker.lease,
            }
            .run(stop.clone()),
        );
        intake.spawn(Promoter { queue: queue.clone(), inbox: promoter_inbox }.run(stop.clone()));
        upkeep.spawn(
            Renewer {
                keeper: LeaseKeeper::new(broker, id.clone())?,
                flights: flights.clone(),
                lease: broker.lease,
                alarm: alarm.clone(),
                metrics,
            }
            .run(last.clone()),
        );
        upkeep.spawn(
            Keeper {
                presence: presence.clone(),
                catalog: catalog.clone(),
                record,
                state: state_seen,
                lease: broker.lease,
                written: record_written,
            }
            .run(last.clone()),
        );
        let settled = on_settled(runner.clone(), to_promoter, alarm.clone(), broker.lease);
        let settler = corridor.handle().spawn(settler.run(settled));
        let drain = Drain {
            host: id,
            queue,
            presence,
            catalog,
            flights,
            runner,
            alarm,
            news: Some(news),
            to_settler: Some(to_settler),
            stop,
            last,
            timeout: config.drain_timeout,
        };
        Ok(Self {
            parts: Parts { intake, upkeep, settler, announcer },
            drain,
            fault,
            state,
            first_pass,
            _corridor: corridor,
        })
    }
}

/// What is done with each verdict of the settler.
fn on_settled(
    runner: Arc<Runner>,
    promoter: mpsc::UnboundedSender<Due>,
    alarm: Alarm,
    lease: Duration,
) -> impl Fn(Ticket, Verdict) + Sync {
    move |ticket, verdict| {
        // The entry may be pending for this host, under a later claim even, and nobody works on it. What Redis refuses
        // it may go on refusing, so such a call is looked for no sooner than a dead host's would be.
        let look_after = match verdict {
            Verdict::Done | Verdict::Duplicate => None,
            Verdict::Fenced => Some(Duration::ZERO),
            Verdict::Refused => Some(lease),
        };
        if let Some(pause) = look_after {
            let alarm = alarm.clone();
            tokio::spawn(async move {
                tokio::time::sleep(pause).await;
                alarm.look_for_lost().await;
            });
        }
        if let Some((function, wait)) = runner.settled(ticket, verdict) {
            // At the end of a drain the promoter is gone; the next sweep of any host finds the call.
            _ = promoter.send(Due { function, wait });
        }
    }
}

/// The consumer blocks in a read; when the set of functions changes it has to read others.
async fn wake_on_change(catalog: Arc<Published>, alarm: Alarm, stop: CancellationToken) {
    let mut changes = catalog.set_changes();
    loop {
        tokio::select! {
            changed = changes.changed() => if changed.is_err() { return },
            () = stop.cancelled() => return,
        }
        // At a start, functions come one by one; the reader takes in what has come together.
        tokio::time::sleep(COALESCE).await;
        changes.mark_unchanged();
        alarm.waker.wake().await;
    }
}

fn machine_name() -> String {
    let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let clean: String = name.chars().filter(char::is_ascii_graphic).take(40).collect();
    if clean.is_empty() { "unnamed".to_owned() } else { clean }
}

fn new_host_id() -> HostId {
    let text = format!("{}-{}-{:08x}", machine_name(), std::process::id(), rand::random::<u32>());
    HostId::parse(&text).expect("a host id is made of printable characters, and short")
}
