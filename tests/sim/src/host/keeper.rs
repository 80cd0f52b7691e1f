//! A host's place among the others: its presence connection, its record, what it hears. As `keeper.rs` and `standing.rs`.

use std::rc::Rc;

use baton_broker::Word;
use baton_model::{Digest, HostId, HostRecord, HostState, LoadedFunction, OfflineReason};

use super::{GROUP, Host};
use crate::command;
use crate::history::stream;
use crate::net::{Ask, Lost};
use crate::redis::{Reply, word};
use crate::time::{MS, first};

const LASTS_MS: u64 = 24 * 60 * 60 * 1000;
const ONLINE: &str = "baton:{hosts}:online";
const OFFLINE: &str = "baton:{hosts}:offline";
pub(super) const WORDS: &str = "baton:hosts";

pub(super) fn record_key(host: &str) -> String {
    format!("baton:{{hosts}}:host:{host}")
}

pub(super) fn channel(host: &str) -> String {
    format!("baton:host:{host}")
}

pub(super) fn say(word: &Word) -> Ask {
    Ask::Do(command!("PUBLISH", WORDS, serde_json::to_string(word).expect("a word")))
}

/// Takes a host out of those that are online.
pub(super) fn part(record: Option<&HostRecord>, host: &str, seen_ms: u64) -> Ask {
    let json = record.map(|record| serde_json::to_string(record).expect("a record")).unwrap_or_default();
    let silent_ms = match record.and_then(|record| record.reason) {
        Some(OfflineReason::Silent) => {
            record.map_or(-1, |record| i64::try_from(record.silent_after().as_millis()).unwrap_or(-1))
        }
        Some(OfflineReason::Shutdown | OfflineReason::Crashed) | None => -1,
    };
    let keys = command!(ONLINE, OFFLINE, record_key(host));
    Ask::Run("part", keys, command!(host, json, seen_ms, LASTS_MS, 200, silent_ms, LASTS_MS))
}

impl Host {
    pub(super) fn record(&self) -> HostRecord {
        let loaded = |function| LoadedFunction {
            function: format!("f{function}").parse().expect("a name"),
            digest: Digest::of(b"component"),
            schedules: Vec::new(),
        };
        HostRecord {
            id: HostId::parse(&self.name).expect("an id"),
            machine: "m".to_owned(),
            pid: 1,
            version: String::new(),
            state: if self.is_draining.get() { HostState::Draining } else { HostState::Online },
            seats: 1,
            in_flight: 0,
            lease_ms: self.settings.lease / MS,
            started_ms: 0,
            last_seen_ms: None,
            reason: None,
            functions: (0..self.settings.functions).map(loaded).collect(),
        }
    }
}

pub(super) async fn run(host: Rc<Host>) {
    let mut failures = 0;
    loop {
        let began = host.sim.now();
        _ = stand(&host).await;
        failures = if host.sim.now() - began > 1000 * MS { 1 } else { failures + 1 };
        host.sim.sleep(host.backoff(failures)).await;
        host.sim.sleep((began + 300 * MS).saturating_sub(host.sim.now())).await;
    }
}

async fn stand(host: &Rc<Host>) -> Result<(), Lost> {
    let connection = host.server.connect(host.process).await?;
    let channels = vec![channel(&host.name), WORDS.to_owned()];
    let name = format!("baton-presence-{}", host.name);
    connection.ask_in_time(vec![Ask::Name(name), Ask::Subscribe(channels)], Vec::new()).await?.ok_or(Lost)?;
    let mut is_new = true;
    loop {
        let began = host.sim.now();
        let mut write =
            command!("SET", record_key(&host.name), serde_json::to_string(&host.record()).expect("a record"));
        write.extend(command!("PX", LASTS_MS));
        let mut asks = vec![Ask::Do(write)];
        if is_new {
            asks.push(Ask::Do(command!("SADD", ONLINE, host.name)));
            asks.push(Ask::Do(command!("ZREM", OFFLINE, host.name)));
            asks.push(say(&Word::Joined(HostId::parse(&host.name).expect("an id"))));
        } else if let Ask::Do(write) = &mut asks[0] {
            write.push(word("XX"));
        }
        let replies = connection.ask_in_time(asks, Vec::new()).await?.ok_or(Lost)?;
        if !is_new && replies[0] == Reply::Nil {
            is_new = true;
            continue;
        }
        is_new = false;
        let beat_at = began + host.settings.lease * 2 / 5;
        while !is_new && host.sim.now() < beat_at {
            let wait = first(connection.pushes.pop(), host.is_missing.pop());
            match first(wait, host.sim.sleep(beat_at - host.sim.now())).await {
                Ok(Ok(push)) if push.is_empty() => return Err(Lost),
                Ok(Ok(push)) => serde_json::from_slice(&push).into_iter().for_each(|word| host.words.push(word)),
                Ok(Err(())) => is_new = true,
                Err(()) => {}
            }
        }
    }
}

/// Takes this host out of Redis in order.
pub(super) async fn leave(host: &Rc<Host>) {
    let now_ms = host.server.now_ms();
    let record = host.record().gone(OfflineReason::Shutdown, now_ms);
    let id = record.id.clone();
    _ = host.queue.ask(part(Some(&record), &host.name, now_ms)).await;
    _ = host.queue.ask(say(&Word::Gone(id, OfflineReason::Shutdown))).await;
    for function in 0..host.settings.functions {
        _ = host.queue.ask(Ask::Run("leave", command!(stream(function)), command!(GROUP, host.name))).await;
    }
}
