//! The composition root: builds the parts of a host and starts them.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use baton_broker::{LeaseKeeper, LevelsWatch, Presence, Queue, Reader, Settler, Verdict};
use baton_engine::{Engine, EngineConfig, Tuning};
use baton_model::{EntryId, FunctionId, HostId, HostRecord, HostState, Tenants};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::announcer::{Announcer, News};
use crate::backoff::Trouble;
use crate::canceller::Canceller;
use crate::catalog::Published;
use crate::clock::now_ms;
use crate::consumer::Consumer;
use crate::corridor::{Corridor, Guests};
use crate::drain::{Drain, Hands, Parts};
use crate::executions::Shelf;
use crate::flights::Flights;
use crate::front::Front;
use crate::health::Health;
use crate::host::HostConfig;
use crate::intake::{Alarm, Intake};
use crate::keeper::Keeper;
use crate::ledger::Ledger;
use crate::levels::{Streams, StreamsWatch};
use crate::loading::Loader;
use crate::metrics::Metrics;
use crate::nested::{Nesting, waiting_max};
use crate::open_files;
use crate::peers::Roster;
use crate::policy::{Rules, Secrets};
use crate::promoter::{Due, Promoter};
use crate::reloader::{Reloader, ensure_folder};
use crate::renewer::Renewer;
use crate::runner::{Runner, Ticket};
use crate::scheduler::Scheduler;
use crate::seats::Seats;
use crate::services::Providers;
use crate::sweeper::Sweeper;
use crate::tenants::{Policies, TenantFiles};
use crate::watcher::{Gone, Watcher};

/// Instances beyond the seats: trial instances, and calls whose memory is being returned.
const SPARE_INSTANCES: u32 = 16;

/// For how long changes of the catalog are gathered before the reader is woken for them.
const COALESCE: Duration = Duration::from_millis(5);

/// The most words of other hosts that wait to be heard.
const WORDS_MAX: usize = 256;
/// The most news that wait to be told.
const NEWS_MAX: usize = 1024;

/// A host that runs.
pub(crate) struct Host {
    pub(crate) parts: Parts,
    pub(crate) drain: Drain,
    pub(crate) fault: CancellationToken,
    pub(crate) state: watch::Sender<HostState>,
    pub(crate) first_pass: watch::Receiver<bool>,
    /// Where HTTP is served, if it is.
    pub(crate) address: Option<SocketAddr>,
    _threads: Option<(Corridor, Guests)>,
}

/// What the parts of a host share.
struct Shared {
    id: HostId,
    queue: Arc<Queue>,
    presence: Arc<Presence>,
    catalog: Arc<Published>,
    flights: Arc<Flights>,
    metrics: Arc<Metrics>,
    /// What the tenants are allowed, as their files say.
    policies: watch::Receiver<Policies>,
    trouble: Arc<Trouble>,
    /// What is said about tenants.
    tenants: watch::Receiver<Tenants>,
    /// None for a host without functions.
    seats: Seats,
    ledger: Arc<Ledger>,
    news: mpsc::Sender<News>,
    fault: CancellationToken,
    /// Ends what brings calls in.
    stop: CancellationToken,
    /// Ends what is needed while attempts finish.
    last: CancellationToken,
}

