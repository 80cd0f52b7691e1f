//! Ending calls: whatever waits to be settled goes to Redis in one batch for each function, with no timer.
//!
//! A settlement is tried until Redis answers: it is the last copy of an answer. What it may do is decided by the
//! scripts, which refuse a host that no longer holds the lease. Answers that are surely still this host's to give take
//! a shorter way, one transaction without a script; docs/decisions/0007 says what makes them sure.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use baton_model::execution::StepRef;
#[cfg(feature = "mutants")]
use baton_model::mutants::{Rule, is_left_out};
use baton_model::{Call, CallId, Digest, FunctionId, HostId, Lease, OrderKey, Priority, ReplyTo};
use futures_util::future::join_all;
use redis::Value;
use tokio::sync::mpsc;

use crate::execution::{self, Advance, Advances};
use crate::keys::{Keys, settler_name};
use crate::link::{BrokerConfig, Link};
use crate::meter::Role;
use crate::reader::ReadTime;
use crate::script::Lua;
use crate::seal::Seal;
use crate::turns;
use crate::{BrokerError, Malformed};

/// The most calls that one script run settles.
const BATCH_MAX: usize = 128;
/// The most bytes of results that one script run takes, unless one alone has more: it holds Redis, and the notice of
/// a batch must stay far below what Redis lets a subscriber be behind (32 MiB by default).
const BATCH_BYTES_MAX: usize = 1 << 20;
/// How many script runs are on their way at once: a slow link must carry them within one command's time.
const BATCHES_AT_ONCE: usize = 4;
/// How many settlements may wait for Redis; whoever has more waits with them.
const WAITING_MAX: usize = 4096;
/// For how long after its delivery an answer may take the short way. Whatever cuts in by hand takes longer.
const SURE_FOR: Duration = Duration::from_millis(250);
const PAUSE_MIN: Duration = Duration::from_millis(20);
const PAUSE_MAX: Duration = Duration::from_secs(2);

/// More than the fields of a call can have beside its payload: 64 headers and a few others, of 4 KiB each.
const FIELDS_BYTES_MAX: usize = 512 << 10;
/// What is to become of a call.
#[derive(Debug)]
pub enum Settlement {
    /// It ends with this result document.
    Finish {
        /// The call.
        id: CallId,
        /// The execution, if it is an event for one.
        execution: Option<CallId>,
        /// Its result, encoded.
        document: Vec<u8>,
        /// Whom to tell.
        reply: Option<ReplyTo>,
    },
    /// It gets another attempt.
    Requeue {
        /// The call.
        id: CallId,
        /// The number of its next attempt.
        attempt: u32,
        /// When it was first accepted, in Unix milliseconds.
        accepted_ms: u64,
        /// How long it waits; none puts it back into the stream at once.
        after: Option<Duration>,
        /// What is known of its attempts, as JSON; none leaves what stood there.
        history: Option<String>,
    },
    /// It is not to be begun yet, and waits in Redis.
    Delay {
        /// The call.
        id: CallId,
        /// The number of its next attempt.
        attempt: u32,
        /// When it was accepted, in Unix milliseconds.
        accepted_ms: u64,
        /// How long it waits, from then on.
        delay: Duration,
    },
    /// It is given up, ends with this result document, and is kept for people.
    Bury {
        /// The call.
        id: CallId,
        /// The execution, if it is an event for one.
        execution: Option<CallId>,
        /// Its result, encoded.
        document: Vec<u8>,
        /// Whom to tell.
        reply: Option<ReplyTo>,
        /// The reason, one word.
        reason: String,
        /// What went wrong, for people.
        error: String,
        /// How many attempts it had.
        attempts: u32,
        /// The component of the last attempt, if one was made.
        digest: Option<Digest>,
        /// When it was first accepted, in Unix milliseconds.
        accepted_ms: u64,
        /// What else the letter says: fields with their values.
        notes: Vec<(&'static str, String)>,
    },
    /// It was the wake of an execution, and this is what came of it.
    Advance(Box<Advance>),
}

impl Settlement {
    /// The end of a call.
    #[must_use]
    pub fn finish(call: &Call, document: Vec<u8>) -> Self {
        let execution = call.event.as_ref().map(|event| event.execution.clone());
        Self::Finish { id: call.id.clone(), execution, document, reply: call.reply.clone() }
    }

