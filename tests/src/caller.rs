//! A caller that knows nothing but Redis and the contract.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use baton_model::{FunctionId, ResultDocument};
use bytes::Bytes;
use redis::aio::MultiplexedConnection;

use crate::redis_server::Address;
use crate::settings::{GROUP, PATIENCE, PREFIX};
use crate::wait::until;

/// How the call streams of one function end: that of normal calls, and those of the other levels.
const LEVELS: [&str; 3] = ["", ":high", ":low"];

/// One entry of a function's dead letters.
#[derive(Debug)]
pub struct DeadLetter {
    fields: BTreeMap<String, Vec<u8>>,
}

impl DeadLetter {
    /// A field as text; empty if it is not there.
    #[must_use]
    pub fn text(&self, field: &str) -> String {
        self.fields.get(field).map(|value| String::from_utf8_lossy(value).into_owned()).unwrap_or_default()
    }

    /// A field as it is.
    #[must_use]
    pub fn bytes(&self, field: &str) -> Option<&[u8]> {
        self.fields.get(field).map(Vec::as_slice)
    }
}

/// Sends calls and reads what became of them.
#[derive(Debug, Clone)]
pub struct Caller {
    connection: MultiplexedConnection,
}

impl Caller {
    /// A caller on this Redis.
    ///
    /// # Errors
    /// If it is down.
    pub async fn of(redis: &Address) -> Result<Self> {
        Ok(Self { connection: redis.connect().await? })
    }

    /// Its connection, for what a caller does not do.
    pub fn connection(&mut self) -> &mut MultiplexedConnection {
        &mut self.connection
    }

    /// Adds an entry with exactly these fields to the function's stream; gives the entry's id.
    ///
    /// # Errors
    /// If Redis does not take it.
    pub async fn add(&mut self, function: &str, fields: &[(&str, &[u8])]) -> Result<String> {
        self.add_at(function, "", fields).await
    }

    /// The same in the stream of a level, `:high` or `:low`; gives the id of the call.
    ///
    /// # Errors
    /// If Redis does not take it.
    pub async fn add_at(&mut self, function: &str, level: &str, fields: &[(&str, &[u8])]) -> Result<String> {
        let mut command = redis::cmd("XADD");
        command.arg(key(function, &format!("calls{level}"))?).arg("*");
        for (name, value) in fields {
            command.arg(name).arg(*value);
        }
        let entry: String = command.query_async(&mut self.connection).await?;
        Ok(format!("{entry}{}", level.replace(':', "-")))
    }

    /// Sends a call with nothing but a payload; gives its id.
    ///
    /// # Errors
    /// If Redis does not take it.
    pub async fn send(&mut self, function: &str, payload: impl AsRef<[u8]>) -> Result<String> {
        self.add(function, &[("payload", payload.as_ref())]).await
    }

    /// Sends the same call `count` times in one go; gives the ids.
    ///
    /// # Errors
    /// If Redis does not take them.
    pub async fn send_many(&mut self, function: &str, payload: &str, count: usize) -> Result<Vec<String>> {
        let mut pipeline = redis::pipe();
        for _ in 0..count {
            pipeline.cmd("XADD").arg(key(function, "calls")?).arg("*").arg("payload").arg(payload);
        }
        Ok(pipeline.query_async(&mut self.connection).await?)
    }

    /// Sends a call and waits for its result.
    ///
    /// # Errors
    /// If Redis does not take it, or there is no result in time.
    pub async fn call(&mut self, function: &str, payload: impl AsRef<[u8]>) -> Result<ResultDocument> {
        let id = self.send(function, payload).await?;
        self.result(function, &id).await
    }

    /// What stands under the key of a call's result, byte for byte.
    ///
    /// # Errors
    /// If Redis does not answer.
    pub async fn result_bytes(&mut self, function: &str, id: &str) -> Result<Option<Vec<u8>>> {
        Ok(redis::cmd("GET").arg(result_key(function, id)?).query_async(&mut self.connection).await?)
    }

