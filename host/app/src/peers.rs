//! What is known of the other hosts, and what follows from a look at them. No I/O: time and looks come in as arguments.

use std::collections::BTreeMap;
use std::time::Duration;

use baton_broker::Seen;
use baton_model::{FunctionId, HostId, HostRecord, HostState, OfflineReason};
use tokio::time::Instant;

/// For how long Redis has to have answered well before anybody is judged by what it answers. After a restart of
/// Redis, or a pause of this process, hosts come back within their longest back-off.
const STEADY: Duration = Duration::from_secs(3);
/// Looks in a row that a host has to miss.
const MISSES: u8 = 2;
/// The least time between two of them: a host that makes its connections anew has to have had time for it.
const APART: Duration = Duration::from_millis(200);

struct Peer {
    record: Option<HostRecord>,
    silent_for: Duration,
    /// When it was last seen: its sign of life, or its connection.
    seen_at: Instant,
    misses: u8,
    /// When the last of them was.
    missed_at: Option<Instant>,
}

/// What a roll call showed.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct RollCall {
    /// This host is not among those that are online: it has to register anew.
    pub(crate) am_i_missing: bool,
    /// Hosts whose last sign of life is too old.
    pub(crate) silent: Vec<HostId>,
    /// Hosts that are not online any more, and of which this host was not told.
    pub(crate) left: Vec<HostId>,
}

/// For how long a host's own sign of life has to have come in time before it judges others by theirs: they get as
/// long to be heard again.
fn heard_for(lease: Duration) -> Duration {
    lease.mul_f64(0.5).max(STEADY.min(lease))
}

/// The other hosts.
pub(crate) struct Peers {
    me: HostId,
    online: BTreeMap<HostId, Peer>,
    /// From when on looks are believed.
    steady_from: Instant,
    /// Since when this host's own sign of life is seen in time.
    heard_since: Option<Instant>,
}

impl Peers {
    /// Nobody is known yet. Looks are believed at once.
    pub(crate) fn new(me: HostId, now: Instant) -> Self {
        Self { me, online: BTreeMap::new(), steady_from: now, heard_since: None }
    }

    /// Whether there is anybody to watch.
    pub(crate) fn has_any(&self) -> bool {
        !self.online.is_empty()
    }

    /// The hosts to look at.
    pub(crate) fn ids(&self) -> Vec<HostId> {
        self.online.keys().cloned().collect()
    }

    /// What is known of a host.
    pub(crate) fn record(&self, host: &HostId) -> Option<&HostRecord> {
        self.online.get(host)?.record.as_ref()
    }

    /// How long ago a host was last seen to be there.
    pub(crate) fn unseen_for(&self, host: &HostId, reason: OfflineReason) -> Duration {
        let Some(peer) = self.online.get(host) else { return Duration::ZERO };
        match reason {
            // Its connection stands still; that says nothing.
            OfflineReason::Silent => peer.silent_for,
            OfflineReason::Crashed | OfflineReason::Shutdown => peer.seen_at.elapsed(),
        }
    }

    /// Redis failed, was restarted, or this process stood still: nobody is judged for a while.
    pub(crate) fn disturbed(&mut self, now: Instant) {
        self.steady_from = now + STEADY;
        self.heard_since = None;
        self.online.values_mut().for_each(|peer| peer.misses = 0);
    }

    /// Takes in who is online.
    pub(crate) fn take_in(&mut self, roll: Vec<Seen>, lease: Duration, now: Instant) -> RollCall {
        let mut call = RollCall { am_i_missing: true, ..RollCall::default() };
        let mut before = std::mem::take(&mut self.online);
        for Seen { id, record, silent_for } in roll {
            if id == self.me {
                call.am_i_missing = false;
                // When this host's own sign of life comes late, Redis is at fault, and others' are late as well.
                let in_time = silent_for < lease.mul_f64(0.8);
                self.heard_since = in_time.then(|| self.heard_since.unwrap_or(now));
                continue;
            }
            let beat_at = now.checked_sub(silent_for).unwrap_or(now);
            let known = before.remove(&id);
            let seen_at = known.as_ref().map_or(beat_at, |peer| peer.seen_at.max(beat_at));
            let (misses, missed_at) = known.map_or((0, None), |peer| (peer.misses, peer.missed_at));
            self.online.insert(id, Peer { record, silent_for, seen_at, misses, missed_at });
        }
        call.left = before.into_keys().collect();
        let is_heard = self.heard_since.is_some_and(|since| now.duration_since(since) >= heard_for(lease));
        if is_heard && now >= self.steady_from {
            let is_silent = |peer: &Peer| {
                // Without a record nobody knows when it was last heard.
                peer.record.as_ref().is_some_and(|record| peer.silent_for > record.silent_after())
            };
            call.silent = self.online.iter().filter(|(_, peer)| is_silent(peer)).map(|(id, _)| id.clone()).collect();
        }
        call
    }

