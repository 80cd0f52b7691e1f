//! A host that is killed, and what the others make of its calls.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use baton_model::{Digest, Status};
use baton_tests::settings::{HOSTS_LOST_MAX, NO_FUNCTIONS, PATIENCE, SEATS, full_length};
use baton_tests::{Batch, Fleet, Folder, HostPlan, Load, Stage, now_ms, sample, until};
use tokio::time::{MissedTickBehavior, interval};

use super::{SOON, host_of, only_these_consume};

#[tokio::test]
async fn hosts_that_are_killed_and_replaced_under_load_cost_no_call_its_answer() -> Result<()> {
    let (per_second, kills, every) =
        if full_length() { (1_000, 12, Duration::from_secs(5)) } else { (300, 3, Duration::from_secs(2)) };
    let mut stage = Stage::with(&["sleep"]).await?;
    let mut fleet = Fleet::of(3, &stage.host().setting(SEATS, 128), &["sleep"]).await?;
    let lasts = every * (kills + 1);
    let load = Load { function: "sleep".into(), per_second, lasts, in_flight_max: 100_000 };
    let load = load.start_sleeping(stage.redis.address(), Duration::from_millis(20));
    let mut due = interval(every);
    due.set_missed_tick_behavior(MissedTickBehavior::Delay);
    due.tick().await;
    for kill in 0..kills {
        due.tick().await;
        let at = kill as usize % 3;
        fleet.kill(at).await?;
        fleet.replace(at).await?;
    }
    let report = load.report().await?;
    println!("{kills} kills: {}", report.summary());
    ensure!(report.calls.len() == (lasts.as_secs() * u64::from(per_second)) as usize, "Redis took every call");
    ensure!(report.errors.is_empty(), "callers saw errors: {:?}", report.errors);
    report.check_answers(&BTreeSet::from([Digest::of(&sample("sleep")?)]))?;
    report.check_notices()?;
    // A third of a lease.
    ensure!(report.quantile(1.0) < SOON * 2, "a call waited for a lease: {}", report.summary());
    stage.caller.quiescent("sleep").await?;
    only_these_consume(&mut stage.caller, "sleep", &fleet).await
}