    /// The result of a call, if there is one.
    ///
    /// # Errors
    /// If what stands under its key is no result document, or more than one.
    pub async fn result_now(&mut self, function: &str, id: &str) -> Result<Option<ResultDocument>> {
        let text = self.result_bytes(function, id).await?;
        text.map(|text| one_document(text).with_context(|| format!("the result of {function} {id}"))).transpose()
    }

    /// Waits for the result of a call.
    ///
    /// # Errors
    /// If there is none in time.
    pub async fn result(&mut self, function: &str, id: &str) -> Result<ResultDocument> {
        self.result_within(function, id, PATIENCE).await
    }

    /// Waits at most `limit` for the result of a call.
    ///
    /// # Errors
    /// If there is none.
    pub async fn result_within(&mut self, function: &str, id: &str, limit: Duration) -> Result<ResultDocument> {
        until(&format!("a result of {function} {id}"), limit, async || self.result_now(function, id).await).await
    }

    /// Waits for the results of all these calls, in their order.
    ///
    /// # Errors
    /// If one is missing after `limit`; the message counts them.
    pub async fn results(&mut self, function: &str, ids: &[String], limit: Duration) -> Result<Vec<ResultDocument>> {
        let mut answered = 0;
        let what = format!("results of all {} calls of {function}", ids.len());
        let wait = until(&what, limit, async || {
            let found = self.results_now(function, ids).await?;
            answered = found.iter().flatten().count();
            Ok((answered == ids.len()).then(|| found.into_iter().flatten().collect()))
        });
        wait.await.with_context(|| format!("{answered} of {} have one", ids.len()))
    }

    /// The results that there are for these calls, in their order.
    ///
    /// # Errors
    /// If what stands under a key is no result document, or more than one.
    pub async fn results_now(&mut self, function: &str, ids: &[String]) -> Result<Vec<Option<ResultDocument>>> {
        let mut documents = Vec::with_capacity(ids.len());
        for some in ids.chunks(500) {
            let keys: Vec<String> = some.iter().map(|id| result_key(function, id)).collect::<Result<_>>()?;
            let texts: Vec<Option<Vec<u8>>> = redis::cmd("MGET").arg(&keys).query_async(&mut self.connection).await?;
            for text in texts {
                documents.push(text.map(one_document).transpose()?);
            }
        }
        Ok(documents)
    }

    /// How long the result of a call is kept from now on, in milliseconds; negative if it is not, as `PTTL` says it.
    ///
    /// # Errors
    /// If Redis does not answer.
    pub async fn result_ttl_ms(&mut self, function: &str, id: &str) -> Result<i64> {
        Ok(redis::cmd("PTTL").arg(result_key(function, id)?).query_async(&mut self.connection).await?)
    }

    /// How many entries the function's streams have, settled ones not counted: they are gone.
    ///
    /// # Errors
    /// If Redis does not answer.
    pub async fn entries(&mut self, function: &str) -> Result<usize> {
        let mut look = redis::pipe();
        for level in LEVELS {
            look.cmd("XLEN").arg(key(function, &format!("calls{level}"))?);
        }
        let lengths: Vec<usize> = look.query_async(&mut self.connection).await?;
        Ok(lengths.into_iter().sum())
    }

