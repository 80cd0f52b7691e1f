//! Two hosts that hold the same execution: what the one writes whose time is over is refused.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use baton_tests::settings::{GROUP, LEASE_MS, NO_FUNCTIONS, PATIENCE, SEATS};
use baton_tests::{Host, HostPlan, Http, Signal, Stage, until};

use super::shop::{Order, sagas};

/// What a run works, in thousands of rounds: about half a second, and about a tenth.
const LONG: &str = "400000";
const SHORT: &str = "100000";
/// How many wakes are taken away from the host that runs them; of some the run is over first.
const TAKEN: u32 = 12;

fn plan(stage: &Stage, lease: Duration) -> HostPlan {
    stage.host().setting(LEASE_MS, lease.as_millis()).setting(SEATS, 16)
}

/// So many executions that wait to be told to go on, and then work for so long.
async fn waiting<'a>(http: &'a Http, count: usize, work: &str) -> Result<Vec<Order<'a>>> {
    let mut sagas = Vec::new();
    for _ in 0..count {
        sagas.push(Order::with(http, work).await?);
    }
    for saga in &sagas {
        saga.until_last("event-awaited").await?;
    }
    Ok(sagas)
}

/// Each has ended, with nothing in its log twice.
async fn are_right(stage: &mut Stage, sagas: &[Order<'_>]) -> Result<()> {
    for saga in sagas {
        let answer = saga.result().await?.expect(200)?;
        ensure!(answer.body == "saga-build-0", "{answer:?}");
        let words = saga.words().await?;
        let calls = words.iter().filter(|word| *word == "call-scheduled").count();
        ensure!((words.len(), calls) == (11, 3) && words[10] == "completed", "{words:?}");
    }
    stage.caller.quiescent("order").await?;
    super::judge::logs_are_sound(stage, sagas).await
}

/// How many appends of a host were refused, or stopped before it came to that: what it says when it ends.
async fn late(host: &mut Host) -> Result<(u32, u32)> {
    host.stop().await?;
    let ended = host.lines().logged("host ended");
    let counted = ended.first().and_then(|line| line["calls"].as_str()).context("it counts its calls")?;
    let count = |word: &str| {
        let figure = |part: &str| part.trim().strip_prefix(word)?.trim().parse::<u32>().ok();
        counted.split(',').find_map(figure).unwrap_or_default()
    };
    Ok((count("fenced"), count("lost leases")))
}

#[tokio::test]
async fn a_host_that_stood_still_in_the_middle_of_a_run_writes_nothing_any_more() -> Result<()> {
    let mut stage = sagas().await?;
    let front = stage.host().http().argument(NO_FUNCTIONS).start().await?;
    let http = Http::of(&front).await?;
    let lease = Duration::from_secs(1);
    let mut frozen = plan(&stage, lease).start_ready(&["order", "echo"]).await?;
    let frozen_id = frozen.id().await?;
    let sagas = waiting(&http, 4, LONG).await?;
    for saga in &sagas {
        saga.tell("go", "go").await?.expect(202)?;
    }
    stage.caller.until_pending("order", sagas.len()).await?;
    frozen.signal(Signal::STOP)?;

    let mut successor = plan(&stage, lease).start_ready(&["order", "echo"]).await?;
    are_right(&mut stage, &sagas).await?;
    let mut before = Vec::new();
    for saga in &sagas {
        let result = stage.caller.result("order", &saga.id).await?;
        ensure!(result.host.as_ref() != Some(&frozen_id), "it stood still: {result:?}");
        before.push((result, saga.history().await?));
    }

    frozen.signal(Signal::CONT)?;
    // It is awake, and past what it had in hand, when it serves again, alone.
    successor.stop().await?;
    let other = Order::with(&http, "1").await?;
    other.tell("go", "go").await?.expect(202)?;
    other.result().await?.expect(200)?;
    let (fenced, lost) = late(&mut frozen).await?;
    println!("{fenced} of its appends were refused, {lost} of its runs stopped");
    ensure!(fenced + lost >= u32::try_from(sagas.len())?, "{fenced} refused, {lost} stopped");
    for (saga, (result, history)) in sagas.iter().zip(&before) {
        ensure!(stage.caller.result("order", &saga.id).await? == *result, "the first result stands");
        ensure!(saga.history().await? == *history, "nothing was written behind it");
    }
    super::judge::logs_are_sound(&stage, &sagas).await
}

#[tokio::test]
async fn of_two_hosts_that_run_the_same_execution_one_writes() -> Result<()> {
    let mut stage = sagas().await?;
    let front = stage.host().http().argument(NO_FUNCTIONS).start().await?;
    let http = Http::of(&front).await?;
    // Long enough that a run is over before its host asks whether it still holds it, also beside all other tests.
    let lease = Duration::from_secs(30);
    let mut one = plan(&stage, lease).start_ready(&["order", "echo"]).await?;
    let mut two = plan(&stage, lease).start_ready(&["order", "echo"]).await?;
    let ids = [one.id().await?, two.id().await?];
    let sagas = waiting(&http, 40, SHORT).await?;
    let (mut taken, mut seen) = (0, BTreeSet::new());
    // One after the other, so that few of them are under way when their host asks.
    for saga in &sagas {
        saga.tell("go", "go").await?.expect(202)?;
        if taken >= TAKEN {
            continue;
        }
        let look = until("a host runs it", PATIENCE, async || {
            let is_over = saga.words().await?.len() > 7;
            let found = stage.caller.pending("order").await?.into_iter().find(|(entry, _)| !seen.contains(entry));
            Ok((is_over || found.is_some()).then_some(found))
        });
        let Some((entry, owner)) = look.await? else { continue };
        let other = ids.iter().find(|id| id.as_str() != owner).context("there are two")?;
        let claimed: Vec<redis::Value> = redis::cmd("XCLAIM")
            // Whoever is given it does not know, so it lapses at once.
            .arg(&["baton:{default/order}:calls", GROUP, other.as_str(), "0", &entry, "IDLE", "60000"])
            .query_async(stage.caller.connection())
            .await?;
        taken += u32::try_from(claimed.len())?;
        seen.insert(entry);
    }
    ensure!(taken >= TAKEN, "no more than {taken} were taken away in time");
    are_right(&mut stage, &sagas).await?;
    let (a, b) = (late(&mut one).await?, late(&mut two).await?);
    println!("{taken} were taken away; refused and stopped: {a:?}, {b:?}");
    ensure!(a.0 + b.0 >= 1 && a.0 + a.1 + b.0 + b.1 >= taken, "{taken} were taken away: {a:?}, {b:?}");
    Ok(())
}