    /// Takes in a look: which of these hosts have their presence connection. Returns those that missed enough looks.
    pub(crate) fn look(&mut self, hosts: &[HostId], are_there: &[bool], now: Instant) -> Vec<HostId> {
        let is_steady = now >= self.steady_from;
        let mut suspects = Vec::new();
        for (id, is_there) in hosts.iter().zip(are_there) {
            let Some(peer) = self.online.get_mut(id) else { continue };
            if *is_there {
                peer.seen_at = now;
            }
            if *is_there || !is_steady {
                (peer.misses, peer.missed_at) = (0, None);
            } else if peer.missed_at.is_none_or(|at| now.duration_since(at) >= APART) {
                (peer.misses, peer.missed_at) = (peer.misses.saturating_add(1), Some(now));
            }
            if peer.misses >= MISSES {
                suspects.push(id.clone());
            }
        }
        suspects
    }

    /// Somebody else says that this host is gone. It counts as one missed look, so that the next one is enough.
    pub(crate) fn hear_gone(&mut self, host: &HostId, now: Instant) {
        if now >= self.steady_from
            && let Some(peer) = self.online.get_mut(host)
        {
            // The time between its own looks has passed, and it takes the calls of that host in any case: whoever is
            // to have a share of them has to look now.
            (peer.misses, peer.missed_at) = (peer.misses.max(MISSES - 1), None);
        }
    }

    /// It has other connections: it only lost the one that is looked for.
    pub(crate) fn acquit(&mut self, host: &HostId) {
        if let Some(peer) = self.online.get_mut(host) {
            peer.misses = 0;
        }
    }

    /// It is gone.
    pub(crate) fn forget(&mut self, host: &HostId) {
        self.online.remove(host);
    }

    /// As other parts need it.
    pub(crate) fn roster(&self) -> Roster {
        let records = self.online.values().filter_map(|peer| peer.record.clone()).collect();
        Roster { me: self.me.clone(), live: self.online.keys().cloned().collect(), records }
    }
}

/// The hosts that are there.
#[derive(Debug, Clone)]
pub(crate) struct Roster {
    me: HostId,
    /// The others.
    live: Vec<HostId>,
    records: Vec<HostRecord>,
}

impl Roster {
    /// Whether there are others.
    pub(crate) fn has_others(&self) -> bool {
        !self.live.is_empty()
    }

    /// The others, each with how long its leases last; none that is known if it did not say.
    pub(crate) fn others(&self) -> Vec<(HostId, Duration)> {
        let said = |host: &HostId| self.records.iter().find(|record| record.id == *host).map(|record| record.lease_ms);
        self.live.iter().map(|host| (host.clone(), Duration::from_millis(said(host).unwrap_or(0)))).collect()
    }

    /// Whether another host is there.
    pub(crate) fn has(&self, host: &HostId) -> bool {
        self.live.contains(host)
    }

    /// How many hosts take calls of `function`, this one included, and which of them this one is.
    pub(crate) fn share(&self, function: &FunctionId) -> (usize, usize) {
        let has = |record: &&HostRecord| {
            record.state == HostState::Online && record.functions.iter().any(|loaded| loaded.function == *function)
        };
        let others: Vec<&HostId> = self.records.iter().filter(has).map(|record| &record.id).collect();
        (others.len() + 1, others.iter().filter(|id| ***id < self.me).count())
    }

