//! What happened, as seen from outside of hosts and scripts, and whether it keeps the promises.
//!
//! Who holds an entry, and under which of its claims, is counted here anew: from what the server did, not from the claims
//! that scripts count.

use std::collections::BTreeMap;

use baton_model::{ResultDocument, Status};
use bytes::Bytes;

use crate::host::Call;
use crate::net::EPOCH_MS;
use crate::redis::{Id, Reply, Store};
use crate::time::{MS, Process, SECOND, Sim};

/// What somebody does to an entry in what is asked of the server.
#[derive(Debug, Clone)]
pub(crate) struct Claim {
    /// The function, by number.
    pub(crate) function: usize,
    /// The host that does it.
    pub(crate) host: String,
    /// The entry.
    pub(crate) entry: String,
    /// How often it had been claimed when the host was given it.
    pub(crate) epoch: usize,
    /// The call's id, if a result is written.
    pub(crate) call: Option<String>,
    /// By which way.
    pub(crate) way: Way,
}

/// How it is done, and so where the answer to it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// By settle.lua, which answers for several.
    Settle(usize),
    /// By bury.lua.
    Bury,
    /// By requeue.lua.
    Requeue,
    /// In the transaction without a script.
    Sure,
    /// It is claimed, by sweep.lua.
    Sweep,
    /// A result is written, and whether that was right is not looked at here.
    Write,
}

/// An attempt.
#[derive(Debug)]
struct Execution {
    function: usize,
    entry: String,
    call: String,
    process: Process,
    is_running: bool,
    /// Its process was stopped, or its connections were closed while it could not know.
    is_excused: bool,
}

/// A call that was accepted.
#[derive(Debug, Clone)]
pub(crate) struct Accepted {
    function: usize,
    id: String,
    payload: String,
    at: u64,
    is_excused: bool,
}

/// The key of the stream of a function.
#[must_use]
pub(crate) fn stream(function: usize) -> String {
    format!("baton:{{default/f{function}}}:calls")
}

/// Another key of a function.
#[must_use]
pub(crate) fn key(function: usize, name: &str) -> String {
    format!("baton:{{default/f{function}}}:{name}")
}

/// The key of a result.
#[must_use]
pub(crate) fn result_key(function: usize, call: &str) -> String {
    key(function, &format!("result:{call}"))
}

/// Everything that was seen.
pub(crate) struct History {
    sim: Sim,
    executions: Vec<Execution>,
    accepted: Vec<Accepted>,
    /// Every payload that was sent, by call: also those of which it is not known whether they were accepted.
    sent: BTreeMap<(usize, String), String>,
    /// The first result of each call.
    results: BTreeMap<(usize, String), Vec<u8>>,
    /// Who claimed each entry, in order.
    owners: BTreeMap<(usize, String), Vec<String>>,
    /// When each process that was stopped went on.
    thawed: BTreeMap<Process, u64>,
    held: Vec<bool>,
    had_result: Vec<bool>,
    saved_at: u64,
    lost_at: Option<u64>,
    /// The first promise that was broken: which, and how.
    pub(crate) broken: Option<(&'static str, String)>,
}

fn id_of(entry: &str) -> Id {
    let (ms, seq) = entry.split_once('-').unwrap_or((entry, "0"));
    Id(ms.parse().unwrap_or(0), seq.parse().unwrap_or(0))
}

impl History {
    pub(crate) fn new(sim: &Sim) -> Self {
        Self {
            sim: sim.clone(),
            executions: Vec::new(),
            accepted: Vec::new(),
            sent: BTreeMap::new(),
            results: BTreeMap::new(),
            owners: BTreeMap::new(),
            thawed: BTreeMap::new(),
            held: Vec::new(),
            had_result: Vec::new(),
            saved_at: 0,
            lost_at: None,
            broken: None,
        }
    }

    /// A promise was broken. The first one is told.
    pub(crate) fn broke(&mut self, promise: &'static str, how: String) {
        self.sim.log(|| format!("BROKEN {promise}: {how}"));
        self.broken.get_or_insert((promise, how));
    }

