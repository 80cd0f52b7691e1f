//! Callers: they speak Redis and HTTP as any stranger would, and write down what they are told, word for word.

use std::collections::HashSet;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::Result;
use baton_tests::settings::PREFIX;
use baton_tests::{Address, Http, HttpAnswer};
use redis::aio::MultiplexedConnection;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::history::{Book, History};
use crate::slots::Doors;
use crate::workload::{Call, Way};

/// The pause before a caller tries again.
const AGAIN_AFTER: Duration = Duration::from_millis(150);
/// How often results are looked for.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// The most keys in one look.
const KEYS_MAX: usize = 256;
/// The first part of every channel for notices.
const REPLY: &str = "faults";

/// What all callers share.
pub(crate) struct Callers {
    history: Arc<History>,
    redis: Address,
    doors: Arc<Doors>,
    seed: u64,
    /// When a caller gives up sending.
    patience: Instant,
    /// The one connection of those who speak Redis; it is replaced when it breaks. Held only while it is replaced.
    connection: tokio::sync::Mutex<Option<MultiplexedConnection>>,
    /// The keys of results that have not been seen. Filled by callers and emptied by the one who looks.
    open: Mutex<HashSet<String>>,
    /// The keys of those that were.
    seen: Mutex<HashSet<String>>,
}

/// What is known after a call was sent once.
enum Sent {
    /// It was accepted under this id.
    Accepted(String),
    /// It was refused for now, and nothing was accepted.
    Refused(String),
    /// Nobody said whether it was accepted.
    Unsure(String),
}

impl Callers {
    /// Of these doors; they give up at `patience`.
    #[must_use]
    pub(crate) fn new(
        history: Arc<History>,
        redis: Address,
        doors: Arc<Doors>,
        seed: u64,
        patience: Instant,
    ) -> Arc<Self> {
        let (connection, open, seen) = Default::default();
        Arc::new(Self { history, redis, doors, seed, patience, connection, open, seen })
    }

    /// The books.
    #[must_use]
    pub(crate) fn history(&self) -> &History {
        &self.history
    }

    /// How many results were seen.
    ///
    /// # Panics
    /// If a caller has panicked.
    #[must_use]
    pub(crate) fn seen(&self) -> usize {
        self.seen.lock().expect("nobody panics with the keys in hand").len()
    }

    /// How many calls were accepted and have no result yet, as far as anybody has looked.
    ///
    /// # Panics
    /// If a caller has panicked.
    #[must_use]
    pub(crate) fn open(&self) -> usize {
        self.open.lock().expect("nobody panics with the keys in hand").len()
    }

    /// Makes every call when it is due, and ends when all of them are sent.
    pub(crate) async fn make(self: Arc<Self>, calls: Vec<Call>, start: Instant) {
        let mut making = JoinSet::new();
        for call in calls {
            tokio::time::sleep_until((start + call.at).into()).await;
            making.spawn(Arc::clone(&self).one(call));
            while making.try_join_next().is_some() {}
        }
        while making.join_next().await.is_some() {}
    }

    async fn one(self: Arc<Self>, call: Call) {
        self.history.write(Book::Callers, call.json(self.seed));
        let again = call.again.map(|after| {
            let (callers, call) = (Arc::clone(&self), call.clone());
            tokio::spawn(async move {
                tokio::time::sleep(after).await;
                callers.send(&call, 2).await;
            })
        });
        self.send(&call, 1).await;
        if let Some(again) = again {
            _ = again.await;
        }
    }

    /// Sends a call until it is accepted, or may have been, or patience ends.
    async fn send(&self, call: &Call, time: u32) {
        let named = call.name(self.seed).is_some();
        loop {
            let sent = match call.way {
                Way::Redis | Way::RedisNamed => self.add(call).await,
                Way::Http | Way::HttpNamed | Way::HttpSend => self.post(call).await,
            };
            let (word, detail, ends) = match sent {
                Sent::Accepted(id) => {
                    self.accepted(call, &id);
                    ("accepted", id, true)
                }
                Sent::Refused(why) => ("refused", why, false),
                // Whoever has a name for the call may ask again.
                Sent::Unsure(why) => ("unsure", why, !named),
            };
            let line = json!({"ev": word, "n": call.n, "function": call.function, "time": time, "detail": detail});
            self.history.write(Book::Callers, line);
            if ends || Instant::now() > self.patience {
                return;
            }
            tokio::time::sleep(AGAIN_AFTER).await;
        }
    }

    fn accepted(&self, call: &Call, id: &str) {
        let key = format!("{PREFIX}:{{{}}}:result:{id}", call.function);
        if self.seen.lock().expect("nobody panics with the keys in hand").contains(&key) {
            return;
        }
        self.open.lock().expect("nobody panics with the keys in hand").insert(key);
    }

