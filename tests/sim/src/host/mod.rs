//! A host, in miniature: the same parts as in `host/app` and `host/broker`, the same questions to Redis in the same order,
//! and the shipped decisions (`baton_model::decide`, `peers.rs`). Each part is a task; a crash ends them all where they stand.

mod intake;
mod keeper;
mod leases;
mod runner;
mod settler;
mod sweeper;
mod watcher;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use baton_model::RetryPolicy;

use crate::net::{Link, Server};
use crate::peers::Roster;
use crate::redis::Reply;
use crate::time::{MS, Process, Queue, SECOND, Sim};

pub(crate) const GROUP: &str = "hosts";

/// Which rules a host keeps. Each can be switched off, to see that it is missed.
#[derive(Debug, Clone, Copy)]
pub struct Rules {
    /// After a failed read, it looks for what was handed to it and never arrived.
    pub recovers_own: bool,
    /// What it finds so has its lease renewed before it is run.
    pub renews_recovered: bool,
    /// It wakes its read, and does not drop it.
    pub unblocks: bool,
    /// It takes over the calls of hosts whose connections are gone, without waiting for their leases.
    pub sees_crashes: bool,
    /// It makes missing groups anew.
    pub repairs_groups: bool,
    /// It writes a result before it acknowledges.
    pub result_first: bool,
    /// It has the connections of a host cut before it claims from it.
    pub cuts_off: bool,
    /// It renews its leases.
    pub renews: bool,
    /// It stops attempts whose leases it could not renew.
    pub stops_lapsed: bool,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            recovers_own: true,
            renews_recovered: true,
            unblocks: true,
            sees_crashes: true,
            repairs_groups: true,
            result_first: true,
            cuts_off: true,
            renews: true,
            stops_lapsed: true,
        }
    }
}

/// What hosts are started with.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Settings {
    /// How many functions there are.
    pub(crate) functions: usize,
    /// How long a lease is, in microseconds.
    pub(crate) lease: u64,
    /// How many attempts run at once.
    pub(crate) seats: usize,
    /// Which rules are kept.
    pub(crate) rules: Rules,
}

/// A call in a host's hands.
#[derive(Debug, Clone)]
pub(crate) struct Call {
    pub(crate) function: usize,
    pub(crate) entry: String,
    /// The claims that its lease was given at.
    pub(crate) claims: u32,
    /// The same as it was counted from outside.
    pub(crate) epoch: usize,
    pub(crate) id: String,
    pub(crate) id_is_own: bool,
    pub(crate) payload: String,
    pub(crate) reply: Option<String>,
    pub(crate) deadline_ms: Option<u64>,
    pub(crate) attempt: u32,
    pub(crate) accepted_ms: u64,
    /// When this host asked for it, in whatever way.
    pub(crate) asked: u64,
    /// When it was asked for and when it was there, if this is its first delivery.
    pub(crate) read: Option<(u64, u64)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Running(Option<usize>),
    Settling,
    Stopped,
}

struct Flight {
    call: Rc<Call>,
    renewed: u64,
    stage: Stage,
}