    /// A call is about to be sent.
    pub(crate) fn sends(&mut self, function: usize, call: &str, payload: &str) {
        self.sent.insert((function, call.to_owned()), payload.to_owned());
    }

    /// A call was accepted, and its sender knows.
    pub(crate) fn accepts(&mut self, function: usize, id: &str, payload: &str, at: u64) {
        self.sends(function, id, payload);
        // It was accepted within the millisecond that ends then.
        let is_excused = self.lost_at.is_some_and(|lost| at.saturating_sub(MS) < lost);
        let (id, payload) = (id.to_owned(), payload.to_owned());
        self.accepted.push(Accepted { function, id, payload, at, is_excused });
    }

    /// Somebody read a result.
    pub(crate) fn reads(&mut self, function: usize, call: &str, document: &[u8]) {
        let known = self.results.get(&(function, call.to_owned()));
        if known.is_some_and(|known| known != document) {
            self.broke("I1", format!("call {call} was seen with two results"));
        }
    }

    /// A result was published.
    pub(crate) fn heard(&mut self, channel: &[u8], message: &[u8]) {
        let channel = String::from_utf8_lossy(channel).into_owned();
        let Some(function) = channel.strip_prefix("baton:reply:f").and_then(|number| number.parse().ok()) else {
            return;
        };
        let mut rest = Bytes::copy_from_slice(message);
        while !rest.is_empty() {
            let before = rest.clone();
            let Ok(document) = ResultDocument::decode(&mut rest) else {
                return self.broke("I3", "a notice is no result".to_owned());
            };
            self.reads(function, document.id.as_str(), &before[..before.len() - rest.len()]);
        }
    }

    /// Which claim a host was given an entry with.
    #[must_use]
    pub(crate) fn epoch(&self, function: usize, entry: &str, host: &str) -> usize {
        let owners = self.owners.get(&(function, entry.to_owned()));
        owners.and_then(|owners| owners.iter().rposition(|owner| owner == host)).map_or(0, |at| at + 1)
    }

    fn holds(&self, store: &Store, claim: &Claim) -> bool {
        let pending = store.stream(&stream(claim.function)).and_then(|stream| stream.pending(id_of(&claim.entry)));
        let owners = self.owners.get(&(claim.function, claim.entry.clone())).map_or(0, Vec::len);
        pending.is_some_and(|pending| pending.consumer == claim.host.as_bytes()) && owners == claim.epoch
    }

    pub(crate) fn before(&mut self, store: &Store, claims: &[Claim]) {
        self.held = claims.iter().map(|claim| self.holds(store, claim)).collect();
        let has_result = |claim: &Claim| {
            claim.call.as_ref().is_some_and(|call| store.text(&result_key(claim.function, call)).is_some())
        };
        self.had_result = claims.iter().map(has_result).collect();
    }

    pub(crate) fn after(&mut self, store: &Store, claims: &[Claim], replies: &[Reply]) {
        let (held, had_result) = (std::mem::take(&mut self.held), std::mem::take(&mut self.had_result));
        for ((claim, held), had_result) in claims.iter().zip(held).zip(had_result) {
            let has = |yes: bool| Some(yes);
            let is_done = match claim.way {
                Way::Settle(at) => replies[0].parts().get(at).and_then(|answer| has(answer.to_int() > 0)),
                Way::Bury => has(replies[0].to_int() > 0),
                Way::Requeue => has(matches!(replies[0], Reply::Int(due) if due >= 0)),
                Way::Sweep => {
                    self.claimed(claim, replies[0].parts().get(2));
                    None
                }
                Way::Sure => {
                    let stream = store.stream(&stream(claim.function));
                    let is_pending = stream.is_some_and(|stream| stream.pending(id_of(&claim.entry)).is_some());
                    let call = claim.call.as_deref().unwrap_or("");
                    let has_result = store.text(&result_key(claim.function, call)).is_some();
                    // Without a lease nothing may change: neither the entry nor the result.
                    has(held && !is_pending || !held && has_result && !had_result)
                }
                Way::Write => None,
            };
            // What lay there before the server lost something is not looked at.
            let is_old = self.lost_at.is_some_and(|lost| id_of(&claim.entry).0 <= EPOCH_MS + lost / MS);
            if !is_old && is_done == Some(true) && !held {
                let what = format!("{} changed entry {} by {:?} without its lease", claim.host, claim.entry, claim.way);
                self.broke("I5", what);
            }
            if !is_old && is_done == Some(false) && held {
                let what = format!("{} holds entry {} and was refused by {:?}", claim.host, claim.entry, claim.way);
                self.broke("I1", what);
            }
            if let Some(call) = &claim.call {
                self.note_result(store, claim.function, call);
                // Of several under one id in a batch, the first writes it.
                let is_written = match claim.way {
                    Way::Settle(at) => replies[0].parts().get(at) == Some(&Reply::Int(1)),
                    Way::Bury => replies[0] == Reply::Int(1),
                    Way::Requeue | Way::Sure | Way::Sweep | Way::Write => false,
                };
                if is_written && !is_old {
                    self.check_attempts(store, claim, call);
                }
            }
        }
    }

