//! The caller's side: send a call, wait for its result. What a client in any language does, in Rust.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use baton_model::{CallId, FunctionId, ReplyTo, ResultDocument};
use bytes::Bytes;
use futures_util::StreamExt as _;
use redis::{Client, Value, cmd};
use tokio::sync::{OnceCell, oneshot};
use tokio::task::AbortHandle;

use crate::BrokerError;
use crate::keys::Keys;
use crate::link::{BrokerConfig, Link};

/// How long a caller trusts its subscription before it looks at the result key.
const POLL: Duration = Duration::from_secs(1);
/// The most results that are kept for calls whose ids this caller has not learnt yet.
const EARLY_MAX: usize = 10_000;

/// What may be said with a call beside its payload.
#[derive(Debug, Clone, Default)]
pub struct SendOptions {
    /// The caller's own id for the call.
    pub id: Option<CallId>,
    /// Media type of the payload; `application/json` if none.
    pub media_type: Option<String>,
    /// When the answer stops being of use, in Unix milliseconds.
    pub deadline_ms: Option<u64>,
    /// Headers; their names start with `x-`.
    pub headers: Vec<(String, String)>,
}

/// Sends calls and waits for their results.
pub struct Caller {
    link: Link,
    keys: Keys,
    reply: ReplyTo,
    waiting: Arc<Waiting>,
    listening: OnceCell<Listening>,
}

/// The task that listens; it ends with the caller.
struct Listening(AbortHandle);

impl Drop for Listening {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Who waits for what. A lock and no message: it is held for one map operation, by the listener and by callers.
#[derive(Default)]
struct Waiting(Mutex<Results>);

#[derive(Default)]
struct Results {
    awaited: HashMap<CallId, oneshot::Sender<ResultDocument>>,
    /// Results that came before the answer to the `XADD` that names their call.
    early: HashMap<CallId, ResultDocument>,
}

impl Caller {
    /// A caller that listens under the suffix `reply`. It connects on first use.
    ///
    /// # Errors
    /// [`BrokerError::BadUrl`].
    pub fn new(config: &BrokerConfig, reply: ReplyTo) -> Result<Self, BrokerError> {
        Ok(Self {
            link: Link::new(config.client()?),
            keys: config.keys(),
            reply,
            waiting: Arc::default(),
            listening: OnceCell::new(),
        })
    }

    /// Sends a call and returns its id. Nobody is told of its end; [`Caller::result`] reads it.
    ///
    /// # Errors
    /// Any [`BrokerError`]; whether the call was accepted is then unknown unless it has an id of its own.
    pub async fn send(
        &self,
        function: &FunctionId,
        payload: &[u8],
        options: &SendOptions,
    ) -> Result<CallId, BrokerError> {
        self.add(function, payload, options, None).await
    }

    /// Sends a call and waits for its result, for as long as `patience`. None if there is none by then: the call is
    /// accepted all the same, and its id is returned beside.
    ///
    /// # Errors
    /// Any [`BrokerError`].
    pub async fn call(
        &self,
        function: &FunctionId,
        payload: &[u8],
        options: &SendOptions,
        patience: Duration,
    ) -> Result<(CallId, Option<ResultDocument>), BrokerError> {
        let listening = self.listening.get_or_try_init(|| self.listen()).await;
        if let Err(error) = listening {
            // The result can be read without a notice; it only takes longer.
            tracing::debug!(%error, "cannot subscribe, reading the result key instead");
        }
        let id = self.add(function, payload, options, Some(&self.reply)).await?;
        let result = self.wait(function, &id, patience).await?;
        Ok((id, result))
    }

    /// Waits for the result of a call, for as long as `patience`. None if there is none by then.
    ///
    /// # Errors
    /// Any [`BrokerError`].
    pub async fn wait(
        &self,
        function: &FunctionId,
        id: &CallId,
        patience: Duration,
    ) -> Result<Option<ResultDocument>, BrokerError> {
        let mut notice = match self.waiting.register(id) {
            Ok(result) => return Ok(Some(result)),
            Err(notice) => notice,
        };
        let end = tokio::time::Instant::now() + patience;
        loop {
            let now = tokio::time::Instant::now();
            let look_at = end.min(now + POLL);
            match tokio::time::timeout_at(look_at, &mut notice).await {
                Ok(Ok(result)) => return Ok(Some(result)),
                Ok(Err(_)) => tokio::time::sleep_until(look_at).await,
                Err(_) => {}
            }
            let found = self.result(function, id).await?;
            if found.is_some() || look_at == end {
                self.waiting.forget(id);
                return Ok(found);
            }
        }
    }

