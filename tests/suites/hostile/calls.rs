//! Every hostile call meets its outcome.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use baton_model::Status;
use baton_tests::settings::{ATTEMPTS_MAX, PATIENCE, SEATS};
use baton_tests::{Host, HostPlan, Http, Stage, until};
use serde_json::json;

use crate::cases::{self, Case, Ends};
use crate::measures::{Held, neighbour, took};
use crate::others::{Others, SETTINGS};

const LIMIT: Duration = Duration::from_millis(800);

/// How late a stop may come on a machine that does other things as well. `make hostile` measures the true figure.
const LATE_MAX: Duration = Duration::from_millis(1_000);

/// How long the neighbour may wait on such a machine.
const NEIGHBOUR_MAX: Duration = Duration::from_millis(1_000);

/// How much memory a host may keep after an attack: what the pool keeps warm, and the allocator for later.
const KEPT_BYTES_MAX: u64 = 192 << 20;

/// How many calls of each case run at once.
const AT_ONCE: usize = 4;

/// A host with every hostile function, as `plan` has it.
async fn stage(plan: impl FnOnce(HostPlan) -> HostPlan) -> Result<(Stage, Host, Others)> {
    let mut stage = Stage::with(&[]).await?;
    let others = Others::start().await?;
    let names = cases::install(&mut stage, LIMIT, &others).await?;
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let host = plan(stage.host_with(SETTINGS)?.setting(ATTEMPTS_MAX, 1).setting(SEATS, 64));
    let host = host.start_ready(&names).await?;
    Ok((stage, host, others))
}

