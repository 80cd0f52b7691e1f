//! Reading calls: one connection that blocks, how it is woken without losing what it reads, and what a broken one lost.
//!
//! A pending blocking read is never dropped: Redis would go on and hand entries to nobody. It is woken by
//! `CLIENT UNBLOCK` from another connection and its answer is read.

mod end;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::time::{Duration, Instant};

#[cfg(feature = "mutants")]
use baton_model::mutants::{self, is_left_out};
use baton_model::{Call, EntryId, FunctionId, HostId, Lease, Priority};
use redis::aio::MultiplexedConnection;
use redis::{Client, Cmd, Value, cmd};

pub use self::end::{Portion, ReadEnd};
use crate::entry::{self, Malformed, Rule, Rules};
use crate::keys::reader_name;
use crate::link::{BrokerConfig, Link, open_blocking};
use crate::meter::{Meter, Role};
use crate::script::Lua;
use crate::{BrokerError, Queue};

/// How much longer than its own limit a blocking read may stay silent before its connection is held for dead.
const WATCHDOG: Duration = Duration::from_secs(5);

/// A call in this host's hands, with the right to settle it. It is consumed by settling, so it cannot be settled twice.
#[derive(Debug)]
pub struct Delivery {
    /// The call.
    pub call: Arc<Call>,
    /// The right to settle it.
    pub lease: Lease,
    /// When it was read, if this is its first delivery; none for one that came back.
    pub read: Option<ReadTime>,
}

/// When an entry was read.
#[derive(Debug, Clone, Copy)]
pub struct ReadTime {
    /// Before Redis could have assigned it.
    pub asked: Instant,
    /// When it was here.
    pub answered: Instant,
}

/// One entry as it was read.
#[derive(Debug)]
pub enum Incoming {
    /// A call.
    Call(Delivery),
    /// Something that is no call; it has to be buried.
    Malformed(FunctionId, Lease, Malformed),
}

impl Delivery {
    /// Whether the call stands in a stream above its level, and has to go to its own before it runs.
    #[must_use]
    pub fn is_out_of_place(&self) -> bool {
        self.call.priority.is_below(self.lease.entry.level())
    }
}

impl Incoming {
    /// The right to settle it.
    #[must_use]
    pub(crate) fn lease(&self) -> Lease {
        match self {
            Self::Call(delivery) => delivery.lease,
            Self::Malformed(_, lease, _) => *lease,
        }
    }

    /// The function whose stream it was read from.
    #[must_use]
    pub fn function(&self) -> &FunctionId {
        match self {
            Self::Call(delivery) => &delivery.call.function,
            Self::Malformed(function, ..) => function,
        }
    }
}

/// What reader and wakers share.
#[derive(Default)]
struct Wake {
    /// The reading connection's client id at Redis; 0 while there is none.
    client_id: AtomicU64,
    /// How many wake-ups were asked for.
    asked: AtomicU64,
    /// Whether a read is under way, or about to be.
    reading: AtomicBool,
    /// Only for a host that drops its reads, which no host does.
    #[cfg(feature = "mutants")]
    dropped: tokio::sync::Notify,
}

/// Reads calls for one host.
pub struct Reader {
    client: Client,
    host: HostId,
    group: String,
    rules: Rules,
    connection: Option<MultiplexedConnection>,
    meter: Arc<Meter>,
    take: Lua,
    wake: Arc<Wake>,
    /// How many wake-ups were answered.
    answered: u64,
    /// A read ended in an error: entries may be assigned to this host that it never saw.
    may_have_lost: bool,
    /// A stream could not be read beside others that could.
    has_fault: bool,
}

/// Wakes a [`Reader`] from its blocking read.
#[derive(Clone)]
pub struct ReaderWaker {
    wake: Arc<Wake>,
    link: Arc<Link>,
}

