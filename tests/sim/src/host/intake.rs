//! Reading: seats first, then what was lost, then what is new. As `intake.rs`, `consumer.rs` and the broker's `reader.rs`.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use super::{Call, GROUP, Host, runner};
use crate::command;
use crate::history::{key, stream};
use crate::net::{Ask, Connection, Link, Lost, clients};
use crate::redis::Reply;
use crate::time::{MS, Queue, SECOND, Sim, first};

const BLOCK: u64 = 30 * SECOND;
const WATCHDOG: u64 = 5 * SECOND;

/// What the reader and those who wake it share.
pub(super) struct Wake {
    client: Cell<u64>,
    asked: Cell<u64>,
    answered: Cell<u64>,
    is_reading: Cell<bool>,
    /// Only for a host that drops its reads.
    dropped: Queue<()>,
    pub(super) has_ended: Cell<bool>,
}

impl Wake {
    pub(super) fn new(sim: &Sim) -> Self {
        let (client, asked, answered) = (Cell::default(), Cell::default(), Cell::default());
        Self {
            client,
            asked,
            answered,
            is_reading: Cell::default(),
            dropped: Queue::new(sim),
            has_ended: Cell::default(),
        }
    }
}

enum Failed {
    NoGroup,
    Other,
}

struct Reader {
    host: Rc<Host>,
    connection: RefCell<Option<Rc<Connection>>>,
}

impl Host {
    /// Makes the read that is under way, or the next one, return.
    pub(super) async fn wake_reader(&self) {
        let wake = &self.wake;
        wake.asked.set(wake.asked.get() + 1);
        if !self.settings.rules.unblocks {
            wake.dropped.push(());
            return;
        }
        let (wanted, end) = (wake.asked.get(), self.sim.now() + WATCHDOG);
        let link = Link::new(&self.server, self.process, None);
        let mut pause = 200;
        while wake.is_reading.get() && wake.asked.get() == wanted {
            if let Ok(Reply::Int(1)) = link.ask(Ask::Unblock(wake.client.get())).await {
                return;
            }
            if self.sim.now() >= end {
                return;
            }
            self.sim.sleep(pause).await;
            pause = (pause * 2).min(50 * MS);
        }
    }
}

pub(super) async fn run(host: Rc<Host>) {
    let reader = Reader { host: host.clone(), connection: RefCell::default() };
    let (mut failures, mut is_in_doubt) = (0, true);
    let mut suspects = false;
    while !host.is_draining.get() {
        if is_in_doubt {
            if reader.ensure().await.is_err() {
                failures += 1;
                host.sim.sleep(host.backoff(failures)).await;
                continue;
            }
            is_in_doubt = false;
        }
        let mut seats = host.take_seats(8).await;
        suspects |= host.may_have_lost.replace(false);
        let read = if suspects && host.settings.rules.recovers_own {
            let found = reader.recover().await.map_err(|Lost| Failed::Other);
            suspects &= found.is_err();
            found
        } else {
            reader.read(seats).await
        };
        match read {
            Ok(calls) => {
                failures = 0;
                let mut beyond: Vec<Rc<Call>> = calls.into_iter().filter_map(|call| host.board(call)).collect();
                beyond.reverse();
                while let Some(call) = beyond.pop() {
                    if seats == 0 {
                        seats = host.take_seats(beyond.len() + 1).await;
                    }
                    seats -= 1;
                    // It may have been given away while it waited.
                    match host.with_flight(&call, |flight| flight.stage) {
                        Some(super::Stage::Running(None)) => runner::start(&host, call),
                        Some(_) | None => seats += 1,
                    }
                }
                host.free_seats(seats);
            }
            Err(failed) => {
                host.free_seats(seats);
                let is_no_group = matches!(failed, Failed::NoGroup);
                if !is_no_group {
                    *reader.connection.borrow_mut() = None;
                    suspects = true;
                }
                is_in_doubt = host.settings.rules.repairs_groups || !is_no_group && is_in_doubt;
                failures += 1;
                host.sim.sleep(host.backoff(failures)).await;
            }
        }
    }
    host.wake.has_ended.set(true);
}

impl Reader {
    async fn ensure(&self) -> Result<(), Lost> {
        for function in 0..self.host.settings.functions {
            let (keys, args) = (command!(stream(function)), command!(GROUP));
            self.host.queue.ask(Ask::Run("ensure", keys, args)).await?;
        }
        Ok(())
    }

