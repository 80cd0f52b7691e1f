//! The watcher: sees within a second that another host is gone, says so, and has its calls taken over.
//!
//! While this host is alone it asks next to nothing; who comes says so.

use std::sync::Arc;
use std::time::Duration;

use baton_broker::{BrokerError, Cut, Notice, Presence, Queue, UPTIME_MIN, Word};
use baton_model::mutants::{Rule, is_left_out};
use baton_model::{FunctionId, HostId, HostRecord, OfflineReason};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::announcer::News;
use crate::backoff::{Backoff, Trouble};
use crate::clock::now_ms;
use crate::metrics::Metrics;
use crate::peers::{Peers, Roster};

/// Between two looks at the others' presence.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// Between two roll calls, whatever the lease.
const ROLL_MIN: Duration = Duration::from_millis(250);
/// A look that took so long, or came so late, says nothing about the others.
const SLOW: Duration = Duration::from_secs(1);

/// A host whose calls are to be taken over.
pub(crate) struct Gone {
    pub(crate) host: HostId,
    pub(crate) reason: OfflineReason,
    /// What it had loaded; none if nobody knows.
    pub(crate) functions: Option<Vec<FunctionId>>,
}

/// Watches the other hosts.
pub(crate) struct Watcher {
    pub(crate) host: HostId,
    pub(crate) queue: Arc<Queue>,
    pub(crate) presence: Arc<Presence>,
    pub(crate) lease: Duration,
    /// What the others say.
    pub(crate) words: mpsc::Receiver<Word>,
    /// Told when this host is not among those that are online.
    pub(crate) missing: watch::Sender<u64>,
    /// Who is there; none until that is known.
    pub(crate) roster: watch::Sender<Option<Roster>>,
    /// To the sweeper. Unbounded: it holds one entry for each host that went.
    pub(crate) gone: mpsc::UnboundedSender<Gone>,
    pub(crate) news: mpsc::Sender<News>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) trouble: Arc<Trouble>,
}

