//! Watching the other hosts: looks, roll calls, and what follows. As `watcher.rs`; what a look means is decided by the
//! shipped `peers.rs`.

use std::rc::Rc;
use std::time::Duration;

use baton_broker::{Seen, Word};
use baton_model::{HostId, HostRecord, OfflineReason};
use tokio::time::Instant;

use super::keeper::{channel, part, record_key, say};
use super::{Gone, Host};
use crate::command;
use crate::net::{Ask, Link, Lost, clients};
use crate::peers::Peers;
use crate::redis::Reply;
use crate::time::{MS, SECOND, first};

const LOOK_EVERY: u64 = 250 * MS;
const SLOW: u64 = SECOND;
const LASTS_MS: u64 = 24 * 60 * 60 * 1000;
/// How long Redis has to have run before a missing connection says anything.
const UPTIME_MIN_MS: i64 = 5000;

struct Watcher {
    host: Rc<Host>,
    link: Link,
    /// What is the beginning of time for the shipped code.
    zero: Instant,
}

pub(super) async fn run(host: Rc<Host>) {
    let link = Link::new(&host.server, host.process, None);
    Watcher { host, link, zero: Instant::now() }.run().await;
}

impl Watcher {
    fn now(&self) -> Instant {
        self.zero + Duration::from_micros(self.host.sim.now())
    }

    async fn run(&self) {
        let (sim, lease) = (&self.host.sim, self.host.settings.lease);
        let mut peers = Peers::new(HostId::parse(&self.host.name).expect("an id"), self.now());
        let (mut roll_at, mut last, mut is_first, mut rolled, mut failures) = (sim.now(), sim.now(), true, 0, 0);
        loop {
            let next = if peers.has_any() { roll_at.min(last + LOOK_EVERY) } else { roll_at };
            let word = first(self.host.words.pop(), sim.sleep(next.saturating_sub(sim.now()))).await.ok();
            if sim.now().saturating_sub(next.max(last)) > SLOW {
                peers.disturbed(self.now());
            }
            match word {
                Some(Word::Joined(_) | Word::Gone(_, OfflineReason::Silent)) => {
                    roll_at = roll_at.min(sim.now().max(rolled + 250 * MS));
                }
                Some(Word::Gone(host, OfflineReason::Shutdown)) => {
                    peers.forget(&host);
                    self.take_over(&host, false);
                }
                Some(Word::Gone(host, OfflineReason::Crashed)) => peers.hear_gone(&host, self.now()),
                Some(Word::Calls(_) | Word::Room(..) | Word::Due(..) | Word::Cancel(..)) | None => {}
            }
            let looked = async {
                if is_first {
                    if self.uptime().await? < UPTIME_MIN_MS {
                        peers.disturbed(self.now());
                    }
                    self.inherit_from_the_gone().await?;
                    is_first = false;
                }
                if roll_at <= sim.now() {
                    self.call_the_roll(&mut peers).await?;
                    rolled = sim.now();
                    let pause = if peers.has_any() { lease / 4 } else { lease * 2 };
                    roll_at = rolled + pause.max(250 * MS);
                    *self.host.roster.borrow_mut() = Some(peers.roster());
                }
                self.look(&mut peers).await
            };
            match looked.await {
                Ok(()) => {
                    failures = 0;
                    *self.host.roster.borrow_mut() = Some(peers.roster());
                }
                Err(Lost) => {
                    failures += 1;
                    sim.sleep(self.host.backoff(failures)).await;
                    peers.disturbed(self.now());
                    roll_at = sim.now();
                }
            }
            last = sim.now();
        }
    }

    async fn uptime(&self) -> Result<i64, Lost> {
        Ok(self.link.ask(Ask::Uptime).await?.to_int())
    }

    async fn records(&self, ids: Vec<HostId>) -> Result<Vec<Seen>, Lost> {
        let mut asks = Vec::new();
        for id in &ids {
            asks.push(Ask::Do(command!("GET", record_key(id.as_str()))));
            asks.push(Ask::Do(command!("PTTL", record_key(id.as_str()))));
        }
        let answers = if ids.is_empty() { Vec::new() } else { self.link.ask_all(asks, Vec::new()).await? };
        let seen = |(id, answers): (HostId, &[Reply])| {
            let record = serde_json::from_str(&answers[0].to_text()).ok();
            let left = u64::try_from(answers[1].to_int()).unwrap_or(0);
            Seen { id, record, silent_for: Duration::from_millis(LASTS_MS.saturating_sub(left)) }
        };
        Ok(ids.into_iter().zip(answers.chunks_exact(2)).map(seen).collect())
    }

    async fn inherit_from_the_gone(&self) -> Result<(), Lost> {
        let gone = self.link.ask(Ask::Do(command!("ZRANGE", "baton:{hosts}:offline", 0, 200, "REV"))).await?;
        let ids = gone.parts().iter().filter_map(|id| HostId::parse(&id.to_text())).collect();
        for seen in self.records(ids).await? {
            if seen.record.is_some_and(|record| record.reason == Some(OfflineReason::Crashed)) {
                self.take_over(&seen.id, true);
            }
        }
        Ok(())
    }

