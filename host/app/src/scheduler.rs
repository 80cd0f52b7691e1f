//! The scheduler: makes the calls of ticks. Every host that has a function does, and Redis lets one of them do it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use baton_broker::{BrokerError, Queue, Ticked};
use baton_model::{FunctionId, Name, Next, Schedule, next_tick};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::backoff::{Backoff, Trouble};
use crate::catalog::Published;

/// The longest wait between two looks at a schedule: this host's clock and that of Redis drift apart.
const LOOK_EVERY: Duration = Duration::from_secs(60);
/// How long a function is left alone in whose keys Redis refuses to write.
const REFUSED_PAUSE: Duration = Duration::from_secs(30);

/// Makes the calls of ticks.
pub(crate) struct Scheduler {
    pub(crate) queue: Arc<Queue>,
    pub(crate) catalog: Arc<Published>,
    pub(crate) trouble: Arc<Trouble>,
}

/// One schedule, and what is done about it next.
struct Entry {
    schedules: Arc<[Schedule]>,
    place: usize,
    /// The tick that is waited for; none while it is not known what was done.
    tick: Option<u64>,
    at: Instant,
}

impl Entry {
    fn schedule(&self) -> &Schedule {
        &self.schedules[self.place]
    }
}

type Agenda = BTreeMap<(FunctionId, Name), Entry>;

impl Scheduler {
    /// Makes them until `stop`.
    pub(crate) async fn run(self, stop: CancellationToken) {
        let mut changes = self.catalog.changes();
        let mut agenda = Agenda::new();
        let mut backoff = Backoff::new("making calls of schedules", &self.trouble);
        loop {
            changes.mark_unchanged();
            take_in(&mut agenda, &self.catalog);
            let first = agenda.iter_mut().min_by_key(|(_, entry)| entry.at);
            let due = async {
                match &first {
                    Some((_, entry)) => tokio::time::sleep_until(entry.at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = due => {}
                changed = changes.changed() => match changed {
                    Ok(()) => continue,
                    Err(_) => return,
                },
                () = stop.cancelled() => return,
            }
            let Some(((function, _), entry)) = first else { continue };
            match self.queue.tick(function, entry.schedule(), entry.tick).await {
                Ok(ticked) => {
                    backoff.succeeded();
                    entry.go_on(function, ticked);
                }
                Err(error @ (BrokerError::Refused(_) | BrokerError::NoGroup(_))) => {
                    tracing::warn!(%function, schedule = %entry.schedule().name, %error, "a tick cannot be run; trying again in a while");
                    entry.at = Instant::now() + REFUSED_PAUSE;
                }
                Err(error) => tokio::select! {
                    () = backoff.failed(&error) => {}
                    () = stop.cancelled() => return,
                },
            }
        }
    }
}

impl Entry {
    fn go_on(&mut self, function: &FunctionId, ticked: Ticked) {
        let Ticked { made, done_ms, now_ms } = ticked;
        let schedule = &self.schedules[self.place];
        if made {
            let late_ms = now_ms.saturating_sub(done_ms);
            tracing::debug!(%function, schedule = %schedule.name, tick_ms = done_ms, late_ms, "a tick is run");
        }
        let now = Instant::now();
        (self.tick, self.at) = match next_tick(&schedule.timetable, schedule.missed, done_ms, now_ms) {
            Next::Run(tick) => (Some(tick), now),
            Next::Wait(tick) => (Some(tick), now + Duration::from_millis(tick - now_ms).min(LOOK_EVERY)),
            Next::Never => (None, now + LOOK_EVERY),
        };
    }
}

/// What is new is looked at now. What has changed is a schedule of its own, but for what it has run.
fn take_in(agenda: &mut Agenda, catalog: &Published) {
    let catalog = catalog.snapshot();
    agenda.retain(|(function, name), _| {
        catalog.schedules_of(function).is_some_and(|all| all.iter().any(|schedule| schedule.name == *name))
    });
    for function in catalog.functions() {
        let Some(schedules) = catalog.schedules_of(function) else { continue };
        for (place, schedule) in schedules.iter().enumerate() {
            let key = (function.clone(), schedule.name.clone());
            match agenda.get_mut(&key) {
                Some(entry) if entry.schedule() == schedule => {}
                Some(_) | None => {
                    let entry = Entry { schedules: schedules.clone(), place, tick: None, at: Instant::now() };
                    agenda.insert(key, entry);
                }
            }
        }
    }
}
