//! The ledger: which tenant and which function has how many seats, and what its quotas leave it.
//!
//! While one tenant has this host to itself and nobody has a quota there is nothing to decide, and nothing is written
//! down. What is decided is in the model; here is what it is decided by.

mod account;
mod bell;
mod bucket;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use baton_broker::Incoming;
use baton_model::{FunctionId, Name, Party, Quotas, Shares, Tenants};

use tokio::sync::Notify;

use crate::seats::Seat;
use account::Account;
pub(crate) use account::{Held, Room};
pub(crate) use bell::Bell;

/// What one function holds.
struct Function {
    tenant: usize,
    account: Account,
    /// Since when calls of it are held back, and by what.
    held: Option<(Held, Instant)>,
    held_for: [Duration; Held::ALL.len()],
}

/// What one tenant holds, all its functions together.
struct Tenant {
    weight: u32,
    account: Account,
    /// Its place among those that have functions here; none if it has none any more.
    party: Option<usize>,
}

/// The accounts. A place is kept for good: it is what calls in flight know their account by.
#[derive(Default)]
struct Books {
    tenants: Vec<Tenant>,
    functions: Vec<Function>,
    tenant_places: BTreeMap<Name, usize>,
    places: HashMap<FunctionId, usize>,
    /// The tenants that have functions here.
    parties: Vec<usize>,
    /// Whether a function was held back at the last look.
    any_held: bool,
    /// How many attempts mean to go on that had left.
    returning: u32,
}

/// A lock and no message: it is held for a few additions, by whoever starts and ends calls.
pub(crate) struct Ledger {
    seats: u32,
    is_shared: AtomicBool,
    books: Mutex<Books>,
    pub(crate) bell: Bell,
    /// Rung for those that mean to go on.
    freed: Notify,
}

/// How one function stands at one moment.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Standing {
    /// The place of its tenant among the parties.
    pub(crate) party: usize,
    /// What its own quotas and its tenant's leave it, seats aside.
    pub(crate) room: Room,
}

/// How everything stands at one moment.
pub(crate) struct Look {
    /// In the order in which the functions were given.
    pub(crate) functions: Vec<Standing>,
    /// The tenants that have functions here.
    pub(crate) parties: Vec<Party>,
    /// What the quotas of each of them leave it.
    pub(crate) rooms: Vec<u32>,
    /// The seats.
    pub(crate) shares: Shares,
    /// How many seats the attempts have that are in the books.
    pub(crate) in_use: u32,
}

/// A place in the books that a call in flight has. Dropped, it is free again.
pub(crate) struct Entry {
    ledger: Arc<Ledger>,
    function: usize,
    /// That of its tenant when the call began.
    weight: u32,
    /// Its tenant had few calls that began with it, by its weight and beside the others'.
    is_of_few: bool,
}

impl Drop for Entry {
    fn drop(&mut self) {
        let mut books = self.ledger.lock();
        let tenant = books.functions[self.function].tenant;
        books.functions[self.function].account.leave();
        books.tenants[tenant].account.leave();
        let is_awaited = books.returning > 0;
        drop(books);
        if is_awaited {
            self.ledger.freed.notify_waiters();
        }
        self.ledger.bell.ring();
    }
}

/// An attempt that means to go on. Dropped before it does, it has given up.
struct Return {
    ledger: Arc<Ledger>,
    function: usize,
    is_over: bool,
}

impl Return {
    fn begin(ledger: &Arc<Ledger>, function: &FunctionId) -> Option<Self> {
        let mut books = ledger.lock();
        let function = books.places.get(function).copied()?;
        let (own, all) = books.accounts(function);
        own.begin_return();
        all.begin_return();
        books.returning += 1;
        drop(books);
        Some(Self { ledger: ledger.clone(), function, is_over: false })
    }

    /// The weight of its tenant, if it may go on.
    fn goes_on(&mut self) -> Option<u32> {
        let mut books = self.ledger.lock();
        let (own, all) = books.accounts(self.function);
        let may = own.may_return() && all.may_return();
        if may {
            books.end_return(self.function, true);
            self.is_over = true;
        }
        may.then(|| books.tenants[books.functions[self.function].tenant].weight)
    }
}

impl Drop for Return {
    fn drop(&mut self) {
        if !self.is_over {
            self.ledger.lock().end_return(self.function, false);
            self.ledger.bell.ring();
        }
    }
}

