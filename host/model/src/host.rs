//! What a host tells its peers and operators about itself.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{AboutSchedule, Digest, FunctionId, HostId};

/// Where a host stands in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HostState {
    /// It is loading its functions and takes no calls yet.
    Starting,
    /// It takes calls.
    Online,
    /// It takes no new calls and finishes what it has.
    Draining,
    /// It is gone.
    Offline,
}

impl fmt::Display for HostState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Starting => "starting",
            Self::Online => "online",
            Self::Draining => "draining",
            Self::Offline => "offline",
        })
    }
}

/// Why a host is offline.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OfflineReason {
    /// It left in order.
    Shutdown,
    /// Its connections to Redis closed, and it did not say why.
    Crashed,
    /// Its connections stand, or seem to, and it gave no sign of life for too long.
    Silent,
}

impl OfflineReason {
    /// Every reason.
    pub const ALL: [Self; 3] = [Self::Shutdown, Self::Crashed, Self::Silent];

    /// The reason in one word.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Shutdown => "shutdown",
            Self::Crashed => "crashed",
            Self::Silent => "silent",
        }
    }
}

impl fmt::Display for OfflineReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One function as a host has it loaded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoadedFunction {
    /// Its full name.
    pub function: FunctionId,
    /// The component that new calls run on.
    pub digest: Digest,
    /// When it is called by itself.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub schedules: Vec<AboutSchedule>,
}

/// A host's own account of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostRecord {
    /// New at every start.
    pub id: HostId,
    /// The machine's name; several hosts may share one.
    pub machine: String,
    /// The process.
    pub pid: u32,
    /// The version of Baton.
    pub version: String,
    /// Where it stands.
    pub state: HostState,
    /// How many attempts it runs at once, at the most; none runs no functions at all.
    pub seats: u32,
    /// How many calls it held when it last gave a sign of life.
    #[serde(default)]
    pub in_flight: u64,
    /// How long its leases last, in milliseconds. Without a sign of life for a third longer, it is silent.
    pub lease_ms: u64,
    /// When it started, in Unix milliseconds.
    pub started_ms: u64,
    /// When it last gave a sign of life, in Unix milliseconds. Said by whoever looks, not by the host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_seen_ms: Option<u64>,
    /// Why it is offline, if it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<OfflineReason>,
    /// What it has loaded.
    pub functions: Vec<LoadedFunction>,
}

impl HostRecord {
    /// The longest that a living host gives no sign of life: a lease and a third, so that by then every lease that it
    /// renewed before it fell silent has lapsed.
    #[must_use]
    pub fn silent_after(&self) -> Duration {
        Duration::from_millis(self.lease_ms.saturating_add(self.lease_ms / 3))
    }

    /// The record of the same host as somebody else leaves it when it is gone.
    #[must_use]
    pub fn gone(mut self, reason: OfflineReason, last_seen_ms: u64) -> Self {
        self.state = HostState::Offline;
        self.reason = Some(reason);
        self.last_seen_ms = Some(last_seen_ms);
        self.in_flight = 0;
        self
    }
}

/// One machine, as its hosts show it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MachineSummary {
    /// Its name.
    pub machine: String,
    /// Online when one of its hosts is; offline otherwise.
    pub state: HostState,
    /// How many hosts are known of it.
    pub hosts: usize,
    /// How many of them are online.
    pub online: usize,
}

/// The machines of these hosts, by name.
#[must_use]
pub fn machines(hosts: &[HostRecord]) -> Vec<MachineSummary> {
    let mut machines: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
    for host in hosts {
        let (known, online) = machines.entry(&host.machine).or_default();
        *known += 1;
        *online += usize::from(host.state == HostState::Online);
    }
    let summary = |(machine, (hosts, online)): (&str, _)| MachineSummary {
        machine: machine.to_owned(),
        state: if online > 0 { HostState::Online } else { HostState::Offline },
        hosts,
        online,
    };
    machines.into_iter().map(summary).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(id: &str, machine: &str, state: HostState) -> HostRecord {
        HostRecord {
            id: HostId::parse(id).unwrap(),
            machine: machine.to_owned(),
            pid: 1,
            version: String::new(),
            state,
            seats: 1,
            in_flight: 3,
            lease_ms: 30_000,
            started_ms: 1,
            last_seen_ms: None,
            reason: None,
            functions: Vec::new(),
        }
    }

    #[test]
    fn a_machine_is_online_while_one_of_its_hosts_is() {
        let (online, offline) = (HostState::Online, HostState::Offline);
        let hosts = [host("a", "one", offline), host("b", "one", online), host("c", "two", HostState::Draining)];
        let seen: Vec<_> = machines(&hosts).into_iter().map(|m| (m.machine, m.state, m.hosts, m.online)).collect();
        assert_eq!(seen, [("one".to_owned(), online, 2, 1), ("two".to_owned(), offline, 1, 0)]);
    }

    #[test]
    fn a_gone_host_says_why_and_holds_nothing() {
        let record = host("a", "one", HostState::Online);
        assert_eq!(record.silent_after(), Duration::from_secs(40));
        let gone = record.gone(OfflineReason::Crashed, 7);
        let json = serde_json::to_value(&gone).unwrap();
        assert_eq!((&json["state"], &json["reason"]), (&"offline".into(), &"crashed".into()));
        assert_eq!((gone.in_flight, gone.last_seen_ms), (0, Some(7)));
    }
}