    /// What becomes of an entry that is no call.
    #[must_use]
    pub fn of_malformed(malformed: Malformed, document: Vec<u8>) -> Self {
        Self::Bury {
            accepted_ms: malformed.entry.ms(),
            notes: Vec::new(),
            id: malformed.id,
            execution: malformed.execution,
            document,
            reply: malformed.reply,
            reason: malformed.reason.as_str().to_owned(),
            error: malformed.detail,
            attempts: 0,
            digest: None,
        }
    }
}

/// How Redis answered a settlement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It is done.
    Done,
    /// The call had a result already, which stands; the entry is acknowledged.
    Duplicate,
    /// This host does not hold the lease any more; nothing was changed.
    Fenced,
    /// Redis refused in a way that trying again at once does not mend. The entry is still pending for this host.
    Refused,
}

/// What the end of a call sets going.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Next {
    /// Nothing.
    #[default]
    Nothing,
    /// The next call with this key has its turn.
    Turn(OrderKey),
    /// The execution whose step it is learns of it.
    Step(Box<StepRef>),
}

impl Next {
    /// What the end of this call sets going.
    #[must_use]
    pub fn of(call: &Call) -> Self {
        match (&call.step, &call.key) {
            (Some(step), _) => Self::Step(step.clone()),
            (None, Some(key)) => Self::Turn(key.clone()),
            (None, None) => Self::Nothing,
        }
    }
}

/// A script that ends calls: as it is, and with what else is to happen in the same step.
struct Ending {
    plain: Lua,
    in_turn: Lua,
    for_step: Lua,
}

impl Ending {
    fn new(code: &'static str) -> Self {
        Self { plain: Lua::new(code), in_turn: turns::and_next(code), for_step: execution::and_tell(code) }
    }

    fn before(&self, next: &Next) -> &Lua {
        match next {
            Next::Nothing => &self.plain,
            Next::Turn(_) => &self.in_turn,
            Next::Step(_) => &self.for_step,
        }
    }
}

/// A settlement on its way, with what its sender wants back.
#[derive(Debug)]
pub struct Settled<T> {
    /// The function.
    pub function: FunctionId,
    /// The right to settle.
    pub lease: Lease,
    /// When the entry was read, if nobody can have claimed it since but through this host's settling connection being
    /// cut first; none if that is in doubt.
    pub read: Option<ReadTime>,
    /// What its end sets going in the same step; nothing for most.
    pub next: Next,
    /// What is to become of the call.
    pub settlement: Settlement,
    /// What is handed back with the verdict.
    pub ticket: T,
}

/// The part that settles.
pub struct Settler<T> {
    link: Link,
    keys: Keys,
    host: HostId,
    sure_for: Duration,
    result_ttl: Duration,
    /// How many bytes of a call a dead letter keeps: all of any call that could be run.
    dead_bytes_max: usize,
    inbox: mpsc::Receiver<Settled<T>>,
    finish: Ending,
    requeue: Lua,
    bury: Ending,
    advances: Advances,
    seal: Arc<Seal>,
}

impl<T: Send> Settler<T> {
    /// A settler for `host`, and the way to it. It ends when every sender is dropped and everything is settled.
    ///
    /// # Errors
    /// [`BrokerError::BadUrl`].
    pub fn new(config: &BrokerConfig, host: HostId) -> Result<(Self, mpsc::Sender<Settled<T>>), BrokerError> {
        let (sender, inbox) = mpsc::channel(WAITING_MAX);
        let keys = config.keys();
        let settler = Self {
            link: Link::named(config.client()?, settler_name(host.as_str())).counted(config, Role::Settler),
            keys,
            sure_for: SURE_FOR.min(config.lease / 8),
            host,
            result_ttl: config.result_ttl,
            dead_bytes_max: config.payload_bytes_max.saturating_add(FIELDS_BYTES_MAX),
            inbox,
            finish: Ending::new(include_str!("scripts/settle.lua")),
            requeue: Lua::new(include_str!("scripts/requeue.lua")),
            bury: Ending::new(include_str!("scripts/bury.lua")),
            advances: Advances::new(config.result_ttl, config.log_ttl),
            seal: config.seal.clone(),
        };
        Ok((settler, sender))
    }

