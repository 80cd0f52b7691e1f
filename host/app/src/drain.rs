//! The end of a host, driven from one place: stop taking, let finish, hand over what is left, leave.

use std::sync::Arc;
use std::time::Duration;

use baton_broker::{Notice, Presence, Queue, Word};
use baton_model::{FunctionId, HostRecord, OfflineReason};
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::announcer::News;
use crate::catalog::Published;
use crate::clock::now_ms;
use crate::flights::Flights;
use crate::intake::Alarm;
use crate::metrics::Metrics;
use crate::runner::{Runner, ToSettler};

/// How long one step may take that depends on Redis alone. With Redis away, a host still ends.
const STEP_MAX: Duration = Duration::from_secs(2);
/// How long all such steps may take together, beyond the drain time.
const GRACE: Duration = Duration::from_secs(5);

/// The tasks of a host, by when they end.
pub(crate) struct Parts {
    /// What brings calls in.
    pub(crate) intake: JoinSet<()>,
    /// What is needed while attempts finish.
    pub(crate) upkeep: JoinSet<()>,
    pub(crate) settler: Option<JoinHandle<()>>,
    pub(crate) announcer: Option<JoinHandle<()>>,
    pub(crate) gateway: Option<JoinHandle<()>>,
}

impl Parts {
    /// Waits for a part that ends by itself, which none should.
    pub(crate) async fn next_end(&mut self) -> Result<(), tokio::task::JoinError> {
        tokio::select! {
            Some(ended) = self.intake.join_next() => ended,
            Some(ended) = self.upkeep.join_next() => ended,
            ended = end_of(&mut self.settler) => ended,
            ended = end_of(&mut self.gateway) => ended,
        }
    }
}

/// The end of a task; of one that is not there, never.
async fn end_of(task: &mut Option<JoinHandle<()>>) -> Result<(), tokio::task::JoinError> {
    match task {
        Some(task) => task.await,
        None => std::future::pending().await,
    }
}

/// What a host has its calls in hand with.
pub(crate) struct Hands {
    pub(crate) runner: Arc<Runner>,
    pub(crate) alarm: Alarm,
    pub(crate) to_settler: ToSettler,
}

/// How a host is ended.
pub(crate) struct Drain {
    /// This host, as it is listed from its end on.
    pub(crate) record: HostRecord,
    pub(crate) queue: Arc<Queue>,
    pub(crate) presence: Arc<Presence>,
    pub(crate) catalog: Arc<Published>,
    pub(crate) flights: Arc<Flights>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) news: Option<mpsc::Sender<News>>,
    /// None for a host without functions.
    pub(crate) hands: Option<Hands>,
    /// Ends what brings calls in.
    pub(crate) stop: CancellationToken,
    /// The HTTP requests whose calls are on their way to Redis.
    pub(crate) entrants: TaskTracker,
    /// Ends the gateway, which has refused new calls since the drain began.
    pub(crate) hang_up: CancellationToken,
    /// Ends what is needed while attempts finish.
    pub(crate) last: CancellationToken,
    pub(crate) timeout: Duration,
}