impl Watcher {
    /// Watches until `stop`.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        let mut peers = Peers::new(self.host.clone(), Instant::now());
        let mut backoff = Backoff::new("watching the other hosts", &self.trouble);
        let mut roll_at = Instant::now();
        let mut last = Instant::now();
        let mut is_first = true;
        let mut rolled = Instant::now() - ROLL_MIN;
        loop {
            let next = if peers.has_any() { roll_at.min(last + LOOK_EVERY) } else { roll_at };
            let word = tokio::select! {
                () = tokio::time::sleep_until(next) => None,
                Some(word) = self.words.recv() => Some(word),
                () = stop.cancelled() => return,
            };
            let now = Instant::now();
            // This process stood still. Whatever it sees now is older than it seems.
            if now.saturating_duration_since(next.max(last)) > SLOW {
                peers.disturbed(now);
            }
            match word {
                // At a start of many hosts words come in swarms; one roll call answers them all.
                Some(Word::Joined(_) | Word::Gone(_, OfflineReason::Silent)) => {
                    roll_at = roll_at.min(now.max(rolled + ROLL_MIN))
                }
                Some(Word::Gone(host, OfflineReason::Shutdown)) => {
                    // What it could not hand over waits for its leases.
                    let record = peers.record(&host).cloned();
                    peers.forget(&host);
                    self.take_over(host, OfflineReason::Shutdown, record.as_ref());
                }
                Some(Word::Gone(host, OfflineReason::Crashed)) => peers.hear_gone(&host, now),
                Some(Word::Calls(_) | Word::Room(..) | Word::Due(..) | Word::Cancel(..)) | None => {}
            }
            let looked = async {
                if is_first {
                    // A server may forbid the question; then it is taken to be young.
                    if self.presence.uptime().await.unwrap_or_default() < UPTIME_MIN {
                        peers.disturbed(now);
                    }
                    self.inherit_from_the_gone().await?;
                    is_first = false;
                }
                if roll_at <= Instant::now() {
                    self.call_the_roll(&mut peers).await?;
                    rolled = Instant::now();
                    let pause = if peers.has_any() { self.lease / 4 } else { self.lease * 2 };
                    roll_at = rolled + pause.max(ROLL_MIN);
                    // Whatever the look brings: others need to know who is there.
                    self.roster.send_replace(Some(peers.roster()));
                }
                self.look(&mut peers).await
            };
            match looked.await {
                Ok(()) => {
                    backoff.succeeded();
                    self.roster.send_replace(Some(peers.roster()));
                }
                Err(error) => {
                    tokio::select! {
                        () = backoff.failed(&error) => {}
                        () = stop.cancelled() => return,
                    }
                    peers.disturbed(Instant::now());
                    roll_at = Instant::now();
                }
            }
            last = Instant::now();
        }
    }

    /// Hosts that crashed lately, as another host saw: those that run functions may all have come later.
    async fn inherit_from_the_gone(&self) -> Result<(), BrokerError> {
        for record in self.presence.gone().await? {
            if record.reason == Some(OfflineReason::Crashed) {
                self.take_over(record.id.clone(), OfflineReason::Crashed, Some(&record));
            }
        }
        Ok(())
    }

    async fn call_the_roll(&self, peers: &mut Peers) -> Result<(), BrokerError> {
        let roll = self.presence.roll().await?;
        let call = peers.take_in(roll, self.lease, Instant::now());
        if call.am_i_missing {
            self.missing.send_modify(|n| *n += 1);
        }
        if !call.left.is_empty() {
            self.roster.send_replace(Some(peers.roster()));
        }
        for host in call.left {
            // It left, or another host saw that it is gone while this one was not told.
            let reason = self.presence.reason(&host).await.ok().flatten();
            self.take_over(host, reason.unwrap_or(OfflineReason::Silent), None);
        }
        for host in call.silent {
            // What it is handed from now on nobody would look for before long, so it is handed nothing.
            self.presence.cut_off(&[host.as_str().to_owned()], Cut::Work).await?;
            self.see_off(peers, &host, OfflineReason::Silent).await?;
        }
        Ok(())
    }

    async fn look(&self, peers: &mut Peers) -> Result<(), BrokerError> {
        let hosts = peers.ids();
        let asked = Instant::now();
        let are_there = self.presence.are_there(&hosts).await?;
        if asked.elapsed() > SLOW {
            peers.disturbed(Instant::now());
            return Ok(());
        }
        let suspects = peers.look(&hosts, &are_there, asked);
        let gone = self.presence.without_connection(&suspects).await?;
        for host in suspects {
            if gone.contains(&host) && !is_left_out(Rule::PresenceSweep) {
                self.see_off(peers, &host, OfflineReason::Crashed).await?;
            } else {
                peers.acquit(&host);
            }
        }
        Ok(())
    }

    /// Has its calls taken over, and if nobody was quicker takes it out and says so.
    async fn see_off(&self, peers: &mut Peers, host: &HostId, reason: OfflineReason) -> Result<(), BrokerError> {
        let record = peers.record(host).cloned();
        let unseen_ms = u64::try_from(peers.unseen_for(host, reason).as_millis()).unwrap_or(u64::MAX);
        let record = record.map(|record| record.gone(reason, now_ms().saturating_sub(unseen_ms)));
        // Counted before anybody takes them over.
        let functions = record.iter().flat_map(|record| &record.functions).map(|loaded| loaded.function.clone());
        let calls = self.queue.held_by(host, &functions.collect::<Vec<_>>()).await?;
        if reason == OfflineReason::Crashed {
            // The others see it at their next look as well; this saves them one.
            _ = self.presence.tell(&Word::Gone(host.clone(), reason)).await;
            // Before its calls are taken over: from a host that is there nothing is taken.
            peers.forget(host);
            self.roster.send_replace(Some(peers.roster()));
            self.take_over(host.clone(), reason, record.as_ref());
        }
        let is_first = self.presence.part(host, record.as_ref()).await?;
        if reason == OfflineReason::Silent {
            if is_first {
                _ = self.presence.tell(&Word::Gone(host.clone(), reason)).await;
                self.take_over(host.clone(), reason, record.as_ref());
            } else {
                // It is alive after all, or another host was quicker, which the next roll call shows.
                return Ok(());
            }
        }
        peers.forget(host);
        if is_first && let Some(record) = record {
            self.report(&record, reason, calls, peers);
        }
        Ok(())
    }

    fn take_over(&self, host: HostId, reason: OfflineReason, record: Option<&HostRecord>) {
        let functions = record.map(|record| record.functions.iter().map(|loaded| loaded.function.clone()).collect());
        // The sweeper ends before this does only when the host ends.
        _ = self.gone.send(Gone { host, reason, functions });
    }

    fn report(&self, record: &HostRecord, reason: OfflineReason, calls: u64, peers: &Peers) {
        let is_machine_online = peers.roster().is_online(&record.machine);
        tracing::warn!(
            host = %record.id, machine = record.machine, reason = reason.as_str(), calls,
            machine_state = if is_machine_online { "online" } else { "offline" },
            "host offline"
        );
        self.metrics.host_offline(reason.as_str());
        for loaded in &record.functions {
            let news = News::of_another(Notice::Offline, loaded.clone(), record);
            // A hint only; the listing says the same.
            _ = self.news.try_send(news);
        }
    }
}