    /// Settles until every sender is gone. `done` gets each ticket back with its verdict.
    pub async fn run(mut self, done: impl Fn(T, Verdict) + Sync) {
        let mut taken = Vec::with_capacity(4 * BATCH_MAX);
        // What is waiting when the last batch is through is the next batch: group commit without a timer.
        while self.inbox.recv_many(&mut taken, 4 * BATCH_MAX).await > 0 {
            let mut rest = into_batches(&mut taken);
            let mut pause = PAUSE_MIN;
            while !rest.is_empty() {
                let later = rest.split_off(rest.len().min(BATCHES_AT_ONCE));
                let unsettled = self.settle_all(rest, &done).await;
                let is_stuck = !unsettled.is_empty();
                // Those that did not go through stand behind the others, so that none keeps the others waiting.
                rest = later;
                rest.extend(unsettled);
                if is_stuck {
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(PAUSE_MAX);
                }
            }
        }
    }

    /// Settles these batches at once and returns those that Redis could not be asked about.
    async fn settle_all(&self, batches: Vec<Batch<T>>, done: &(impl Fn(T, Verdict) + Sync)) -> Vec<Batch<T>> {
        let answers = join_all(batches.iter().map(|batch| self.settle(batch))).await;
        let mut rest = Vec::new();
        for (batch, answer) in batches.into_iter().zip(answers) {
            let verdicts = match answer {
                Ok(verdicts) => verdicts,
                Err(error @ (BrokerError::Refused(_) | BrokerError::BadUrl { .. } | BrokerError::NoGroup(_))) => {
                    let function = &batch.items[0].function;
                    tracing::error!(%function, calls = batch.items.len(), %error, "results could not be settled");
                    vec![Verdict::Refused; batch.items.len()]
                }
                Err(error @ (BrokerError::Unreachable(_) | BrokerError::Unable(_) | BrokerError::NoScript)) => {
                    tracing::debug!(%error, calls = batch.items.len(), "settling waits for Redis");
                    rest.push(batch);
                    continue;
                }
            };
            batch.items.into_iter().zip(verdicts).for_each(|(item, verdict)| done(item.ticket, verdict));
        }
        rest
    }

    async fn settle(&self, batch: &Batch<T>) -> Result<Vec<Verdict>, BrokerError> {
        let first = &batch.items[0];
        match &first.settlement {
            #[cfg(feature = "mutants")]
            Settlement::Finish { .. } if is_left_out(Rule::ResultBeforeAck) => {
                self.acknowledge_first(&batch.items).await
            }
            Settlement::Finish { .. } if first.next != Next::Nothing => self.finish(&batch.items).await,
            Settlement::Finish { .. } => match self.finish_sure(&batch.items).await {
                Some(verdicts) => Ok(verdicts),
                None => self.finish(&batch.items).await,
            },
            Settlement::Requeue { id, attempt, accepted_ms, after, history } => {
                let wait = after.map_or(-1, |after| i64::try_from(after.as_millis()).unwrap_or(i64::MAX));
                Ok(vec![self.put_back(first, id, (*attempt, *accepted_ms), (wait, "now", history.as_deref())).await?])
            }
            Settlement::Delay { id, attempt, accepted_ms, delay } => {
                let wait = i64::try_from(delay.as_millis()).unwrap_or(i64::MAX);
                Ok(vec![self.put_back(first, id, (*attempt, *accepted_ms), (wait, "accepted", None)).await?])
            }
            Settlement::Bury {
                id,
                execution,
                document,
                reply,
                reason,
                error,
                attempts,
                digest,
                accepted_ms,
                notes,
            } => {
                let script = self.bury.before(&first.next);
                let mut call = script.call(self.keys_of(first, 4));
                self.stream_keys(&mut call, first);
                call.arg(self.keys.dead(&first.function)).arg(self.result(&first.function, id, execution.as_ref()));
                self.next_keys(&mut call, first, id);
                self.lease_args(&mut call, first.lease);
                call.arg(self.ttl_ms()).arg(self.channel(reply.as_ref())).arg(document);
                call.arg(id.as_str()).arg(self.dead_bytes_max).arg("reason").arg(reason).arg("error").arg(error);
                call.arg("attempts").arg(attempts).arg("digest").arg(digest.map(|d| d.to_string()).unwrap_or_default());
                call.arg("accepted_ms").arg(accepted_ms);
                for (name, note) in notes {
                    call.arg(name).arg(note);
                }
                next_args(&mut call, first, id);
                Ok(vec![verdict(&script.run(&self.link, &call).await?)?])
            }
            Settlement::Advance(advance) => {
                let with = (&self.link, &self.keys, &*self.seal);
                Ok(vec![self.advances.write(with, &self.host, &first.function, first.lease, advance).await?])
            }
        }
    }

