//! Turns on the processor, for guests that compute for longer than a tick of the clock: as many at a time as there are
//! processors, and by the weights of their tenants. A guest without a turn waits here and not in the runtime's own queue,
//! so that a crowd of endless guests delays neither its neighbours nor its own end. Nothing here knows what a guest does.

use std::cell::Cell;
use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use baton_model::Name;
use tokio::sync::oneshot;

/// Who has a turn, and who waits for one.
///
/// A lock and no message: it is held for one operation on the lines, by guests that take long.
pub(crate) struct Turns(Mutex<Table>);

/// For whom a turn is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Party<'a> {
    /// None for what runs for no tenant: trials.
    pub(crate) tenant: Option<&'a Name>,
    /// Its share beside the others' weights; 0 counts as 1.
    pub(crate) weight: u32,
}

struct Table {
    free: usize,
    /// How much the line whose turn came last had used then. Who comes newly starts here: nobody saves turns up.
    level: u64,
    /// Those that wait, and those that have used more than the level.
    lines: Vec<Line>,
    /// The number of the next new line.
    next: u64,
}

/// One tenant's guests, in the order in which they came.
struct Line {
    number: u64,
    tenant: Option<Name>,
    weight: u32,
    /// The nanoseconds that its turns have lasted, by its weight. The next turn is that of the line that used least.
    used: u64,
    /// How many nanoseconds a turn of it usually lasts: a moving average over about eight.
    usual: u64,
    waiting: VecDeque<oneshot::Sender<Turn>>,
}

/// What a turn was charged for beforehand, and to whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Charge {
    line: u64,
    expected: u64,
}

/// The right to compute until the end of the poll, or up to the next tick.
struct Turn {
    turns: Arc<Turns>,
    charge: Charge,
    began: Instant,
}

thread_local! {
    /// The turn of the attempt that is being polled on this thread.
    static TURN: Cell<Option<Turn>> = const { Cell::new(None) };
    /// For how long it had waited for its turns, as far as it was told of them in this poll.
    static WAITED: Cell<Duration> = const { Cell::new(Duration::ZERO) };
}

impl Turns {
    /// As many turns at a time as there are processors.
    pub(crate) fn new() -> Self {
        Self::of(std::thread::available_parallelism().map_or(1, usize::from))
    }

    fn of(turns: usize) -> Self {
        Self(Mutex::new(Table { free: turns, level: 0, lines: Vec::new(), next: 0 }))
    }

