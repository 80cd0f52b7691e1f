//! Many orders by chance over hosts that are killed, and a judge that shares no code with the host.

use std::time::Duration;

use anyhow::{Result, ensure};
use baton_tests::settings::{BACKOFF_BASE_MS, HOSTS_LOST_MAX, NO_FUNCTIONS, full_length, seed};
use baton_tests::{Fleet, Http, Stage, clerk_guest, until};
use fastrand::Rng;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::judge::judged;
use super::plans::Plan;
use super::shop::{SHOP, stage};

/// How many orders, within what time they begin, how far apart payments are at the most, and how often a host is killed.
struct Size {
    orders: usize,
    window: Duration,
    slow: Duration,
    kills: Duration,
}

impl Size {
    fn of_the_day() -> Self {
        let seconds = Duration::from_secs;
        match full_length() {
            true => Self { orders: 1_000, window: seconds(75), slow: seconds(5), kills: seconds(5) },
            false => Self { orders: 150, window: seconds(6), slow: seconds(1), kills: seconds(1) },
        }
    }
}

/// The shop with clerks for its services, who keep ledgers.
async fn with_clerks() -> Result<Stage> {
    let stage = stage().await?;
    for service in ["echo", "sleep"] {
        stage
            .folder
            .write_manifest(service, "[grants.keyvalue]\nledger = \"function\"\n\n[retry]\nattempts_max = 3\n")?;
        stage.folder.install(service, &clerk_guest()?)?;
    }
    Ok(stage)
}

/// A host that runs a service, as soon as there is one.
async fn at_work(stage: &mut Stage, fleet: &Fleet) -> Result<Option<usize>> {
    let look = until("a service is at work", Duration::from_millis(300), async || {
        let pending = stage.caller.pending("sleep").await?;
        Ok(pending.into_iter().find_map(|(_, owner)| fleet.place_of(&owner).ok()))
    });
    Ok(look.await.ok())
}

/// What hosts could not write.
fn trouble(fleet: &Fleet) -> Vec<serde_json::Value> {
    fleet.logged("results could not be settled")
}

#[tokio::test]
async fn orders_by_chance_end_as_they_must_whatever_becomes_of_hosts() -> Result<()> {
    let (size, seed) = (Size::of_the_day(), seed()?);
    println!("BATON_SEED={seed}");
    let mut chance = Rng::with_seed(seed);
    let mut stage = with_clerks().await?;
    let front = stage.host().http().argument(NO_FUNCTIONS).start().await?;
    let http = Http::of(&front).await?;
    // One entry may lose more hosts here than a calm operator would think of.
    let plan = stage.host().setting(BACKOFF_BASE_MS, 50).setting(HOSTS_LOST_MAX, 50);
    let mut fleet = Fleet::of(3, &plan, &SHOP).await?;

    let start = Instant::now();
    let mut orders = JoinSet::new();
    for n in 0..size.orders {
        let (plan, http) = (Plan::by_chance(&mut chance, n, size.window, size.slow), http.clone());
        orders.spawn(async move { plan.run(&http, start).await });
    }
    let mut due = interval(size.kills);
    due.set_missed_tick_behavior(MissedTickBehavior::Delay);
    due.tick().await;
    let (mut plans, mut kills, mut aimed) = (Vec::new(), 0, 0_u32);
    while !orders.is_empty() {
        tokio::select! {
            Some(ended) = orders.join_next() => plans.push(ended??),
            _ = due.tick() => {
                // Every other one in the middle of a service's work, if one is at work.
                let at = match kills % 2 {
                    0 => at_work(&mut stage, &fleet).await?,
                    _ => None,
                };
                aimed += u32::from(at.is_some());
                let at = at.unwrap_or_else(|| chance.usize(0..3));
                ensure!(trouble(&fleet).is_empty(), "{:?}", trouble(&fleet));
                fleet.kill(at).await?;
                fleet.replace(at).await?;
                kills += 1;
            }
        }
    }
    let lasted = start.elapsed();
    for function in SHOP {
        stage.caller.quiescent(function).await?;
    }
    // A kill every second hides what only the death of a host puts right.
    ensure!(trouble(&fleet).is_empty(), "{:?}", trouble(&fleet));
    let figures = judged(&stage, &plans).await?;
    println!(
        "{} orders in {lasted:.1?}, {kills} kills, {aimed} of them in the middle of a service, seed {seed}: {figures}",
        size.orders
    );
    ensure!(kills >= 3, "no more than {kills} hosts were killed");
    Ok(())
}
