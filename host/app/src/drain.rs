//! The end of a host, driven from one place: stop taking, let finish, hand over what is left, leave.

use std::sync::Arc;
use std::time::Duration;

use baton_broker::{Notice, Presence, Queue};
use baton_model::{FunctionId, HostId};
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use crate::announcer::News;
use crate::catalog::Published;
use crate::consumer::Alarm;
use crate::flights::Flights;
use crate::runner::{Runner, ToSettler};
use crate::tally::Tally;

/// How long one step may take that depends on Redis alone. With Redis away, a host still ends.
const STEP_MAX: Duration = Duration::from_secs(5);

/// What is ended.
pub(crate) struct Drain {
    pub(crate) host: HostId,
    pub(crate) queue: Arc<Queue>,
    pub(crate) presence: Arc<Presence>,
    pub(crate) catalog: Arc<Published>,
    pub(crate) flights: Arc<Flights>,
    pub(crate) runner: Arc<Runner>,
    pub(crate) tally: Arc<Tally>,
    pub(crate) alarm: Alarm,
    pub(crate) news: Option<mpsc::Sender<News>>,
    pub(crate) announcer: Option<JoinHandle<()>>,
    pub(crate) to_settler: Option<ToSettler>,
    /// Ends what brings calls in.
    pub(crate) stop: CancellationToken,
    /// Ends what is needed while attempts finish.
    pub(crate) last: CancellationToken,
    pub(crate) timeout: Duration,
}

impl Drain {
    /// Ends everything. Dropping the future leaves the rest undone, which loses nothing: leases lapse.
    pub(crate) async fn run(&mut self, tasks: &mut JoinSet<()>, settler: JoinHandle<()>) {
        let began = Instant::now();
        self.announce(Notice::Shutdown).await;
        self.stop.cancel();
        self.stop_taking(tasks).await;
        self.let_finish().await;
        self.hand_over().await;

        // Nothing can send any more; the settler ends when what it has is settled.
        self.to_settler = None;
        if timeout(STEP_MAX, settler).await.is_err() {
            tracing::warn!("Redis takes no results; their calls run again elsewhere when their leases lapse");
        }
        self.last.cancel();
        let rest = async { while tasks.join_next().await.is_some() {} };
        if timeout(STEP_MAX, rest).await.is_err() {
            tasks.abort_all();
        }
        self.leave().await;
        let took_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        tracing::info!(calls = self.tally.summary(), took_ms, "host ended");
    }

    async fn announce(&mut self, notice: Notice) {
        let Some(news) = &self.news else { return };
        for item in News::of_all(&self.catalog, notice) {
            if timeout(STEP_MAX, news.send(item)).await.is_err() {
                return;
            }
        }
    }

    /// Wakes the reader and waits until what brings calls in has ended. Four tasks do: two stay (leases, record).
    async fn stop_taking(&self, tasks: &mut JoinSet<()>) {
        let ended = async {
            while tasks.len() > KEPT_TASKS {
                tasks.join_next().await;
            }
        };
        let wake = async {
            self.alarm.waker.wake().await;
            std::future::pending::<()>().await;
        };
        tokio::select! {
            () = ended => {}
            () = wake => {}
            () = tokio::time::sleep(STEP_MAX) => {
                tracing::warn!("the reader cannot be woken; what it is handed now is taken over by other hosts");
            }
        }
    }

    /// Lets attempts finish, and says how it goes once a second.
    async fn let_finish(&self) {
        let end = Instant::now() + self.timeout;
        loop {
            let (count, oldest) = self.flights.load();
            if count == 0 {
                return;
            }
            tracing::info!("draining: {count} in flight, oldest {:.1} s", oldest.as_secs_f64());
            let tick = end.min(Instant::now() + Duration::from_secs(1));
            if tokio::time::timeout_at(tick, self.flights.none_left()).await.is_ok() || tick == end {
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
        // Aborted attempts give their seats back by themselves; their flights end with the verdicts.
        _ = timeout(STEP_MAX, self.flights.none_left()).await;
    }

    async fn leave(&mut self) {
        self.announce(Notice::Offline).await;
        self.news = None;
        if let Some(announcer) = self.announcer.take() {
            _ = timeout(STEP_MAX, announcer).await;
        }
        let functions: Vec<FunctionId> = self.catalog.snapshot().functions().cloned().collect();
        let goodbye = async {
            self.queue.leave(&self.host, &functions).await?;
            self.presence.remove(&self.host).await
        };
        match timeout(STEP_MAX, goodbye).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(%error, "could not take this host out of Redis; its record expires"),
            Err(_) => tracing::debug!("Redis is silent; this host's record expires"),
        }
    }
}

/// The tasks that go on while attempts finish: the renewer and the keeper.
const KEPT_TASKS: usize = 2;
