//! Plays the faults, and writes down when each began and when the world was whole again.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use baton_tests::{CLIENT_NAME, Link, Redis, Signal, truncations, wrong_world};
use serde_json::{Value, json};
use tokio::sync::{Mutex, OwnedMutexGuard};
use tokio::task::JoinSet;

use crate::builds::Builds;
use crate::history::{Book, History};
use crate::schedule::{Event, Fault};
use crate::slots::Slot;
use crate::world::World;

/// Beyond its drain limit a host may need so long to end: what depends on Redis alone has 5 s, the gateway 3 s.
const BEYOND_DRAIN: Duration = Duration::from_secs(10);

/// Redis with its world; what is done to it is done one after the other.
pub(crate) struct Server {
    /// The world.
    pub(crate) world: World,
    /// The server.
    pub(crate) redis: Redis,
}

/// Everything that can be broken.
pub(crate) struct Player {
    /// The books.
    pub(crate) history: Arc<History>,
    /// Each place belongs to one fault at a time.
    pub(crate) slots: Vec<Arc<Mutex<Slot>>>,
    /// Redis belongs to one fault at a time.
    pub(crate) server: Arc<Mutex<Server>>,
    /// What is in the folders.
    pub(crate) builds: Arc<Mutex<Builds>>,
    /// How long a host may drain.
    pub(crate) drain: Duration,
    /// Whether the last host is neither killed nor stopped.
    pub(crate) spares: bool,
}

/// Something that was broken, and is told to be whole when it is.
struct Broken {
    history: Arc<History>,
    line: Value,
}

impl Broken {
    fn whole(self, facts: Value) {
        let mut line = self.line;
        line["ev"] = "whole".into();
        if let (Some(line), Value::Object(facts)) = (line.as_object_mut(), facts) {
            line.extend(facts);
        }
        self.history.write(Book::Faults, line);
    }
}

impl Player {
    /// Plays them all, each when it is due, and ends when the world is whole. Gives what could not be played. To be run in
    /// a `LocalSet`.
    pub(crate) async fn play(
        self: Arc<Self>,
        events: Vec<Event>,
        start: Instant,
        tell: impl Fn(&Event),
    ) -> Vec<String> {
        let mut playing = JoinSet::new();
        let mut failed = Vec::new();
        let mut note = |ended: Result<(Event, Result<()>), tokio::task::JoinError>| match ended {
            Ok((_, Ok(()))) => {}
            Ok((event, Err(error))) => failed.push(format!("{} at {:?}: {error:#}", event.fault.name(), event.at)),
            Err(error) => failed.push(format!("a fault ended by a panic: {error}")),
        };
        for (n, event) in events.into_iter().enumerate() {
            tokio::time::sleep_until((start + event.at).into()).await;
            tell(&event);
            let player = Arc::clone(&self);
            playing.spawn_local(async move { (event, player.one(n, &event).await) });
            while let Some(ended) = playing.try_join_next() {
                note(ended);
            }
        }
        while let Some(ended) = playing.join_next().await {
            note(ended);
        }
        failed
    }

    async fn one(&self, n: usize, event: &Event) -> Result<()> {
        match event.fault {
            Fault::KillHost | Fault::FreezeHost | Fault::StopHost | Fault::JumpHostClock => self.host(n, event).await,
            Fault::CutLink | Fault::HalfOpenLink | Fault::DropReplies | Fault::HoldLink | Fault::SlowLink => {
                self.link(n, event).await
            }
            Fault::KillReader | Fault::KillSettler | Fault::KillPresence | Fault::KillNameless => {
                self.connections(n, event).await
            }
            Fault::KillRedis
            | Fault::FreezeRedis
            | Fault::SlowDisk
            | Fault::FullDisk
            | Fault::FullMemory
            | Fault::JumpClock
            | Fault::FlushAll => self.server(n, event).await,
            Fault::Reload => self.reload(n, event).await,
            Fault::BadFile => self.bad_file(n, event).await,
        }
    }

