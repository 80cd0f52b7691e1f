//! Which hosts there are: who is online, who is gone and why, and who can no more be heard.
//!
//! Three signs are told apart. A process that dies has its sockets closed by the system, and Redis drops what they were
//! subscribed to: that is seen within two looks. One that is frozen, or cut off, has its sockets standing: its record
//! grows old, by the clock of Redis. One that leaves in order says so.

use std::collections::HashSet;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use baton_model::{HostId, HostRecord, HostState, OfflineReason};
use redis::{Value, cmd};

use crate::BrokerError;
use crate::keys::{Keys, presence_name, reader_name, settler_name};
use crate::link::{BrokerConfig, Link, connections_of, ids_of};
use crate::meter::Role;
use crate::script::Lua;
use crate::standing::{Standing, Word};

/// How long a record is kept, counted from the host's last sign of life, or from its end.
const RECORD_LASTS: Duration = Duration::from_secs(24 * 60 * 60);
/// The most gone hosts that are kept.
const OFFLINE_MAX: usize = 200;
/// Between two looks of [`Presence::survey`] at a host that seems to be gone.
const SECOND_LOOK: Duration = Duration::from_millis(250);

/// A host as it was seen among those that are online.
#[derive(Debug, Clone)]
pub struct Seen {
    /// The host.
    pub id: HostId,
    /// Its record; none if it has expired, or cannot be read.
    pub record: Option<HostRecord>,
    /// How long ago it gave its last sign of life, by the clock of Redis.
    pub silent_for: Duration,
}

/// How long Redis has to have run before a missing connection says anything.
pub const UPTIME_MIN: Duration = Duration::from_secs(5);

/// Which of a gone host's connections Redis is to close.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// Those through which it settles.
    Settling,
    /// Those through which it settles and those through which it is handed calls.
    Work,
}

/// Reads and writes who is there.
pub struct Presence {
    link: Link,
    keys: Keys,
    part: Lua,
}

impl Presence {
    /// Presence with these settings.
    ///
    /// # Errors
    /// [`BrokerError::BadUrl`].
    pub fn new(config: &BrokerConfig) -> Result<Self, BrokerError> {
        let part = Lua::new(include_str!("scripts/part.lua"));
        Ok(Self { link: Link::new(config.client()?).counted(config, Role::Presence), keys: config.keys(), part })
    }

    /// Opens the connection by which `host` is seen to be there. It is to register on it.
    ///
    /// # Errors
    /// Any [`BrokerError`].
    pub async fn stand(&self, host: &HostId) -> Result<Standing, BrokerError> {
        Standing::open(self.link.client(), self.keys.clone(), host.clone()).await
    }

    /// How long Redis runs.
    ///
    /// # Errors
    /// Any [`BrokerError`].
    pub async fn uptime(&self) -> Result<Duration, BrokerError> {
        let answer = self.link.run(cmd("INFO").arg("server")).await?;
        let info: String = read("INFO", answer)?;
        let seconds = info.lines().find_map(|line| line.strip_prefix("uptime_in_seconds:")?.trim().parse().ok());
        Ok(Duration::from_secs(seconds.unwrap_or(0)))
    }

    /// Whether Redis has the presence connection of each of these hosts. One cheap command, for any number of hosts.
    ///
    /// # Errors
    /// Any [`BrokerError`].
    pub async fn are_there(&self, hosts: &[HostId]) -> Result<Vec<bool>, BrokerError> {
        if hosts.is_empty() {
            return Ok(Vec::new());
        }
        let channels: Vec<String> = hosts.iter().map(|host| self.keys.host_channel(host)).collect();
        match self.link.run(cmd("PUBSUB").arg("NUMSUB").arg(channels)).await? {
            Value::Array(pairs) if pairs.len() == 2 * hosts.len() => {
                Ok(pairs.chunks_exact(2).map(|pair| !matches!(pair[1], Value::Int(0))).collect())
            }
            other => Err(BrokerError::shape("PUBSUB NUMSUB", &other)),
        }
    }

    /// The hosts among these of which Redis has no connection at all. To be asked when presence connections are
    /// missing: one that only lost that connection has others.
    ///
    /// # Errors
    /// Any [`BrokerError`].
    pub async fn without_connection(&self, hosts: &[HostId]) -> Result<Vec<HostId>, BrokerError> {
        if hosts.is_empty() {
            return Ok(Vec::new());
        }
        let list: String = read("CLIENT LIST", self.link.run(cmd("CLIENT").arg("LIST")).await?)?;
        let names: HashSet<&str> = connections_of(&list).map(|(_, name)| name).collect();
        let is_there = |host: &HostId| {
            let host = host.as_str();
            [presence_name(host), reader_name(host), settler_name(host)].iter().any(|name| names.contains(&name[..]))
        };
        Ok(hosts.iter().filter(|host| !is_there(host)).cloned().collect())
    }