    /// Whether another host of `machine` is online.
    pub(crate) fn is_online(&self, machine: &str) -> bool {
        self.records.iter().any(|record| record.machine == machine && record.state == HostState::Online)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use baton_model::LoadedFunction;

    const LEASE: Duration = Duration::from_secs(30);

    fn id(id: &str) -> HostId {
        HostId::parse(id).unwrap()
    }

    fn record(host: &str) -> HostRecord {
        let loaded = LoadedFunction {
            function: "echo".parse().unwrap(),
            digest: baton_model::Digest::of(b"component"),
            schedules: Vec::new(),
        };
        HostRecord {
            id: id(host),
            machine: "m".to_owned(),
            pid: 1,
            version: String::new(),
            state: HostState::Online,
            seats: 1,
            in_flight: 0,
            lease_ms: 30_000,
            started_ms: 0,
            last_seen_ms: None,
            reason: None,
            functions: vec![loaded],
        }
    }

    fn seen(host: &str, silent_s: u64) -> Seen {
        Seen { id: id(host), record: Some(record(host)), silent_for: Duration::from_secs(silent_s) }
    }

    #[test]
    fn a_host_is_suspected_after_two_missed_looks_in_a_row() {
        let now = Instant::now();
        let mut peers = Peers::new(id("me"), now);
        peers.take_in(vec![seen("me", 0), seen("a", 0)], LEASE, now);
        let a = [id("a")];
        let at = |ms| now + Duration::from_millis(ms);
        assert!(peers.look(&a, &[false], at(0)).is_empty());
        assert!(peers.look(&a, &[true], at(250)).is_empty());
        assert!(peers.look(&a, &[false], at(500)).is_empty());
        // Two looks at nearly the same time are one.
        assert!(peers.look(&a, &[false], at(510)).is_empty());
        // A roll call between two looks forgives nothing.
        peers.take_in(vec![seen("me", 0), seen("a", 0)], LEASE, at(600));
        assert_eq!(peers.look(&a, &[false], at(750)), a);
    }

    #[test]
    fn nobody_is_suspected_right_after_redis_was_in_trouble() {
        let now = Instant::now();
        let mut peers = Peers::new(id("me"), now);
        peers.take_in(vec![seen("me", 0), seen("a", 0)], LEASE, now);
        let a = [id("a")];
        peers.look(&a, &[false], now);
        peers.disturbed(now);
        for later in [0, 1, 2] {
            assert!(peers.look(&a, &[false], now + Duration::from_secs(later)).is_empty());
        }
        let later = now + STEADY;
        assert!(peers.look(&a, &[false], later).is_empty());
        assert_eq!(peers.look(&a, &[false], later + APART), a);
    }

    #[test]
    fn another_hosts_word_saves_one_look_and_no_more() {
        let now = Instant::now();
        let mut peers = Peers::new(id("me"), now);
        peers.take_in(vec![seen("me", 0), seen("a", 0)], LEASE, now);
        peers.hear_gone(&id("a"), now);
        assert!(peers.look(&[id("a")], &[true], now).is_empty(), "it is there after all");
        peers.hear_gone(&id("a"), now);
        assert_eq!(peers.look(&[id("a")], &[false], now), [id("a")]);
    }

    #[test]
    fn a_host_is_silent_when_its_sign_of_life_is_old_and_ones_own_is_not() {
        let now = Instant::now();
        let mut peers = Peers::new(id("me"), now);
        let mut at = |own, other, now| peers.take_in(vec![seen("me", own), seen("a", other)], LEASE, now).silent;
        assert!(at(1, 50, now).is_empty(), "one look is no ground");
        let later = now + heard_for(LEASE);
        assert_eq!(at(1, 41, later), [id("a")]);
        assert!(at(1, 39, later).is_empty(), "a lease and a third are not over");
        // Redis stood still for everybody.
        assert!(at(50, 50, later).is_empty());
        assert!(at(0, 50, later).is_empty(), "the other gets as long to be heard again");
        assert_eq!(at(0, 50, later + heard_for(LEASE)), [id("a")]);
    }

    #[test]
    fn who_is_missing_at_a_roll_call_has_left() {
        let now = Instant::now();
        let mut peers = Peers::new(id("me"), now);
        peers.take_in(vec![seen("me", 0), seen("a", 0), seen("b", 0)], LEASE, now);
        peers.forget(&id("b"));
        let call = peers.take_in(vec![], LEASE, now);
        assert_eq!(call, RollCall { am_i_missing: true, silent: vec![], left: vec![id("a")] });
        assert!(!peers.has_any());
    }

    #[test]
    fn each_host_has_another_share() {
        let now = Instant::now();
        let function: FunctionId = "echo".parse().unwrap();
        let shares = ["a", "b", "c"].map(|me| {
            let mut peers = Peers::new(id(me), now);
            peers.take_in(vec![seen("a", 0), seen("b", 0), seen("c", 0)], LEASE, now);
            peers.roster().share(&function)
        });
        assert_eq!(shares, [(3, 0), (3, 1), (3, 2)]);
        assert_eq!(Peers::new(id("a"), now).roster().share(&function), (1, 0));
    }
}
