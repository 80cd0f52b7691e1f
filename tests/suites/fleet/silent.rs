//! A host that falls silent and comes back: frozen, or behind a link that carries nothing.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Result, ensure};
use baton_model::Digest;
use baton_tests::settings::{LEASE_MS, PATIENCE, SEATS};
use baton_tests::{Batch, Fleet, Link, Load, Proxy, Signal, Stage, sample, until};

use super::{SHORT_LEASE, SOON, host_of, only_these_consume};

/// The place of the host whose link goes over the proxy.
const BEHIND: usize = 2;

/// Two hosts beside Redis, and one behind a proxy.
struct Scene {
    fleet: Fleet,
    proxy: Proxy,
    stage: Stage,
}

impl Scene {
    async fn set(lease: Option<Duration>, seats: u32) -> Result<Self> {
        let stage = Stage::with(&["sleep"]).await?;
        let proxy = Proxy::to(&stage.redis.address()).await?;
        let plan = stage.host().setting(SEATS, seats);
        let plan = match lease {
            Some(lease) => plan.setting(LEASE_MS, lease.as_millis()),
            None => plan,
        };
        let mut fleet = Fleet::of(2, &plan, &["sleep"]).await?;
        ensure!(fleet.add(plan.through(&proxy)).await? == BEHIND, "it is the third");
        Ok(Self { fleet, proxy, stage })
    }

    /// Waits until the host behind the proxy is online and has answered a call again.
    async fn until_it_takes_calls(&mut self) -> Result<()> {
        self.fleet.until_state(BEHIND, "online", PATIENCE).await?;
        until("the host that was away takes calls again", PATIENCE, async || {
            let mut batch = Batch::send(&self.stage.redis.address(), "sleep", r#"{"ms":300}"#, 30).await?;
            for answer in batch.answers(PATIENCE).await? {
                if host_of(&answer)? == self.fleet.id(BEHIND).as_str() {
                    return Ok(Some(()));
                }
            }
            Ok(None)
        })
        .await
    }
}

/// Why the host behind the proxy says nothing.
#[derive(Clone, Copy)]
enum Silence {
    /// Its process stands still.
    Frozen,
    /// Its link is like this.
    Link(Link),
}

impl Silence {
    fn begin(self, scene: &Scene) -> Result<()> {
        match self {
            Self::Frozen => scene.fleet.signal(BEHIND, Signal::STOP)?,
            Self::Link(link) => scene.proxy.set(link),
        }
        Ok(())
    }

