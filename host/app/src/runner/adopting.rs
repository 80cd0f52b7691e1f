//! Calls of durable functions that came like any other, and events for executions that came among them.

use std::sync::Arc;

use baton_broker::{Adopted, Beginning, BrokerError, Delivery, Next, Settlement, Taken};
use baton_model::execution::{Event, EventFor, Log, Received};
use baton_model::{Call, CallError, Outcome, Rejection, Reply, ResultDocument, Status};
use bytes::Bytes;

use super::leaving::{Count, Settling, send};
use super::{Runner, ToSettler};
use crate::catalog::Revision;
use crate::clock::now_ms;
use crate::flights::FlightKey;
use crate::metrics::{Ended, Fate};
use crate::seats::Seat;

impl Runner {
    /// Makes an execution of a call of a durable function that came like any other.
    pub(super) async fn adopt(
        &self,
        delivery: Delivery,
        seat: Option<Seat>,
        revision: &Arc<Revision>,
        settler: &ToSettler,
    ) {
        let Delivery { call, lease, .. } = &delivery;
        let input = Reply { media_type: call.media_type.clone(), body: call.payload.clone() };
        let beginning = Beginning { input, headers: call.headers.clone(), parent: call.step.as_deref().cloned() };
        let document = match self.shelf.redis.adopt(&self.host, call, *lease, beginning).await {
            Ok(Adopted::Done | Adopted::Fenced) => return self.flights.land(&FlightKey::of(&delivery)),
            Ok(Adopted::Ended) => self.end_of(call).await,
            Err(error) => Err(error),
        };
        match document {
            Ok(Some(document)) => {
                if !self.flights.begin_settling(&FlightKey::of(&delivery)) {
                    return;
                }
                let settlement = Settlement::finish(call, document.encode());
                let next = Next::of(call);
                let settled = Settling { function: call.function.clone(), lease: *lease, read: None, next, settlement };
                let metrics = revision.metrics.clone();
                send(settler, settled, Count { ended: Ended::SentTwice, fate: Fate::Plain, metrics }, seat).await;
            }
            // What was known of the one that ended is gone since: another time, this one begins anew.
            Ok(None) => self.hand_back(delivery, seat, None, settler).await,
            Err(error) => {
                tracing::debug!(function = %call.function, call = %call.id, %error, "an execution could not be begun, and is put back");
                self.hand_back(delivery, seat, Some(self.hand_back_after), settler).await;
            }
        }
    }

    /// What an execution came to whose result has expired, as its log says. None if there is none of this id, or it has no end.
    async fn end_of(&self, call: &Call) -> Result<Option<ResultDocument>, BrokerError> {
        let Some((known, log)) = self.shelf.redis.read(&call.function, &call.id).await? else { return Ok(None) };
        let Some(ended_ms) = known.ended_ms else { return Ok(None) };
        let (status, answer, error) = match log.as_ref().map(Log::end) {
            Ok(Some(Event::Completed(reply))) => (Status::Ok, reply.clone(), None),
            Ok(Some(Event::Failed(error))) => (Status::Error, no_answer(), Some(error.clone())),
            // A log may be cut by hand; that it was taken back, the state says too.
            Ok(_) => (Status::Cancelled, no_answer(), ResultDocument::cancelled(call.id.clone(), ended_ms).error),
            Err(damage) => {
                let error = CallError { code: "log-damaged".to_owned(), message: damage.to_string() };
                (Status::Error, no_answer(), Some(error))
            }
        };
        let mut document = ResultDocument::new(status, call.id.clone(), answer.media_type, answer.body);
        document.error = error;
        document.attempts = call.attempt;
        document.digest = log.as_ref().ok().and_then(Log::digest);
        document.host = Some(self.host.clone());
        document.accepted_ms = known.began_ms;
        document.finished_ms = now_ms();
        Ok(Some(document))
    }

    /// Hands an event over that came as an entry of the call stream, and says what came of it. None if Redis does not answer.
    pub(super) async fn take_event(&self, call: &Call) -> Option<Outcome> {
        let EventFor { execution, name } = call.event.as_deref()?;
        let payload = Reply { media_type: call.media_type.clone(), body: call.payload.clone() };
        let received = Received { id: call.id.clone(), name: name.clone(), payload };
        let taken = self.shelf.redis.event(&call.function, execution, received).await;
        let taken = taken
            .inspect_err(
                |error| tracing::debug!(function = %call.function, event = %call.id, %error, "an event is put back"),
            )
            .ok()?;
        Some(match (taken, taken.refusal()) {
            (Taken::At { position, .. }, _) => {
                let body = format!("{{\"position\":{position}}}").into();
                Outcome::Replied(Reply { media_type: "application/json".to_owned(), body })
            }
            (_, refused) => {
                let (code, why) = refused.unwrap_or_default();
                let message = format!("the execution {execution} {why}");
                Outcome::Rejected(Rejection { code: code.to_owned(), message })
            }
        })
    }
}

fn no_answer() -> Reply {
    Reply { media_type: "application/json".to_owned(), body: Bytes::new() }
}
