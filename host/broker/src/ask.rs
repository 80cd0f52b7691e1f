//! Asking hosts what they alone know: which calls they have in their hands and since when an attempt runs, and what room
//! they have.

use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use baton_model::{HostId, RunningCall};
use redis::{Value, cmd};
use serde::de::DeserializeOwned;

use crate::BrokerError;
use crate::keys::Keys;
use crate::link::Link;
use crate::standing::{Answer, Word};

/// How long hosts have to answer. One that is frozen or far away is done without.
const PATIENCE: Duration = Duration::from_millis(300);
/// Between two looks at the answers.
const PAUSE: Duration = Duration::from_millis(3);

/// What came back.
pub(crate) struct Answers {
    /// The hosts that answered.
    pub(crate) hosts: HashSet<HostId>,
    /// The calls that they have.
    pub(crate) calls: Vec<RunningCall>,
}

/// Asks these hosts for their calls.
pub(crate) async fn ask(link: &Link, keys: &Keys, hosts: &[HostId]) -> Result<Answers, BrokerError> {
    let mut answers = Answers { hosts: HashSet::new(), calls: Vec::new() };
    for answer in ask_for::<Answer>(link, keys, hosts, Word::Calls).await? {
        answers.hosts.insert(answer.host);
        answers.calls.extend(answer.calls);
    }
    Ok(answers)
}

/// Asks these hosts and waits until all that are there have answered, or for as long as it is worth.
pub(crate) async fn ask_for<T: DeserializeOwned>(
    link: &Link,
    keys: &Keys,
    hosts: &[HostId],
    word: impl Fn(String) -> Word,
) -> Result<Vec<T>, BrokerError> {
    let mut answers = Vec::new();
    if hosts.is_empty() {
        return Ok(answers);
    }
    let question = question();
    let word = word(question.clone()).encode();
    let mut tell = redis::pipe();
    for host in hosts {
        tell.cmd("PUBLISH").arg(keys.host_channel(host)).arg(&word);
    }
    let heard = link.run_all(&tell).await?;
    let asked = heard.iter().filter(|heard| matches!(heard, Value::Int(1..))).count();
    let key = keys.answers(&question);
    let end = tokio::time::Instant::now() + PATIENCE;
    let mut came = 0;
    while came < asked && tokio::time::Instant::now() < end {
        tokio::time::sleep(PAUSE).await;
        let more = link.run(cmd("LRANGE").arg(&key).arg(came).arg(-1)).await?;
        let more: Vec<Vec<u8>> =
            redis::from_redis_value(more).map_err(|error| BrokerError::shape("LRANGE", &error.to_string()))?;
        came += more.len();
        answers.extend(more.iter().filter_map(|json| serde_json::from_slice::<T>(json).ok()));
    }
    if came > 0 {
        link.run(cmd("DEL").arg(&key)).await?;
    }
    Ok(answers)
}

/// A name that no other question has.
fn question() -> String {
    static ASKED: AtomicU64 = AtomicU64::new(0);
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    format!("{}-{}-{}", std::process::id(), since.as_nanos(), ASKED.fetch_add(1, Ordering::Relaxed))
}