    /// The hosts that are online, as far as anybody has seen.
    ///
    /// # Errors
    /// Any [`BrokerError`].
    pub async fn roll(&self) -> Result<Vec<Seen>, BrokerError> {
        let ids: Vec<String> = read("SMEMBERS", self.link.run(cmd("SMEMBERS").arg(self.keys.online())).await?)?;
        let mut ids: Vec<HostId> = ids.iter().filter_map(|id| HostId::parse(id)).collect();
        ids.sort();
        self.seen(ids).await
    }

    async fn seen(&self, ids: Vec<HostId>) -> Result<Vec<Seen>, BrokerError> {
        let mut look = redis::pipe();
        for id in &ids {
            look.cmd("GET").arg(self.keys.host(id));
            look.cmd("PTTL").arg(self.keys.host(id));
        }
        let answers = if ids.is_empty() { Vec::new() } else { self.link.run_all(&look).await? };
        let seen = |(id, answers): (HostId, &[Value])| {
            let record = match &answers[0] {
                Value::BulkString(json) => serde_json::from_slice(json).ok(),
                _ => None,
            };
            let left = match answers[1] {
                Value::Int(ms) => Duration::from_millis(u64::try_from(ms).unwrap_or(0)),
                _ => Duration::ZERO,
            };
            Seen { id, record, silent_for: RECORD_LASTS.saturating_sub(left) }
        };
        Ok(ids.into_iter().zip(answers.chunks_exact(2)).map(seen).collect())
    }

    /// Why a host is gone; none if nobody knows.
    ///
    /// # Errors
    /// Any [`BrokerError`].
    pub async fn reason(&self, host: &HostId) -> Result<Option<OfflineReason>, BrokerError> {
        let seen = self.seen(vec![host.clone()]).await?;
        Ok(seen.into_iter().find_map(|seen| seen.record?.reason))
    }

    /// Takes a host out of those that are online. `record` is what is kept of it for people. False if it was out
    /// already, by whomever; if it is taken out for its silence, also if it gave a sign of life meanwhile.
    ///
    /// # Errors
    /// Any [`BrokerError`].
    pub async fn part(&self, host: &HostId, record: Option<&HostRecord>) -> Result<bool, BrokerError> {
        let json = record.map(serde_json::to_string).transpose();
        let json = json.map_err(|e| BrokerError::Refused(format!("a host record: {e}")))?.unwrap_or_default();
        let seen = record.and_then(|record| record.last_seen_ms).unwrap_or_else(now_ms);
        let silent_ms = match record.and_then(|record| Some((record.reason?, record.silent_after()))) {
            Some((OfflineReason::Silent, after)) => i64::try_from(after.as_millis()).unwrap_or(i64::MAX),
            Some((OfflineReason::Shutdown | OfflineReason::Crashed, _)) | None => -1,
        };
        let lasts_ms = record_lasts_ms();
        let mut call = self.part.call(3);
        call.arg(self.keys.online()).arg(self.keys.offline()).arg(self.keys.host(host));
        call.arg(host.as_str()).arg(json).arg(seen).arg(lasts_ms).arg(OFFLINE_MAX).arg(silent_ms).arg(lasts_ms);
        Ok(self.part.run(&self.link, &call).await? == Value::Int(1))
    }

    /// Tells the other hosts.
    ///
    /// # Errors
    /// Any [`BrokerError`]; it is a hint only.
    pub async fn tell(&self, word: &Word) -> Result<(), BrokerError> {
        self.link.run(cmd("PUBLISH").arg(self.keys.hosts_channel()).arg(word.encode())).await.map(drop)
    }