fn plain(plan: HostPlan) -> HostPlan {
    plan
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_hostile_call_meets_its_outcome_and_the_neighbour_is_answered() -> Result<()> {
    let (mut stage, mut host, others) = stage(plain).await?;
    neighbour(&stage, Duration::from_millis(200)).await?.check_answers(&stage_digests()?)?;
    let before = Held::by(host.pid())?;
    let mut wrong = Vec::new();
    for case in cases::all() {
        let checked = check(&mut stage, case, &others.fill(case.payload)?).await;
        ensure!(host.runs()?, "{} ended the host", case.name());
        wrong.extend(checked.err().map(|error| format!("{error:#}")));
    }
    ensure!(wrong.is_empty(), "{} cases: {wrong:#?}", wrong.len());
    // Threads that worked on files are kept for some seconds, for more such work.
    let after = until("the host's threads are gone that it had for attacks", PATIENCE, async || {
        let after = Held::by(host.pid())?;
        Ok((after.threads <= before.threads + 8).then_some(after))
    })
    .await?;
    ensure!(after.rss_bytes < before.rss_bytes + KEPT_BYTES_MAX, "before {before:?}, after {after:?}");
    // Connections to Redis for calls of calls among them.
    ensure!(after.files <= before.files + 8, "before {before:?}, after {after:?}");
    // A hundred places of the pool are kept warm, each with maps of its own.
    ensure!(after.maps <= before.maps + 1_000, "before {before:?}, after {after:?}");
    // What guests print when they panic is theirs.
    let panics = host.lines().that(|line| line.contains("panicked") && !line.contains("baton::guest"));
    ensure!(panics.is_empty(), "{panics:?}");
    others.heard_nothing().await
}

fn stage_digests() -> Result<std::collections::BTreeSet<baton_model::Digest>> {
    Ok([baton_model::Digest::of(&baton_tests::sample("echo")?)].into())
}

/// Runs one case several times at once beside a neighbour's calls.
async fn check(stage: &mut Stage, case: &Case, payload: &str) -> Result<()> {
    let function = case.called();
    let ids = stage.caller.send_many(&function, payload, AT_ONCE).await?;
    let lasts = if matches!(case.ends, Ends::Dead("timeout", _)) { LIMIT } else { Duration::from_millis(100) };
    let neighbour = neighbour(stage, lasts).await.with_context(|| format!("beside {}", case.name()))?;
    neighbour.check_answers(&stage_digests()?).with_context(|| format!("beside {}", case.name()))?;
    let p99 = neighbour.quantile(0.99);
    ensure!(p99 < NEIGHBOUR_MAX, "the neighbour's p99 beside {} is {p99:?}", case.name());
    for document in stage.caller.results(&function, &ids, PATIENCE).await? {
        case.check(&document)?;
        let took = took(&document).with_context(|| format!("{} was started", case.name()))?;
        let limit = case.limit(LIMIT);
        ensure!(took < limit + LATE_MAX, "{} took {took:?}, its limit is {limit:?}", case.name());
    }
    // Calls that it sent on end as well.
    stage.caller.quiescent(&function).await
}

/// More loops than there are threads for them, for the whole of the neighbour's calls; and all stop in time.
#[tokio::test]
async fn sixty_loops_stop_in_time_and_do_not_hold_up_the_neighbour() -> Result<()> {
    let (mut stage, mut host, _others) = stage(plain).await?;
    let quick = stage.caller.send_many("foe/ill", "quick-then-loop 0", 100).await?;
    stage.caller.results("foe/ill", &quick, PATIENCE).await?;
    // From what was quick until now, so that they begin where calls are read.
    let loops = stage.caller.send_many("foe/ill", "quick-then-loop 1", 60).await?;
    let neighbour = neighbour(&stage, LIMIT / 2).await?;
    neighbour.check_answers(&stage_digests()?)?;
    println!("the neighbour beside 60 loops: {}", neighbour.summary());
    ensure!(neighbour.quantile(0.99) < NEIGHBOUR_MAX, "the neighbour beside 60 loops: {}", neighbour.summary());
    let mut longest = Duration::ZERO;
    for document in stage.caller.results("foe/ill", &loops, PATIENCE).await? {
        ensure!(document.status == Status::Dead, "{document:?}");
        longest = longest.max(took(&document).context("it was started")?);
    }
    println!("the longest of 60 loops with a limit of {LIMIT:?} took {longest:?}");
    ensure!(longest < LIMIT + LATE_MAX, "the longest took {longest:?}, the limit is {LIMIT:?}");
    ensure!(host.runs()?, "the host lives");
    Ok(())
}

/// The trigger makes no difference: called over HTTP, endless guests end as they do when called through Redis.
#[tokio::test]
async fn a_loop_that_is_called_over_http_ends_in_time() -> Result<()> {
    let (_stage, host, _others) = stage(HostPlan::http).await?;
    let http = Http::of(&host).await?;
    for payload in ["loop", "sleep"] {
        let start = Instant::now();
        http.post("/v1/call/foe/ill", payload).await?.problem(502, "timeout")?;
        let took = start.elapsed();
        println!("{payload} over HTTP, with a limit of {LIMIT:?}: {took:?}");
        ensure!(took >= LIMIT && took < LIMIT + LATE_MAX, "{payload} over HTTP took {took:?}, the limit is {LIMIT:?}");
    }
    Ok(())
}

/// A loop that another function waits for ends at its own limit, and if that is far, when nobody waits any more.
#[tokio::test]
async fn a_loop_in_a_nested_call_ends_in_time() -> Result<()> {
    let (mut stage, _host, _others) = stage(plain).await?;
    let limit_ms = u64::try_from(LIMIT.as_millis())?;
    for (inner, timeout_ms, ends) in [("ill", None, Status::Dead), ("patient", Some(limit_ms), Status::Expired)] {
        let id = format!("of-{inner}");
        let order = json!({ "call": inner, "with": "loop", "id": id, "timeout_ms": timeout_ms }).to_string();
        let waited = stage.caller.call("foe/caller", order).await?;
        ensure!(waited.status == Status::Ok, "{waited:?}");
        let document = stage.caller.result(&format!("foe/{inner}"), &id).await?;
        ensure!(document.status == ends, "{document:?}");
        for (whose, document) in [(inner, &document), ("caller", &waited)] {
            let took = took(document).with_context(|| format!("{whose} was started: {document:?}"))?;
            println!("{whose}, with {LIMIT:?} for a loop in a nested call: {took:?}");
            ensure!(took < LIMIT + LATE_MAX, "{whose} took {took:?}, the limit is {LIMIT:?}");
        }
    }
    Ok(())
}

/// Lines that a guest forged stand in the host's log with their line ends escaped, as its own lines and nobody else's.
#[tokio::test]
async fn forged_lines_stay_the_guests_own() -> Result<()> {
    let (mut stage, host, _others) = stage(plain).await?;
    stage.caller.call("foe/ill", "forge-lines").await?;
    host.lines().wait_for_several(1, PATIENCE, |line| line.contains("harmless")).await?;
    stage.caller.call("foe/ill", "ambient").await?;
    for line in host.lines().that(|line| line.contains("forged") || line.contains("red")) {
        ensure!(line.chars().all(|c| !c.is_control() && c != '\u{202e}'), "{line:?}");
        let json: serde_json::Value = serde_json::from_str(&line).with_context(|| format!("a whole line: {line:?}"))?;
        ensure!(json["target"] == "baton::guest" && json.get("forged").is_none(), "{line}");
    }
    Ok(())
}
