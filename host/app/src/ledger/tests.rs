use std::sync::Arc;

use baton_broker::Delivery;
use baton_model::{Call, CallId, EntryId, Lease, TenantPolicy};

use super::*;
use crate::seats::Seats;

fn call(function: &FunctionId, number: u64) -> Incoming {
    let call = Call::plain(function.clone(), CallId::parse(&format!("{number}-0")).unwrap(), "");
    let lease = Lease { entry: EntryId::parse(&format!("{number}-0")).unwrap(), claims: 0 };
    Incoming::Call(Delivery { call: Arc::new(call), lease, read: None })
}

fn calls(function: &FunctionId, count: u64) -> VecDeque<Incoming> {
    (1..=count).map(|number| call(function, number)).collect()
}

fn function(text: &str) -> FunctionId {
    text.parse().unwrap()
}

/// Tenants by name, with their weights.
fn weights(of: &[(&str, u32)]) -> Tenants {
    let policy = |weight: u32| Arc::new(TenantPolicy { weight, ..TenantPolicy::default() });
    Tenants::new(of.iter().map(|(name, weight)| (Name::parse(name).unwrap(), policy(*weight))).collect())
}

async fn admit(ledger: &Arc<Ledger>, seats: &Seats, waiting: &mut VecDeque<Incoming>) -> Vec<(Incoming, Seat)> {
    let mut taken = seats.take_up_to(seats.total()).await;
    let free = taken.free_with(seats);
    ledger.admit(waiting, &mut taken, free, Instant::now())
}

#[test]
fn one_tenant_without_quotas_is_not_written_down() {
    let ledger = Arc::new(Ledger::new(8));
    let loaded = [(function("acme/a"), Quotas::default()), (function("acme/b"), Quotas::default())];
    ledger.open(&loaded, &Tenants::default(), Instant::now());
    assert!(!ledger.is_shared());
    assert_eq!(ledger.room_of(&loaded[0].0, Instant::now()), u32::MAX);
}

#[tokio::test]
async fn a_backlog_takes_all_but_what_is_kept_and_the_other_is_admitted_at_once() {
    let (ledger, seats) = (Arc::new(Ledger::new(16)), Seats::new(16));
    let (ours, theirs) = (function("acme/a"), function("other/b"));
    let loaded = [(ours.clone(), Quotas::default()), (theirs.clone(), Quotas::default())];
    ledger.open(&loaded, &Tenants::default(), Instant::now());
    let mut waiting = calls(&ours, 100);
    let running = admit(&ledger, &seats, &mut waiting).await;
    assert_eq!((running.len(), waiting.len()), (12, 88), "4 of 16 seats are kept for the other");
    assert_eq!(ledger.room_of(&ours, Instant::now()), 0);
    waiting.push_back(call(&theirs, 1000));
    let more = admit(&ledger, &seats, &mut waiting).await;
    assert_eq!(more.len(), 1);
    assert_eq!(*more[0].0.function(), theirs);
    drop(running);
    assert_eq!(ledger.in_use().iter().map(|(_, n)| *n).sum::<u32>(), 1, "a seat that is free is out of the books");
}

#[tokio::test]
async fn seats_go_by_weight_and_no_backlog_is_preferred() {
    let (ledger, seats) = (Arc::new(Ledger::new(12)), Seats::new(12));
    let (light, heavy) = (function("light/a"), function("heavy/b"));
    let loaded = [(light.clone(), Quotas::default()), (heavy.clone(), Quotas::default())];
    ledger.open(&loaded, &weights(&[("heavy", 2)]), Instant::now());
    let mut waiting = calls(&heavy, 100);
    waiting.extend(calls(&light, 100));
    let running = admit(&ledger, &seats, &mut waiting).await;
    let of_light = running.iter().filter(|(call, _)| *call.function() == light).count();
    assert_eq!((running.len(), of_light), (12, 4));
    assert!(running.iter().all(|(_, seat)| !seat.is_of_few()), "each has as many as it should");
}

#[tokio::test]
async fn who_has_few_calls_for_its_weight_begins_before_a_backlog() {
    let (ledger, seats) = (Arc::new(Ledger::new(12)), Seats::new(12));
    let (light, heavy) = (function("light/a"), function("heavy/b"));
    let loaded = [(light.clone(), Quotas::default()), (heavy.clone(), Quotas::default())];
    ledger.open(&loaded, &weights(&[("heavy", 2)]), Instant::now());
    let mut waiting = calls(&heavy, 100);
    waiting.push_back(call(&light, 1000));
    let running = admit(&ledger, &seats, &mut waiting).await;
    assert_eq!(*running[0].0.function(), light);
    let of_few = running.iter().filter(|(_, seat)| seat.is_of_few()).count();
    assert_eq!(of_few, 1, "of {}", running.len());
}

