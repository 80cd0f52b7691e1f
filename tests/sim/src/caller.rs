//! Callers: they send calls, some of them twice, and read the results.

use std::rc::Rc;

use crate::command;
use crate::history::{result_key, stream};
use crate::net::{Ask, EPOCH_MS, Link, Server};
use crate::redis::Reply;
use crate::time::{MS, Process, SECOND, Sim};

/// The process that all callers are.
pub(crate) const CALLERS: Process = 0;

/// One call, as it is to be made.
#[derive(Debug, Clone)]
pub(crate) struct Order {
    pub(crate) at: u64,
    pub(crate) function: usize,
    pub(crate) payload: String,
    pub(crate) id: Option<String>,
    pub(crate) has_notice: bool,
    /// How long after it was sent its answer stops being of use, in ms.
    pub(crate) deadline_ms: Option<u64>,
}

impl Order {
    /// For how long it runs in all its attempts.
    pub(crate) fn work(&self) -> u64 {
        let (wish, ms) = wish(&self.payload);
        ms * MS * if wish == "retry" { 3 } else { 1 }
    }
}

/// What a payload asks the function for: `ok:20:7` answers after 20 ms; the last number makes it unlike others.
pub(crate) fn wish(payload: &str) -> (&str, u64) {
    let mut parts = payload.split(':');
    (parts.next().unwrap_or(""), parts.next().and_then(|ms| ms.parse().ok()).unwrap_or(0))
}

/// Makes a call and reads its result.
pub(crate) async fn call(sim: Sim, server: Rc<Server>, link: Rc<Link>, order: Order) {
    sim.sleep(order.at).await;
    let mut add = command!("XADD", stream(order.function), "*", "payload", order.payload);
    if let Some(id) = &order.id {
        add.extend(command!("id", id));
        server.history.borrow_mut().sends(order.function, id, &order.payload);
    }
    if order.has_notice {
        add.extend(command!("reply", format!("f{}", order.function)));
    }
    if let Some(ms) = order.deadline_ms {
        add.extend(command!("deadline", server.now_ms() + ms));
    }
    let id = loop {
        match link.ask(Ask::Do(add.clone())).await {
            Ok(Reply::Bulk(entry)) => {
                let entry = String::from_utf8_lossy(&entry).into_owned();
                let ms: u64 = entry.split('-').next().and_then(|ms| ms.parse().ok()).unwrap_or(0);
                let id = order.id.clone().unwrap_or(entry);
                sim.log(|| format!("call {id} ({}) is accepted", order.payload));
                // The whole of the millisecond in which it was accepted.
                let at = (ms - EPOCH_MS) * MS + MS - 1;
                server.history.borrow_mut().accepts(order.function, &id, &order.payload, at);
                break id;
            }
            Ok(other) => return server.history.borrow_mut().broke("I1", format!("XADD answered {other:?}")),
            // Without an id of its own the call may not be sent again: it would be another.
            Err(_) if order.id.is_none() => return,
            Err(_) => sim.sleep(sim.roll(|rng| rng.between(50 * MS, SECOND))).await,
        }
    };
    loop {
        let look = link.ask(Ask::Do(command!("GET", result_key(order.function, &id)))).await;
        if let Ok(Reply::Bulk(document)) = look {
            return server.history.borrow_mut().reads(order.function, &id, &document);
        }
        sim.sleep(sim.roll(|rng| rng.between(100 * MS, 2 * SECOND))).await;
    }
}
