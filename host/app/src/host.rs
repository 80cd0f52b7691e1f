//! The composition root: builds the parts of a host, runs them, and ends them in order.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use baton_broker::{BrokerConfig, LeaseKeeper, Presence, Queue, Reader, Settler, Verdict};
use baton_engine::{CompileSpeed, Engine, EngineConfig, Tuning};
use baton_model::{HostId, HostRecord, HostState, Limits, RetryPolicy};
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;

use crate::announcer::Announcer;
use crate::catalog::Published;
use crate::clock::now_ms;
use crate::consumer::{Alarm, Consumer};
use crate::drain::Drain;
use crate::flights::Flights;
use crate::keeper::Keeper;
use crate::loading::Loader;
use crate::promoter::{Due, Promoter};
use crate::reloader::{Reloader, ensure_folder};
use crate::renewer::Renewer;
use crate::runner::{Runner, Ticket};
use crate::seats::Seats;
use crate::signals::Signals;
use crate::sweeper::Sweeper;
use crate::tally::Tally;

/// Instances beyond the seats: trial instances, and calls whose memory is being returned.
const SPARE_INSTANCES: u32 = 16;

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
    let host = Host::start(config)?;
    let mut first_pass = host.first_pass.clone();
    let mut tasks = host.tasks;
    let mut drain = host.drain;
    let mut ready = Some(ready);
    let fault = loop {
        tokio::select! {
            name = signals.next() => {
                tracing::info!(signal = name, "ending");
                break false;
            }
            Some(ended) = tasks.join_next() => {
                match ended {
                    Err(error) if error.is_panic() => tracing::error!(%error, "a part of the host failed; ending"),
                    _ => tracing::error!("a part of the host ended by itself; ending"),
                }
                break true;
            }
            _ = first_pass.wait_for(|done| *done), if ready.is_some() => {
                host.state.send_replace(HostState::Online);
                ready.take().into_iter().for_each(|ready| ready());
            }
        }
    };
    host.state.send_replace(HostState::Draining);
    tokio::select! {
        () = drain.run(&mut tasks, host.settler) => {}
        name = signals.next() => {
            tracing::warn!(signal = name, "second signal: ending at once; calls in flight are taken over by other hosts");
            return Ok(Ended::AtOnce);
        }
    }
    Ok(if fault { Ended::ByFault } else { Ended::InOrder })
}

/// A host that runs.
struct Host {
    tasks: JoinSet<()>,
    drain: Drain,
    settler: JoinHandle<()>,
    state: watch::Sender<HostState>,
    first_pass: watch::Receiver<bool>,
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
        let tally = Arc::new(Tally::default());
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
        let runner = Arc::new(Runner {
            host: id.clone(),
            queue: queue.clone(),
            catalog: catalog.clone(),
            flights: flights.clone(),
            tally: tally.clone(),
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
        let mut tasks = JoinSet::new();
        let announcer = tokio::spawn(
            Announcer {
                queue: queue.clone(),
                host: id.clone(),
                machine: record.machine.clone(),
                drain_ms: u64::try_from(config.drain_timeout.as_millis()).unwrap_or(u64::MAX),
                inbox: news_inbox,
            }
            .run(),
        );
        tasks.spawn(
            Reloader {
                folder: config.plugins.clone(),
                rescan: config.rescan,
                loader: Loader::new(engine, config.limits, config.retry),
                catalog: catalog.clone(),
                news: news.clone(),
                first_pass: first_pass_done,
            }
            .run(stop.clone()),
        );
        tasks.spawn(wake_on_change(catalog.clone(), alarm.clone(), stop.clone()));
        tasks.spawn(
            Consumer {
                reader,
                queue: queue.clone(),
                catalog: catalog.clone(),
                flights: flights.clone(),
                seats: seats.clone(),
                runner: runner.clone(),
                settler: to_settler.clone(),
                alarm: alarm.clone(),
            }
            .run(stop.clone()),
        );
        tasks.spawn(
            Sweeper {
                host: id.clone(),
                queue: queue.clone(),
                presence: presence.clone(),
                catalog: catalog.clone(),
                seats,
                runner: runner.clone(),
                settler: to_settler.clone(),
                alarm: alarm.clone(),
                promoter: to_promoter.clone(),
                lease: broker.lease,
            }
            .run(stop.clone()),
        );
        tasks.spawn(Promoter { queue: queue.clone(), inbox: promoter_inbox }.run(stop.clone()));
        tasks.spawn(
            Renewer {
                keeper: LeaseKeeper::new(broker, id.clone())?,
                flights: flights.clone(),
                lease: broker.lease,
                alarm: alarm.clone(),
            }
            .run(last.clone()),
        );
        tasks.spawn(
            Keeper {
                presence: presence.clone(),
                catalog: catalog.clone(),
                record,
                state: state_seen,
                lease: broker.lease,
            }
            .run(last.clone()),
        );
        let settled = on_settled(runner.clone(), to_promoter, alarm.clone());
        let settler = tokio::spawn(settler.run(settled));
        let drain = Drain {
            host: id,
            queue,
            presence,
            catalog,
            flights,
            runner,
            tally,
            alarm,
            news: Some(news),
            announcer: Some(announcer),
            to_settler: Some(to_settler),
            stop,
            last,
            timeout: config.drain_timeout,
        };
        Ok(Self { tasks, drain, settler, state, first_pass })
    }
}

/// What is done with each verdict of the settler.
fn on_settled(
    runner: Arc<Runner>,
    promoter: mpsc::UnboundedSender<Due>,
    alarm: Alarm,
) -> impl Fn(Ticket, Verdict) + Sync {
    move |ticket, verdict| {
        if matches!(verdict, Verdict::Refused | Verdict::Fenced) {
            // The entry may be pending for this host, under a later claim even, and nobody works on it.
            let alarm = alarm.clone();
            tokio::spawn(async move { alarm.look_for_lost().await });
        }
        if let Some((function, due_ms)) = runner.settled(ticket, verdict) {
            let wait = Duration::from_millis(due_ms.saturating_sub(now_ms()));
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