    /// Puts one call back; `wait` is how many milliseconds from when. Without a `history` what stood there stays.
    async fn put_back(
        &self,
        item: &Settled<T>,
        id: &CallId,
        (attempt, accepted_ms): (u32, u64),
        (wait, since, history): (i64, &str, Option<&str>),
    ) -> Result<Verdict, BrokerError> {
        let mut call = self.requeue.call(3);
        self.stream_keys(&mut call, item);
        call.arg(self.keys.delayed(&item.function));
        self.lease_args(&mut call, item.lease);
        call.arg(id.as_str()).arg(attempt).arg(accepted_ms).arg(wait).arg(since);
        call.arg(self.keys.hosts_channel()).arg(item.function.to_string());
        call.arg(history.unwrap_or_default());
        match self.requeue.run(&self.link, &call).await? {
            Value::Int(-1) => Ok(Verdict::Fenced),
            Value::Int(_) => Ok(Verdict::Done),
            other => Err(BrokerError::shape("requeue.lua", &other)),
        }
    }

    /// How many keys a script has for this call: its own, and those of what comes next.
    fn keys_of(&self, item: &Settled<T>, own: usize) -> usize {
        match item.next {
            Next::Nothing => own,
            Next::Turn(_) => own + 3,
            Next::Step(_) => own + 4,
        }
    }

    /// The stream in which a call stands, and the claims of its entries.
    fn stream_keys(&self, call: &mut redis::Cmd, Settled { function, lease, .. }: &Settled<T>) {
        let level = lease.entry.level();
        call.arg(self.keys.calls_at(function, level)).arg(self.keys.claims_at(function, level));
    }

    fn next_keys(&self, call: &mut redis::Cmd, item: &Settled<T>, id: &CallId) {
        match &item.next {
            Next::Nothing => {}
            Next::Turn(_) => turns::keys(call, &self.keys, &item.function),
            Next::Step(step) => {
                let StepRef { function, execution, .. } = &**step;
                call.arg(self.keys.calls(function)).arg(self.keys.execution(function, execution));
                call.arg(self.keys.log(function, execution)).arg(self.keys.result(&item.function, id));
            }
        }
    }

    /// Where the result of a call stands, or of an event for this execution.
    fn result(&self, function: &FunctionId, id: &CallId, execution: Option<&CallId>) -> String {
        match execution {
            Some(execution) => self.keys.event_result(function, execution, id),
            None => self.keys.result(function, id),
        }
    }

    fn lease_args(&self, call: &mut redis::Cmd, lease: Lease) {
        call.arg(self.keys.group()).arg(self.host.as_str()).arg(lease.entry.in_stream()).arg(lease.claims);
    }

    fn ttl_ms(&self) -> u64 {
        u64::try_from(self.result_ttl.as_millis()).unwrap_or(u64::MAX).max(1)
    }

    fn channel(&self, reply: Option<&ReplyTo>) -> String {
        reply.map(|reply| self.keys.reply_channel(reply)).unwrap_or_default()
    }

