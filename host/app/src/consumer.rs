//! The consumer: takes seats, reads for as many calls as it has seats, starts them. One task, one blocking read.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use baton_broker::Incoming;
use baton_model::mutants::{Rule, is_left_out};
use tokio_util::sync::CancellationToken;

use crate::backoff::{Backoff, Trouble};
use crate::flights::{Boarding, Flights};
use crate::intake::{Intake, Step};
use crate::ledger::Ledger;
use crate::runner::{Runner, ToSettler};
use crate::seats::{Seat, Seats};

/// What the consumer is made from.
pub(crate) struct Consumer {
    pub(crate) intake: Intake,
    pub(crate) flights: Arc<Flights>,
    pub(crate) seats: Seats,
    pub(crate) ledger: Arc<Ledger>,
    pub(crate) runner: Arc<Runner>,
    pub(crate) settler: ToSettler,
    pub(crate) trouble: Arc<Trouble>,
}

impl Consumer {
    /// Reads and starts calls until `stop`. Nothing that was read is left behind: each call is started or handed back.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        let mut backoff = Backoff::new("reading calls", &self.trouble);
        let mut batch = Vec::new();
        // Calls that were read beyond the seats. Redis counts by stream, so one read brings more calls than there are
        // seats when more functions than seats had a call at once. They wait here, in flight, before the next read of
        // their function; where seats are shared, the others are read meanwhile.
        let mut beyond: VecDeque<Incoming> = VecDeque::new();
        while !stop.is_cancelled() {
            let start = self.runner.start(std::mem::take(&mut batch), &self.settler);
            if !beyond.is_empty() && !self.ledger.is_shared() {
                start.await;
                tokio::select! {
                    seats = self.seats.take_up_to(beyond_count(&beyond)) => seated(&mut beyond, seats, &mut batch),
                    () = stop.cancelled() => {}
                }
                continue;
            }
            // What was read is started while the next read is already on its way.
            let (step, ()) = tokio::join!(self.intake.step(&self.seats, &self.flights, &mut beyond, &stop), start);
            match step {
                Ok(Step::Read(incoming, mut seats)) => {
                    backoff.succeeded();
                    // In flight before anything else happens, so that nobody takes it for lost.
                    beyond.extend(incoming.into_iter().filter(|call| self.flights.board(call) == Boarding::Boarded));
                    if self.ledger.is_shared() {
                        let free = seats.free_with(&self.seats);
                        batch = self.ledger.admit(&mut beyond, &mut seats, free, Instant::now());
                    } else {
                        seated(&mut beyond, seats, &mut batch);
                    }
                }
                Ok(Step::Seated(calls)) => batch = calls,
                Ok(Step::Nothing) => backoff.succeeded(),
                Ok(Step::Stop) => break,
                Err(error) => {
                    if !is_left_out(Rule::NogroupRepair) {
                        self.intake.doubt();
                    }
                    tokio::select! {
                        () = backoff.failed(&error) => {}
                        () = stop.cancelled() => {}
                    }
                }
            }
        }
        self.runner.start(batch, &self.settler).await;
        for call in beyond {
            self.runner.give_back(call, &self.settler).await;
        }
    }
}

fn beyond_count(beyond: &VecDeque<Incoming>) -> u32 {
    u32::try_from(beyond.len()).unwrap_or(u32::MAX)
}

/// Gives calls their seats, as far as there are seats.
fn seated(waiting: &mut VecDeque<Incoming>, mut seats: Seat, batch: &mut Vec<(Incoming, Seat)>) {
    while !waiting.is_empty() {
        let Some(seat) = seats.split_one() else { return };
        batch.extend(waiting.pop_front().map(|call| (call, seat)));
    }
}