pub(crate) enum Settlement {
    Finish(Vec<u8>),
    Requeue { attempt: u32, wait_ms: i64 },
    Bury { document: Vec<u8>, reason: &'static str, attempts: u32 },
}

pub(crate) struct Settling {
    call: Rc<Call>,
    what: Settlement,
    /// Whether it may take the way without a script.
    is_first: bool,
    has_seat: bool,
}

pub(crate) struct Gone {
    host: String,
    is_crash: bool,
}

/// A running host.
pub(crate) struct Host {
    pub(crate) sim: Sim,
    pub(crate) server: Rc<Server>,
    pub(crate) process: Process,
    pub(crate) name: String,
    settings: Settings,
    retry: RetryPolicy,
    /// By function and entry.
    flights: RefCell<BTreeMap<(usize, String), Flight>>,
    seats: Cell<usize>,
    seat_freed: Queue<()>,
    /// Who waits for a seat in turn: the sweeper, before the reader.
    wanted: Cell<usize>,
    to_settler: Queue<Settling>,
    to_promoter: Queue<(usize, u64)>,
    to_sweeper: Queue<Gone>,
    words: Queue<baton_broker::Word>,
    roster: RefCell<Option<Roster>>,
    is_missing: Queue<()>,
    may_have_lost: Cell<bool>,
    wake: intake::Wake,
    queue: Link,
    is_draining: Cell<bool>,
    is_through: Cell<bool>,
}

impl Host {
    /// Starts a host under this name, as this process.
    pub(crate) fn start(
        sim: &Sim,
        server: &Rc<Server>,
        process: Process,
        name: String,
        settings: Settings,
    ) -> Rc<Self> {
        let host = Rc::new(Self {
            sim: sim.clone(),
            server: server.clone(),
            process,
            name,
            settings,
            retry: RetryPolicy {
                backoff_base: Duration::from_millis(200),
                backoff_max: Duration::from_secs(2),
                hosts_lost_max: 5,
                ..RetryPolicy::default()
            },
            flights: RefCell::default(),
            seats: Cell::new(settings.seats),
            seat_freed: Queue::new(sim),
            wanted: Cell::new(0),
            to_settler: Queue::new(sim),
            to_promoter: Queue::new(sim),
            to_sweeper: Queue::new(sim),
            words: Queue::new(sim),
            roster: RefCell::default(),
            is_missing: Queue::new(sim),
            may_have_lost: Cell::new(false),
            wake: intake::Wake::new(sim),
            queue: Link::new(server, process, None),
            is_draining: Cell::new(false),
            is_through: Cell::new(false),
        });
        sim.log(|| format!("{} starts as process {process}", host.name));
        sim.spawn(process, intake::run(host.clone()));
        sim.spawn(process, keeper::run(host.clone()));
        sim.spawn(process, settler::run(host.clone()));
        sim.spawn(process, leases::stop_lapsed(host.clone()));
        sim.spawn(process, leases::renew(host.clone()));
        sim.spawn(process, sweeper::run(host.clone()));
        sim.spawn(process, sweeper::promote(host.clone()));
        sim.spawn(process, watcher::run(host.clone()));
        host
    }

    /// Ends it in order: no new calls, what runs may finish, the rest is handed back.
    pub(crate) async fn drain(self: Rc<Self>) {
        self.sim.log(|| format!("{} is told to end", self.name));
        self.is_draining.set(true);
        self.wake_reader().await;
        let end = self.sim.now() + SECOND;
        while self.sim.now() < end && !(self.wake.has_ended.get() && self.flights.borrow().is_empty()) {
            self.sim.sleep(20 * MS).await;
        }
        let rest: Vec<Rc<Call>> = self
            .flights
            .borrow_mut()
            .values_mut()
            .filter_map(|flight| {
                let Stage::Running(task) = flight.stage else { return None };
                task.iter().for_each(|task| self.sim.abort(*task));
                flight.stage = Stage::Stopped;
                Some(flight.call.clone())
            })
            .collect();
        for call in rest {
            let what = Settlement::Requeue { attempt: call.attempt + 1, wait_ms: -1 };
            self.to_settler.push(Settling { call, what, is_first: false, has_seat: false });
        }
        let end = self.sim.now() + 2 * SECOND;
        while self.sim.now() < end && !self.flights.borrow().is_empty() {
            self.sim.sleep(20 * MS).await;
        }
        keeper::leave(&self).await;
        self.is_through.set(true);
    }

    /// Whether its drain is through, so that its process ends.
    pub(crate) fn is_through(&self) -> bool {
        self.is_through.get()
    }

    fn backoff(&self, failures: u32) -> u64 {
        let ceiling = ((50 * MS) << failures.min(8)).min(2 * SECOND);
        ceiling / 2 + self.sim.roll(|rng| rng.below(ceiling / 2))
    }

