//! The caller's side: send a call, wait for its result. What a client in any language does, in Rust.

mod many;
mod waiting;

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use baton_model::{CallId, EntryId, FunctionId, OrderKey, Priority, ReplyTo, ResultDocument, RetryWish};
use bytes::Bytes;
use redis::aio::PubSubSink;
use redis::{Cmd, Value, cmd};
use tokio::task::JoinHandle;
use tokio::time::timeout;

pub use self::many::FannedOut;
use self::waiting::{Place, Waiting, hear};
use crate::BrokerError;
use crate::entry::entry_as_call_id;
use crate::keys::Keys;
use crate::link::{BrokerConfig, Link};
use crate::meter::Role;
use crate::script::{Lua, marking};
use crate::seal::{DEPTH, Seal};
use crate::standing::Word;

/// How long a caller trusts its subscription before it looks at the result key.
const POLL: Duration = Duration::from_secs(1);
/// Between two looks for the result of a call that was accepted before: the notice goes to whoever sent it first.
const OFTEN_MIN: Duration = Duration::from_millis(5);
const OFTEN_MAX: Duration = Duration::from_millis(250);
/// For how long it is remembered that a call was accepted which does not end, in ms: a week.
pub(crate) const MARK_LASTS_MS: u64 = 7 * 24 * 3600 * 1000;
/// How long a subscription may take to come about.
const SUBSCRIBE_TIMEOUT: Duration = Duration::from_secs(3);
/// How many topics a caller keeps before it gives up those under which nobody waits.
const TOPICS_MAX: usize = 1_000;

/// What may be said with a call beside its payload.
#[derive(Debug, Clone, Default)]
pub struct SendOptions {
    /// The caller's own id for the call.
    pub id: Option<CallId>,
    /// Media type of the payload; `application/json` if none.
    pub media_type: Option<String>,
    /// Calls of the function with the same key run one after another.
    pub key: Option<OrderKey>,
    /// How urgent the call is beside the other calls of the function.
    pub priority: Priority,
    /// When the answer stops being of use, in Unix milliseconds.
    pub deadline_ms: Option<u64>,
    /// W3C Trace Context.
    pub traceparent: Option<String>,
    /// W3C trace state.
    pub tracestate: Option<String>,
    /// What is asked for if the call fails.
    pub retry: RetryWish,
    /// Headers; their names start with `x-`.
    pub headers: Vec<(String, String)>,
    /// How many calls wait for this one, each for the next; 0 says nothing. Hosts alone can say it.
    pub depth: u32,
    /// How long the call waits before it is begun; none if it does not. It is the first host's to take that has a seat then.
    pub delay: Option<Duration>,
}

/// Sends calls and waits for their results.
pub struct Caller {
    link: Link,
    keys: Keys,
    seal: Arc<Seal>,
    accept: Lua,
    delay: Lua,
    reply: ReplyTo,
    result_ttl: Duration,
    /// Whether several calls can be added in one step; asked once.
    steps: tokio::sync::OnceCell<bool>,
    /// One topic for each function that was called. A lock and no message: it is held for a few map operations.
    topics: Mutex<Topics>,
    waiting: Arc<Waiting>,
    /// The subscription, made on first use and anew when it broke. A lock and no message: it is held while one task
    /// subscribes for all.
    listening: tokio::sync::Mutex<Option<Listening>>,
}