#[tokio::test]
async fn a_function_over_its_quota_waits_and_holds_up_none_of_its_siblings() {
    let (ledger, seats) = (Arc::new(Ledger::new(16)), Seats::new(16));
    let (capped, free) = (function("acme/capped"), function("acme/free"));
    let two = Quotas { concurrency_max: Some(2), ..Quotas::default() };
    ledger.open(&[(capped.clone(), two), (free.clone(), Quotas::default())], &Tenants::default(), Instant::now());
    let mut waiting = calls(&capped, 5);
    waiting.extend(calls(&free, 5));
    let mut running = admit(&ledger, &seats, &mut waiting).await;
    assert_eq!((running.len(), waiting.len()), (7, 3));
    assert!(waiting.iter().all(|call| *call.function() == capped), "they stay in order");
    assert_eq!(ledger.held(&capped, Instant::now()).map(|(held, _)| held), Some(Held::Concurrency));
    assert_eq!(ledger.held(&free, Instant::now()), None);
    running.retain(|(call, _)| *call.function() == free);
    assert_eq!(admit(&ledger, &seats, &mut waiting).await.len(), 2);
}

#[tokio::test]
async fn who_waits_for_a_call_of_its_own_leaves_its_place_and_has_the_next_one_that_is_free() {
    let (ledger, seats) = (Arc::new(Ledger::new(8)), Seats::new(8));
    let capped = function("acme/capped");
    let quotas = Quotas { concurrency_max: Some(2), calls_per_second: Some(3), ..Quotas::default() };
    ledger.open(&[(capped.clone(), quotas)], &Tenants::default(), Instant::now());
    let mut running = admit(&ledger, &seats, &mut calls(&capped, 2)).await;
    let now = Instant::now();
    assert_eq!(ledger.held(&capped, now).map(|(held, _)| held), Some(Held::Concurrency));
    running.pop();
    assert_eq!(ledger.room_of(&capped, now), 1, "who waits leaves room for what it waits for");
    running.extend(admit(&ledger, &seats, &mut calls(&capped, 1)).await);
    {
        let mut gives_up = std::pin::pin!(ledger.resume(&capped));
        assert!(futures_util::poll!(&mut gives_up).is_pending(), "as many run as may");
    }
    let mut resumed = std::pin::pin!(ledger.resume(&capped));
    assert!(futures_util::poll!(&mut resumed).is_pending());
    running.pop();
    assert_eq!(ledger.room_of(&capped, now), 0, "it comes before those that have not begun");
    let resumed = resumed.await.expect("it is in the books again");
    assert_eq!((ledger.in_use()[0].1, ledger.room_of(&capped, now)), (2, 0));
    running.clear();
    assert_eq!(ledger.in_use()[0].1, 1);
    drop(resumed);
    // Three have begun, and the one that went on was not charged again.
    assert!(ledger.room_of(&capped, now + Duration::from_millis(400)) >= 1);
    assert_eq!(ledger.in_use()[0].1, 0);
}

#[test]
fn what_is_held_back_is_counted_in_time() {
    let (ledger, start) = (Arc::new(Ledger::new(16)), Instant::now());
    let capped = function("acme/capped");
    let one = Quotas { concurrency_max: Some(1), ..Quotas::default() };
    let places = ledger.open(&[(capped, one)], &Tenants::default(), start);
    let note = |held, after| {
        ledger.note_held(places.iter().map(|place| (*place, held)), start + Duration::from_secs(after));
    };
    note(Some(Held::Concurrency), 1);
    note(Some(Held::Concurrency), 2);
    note(None, 4);
    note(None, 9);
    let held_for = ledger.held_for(start + Duration::from_secs(20)).remove(0).1;
    assert_eq!(held_for[Held::Concurrency as usize], Duration::from_secs(3));
}

#[tokio::test]
async fn the_meter_has_cpu_time_paid_while_an_attempt_runs() {
    let (ledger, seats) = (Arc::new(Ledger::new(4)), Seats::new(4));
    let busy = function("acme/busy");
    let quotas = Quotas { cpu_ms_per_second: Some(1), ..Quotas::default() };
    ledger.open(&[(busy.clone(), quotas)], &Tenants::default(), Instant::now());
    let mut waiting = calls(&busy, 2);
    let running = admit(&ledger, &seats, &mut waiting).await;
    assert_eq!(running.len(), 1, "what it costs is not known yet");
    let meter = running[0].1.cpu_meter().expect("its CPU time is limited");
    let spin = async {
        let end = thread_cpu_time() + Duration::from_millis(20);
        while thread_cpu_time() < end {
            std::hint::black_box(0);
        }
    };
    meter.run(spin).await;
    drop(running);
    let (held, wait) = ledger.held(&busy, Instant::now()).expect("it used twenty times what it has");
    assert_eq!(held, Held::Cpu);
    assert!(wait > Duration::from_secs(10), "{wait:?}");
}
