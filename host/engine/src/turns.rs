//! Turns on the processor, for guests that compute for longer than a tick of the clock: as many at a time as there are
//! processors, and tenant by tenant. A guest without a turn waits here and not in the runtime's own queue, so that a crowd
//! of endless guests delays neither its neighbours nor its own end. Nothing here knows what a guest does.

use std::cell::Cell;
use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use baton_model::Name;
use tokio::sync::oneshot;

/// Who has a turn, and who waits for one.
///
/// A lock and no message: it is held for one operation on the queue, by guests that have computed for a tick.
pub(crate) struct Turns(Mutex<Table>);

struct Table {
    free: usize,
    /// The tenants that wait, each with its guests in the order in which they came; the next turn is the first one's.
    lines: VecDeque<Line>,
}

struct Line {
    /// None for what runs for no tenant: trials.
    tenant: Option<Name>,
    waiting: VecDeque<oneshot::Sender<Turn>>,
}

/// The right to compute until the end of the poll, or up to the next tick.
struct Turn(Arc<Turns>);

thread_local! {
    /// The turn of the attempt that is being polled on this thread.
    static TURN: Cell<Option<Turn>> = const { Cell::new(None) };
}

impl Turns {
    /// As many turns at a time as there are processors.
    pub(crate) fn new() -> Self {
        Self::of(std::thread::available_parallelism().map_or(1, usize::from))
    }

    fn of(turns: usize) -> Self {
        Self(Mutex::new(Table { free: turns, lines: VecDeque::new() }))
    }

    /// Waits for a turn, which lasts until the poll ends that this returns in; see [`in_turns`].
    pub(crate) async fn wait(self: &Arc<Self>, tenant: Option<&Name>) {
        let given = self.lock().take_or_queue(tenant);
        let turn = match given {
            None => Turn(Arc::clone(self)),
            Some(given) => match given.await {
                Ok(turn) => turn,
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
    /// None if a turn is free, and taken by this.
    fn take_or_queue(&mut self, tenant: Option<&Name>) -> Option<oneshot::Receiver<Turn>> {
        if self.free > 0 {
            self.free -= 1;
            return None;
        }
        let (give, given) = oneshot::channel();
        match self.lines.iter_mut().find(|line| line.tenant.as_ref() == tenant) {
            Some(line) => line.waiting.push_back(give),
            None => self.lines.push_back(Line { tenant: tenant.cloned(), waiting: [give].into() }),
        }
        Some(given)
    }

    /// Who is next, if anybody waits: the tenants take turns. If nobody does, the turn is free.
    fn next_or_free(&mut self) -> Option<oneshot::Sender<Turn>> {
        while let Some(mut line) = self.lines.pop_front() {
            let next = line.waiting.pop_front();
            if !line.waiting.is_empty() {
                self.lines.push_back(line);
            }
            // One whose attempt is over meanwhile is passed by.
            if let Some(next) = next.filter(|next| !next.is_closed()) {
                return Some(next);
            }
        }
        self.free += 1;
        None
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        // The lock is let go before a turn is handed on: one that comes back at once is dropped here again.
        let next = self.0.lock().next_or_free();
        if let Some(next) = next {
            let _ = next.send(Turn(Arc::clone(&self.0)));
        }
    }
}

/// Runs an attempt; the turns that it takes end with each poll, so that nobody waits in the host with a turn in hand.
pub(crate) async fn in_turns<F: Future>(attempt: F) -> F::Output {
    struct EndOfPoll;
    impl Drop for EndOfPoll {
        fn drop(&mut self) {
            TURN.take();
        }
    }

    let mut attempt = pin!(attempt);
    poll_fn(|context| {
        let _end = EndOfPoll;
        attempt.as_mut().poll(context)
    })
    .await
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use super::*;

    fn tenant(name: &str) -> Name {
        Name::parse(name).unwrap()
    }

    /// Takes the only turn, outside of any poll.
    fn take(turns: &Arc<Turns>) -> Turn {
        assert!(turns.lock().take_or_queue(None).is_none(), "it is free");
        Turn(turns.clone())
    }

    #[tokio::test]
    async fn tenants_take_turns_however_long_their_lines_are() {
        let turns = Arc::new(Turns::of(1));
        let order = Mutex::new(Vec::new());
        let held = take(&turns);
        let line = ["noisy", "noisy", "noisy", "quiet", "noisy", "quiet"].map(|name| {
            let (turns, order) = (&turns, &order);
            in_turns(async move {
                turns.wait(Some(&tenant(name))).await;
                order.lock().unwrap().push(name);
            })
        });
        // They queue up while the turn is taken, in the order in which they are polled.
        let give_back = async { drop(held) };
        futures_util::future::join(futures_util::future::join_all(line), give_back).await;
        assert_eq!(*order.lock().unwrap(), ["noisy", "quiet", "noisy", "quiet", "noisy", "noisy"]);
        assert_eq!(turns.lock().free, 1, "every turn came back");
    }

    #[tokio::test]
    async fn a_turn_is_not_kept_while_its_owner_waits_in_the_host() {
        let turns = Arc::new(Turns::of(1));
        let count = AtomicUsize::new(0);
        let one = in_turns(async {
            turns.wait(None).await;
            tokio::time::sleep(Duration::from_secs(3600)).await;
        });
        let other = in_turns(async {
            turns.wait(None).await;
            count.fetch_add(1, Ordering::Relaxed);
        });
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
        let held = take(&turns);
        let mut gone = Box::pin(in_turns(turns.wait(None)));
        let mut there = Box::pin(in_turns(turns.wait(None)));
        assert!(futures_util::poll!(&mut gone).is_pending());
        assert!(futures_util::poll!(&mut there).is_pending());
        drop(gone);
        drop(held);
        there.await;
        assert_eq!(turns.lock().free, 1);
    }
}