impl ReaderWaker {
    /// Makes the read that is under way, or the next one, return without waiting. Returns as soon as that is sure, or
    /// after five seconds: when Redis cannot be reached for so long, the read ends by itself.
    pub async fn wake(&self) {
        let wanted = self.wake.asked.fetch_add(1, SeqCst) + 1;
        #[cfg(feature = "mutants")]
        if is_left_out(mutants::Rule::Unblock) {
            return self.wake.dropped.notify_one();
        }
        let mut pause = Duration::from_micros(200);
        let end = tokio::time::Instant::now() + WATCHDOG;
        // At the worst the reader has decided to read but Redis has not seen it yet, or this connection has to be made
        // anew though the reader's was already; that takes a few rounds.
        while self.wake.reading.load(SeqCst) && self.wake.asked.load(SeqCst) == wanted {
            let id = self.wake.client_id.load(SeqCst);
            let unblock = cmd("CLIENT").arg("UNBLOCK").arg(id).to_owned();
            if let Ok(Value::Int(1)) = self.link.run(&unblock).await {
                return;
            }
            if tokio::time::Instant::now() >= end {
                return;
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_millis(50));
        }
    }
}

impl Reader {
    /// A reader for `host`, and what wakes it. It connects on its first read.
    ///
    /// # Errors
    /// [`BrokerError::BadUrl`].
    pub fn new(config: &BrokerConfig, host: HostId) -> Result<(Self, ReaderWaker), BrokerError> {
        let client = config.client()?;
        let wake = Arc::new(Wake::default());
        let waker =
            ReaderWaker { wake: wake.clone(), link: Arc::new(Link::new(client.clone()).counted(config, Role::Waker)) };
        let reader = Self {
            client,
            host,
            group: config.group.clone(),
            rules: config.rules(),
            connection: None,
            meter: config.meter.clone(),
            take: Lua::new(include_str!("scripts/take.lua")),
            wake,
            answered: 0,
            may_have_lost: false,
            has_fault: false,
        };
        Ok((reader, waker))
    }

    /// Whether entries may be assigned to this host that it never saw. [`Reader::recover`] finds them.
    #[must_use]
    pub fn may_have_lost(&self) -> bool {
        self.may_have_lost
    }

    /// Whether a stream could not be read, since this was asked the last time, beside others of its function that could: its
    /// group may have to be made anew.
    pub fn take_fault(&mut self) -> bool {
        std::mem::take(&mut self.has_fault)
    }

    /// Says that entries may be assigned to this host that nobody works on.
    pub fn suspect_loss(&mut self) {
        self.may_have_lost = true;
    }

    /// Reads at most `count` new entries of each stream; waits up to `block` for the first, or not at all if `block`
    /// is none. Returns nothing when the time is over or when it was woken.
    ///
    /// The future must be driven to its end: a dropped read loses what Redis hands to it.
    ///
    /// # Errors
    /// [`BrokerError::NoGroup`] if a group has to be made anew; any other if the connection is to be, which the next
    /// read does by itself.
    pub async fn read(
        &mut self,
        from: &ReadEnd,
        count: usize,
        block: Option<Duration>,
    ) -> Result<Vec<Incoming>, BrokerError> {
        let read = self.command(&from.streams, count, block);
        self.ask(from, Ask::One(read, block)).await
    }