    fn claimed(&mut self, claim: &Claim, taken: Option<&Reply>) {
        for row in taken.map(Reply::parts).unwrap_or_default() {
            let entry = row.parts()[0].to_text();
            self.sim.log(|| format!("{} claims entry {entry}", claim.host));
            self.owners.entry((claim.function, entry)).or_default().push(claim.host.clone());
        }
    }

    fn note_result(&mut self, store: &Store, function: usize, call: &str) {
        let Some(document) = store.text(&result_key(function, call)) else { return };
        let place = (function, call.to_owned());
        match self.results.get(&place) {
            Some(known) if known == document => {}
            Some(_) => self.broke("I1", format!("call {call} got a second result in place of its first")),
            None => {
                self.results.insert(place, document.to_vec());
                self.check_result(function, call, document);
            }
        }
    }

    /// An attempt that was lost counts.
    fn check_attempts(&mut self, store: &Store, claim: &Claim, call: &str) {
        let document = store.text(&result_key(claim.function, call)).map(Bytes::copy_from_slice);
        let document = document.and_then(|mut document| ResultDocument::decode(&mut document).ok());
        let least = u32::try_from(claim.epoch).unwrap_or(u32::MAX) + 1;
        if let Some(document) = document.filter(|document| document.status == Status::Ok && document.attempts < least) {
            let (had, entry) = (document.attempts, &claim.entry);
            self.broke(
                "I5",
                format!("call {call} says {had} attempts, and entry {entry} was claimed {} times", claim.epoch),
            );
        }
    }

    fn check_result(&mut self, function: usize, call: &str, document: &[u8]) {
        let Ok(document) = ResultDocument::decode(&mut Bytes::copy_from_slice(document)) else {
            return self.broke("I3", format!("what stands as the result of {call} is none"));
        };
        let sent = self.sent.get(&(function, call.to_owned()));
        // A call that Redis took and whose sender does not know it yet.
        if sent.is_none() && document.payload.is_empty() {
            return;
        }
        let payload = String::from_utf8_lossy(&document.payload).into_owned();
        let (input, execution) = payload.split_once('#').unwrap_or((&payload, ""));
        if sent.is_some_and(|sent| document.status == Status::Ok && sent != input) {
            return self.broke("I3", format!("call {call} has the result of another input"));
        }
        let execution = execution.parse::<usize>().ok().and_then(|number| self.executions.get(number));
        if document.status == Status::Ok && !execution.is_some_and(|e| e.function == function && e.call == call) {
            self.broke("I2", format!("the result of call {call} is of no execution of it"));
        }
    }