    /// Takes at least one seat and at most so many, as soon as there is one.
    async fn take_seats(&self, most: usize) -> usize {
        loop {
            let free = self.seats.get();
            if free > 0 && self.wanted.get() == 0 {
                let taken = free.min(most);
                self.seats.set(free - taken);
                return taken;
            }
            self.seat_freed.pop().await;
        }
    }

    fn free_seats(&self, count: usize) {
        if count > 0 {
            self.seats.set(self.seats.get() + count);
            self.seat_freed.push(());
        }
    }

    /// The entries of an answer to XREADGROUP or XRANGE.
    fn parse(&self, function: usize, entry: &Reply, claims: u32, asked: u64, read: Option<(u64, u64)>) -> Option<Call> {
        let [id, Reply::Array(fields)] = entry.parts() else { return None };
        let entry = id.to_text();
        let field =
            |name: &str| fields.chunks_exact(2).find(|pair| pair[0].to_text() == name).map(|pair| pair[1].to_text());
        let own = field("id");
        let ms = entry.split('-').next().and_then(|ms| ms.parse().ok()).unwrap_or(0);
        Some(Call {
            function,
            epoch: self.server.history.borrow().epoch(function, &entry, &self.name),
            claims,
            id_is_own: own.is_some(),
            id: own.unwrap_or_else(|| entry.clone()),
            payload: field("payload").unwrap_or_default(),
            reply: field("reply"),
            deadline_ms: field("deadline").and_then(|ms| ms.parse().ok()),
            attempt: field("attempt").and_then(|n| n.parse().ok()).unwrap_or(1_u32).saturating_add(claims),
            accepted_ms: field("accepted").and_then(|n| n.parse().ok()).unwrap_or(ms),
            asked,
            read,
            entry,
        })
    }

    /// Takes what was read into the books. None if this host works on it already, under this very lease.
    fn board(&self, call: Call) -> Option<Rc<Call>> {
        let place = (call.function, call.entry.clone());
        let mut flights = self.flights.borrow_mut();
        if let Some(old) = flights.get(&place) {
            if old.call.claims >= call.claims {
                return None;
            }
            if let Stage::Running(Some(task)) = old.stage {
                self.sim.abort(task);
            }
        }
        let call = Rc::new(call);
        let flight = Flight { call: call.clone(), renewed: self.sim.now(), stage: Stage::Running(None) };
        flights.insert(place, flight);
        Some(call)
    }

    fn with_flight<T>(&self, call: &Call, what: impl FnOnce(&mut Flight) -> T) -> Option<T> {
        let mut flights = self.flights.borrow_mut();
        let flight = flights.get_mut(&(call.function, call.entry.clone()))?;
        (flight.call.claims == call.claims).then(|| what(flight))
    }

    fn begin_settling(&self, call: &Call) -> bool {
        self.with_flight(call, |flight| {
            let is_first = matches!(flight.stage, Stage::Running(_));
            if is_first {
                flight.stage = Stage::Settling;
            }
            is_first
        })
        .unwrap_or(false)
    }

    fn land(&self, call: &Call) {
        if self.with_flight(call, |_| ()).is_some() {
            self.flights.borrow_mut().remove(&(call.function, call.entry.clone()));
        }
    }

    /// Stops an attempt that is of no use any more. True if there was one.
    fn abandon(&self, call: &Call) -> bool {
        let Some(Some(task)) = self.with_flight(call, |flight| match flight.stage {
            Stage::Running(task) => Some(task),
            Stage::Settling | Stage::Stopped => None,
        }) else {
            return false;
        };
        self.sim.log(|| format!("{} stops its attempt at {}", self.name, call.entry));
        self.flights.borrow_mut().remove(&(call.function, call.entry.clone()));
        task.iter().for_each(|task| self.sim.abort(*task));
        true
    }

    /// Entries may be this host's that it does not know of.
    async fn look_for_lost(&self) {
        self.may_have_lost.set(true);
        self.wake_reader().await;
    }
}
