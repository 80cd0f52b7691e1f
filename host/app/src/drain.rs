//! The end of a host, driven from one place: stop taking, let finish, hand over what is left, leave.

use std::sync::Arc;
use std::time::Duration;

use baton_broker::{Notice, Presence, Queue};
use baton_model::{FunctionId, HostId};
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

use crate::announcer::News;
use crate::catalog::Published;
use crate::flights::Flights;
use crate::intake::Alarm;
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
    pub(crate) settler: JoinHandle<()>,
    pub(crate) announcer: JoinHandle<()>,
}

impl Parts {
    /// Waits for a part that ends by itself, which none should.
    pub(crate) async fn next_end(&mut self) -> Result<(), tokio::task::JoinError> {
        tokio::select! {
            Some(ended) = self.intake.join_next() => ended,
            Some(ended) = self.upkeep.join_next() => ended,
            ended = &mut self.settler => ended,
        }
    }
}

/// How a host is ended.
pub(crate) struct Drain {
    pub(crate) host: HostId,
    pub(crate) queue: Arc<Queue>,
    pub(crate) presence: Arc<Presence>,
    pub(crate) catalog: Arc<Published>,
    pub(crate) flights: Arc<Flights>,
    pub(crate) runner: Arc<Runner>,
    pub(crate) alarm: Alarm,
    pub(crate) news: Option<mpsc::Sender<News>>,
    pub(crate) to_settler: Option<ToSettler>,
    /// Ends what brings calls in.
    pub(crate) stop: CancellationToken,
    /// Ends what is needed while attempts finish.
    pub(crate) last: CancellationToken,
    pub(crate) timeout: Duration,
}

impl Drain {
    /// Ends everything, within the drain time and a grace. Dropping the future leaves the rest undone, which loses
    /// nothing: leases lapse.
    pub(crate) async fn run(mut self, parts: Parts) {
        let Parts { mut intake, mut upkeep, settler, announcer } = parts;
        let began = Instant::now();
        self.runner.metrics.drain_began();
        let end = began + self.timeout;
        let hard_end = end + GRACE;
        let step = || hard_end.min(Instant::now() + STEP_MAX);
        self.announce(Notice::Shutdown, step()).await;
        self.stop.cancel();
        self.stop_taking(&mut intake, step()).await;
        self.let_finish(end).await;
        if timeout_at(step(), self.hand_over()).await.is_err() {
            tracing::warn!("not everything could be handed over; the rest is taken over when its leases lapse");
        }
        // Nothing can send any more; the settler ends when what it has is settled.
        self.to_settler = None;
        intake.abort_all();
        if settler.is_finished() || timeout_at(step(), settler).await.is_err() {
            tracing::warn!("Redis takes no results; their calls run again elsewhere when their leases lapse");
        }
        self.last.cancel();
        _ = timeout_at(step(), async { while upkeep.join_next().await.is_some() {} }).await;
        upkeep.abort_all();
        self.announce(Notice::Offline, step()).await;
        self.news = None;
        _ = timeout_at(step(), announcer).await;
        self.leave(step()).await;
        let took_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        tracing::info!(calls = self.runner.metrics.summary(), took_ms, "host ended");
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
            self.alarm.waker.wake().await;
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
        let Some(to_settler) = &self.to_settler else { return };
        if !rest.is_empty() {
            tracing::warn!(calls = rest.len(), "handing over calls that did not finish within the drain time");
        }
        for delivery in rest {
            self.runner.hand_over(delivery, to_settler).await;
        }
        // Stopped attempts give their seats back by themselves; their flights end with the verdicts.
        self.flights.none_left().await;
    }

    async fn leave(&self, end: Instant) {
        let functions: Vec<FunctionId> = self.catalog.snapshot().functions().cloned().collect();
        let goodbye = async {
            self.queue.leave(&self.host, &functions).await?;
            self.presence.remove(&self.host).await
        };
        match timeout_at(end, goodbye).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(%error, "could not take this host out of Redis; its record expires"),
            Err(_) => tracing::debug!("Redis is silent; this host's record expires"),
        }
    }
}
