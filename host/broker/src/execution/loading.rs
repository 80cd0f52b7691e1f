//! How an execution is read from Redis. A long log comes in pages: while one is looked through, Redis writes the next.

use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use baton_model::execution::{LOG_EVENTS_MAX, Log, LogError, LogReader, Record};
use baton_model::{CallId, FunctionId, ReplyTo};
use futures_util::{StreamExt as _, TryStreamExt as _};
use redis::{Value, cmd, pipe};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::Executions;
use super::view::{Loaded, entry};
use crate::BrokerError;

/// How many entries one answer brings, and how many answers are asked for ahead. Of 256 and 6, 512 and 3, 1,024 and 1 to 3, and all in
/// one, the first read 10,000 entries soonest (57 ms with the chain looked at, where all in one took 94).
const PAGE: u64 = 256;
const AHEAD: usize = 6;

/// How many bytes of logs this process holds at once that have more than a page; who comes later waits. Each such log has this many
/// at the least, as what is built from it takes more than itself.
const HELD_BYTES_MAX: usize = 256 << 20;
const HELD_BYTES_MIN: usize = 64 << 10;
/// What is counted in one permit.
const PERMIT_BYTES: usize = 1 << 10;
/// How long anybody waits. Others need the seat.
const HOLD_PATIENCE: Duration = Duration::from_secs(2);

static HELD: LazyLock<Arc<Semaphore>> = LazyLock::new(|| Arc::new(Semaphore::new(HELD_BYTES_MAX / PERMIT_BYTES)));

const KNOWN: [&str; 13] = [
    "state", "run", "length", "steps", "began", "ended", "reply", "stuck", "move", "refused", "chain", "bytes",
    "failed",
];

/// Where the entries of a log go.
trait Entries: Default {
    fn put(&mut self, position: u64, record: Record);
}

impl Entries for Vec<(u64, Record)> {
    fn put(&mut self, position: u64, record: Record) {
        self.push((position, record));
    }
}

impl Entries for LogReader {
    fn put(&mut self, position: u64, record: Record) {
        self.take(position, &record);
    }
}

/// Entries that were read, and with what the last of them ends.
#[derive(Default)]
struct Part<E> {
    entries: E,
    count: u64,
    last: Option<(u64, Vec<u8>)>,
}

impl<E: Entries> Part<E> {
    fn take(&mut self, answer: Value) -> Result<(), BrokerError> {
        let Value::Array(rows) = answer else { return Err(shape()) };
        for row in rows {
            let (position, record) = entry(row).ok_or_else(shape)?;
            let link = record.iter().find(|(name, _)| name == "chain").map(|(_, link)| link.to_vec());
            self.last = Some((position, link.unwrap_or_default()));
            self.count += 1;
            self.entries.put(position, record);
        }
        Ok(())
    }

    /// Whether this is the log that the execution says it has.
    fn is_of(&self, known: &Loaded) -> bool {
        self.last.as_ref().is_some_and(|(position, link)| *position == known.length && link == known.link.as_bytes())
    }
}

fn shape() -> BrokerError {
    BrokerError::shape("the state of an execution", &Value::Nil)
}

impl Executions {
    /// An execution with its whole log as it stands. None if there is none of this id, or not any more.
    ///
    /// # Errors
    /// Any [`BrokerError`].
    pub async fn load(&self, function: &FunctionId, id: &CallId) -> Result<Option<Loaded>, BrokerError> {
        let loaded = self.fetch::<Vec<(u64, Record)>>(function, id).await?;
        Ok(loaded.map(|(known, log)| Loaded { log, ..known }))
    }

    /// An execution, and its log looked through; `log` of the first is empty. None if there is none of this id, or not any more.
    ///
    /// # Errors
    /// Any [`BrokerError`].
    pub async fn read(
        &self,
        function: &FunctionId,
        id: &CallId,
    ) -> Result<Option<(Loaded, Result<Log, LogError>)>, BrokerError> {
        let read = self.fetch::<LogReader>(function, id).await?;
        Ok(read.map(|(known, reader)| {
            let log = reader.end_at(known.length, &known.link);
            (known, log)
        }))
    }

    async fn fetch<E: Entries>(&self, function: &FunctionId, id: &CallId) -> Result<Option<(Loaded, E)>, BrokerError> {
        let Some((mut known, first)) = self.moment::<E>(function, id, Some(PAGE)).await? else { return Ok(None) };
        if first.count < PAGE {
            return Ok(Some((known, first.entries)));
        }
        let began = Instant::now();
        let held = hold(known.bytes).await?;
        if known.length <= LOG_EVENTS_MAX as u64 + PAGE {
            let whole = self.pages(function, id, first, known.length).await?;
            if whole.is_of(&known) {
                known.held = Some(held);
                known.now_ms += u64::try_from(began.elapsed().as_millis()).unwrap_or(0);
                return Ok(Some((known, whole.entries)));
            }
        }
        // It was begun anew while it was read, or is not what it should be: as it stands in one moment.
        let whole = self.moment::<E>(function, id, None).await?;
        Ok(whole.map(|(known, whole)| (Loaded { held: Some(held), ..known }, whole.entries)))
    }