impl Ledger {
    /// The books of a host with so many seats. Nothing is in them.
    pub(crate) fn new(seats: u32) -> Self {
        Self {
            seats,
            is_shared: AtomicBool::new(false),
            books: Mutex::default(),
            bell: Bell::default(),
            freed: Notify::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many seats this host has.
    pub(crate) fn seats(&self) -> u32 {
        self.seats
    }

    /// Whether there is anything to decide: several tenants, or a quota.
    pub(crate) fn is_shared(&self) -> bool {
        self.is_shared.load(Ordering::Relaxed)
    }

    /// Takes in what is loaded and what is said about the tenants. Returns each function's place, in order.
    pub(crate) fn open(&self, loaded: &[(FunctionId, Quotas)], tenants: &Tenants, now: Instant) -> Vec<usize> {
        let mut books = self.lock();
        books.tenants.iter_mut().for_each(|tenant| tenant.party = None);
        books.parties.clear();
        let mut has_quota = false;
        let mut places = Vec::with_capacity(loaded.len());
        for (function, quotas) in loaded {
            let policy = tenants.of(function.tenant());
            let tenant = books.tenant(function.tenant());
            let place = books.function(function, tenant);
            books.functions[place].account.set(quotas, now);
            has_quota |= books.functions[place].account.has_quota();
            if books.tenants[tenant].party.is_none() {
                let party = books.parties.len();
                books.parties.push(tenant);
                let book = &mut books.tenants[tenant];
                (book.party, book.weight) = (Some(party), policy.weight);
                book.account.set(&policy.quotas, now);
                has_quota |= book.account.has_quota();
            }
            places.push(place);
        }
        self.is_shared.store(has_quota || books.parties.len() > 1, Ordering::Relaxed);
        self.freed.notify_waiters();
        places
    }

    /// How these functions, by their places, stand while `free` seats are free.
    pub(crate) fn look(&self, places: &[usize], free: u32, now: Instant) -> Look {
        let mut books = self.lock();
        let (parties, rooms) = books.parties(now);
        let in_use = books.tenants.iter().map(|tenant| tenant.account.in_use()).sum();
        let shares = Shares::new(self.seats, free, &parties);
        let functions = places.iter().map(|place| books.standing(*place, now)).collect();
        Look { functions, parties, rooms: rooms.iter().map(|room| room.calls).collect(), shares, in_use }
    }

    /// How many calls of `function` may begin now beside those that have. Seats in the reader's hand count as free.
    pub(crate) fn room_of(&self, function: &FunctionId, now: Instant) -> u32 {
        if !self.is_shared() {
            return u32::MAX;
        }
        let mut books = self.lock();
        let Some(place) = books.places.get(function).copied() else { return u32::MAX };
        let tenant = books.functions[place].tenant;
        let Some(party) = books.tenants[tenant].party else { return u32::MAX };
        let (parties, _) = books.parties(now);
        let in_use: u32 = parties.iter().map(|party| party.in_use).sum();
        let shares = Shares::new(self.seats, self.seats.saturating_sub(in_use), &parties);
        books.standing(place, now).room.calls.min(shares.room(party, &parties[party]))
    }

    /// Why a call of `function` that came now would have to wait for a quota, if it would, and for how long at least.
    pub(crate) fn held(&self, function: &FunctionId, now: Instant) -> Option<(Held, Duration)> {
        if !self.is_shared() {
            return None;
        }
        let mut books = self.lock();
        let place = books.places.get(function).copied()?;
        let room = books.standing(place, now).room;
        room.held.map(|held| (held, room.wait.unwrap_or_default()))
    }

    /// Writes a call down that begins whatever the quotas say: it was taken over while there was room.
    pub(crate) fn enter(self: &Arc<Self>, function: &FunctionId, seat: Seat, now: Instant) -> Seat {
        if !self.is_shared() {
            return seat;
        }
        let mut books = self.lock();
        let Some(place) = books.places.get(function).copied() else { return seat };
        let weight = books.enter(place, now);
        drop(books);
        seat.entered(Entry { ledger: self.clone(), function: place, weight, is_of_few: false })
    }

    /// Writes a call down that goes on after it had left its seat to others, as soon as its quotas let it: before any call
    /// that has not begun. It began once, and is not charged for that again.
    pub(crate) async fn resume(self: &Arc<Self>, function: &FunctionId) -> Option<Entry> {
        if !self.is_shared() {
            return None;
        }
        let mut back = Return::begin(self, function)?;
        loop {
            let mut freed = std::pin::pin!(self.freed.notified());
            // Before it is looked, so that nothing is freed between the look and the wait.
            freed.as_mut().enable();
            if let Some(weight) = back.goes_on() {
                return Some(Entry { ledger: self.clone(), function: back.function, weight, is_of_few: false });
            }
            freed.await;
        }
    }

    /// Gives seats to calls that wait for one, by weight and as far as quotas let them, the fewest first. The others
    /// stay where they are. `free` is how many seats are free, those of `seats` among them.
    pub(crate) fn admit(
        self: &Arc<Self>,
        waiting: &mut VecDeque<Incoming>,
        seats: &mut Seat,
        free: u32,
        now: Instant,
    ) -> Vec<(Incoming, Seat)> {
        let most = u32::try_from(seats.count()).unwrap_or(u32::MAX);
        if waiting.is_empty() || most == 0 {
            return Vec::new();
        }
        let mut books = self.lock();
        let (mut parties, rooms) = books.parties(now);
        let mut left: HashMap<usize, u32> = HashMap::new();
        let places: Vec<Option<usize>> = waiting.iter().map(|call| books.place_of_party(call.function())).collect();
        for place in places.iter().flatten() {
            let standing = books.standing(*place, now);
            let room = left.entry(*place).or_insert(standing.room.calls);
            if *room > 0 {
                *room -= 1;
                parties[standing.party].wants += 1;
            }
        }
        for (party, room) in parties.iter_mut().zip(&rooms) {
            party.wants = party.wants.min(room.calls);
        }
        let given = Shares::new(self.seats, free, &parties).share_out(most, &parties);
        let by_weight = |party: usize| f64::from(given[party]) / f64::from(parties[party].weight.max(1));
        let crowd = (0..given.len()).map(by_weight).fold(0.0, f64::max);
        let mut to_give = given.clone();
        let mut admitted = Vec::new();
        let mut stay = VecDeque::new();
        for (call, place) in std::mem::take(waiting).into_iter().zip(places) {
            let is_of_few = match place {
                // It is not here any more; the runner gives it back.
                None => Some(true),
                Some(place) => {
                    let standing = books.standing(place, now);
                    let may = to_give[standing.party] > 0 && standing.room.calls > 0;
                    may.then(|| {
                        to_give[standing.party] -= 1;
                        2.0 * by_weight(standing.party) <= crowd
                    })
                }
            };
            let Some((is_of_few, seat)) = is_of_few.and_then(|few| Some((few, seats.split_one()?))) else {
                stay.push_back(call);
                continue;
            };
            let seat = match place {
                Some(place) => {
                    let weight = books.enter(place, now);
                    seat.entered(Entry { ledger: self.clone(), function: place, weight, is_of_few })
                }
                None => seat,
            };
            admitted.push((is_of_few, call, seat));
        }
        drop(books);
        *waiting = stay;
        // Those of few do not wait for those of a crowd to be started. By weight: among backlogs nobody comes first.
        admitted.sort_by_key(|(is_of_few, ..)| !is_of_few);
        admitted.into_iter().map(|(_, call, seat)| (call, seat)).collect()
    }

    /// Notes which of these functions have calls that are held back now, and by what.
    pub(crate) fn note_held(&self, held: impl Iterator<Item = (usize, Option<Held>)>, now: Instant) {
        let mut books = self.lock();
        let mut any = false;
        let was = books.any_held;
        for (place, held) in held {
            any |= held.is_some();
            if !any && !was {
                continue;
            }
            let function = &mut books.functions[place];
            if function.held.map(|(held, _)| held) == held {
                continue;
            }
            if let Some((before, since)) = function.held.take() {
                function.held_for[before as usize] += now.saturating_duration_since(since);
            }
            function.held = held.map(|held| (held, now));
        }
        books.any_held = any;
    }

    /// For how long each function has had calls held back since the start, by what.
    pub(crate) fn held_for(&self, now: Instant) -> Vec<(FunctionId, [Duration; Held::ALL.len()])> {
        let books = self.lock();
        let mut all: Vec<_> = books.places.iter().map(|(function, place)| (function.clone(), *place)).collect();
        all.sort();
        let held_for = |place: usize| {
            let function = &books.functions[place];
            let mut held_for = function.held_for;
            if let Some((held, since)) = function.held {
                held_for[held as usize] += now.saturating_duration_since(since);
            }
            held_for
        };
        all.into_iter().map(|(function, place)| (function, held_for(place))).collect()
    }

    /// How many seats the attempts of each tenant have, while there is anything to decide.
    pub(crate) fn in_use(&self) -> Vec<(Name, u32)> {
        let books = self.lock();
        let in_use = |place: &usize| books.tenants[*place].account.in_use();
        let used = books.tenant_places.iter().map(|(tenant, place)| (tenant.clone(), in_use(place)));
        used.filter(|_| self.is_shared()).collect()
    }

    /// The place of the account that pays for the CPU time of `entry`, if anybody limits that.
    pub(crate) fn pays_cpu(&self, entry: &Entry) -> bool {
        let books = self.lock();
        let function = &books.functions[entry.function];
        function.account.pays_cpu() || books.tenants[function.tenant].account.pays_cpu()
    }

    fn charge_cpu(&self, place: usize, used: Duration, now: Instant) {
        let mut books = self.lock();
        let tenant = books.functions[place].tenant;
        books.functions[place].account.charge_cpu(used, now);
        books.tenants[tenant].account.charge_cpu(used, now);
    }

    fn used_cpu(&self, place: usize, used: Duration) {
        let mut books = self.lock();
        let tenant = books.functions[place].tenant;
        books.functions[place].account.used_cpu(used);
        books.tenants[tenant].account.used_cpu(used);
    }
}

impl Entry {
    /// The weight of its tenant.
    pub(crate) fn weight(&self) -> u32 {
        self.weight
    }

    /// Whether its tenant had few calls that began with it, by its weight and beside the others'.
    pub(crate) fn is_of_few(&self) -> bool {
        self.is_of_few
    }

    /// What was entered was no attempt, and is not to count against the rate.
    pub(crate) fn repay(&self) {
        let now = Instant::now();
        let mut books = self.ledger.lock();
        let (own, all) = books.accounts(self.function);
        own.repay(now);
        all.repay(now);
    }

    /// What measures the CPU time of this attempt, if anybody limits that.
    pub(crate) fn cpu_meter(&self) -> Option<CpuMeter> {
        let meter = || CpuMeter { ledger: self.ledger.clone(), place: self.function, used: Duration::ZERO };
        self.ledger.pays_cpu(self).then(meter)
    }
}

/// Measures the CPU time of one attempt, and has it paid while the attempt runs.
pub(crate) struct CpuMeter {
    ledger: Arc<Ledger>,
    place: usize,
    used: Duration,
}

impl CpuMeter {
    /// Drives `attempt` to its end. What a thread does within a poll is the attempt's work.
    pub(crate) async fn run<T>(mut self, attempt: impl Future<Output = T>) -> T {
        let mut attempt = std::pin::pin!(attempt);
        std::future::poll_fn(|context| {
            let before = thread_cpu_time();
            let polled = attempt.as_mut().poll(context);
            let used = thread_cpu_time().saturating_sub(before);
            self.used += used;
            self.ledger.charge_cpu(self.place, used, Instant::now());
            polled
        })
        .await
    }
}

impl Drop for CpuMeter {
    fn drop(&mut self) {
        self.ledger.used_cpu(self.place, self.used);
    }
}

fn thread_cpu_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::try_from(time).unwrap_or_default()
}

impl Books {
    fn tenant(&mut self, name: &Name) -> usize {
        if let Some(place) = self.tenant_places.get(name) {
            return *place;
        }
        self.tenants.push(Tenant { weight: 1, account: Account::default(), party: None });
        self.tenant_places.insert(name.clone(), self.tenants.len() - 1);
        self.tenants.len() - 1
    }