    /// The short way: results, acknowledgement, notices in one transaction. None if it does not serve, or if it is not
    /// known whether it did: then the script has the word, which changes nothing that is settled already.
    ///
    /// Whoever claims entries of this host first has Redis close the connection that is used here, and an entry that
    /// was asked for before the connection came about takes the long way. So what arrives on it is not late, however long
    /// this process was stopped in the meantime.
    async fn finish_sure(&self, items: &[Settled<T>]) -> Option<Vec<Verdict>> {
        let function = &items[0].function;
        let mut open = self.link.connection().await.ok()?;
        let since = open.alone_since?;
        let is_sure = |item: &Settled<T>| {
            item.lease.claims == 0
                && item.read.is_some_and(|read| read.asked > since && read.answered.elapsed() < self.sure_for)
        };
        if !items.iter().all(is_sure) {
            return None;
        }
        let mut all = redis::Pipeline::with_capacity(items.len() + 8);
        all.atomic();
        let mut notices: Vec<(&ReplyTo, Vec<u8>)> = Vec::new();
        for item in items {
            let Settlement::Finish { id, execution, document, reply } = &item.settlement else { return None };
            all.cmd("SET").arg(self.result(function, id, execution.as_ref())).arg(document);
            all.arg("NX").arg("PX").arg(self.ttl_ms());
            let Some(reply) = reply else { continue };
            match notices.iter_mut().find(|(to, _)| *to == reply) {
                Some((_, packed)) => packed.extend_from_slice(document),
                None => notices.push((reply, document.clone())),
            }
        }
        let calls = self.keys.calls_at(function, items[0].lease.entry.level());
        let entries: Vec<String> = items.iter().map(|item| item.lease.entry.in_stream()).collect();
        all.cmd("XACK").arg(&calls).arg(self.keys.group()).arg(&entries);
        all.cmd("XDEL").arg(&calls).arg(&entries);
        for (reply, packed) in &notices {
            all.cmd("PUBLISH").arg(self.keys.reply_channel(reply)).arg(packed);
        }
        match self.link.run_as_one(&mut open, &all).await {
            Ok(Value::Array(answers)) => {
                // The answer to XACK stands behind those to SET.
                let acknowledged = usize::try_from(as_int(answers.get(items.len()))).unwrap_or(0);
                let verdict = if acknowledged == items.len() { Verdict::Done } else { Verdict::Fenced };
                Some(vec![verdict; items.len()])
            }
            Ok(other) => {
                tracing::debug!(?other, "settling by script instead");
                None
            }
            Err(error) => {
                tracing::debug!(%error, calls = items.len(), "settling by script instead");
                None
            }
        }
    }

    /// What must not be: the entries are acknowledged, and then their results are written.
    #[cfg(feature = "mutants")]
    async fn acknowledge_first(&self, items: &[Settled<T>]) -> Result<Vec<Verdict>, BrokerError> {
        let (function, level) = (&items[0].function, items[0].lease.entry.level());
        let (mut acknowledge, mut write) = (redis::pipe(), redis::pipe());
        let entries: Vec<String> = items.iter().map(|item| item.lease.entry.in_stream()).collect();
        acknowledge.cmd("XACK").arg(self.keys.calls_at(function, level)).arg(self.keys.group()).arg(&entries);
        acknowledge.cmd("XDEL").arg(self.keys.calls_at(function, level)).arg(&entries);
        acknowledge.cmd("HDEL").arg(self.keys.claims_at(function, level)).arg(&entries);
        for item in items {
            let Settlement::Finish { id, execution, document, reply } = &item.settlement else { continue };
            write
                .cmd("SET")
                .arg(self.result(function, id, execution.as_ref()))
                .arg(document)
                .arg("NX")
                .arg("PX")
                .arg(self.ttl_ms());
            if let Some(reply) = reply {
                write.cmd("PUBLISH").arg(self.keys.reply_channel(reply)).arg(document);
            }
        }
        self.link.run_all(&acknowledge).await?;
        self.link.run_all(&write).await?;
        Ok(vec![Verdict::Done; items.len()])
    }

