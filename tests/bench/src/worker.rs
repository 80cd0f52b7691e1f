//! The other end of the message path with wasm left out: a process that answers each call with its input.
//!
//! `bare` is the lower bound: it keeps no result and fences nothing. `kept` is the same and keeps each result, which is
//! the least that a host can do. `broker` is the host's own way through Redis, from the crate that hosts use. All have the host's shape: one task reads, one settles whatever waits.

use std::io::Write as _;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use baton_broker::{BrokerConfig, Delivery, Incoming, Next, Queue, ReadEnd, Reader, Settled, Settlement, Settler};
use baton_model::{CallId, Digest, FunctionId, HostId, ResultDocument, Status};
use baton_tests::settings::{GROUP, PREFIX};
use bytes::Bytes;
use clap::ValueEnum;
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, Value};
use tokio::runtime;
use tokio::sync::mpsc;

/// The most calls that one read brings, and that one batch settles: as the host has it.
const BATCH: usize = 128;
/// How long a read waits.
const BLOCK: Duration = Duration::from_secs(30);

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[arg(long, value_enum)]
    kind: Kind,
    #[arg(long)]
    redis: String,
    #[arg(long)]
    function: FunctionId,
    /// With one thread instead of one for each core
    #[arg(long)]
    one_thread: bool,
}

/// What of the host's work is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Kind {
    /// Read, answer, acknowledge.
    Bare,
    /// The same, and each result is kept before its call is acknowledged.
    Kept,
    /// The same with leases and fencing, as hosts do it.
    Broker,
}

impl Kind {
    /// As it is written in arguments.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Bare => "bare",
            Self::Kept => "kept",
            Self::Broker => "broker",
        }
    }
}

/// What the worker prints when it takes calls.
pub(crate) const READY: &str = "ready";

/// Works until it is killed.
pub(crate) fn run(args: &Args) -> Result<()> {
    let mut runtime =
        if args.one_thread { runtime::Builder::new_current_thread() } else { runtime::Builder::new_multi_thread() };
    let runtime = runtime.enable_all().build()?;
    // A task of its own: the first future of a runtime is not driven by its workers.
    let (kind, url, function) = (args.kind, args.redis.clone(), args.function.clone());
    runtime.block_on(async move {
        match kind {
            Kind::Bare | Kind::Kept => tokio::spawn(bare(url, function, kind == Kind::Kept)).await?,
            Kind::Broker => tokio::spawn(broker(url, function)).await?,
        }
    })
}

fn ready() -> Result<()> {
    let mut out = std::io::stdout();
    writeln!(out, "{READY}")?;
    Ok(out.flush()?)
}

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// The document that a host would write.
fn document(id: CallId, payload: Bytes, host: &HostId, digest: Digest) -> Vec<u8> {
    let mut document = ResultDocument::new(Status::Ok, id, "application/json".to_owned(), payload);
    document.attempts = 1;
    document.digest = Some(digest);
    document.host = Some(host.clone());
    let now = now_ms();
    (document.accepted_ms, document.started_ms, document.finished_ms) = (now, Some(now), now);
    document.encode()
}

fn host_id() -> Result<HostId> {
    HostId::parse(&format!("bench-{}", std::process::id())).context("a host id is made of printable characters")
}

async fn broker(url: String, function: FunctionId) -> Result<()> {
    let (config, host) = (BrokerConfig::new(url), host_id()?);
    let queue = Queue::new(&config)?;
    queue.ensure_groups(std::slice::from_ref(&function)).await?;
    let (mut reader, _waker) = Reader::new(&config, host.clone())?;
    let (settler, to_settler) = Settler::<()>::new(&config, host.clone())?;
    tokio::spawn(settler.run(|(), _verdict| {}));
    let from = ReadEnd::new(queue.keys(), vec![function.clone()]);
    let digest = Digest::of(b"bench");
    ready()?;
    let mut batch: Vec<Incoming> = Vec::new();
    loop {
        // What was read is answered while the next read is on its way, as in the host.
        let (read, answered) = tokio::join!(reader.read(&from, BATCH, Some(BLOCK)), async {
            for incoming in batch.drain(..) {
                let Incoming::Call(Delivery { call, lease, read }) = incoming else {
                    bail!("a call of ours is malformed")
                };
                let document = document(call.id.clone(), call.payload.clone(), &host, digest);
                let settlement = Settlement::finish(&call, document);
                let settled =
                    Settled { function: function.clone(), lease, read, next: Next::Nothing, settlement, ticket: () };
                to_settler.send(settled).await.ok().context("the settler ended")?;
            }
            Ok(())
        });
        answered?;
        batch = read?;
    }
}