    fn function(&mut self, function: &FunctionId, tenant: usize) -> usize {
        if let Some(place) = self.places.get(function) {
            return *place;
        }
        self.functions.push(Function { tenant, account: Account::default(), held: None, held_for: Default::default() });
        self.places.insert(function.clone(), self.functions.len() - 1);
        self.functions.len() - 1
    }

    /// Those of a function and of its tenant.
    fn accounts(&mut self, function: usize) -> (&mut Account, &mut Account) {
        let Self { functions, tenants, .. } = self;
        let Function { tenant, account, .. } = &mut functions[function];
        (account, &mut tenants[*tenant].account)
    }

    fn end_return(&mut self, function: usize, goes_on: bool) {
        let (own, all) = self.accounts(function);
        own.end_return(goes_on);
        all.end_return(goes_on);
        self.returning -= 1;
    }

    /// The place of a function whose tenant has functions here.
    fn place_of_party(&self, function: &FunctionId) -> Option<usize> {
        let place = self.places.get(function).copied()?;
        self.tenants[self.functions[place].tenant].party.map(|_| place)
    }

    fn parties(&mut self, now: Instant) -> (Vec<Party>, Vec<Room>) {
        let Self { parties, tenants, .. } = self;
        let each = parties.iter().map(|place| {
            let Tenant { weight, account, .. } = &mut tenants[*place];
            let party = Party { weight: *weight, in_use: account.claimed(), seats_max: account.seats_max(), wants: 0 };
            (party, account.room(now))
        });
        each.unzip()
    }

    fn standing(&mut self, place: usize, now: Instant) -> Standing {
        let Self { functions, tenants, .. } = self;
        let function = &mut functions[place];
        let tenant = &mut tenants[function.tenant];
        Standing {
            party: tenant.party.unwrap_or_default(),
            room: function.account.room(now).and(tenant.account.room(now)),
        }
    }

    /// Writes a call down. Gives the weight of its tenant.
    fn enter(&mut self, place: usize, now: Instant) -> u32 {
        let tenant = self.functions[place].tenant;
        self.functions[place].account.enter(now);
        self.tenants[tenant].account.enter(now);
        self.tenants[tenant].weight
    }
}