    async fn add(&self, call: &Call) -> Sent {
        let mut connection = match self.connected().await {
            Ok(connection) => connection,
            Err(error) => return Sent::Refused(format!("no connection: {error:#}")),
        };
        let mut add = redis::cmd("XADD");
        let reply = format!("{REPLY}.{}", call.function.replace('/', "."));
        let level = call.level.map(|level| format!(":{level}")).unwrap_or_default();
        add.arg(format!("{PREFIX}:{{{}}}:calls{level}", call.function)).arg("*").arg("payload").arg(&call.payload);
        add.arg("reply").arg(reply);
        let name = call.name(self.seed);
        if let Some(name) = &name {
            add.arg("id").arg(name);
        }
        match add.query_async::<String>(&mut connection).await {
            Ok(entry) => Sent::Accepted(name.unwrap_or_else(|| entry + &level.replace(':', "-"))),
            // Redis itself has said no.
            Err(error) if error.code().is_some() => Sent::Refused(error.to_string()),
            Err(error) => {
                *self.connection.lock().await = None;
                Sent::Unsure(error.to_string())
            }
        }
    }

    async fn connected(&self) -> Result<MultiplexedConnection> {
        let mut slot = self.connection.lock().await;
        if slot.is_none() {
            *slot = Some(self.redis.connect().await?);
        }
        Ok(slot.clone().expect("it was just put there"))
    }

    async fn post(&self, call: &Call) -> Sent {
        let Some(door) = self.doors.any(call.n) else { return Sent::Refused("no host serves HTTP now".into()) };
        let Ok(http) = Http::at(&door) else { return Sent::Refused("no client".into()) };
        let verb = if call.way == Way::HttpSend { "send" } else { "call" };
        let name = call.name(self.seed);
        let mut headers = vec![("content-type", "application/json")];
        headers.extend(name.as_deref().map(|name| ("idempotency-key", name)));
        headers.extend(call.level.map(|level| ("baton-priority", level)));
        let path = format!("/v1/{verb}/{}", call.function);
        match http.post_with(&path, &headers, call.payload.clone()).await {
            Ok(answer) => self.answered(call, verb, &answer),
            Err(error) => Sent::Unsure(format!("{error:#}")),
        }
    }

    /// What an answer says about the call. Those of `call` are results, and are kept word for word.
    fn answered(&self, call: &Call, verb: &str, answer: &HttpAnswer) -> Sent {
        let id = answer.header("baton-call-id");
        let body = String::from_utf8_lossy(&answer.body).into_owned();
        let line = json!({"ev": "answer", "n": call.n, "function": call.function, "verb": verb, "status": answer.status,
                          "id": id, "body": body});
        self.history.write(Book::Callers, line);
        let problem = answer.json().unwrap_or(Value::Null);
        let code = problem["code"].as_str().unwrap_or_default();
        match answer.status {
            200 | 202 | 422 | 502 | 504 if !id.is_empty() => Sent::Accepted(id.to_owned()),
            503 | 500 if code == "redis-unreachable" || code == "ending" || code == "internal" => Sent::Unsure(body),
            _other if !id.is_empty() => Sent::Unsure(body),
            _other => Sent::Refused(format!("{} {body}", answer.status)),
        }
    }

    /// Looks for results, for ever, and writes down each one as it is found.
    pub(crate) async fn look(self: Arc<Self>) {
        let mut connection = None;
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            if connection.is_none() {
                connection = self.redis.connect().await.ok();
            }
            let Some(open) = &mut connection else { continue };
            if self.look_once(open).await.is_err() {
                connection = None;
            }
        }
    }

    async fn look_once(&self, connection: &mut MultiplexedConnection) -> Result<()> {
        let keys: Vec<String> =
            self.open.lock().expect("nobody panics with the keys in hand").iter().cloned().collect();
        for keys in keys.chunks(KEYS_MAX) {
            let found: Vec<Option<Vec<u8>>> = redis::cmd("MGET").arg(keys).query_async(connection).await?;
            for (key, document) in keys.iter().zip(found) {
                let Some(document) = document else { continue };
                let document = String::from_utf8_lossy(&document).into_owned();
                self.history.write(Book::Callers, json!({"ev": "seen", "key": key, "document": document}));
                self.open.lock().expect("nobody panics with the keys in hand").remove(key);
                self.seen.lock().expect("nobody panics with the keys in hand").insert(key.clone());
            }
        }
        Ok(())
    }

    /// Hears notices, for ever, and writes down each message as it comes.
    pub(crate) async fn listen(self: Arc<Self>) {
        loop {
            let pattern = format!("{PREFIX}:reply:{REPLY}.*");
            let Ok(mut heard) = self.redis.subscribe_again(&[&pattern]).await else { continue };
            while let Some((channel, text)) = heard.next().await {
                let text = String::from_utf8_lossy(&text).into_owned();
                self.history.write(Book::Callers, json!({"ev": "notice", "channel": channel, "text": text}));
            }
        }
    }
}
