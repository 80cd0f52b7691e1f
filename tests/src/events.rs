//! The coordination channels of the contract, as one listener hears them.

use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use baton_model::{Digest, FunctionId, HostId};
use serde_json::Value;

use crate::redis_server::{Address, Subscription};
use crate::settings::PREFIX;

/// One message on a coordination channel.
#[derive(Debug, Clone)]
pub struct Event {
    /// The channel without its prefix, such as `function:ready:echo:default`.
    pub channel: String,
    /// What was said.
    pub message: Value,
    /// When it was heard, in Unix milliseconds.
    pub heard_ms: u64,
}

impl Event {
    /// Whether it tells `what` (`ready`, `shutdown`, `offline`) about this function.
    #[must_use]
    pub fn tells(&self, what: &str, function: &FunctionId) -> bool {
        self.channel == format!("function:{what}:{}:{}", function.function(), function.tenant())
    }

    /// Whether it tells of the health of a host that has this function.
    #[must_use]
    pub fn tells_health(&self, function: &FunctionId) -> bool {
        self.channel == format!("worker:health:{}:{}", function.function(), function.tenant())
    }

    /// Whether it came from this host.
    #[must_use]
    pub fn is_of(&self, host: &HostId) -> bool {
        self.message["host"] == host.as_str()
    }

    /// The digest in the message, if there is one.
    #[must_use]
    pub fn digest(&self) -> Option<Digest> {
        self.message.get("digest").and_then(Value::as_str).and_then(Digest::parse)
    }
}

/// A listener. What it heard and nobody waited for yet is kept, so that the order of waiting does not matter.
pub struct Events {
    subscription: Subscription,
    kept: Vec<Event>,
}

impl Events {
    /// Listens from now on for what is told about functions.
    ///
    /// # Errors
    /// If Redis is down.
    pub async fn of(redis: &Address) -> Result<Self> {
        let functions = format!("{PREFIX}:function:*");
        Ok(Self { subscription: redis.subscribe(&[&functions]).await?, kept: Vec::new() })
    }

    /// The same, and for what hosts tell about their health, which they do more often while somebody listens.
    ///
    /// # Errors
    /// If Redis is down.
    pub async fn with_health(redis: &Address) -> Result<Self> {
        let (functions, health) = (format!("{PREFIX}:function:*"), format!("{PREFIX}:worker:health:*"));
        Ok(Self { subscription: redis.subscribe(&[&functions, &health]).await?, kept: Vec::new() })
    }

    /// Everything that was told before now and that nobody waited for, in its order. Each is given out once.
    ///
    /// # Errors
    /// If the connection is lost.
    pub async fn heard(&mut self) -> Result<Vec<Event>> {
        let mut events = std::mem::take(&mut self.kept);
        for (channel, text) in self.subscription.drain().await? {
            events.push(event(&channel, &text)?);
        }
        Ok(events)
    }

    /// Waits for an event that `fits`; each event is given out once.
    ///
    /// # Errors
    /// If none comes within `limit`, or the connection is lost; the message lists what was heard instead.
    pub async fn wait_for(&mut self, what: &str, limit: Duration, fits: impl Fn(&Event) -> bool) -> Result<Event> {
        if let Some(found) = self.kept.iter().position(&fits) {
            return Ok(self.kept.remove(found));
        }
        let listen = async {
            while let Some((channel, text)) = self.subscription.next().await {
                let event = event(&channel, &text)?;
                if fits(&event) {
                    return Ok(event);
                }
                self.kept.push(event);
            }
            Err(anyhow!("the connection was lost"))
        };
        match tokio::time::timeout(limit, listen).await {
            Ok(found) => found.with_context(|| format!("listening for {what}")),
            Err(_) => Err(anyhow!("{what} was not told within {limit:?}; heard instead: {:#?}", self.kept)),
        }
    }

    /// Waits until the function is told to be ready, with this digest if one is given.
    ///
    /// # Errors
    /// As [`Events::wait_for`].
    pub async fn ready(&mut self, function: &str, digest: Option<Digest>, limit: Duration) -> Result<Event> {
        let function: FunctionId = function.parse()?;
        let what = format!("`ready` of {function} with digest {digest:?}");
        let fits = |event: &Event| event.tells("ready", &function) && (digest.is_none() || event.digest() == digest);
        self.wait_for(&what, limit, fits).await
    }
}

fn event(channel: &str, text: &[u8]) -> Result<Event> {
    let message = serde_json::from_slice(text)
        .with_context(|| format!("what was said on {channel} is no JSON: {:?}", String::from_utf8_lossy(text)))?;
    let channel = channel.strip_prefix(PREFIX).and_then(|rest| rest.strip_prefix(':')).unwrap_or(channel);
    Ok(Event { channel: channel.to_owned(), message, heard_ms: crate::now_ms() })
}