    /// An attempt begins. Returns its number.
    pub(crate) fn starts(&mut self, call: &Call, process: Process) -> usize {
        let Call { function, ref entry, ref id, asked, .. } = *call;
        // It asked for it, was stopped, and goes on with what has become old meanwhile.
        let is_old = |since: Option<u64>| since.is_some_and(|since| since >= asked);
        // Or Redis lost what it had, and counts its ids from the start.
        let is_excused = is_old(self.thawed.get(&process).copied()) || is_old(self.lost_at);
        let other = self
            .executions
            .iter()
            .find(|other| other.is_running && !other.is_excused && other.function == function && other.entry == *entry);
        if let Some(other) = other.filter(|_| !is_excused) {
            let how = format!("entry {entry} runs in processes {} and {process} at once", other.process);
            self.broke("I4", how);
        }
        let (entry, call) = (entry.clone(), id.clone());
        self.executions.push(Execution { function, entry, call, process, is_running: true, is_excused });
        self.executions.len() - 1
    }

    /// An attempt has ended, in whatever way.
    pub(crate) fn ends(&mut self, number: usize) {
        self.executions[number].is_running = false;
    }

    /// A process was stopped, or its connections were closed while it could not know: what it runs may overlap.
    pub(crate) fn excuse(&mut self, process: Process) {
        self.executions.iter_mut().filter(|e| e.process == process && e.is_running).for_each(|e| e.is_excused = true);
    }

    /// A process that was stopped goes on.
    pub(crate) fn thaws(&mut self, process: Process) {
        self.thawed.insert(process, self.sim.now());
    }

    pub(crate) fn saved(&mut self) {
        self.saved_at = self.sim.now();
    }

    pub(crate) fn something_was_lost(&mut self) {
        let (saved, now) = (self.saved_at, self.sim.now());
        self.lost_at = Some(now);
        self.accepted.iter_mut().filter(|call| call.at >= saved).for_each(|call| call.is_excused = true);
        self.results.clear();
        self.owners.clear();
        self.executions.iter_mut().for_each(|execution| execution.is_excused = true);
    }

    /// All is lost, what was saved too.
    pub(crate) fn all_was_lost(&mut self) {
        self.saved_at = 0;
        self.something_was_lost();
    }

    /// How many executions there were, and how many calls.
    #[must_use]
    pub(crate) fn counts(&self) -> (usize, usize) {
        (self.executions.len(), self.accepted.len())
    }

    /// What is not as it should be once all is quiet.
    pub(crate) fn check_end(&mut self, store: &Store, functions: usize, live: &[String]) {
        for call in self.accepted.clone() {
            let document = store.text(&result_key(call.function, &call.id)).map(<[u8]>::to_vec);
            match document {
                None if !call.is_excused => {
                    let ago = (self.sim.now() - call.at) / SECOND;
                    self.broke(
                        "I1",
                        format!("call {} ({}) was accepted {ago} s ago and has no result", call.id, call.payload),
                    );
                }
                Some(document) => self.reads(call.function, &call.id, &document),
                None => {}
            }
        }
        for (promise, left) in left_over(store, functions, live) {
            self.broke(promise, left);
        }
    }
}

/// What is still there, and should not be when all is quiet.
#[must_use]
pub(crate) fn left_over(store: &Store, functions: usize, live: &[String]) -> Vec<(&'static str, String)> {
    let mut left = Vec::new();
    for function in 0..functions {
        if let Some(stream) = store.stream(&stream(function)) {
            if !stream.entries.is_empty() {
                let first = stream.entries.keys().next().expect("an entry");
                let holder = stream.pending(*first).map(|p| String::from_utf8_lossy(&p.consumer).into_owned());
                left.push((
                    "I8",
                    format!("f{function} has {} entries, the first is {first} of {holder:?}", stream.entries.len()),
                ));
            }
            if stream.pending_count() > 0 {
                left.push(("I7", format!("f{function} has {} pending entries", stream.pending_count())));
            }
            for consumer in stream.consumers().filter(|consumer| !live.contains(consumer)) {
                left.push(("I7", format!("f{function} has the consumer {consumer} of a host that is gone")));
            }
        }
        for name in ["claims", "delayed", "timers"] {
            if store.keys().any(|known| known == key(function, name).as_bytes()) {
                left.push(("I7", format!("{} is left", key(function, name))));
            }
        }
    }
    left
}