    /// Reads each of these portions; waits for the first entry as [`Reader::read`] does if there is one portion, and not
    /// at all if there are several.
    ///
    /// The future must be driven to its end, as that of [`Reader::read`].
    ///
    /// # Errors
    /// As [`Reader::read`]. What some portions brought before another failed is then pending for this host, and found by
    /// [`Reader::recover`].
    pub async fn read_portions(
        &mut self,
        from: &ReadEnd,
        portions: &[Portion],
        block: Option<Duration>,
    ) -> Result<Vec<Incoming>, BrokerError> {
        let block = block.filter(|_| portions.len() == 1 && portions[0].claims.is_none());
        let read = |portion: &Portion| {
            let streams: Vec<&String> = portion.functions.iter().flat_map(|place| from.streams_of(*place)).collect();
            match portion.claims {
                None => self.command(&streams, portion.count, block),
                Some(claims) => self.take(from, portion, claims),
            }
        };
        let ask = match portions {
            [] => return Ok(Vec::new()),
            [one] => Ask::One(read(one), block),
            several => {
                let mut pipe = redis::Pipeline::with_capacity(several.len());
                several.iter().for_each(|portion| {
                    pipe.add_command(read(portion));
                });
                Ask::Several(pipe)
            }
        };
        let is_one = matches!(ask, Ask::One(..));
        let answer = self.ask(from, ask).await;
        // Redis has answered each by itself.
        self.may_have_lost |= answer.is_err() && !is_one;
        answer
    }

    async fn ask(&mut self, from: &ReadEnd, ask: Ask) -> Result<Vec<Incoming>, BrokerError> {
        self.wake.reading.store(true, SeqCst);
        let answer = self.ask_unless_woken(from, ask).await;
        self.wake.reading.store(false, SeqCst);
        if answer.is_err() {
            self.meter.failed(Role::Reader);
        }
        if let Err(error) = &answer
            && !matches!(error, BrokerError::NoGroup(_))
        {
            self.connection = None;
            self.may_have_lost = true;
        }
        answer
    }

    async fn ask_unless_woken(&mut self, from: &ReadEnd, ask: Ask) -> Result<Vec<Incoming>, BrokerError> {
        let asked = self.wake.asked.load(SeqCst);
        let block = ask.block();
        if asked != self.answered && block.is_some() {
            self.answered = asked;
            return Ok(Vec::new());
        }
        let mut connection = match &self.connection {
            Some(open) => open.clone(),
            None => self.connect().await?,
        };
        let limit = block.unwrap_or_default() + WATCHDOG;
        let silent = |_| BrokerError::Unreachable(format!("a read was silent for {} s", limit.as_secs()));
        let asked_at = Instant::now();
        match ask {
            Ask::One(read, _) => {
                self.meter.sent(Role::Reader, 1);
                #[cfg(feature = "mutants")]
                if is_left_out(mutants::Rule::Unblock) {
                    return self.read_unless_dropped(connection, from, &read).await;
                }
                let answer =
                    tokio::time::timeout(limit, connection.send_packed_command(&read)).await.map_err(silent)?;
                self.answered = asked;
                let answer = answer.and_then(Value::extract_error)?;
                self.incoming(from, answer, ReadTime { asked: asked_at, answered: Instant::now() })
            }
            Ask::Several(reads) => {
                let count = reads.len();
                self.meter.sent(Role::Reader, count);
                let answer = tokio::time::timeout(limit, connection.send_packed_commands(&reads, 0, count));
                let answers = answer.await.map_err(silent)??;
                self.answered = asked;
                let read = ReadTime { asked: asked_at, answered: Instant::now() };
                let mut incoming = Vec::new();
                for answer in answers {
                    incoming.extend(self.incoming(from, answer.extract_error()?, read)?);
                }
                Ok(incoming)
            }
        }
    }

    /// What must not be: a read that is dropped when it is woken, while its connection lives on.
    #[cfg(feature = "mutants")]
    async fn read_unless_dropped(
        &mut self,
        mut connection: MultiplexedConnection,
        from: &ReadEnd,
        read: &Cmd,
    ) -> Result<Vec<Incoming>, BrokerError> {
        let asked = Instant::now();
        tokio::select! {
            answer = connection.send_packed_command(read) => {
                let answer = answer.and_then(Value::extract_error)?;
                self.incoming(from, answer, ReadTime { asked, answered: Instant::now() })
            }
            () = self.wake.dropped.notified() => {
                self.answered = self.wake.asked.load(SeqCst);
                Ok(Vec::new())
            }
        }
    }