    /// The function's pending entries: entry id, with its level behind it, and consumer of each. None are pending where there
    /// is no group yet.
    ///
    /// # Errors
    /// If Redis does not answer.
    pub async fn pending(&mut self, function: &str) -> Result<Vec<(String, String)>> {
        let mut pending = Vec::new();
        for level in LEVELS {
            let mut command = redis::cmd("XPENDING");
            command.arg(key(function, &format!("calls{level}"))?).arg(GROUP).arg("-").arg("+").arg(1000);
            let rows: redis::RedisResult<Vec<(String, String, u64, u64)>> =
                command.query_async(&mut self.connection).await;
            let id = |entry: String| format!("{entry}{}", level.replace(':', "-"));
            match rows {
                Ok(rows) => pending.extend(rows.into_iter().map(|(entry, consumer, _, _)| (id(entry), consumer))),
                Err(error) if error.code() == Some("NOGROUP") => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(pending)
    }

    /// Waits until `count` entries of the function are pending: that many attempts have been taken.
    ///
    /// # Errors
    /// If it does not come to that in time.
    pub async fn until_pending(&mut self, function: &str, count: usize) -> Result<Vec<(String, String)>> {
        until(&format!("{count} entries of {function} are pending"), PATIENCE, async || {
            let pending = self.pending(function).await?;
            Ok((pending.len() == count).then_some(pending))
        })
        .await
    }

    /// How many calls of the function wait for their time.
    ///
    /// # Errors
    /// If Redis does not answer.
    pub async fn delayed(&mut self, function: &str) -> Result<usize> {
        Ok(redis::cmd("ZCARD").arg(key(function, "delayed")?).query_async(&mut self.connection).await?)
    }

    /// How many timers the executions of the function have.
    ///
    /// # Errors
    /// If Redis does not answer.
    pub async fn timers(&mut self, function: &str) -> Result<usize> {
        Ok(redis::cmd("ZCARD").arg(key(function, "timers")?).query_async(&mut self.connection).await?)
    }

    /// Waits until nothing of the function is left to do: no entry, nothing pending, nothing delayed, no timer.
    ///
    /// # Errors
    /// If it does not come to that in time; the message says what is left.
    pub async fn quiescent(&mut self, function: &str) -> Result<()> {
        let mut left = String::new();
        let what = format!("{function} has nothing left to do");
        let wait = until(&what, PATIENCE, async || {
            let (entries, pending) = (self.entries(function).await?, self.pending(function).await?);
            let (delayed, timers) = (self.delayed(function).await?, self.timers(function).await?);
            left = format!("{entries} entries, {delayed} delayed, {timers} timers, pending: {pending:?}");
            Ok((entries == 0 && pending.is_empty() && delayed == 0 && timers == 0).then_some(()))
        });
        wait.await.with_context(|| format!("left are {left}"))
    }

    /// The dead letters of a function.
    ///
    /// # Errors
    /// If one has a field twice.
    pub async fn dead(&mut self, function: &str) -> Result<Vec<DeadLetter>> {
        type Entry = (String, Vec<(String, Vec<u8>)>);
        let mut command = redis::cmd("XRANGE");
        command.arg(key(function, "dead")?).arg("-").arg("+");
        let entries: Vec<Entry> = command.query_async(&mut self.connection).await?;
        let letter = |(_, fields): Entry| DeadLetter { fields: fields.into_iter().collect() };
        Ok(entries.into_iter().map(letter).collect())
    }

    /// Waits until the function has `count` dead letters, and gives them.
    ///
    /// # Errors
    /// If it does not come to that in time.
    pub async fn until_dead(&mut self, function: &str, count: usize) -> Result<Vec<DeadLetter>> {
        until(&format!("{function} has {count} dead letters"), PATIENCE, async || {
            let dead = self.dead(function).await?;
            Ok((dead.len() == count).then_some(dead))
        })
        .await
    }

    /// The consumers that the function's group knows.
    ///
    /// # Errors
    /// If Redis does not answer.
    pub async fn consumers(&mut self, function: &str) -> Result<Vec<String>> {
        let mut command = redis::cmd("XINFO");
        command.arg("CONSUMERS").arg(key(function, "calls")?).arg(GROUP);
        let rows: Vec<BTreeMap<String, redis::Value>> = command.query_async(&mut self.connection).await?;
        rows.into_iter()
            .filter_map(|mut row| row.remove("name"))
            .map(|name| Ok(redis::from_redis_value(name)?))
            .collect()
    }
}

/// `baton:{tenant/function}:<what>`.
pub(crate) fn key(function: &str, what: &str) -> Result<String> {
    let function: FunctionId = function.parse()?;
    Ok(format!("{PREFIX}:{{{function}}}:{what}"))
}

fn result_key(function: &str, id: &str) -> Result<String> {
    key(function, &format!("result:{id}"))
}

/// The one document that a result key holds.
fn one_document(text: Vec<u8>) -> Result<ResultDocument> {
    let mut rest = Bytes::from(text);
    let document = ResultDocument::decode(&mut rest)?;
    ensure!(rest.is_empty(), "{} bytes stand behind the document", rest.len());
    Ok(document)
}