    async fn finish(&self, items: &[Settled<T>]) -> Result<Vec<Verdict>, BrokerError> {
        let function = &items[0].function;
        let entries = items.iter().map(|item| item.lease.entry);
        let (Some(first), Some(last)) = (entries.clone().min(), entries.max()) else { return Ok(Vec::new()) };
        let finishes = items.iter().filter_map(|item| match &item.settlement {
            Settlement::Finish { id, execution, document, reply } => {
                Some((item.lease, (id, execution.as_ref()), document, reply.as_ref()))
            }
            Settlement::Requeue { .. }
            | Settlement::Delay { .. }
            | Settlement::Bury { .. }
            | Settlement::Advance(_) => None,
        });
        // A call that sets something going is settled by itself.
        let item = &items[0];
        let script = self.finish.before(&item.next);
        let mut call = script.call(self.keys_of(item, 2 + items.len()));
        self.stream_keys(&mut call, item);
        finishes.clone().for_each(|(_, (id, execution), ..)| {
            call.arg(self.result(function, id, execution));
        });
        if let Some((_, (id, _), ..)) = finishes.clone().next() {
            self.next_keys(&mut call, item, id);
        }
        call.arg(self.keys.group())
            .arg(self.host.as_str())
            .arg(self.ttl_ms())
            .arg(first.in_stream())
            .arg(last.in_stream());
        finishes.clone().for_each(|(lease, _, document, reply)| {
            call.arg(lease.entry.in_stream()).arg(lease.claims).arg(document).arg(self.channel(reply));
        });
        if let Some((_, (id, _), ..)) = finishes.clone().next() {
            next_args(&mut call, item, id);
        }
        match script.run(&self.link, &call).await? {
            Value::Array(answers) if answers.len() == items.len() => answers.iter().map(verdict).collect(),
            other => Err(BrokerError::shape("settle.lua", &other)),
        }
    }
}

fn next_args<T>(call: &mut redis::Cmd, item: &Settled<T>, id: &CallId) {
    match &item.next {
        Next::Nothing => {}
        Next::Turn(key) => {
            call.arg(key.as_str()).arg(id.as_str());
        }
        Next::Step(step) => {
            call.arg(step.execution.as_str()).arg(step.run).arg(step.step);
        }
    }
}

fn as_int(answer: Option<&Value>) -> i64 {
    match answer {
        Some(Value::Int(n)) => *n,
        _ => 0,
    }
}

fn verdict(answer: &Value) -> Result<Verdict, BrokerError> {
    match answer {
        Value::Int(1) => Ok(Verdict::Done),
        Value::Int(2) => Ok(Verdict::Duplicate),
        Value::Int(0) => Ok(Verdict::Fenced),
        other => Err(BrokerError::shape("a settling script", other)),
    }
}

/// What one script run settles: finished calls of one function and level, or one other settlement.
struct Batch<T> {
    items: Vec<Settled<T>>,
    bytes: usize,
}

impl<T> Batch<T> {
    fn of(item: Settled<T>, bytes: usize) -> Self {
        Self { items: vec![item], bytes }
    }

    fn has_room_for(&self, bytes: usize) -> bool {
        self.items.len() < BATCH_MAX && self.bytes + bytes <= BATCH_BYTES_MAX
    }
}

fn into_batches<T>(taken: &mut Vec<Settled<T>>) -> Vec<Batch<T>> {
    let mut open: HashMap<(FunctionId, Priority, bool), Batch<T>> = HashMap::new();
    let mut full = Vec::new();
    for item in taken.drain(..) {
        let bytes = match &item.settlement {
            Settlement::Requeue { .. }
            | Settlement::Delay { .. }
            | Settlement::Bury { .. }
            | Settlement::Advance(_) => {
                full.push(Batch::of(item, 0));
                continue;
            }
            Settlement::Finish { .. } if item.next != Next::Nothing => {
                full.push(Batch::of(item, 0));
                continue;
            }
            Settlement::Finish { document, .. } => document.len(),
        };
        // Sure answers and others do not mix, so that one late call does not hold up its neighbours.
        let kind = (item.function.clone(), item.lease.entry.level(), item.read.is_some());
        match open.get_mut(&kind) {
            Some(batch) if batch.has_room_for(bytes) => {
                batch.items.push(item);
                batch.bytes += bytes;
            }
            Some(batch) => full.push(std::mem::replace(batch, Batch::of(item, bytes))),
            None => _ = open.insert(kind, Batch::of(item, bytes)),
        }
    }
    full.extend(open.into_values());
    // Who has few calls does not wait for those who have many.
    full.sort_by_key(|batch| batch.items.len());
    full
}