    /// The pages of a log behind its first, in their order.
    async fn pages<E: Entries>(
        &self,
        function: &FunctionId,
        id: &CallId,
        first: Part<E>,
        length: u64,
    ) -> Result<Part<E>, BrokerError> {
        let log = self.keys.log(function, id);
        let page = |(after, last): (u64, Option<u64>)| {
            let mut ask = cmd("XRANGE");
            ask.arg(&log).arg(format!("({after}-0"));
            ask.arg(last.map_or_else(|| "+".to_owned(), |last| format!("{last}-0")));
            async move { self.link.run(&ask).await }
        };
        let answers = futures_util::stream::iter(pages_of(length)).map(page).buffered(AHEAD);
        answers.try_fold(first, async |mut part, answer| part.take(answer).map(|()| part)).await
    }

    /// What is known of it, and its log or so many of its first entries, as they stood in one moment.
    async fn moment<E: Entries>(
        &self,
        function: &FunctionId,
        id: &CallId,
        count: Option<u64>,
    ) -> Result<Option<(Loaded, Part<E>)>, BrokerError> {
        let mut all = pipe();
        all.atomic();
        all.cmd("HMGET").arg(self.keys.execution(function, id)).arg(&KNOWN);
        all.cmd("XRANGE").arg(self.keys.log(function, id)).arg("-").arg("+");
        if let Some(count) = count {
            all.arg("COUNT").arg(count);
        }
        all.cmd("TIME");
        let answer = match self.look(&all).await {
            Err(error) if self.link.is_worth_another(&error).await => self.look(&all).await?,
            other => other?,
        };
        let Value::Array(answers) = answer else { return Err(shape()) };
        let Ok([Value::Array(known), entries, time]) = <[Value; 3]>::try_from(answers) else { return Err(shape()) };
        let Some(known) = known_of(&known, time)? else { return Ok(None) };
        let mut part = Part { entries: E::default(), count: 0, last: None };
        part.take(entries)?;
        Ok(Some((known, part)))
    }
}

/// Behind which entries the pages of a log begin that come after its first, and with which they end; the last with whatever there is.
fn pages_of(length: u64) -> impl Iterator<Item = (u64, Option<u64>)> {
    let count = length.div_ceil(PAGE).max(2);
    (1..count).map(move |page| (page * PAGE, (page + 1 < count).then(|| (page + 1) * PAGE)))
}

/// Waits until a log of so many bytes may be held, too.
async fn hold(bytes: usize) -> Result<Arc<OwnedSemaphorePermit>, BrokerError> {
    let permits = bytes.clamp(HELD_BYTES_MIN, HELD_BYTES_MAX) / PERMIT_BYTES;
    let wait = HELD.clone().acquire_many_owned(u32::try_from(permits).unwrap_or(u32::MAX));
    match tokio::time::timeout(HOLD_PATIENCE, wait).await {
        Ok(Ok(held)) => Ok(Arc::new(held)),
        Ok(Err(_)) | Err(_) => {
            let rule =
                format!("this process reads event logs of {} MiB already; try again later", HELD_BYTES_MAX >> 20);
            Err(BrokerError::Unable(rule))
        }
    }
}

/// What the state says, in the order of [`KNOWN`].
fn known_of(known: &[Value], time: Value) -> Result<Option<Loaded>, BrokerError> {
    let known: Vec<Option<String>> =
        known.iter().map(|value| redis::from_redis_value_ref(value).ok().flatten()).collect();
    let text = |name: &str| KNOWN.iter().position(|known| *known == name).and_then(|at| known.get(at)?.as_deref());
    let number = |name: &str| text(name).and_then(|text| text.parse::<u64>().ok());
    let Some(state) = text("state") else { return Ok(None) };
    let small = |name| u32::try_from(number(name).unwrap_or(0)).unwrap_or(u32::MAX);
    let (seconds, micros): (u64, u64) = redis::from_redis_value(time).map_err(|_| shape())?;
    Ok(Some(Loaded {
        state: state.to_owned(),
        run: small("run"),
        length: number("length").unwrap_or(0),
        bytes: number("bytes").and_then(|bytes| usize::try_from(bytes).ok()).unwrap_or(0),
        link: text("chain").unwrap_or_default().to_owned(),
        steps: small("steps"),
        reply: text("reply").and_then(ReplyTo::parse),
        stuck: text("stuck").filter(|_| state == "stuck").map(str::to_owned),
        failed: text("failed").map(str::to_owned),
        wish: text("move").unwrap_or_default().to_owned(),
        refused: text("refused").map(str::to_owned),
        began_ms: number("began").unwrap_or(0),
        ended_ms: number("ended"),
        log: Vec::new(),
        now_ms: seconds * 1_000 + micros / 1_000,
        held: None,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pages_of_a_log_have_each_entry_once() {
        for length in PAGE..5 * PAGE + 2 {
            let mut next = PAGE;
            let mut pages = pages_of(length).peekable();
            while let Some((after, last)) = pages.next() {
                assert_eq!((after, last.is_none()), (next, pages.peek().is_none()), "{length}");
                next = last.unwrap_or(length);
            }
            assert_eq!(next, length);
        }
    }

    #[tokio::test]
    async fn no_more_than_so_much_is_held() {
        let half = hold(HELD_BYTES_MAX / 2).await.unwrap();
        let other = hold(HELD_BYTES_MAX / 2).await.unwrap();
        assert!(hold(0).await.unwrap_err().to_string().contains("256 MiB"));
        drop((half, other));
        // One log that is larger than all of it has it alone.
        let all = hold(usize::MAX).await.unwrap();
        drop(all);
        assert!(hold(0).await.is_ok());
    }
}
