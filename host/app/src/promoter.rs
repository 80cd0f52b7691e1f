//! The promoter: moves calls whose wait is over into their streams, in bounded batches in which every function has its part.
//! It sleeps until the first is due.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use baton_broker::{BrokerError, Queue};
use baton_model::{FunctionId, Turn, look_again};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::backoff::{Backoff, Trouble};
use crate::peers::Roster;

/// How long a function is left alone whose delayed calls Redis does not let be moved.
const REFUSED_PAUSE: Duration = Duration::from_secs(30);

/// Of how many functions calls are moved in one round trip.
const FUNCTIONS_MAX: usize = 16;

/// When to look at the delayed calls of which function.
type Agenda = BTreeMap<FunctionId, Instant>;

/// A call of `function` is due after `wait`.
pub(crate) struct Due {
    pub(crate) function: FunctionId,
    pub(crate) wait: Duration,
}

/// Promotes calls. The channel is unbounded because a settlement must never wait for it; it holds one entry for each
/// retry that this host made or that it was told of, and is emptied at once.
pub(crate) struct Promoter {
    pub(crate) queue: Arc<Queue>,
    pub(crate) inbox: mpsc::UnboundedReceiver<Due>,
    /// Who is there; of those that have a function, one is the first to wake its calls.
    pub(crate) roster: watch::Receiver<Option<Roster>>,
    pub(crate) turns: HashMap<FunctionId, Turn>,
    pub(crate) trouble: Arc<Trouble>,
}

impl Promoter {
    /// Promotes until `stop`. What waits then is found by another host's sweep, or by this one's next start.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        let mut agenda = Agenda::new();
        let mut backoff = Backoff::new("waking delayed calls", &self.trouble);
        loop {
            let next = agenda.values().min().copied();
            let due = async {
                match next {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = due => {}
                told = self.inbox.recv() => {
                    let Some(Due { function, wait }) = told else { return };
                    let at = Instant::now() + self.turn(&function).after(wait);
                    agenda.entry(function).and_modify(|have| *have = at.min(*have)).or_insert(at);
                    continue;
                }
                () = stop.cancelled() => return,
            }
            match self.promote(&mut agenda).await {
                Ok(()) => backoff.succeeded(),
                Err(error) => tokio::select! {
                    () = backoff.failed(&error) => {}
                    () = stop.cancelled() => return,
                },
            }
        }
    }

    /// Looked up once for each function as long as the same hosts are there.
    fn turn(&mut self, function: &FunctionId) -> Turn {
        if self.roster.has_changed().unwrap_or(false) {
            self.turns.clear();
        }
        if let Some(turn) = self.turns.get(function) {
            return *turn;
        }
        let turn = match self.roster.borrow_and_update().as_ref().map(|roster| roster.share(function)) {
            None | Some((_, 0)) => Turn::First,
            Some(_) => Turn::Backup,
        };
        self.turns.insert(function.clone(), turn);
        turn
    }

    /// Moves what is due of those functions that have waited the longest for it.
    async fn promote(&mut self, agenda: &mut Agenda) -> Result<(), BrokerError> {
        let asked = Instant::now();
        let mut due: Vec<(Instant, FunctionId)> =
            agenda.iter().filter(|(_, at)| **at <= asked).map(|(function, at)| (*at, function.clone())).collect();
        due.sort();
        due.truncate(FUNCTIONS_MAX);
        let due: Vec<FunctionId> = due.into_iter().map(|(_, function)| function).collect();
        let answers = self.queue.promote(&due).await?;
        let answered = Instant::now();
        let mut trouble = None;
        for (function, answer) in due.into_iter().zip(answers) {
            match answer {
                Ok(next_due) => match look_again(next_due, answered - asked, self.turn(&function)) {
                    Some(wait) => _ = agenda.insert(function, answered + wait),
                    None => _ = agenda.remove(&function),
                },
                Err(error @ (BrokerError::Refused(_) | BrokerError::NoGroup(_))) => {
                    // The fault lies with this function's keys. The others go on.
                    tracing::warn!(%function, %error, "its delayed calls cannot be woken; trying again in a while");
                    agenda.insert(function, answered + REFUSED_PAUSE);
                }
                Err(error) => trouble = Some(error),
            }
        }
        trouble.map_or(Ok(()), Err)
    }
}
