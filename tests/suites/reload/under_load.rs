//! Replacements while calls come in at a steady rate.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use baton_model::Digest;
use baton_tests::settings::full_length;
use baton_tests::{CORE_MODULE, Folder, Load, Stage, cpu_time, sample, variant, wrong_world};

/// The pause in the middle of a slow write.
const WRITE_PAUSE: Duration = Duration::from_millis(60);

/// Does replacement number `n` in one of the ways in which files get into a folder. Gives the component that may
/// answer calls from then on; none if the file is one that must never answer any.
async fn replace(folder: &Folder, n: u32, echo: &[u8]) -> Result<Option<Vec<u8>>> {
    let next = variant(echo, n);
    match n % 8 {
        0 => folder.install("echo", &next)?,
        1 => folder.copy("echo", &next)?,
        2 => folder.copy_slowly("echo", &next, WRITE_PAUSE).await?,
        3 => {
            folder.delete("echo")?;
            folder.install("echo", &next)?;
        }
        4 => {
            folder.copy("echo", &next[..next.len() * 2 / 3])?;
            return Ok(None);
        }
        5 => folder.install_with_mtime("echo", &next, folder.mtime("echo")?)?,
        6 => {
            let wrong = wrong_world()?;
            folder.install("echo", &variant(&wrong[n as usize / 8 % wrong.len()].1, n))?;
            return Ok(None);
        }
        _ => {
            folder.copy("echo", CORE_MODULE)?;
            return Ok(None);
        }
    }
    Ok(Some(next))
}

#[tokio::test]
async fn no_call_is_lost_or_doubled_while_its_file_is_replaced_in_every_way() -> Result<()> {
    let (per_second, seconds, replacements) = if full_length() { (2_000, 60, 200) } else { (200, 8, 25) };
    let lasts = Duration::from_secs(seconds);
    let mut stage = Stage::with(&["echo"]).await?;
    let mut host = stage.host().start_ready(&["echo"]).await?;
    let load = |lasts| Load { function: "echo".into(), per_second, lasts, in_flight_max: 10_000 };
    let quiet = load(lasts / 6).start(stage.redis.address()).report().await?;

    let echo = sample("echo")?;
    let load = load(lasts).start(stage.redis.address());
    let mut published = BTreeSet::from([Digest::of(&echo)]);
    let mut due = tokio::time::interval(lasts / (replacements + 2));
    for n in 1..=replacements {
        due.tick().await;
        published.extend(replace(&stage.folder, n, &echo).await?.map(|component| Digest::of(&component)));
    }
    let last = variant(&echo, replacements + 1);
    published.insert(Digest::of(&last));
    stage.folder.install("echo", &last)?;
    host.ready_with("echo", &last).await?;

    let report = load.report().await?;
    println!("no replacements: {}", quiet.summary());
    println!("{replacements} replacements, {} components: {}", published.len(), report.summary());
    println!("added p99: {:?}", report.quantile(0.99).saturating_sub(quiet.quantile(0.99)));
    println!("the host used {:?} of CPU time", cpu_time(host.pid())?);
    ensure!(report.calls.len() as u64 == u64::from(per_second) * seconds, "every call was accepted");
    report.check_exact(&published)?;
    ensure!(report.digests().len() >= replacements as usize / 4, "the replacements took: {}", report.summary());
    ensure!(stage.caller.call("echo", "after").await?.digest == Some(Digest::of(&last)), "the last one serves");
    ensure!(host.runs()?, "the host goes on");
    stage.caller.quiescent("echo").await
}

#[tokio::test]
async fn a_call_that_comes_after_ready_never_runs_on_an_older_build() -> Result<()> {
    let mut stage = Stage::with(&["echo"]).await?;
    let mut host = stage.host().start_ready(&["echo"]).await?;
    let lasts = Duration::from_secs(4);
    let load = Load { function: "echo".into(), per_second: 500, lasts, in_flight_max: 10_000 };
    let load = load.start(stage.redis.address());

    let echo = sample("echo")?;
    // Each build, and when the world was told that it serves.
    let mut builds = vec![(Digest::of(&echo), 0)];
    for n in 1..=8 {
        let next = variant(&echo, n);
        stage.folder.install("echo", &next)?;
        let ready = host.ready_with("echo", &next).await?;
        builds.push((Digest::of(&next), ready.heard_ms));
    }
    let report = load.report().await?;
    println!("{}", report.summary());
    report.check_exact(&builds.iter().map(|(digest, _)| *digest).collect())?;
    for call in &report.calls {
        let build = builds.iter().position(|(digest, _)| call.result.digest == Some(*digest));
        let build = build.context("a digest of ours")?;
        let known = builds.iter().rposition(|(_, told_ms)| *told_ms < call.result.accepted_ms).unwrap_or(0);
        ensure!(build >= known, "build {build} served a call that came after build {known} was ready: {call:?}");
    }
    stage.caller.quiescent("echo").await
}
