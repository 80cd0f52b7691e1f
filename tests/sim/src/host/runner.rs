//! One attempt: what `host/app/src/runner.rs` does, with a function that chance has made.

use std::rc::Rc;
use std::time::Duration;

use baton_model::{CallError, CallId, Disposition, Outcome, Reply as Body, ResultDocument, Status, decide};
use bytes::Bytes;

use super::{Call, Host, Settlement, Settling};
use crate::caller::wish;
use crate::command;
use crate::history::result_key;
use crate::net::Ask;
use crate::redis::Reply;
use crate::time::MS;

/// Notes an execution for as long as it lives, however it ends.
struct Running(Rc<Host>, usize);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.server.history.borrow_mut().ends(self.1);
    }
}

/// Starts a call that has a seat.
pub(super) fn start(host: &Rc<Host>, call: Rc<Call>) {
    let task = host.sim.spawn(host.process, attempt(host.clone(), call.clone(), Seat(Some(host.clone()))));
    host.with_flight(&call, |flight| flight.stage = super::Stage::Running(Some(task)));
}

/// A seat, given back when it is dropped.
struct Seat(Option<Rc<Host>>);

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.iter().for_each(|host| host.free_seats(1));
    }
}

impl Seat {
    /// It goes on with the settlement.
    fn hand_on(mut self) {
        self.0 = None;
    }
}

async fn attempt(host: Rc<Host>, call: Rc<Call>, seat: Seat) {
    let started_ms = host.server.now_ms();
    if call.id_is_own
        && let Ok(Reply::Bulk(document)) =
            host.queue.ask(Ask::Do(command!("GET", result_key(call.function, &call.id)))).await
    {
        return settle(&host, &call, Settlement::Finish(document), seat);
    }
    let mut attempts = call.attempt;
    let outcome = if call.deadline_ms.is_some_and(|deadline| deadline <= host.server.now_ms()) {
        attempts -= 1;
        Outcome::DeadlinePassed
    } else if call.claims > host.retry.hosts_lost_max {
        attempts -= 1;
        Outcome::HostsLost { hosts: call.claims }
    } else {
        execute(&host, &call).await
    };
    let document = |status, error: Option<CallError>, body: Bytes| {
        let id = CallId::parse(&call.id).expect("an id");
        let mut document = ResultDocument::new(status, id, "application/json".to_owned(), body);
        document.error = error;
        document.attempts = attempts;
        document.started_ms = Some(started_ms);
        document.finished_ms = host.server.now_ms();
        document.accepted_ms = call.accepted_ms;
        document.encode()
    };
    let left = call.deadline_ms.map(|at| Duration::from_millis(at.saturating_sub(host.server.now_ms())));
    let chance = host.sim.roll(crate::rng::Rng::fraction);
    let what = match decide(outcome, call.attempt, &host.retry, left, chance) {
        Disposition::Answer(reply) => Settlement::Finish(document(Status::Ok, None, reply.body)),
        Disposition::Fail(status, error) => Settlement::Finish(document(status, Some(error), Bytes::new())),
        Disposition::Retry { after, .. } => {
            let wait_ms = i64::try_from(after.as_millis()).unwrap_or(i64::MAX);
            Settlement::Requeue { attempt: call.attempt + 1, wait_ms }
        }
        Disposition::Bury { reason, error } => {
            Settlement::Bury { document: document(Status::Dead, Some(error), Bytes::new()), reason, attempts }
        }
    };
    settle(&host, &call, what, seat);
}

async fn execute(host: &Rc<Host>, call: &Call) -> Outcome {
    let number = host.server.history.borrow_mut().starts(call, host.process);
    host.sim.log(|| {
        format!("{} runs call {} ({}), entry {}, as execution {number}", host.name, call.id, call.payload, call.entry)
    });
    let _running = Running(host.clone(), number);
    let (wish, ms) = wish(&call.payload);
    host.sim.sleep(ms * MS).await;
    let message = wish.to_owned();
    match wish {
        "retry" if call.attempt < 3 => Outcome::RetryAsked { message, after: None },
        "trap" => Outcome::Trapped { message },
        _answer => {
            let body = Bytes::from(format!("{}#{number}", call.payload));
            Outcome::Replied(Body { media_type: "text/plain".to_owned(), body })
        }
    }
}

fn settle(host: &Rc<Host>, call: &Rc<Call>, what: Settlement, seat: Seat) {
    if !host.begin_settling(call) {
        return;
    }
    seat.hand_on();
    host.to_settler.push(Settling {
        call: call.clone(),
        what,
        is_first: call.read.is_some() && !call.id_is_own && call.id == call.entry,
        has_seat: true,
    });
}