    fn incoming(&mut self, from: &ReadEnd, answer: Value, read: ReadTime) -> Result<Vec<Incoming>, BrokerError> {
        match answer {
            Value::Nil => Ok(Vec::new()),
            Value::Array(streams) => self.streams(from, streams, read),
            other => Err(BrokerError::shape("XREADGROUP", &other)),
        }
    }

    fn command<S: redis::ToRedisArgs>(&self, streams: &[S], count: usize, block: Option<Duration>) -> Cmd {
        let mut read = cmd("XREADGROUP");
        read.arg("GROUP").arg(&self.group).arg(self.host.as_str()).arg("COUNT").arg(count);
        if let Some(block) = block {
            read.arg("BLOCK").arg(u64::try_from(block.as_millis()).unwrap_or(u64::MAX).max(1));
        }
        read.arg("STREAMS").arg(streams);
        for _ in streams {
            read.arg(">");
        }
        read
    }

    /// Reads the calls of one function by their levels.
    fn take(&self, from: &ReadEnd, portion: &Portion, claims: [usize; 3]) -> Cmd {
        let levels = portion.functions.first().map(|place| from.levels(*place)).unwrap_or_default();
        let streams = portion.functions.first().map(|place| from.streams_of(*place)).unwrap_or_default();
        let mut take = self.take.call(streams.len());
        take.arg(streams).arg(&self.group).arg(self.host.as_str()).arg(portion.count);
        for level in levels.all() {
            take.arg(claims[level.place()]);
        }
        take
    }

    /// Opens the connection. The one before it is closed at Redis first: while Redis holds it for alive, it would go
    /// on handing entries to it.
    async fn connect(&mut self) -> Result<MultiplexedConnection, BrokerError> {
        let mut fresh = open_blocking(&self.client).await?;
        let name = reader_name(self.host.as_str());
        let mut setup = redis::pipe();
        setup.cmd("CLIENT").arg("SETNAME").arg(&name).ignore();
        setup.cmd("CLIENT").arg("ID");
        let old = self.wake.client_id.load(SeqCst);
        if old != 0 {
            self.meter.reconnected(Role::Reader);
        }
        setup.cmd("CLIENT").arg("LIST").arg("ID").arg(old.max(1));
        setup.add_command(self.take.load()).ignore();
        let answer = tokio::time::timeout(WATCHDOG, setup.query_async::<(u64, String)>(&mut fresh)).await;
        let silent = |_| BrokerError::Unreachable("a new connection is silent".to_owned());
        let (id, list) = answer.map_err(silent)??;
        // After a restart of Redis the old number may be a stranger's.
        let is_ours = list.split_whitespace().any(|field| field.strip_prefix("name=") == Some(&name));
        if old != 0 && old != id && is_ours {
            let kill = cmd("CLIENT").arg("KILL").arg("ID").arg(old).to_owned();
            let killed = tokio::time::timeout(WATCHDOG, fresh.send_packed_command(&kill)).await;
            killed.map_err(silent)??;
        }
        self.wake.client_id.store(id, SeqCst);
        self.connection = Some(fresh.clone());
        Ok(fresh)
    }

    fn streams(&mut self, from: &ReadEnd, streams: Vec<Value>, read: ReadTime) -> Result<Vec<Incoming>, BrokerError> {
        let mut out = Vec::new();
        for stream in streams {
            let Value::Array(pair) = stream else { return Err(BrokerError::shape("XREADGROUP", &stream)) };
            let mut pair = pair.into_iter();
            let (key, entries) = match (pair.next(), pair.next()) {
                (Some(Value::BulkString(key)), Some(Value::Array(entries))) => (key, entries),
                (Some(Value::BulkString(key)), Some(Value::BulkString(fault))) => {
                    let (key, fault) = (String::from_utf8_lossy(&key), String::from_utf8_lossy(&fault));
                    tracing::debug!(%key, %fault, "a stream cannot be read");
                    self.has_fault = true;
                    continue;
                }
                _ => return Err(BrokerError::shape("XREADGROUP", &"a stream without entries")),
            };
            let Some((place, level)) = from.by_stream.get(&key) else {
                return Err(BrokerError::shape("XREADGROUP", &"a stream that was not asked for"));
            };
            let function = &from.functions[*place];
            out.reserve(entries.len());
            let rule = self.rules.of(function);
            for entry in entries {
                out.extend(parse_entry(function, *level, entry, 0, Some(read), rule)?);
            }
        }
        Ok(out)
    }