    /// The result of a call that has ended. None if it has not, or if its result has expired.
    ///
    /// # Errors
    /// Any [`BrokerError`]; [`BrokerError::Refused`] if what stands there is no result document.
    pub async fn result(&self, function: &FunctionId, id: &CallId) -> Result<Option<ResultDocument>, BrokerError> {
        match self.link.run(cmd("GET").arg(self.keys.result(function, id))).await? {
            Value::Nil => Ok(None),
            Value::BulkString(bytes) => {
                let read = ResultDocument::decode(&mut Bytes::from(bytes));
                read.map(Some).map_err(|e| BrokerError::Refused(format!("the result of {id} cannot be read: {e}")))
            }
            other => Err(BrokerError::shape("GET", &other)),
        }
    }

    async fn add(
        &self,
        function: &FunctionId,
        payload: &[u8],
        options: &SendOptions,
        reply: Option<&ReplyTo>,
    ) -> Result<CallId, BrokerError> {
        let mut add = cmd("XADD");
        add.arg(self.keys.calls(function)).arg("*").arg("payload").arg(payload);
        if let Some(id) = &options.id {
            add.arg("id").arg(id.as_str());
        }
        if let Some(media_type) = &options.media_type {
            add.arg("type").arg(media_type);
        }
        if let Some(deadline) = options.deadline_ms {
            add.arg("deadline").arg(deadline);
        }
        if let Some(reply) = reply {
            add.arg("reply").arg(reply.as_str());
        }
        for (name, value) in &options.headers {
            add.arg(name).arg(value);
        }
        let answer = self.link.run(&add).await?;
        let Value::BulkString(entry) = &answer else { return Err(BrokerError::shape("XADD", &answer)) };
        let entry = std::str::from_utf8(entry).ok().and_then(CallId::parse);
        let entry = entry.ok_or_else(|| BrokerError::shape("XADD", &answer))?;
        Ok(options.id.clone().unwrap_or(entry))
    }

    async fn listen(&self) -> Result<Listening, BrokerError> {
        let client: &Client = self.link.client();
        let mut subscription = client.get_async_pubsub().await?;
        subscription.subscribe(self.keys.reply_channel(&self.reply)).await?;
        let waiting = self.waiting.clone();
        let task = tokio::spawn(async move {
            let mut messages = subscription.into_on_message();
            while let Some(message) = messages.next().await {
                let mut documents = Bytes::copy_from_slice(message.get_payload_bytes());
                while !documents.is_empty() {
                    match ResultDocument::decode(&mut documents) {
                        Ok(result) => waiting.deliver(result),
                        Err(error) => {
                            tracing::warn!(%error, "a notice cannot be read; its results are read from their keys");
                            break;
                        }
                    }
                }
            }
            // Without the subscription every wait goes on by reading result keys.
            waiting.all_silent();
        });
        Ok(Listening(task.abort_handle()))
    }
}

impl Waiting {
    fn lock(&self) -> std::sync::MutexGuard<'_, Results> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The result, if it came early; otherwise what it will come through.
    fn register(&self, id: &CallId) -> Result<ResultDocument, oneshot::Receiver<ResultDocument>> {
        let mut results = self.lock();
        if let Some(result) = results.early.remove(id) {
            return Ok(result);
        }
        let (sender, receiver) = oneshot::channel();
        results.awaited.insert(id.clone(), sender);
        Err(receiver)
    }

    fn deliver(&self, result: ResultDocument) {
        let mut results = self.lock();
        match results.awaited.remove(&result.id) {
            Some(sender) => drop(sender.send(result)),
            None => {
                if results.early.len() >= EARLY_MAX {
                    results.early.clear();
                }
                results.early.insert(result.id.clone(), result);
            }
        }
    }

    fn forget(&self, id: &CallId) {
        self.lock().awaited.remove(id);
    }

    fn all_silent(&self) {
        self.lock().awaited.clear();
    }
}