    /// Waits for a turn, which lasts until the poll ends that this returns in; see [`in_turns`].
    pub(crate) async fn wait(self: &Arc<Self>, party: Party<'_>) {
        let given = self.lock().take_or_queue(party);
        let turn = match given {
            Ok(charge) => Turn { turns: Arc::clone(self), charge, began: Instant::now() },
            Err(given) => match waited(given).await {
                Ok(mut turn) => {
                    turn.began = Instant::now();
                    turn
                }
                // Nobody drops a sender unanswered as long as there is a table.
                Err(_) => return,
            },
        };
        TURN.set(Some(turn));
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    /// A turn, if one is free; otherwise where it will come.
    fn take_or_queue(&mut self, party: Party<'_>) -> Result<Charge, oneshot::Receiver<Turn>> {
        let (free, level) = (self.free, self.level);
        let line = self.line(party);
        if line.waiting.is_empty() {
            line.used = line.used.max(level);
        }
        if free == 0 {
            let (give, given) = oneshot::channel();
            line.waiting.push_back(give);
            return Err(given);
        }
        let (used, charge) = (line.used, line.charge());
        self.level = level.max(used);
        self.free -= 1;
        Ok(charge)
    }

    fn line(&mut self, party: Party<'_>) -> &mut Line {
        let weight = party.weight.max(1);
        let place = self.lines.iter().position(|line| line.tenant.as_ref() == party.tenant);
        let place = place.unwrap_or_else(|| {
            let (number, tenant) = (self.next, party.tenant.cloned());
            self.next += 1;
            self.lines.push(Line { number, tenant, weight, used: self.level, usual: 0, waiting: VecDeque::new() });
            self.lines.len() - 1
        });
        let line = &mut self.lines[place];
        line.weight = weight;
        line
    }

    /// A turn is over that lasted so long.
    fn ended(&mut self, charge: Charge, lasted: Duration) {
        if let Some(line) = self.lines.iter_mut().find(|line| line.number == charge.line) {
            let lasted = u64::try_from(lasted.as_nanos()).unwrap_or(u64::MAX);
            line.usual = line.usual - line.usual / 8 + lasted / 8;
            line.used = (line.used + lasted / u64::from(line.weight)).saturating_sub(charge.expected);
        }
    }

    /// Who is next, if anybody waits: the one whose line has used the least. If nobody does, the turn is free.
    fn next_or_free(&mut self) -> Option<(oneshot::Sender<Turn>, Charge)> {
        loop {
            let waits = |line: &&mut Line| !line.waiting.is_empty();
            let Some(line) = self.lines.iter_mut().filter(waits).min_by_key(|line| line.used) else {
                self.free += 1;
                return None;
            };
            // One whose attempt is over meanwhile is passed by.
            let Some(next) = line.waiting.pop_front().filter(|next| !next.is_closed()) else { continue };
            self.level = self.level.max(line.used);
            let (charge, level) = (line.charge(), self.level);
            self.lines.retain(|line| !line.waiting.is_empty() || line.used > level || line.number == charge.line);
            return Some((next, charge));
        }
    }
}

impl Line {
    /// What a turn is expected to use is written down when it begins, so that several at once are not one line's.
    fn charge(&mut self) -> Charge {
        let expected = self.usual / u64::from(self.weight);
        self.used += expected;
        Charge { line: self.number, expected }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        // The lock is let go before a turn is handed on: one that comes back at once is dropped here again.
        let next = {
            let mut table = self.turns.lock();
            table.ended(self.charge, self.began.elapsed());
            table.next_or_free()
        };
        if let Some((next, charge)) = next {
            let _ = next.send(Turn { turns: Arc::clone(&self.turns), charge, began: Instant::now() });
        }
    }
}

/// Waits, and says for how long.
async fn waited<F: Future>(wait: F) -> F::Output {
    let began = Instant::now();
    let output = wait.await;
    WAITED.set(WAITED.get() + began.elapsed());
    output
}

/// How an attempt has spent its time.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Spent {
    /// When the poll began that is under way, or was the last.
    since: Instant,
    /// Whether it waits between two polls.
    waits: bool,
    /// How long all polls before took.
    polled: Duration,
    /// For how long it waited for its turns.
    pub(crate) turned: Duration,
}

impl Spent {
    /// Nothing yet, of an attempt that begins now.
    pub(crate) fn from(began: Instant) -> Self {
        Self { since: began, waits: false, polled: Duration::ZERO, turned: Duration::ZERO }
    }

    /// How long it was busy, if it has ended at this time.
    pub(crate) fn busy(&self, ended: Instant) -> Duration {
        if self.waits { self.polled } else { self.polled + ended.saturating_duration_since(self.since) }
    }
}

