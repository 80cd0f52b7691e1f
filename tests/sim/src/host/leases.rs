//! Leases: renewed at every quarter of their length, and attempts stopped whose lease could not be. As `renewer.rs`.

use std::collections::BTreeMap;
use std::rc::Rc;

use super::{Call, GROUP, Host};
use crate::command;
use crate::history::{key, stream};
use crate::net::{Ask, Link};
use crate::redis::Reply;
use crate::time::{MS, first};

fn older_than(host: &Host, age: u64) -> Vec<Rc<Call>> {
    let now = host.sim.now();
    host.flights
        .borrow()
        .values()
        .filter(|flight| now - flight.renewed >= age)
        .map(|flight| flight.call.clone())
        .collect()
}

pub(super) async fn renew(host: Rc<Host>) {
    let quarter = (host.settings.lease / 4).max(MS);
    let link = Link::new(&host.server, host.process, None);
    loop {
        if host.settings.rules.renews {
            let mut due: BTreeMap<usize, Vec<Rc<Call>>> = BTreeMap::new();
            older_than(&host, quarter / 2)
                .into_iter()
                .for_each(|call| due.entry(call.function).or_default().push(call));
            for (function, calls) in due {
                // Whoever takes too long is tried again.
                _ = first(renew_all(&host, &link, function, &calls), host.sim.sleep(quarter)).await;
            }
        }
        host.sim.sleep(quarter).await;
    }
}

async fn renew_all(host: &Rc<Host>, link: &Link, function: usize, calls: &[Rc<Call>]) {
    let asked = host.sim.now();
    let mut args = command!(GROUP, host.name);
    calls.iter().for_each(|call| args.extend(command!(call.entry, call.claims)));
    let keys = command!(stream(function), key(function, "claims"));
    let Ok(answer) = link.ask(Ask::Run("renew", keys, args)).await else { return };
    let mut is_lost = false;
    for (call, kept) in calls.iter().zip(answer.parts()) {
        if *kept == Reply::Int(1) {
            host.with_flight(call, |flight| flight.renewed = asked);
        } else {
            is_lost |= host.abandon(call);
        }
    }
    if is_lost {
        host.look_for_lost().await;
    }
}

pub(super) async fn stop_lapsed(host: Rc<Host>) {
    let lease = host.settings.lease;
    loop {
        host.sim.sleep((lease / 40).max(MS)).await;
        if !host.settings.rules.stops_lapsed {
            continue;
        }
        let lapsed = older_than(&host, lease / 10 * 9);
        if lapsed.iter().filter(|call| host.abandon(call)).count() > 0 {
            let alarm = host.clone();
            host.sim.spawn(host.process, async move { alarm.look_for_lost().await });
        }
    }
}
