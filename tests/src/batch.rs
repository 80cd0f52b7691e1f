//! Calls that were sent together, and how often their caller was told of each.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Result, ensure};
use baton_model::{ResultDocument, Status};

use crate::caller::{Caller, key};
use crate::redis_server::{Address, Subscription};
use crate::settings::PREFIX;

/// The suffix under which batches listen. Several of one test share it: each looks for its own ids.
const REPLY: &str = "batch";

/// Calls to one function, with the same payload.
pub struct Batch {
    function: String,
    caller: Caller,
    notices: Subscription,
    told: BTreeMap<String, u32>,
    /// Their ids, in the order in which they were accepted.
    pub ids: Vec<String>,
}

impl Batch {
    /// Sends `count` calls in one go.
    ///
    /// # Errors
    /// If Redis does not take them.
    pub async fn send(redis: &Address, function: &str, payload: &str, count: usize) -> Result<Self> {
        let notices = redis.subscribe(&[&format!("{PREFIX}:reply:{REPLY}")]).await?;
        let mut caller = Caller::of(redis).await?;
        let mut pipeline = redis::pipe();
        for _ in 0..count {
            pipeline.cmd("XADD").arg(key(function, "calls")?).arg(&["*", "payload", payload, "reply", REPLY]);
        }
        let ids = pipeline.query_async(caller.connection()).await?;
        Ok(Self { function: function.to_owned(), caller, notices, told: BTreeMap::new(), ids })
    }

    /// Waits until all of them are pending: taken by hosts, and none of them answered. Gives the consumer of each.
    ///
    /// # Errors
    /// If it does not come to that in time.
    pub async fn owners(&mut self) -> Result<BTreeMap<String, String>> {
        Ok(self.caller.until_pending(&self.function, self.ids.len()).await?.into_iter().collect())
    }

    /// Waits until each has its answer, and checks that none is an error.
    ///
    /// # Errors
    /// If one has none within `limit`, or is an error.
    pub async fn answers(&mut self, limit: Duration) -> Result<Vec<ResultDocument>> {
        let answers = self.caller.results(&self.function, &self.ids, limit).await?;
        for answer in &answers {
            ensure!(answer.status == Status::Ok, "{answer:?}");
        }
        Ok(answers)
    }

    /// Checks that the caller was told of each of them once, up to now.
    ///
    /// # Errors
    /// If not, or if the connection to Redis was lost meanwhile.
    pub async fn check_notices(&mut self) -> Result<()> {
        for (_, mut text) in self.notices.drain().await? {
            while !text.is_empty() {
                *self.told.entry(ResultDocument::decode(&mut text)?.id.to_string()).or_default() += 1;
            }
        }
        let times = |id: &String| self.told.get(id).copied().unwrap_or(0);
        let wrong: Vec<(&String, u32)> =
            self.ids.iter().map(|id| (id, times(id))).filter(|(_, times)| *times != 1).collect();
        ensure!(wrong.is_empty(), "the caller is told of each once, not so of these: {wrong:?}");
        Ok(())
    }
}