impl Host {
    /// Builds the parts and starts them; the address of HTTP is taken before any of them runs.
    pub(crate) async fn start(mut config: HostConfig) -> anyhow::Result<Self> {
        open_files::raise();
        let (news, news_inbox) = mpsc::channel(NEWS_MAX);
        let catalog = Arc::new(Published::new());
        let flights = Arc::new(Flights::default());
        let rules = Rules::new(&config.limits, &config.tenants, &config.security)
            .context("what is set for all tenants is wrong")?;
        let tenants = TenantFiles::read(config.plugins.clone(), config.rescan, rules)
            .with_context(|| format!("cannot look for tenants in the folder {}", config.plugins.display()))?;
        config.broker.tenants = tenants.tenants();
        let broker = &config.broker;
        let seats = Seats::new(if config.functions { config.seats } else { 0 });
        let ledger = Arc::new(Ledger::new(seats.total()));
        let shared = Shared {
            id: new_host_id(),
            queue: Arc::new(Queue::new(broker)?),
            presence: Arc::new(Presence::new(broker)?),
            metrics: Metrics::of_host(broker, catalog.clone(), flights.clone(), ledger.clone())?,
            catalog,
            flights,
            policies: tenants.policies(),
            tenants: tenants.tenants(),
            trouble: Arc::new(Trouble::default()),
            seats,
            ledger,
            news,
            fault: CancellationToken::new(),
            stop: CancellationToken::new(),
            last: CancellationToken::new(),
        };
        let (state, state_seen) = watch::channel(HostState::Starting);
        // Without functions there is nothing to load.
        let (first_pass_done, first_pass) = watch::channel(!config.functions);
        let (record_written, record_seen) = watch::channel(0);
        let entrants = TaskTracker::new();
        let front = Front {
            queue: shared.queue.clone(),
            presence: shared.presence.clone(),
            catalog: shared.catalog.clone(),
            ledger: shared.ledger.clone(),
            flights: shared.flights.clone(),
            metrics: shared.metrics.clone(),
            trouble: shared.trouble.clone(),
            tenants: shared.tenants.clone(),
            state: state_seen.clone(),
            first_pass: first_pass.clone(),
            fault: shared.fault.clone(),
            entrants: entrants.clone(),
        };
        let gateway = match config.http.clone() {
            Some(http) => Some(front.bind(http, broker).await?),
            None => None,
        };
        let address = gateway.as_ref().map(baton_gateway::Bound::local_addr);
        let record = HostRecord {
            id: shared.id.clone(),
            machine: machine_name(),
            pid: std::process::id(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            state: HostState::Starting,
            seats: shared.seats.total(),
            in_flight: 0,
            lease_ms: u64::try_from(broker.lease.as_millis()).unwrap_or(u64::MAX),
            started_ms: now_ms(),
            last_seen_ms: None,
            reason: None,
            functions: Vec::new(),
        };
        let (missing, missing_seen) = watch::channel(0);
        let (roster, roster_seen) = watch::channel(None);
        let (words, words_inbox) = mpsc::channel(WORDS_MAX);
        let (gone, gone_inbox) = mpsc::unbounded_channel();
        let (to_promoter, due) = mpsc::unbounded_channel();
        let promoter = config.functions.then(|| to_promoter.clone());
        let (cancels, cancels_inbox) = mpsc::unbounded_channel();
        let others = Others { roster: roster_seen, gone: gone_inbox, to_promoter, due, cancels: cancels_inbox };
        let work = match config.functions {
            true => Some(Work::start(&config, &shared, &record, &state_seen, first_pass_done, others)?),
            false => None,
        };
        tracing::info!(host = %shared.id, seats = record.seats, "host starting");
        let Work { mut intake, mut upkeep, settler, hands, threads } = work.unwrap_or_default();
        let announcer = Announcer {
            queue: shared.queue.clone(),
            host: shared.id.clone(),
            machine: record.machine.clone(),
            drain_ms: u64::try_from(config.drain_timeout.as_millis()).unwrap_or(u64::MAX),
            written: record_seen,
            inbox: news_inbox,
        };
        let announcer = tokio::spawn(announcer.run());
        upkeep.spawn(tenants.run(shared.last.clone()));
        intake.spawn(
            Watcher {
                host: shared.id.clone(),
                queue: shared.queue.clone(),
                presence: shared.presence.clone(),
                lease: broker.lease,
                words: words_inbox,
                missing,
                roster,
                gone,
                news: shared.news.clone(),
                metrics: shared.metrics.clone(),
                trouble: shared.trouble.clone(),
            }
            .run(shared.stop.clone()),
        );
        upkeep.spawn(
            Keeper {
                presence: shared.presence.clone(),
                catalog: shared.catalog.clone(),
                flights: shared.flights.clone(),
                ledger: shared.ledger.clone(),
                record: record.clone(),
                state: state_seen,
                lease: broker.lease,
                written: record_written,
                missing: missing_seen,
                words,
                promoter,
                cancels,
                trouble: shared.trouble.clone(),
            }
            .run(shared.last.clone()),
        );
        let hang_up = CancellationToken::new();
        if let Some(address) = address {
            tracing::info!(%address, "listening");
        }
        let gateway = gateway.map(|bound| tokio::spawn(bound.run(hang_up.clone())));
        let Shared { queue, presence, catalog, flights, metrics, news, fault, stop, last, .. } = shared;
        let drain = Drain {
            record,
            queue,
            presence,
            catalog,
            flights,
            metrics,
            news: Some(news),
            hands,
            stop,
            entrants,
            hang_up,
            last,
            timeout: config.drain_timeout,
        };
        Ok(Self {
            parts: Parts { intake, upkeep, settler, announcer: Some(announcer), gateway },
            drain,
            fault,
            state,
            first_pass,
            address,
            _threads: threads,
        })
    }
}

/// What runs functions. A host that is a front alone has none of it.
#[derive(Default)]
struct Work {
    intake: JoinSet<()>,
    upkeep: JoinSet<()>,
    settler: Option<JoinHandle<()>>,
    hands: Option<Hands>,
    threads: Option<(Corridor, Guests)>,
}

/// What those that run functions hear of the other hosts.
struct Others {
    roster: watch::Receiver<Option<Roster>>,
    gone: mpsc::UnboundedReceiver<Gone>,
    /// Which calls wait for their time; hosts tell themselves, too.
    to_promoter: mpsc::UnboundedSender<Due>,
    due: mpsc::UnboundedReceiver<Due>,
    cancels: mpsc::UnboundedReceiver<(FunctionId, EntryId)>,
}

impl Work {
    fn start(
        config: &HostConfig,
        shared: &Shared,
        record: &HostRecord,
        state: &watch::Receiver<HostState>,
        first_pass: watch::Sender<bool>,
        others: Others,
    ) -> anyhow::Result<Self> {
        let HostConfig { broker, .. } = config;
        let Shared {
            id,
            queue,
            presence,
            catalog,
            flights,
            metrics,
            policies,
            trouble,
            tenants,
            seats,
            ledger,
            news,
            fault,
            stop,
            last,
            ..
        } = shared;
        ensure_folder(&config.plugins)
            .with_context(|| format!("cannot make the plugins folder {}", config.plugins.display()))?;
        tracing::info!(plugins = %config.plugins.display(), "functions are taken from the folder");
        let engine = Engine::new(EngineConfig {
            instances_max: config.seats.saturating_add(SPARE_INSTANCES).saturating_add(waiting_max(config.seats)),
            memory_bytes_max: config.limits.memory_bytes_max,
            cache_dir: Some(config.data.join("cache")),
            compiler: config.compiler.clone(),
            compile: config.compile,
            tuning: Tuning::Tuned,
            scratch_dir: Some(config.data.join("scratch")),
            egress_networks: config.security.egress_networks.clone(),
        })?;
        let (reader, waker) = Reader::new(broker, id.clone())?;
        let alarm = Alarm::new(waker.clone());
        let (settler, to_settler) = Settler::new(broker, id.clone())?;
        let keeper = LeaseKeeper::new(broker, id.clone())?;
        let Others { roster, gone, to_promoter, due, cancels } = others;
        let guests = Guests::start()?;
        let runner = Arc::new(Runner {
            host: id.clone(),
            queue: queue.clone(),
            catalog: catalog.clone(),
            flights: flights.clone(),
            metrics: metrics.clone(),
            guests: guests.handle().clone(),
            helpers: Handle::current(),
            fault: fault.clone(),
            nesting: Arc::new(Nesting::new(
                broker,
                seats.clone(),
                ledger.clone(),
                catalog.clone(),
                presence.clone(),
                first_pass.subscribe(),
                stop.clone(),
            )?),
            shelf: Arc::new(Shelf::new(broker, engine.clone())?),
            hand_back_after: Duration::from_secs(1),
        });
        let corridor = Corridor::start()?;
        let streams = Arc::new(Streams::default());

        let mut intake = JoinSet::new();
        let mut upkeep = JoinSet::new();
        intake.spawn(
            Reloader {
                folder: config.plugins.clone(),
                rescan: config.rescan,
                loader: Loader::new(
                    engine,
                    config.retry,
                    Secrets { variable: config.variable },
                    Providers::new(broker)?,
                    metrics.clone(),
                ),
                policies: policies.clone(),
                catalog: catalog.clone(),
                news: news.clone(),
                metrics: metrics.clone(),
                first_pass,
            }
            .run(stop.clone()),
        );
        let bell = ledger.clone();
        let (bell_waker, bell_stop) = (waker, stop.clone());
        intake.spawn(async move { bell.bell.wake(bell_waker, bell_stop).await });
        intake.spawn(wake_on_change(catalog.clone(), tenants.clone(), alarm.clone(), stop.clone()));
        intake.spawn_on(
            Consumer {
                intake: Intake::new(
                    reader,
                    queue.clone(),
                    catalog.clone(),
                    alarm.clone(),
                    ledger.clone(),
                    streams.clone(),
                    tenants.clone(),
                )
                .bringing(config.batch),
                flights: flights.clone(),
                seats: seats.clone(),
                ledger: ledger.clone(),
                runner: runner.clone(),
                settler: to_settler.clone(),
                trouble: trouble.clone(),
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
                seats: seats.clone(),
                ledger: ledger.clone(),
                runner: runner.clone(),
                settler: to_settler.clone(),
                alarm: alarm.clone(),
                streams: streams.clone(),
                promoter: to_promoter.clone(),
                lease: broker.lease,
                roster: roster.clone(),
                gone,
                trouble: trouble.clone(),
            }
            .run(stop.clone()),
        );
        let watch = LevelsWatch::new(broker)?;
        intake.spawn(StreamsWatch { watch, streams, alarm: alarm.clone() }.run(stop.clone()));
        intake.spawn(
            Promoter { queue: queue.clone(), inbox: due, roster, turns: HashMap::new(), trouble: trouble.clone() }
                .run(stop.clone()),
        );
        intake.spawn(
            Scheduler { queue: queue.clone(), catalog: catalog.clone(), trouble: trouble.clone() }.run(stop.clone()),
        );
        upkeep.spawn(
            Health {
                queue: queue.clone(),
                catalog: catalog.clone(),
                flights: flights.clone(),
                host: id.clone(),
                machine: record.machine.clone(),
                seats: seats.total(),
                state: state.clone(),
                lease: broker.lease,
            }
            .run(last.clone()),
        );
        upkeep.spawn(
            Renewer {
                keeper,
                flights: flights.clone(),
                lease: broker.lease,
                alarm: alarm.clone(),
                metrics: metrics.clone(),
            }
            .run(last.clone()),
        );
        let settler_of_cancels = to_settler.downgrade();
        upkeep
            .spawn(Canceller { runner: runner.clone(), settler: settler_of_cancels, inbox: cancels }.run(last.clone()));
        let settled = on_settled(runner.clone(), to_promoter, alarm.clone(), broker.lease);
        let settler = corridor.handle().spawn(settler.run(settled));
        Ok(Self {
            intake,
            upkeep,
            settler: Some(settler),
            hands: Some(Hands { runner, alarm, to_settler }),
            threads: Some((corridor, guests)),
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

/// The consumer blocks in a read; when the set of functions changes it has to read others, and when shares and quotas do
/// it may read more.
async fn wake_on_change(
    catalog: Arc<Published>,
    mut tenants: watch::Receiver<Tenants>,
    alarm: Alarm,
    stop: CancellationToken,
) {
    let mut changes = catalog.set_changes();
    loop {
        tokio::select! {
            changed = changes.changed() => if changed.is_err() { return },
            changed = tenants.changed() => if changed.is_err() { return },
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