#[tokio::test]
async fn the_calls_of_a_killed_host_run_elsewhere_long_before_their_leases_are_over() -> Result<()> {
    let mut stage = Stage::with(&["sleep"]).await?;
    // As many seats as calls in all, so that each host has its share and all are busy when one dies.
    let mut fleet = Fleet::of(3, &stage.host().setting(SEATS, 10), &["sleep"]).await?;
    let mut batch = Batch::send(&stage.redis.address(), "sleep", r#"{"ms":1500}"#, 30).await?;
    let owners = batch.owners().await?;
    let victim = fleet.place_of(owners.values().next().context("there are calls")?)?;
    let killed_ms = now_ms();
    fleet.kill(victim).await?;
    let answers = batch.answers(PATIENCE).await?;
    let mut latest = 0;
    for answer in &answers {
        let (owner, host) = (&owners[answer.id.as_str()], host_of(answer)?);
        if owner == fleet.id(victim).as_str() {
            ensure!(host != owner && answer.attempts == 2, "its host was dead: {answer:?}");
            latest = latest.max(answer.started_ms.context("an attempt has a start")?.saturating_sub(killed_ms));
        } else {
            ensure!(host == owner && answer.attempts == 1, "its host lived: {answer:?}");
        }
    }
    println!("the last of its calls ran again {latest} ms after the kill");
    // The survivors' own calls come first: their seats are taken for up to a second and a half.
    ensure!(u128::from(latest) < (SOON + Duration::from_millis(1_500)).as_millis(), "{latest} ms after the kill");
    batch.check_notices().await?;
    stage.caller.quiescent("sleep").await?;
    fleet.replace(victim).await?;
    only_these_consume(&mut stage.caller, "sleep", &fleet).await
}

#[tokio::test]
async fn the_calls_of_a_killed_host_are_shared_by_those_that_are_left() -> Result<()> {
    const CALLS: usize = 60;
    let mut stage = Stage::with(&["sleep"]).await?;
    // The survivors get the function when the other has taken every call.
    let folder = Folder::new()?;
    let plan = HostPlan::on(&stage.redis, &folder).setting(SEATS, 64);
    let mut survivors = Fleet::of(2, &plan, &[]).await?;
    let mut doomed = stage.host().setting(SEATS, 64).start_ready(&["sleep"]).await?;
    let mut batch = Batch::send(&stage.redis.address(), "sleep", r#"{"ms":6000}"#, CALLS).await?;
    batch.owners().await?;
    folder.install("sleep", &sample("sleep")?)?;
    survivors.until_ready("sleep").await?;
    ensure!(batch.owners().await?.len() == CALLS, "the calls were over before there was anybody to take them over");
    doomed.kill9().await?;

    let mut shares: BTreeMap<String, usize> = BTreeMap::new();
    for answer in batch.answers(PATIENCE).await? {
        *shares.entry(host_of(&answer)?.to_owned()).or_default() += 1;
    }
    println!("shares: {shares:?}");
    for id in survivors.ids() {
        let share = shares.get(id.as_str()).copied().unwrap_or(0);
        ensure!(share >= CALLS / 4, "each gets a fair share of {CALLS}: {shares:?}");
    }
    batch.check_notices().await?;
    stage.caller.quiescent("sleep").await?;
    only_these_consume(&mut stage.caller, "sleep", &survivors).await
}

#[tokio::test]
async fn whoever_comes_after_all_are_dead_takes_their_calls_over_at_once() -> Result<()> {
    // With and without a front, which has no functions and yet is the first to see that the others are gone.
    for has_front in [false, true] {
        let mut stage = Stage::with(&["sleep"]).await?;
        let mut fleet = Fleet::of(1, &stage.host(), &["sleep"]).await?;
        let front = match has_front {
            true => Some(stage.host().http().argument(NO_FUNCTIONS).start().await?),
            false => None,
        };
        if let Some(front) = &front {
            front.http().await?;
        }
        let mut batch = Batch::send(&stage.redis.address(), "sleep", r#"{"ms":1000}"#, 10).await?;
        batch.owners().await?;
        fleet.kill(0).await?;
        if has_front {
            fleet.until_state(0, "offline (crashed)", SOON).await?;
        }
        fleet.replace(0).await?;
        // A sixth of a lease; a loaded machine may take a moment to start a host.
        let answers = batch.answers(SOON).await?;
        ensure!(answers.iter().all(|answer| answer.attempts == 2), "front: {has_front}: {answers:?}");
        batch.check_notices().await?;
        stage.caller.quiescent("sleep").await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_call_that_ends_its_hosts_is_given_up() -> Result<()> {
    let mut stage = Stage::with(&["sleep"]).await?;
    let mut fleet = Fleet::of(3, &stage.host().setting(HOSTS_LOST_MAX, 1), &["sleep"]).await?;
    let id = stage.caller.send("sleep", r#"{"ms":10000}"#).await?;
    let mut dead = String::new();
    for _ in 0..2 {
        let owner = until("a host has the call that has not had it", PATIENCE, async || {
            let pending = stage.caller.pending("sleep").await?;
            Ok(pending.into_iter().map(|(_, owner)| owner).find(|owner| *owner != dead))
        });
        dead = owner.await?;
        fleet.kill(fleet.place_of(&dead)?).await?;
    }
    let answer = stage.caller.result("sleep", &id).await?;
    let code = answer.error.as_ref().map(|error| error.code.as_str());
    ensure!((answer.status, code) == (Status::Dead, Some("poison")), "it is what ends its hosts: {answer:?}");
    ensure!(answer.attempts == 2, "both attempts that were lost count: {answer:?}");
    stage.caller.quiescent("sleep").await
}