    /// Has Redis close connections of these hosts, whatever their number. To be done before their entries are
    /// claimed: what a stopped process had on its way is then refused when it goes on.
    ///
    /// # Errors
    /// Any [`BrokerError`]; nothing may be claimed then.
    pub async fn cut_off(&self, hosts: &[String], cut: Cut) -> Result<(), BrokerError> {
        let settling = hosts.iter().map(|host| settler_name(host));
        let names: HashSet<String> = match cut {
            Cut::Settling => settling.collect(),
            Cut::Work => settling.chain(hosts.iter().map(|host| reader_name(host))).collect(),
        };
        let list = self.link.run(cmd("CLIENT").arg("LIST").arg("TYPE").arg("normal")).await?;
        let list: String = read("CLIENT LIST", list)?;
        for id in ids_of(&list, |name| names.contains(name)) {
            self.link.run(cmd("CLIENT").arg("KILL").arg("ID").arg(id)).await?;
        }
        Ok(())
    }

    /// The hosts that are gone, of the last day; those that were last seen come first.
    ///
    /// # Errors
    /// Any [`BrokerError`].
    pub async fn gone(&self) -> Result<Vec<HostRecord>, BrokerError> {
        let latest = cmd("ZRANGE").arg(self.keys.offline()).arg(0).arg(OFFLINE_MAX).arg("REV").to_owned();
        let latest: Vec<String> = read("ZRANGE", self.link.run(&latest).await?)?;
        let ids = latest.iter().filter_map(|id| HostId::parse(id)).collect();
        let records = self.seen(ids).await?.into_iter().filter_map(|seen| seen.record);
        Ok(records.filter(|record| record.state == HostState::Offline).collect())
    }

    /// All hosts of the last day as they are now, for people and programs to read: online ones, and gone ones with the
    /// reason. Sorted: those that are there first, then by when they were last seen.
    ///
    /// When a host seems to be gone and none has said so yet, this takes a second look a quarter of a second later.
    ///
    /// # Errors
    /// Any [`BrokerError`].
    pub async fn survey(&self) -> Result<Vec<HostRecord>, BrokerError> {
        match self.survey_once().await {
            // The connection may have been closed while it was idle, which says nothing of Redis.
            Err(BrokerError::Unreachable(_)) => self.survey_once().await,
            other => other,
        }
    }

    async fn survey_once(&self) -> Result<Vec<HostRecord>, BrokerError> {
        let online = self.roll().await?;
        let is_online = |host: &HostRecord| online.iter().any(|seen| seen.id == host.id);
        let gone: Vec<HostRecord> = self.gone().await?.into_iter().filter(|host| !is_online(host)).collect();
        let crashed = self.crashed(&online).await?;
        let now = now_ms();
        let judged = online.into_iter().filter_map(|seen| {
            let last_seen = now.saturating_sub(u64::try_from(seen.silent_for.as_millis()).unwrap_or(u64::MAX));
            let record = seen.record?;
            Some(if crashed.contains(&seen.id) {
                record.gone(OfflineReason::Crashed, last_seen)
            } else if seen.silent_for > record.silent_after() {
                record.gone(OfflineReason::Silent, last_seen)
            } else {
                HostRecord { last_seen_ms: Some(last_seen), ..record }
            })
        });
        let mut hosts: Vec<HostRecord> = judged.chain(gone).collect();
        hosts.sort_by_key(|host| {
            let rank = std::cmp::Reverse(host.last_seen_ms);
            let is_gone = host.state == HostState::Offline;
            // Those that are there keep their places from one look to the next.
            (is_gone, is_gone.then_some(rank), host.started_ms, host.id.clone())
        });
        Ok(hosts)
    }

    /// Those of `online` whose connections are all closed.
    async fn crashed(&self, online: &[Seen]) -> Result<Vec<HostId>, BrokerError> {
        let mut missing: Vec<HostId> = online.iter().map(|seen| seen.id.clone()).collect();
        for is_second in [false, true] {
            if is_second && !missing.is_empty() {
                tokio::time::sleep(SECOND_LOOK).await;
            }
            let there = self.are_there(&missing).await?;
            let mut there = there.into_iter();
            missing.retain(|_| !there.next().unwrap_or(true));
        }
        // Hosts come back one by one when Redis was started.
        if missing.is_empty() || self.uptime().await.is_ok_and(|uptime| uptime < UPTIME_MIN) {
            return Ok(Vec::new());
        }
        self.without_connection(&missing).await
    }
}

fn read<T: redis::FromRedisValue>(command: &str, answer: Value) -> Result<T, BrokerError> {
    redis::from_redis_value(answer).map_err(|error| BrokerError::shape(command, &error.to_string()))
}

pub(crate) fn record_lasts_ms() -> u64 {
    u64::try_from(RECORD_LASTS.as_millis()).unwrap_or(u64::MAX)
}

/// Now, in Unix milliseconds, for people to read.
fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
