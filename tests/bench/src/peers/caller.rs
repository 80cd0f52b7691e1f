//! A caller in a Node process of its own: orders go in and events come out as lines of JSON.

use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use baton_tests::Process;
use baton_tests::settings::PATIENCE;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::net::unix::pipe;
use tokio::process::Command;

use crate::folders;

/// A Node process that calls one peer.
pub(super) struct Caller {
    process: Process,
    orders: pipe::Sender,
    events: Lines<BufReader<pipe::Receiver>>,
}

/// What one window measured.
#[derive(Debug, Clone, Copy, Deserialize)]
pub(super) struct Window {
    pub(super) calls: u64,
    pub(super) seconds: f64,
    pub(super) p50_us: f64,
    pub(super) p99_us: f64,
}

/// What became of calls that were made all at once.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Burst {
    /// Of each answer: when it came, in Unix milliseconds, and after how many attempts.
    pub(super) answers: Vec<(u64, u32)>,
    /// How many callers were told of a failure.
    pub(super) failures: usize,
    /// The first of them.
    pub(super) failure: Option<String>,
}

impl Caller {
    /// Starts one that calls in this way; `address` is the socket of a Redis or a URL.
    pub(super) async fn start(way: &str, address: &str) -> Result<Self> {
        let (from_caller, to_us) = std::io::pipe()?;
        let (from_us, to_caller) = std::io::pipe()?;
        let mut command = Command::new("node");
        command.arg(folders::peers().join("caller.mjs")).args([way, address]).env("NODE_ENV", "production");
        command.stdin(Stdio::from(from_us)).stdout(to_us);
        let process = Process::start("the caller", command)?;
        let orders = pipe::Sender::from_owned_fd(to_caller.into())?;
        let events = BufReader::new(pipe::Receiver::from_owned_fd(from_caller.into())?).lines();
        let mut caller = Self { process, orders, events };
        caller.event("ready", PATIENCE).await?;
        Ok(caller)
    }

    pub(super) fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Keeps so many calls under way. `look` is called when the measured window begins and when it ends.
    pub(super) async fn window<T>(
        &mut self,
        in_flight: usize,
        warm_up: Duration,
        lasts: Duration,
        mut look: impl FnMut() -> Result<T>,
    ) -> Result<(Window, T, T)> {
        let (warm_up_ms, window_ms) = (ms(warm_up), ms(lasts));
        self.order(
            json!({"order": "window", "in_flight": in_flight, "warm_up_ms": warm_up_ms, "window_ms": window_ms}),
        )
        .await?;
        self.event("begin", warm_up + PATIENCE).await?;
        let before = look()?;
        let end = self.event("end", lasts + PATIENCE).await?;
        let after = look()?;
        self.event("done", PATIENCE).await?;
        let window: Window = serde_json::from_value(end).context("a window without a call has no quantiles")?;
        Ok((window, before, after))
    }

    /// Makes so many calls at once, each of which takes `each`; returns when `tell_after` of them were answered.
    pub(super) async fn burst(
        &mut self,
        calls: usize,
        each: Duration,
        tell_after: usize,
        limit: Duration,
    ) -> Result<()> {
        let (ms, limit_ms) = (ms(each), ms(limit));
        let order = json!({"order": "burst", "calls": calls, "ms": ms, "tell_after": tell_after, "limit_ms": limit_ms});
        self.order(order).await?;
        self.event("under way", PATIENCE).await?;
        Ok(())
    }

    /// Waits for what became of them.
    pub(super) async fn burst_over(&mut self, limit: Duration) -> Result<Burst> {
        Ok(serde_json::from_value(self.event("burst", limit + PATIENCE).await?)?)
    }

    async fn order(&mut self, order: Value) -> Result<()> {
        Ok(self.orders.write_all(format!("{order}\n").as_bytes()).await?)
    }

    async fn event(&mut self, name: &str, limit: Duration) -> Result<Value> {
        let line = tokio::time::timeout(limit, self.events.next_line()).await;
        let line = line.with_context(|| format!("the caller does not say `{name}` in {limit:?}"))??;
        let line = line.with_context(|| format!("the caller ended before it said `{name}`"))?;
        let event: Value = serde_json::from_str(&line).with_context(|| format!("the caller says {line:?}"))?;
        if event["event"] != name {
            bail!("the caller says {line} instead of `{name}`");
        }
        Ok(event)
    }
}

fn ms(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