    /// Finds entries that are assigned to this host though it never saw them: those pending for it that `in_flight`
    /// does not know. To be called between reads, when nothing is on its way to this host.
    ///
    /// # Errors
    /// Any [`BrokerError`]; the search can then be made again.
    pub async fn recover(
        &mut self,
        queue: &Queue,
        from: &ReadEnd,
        in_flight: impl Fn(&FunctionId, EntryId) -> bool,
    ) -> Result<Vec<Incoming>, BrokerError> {
        if self.connection.is_none() {
            self.connect().await?;
        }
        let mut found = Vec::new();
        for (function, levels) in queue.levels_of(&from.functions).await? {
            for level in levels.all() {
                match queue.pending_of(&self.host, &function, level, &in_flight).await {
                    Ok(pending) => found.extend(pending),
                    // Without a group nothing is pending; the next read tells that it has to be made.
                    Err(BrokerError::NoGroup(_)) if !level.is_normal() => {}
                    Err(error @ BrokerError::Refused(_)) if !level.is_normal() => {
                        // The fault lies with this stream. Whoever waits for it says how to mend that.
                        let key = queue.keys().calls_at(&function, level);
                        tracing::warn!(%function, priority = %level, key, %error, "what this host may have lost there cannot be seen");
                    }
                    Err(error) => return Err(error),
                }
            }
        }
        self.may_have_lost = false;
        Ok(found)
    }
}

/// What is said to Redis for one read.
enum Ask {
    One(Cmd, Option<Duration>),
    Several(redis::Pipeline),
}

impl Ask {
    fn block(&self) -> Option<Duration> {
        match self {
            Self::One(_, block) => *block,
            Self::Several(_) => None,
        }
    }
}

/// Reads one `[id, [field, value, …]]`. None if the entry was deleted while it was pending.
pub(crate) fn parse_entry(
    function: &FunctionId,
    level: Priority,
    entry: Value,
    claims: u32,
    read: Option<ReadTime>,
    rule: Rule<'_>,
) -> Result<Option<Incoming>, BrokerError> {
    let Value::Array(parts) = entry else { return Err(BrokerError::shape("a stream read", &entry)) };
    let mut parts = parts.into_iter();
    let (Some(Value::BulkString(id)), Some(fields)) = (parts.next(), parts.next()) else {
        return Err(BrokerError::shape("a stream read", &"an entry without an id"));
    };
    let id = std::str::from_utf8(&id).ok().and_then(EntryId::parse);
    let id = id.ok_or_else(|| BrokerError::shape("a stream read", &"an id that is none"))?.of_level(level);
    let Value::Array(fields) = fields else { return Ok(None) };
    let fields = fields.into_iter().map(into_bytes).collect::<Result<_, _>>()?;
    let lease = Lease { entry: id, claims };
    Ok(Some(match entry::read(function, id, fields, rule) {
        Ok(mut call) => {
            call.attempt = call.attempt.saturating_add(claims);
            Incoming::Call(Delivery { call: Arc::new(call), lease, read })
        }
        Err(malformed) => Incoming::Malformed(function.clone(), lease, malformed),
    }))
}

fn into_bytes(value: Value) -> Result<Vec<u8>, BrokerError> {
    match value {
        Value::BulkString(bytes) => Ok(bytes),
        other => Err(BrokerError::shape("a stream read", &other)),
    }
}