impl Drain {
    /// Ends everything, within the drain time and a grace. Dropping the future leaves the rest undone, which loses
    /// nothing: leases lapse.
    pub(crate) async fn run(mut self, parts: Parts) {
        let Parts { mut intake, mut upkeep, settler, announcer, gateway } = parts;
        let began = Instant::now();
        self.metrics.drain_began();
        let end = began + self.timeout;
        let hard_end = end + GRACE;
        let step = || hard_end.min(Instant::now() + STEP_MAX);
        self.announce(Notice::Shutdown, step()).await;
        // Calls that HTTP let in before the door was closed are on their way into their streams; they are still read.
        self.entrants.close();
        _ = timeout_at(step(), self.entrants.wait()).await;
        self.stop.cancel();
        self.stop_taking(&mut intake, step()).await;
        self.let_finish(end).await;
        if timeout_at(step(), self.hand_over()).await.is_err() {
            tracing::warn!("not everything could be handed over; the rest is taken over when its leases lapse");
        }
        // Nothing can send any more; the settler ends when what it has is settled.
        self.hands = None;
        intake.abort_all();
        if let Some(settler) = settler.filter(|settler| !settler.is_finished())
            && timeout_at(step(), settler).await.is_err()
        {
            tracing::warn!("Redis takes no results; their calls run again elsewhere when their leases lapse");
        }
        // What HTTP clients wait for has been answered, but for what other hosts have in hand: that gets a while more.
        self.hang_up.cancel();
        self.last.cancel();
        _ = timeout_at(step(), async { while upkeep.join_next().await.is_some() {} }).await;
        upkeep.abort_all();
        self.announce(Notice::Offline, step()).await;
        self.news = None;
        if let Some(announcer) = announcer {
            _ = timeout_at(step(), announcer).await;
        }
        self.leave(step()).await;
        if let Some(gateway) = gateway.filter(|gateway| !gateway.is_finished()) {
            _ = timeout_at(hard_end, gateway).await;
        }
        let took_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        tracing::info!(calls = self.metrics.summary(), took_ms, "host ended");
    }

    async fn announce(&mut self, notice: Notice, end: Instant) {
        let Some(news) = &self.news else { return };
        for item in News::of_all(&self.catalog, notice) {
            if timeout_at(end, news.send(item)).await.is_err() {
                return;
            }
        }
    }

    /// Wakes the reader and waits until what brings calls in has ended.
    async fn stop_taking(&self, intake: &mut JoinSet<()>, end: Instant) {
        let ended = async { while intake.join_next().await.is_some() {} };
        let wake = async {
            if let Some(hands) = &self.hands {
                hands.alarm.waker.wake().await;
            }
            std::future::pending::<()>().await;
        };
        tokio::select! {
            () = ended => {}
            () = wake => {}
            () = tokio::time::sleep_until(end) => {
                tracing::warn!("the reader cannot be woken; what it is handed now is taken over by other hosts");
            }
        }
    }

    /// Lets attempts finish, and says how it goes once a second.
    async fn let_finish(&self, end: Instant) {
        loop {
            let (count, oldest) = self.flights.load();
            if count == 0 {
                return;
            }
            tracing::info!("draining: {count} in flight, oldest {:.1} s", oldest.as_secs_f64());
            let tick = end.min(Instant::now() + Duration::from_secs(1));
            if timeout_at(tick, self.flights.none_left()).await.is_ok() || tick == end {
                return;
            }
        }
    }

    /// What did not finish in time goes back into its stream, where another host has it at once.
    async fn hand_over(&self) {
        let rest = self.flights.stop_all();
        let Some(hands) = &self.hands else { return };
        if !rest.is_empty() {
            tracing::warn!(calls = rest.len(), "handing over calls that did not finish within the drain time");
        }
        for delivery in rest {
            hands.runner.hand_over(delivery, &hands.to_settler).await;
        }
        // Stopped attempts give their seats back by themselves; their flights end with the verdicts.
        self.flights.none_left().await;
    }

    /// Takes this host out of Redis, at once for whoever looks.
    async fn leave(&self, end: Instant) {
        let loaded = self.catalog.snapshot().loaded();
        let functions: Vec<FunctionId> = loaded.iter().map(|loaded| loaded.function.clone()).collect();
        let record = HostRecord { functions: loaded, ..self.record.clone() }.gone(OfflineReason::Shutdown, now_ms());
        let goodbye = async {
            self.presence.part(&record.id, Some(&record)).await?;
            self.presence.tell(&Word::Gone(record.id.clone(), OfflineReason::Shutdown)).await?;
            self.queue.leave(&record.id, &functions).await
        };
        match timeout_at(end, goodbye).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::debug!(%error, "could not take this host out of Redis; others see that it is gone")
            }
            Err(_) => tracing::debug!("Redis is silent; others see that this host is gone"),
        }
    }
}