    fn end(self, scene: &Scene) -> Result<()> {
        match self {
            Self::Frozen => scene.fleet.signal(BEHIND, Signal::CONT)?,
            Self::Link(_) => scene.proxy.set(Link::Pass),
        }
        Ok(())
    }
}

/// One of three hosts says nothing for three leases, with a third of all calls in its hands, and then goes on.
async fn is_silent_for_three_leases(silence: Silence) -> Result<()> {
    // As many seats as calls in all, so that each host has a third.
    let mut scene = Scene::set(Some(SHORT_LEASE), 10).await?;
    let mut batch = Batch::send(&scene.stage.redis.address(), "sleep", r#"{"ms":1500}"#, 30).await?;
    let owners = batch.owners().await?;
    let silent = scene.fleet.id(BEHIND).clone();
    ensure!(owners.values().filter(|owner| **owner == silent.as_str()).count() == 10, "it has a third: {owners:?}");

    let three_leases = tokio::time::sleep(SHORT_LEASE * 3);
    silence.begin(&scene)?;
    scene.fleet.until_state(BEHIND, "offline (silent)", SHORT_LEASE * 3 + SOON).await?;
    let listing = scene.fleet.listing().await?;
    let machine = listing.machine_of(&silent).map(|machine| &machine["state"]);
    ensure!(machine.is_some_and(|state| state == "online"), "two of its hosts are: {listing:?}");
    let answers = batch.answers(PATIENCE).await?;
    for answer in &answers {
        ensure!(host_of(answer)? != silent.as_str(), "it was silent: {answer:?}");
        let expected = if owners[answer.id.as_str()] == silent.as_str() { 2 } else { 1 };
        ensure!(answer.attempts == expected, "{expected} attempts were expected: {answer:?}");
    }
    three_leases.await;

    silence.end(&scene)?;
    scene.until_it_takes_calls().await?;
    ensure!(batch.answers(PATIENCE).await? == answers, "the first results stand");
    batch.check_notices().await?;
    scene.stage.caller.quiescent("sleep").await?;
    only_these_consume(&mut scene.stage.caller, "sleep", &scene.fleet).await?;
    let listing = scene.fleet.listing().await?;
    for id in scene.fleet.ids() {
        ensure!(listing.state(id) == "online", "{id}: {listing:?}");
    }
    scene.fleet.stop(BEHIND).await?;
    let ended = scene.fleet.host(BEHIND).lines().logged("host ended");
    let counted = ended.first().and_then(|line| line["calls"].as_str()).unwrap_or_default();
    let count = |word: &str| {
        let figure = |part: &str| part.trim().strip_prefix(word)?.trim().parse::<u32>().ok();
        counted.split(',').find_map(figure).unwrap_or_default()
    };
    let late = count("fenced") + count("lost leases");
    ensure!(late >= 10, "each of its late calls was stopped or refused, and counted: {counted:?}");
    Ok(())
}

#[tokio::test]
async fn a_frozen_host_is_silent_and_its_late_results_change_nothing() -> Result<()> {
    is_silent_for_three_leases(Silence::Frozen).await
}

#[tokio::test]
async fn a_host_behind_a_half_open_link_is_silent_and_comes_back() -> Result<()> {
    is_silent_for_three_leases(Silence::Link(Link::HalfOpen)).await
}

#[tokio::test]
async fn what_a_link_brings_three_leases_late_changes_nothing() -> Result<()> {
    is_silent_for_three_leases(Silence::Link(Link::Held)).await
}

#[tokio::test]
async fn a_host_whose_link_is_cut_for_three_seconds_comes_back_and_no_call_is_lost() -> Result<()> {
    let mut scene = Scene::set(None, 64).await?;
    let redis = scene.stage.redis.address();
    let load =
        Load { function: "sleep".into(), per_second: 200, lasts: Duration::from_secs(8), in_flight_max: 100_000 };
    let load = load.start_sleeping(redis.clone(), Duration::from_millis(20));
    let mut long = Batch::send(&redis, "sleep", r#"{"ms":2500}"#, 30).await?;
    tokio::time::sleep(Duration::from_secs(1)).await;
    scene.proxy.set(Link::Cut);
    tokio::time::sleep(Duration::from_secs(3)).await;
    scene.proxy.set(Link::Pass);
    scene.until_it_takes_calls().await?;
    let report = load.report().await?;
    println!("{}", report.summary());
    report.check_answers(&BTreeSet::from([Digest::of(&sample("sleep")?)]))?;
    report.check_notices()?;
    long.answers(PATIENCE).await?;
    long.check_notices().await?;
    ensure!(scene.fleet.all_run()?, "no host ends over it");
    scene.stage.caller.quiescent("sleep").await?;
    only_these_consume(&mut scene.stage.caller, "sleep", &scene.fleet).await
}

#[tokio::test]
async fn a_slow_link_is_no_silence() -> Result<()> {
    let mut scene = Scene::set(None, 10).await?;
    scene.proxy.set(Link::Slow(Duration::from_millis(150)));
    let mut batch = Batch::send(&scene.stage.redis.address(), "sleep", r#"{"ms":4000}"#, 30).await?;
    batch.owners().await?;
    for answer in batch.answers(PATIENCE).await? {
        ensure!(answer.attempts == 1, "its host is slow and alive: {answer:?}");
    }
    batch.check_notices().await?;
    let offline = scene.fleet.logged("host offline");
    ensure!(offline.is_empty(), "nobody is away: {offline:?}");
    scene.stage.caller.quiescent("sleep").await
}