/// A subscription to the channels of the functions that were called, and the task that hears them; it ends with the
/// caller. Each channel is subscribed to by its name and none by a pattern: a tenant's Redis user may listen to no other.
struct Listening {
    sink: PubSubSink,
    /// The channels by the numbers of their topics.
    channels: HashMap<u64, String>,
    task: JoinHandle<()>,
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What one function's results come under. Entry ids are each stream's own, so that two functions can have calls of the
/// same id, and a notice does not name its function: the channel has to.
#[derive(Debug, Clone)]
struct Topic {
    number: u64,
    reply: ReplyTo,
    /// Held by those who wait under it.
    held: Arc<()>,
}

#[derive(Default)]
struct Topics {
    by_function: HashMap<FunctionId, Topic>,
    /// No number is given out twice: a result that comes late is not to be another function's.
    made: u64,
}

/// A call that Redis has, and the place in which its result is waited for. Whoever drops it waits no more.
pub struct Accepted {
    function: FunctionId,
    place: Place,
    /// How soon it is looked whether there is a result, if nobody tells.
    look_after: Duration,
    _topic: Topic,
}

impl Accepted {
    /// The call.
    #[must_use]
    pub fn id(&self) -> &CallId {
        &self.place.key.1
    }
}

impl Caller {
    /// A caller that listens under suffixes `<tenant>.<reply>.<n>`, so that each tenant's notices go to channels of its
    /// own; `reply` is at most 40 bytes long. It connects on first use.
    ///
    /// # Errors
    /// [`BrokerError::BadUrl`].
    pub fn new(config: &BrokerConfig, reply: ReplyTo) -> Result<Self, BrokerError> {
        Ok(Self {
            link: Link::new(config.client()?).counted(config, Role::Caller),
            keys: config.keys(),
            seal: config.seal.clone(),
            accept: marking!("scripts/accept.lua"),
            delay: marking!("scripts/delay.lua"),
            reply,
            result_ttl: config.result_ttl,
            steps: tokio::sync::OnceCell::new(),
            topics: Mutex::default(),
            waiting: Arc::default(),
            listening: tokio::sync::Mutex::default(),
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
        self.add(function, payload, options, None).await.map(|(id, _)| id)
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
        let mut accepted = self.accept(function, payload, options).await?;
        let result = self.outcome(&mut accepted, patience).await?;
        Ok((accepted.id().clone(), result))
    }

    /// Sends a call whose result somebody waits for: [`Caller::outcome`] gives it. The payload is Redis's from here on.
    ///
    /// # Errors
    /// Any [`BrokerError`]; whether the call was accepted is then unknown unless it has an id of its own.
    pub async fn accept(
        &self,
        function: &FunctionId,
        payload: &[u8],
        options: &SendOptions,
    ) -> Result<Accepted, BrokerError> {
        let topic = self.topic(function)?;
        if let Err(error) = self.subscribed(&topic).await {
            // The result can be read without a notice; it only takes longer.
            tracing::debug!(%error, "cannot subscribe, reading the result key instead");
        }
        let (id, is_new) = self.add(function, payload, options, Some(&topic.reply)).await?;
        let place = Waiting::register(&self.waiting, (topic.number, id));
        let look_after = if is_new { POLL } else { OFTEN_MIN };
        Ok(Accepted { function: function.clone(), place, look_after, _topic: topic })
    }

    /// Waits for the result of an accepted call, for as long as `patience`. None if there is none by then; the wait may
    /// be taken up again.
    ///
    /// # Errors
    /// Any [`BrokerError`]; the call stays accepted, and the wait may be taken up again.
    pub async fn outcome(
        &self,
        accepted: &mut Accepted,
        patience: Duration,
    ) -> Result<Option<ResultDocument>, BrokerError> {
        let Accepted { function, place, look_after, .. } = accepted;
        let end = tokio::time::Instant::now() + patience;
        loop {
            let look_at = end.min(tokio::time::Instant::now() + *look_after);
            match &mut place.notice {
                Some(notice) => match tokio::time::timeout_at(look_at, notice).await {
                    Ok(Ok(result)) => return Ok(Some(result)),
                    Ok(Err(_)) => place.notice = None,
                    Err(_) => {}
                },
                None => tokio::time::sleep_until(look_at).await,
            }
            *look_after = (*look_after * 2).clamp(OFTEN_MIN, OFTEN_MAX.max(*look_after));
            let found = self.result(function, &place.key.1).await?;
            if found.is_some() || look_at == end {
                return Ok(found);
            }
        }
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
        let topic = self.topic(function)?;
        let place = Waiting::register(&self.waiting, (topic.number, id.clone()));
        // Nobody tells of it here: the notice goes to whoever sent the call.
        let mut accepted = Accepted { function: function.clone(), place, look_after: OFTEN_MIN, _topic: topic };
        self.outcome(&mut accepted, patience).await
    }

    /// The result of a call that has ended. None if it has not, or if its result has expired.
    ///
    /// # Errors
    /// Any [`BrokerError`]; [`BrokerError::Refused`] if what stands there is no result document.
    pub async fn result(&self, function: &FunctionId, id: &CallId) -> Result<Option<ResultDocument>, BrokerError> {
        result_of(id, self.link.run(cmd("GET").arg(self.keys.result(function, id))).await?)
    }

    fn topic(&self, function: &FunctionId) -> Result<Topic, BrokerError> {
        let mut topics = self.topics.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(topic) = topics.by_function.get(function) {
            return Ok(topic.clone());
        }
        let number = topics.made;
        let reply = ReplyTo::parse(&format!("{}.{}.{number}", function.tenant(), self.reply))
            .ok_or_else(|| BrokerError::Refused(format!("the reply suffix {} is longer than 40 bytes", self.reply)))?;
        if topics.by_function.len() >= TOPICS_MAX {
            topics.by_function.retain(|_, topic| Arc::strong_count(&topic.held) > 1);
        }
        topics.made += 1;
        let topic = Topic { number, reply, held: Arc::default() };
        topics.by_function.insert(function.clone(), topic.clone());
        Ok(topic)
    }

    /// The channels among these whose topics were given up.
    fn given_up(&self, channels: &HashMap<u64, String>) -> Vec<(u64, String)> {
        let topics = self.topics.lock().unwrap_or_else(PoisonError::into_inner);
        let kept: HashSet<u64> = topics.by_function.values().map(|topic| topic.number).collect();
        let gone = channels.iter().filter(|(number, _)| !kept.contains(number));
        gone.map(|(number, channel)| (*number, channel.clone())).collect()
    }

    /// The call's id, and whether the call is new. One without an id of its caller's choice always is.
    async fn add(
        &self,
        function: &FunctionId,
        payload: &[u8],
        options: &SendOptions,
        reply: Option<&ReplyTo>,
    ) -> Result<(CallId, bool), BrokerError> {
        // A tenant's own user may add calls and run no script. A host then puts the call aside that is to wait, and sees to it
        // that an id has one result.
        if let Some(delay) = options.delay {
            match self.add_for_later(function, payload, options, reply, delay).await {
                Err(error) if error.is_forbidden() => {}
                other => return other,
            }
        } else if let Some(id) = &options.id {
            let mut call = self.accept.call(3);
            call.arg(self.keys.calls_at(function, options.priority)).arg(self.keys.result(function, id));
            call.arg(self.keys.mark(function, id));
            call.arg(MARK_LASTS_MS);
            self.fields(&mut call, function, payload, options, Some(id), reply)?;
            match self.accept.run(&self.link, &call).await {
                Ok(Value::Int(said)) => return Ok((id.clone(), said == 1)),
                Ok(other) => return Err(BrokerError::shape("accept.lua", &other)),
                Err(error) if error.is_forbidden() => {}
                Err(error) => return Err(error),
            }
        }
        let answer = self.link.run(&self.entry(function, payload, options, reply)?).await?;
        Ok((id_of(options, &answer)?, true))
    }

    /// What adds a call as it is. One that is to wait says so, and is put aside by the host that reads it.
    fn entry(
        &self,
        function: &FunctionId,
        payload: &[u8],
        options: &SendOptions,
        reply: Option<&ReplyTo>,
    ) -> Result<Cmd, BrokerError> {
        let mut add = cmd("XADD");
        add.arg(self.keys.calls_at(function, options.priority)).arg("*");
        self.fields(&mut add, function, payload, options, options.id.as_ref(), reply)?;
        if let Some(delay) = options.delay {
            add.arg("delay").arg(u64::try_from(delay.as_millis()).unwrap_or(u64::MAX));
        }
        Ok(add)
    }

    /// Adds a call that waits. It has no entry yet that could give it an id, so it gets one that nobody can guess.
    async fn add_for_later(
        &self,
        function: &FunctionId,
        payload: &[u8],
        options: &SendOptions,
        reply: Option<&ReplyTo>,
        delay: Duration,
    ) -> Result<(CallId, bool), BrokerError> {
        let id = options.id.clone().unwrap_or_else(Self::new_id);
        let wait_ms = u64::try_from(delay.as_millis()).unwrap_or(u64::MAX);
        let mut add = self.delay.call(4);
        add.arg(self.keys.calls(function)).arg(self.keys.delayed(function)).arg(self.keys.result(function, &id));
        add.arg(self.keys.mark(function, &id));
        add.arg(self.keys.group())
            .arg(wait_ms)
            .arg(self.keys.hosts_channel())
            .arg(Word::Due(function.clone(), wait_ms).encode());
        add.arg(wait_ms.saturating_add(MARK_LASTS_MS));
        self.fields(&mut add, function, payload, options, Some(&id), reply)?;
        match self.delay.run(&self.link, &add).await? {
            Value::Int(due) => Ok((id, due > 0)),
            other => Err(BrokerError::shape("delay.lua", &other)),
        }
    }

    /// The fields of a call's entry, in pairs.
    fn fields(
        &self,
        add: &mut Cmd,
        function: &FunctionId,
        payload: &[u8],
        options: &SendOptions,
        id: Option<&CallId>,
        reply: Option<&ReplyTo>,
    ) -> Result<(), BrokerError> {
        add.arg("payload").arg(payload);
        if let Some(id) = id {
            add.arg("id").arg(id.as_str());
        }
        if let Some(media_type) = &options.media_type {
            add.arg("type").arg(media_type);
        }
        if let Some(key) = &options.key {
            add.arg("key").arg(key.as_str());
        }
        if !options.priority.is_normal() {
            add.arg("priority").arg(options.priority.as_str());
        }
        if let Some(deadline) = options.deadline_ms {
            add.arg("deadline").arg(deadline);
        }
        if let Some(reply) = reply {
            add.arg("reply").arg(reply.as_str());
        }
        let RetryWish { attempts_max, backoff_base, backoff_max, on } = &options.retry;
        if let Some(attempts) = attempts_max {
            add.arg("attempts_max").arg(attempts);
        }
        for (name, time) in [("backoff_base_ms", backoff_base), ("backoff_max_ms", backoff_max)] {
            if let Some(time) = time {
                add.arg(name).arg(u64::try_from(time.as_millis()).unwrap_or(u64::MAX));
            }
        }
        if let Some(on) = on {
            add.arg("retry_on").arg(on.to_string());
        }
        for (name, value) in [("traceparent", &options.traceparent), ("tracestate", &options.tracestate)] {
            if let Some(value) = value {
                add.arg(name).arg(value);
            }
        }
        for (name, value) in &options.headers {
            add.arg(name).arg(value);
        }
        if options.depth > 0 {
            let unknown = || BrokerError::Unable("the seal of the hosts is not known yet".to_owned());
            add.arg(DEPTH).arg(self.seal.close(function, options.depth).ok_or_else(unknown)?);
        }
        Ok(())
    }

    async fn subscribed(&self, topic: &Topic) -> Result<(), BrokerError> {
        let mut slot = self.listening.lock().await;
        if slot.as_ref().is_none_or(|listening| listening.task.is_finished()) {
            *slot = Some(self.listen().await?);
        }
        let Some(listening) = slot.as_mut().filter(|listening| !listening.channels.contains_key(&topic.number)) else {
            return Ok(());
        };
        let channel = self.keys.reply_channel(&topic.reply);
        let subscribed = in_time(listening.sink.subscribe(&channel)).await;
        if subscribed.is_ok() {
            listening.channels.insert(topic.number, channel);
        }
        let mut done = subscribed;
        if done.is_ok() && listening.channels.len() > TOPICS_MAX {
            let (numbers, channels): (Vec<u64>, Vec<String>) = self.given_up(&listening.channels).into_iter().unzip();
            if !channels.is_empty() {
                done = in_time(listening.sink.unsubscribe(channels)).await;
                numbers.iter().for_each(|number| _ = listening.channels.remove(number));
            }
        }
        // What Redis does not want is no reason not to hear what else comes.
        if done.as_ref().is_err_and(BrokerError::is_connection) {
            *slot = None;
        }
        done
    }

    async fn listen(&self) -> Result<Listening, BrokerError> {
        let silent = |_| BrokerError::Unreachable("a subscription could not be made in time".to_owned());
        let connect = timeout(SUBSCRIBE_TIMEOUT, self.link.client().get_async_pubsub()).await;
        let (sink, messages) = connect.map_err(silent)??.split();
        let task = tokio::spawn(hear(messages, self.waiting.clone()));
        Ok(Listening { sink, channels: HashMap::new(), task })
    }
}

/// The id of a call that was added, by the answer to its `XADD`.
fn id_of(options: &SendOptions, answer: &Value) -> Result<CallId, BrokerError> {
    let Value::BulkString(entry) = answer else { return Err(BrokerError::shape("XADD", answer)) };
    let entry = std::str::from_utf8(entry).ok().and_then(EntryId::parse);
    let entry = entry.ok_or_else(|| BrokerError::shape("XADD", answer))?;
    let named = || entry_as_call_id(entry.of_level(options.priority));
    Ok(options.id.clone().unwrap_or_else(named))
}

/// What stands under the key of a result.
fn result_of(id: &CallId, answer: Value) -> Result<Option<ResultDocument>, BrokerError> {
    match answer {
        Value::Nil => Ok(None),
        Value::BulkString(bytes) => {
            let read = ResultDocument::decode(&mut Bytes::from(bytes));
            read.map(Some).map_err(|e| BrokerError::Refused(format!("the result of {id} cannot be read: {e}")))
        }
        other => Err(BrokerError::shape("GET", &other)),
    }
}

/// A change of a subscription, which Redis confirms.
async fn in_time(change: impl Future<Output = redis::RedisResult<()>>) -> Result<(), BrokerError> {
    let silent = |_| BrokerError::Unreachable("a subscription was not confirmed in time".to_owned());
    timeout(SUBSCRIBE_TIMEOUT, change).await.map_err(silent)?.map_err(BrokerError::from)
}

#[cfg(test)]
mod tests {

    use super::*;

    fn caller() -> Caller {
        Caller::new(&crate::BrokerConfig::new("redis://127.0.0.1:1"), ReplyTo::parse("me").unwrap()).unwrap()
    }

    fn function(number: usize) -> FunctionId {
        format!("acme/f{number}").parse().unwrap()
    }

    #[test]
    fn topics_are_given_up_when_there_are_many_but_for_those_under_which_somebody_waits() {
        let caller = caller();
        let held = caller.topic(&function(0)).unwrap();
        for number in 1..3 * TOPICS_MAX {
            drop(caller.topic(&function(number)).unwrap());
        }
        let kept = caller.topics.lock().unwrap().by_function.len();
        assert!(kept <= TOPICS_MAX, "{kept} are kept");
        assert_eq!(caller.topic(&function(0)).unwrap().number, held.number);
        assert_ne!(caller.topic(&function(1)).unwrap().number, 1, "no number comes twice");
        let channels = HashMap::from([(held.number, "one".to_owned()), (1, "two".to_owned())]);
        assert_eq!(caller.given_up(&channels), [(1, "two".to_owned())]);
    }

    #[test]
    fn the_longest_name_of_a_tenant_leaves_room_for_a_reply() {
        let caller =
            Caller::new(&crate::BrokerConfig::new("redis://127.0.0.1:1"), ReplyTo::parse(&"r".repeat(40)).unwrap());
        let function = format!("{}/f", "a".repeat(63)).parse().unwrap();
        assert!(caller.unwrap().topic(&function).is_ok());
    }
}