    async fn call_the_roll(&self, peers: &mut Peers) -> Result<(), Lost> {
        let online = self.link.ask(Ask::Do(command!("SMEMBERS", "baton:{hosts}:online"))).await?;
        let mut ids: Vec<HostId> = online.parts().iter().filter_map(|id| HostId::parse(&id.to_text())).collect();
        ids.sort();
        let lease = Duration::from_micros(self.host.settings.lease);
        let call = peers.take_in(self.records(ids).await?, lease, self.now());
        if call.am_i_missing {
            self.host.is_missing.push(());
        }
        if !call.left.is_empty() {
            *self.host.roster.borrow_mut() = Some(peers.roster());
        }
        for host in call.left {
            let seen = self.records(vec![host.clone()]).await.unwrap_or_default();
            let reason = seen.into_iter().find_map(|seen| seen.record?.reason);
            self.take_over(&host, reason == Some(OfflineReason::Crashed));
        }
        for host in call.silent {
            self.host.cut_off(&self.link, &[host.as_str().to_owned()], true).await?;
            self.see_off(peers, &host, OfflineReason::Silent).await?;
        }
        Ok(())
    }

    async fn look(&self, peers: &mut Peers) -> Result<(), Lost> {
        let (hosts, asked) = (peers.ids(), self.host.sim.now());
        if hosts.is_empty() {
            return Ok(());
        }
        let asked_at = self.now();
        let channels = hosts.iter().map(|host| channel(host.as_str())).collect();
        let there = self.link.ask(Ask::Listeners(channels)).await?;
        if self.host.sim.now() - asked > SLOW {
            peers.disturbed(self.now());
            return Ok(());
        }
        let there: Vec<bool> = there.parts().iter().map(|count| count.to_int() > 0).collect();
        let suspects = peers.look(&hosts, &there, asked_at);
        if suspects.is_empty() {
            return Ok(());
        }
        let gone = self.host.without_connection(&self.link, &suspects).await?;
        for host in suspects {
            if gone.contains(&host) && self.host.settings.rules.sees_crashes {
                self.see_off(peers, &host, OfflineReason::Crashed).await?;
            } else {
                peers.acquit(&host);
            }
        }
        Ok(())
    }

    async fn see_off(&self, peers: &mut Peers, host: &HostId, reason: OfflineReason) -> Result<(), Lost> {
        self.host.sim.log(|| format!("{} sees that {host} is {reason}", self.host.name));
        let now_ms = self.host.server.now_ms();
        let record: Option<HostRecord> = peers.record(host).cloned().map(|record| record.gone(reason, now_ms));
        if reason == OfflineReason::Crashed {
            _ = self.link.ask(say(&Word::Gone(host.clone(), reason))).await;
            peers.forget(host);
            *self.host.roster.borrow_mut() = Some(peers.roster());
            self.take_over(host, true);
        }
        let is_first = self.link.ask(part(record.as_ref(), host.as_str(), now_ms)).await? == Reply::Int(1);
        if reason == OfflineReason::Silent {
            if !is_first {
                return Ok(());
            }
            _ = self.link.ask(say(&Word::Gone(host.clone(), reason))).await;
            self.take_over(host, false);
        }
        peers.forget(host);
        Ok(())
    }

    fn take_over(&self, host: &HostId, is_crash: bool) {
        self.host.to_sweeper.push(Gone { host: host.as_str().to_owned(), is_crash });
    }
}

impl Host {
    /// Those of which the server has no connection at all.
    pub(super) async fn without_connection(&self, link: &Link, hosts: &[HostId]) -> Result<Vec<HostId>, Lost> {
        let all = link.ask(Ask::Clients).await?;
        let names: Vec<String> = clients(&all).map(|(_, name)| name).collect();
        let is_there = |host: &&HostId| {
            ["presence", "reader", "settler"].iter().any(|kind| names.contains(&format!("baton-{kind}-{host}")))
        };
        Ok(hosts.iter().filter(|host| !is_there(host)).cloned().collect())
    }

    /// Has the server close connections of these hosts, before anything is claimed from them.
    pub(super) async fn cut_off(&self, link: &Link, hosts: &[String], is_reader_too: bool) -> Result<(), Lost> {
        if !self.settings.rules.cuts_off {
            return Ok(());
        }
        let mut names: Vec<String> = hosts.iter().map(|host| format!("baton-settler-{host}")).collect();
        if is_reader_too {
            names.extend(hosts.iter().map(|host| format!("baton-reader-{host}")));
        }
        let all = link.ask(Ask::Clients).await?;
        for (id, _) in clients(&all).filter(|(_, name)| names.contains(name)) {
            link.ask(Ask::Kill(id)).await?;
        }
        Ok(())
    }
}
