//! Who waits for which result on this side, and the task that hears of them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use baton_model::{CallId, ResultDocument};
use bytes::Bytes;
use futures_util::StreamExt as _;
use redis::aio::PubSubStream;
use tokio::sync::oneshot;

/// The most results that are kept for calls whose ids this caller has not learnt yet. Those that come after nobody waits
/// for them any more land there too.
const EARLY_MAX: usize = 1_000;
/// The most bytes that the payloads of these have.
const EARLY_BYTES_MAX: usize = 16 << 20;

/// A call, as results are sorted.
pub(super) type Key = (u64, CallId);

/// One of those who wait for a call.
pub(super) struct Place {
    waiting: Arc<Waiting>,
    pub(super) key: Key,
    number: u64,
    /// None once it is known that nothing will come through it.
    pub(super) notice: Option<oneshot::Receiver<ResultDocument>>,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut results = self.waiting.lock();
        if let Some(places) = results.awaited.get_mut(&self.key) {
            places.retain(|(number, _)| *number != self.number);
            if places.is_empty() {
                results.awaited.remove(&self.key);
            }
        }
    }
}

/// Who waits for what. A lock and no message: it is held for one map operation, by the listener and by callers.
#[derive(Default)]
pub(super) struct Waiting(Mutex<Results>);

#[derive(Default)]
struct Results {
    /// By call; the same call may be waited for in several places.
    awaited: HashMap<Key, Vec<(u64, oneshot::Sender<ResultDocument>)>>,
    places: u64,
    /// Results that came before the answer to the `XADD` that names their call.
    early: HashMap<Key, ResultDocument>,
    early_bytes: usize,
}

/// Delivers what comes on the channels, each of which ends with the number of its topic.
pub(super) async fn hear(mut messages: PubSubStream, waiting: Arc<Waiting>) {
    while let Some(message) = messages.next().await {
        let topic = message.get_channel_name().rsplit('.').next().and_then(|number| number.parse().ok());
        if let Some(topic) = topic {
            waiting.deliver_all(topic, Bytes::copy_from_slice(message.get_payload_bytes()));
        }
    }
    // Without the subscription every wait goes on by reading result keys.
    waiting.all_silent();
}

impl Results {
    /// Keeps a result that nobody waits for yet. What is given up is read from its key.
    fn keep_early(&mut self, key: Key, result: ResultDocument) {
        let bytes = result.payload.len();
        if self.early.len() >= EARLY_MAX || self.early_bytes + bytes > EARLY_BYTES_MAX {
            self.early.clear();
            self.early_bytes = 0;
        }
        self.early_bytes += bytes;
        if let Some(old) = self.early.insert(key, result) {
            self.early_bytes -= old.payload.len();
        }
    }
}

impl Waiting {
    fn lock(&self) -> std::sync::MutexGuard<'_, Results> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place for the result, which is there already if it came early.
    pub(super) fn register(waiting: &Arc<Self>, key: Key) -> Place {
        let (sender, receiver) = oneshot::channel();
        let mut results = waiting.lock();
        results.places += 1;
        let number = results.places;
        match results.early.remove(&key) {
            Some(result) => {
                results.early_bytes -= result.payload.len();
                drop(sender.send(result));
            }
            None => results.awaited.entry(key.clone()).or_default().push((number, sender)),
        }
        Place { waiting: waiting.clone(), key, number, notice: Some(receiver) }
    }

    /// Delivers the result documents of one notice.
    fn deliver_all(&self, topic: u64, mut documents: Bytes) {
        while !documents.is_empty() {
            match ResultDocument::decode(&mut documents) {
                Ok(result) => self.deliver((topic, result.id.clone()), result),
                Err(error) => {
                    tracing::warn!(%error, "a notice cannot be read; its results are read from their keys");
                    return;
                }
            }
        }
    }

    fn deliver(&self, key: Key, result: ResultDocument) {
        let mut results = self.lock();
        match results.awaited.remove(&key) {
            Some(places) => places.into_iter().for_each(|(_, sender)| drop(sender.send(result.clone()))),
            None => {
                results.keep_early(key, result);
            }
        }
    }

    fn all_silent(&self) {
        self.lock().awaited.clear();
    }
}

#[cfg(test)]
mod tests {
    use baton_model::Status;

    use super::*;

    #[test]
    fn results_that_nobody_waits_for_take_no_more_than_their_room() {
        let mut results = Results::default();
        for number in 0..100 {
            let id = CallId::parse(&format!("{number}")).unwrap();
            let payload = Bytes::from(vec![0; EARLY_BYTES_MAX / 10]);
            let result = ResultDocument::new(Status::Ok, id.clone(), "a/b".to_owned(), payload);
            results.keep_early((0, id), result);
            let kept: usize = results.early.values().map(|result| result.payload.len()).sum();
            assert!(kept <= EARLY_BYTES_MAX && kept == results.early_bytes, "{kept}");
        }
    }
}
