//! Calls at a steady rate, and what became of each.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use baton_model::ResultDocument;
use bytes::Bytes;
use redis::aio::MultiplexedConnection;
use tokio::sync::{Semaphore, oneshot};
use tokio::task::JoinHandle;

use crate::caller::{Caller, key};
use crate::redis_server::Address;
use crate::report::{LoadReport, LoadedCall};
use crate::settings::{PATIENCE, PREFIX};
use crate::wait::until;

/// How often due calls are sent; those due at one time go as one pipeline.
const TICK: Duration = Duration::from_millis(1);

/// Calls at a steady rate to a function whose answers are known beforehand.
#[derive(Debug, Clone)]
pub struct Load {
    /// Which function.
    pub function: String,
    /// Calls a second.
    pub per_second: u32,
    /// For how long.
    pub lasts: Duration,
    /// The most calls that may be unanswered; further ones wait. Their latency counts from when they were due.
    pub in_flight_max: usize,
}

/// What the function does, and so what its answers have to be.
#[derive(Debug, Clone, Copy)]
enum Work {
    /// It answers with its input, as `echo` does.
    Echo,
    /// It answers after so many milliseconds, as `sleep` does.
    Sleep(u128),
}

impl Work {
    /// The payload of call `n`, and the answer to it.
    fn call(self, n: u64) -> (Bytes, Bytes) {
        match self {
            Self::Echo => {
                let payload = Bytes::from(format!(r#"{{"n":{n}}}"#));
                (payload.clone(), payload)
            }
            Self::Sleep(ms) => (format!(r#"{{"ms":{ms}}}"#).into(), format!("slept {ms}").into()),
        }
    }
}

/// A call that is due.
struct Due {
    at: Instant,
    payload: Bytes,
    answer: Bytes,
}

/// A load that is being sent.
#[derive(Debug)]
pub struct RunningLoad {
    report: oneshot::Receiver<Result<LoadReport>>,
}

impl RunningLoad {
    /// Waits until it was sent and every accepted call has its result, or has waited for one long enough.
    ///
    /// # Errors
    /// If callers are kept waiting for good, or what is found is no result.
    pub async fn report(self) -> Result<LoadReport> {
        self.report.await.context("the load broke off")?
    }
}

/// What is known of a call so far; the notice may come before Redis's answer to the caller.
#[derive(Debug, Default)]
struct Known {
    /// When it was due, and what it is to be answered with.
    sent: Option<(Instant, Bytes)>,
    notices: u32,
    first_notice: Option<Instant>,
}

/// Filled from two sides, the sender and the listener, each touching a call for a moment; a message would have to
/// carry every call through a third task that owns the map.
type Book = Arc<Mutex<HashMap<String, Known>>>;

impl Load {
    /// Starts it on a thread of its own, so that what the test does meanwhile delays no call. The function answers with
    /// its input, as `echo` does.
    #[must_use]
    pub fn start(self, redis: Address) -> RunningLoad {
        self.start_as(redis, Work::Echo)
    }

    /// As [`Load::start`], for a function that answers after `each`, as `sleep` does.
    #[must_use]
    pub fn start_sleeping(self, redis: Address, each: Duration) -> RunningLoad {
        self.start_as(redis, Work::Sleep(each.as_millis()))
    }

    fn start_as(self, redis: Address, work: Work) -> RunningLoad {
        let (tell, report) = oneshot::channel();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let report =
                runtime.context("a runtime for the load").and_then(|runtime| runtime.block_on(self.run(redis, work)));
            // The test may have failed already and be gone.
            let _ = tell.send(report);
        });
        RunningLoad { report }
    }

    /// Runs it, waits for the results of the accepted calls, and reports.
    async fn run(self, redis: Address, work: Work) -> Result<LoadReport> {
        let book = Book::default();
        let seats = Arc::new(Semaphore::new(self.in_flight_max));
        let reply = format!("load-{}", std::process::id());
        let mut listener = Listener::start(&redis, &reply, Arc::clone(&book), Arc::clone(&seats)).await?;
        let errors = self.send_all(&redis, &reply, work, (&book, &seats)).await?;

        let ids: Vec<String> = accepted(&book);
        let mut caller = Caller::of(&redis).await?;
        let results = match caller.results(&self.function, &ids, PATIENCE * 2).await {
            Ok(results) => results.into_iter().map(Some).collect(),
            // What is missing now is lost; if Redis is the trouble, this fails too.
            Err(_) => caller.results_now(&self.function, &ids).await?,
        };
        listener.catch_up().await?;

        let mut book = book.lock().expect("nobody panics with the book in hand");
        let mut report = LoadReport { calls: Vec::with_capacity(ids.len()), lost: Vec::new(), errors };
        for (id, result) in ids.into_iter().zip(results) {
            let Some(result) = result else {
                report.lost.push(id);
                continue;
            };
            let known = book.remove(&id).context("an accepted call is known")?;
            let (due, answer) = known.sent.context("an accepted call was sent")?;
            let latency = known.first_notice.map(|at| at.saturating_duration_since(due));
            report.calls.push(LoadedCall { id, notices: known.notices, latency, result, answer });
        }
        Ok(report)
    }

    /// Sends each call when it is due. Gives the errors.
    async fn send_all(
        &self,
        redis: &Address,
        reply: &str,
        work: Work,
        (book, seats): (&Book, &Semaphore),
    ) -> Result<Vec<String>> {
        let mut connection = redis.connect().await?;
        let calls_key = key(&self.function, "calls")?;
        let total = (self.lasts.as_secs_f64() * f64::from(self.per_second)).round() as u64;
        let start = Instant::now();
        let due_at = |n: u64| start + Duration::from_secs_f64(n as f64 / f64::from(self.per_second));
        let mut errors = Vec::new();
        let mut sent = 0;
        let mut ticks = tokio::time::interval(TICK);
        while sent < total {
            ticks.tick().await;
            let mut batch = Vec::new();
            while sent < total && due_at(sent) <= Instant::now() {
                let wait = tokio::time::timeout(PATIENCE, seats.acquire());
                let Ok(seat) = wait.await else { bail!("no call was answered for {PATIENCE:?}") };
                seat?.forget();
                let (payload, answer) = work.call(sent);
                batch.push(Due { at: due_at(sent), payload, answer });
                sent += 1;
            }
            if batch.is_empty() {
                continue;
            }
            if let Err(error) = add(&mut connection, &calls_key, reply, &batch, book).await {
                errors.push(format!("{} calls: {error:#}", batch.len()));
                seats.add_permits(batch.len());
                connection =
                    until("Redis can be reached again", PATIENCE, async || Ok(redis.connect().await.ok())).await?;
            }
        }
        Ok(errors)
    }
}

/// Sends a batch in one pipeline and writes down the ids.
async fn add(
    connection: &mut MultiplexedConnection,
    calls_key: &str,
    reply: &str,
    batch: &[Due],
    book: &Book,
) -> Result<()> {
    let mut pipeline = redis::pipe();
    for due in batch {
        pipeline.cmd("XADD").arg(calls_key).arg("*").arg("payload").arg(&due.payload[..]).arg("reply").arg(reply);
    }
    let ids: Vec<String> = pipeline.query_async(connection).await?;
    let mut book = book.lock().expect("nobody panics with the book in hand");
    for (id, due) in ids.into_iter().zip(batch) {
        book.entry(id).or_default().sent = Some((due.at, due.answer.clone()));
    }
    Ok(())
}

/// The ids that callers were told, in the order of their calls.
fn accepted(book: &Book) -> Vec<String> {
    let book = book.lock().expect("nobody panics with the book in hand");
    let mut ids: Vec<(Instant, String)> =
        book.iter().filter_map(|(id, known)| Some((known.sent.as_ref()?.0, id.clone()))).collect();
    ids.sort();
    ids.into_iter().map(|(_, id)| id).collect()
}

/// The task that hears the notices.
struct Listener {
    redis: Address,
    channel: String,
    heard_last: Arc<tokio::sync::Notify>,
    task: JoinHandle<Result<()>>,
}

impl Listener {
    async fn start(redis: &Address, reply: &str, book: Book, seats: Arc<Semaphore>) -> Result<Self> {
        let channel = format!("{PREFIX}:reply:{reply}");
        let mut subscription = redis.subscribe(&[&channel]).await?;
        let heard_last = Arc::new(tokio::sync::Notify::new());
        let (address, pattern, tell) = (redis.clone(), channel.clone(), Arc::clone(&heard_last));
        let task = tokio::spawn(async move {
            loop {
                while let Some((_, text)) = subscription.next().await {
                    if text.is_empty() {
                        tell.notify_one();
                    } else {
                        note(text, &book, &seats)?;
                    }
                }
                subscription = address.subscribe_again(&[&pattern]).await?;
            }
        });
        Ok(Self { redis: redis.clone(), channel, heard_last, task })
    }

    /// Waits until everything published before now was heard: an empty message on the channel stands behind it.
    async fn catch_up(&mut self) -> Result<()> {
        let mut connection = self.redis.connect().await?;
        let mut listeners: u32 = 0;
        until("the listener is subscribed", PATIENCE, async || {
            let mut publish = redis::cmd("PUBLISH");
            listeners = publish.arg(&self.channel).arg("").query_async(&mut connection).await?;
            Ok((listeners > 0).then_some(()))
        })
        .await?;
        tokio::select! {
            () = self.heard_last.notified() => Ok(()),
            ended = &mut self.task => ended?.context("the listener ended"),
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Writes down each document of a notice.
fn note(mut text: Bytes, book: &Book, seats: &Semaphore) -> Result<()> {
    let now = Instant::now();
    let mut book = book.lock().expect("nobody panics with the book in hand");
    while !text.is_empty() {
        let document = ResultDocument::decode(&mut text)?;
        let known = book.entry(document.id.to_string()).or_default();
        known.notices += 1;
        if known.first_notice.is_none() {
            known.first_notice = Some(now);
            seats.add_permits(1);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Redis;
    use crate::settings::GROUP;
    use baton_model::{CallId, Digest, Status};
    use std::collections::BTreeSet;

    const CALLS: &str = "baton:{default/echo}:calls";

    /// The plainest host that there can be: answers each call `times` times, from a component of the bytes `x`.
    async fn serve(redis: Address, times: usize) -> Result<()> {
        let mut connection = redis.connect().await?;
        redis::cmd("XGROUP").arg(&["CREATE", CALLS, GROUP, "0", "MKSTREAM"]).exec_async(&mut connection).await?;
        loop {
            type Entries = Vec<(String, HashMap<String, String>)>;
            let mut read = redis::cmd("XREADGROUP");
            read.arg(&["GROUP", GROUP, "me", "COUNT", "100", "BLOCK", "100", "STREAMS", CALLS, ">"]);
            let streams: Option<Vec<(String, Entries)>> = read.query_async(&mut connection).await?;
            let mut settle = redis::pipe();
            for (id, fields) in streams.into_iter().flatten().flat_map(|(_, entries)| entries) {
                let call_id = CallId::parse(&id).context("an entry id is a call id")?;
                let media_type = "application/json".to_owned();
                let payload = fields["payload"].clone().into();
                let mut document = ResultDocument::new(Status::Ok, call_id, media_type, payload);
                (document.attempts, document.digest) = (1, Some(Digest::of(b"x")));
                let text = document.encode();
                settle.cmd("SET").arg(format!("baton:{{default/echo}}:result:{id}")).arg(&text);
                settle.cmd("XACK").arg(&[CALLS, GROUP, &id]).cmd("XDEL").arg(&[CALLS, &id]);
                settle.cmd("PUBLISH").arg(format!("baton:reply:{}", fields["reply"])).arg(text.repeat(times));
            }
            // An empty pipeline would wait for an answer that never comes.
            if !settle.is_empty() {
                settle.exec_async(&mut connection).await?;
            }
        }
    }

    async fn report_of(times: usize) -> Result<LoadReport> {
        let redis = Redis::start().await?;
        let lasts = Duration::from_millis(500);
        let load = Load { function: "echo".into(), per_second: 400, lasts, in_flight_max: 1_000 };
        let report = tokio::select! {
            report = load.start(redis.address()).report() => report?,
            ended = serve(redis.address(), times) => bail!("the plain host ended: {ended:?}"),
        };
        Caller::of(&redis.address()).await?.quiescent("echo").await?;
        Ok(report)
    }

    #[tokio::test]
    async fn a_load_counts_each_call_and_its_answer_once() -> Result<()> {
        let report = report_of(1).await?;
        assert_eq!(report.calls.len(), 200);
        report.check_exact(&BTreeSet::from([Digest::of(b"x")]))?;
        assert!(report.check_answers(&BTreeSet::new()).is_err(), "a digest that was never published is found");
        assert!(report.quantile(0.5) <= report.quantile(0.99));
        Ok(())
    }

    #[tokio::test]
    async fn a_load_sees_a_second_answer() -> Result<()> {
        let report = report_of(2).await?;
        let published = BTreeSet::from([Digest::of(b"x")]);
        report.check_answers(&published)?;
        assert!(report.check_exact(&published).is_err());
        Ok(())
    }
}