    fn breaks(&self, n: usize, event: &Event, facts: Value) -> Broken {
        let mut line = json!({"ev": "fault", "n": n, "fault": event.fault.name()});
        if let (Some(line), Value::Object(facts)) = (line.as_object_mut(), facts) {
            line.extend(facts);
        }
        self.history.write(Book::Faults, line.clone());
        Broken { history: Arc::clone(&self.history), line }
    }

    /// The place that is meant, or the next one where a host is and nobody else is at work.
    async fn slot(&self, wanted: usize, ends: bool) -> Result<(usize, OwnedMutexGuard<Slot>)> {
        let count = if ends && self.spares { self.slots.len() - 1 } else { self.slots.len() };
        for at in (0..count).map(|step| (wanted + step) % count) {
            if let Ok(mut slot) = Arc::clone(&self.slots[at]).try_lock_owned()
                && slot.runs()?
            {
                return Ok((at, slot));
            }
        }
        // All are at work: this one is waited for.
        let at = wanted % count;
        let slot = Arc::clone(&self.slots[at]).lock_owned().await;
        Ok((at, slot))
    }

    async fn host(&self, n: usize, event: &Event) -> Result<()> {
        let ends = matches!(event.fault, Fault::KillHost | Fault::StopHost);
        let (at, mut slot) = self.slot(event.slot, ends).await?;
        let broken = self.breaks(n, event, json!({"slot": at, "host": slot.host}));
        match event.fault {
            Fault::JumpHostClock => {
                let ahead_ms = slot.world.jump(event.amount)?;
                broken.whole(json!({"host_ahead_ms": ahead_ms}));
            }
            Fault::FreezeHost => {
                slot.signal(Signal::STOP)?;
                tokio::time::sleep(event.lasts).await;
                slot.signal(Signal::CONT)?;
                broken.whole(json!({}));
            }
            Fault::StopHost => {
                let (code, ms) = slot.stop(self.drain + BEYOND_DRAIN).await?;
                broken.whole(json!({"code": code, "ms": ms, "drain_ms": self.drain.as_millis() as u64}));
                tokio::time::sleep(event.lasts).await;
                slot.start().await?;
            }
            _kill => {
                slot.kill().await?;
                tokio::time::sleep(event.lasts).await;
                slot.start().await?;
                broken.whole(json!({}));
            }
        }
        Ok(())
    }

    async fn link(&self, n: usize, event: &Event) -> Result<()> {
        let (at, slot) = self.slot(event.slot, false).await?;
        let link = match event.fault {
            Fault::CutLink => Link::Cut,
            Fault::HalfOpenLink => Link::HalfOpen,
            Fault::DropReplies => Link::Unanswered,
            Fault::HoldLink => Link::Held,
            _slow => Link::Slow(Duration::from_millis(event.amount.unsigned_abs())),
        };
        let broken = self.breaks(n, event, json!({"slot": at, "host": slot.host}));
        slot.link.set(link);
        tokio::time::sleep(event.lasts).await;
        slot.link.set(Link::Pass);
        broken.whole(json!({}));
        Ok(())
    }

    /// Has Redis close connections: those of one host by their names, or all that have none.
    async fn connections(&self, n: usize, event: &Event) -> Result<()> {
        let (at, slot) = self.slot(event.slot, false).await?;
        let kind = event.fault.name().trim_start_matches("kill-");
        let wanted = format!("baton-{kind}-{}", slot.host);
        let is_wanted = |name: &str| match event.fault {
            Fault::KillNameless => name != CLIENT_NAME && !name.starts_with("baton-"),
            _named => name == wanted,
        };
        let address = self.server.lock().await.redis.address();
        let mut redis = address.connect().await?;
        let list: String = redis::cmd("CLIENT").arg("LIST").query_async(&mut redis).await?;
        let broken = self.breaks(n, event, json!({"slot": at, "host": slot.host}));
        let mut killed = 0;
        for line in list.lines() {
            let fields: BTreeMap<&str, &str> = line.split(' ').filter_map(|field| field.split_once('=')).collect();
            let (Some(id), Some(name)) = (fields.get("id"), fields.get("name")) else { continue };
            if is_wanted(name) {
                killed += redis::cmd("CLIENT").arg(&["KILL", "ID", id]).query_async::<u32>(&mut redis).await?;
            }
        }
        broken.whole(json!({"closed": killed}));
        Ok(())
    }