/// Runs an attempt; the turns that it takes end with each poll, so that nobody waits in the host with a turn in hand. An
/// attempt that is through at its first poll costs no look at the clock.
pub(crate) async fn in_turns<F: Future>(attempt: F, spent: &mut Spent) -> F::Output {
    struct EndOfPoll;
    impl Drop for EndOfPoll {
        fn drop(&mut self) {
            TURN.take();
        }
    }

    let mut attempt = pin!(attempt);
    poll_fn(|context| {
        let _end = EndOfPoll;
        if spent.waits {
            (spent.since, spent.waits) = (Instant::now(), false);
        }
        let poll = attempt.as_mut().poll(context);
        spent.turned += WAITED.take();
        if poll.is_pending() {
            spent.polled += spent.since.elapsed();
            spent.waits = true;
        }
        poll
    })
    .await
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    const NOBODY: Party<'static> = Party { tenant: None, weight: 1 };
    const EACH: Duration = Duration::from_millis(1);

    fn tenant(name: &str) -> Name {
        Name::parse(name).unwrap()
    }

    /// A table with one turn, which somebody has.
    fn table() -> (Table, Charge) {
        let mut table = Table { free: 1, level: 0, lines: Vec::new(), next: 0 };
        let charge = table.take_or_queue(NOBODY).ok().unwrap();
        (table, charge)
    }

    /// As many guests as there are turns given wait, for each of these tenants and weights, and each turn lasts as long
    /// as another. Gives how many turns each had.
    fn turns_of(parties: &[(&str, u32)], turns: usize) -> Vec<usize> {
        let (mut table, mut charge) = table();
        let names: Vec<Name> = parties.iter().map(|(name, _)| tenant(name)).collect();
        let party = |n: usize| Party { tenant: Some(&names[n]), weight: parties[n].1 };
        let mut waiting = Vec::new();
        for n in 0..parties.len() {
            waiting.extend((0..turns).map(|_| table.take_or_queue(party(n)).unwrap_err()));
        }
        let mut had = vec![0; parties.len()];
        for _ in 0..turns {
            table.ended(charge, EACH);
            let (_, next) = table.next_or_free().unwrap();
            let line = table.lines.iter().find(|line| line.number == next.line).unwrap();
            had[names.iter().position(|name| line.tenant.as_ref() == Some(name)).unwrap()] += 1;
            charge = next;
        }
        had
    }

    #[test]
    fn tenants_have_turns_by_weight_however_long_their_lines_are() {
        assert_eq!(turns_of(&[("one", 1), ("other", 1)], 200), [100, 100]);
        let by_weight = turns_of(&[("one", 1), ("two", 2), ("four", 4)], 700);
        let near = |had: usize, should: usize| had.abs_diff(should) <= 5;
        assert!(near(by_weight[0], 100) && near(by_weight[1], 200) && near(by_weight[2], 400), "{by_weight:?}");
    }

    #[test]
    fn who_comes_newly_is_next_and_who_was_away_has_saved_nothing() {
        let (mut table, mut charge) = table();
        let (noisy, quiet) = (tenant("noisy"), tenant("quiet"));
        let party = |name| Party { tenant: Some(name), weight: 1 };
        let _waiting: Vec<_> = (0..1_000).map(|_| table.take_or_queue(party(&noisy)).unwrap_err()).collect();
        let mut quiet_had = 0;
        for n in 0..400 {
            table.ended(charge, EACH);
            // Its calls come after a hundred turns, one at first and then many.
            let come = if n == 100 {
                1
            } else if n == 200 {
                500
            } else {
                0
            };
            (0..come).for_each(|_| std::mem::forget(table.take_or_queue(party(&quiet)).unwrap_err()));
            charge = table.next_or_free().unwrap().1;
            let line = table.lines.iter().find(|line| line.number == charge.line).unwrap();
            let is_quiet = line.tenant.as_ref() == Some(&quiet);
            quiet_had += usize::from(is_quiet);
            assert!(n != 100 || is_quiet, "it comes before the thousand that wait");
        }
        assert!((98..=105).contains(&quiet_had), "{quiet_had}: one, and half of those that came after the second time");
    }

    #[test]
    fn who_takes_long_turns_has_fewer() {
        let (mut table, mut charge) = table();
        let (long, short) = (tenant("long"), tenant("short"));
        let party = |name| Party { tenant: Some(name), weight: 1 };
        let mut waiting = Vec::new();
        for name in [&long, &short] {
            waiting.extend((0..1_000).map(|_| table.take_or_queue(party(name)).unwrap_err()));
        }
        let (mut longs, mut lasted) = (0, EACH);
        for _ in 0..500 {
            table.ended(charge, lasted);
            charge = table.next_or_free().unwrap().1;
            let line = table.lines.iter().find(|line| line.number == charge.line).unwrap();
            let is_long = line.tenant.as_ref() == Some(&long);
            longs += usize::from(is_long);
            lasted = if is_long { 4 * EACH } else { EACH };
        }
        assert!((98..=102).contains(&longs), "four times as long, so a fifth of the turns: {longs}");
    }

    #[test]
    fn lines_that_nobody_needs_go() {
        let turns = Arc::new(Turns::of(1));
        for n in 0..50 {
            let name = tenant(&format!("tenant-{n}"));
            let charge = turns.lock().take_or_queue(Party { tenant: Some(&name), weight: 1 }).ok().unwrap();
            let given = turns.lock().take_or_queue(NOBODY).unwrap_err();
            drop(Turn { turns: turns.clone(), charge, began: Instant::now() });
            drop(given);
        }
        assert_eq!(turns.lock().free, 1);
        assert!(turns.lock().lines.len() < 10, "{} lines", turns.lock().lines.len());
    }

    #[tokio::test]
    async fn a_turn_is_not_kept_while_its_owner_waits_in_the_host() {
        let turns = Arc::new(Turns::of(1));
        let count = AtomicUsize::new(0);
        let (mut spent, mut others) = (Spent::from(Instant::now()), Spent::from(Instant::now()));
        let one = async {
            turns.wait(NOBODY).await;
            tokio::time::sleep(Duration::from_secs(3600)).await;
        };
        let one = in_turns(one, &mut spent);
        let other = async {
            turns.wait(NOBODY).await;
            count.fetch_add(1, Ordering::Relaxed);
        };
        let other = in_turns(other, &mut others);
        tokio::select! {
            biased;
            () = one => {}
            () = other => {}
        }
        assert_eq!(count.load(Ordering::Relaxed), 1);
    }

    #[tokio::test]
    async fn one_who_is_gone_is_passed_by() {
        let turns = Arc::new(Turns::of(1));
        let charge = turns.lock().take_or_queue(NOBODY).ok().unwrap();
        let held = Turn { turns: turns.clone(), charge, began: Instant::now() };
        let (mut spent, mut others) = (Spent::from(Instant::now()), Spent::from(Instant::now()));
        let mut gone = Box::pin(in_turns(turns.wait(NOBODY), &mut spent));
        let mut there = Box::pin(in_turns(turns.wait(NOBODY), &mut others));
        assert!(futures_util::poll!(&mut gone).is_pending());
        assert!(futures_util::poll!(&mut there).is_pending());
        drop(gone);
        drop(held);
        there.await;
        assert_eq!(turns.lock().free, 1);
    }

    #[tokio::test]
    async fn what_an_attempt_waited_for_is_known_apart() {
        let turns = Arc::new(Turns::of(1));
        let charge = turns.lock().take_or_queue(NOBODY).ok().unwrap();
        let held = Turn { turns: turns.clone(), charge, began: Instant::now() };
        let (began, pause) = (Instant::now(), Duration::from_millis(20));
        let mut spent = Spent::from(began);
        let (give, answer) = oneshot::channel();
        let attempt = async {
            turns.wait(NOBODY).await;
            std::thread::sleep(pause);
            // Nothing is computed here, however long it takes.
            answer.await.unwrap();
        };
        let mut attempt = Box::pin(in_turns(attempt, &mut spent));
        assert!(futures_util::poll!(&mut attempt).is_pending());
        std::thread::sleep(pause);
        drop(held);
        assert!(futures_util::poll!(&mut attempt).is_pending());
        std::thread::sleep(pause);
        give.send(()).unwrap();
        attempt.await;
        let (all, busy) = (began.elapsed(), spent.busy(Instant::now()));
        assert!(spent.turned >= pause && busy >= pause, "{spent:?}");
        assert!(all >= spent.turned + busy + pause, "{all:?}: {spent:?}");
    }
}