    async fn connect(&self) -> Result<Rc<Connection>, Lost> {
        if let Some(open) = self.connection.borrow().clone() {
            return Ok(open);
        }
        let host = &self.host;
        let fresh = Rc::new(host.server.connect(host.process).await?);
        let name = format!("baton-reader-{}", host.name);
        let asked = fresh.ask_in_time(vec![Ask::Name(name.clone()), Ask::Clients], Vec::new()).await?.ok_or(Lost)?;
        let old = host.wake.client.get();
        if clients(&asked[1]).any(|(id, other)| id == old && id != fresh.id && other == name) {
            fresh.ask_in_time(vec![Ask::Kill(old)], Vec::new()).await?.ok_or(Lost)?;
        }
        host.wake.client.set(fresh.id);
        *self.connection.borrow_mut() = Some(fresh.clone());
        Ok(fresh)
    }

    async fn read(&self, seats: usize) -> Result<Vec<Call>, Failed> {
        let wake = &self.host.wake;
        wake.is_reading.set(true);
        let answer = self.read_unless_woken(seats).await;
        wake.is_reading.set(false);
        answer
    }

    async fn read_unless_woken(&self, seats: usize) -> Result<Vec<Call>, Failed> {
        let (host, wake) = (&self.host, &self.host.wake);
        let asked = wake.asked.get();
        if asked != wake.answered.get() {
            wake.answered.set(asked);
            return Ok(Vec::new());
        }
        let connection = self.connect().await.map_err(|Lost| Failed::Other)?;
        let functions = host.settings.functions;
        let mut read =
            command!("XREADGROUP", "GROUP", GROUP, host.name, "COUNT", (seats / functions).max(1), "STREAMS");
        read.extend((0..functions).map(|function| stream(function).into_bytes()));
        read.extend((0..functions).map(|_| b">".to_vec()));
        let asked_at = host.sim.now();
        let answers = connection.send(vec![Ask::Block(read, BLOCK)], Vec::new());
        let answer = first(answers.pop(), first(host.sim.sleep(BLOCK + WATCHDOG), wake.dropped.pop())).await;
        wake.answered.set(asked);
        let replies = match answer {
            Ok(replies) => replies.map_err(|Lost| Failed::Other)?,
            Err(Ok(())) => return Err(Failed::Other),
            // The read is dropped, and Redis knows nothing of it.
            Err(Err(())) => return Ok(Vec::new()),
        };
        if let Reply::Error(error) = &replies[0] {
            return Err(if error.starts_with("NOGROUP") { Failed::NoGroup } else { Failed::Other });
        }
        let read = Some((asked_at, host.sim.now()));
        let mut calls = Vec::new();
        for pair in replies[0].parts() {
            let key = pair.parts()[0].to_text();
            let Some(function) = (0..functions).find(|function| stream(*function) == key) else { continue };
            calls.extend(
                pair.parts()[1].parts().iter().filter_map(|entry| host.parse(function, entry, 0, asked_at, read)),
            );
        }
        Ok(calls)
    }

    /// What is this host's and what nobody works on.
    async fn recover(&self) -> Result<Vec<Call>, Lost> {
        // The connection before it is closed at Redis first: it would go on to be handed entries.
        self.connect().await?;
        let (host, mut calls) = (&self.host, Vec::new());
        let asked = host.sim.now();
        for function in 0..host.settings.functions {
            let look = command!("XPENDING", stream(function), GROUP, "-", "+", 1000, host.name);
            for row in host.queue.ask(Ask::Do(look)).await?.parts() {
                let entry = row.parts()[0].to_text();
                if host.flights.borrow().contains_key(&(function, entry.clone())) {
                    continue;
                }
                let look = Ask::Do(command!("XRANGE", stream(function), entry, entry));
                let claims = Ask::Do(command!("HGET", key(function, "claims"), entry));
                let found = host.queue.ask_all(vec![look, claims], Vec::new()).await?;
                let claims = u32::try_from(found[1].to_int()).unwrap_or(0);
                if host.settings.rules.renews_recovered && !found[0].parts().is_empty() {
                    let keys = command!(stream(function), key(function, "claims"));
                    let renew = Ask::Run("renew", keys, command!(GROUP, host.name, entry, claims));
                    if host.queue.ask(renew).await?.parts() != [Reply::Int(1)] {
                        continue;
                    }
                }
                match found[0].parts().first() {
                    Some(entry) => calls.extend(host.parse(function, entry, claims, asked, None)),
                    None => {
                        let forget = Ask::Do(command!("XACK", stream(function), GROUP, entry));
                        let claims = Ask::Do(command!("HDEL", key(function, "claims"), entry));
                        host.queue.ask_all(vec![forget, claims], Vec::new()).await?;
                    }
                }
            }
        }
        Ok(calls)
    }
}