    async fn server(&self, n: usize, event: &Event) -> Result<()> {
        let mut server = Arc::clone(&self.server).lock_owned().await;
        let Server { world, redis } = &mut *server;
        let broken = self.breaks(n, event, json!({"amount": event.amount}));
        match event.fault {
            Fault::KillRedis => {
                redis.kill9().await?;
                tokio::time::sleep(event.lasts).await;
                redis.restart().await?;
            }
            Fault::FreezeRedis => {
                redis.signal(Signal::STOP)?;
                tokio::time::sleep(event.lasts).await;
                redis.signal(Signal::CONT)?;
            }
            Fault::SlowDisk => {
                world.slow_disk(event.amount)?;
                tokio::time::sleep(event.lasts).await;
                world.slow_disk(0)?;
            }
            Fault::FullDisk => {
                world.full_disk(true)?;
                // With `always` Redis gives up at the first write that fails, and hosts write all the time.
                let ended = redis.ends_within(Duration::from_secs(10)).await;
                tokio::time::sleep(event.lasts).await;
                world.full_disk(false)?;
                ended.context("Redis goes on although its disk is full")?;
                redis.restart().await?;
            }
            Fault::FullMemory => {
                let mut connection = redis.connect().await?;
                let set = async |bytes: u64, connection: &mut redis::aio::MultiplexedConnection| {
                    redis::cmd("CONFIG").arg(&["SET", "maxmemory", &bytes.to_string()]).exec_async(connection).await
                };
                set(1_000_000, &mut connection).await?;
                tokio::time::sleep(event.lasts).await;
                set(0, &mut connection).await?;
            }
            Fault::JumpClock => {
                let ahead_ms = world.jump(event.amount)?;
                broken.whole(json!({"ahead_ms": ahead_ms}));
                return Ok(());
            }
            _flush => {
                let mut connection = redis.connect().await?;
                redis::cmd("FLUSHALL").exec_async(&mut connection).await?;
            }
        }
        broken.whole(json!({}));
        Ok(())
    }

    /// Another build, in all folders: at once, or one after the other.
    async fn reload(&self, n: usize, event: &Event) -> Result<()> {
        {
            let mut builds = self.builds.lock().await;
            builds.next();
            self.history.write(Book::Faults, builds.json()?);
        }
        let broken = self.breaks(n, event, json!({}));
        for slot in &self.slots {
            // The place first and then the builds, as everywhere: the other way round two faults would wait for each other.
            let slot = slot.lock().await;
            self.builds.lock().await.install(&slot.folder)?;
            drop(slot);
            if event.amount == 0 {
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
        }
        broken.whole(json!({}));
        Ok(())
    }

    /// Something else in the place of a function, at one host.
    async fn bad_file(&self, n: usize, event: &Event) -> Result<()> {
        let (at, slot) = self.slot(event.slot, false).await?;
        let good = self.builds.lock().await.witness()?;
        let cuts = truncations(&good);
        let wrong = wrong_world()?;
        let bad: &[u8] = match event.amount {
            0 => b"no component at all",
            1 => &wrong.first().context("there are wrong worlds")?.1,
            2 => cuts.last().context("there are cuts")?,
            _cut => cuts[cuts.len() / 2],
        };
        let broken = self.breaks(n, event, json!({"slot": at, "host": slot.host}));
        // In place, as a careless `cp` does it.
        slot.folder.copy("witness", bad)?;
        tokio::time::sleep(event.lasts).await;
        // A reload meanwhile waits for this place, so the build of now is the right one.
        self.builds.lock().await.install(&slot.folder)?;
        broken.whole(json!({}));
        Ok(())
    }
}