/// An answered call on its way to Redis.
struct Answer {
    entry: Vec<u8>,
    channel: String,
    document: Vec<u8>,
}

async fn bare(url: String, function: FunctionId, keeps: bool) -> Result<()> {
    let client = Client::open(url)?;
    let config = AsyncConnectionConfig::new().set_response_timeout(None).set_pipeline_buffer_size(4096);
    let connect = || client.get_multiplexed_async_connection_with_config(&config);
    let (mut reader, settler) = (connect().await?, connect().await?);
    let calls = format!("{PREFIX}:{{{function}}}:calls");
    redis::cmd("XGROUP").arg("CREATE").arg(&calls).arg(GROUP).arg("0").arg("MKSTREAM").exec_async(&mut reader).await?;
    let (to_settler, inbox) = mpsc::channel(4096);
    let results = keeps.then(|| format!("{PREFIX}:{{{function}}}:result:"));
    tokio::spawn(settle(settler, calls.clone(), results, inbox));
    let host = host_id()?;
    let digest = Digest::of(b"bench");
    let mut read = redis::cmd("XREADGROUP");
    read.arg("GROUP").arg(GROUP).arg(host.as_str()).arg("COUNT").arg(BATCH).arg("BLOCK").arg(BLOCK.as_secs() * 1000);
    read.arg("STREAMS").arg(&calls).arg(">");
    let read = Arc::new(read);
    ready()?;
    let mut batch: Vec<Value> = Vec::new();
    loop {
        let (streams, answered) = tokio::join!(reader.send_packed_command(&read), async {
            for entry in batch.drain(..) {
                let (entry, channel, payload) = parts(entry).context("an entry that is no call")?;
                let id = std::str::from_utf8(&entry).ok().and_then(CallId::parse).context("an entry id")?;
                let document = document(id, payload, &host, digest);
                to_settler.send(Answer { entry, channel, document }).await.ok().context("the settler ended")?;
            }
            anyhow::Ok(())
        });
        answered?;
        batch = entries(streams?.extract_error()?);
    }
}

/// The entries of the one stream that was read.
fn entries(streams: Value) -> Vec<Value> {
    let Value::Array(mut streams) = streams else { return Vec::new() };
    let Some(Value::Array(mut pair)) = streams.pop() else { return Vec::new() };
    let Some(Value::Array(entries)) = pair.pop() else { return Vec::new() };
    entries
}

/// Entry id, reply channel and payload.
fn parts(entry: Value) -> Option<(Vec<u8>, String, Bytes)> {
    let Value::Array(parts) = entry else { return None };
    let Ok([Value::BulkString(id), Value::Array(fields)]) = <[Value; 2]>::try_from(parts) else { return None };
    let (mut payload, mut channel) = (Bytes::new(), String::new());
    let mut fields = fields.into_iter();
    while let (Some(Value::BulkString(name)), Some(Value::BulkString(value))) = (fields.next(), fields.next()) {
        match name.as_slice() {
            b"payload" => payload = value.into(),
            b"reply" => channel = format!("{PREFIX}:reply:{}", std::str::from_utf8(&value).ok()?),
            _ => {}
        }
    }
    Some((id, channel, payload))
}

/// Settles whatever waits in one pipeline: each result, if there is a place for them, then one notice for each caller,
/// one acknowledgement, one deletion.
async fn settle(
    mut redis: MultiplexedConnection,
    calls: String,
    results: Option<String>,
    mut inbox: mpsc::Receiver<Answer>,
) -> Result<()> {
    let ttl_ms = BrokerConfig::new("").result_ttl.as_millis().to_string();
    let mut taken: Vec<Answer> = Vec::new();
    while inbox.recv_many(&mut taken, 4 * BATCH).await > 0 {
        let mut pipeline = redis::pipe();
        if let Some(prefix) = &results {
            for answer in &taken {
                let key = [prefix.as_bytes(), &answer.entry].concat();
                pipeline.cmd("SET").arg(key).arg(&answer.document).arg("NX").arg("PX").arg(&ttl_ms);
            }
        }
        for batch in taken.chunk_by(|a, b| a.channel == b.channel) {
            let notice: Vec<u8> = batch.iter().flat_map(|answer| answer.document.iter().copied()).collect();
            pipeline.cmd("PUBLISH").arg(&batch[0].channel).arg(notice);
        }
        let entries: Vec<&[u8]> = taken.iter().map(|answer| answer.entry.as_slice()).collect();
        pipeline.cmd("XACK").arg(&calls).arg(GROUP).arg(&entries);
        pipeline.cmd("XDEL").arg(&calls).arg(&entries);
        pipeline.exec_async(&mut redis).await?;
        taken.clear();
    }
    Ok(())
}
