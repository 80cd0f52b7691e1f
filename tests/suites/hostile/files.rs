//! Files that no host may load: each is refused with its reason, in time, and the good one of that name serves on.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use baton_model::{Digest, Status};
use baton_tests::settings::{PATIENCE, RESCAN_MS, TIME_MAX_MS};
use baton_tests::{Host, Stage, sample, section_boundaries};

use crate::measures::{Held, neighbour};
use crate::odd;

/// The number of the section of exports in a component.
const EXPORTS: u8 = 11;

const LIMIT: Duration = Duration::from_millis(800);

/// How long a file may take until it is refused: two looks at the folder, the compiler and its limit on time, the trial
/// and its own, on a machine that does other things as well.
const REFUSAL_MAX: Duration = Duration::from_secs(25);

/// How long the neighbour may wait on such a machine.
const NEIGHBOUR_MAX: Duration = Duration::from_millis(1_000);

/// How much memory a host may keep after a file that it refused.
const KEPT_BYTES_MAX: u64 = 64 << 20;

async fn stage() -> Result<(Stage, Host)> {
    let stage = Stage::with(&["echo"]).await?;
    stage.folder.install("friend/echo", &sample("echo")?)?;
    let plan = stage.host().setting(RESCAN_MS, 200).setting(TIME_MAX_MS, LIMIT.as_millis());
    let host = plan.start_ready(&["echo", "friend/echo"]).await?;
    Ok((stage, host))
}

fn complains(line: &str) -> bool {
    (line.contains("WARN") || line.contains("ERROR")) && (line.contains("echo.wasm") || line.contains("default/echo"))
}

/// Puts the file in the place of `echo` and gives the complaint.
async fn refused(stage: &Stage, host: &Host, bytes: &[u8], what: &str) -> Result<String> {
    let so_far = host.lines().that(complains).len();
    stage.folder.install("echo", bytes)?;
    let said = host.lines().wait_for_several(so_far + 1, PATIENCE, complains).await;
    let said = said.with_context(|| format!("nobody complained of {what}"))?.remove(so_far);
    let answer = stage.caller.clone().call("echo", what).await?;
    let good = Digest::of(&sample("echo")?);
    ensure!(answer.status == Status::Ok && answer.digest == Some(good), "{what} took the place of echo: {answer:?}");
    Ok(said)
}

#[tokio::test]
async fn no_odd_component_is_loaded_and_each_is_told_why_and_the_neighbour_is_answered() -> Result<()> {
    let (stage, mut host) = stage().await?;
    let good = [Digest::of(&sample("echo")?)].into();
    neighbour(&stage, Duration::from_millis(200)).await?.check_answers(&good)?;
    let before = Held::by(host.pid())?;
    let mut wrong = Vec::new();
    for (name, word, bytes) in odd::refused()? {
        let start = Instant::now();
        let refused = async { Ok((refused(&stage, &host, &bytes, name).await?, start.elapsed())) };
        let beside = neighbour(&stage, Duration::from_millis(200));
        let ((said, took), beside) = tokio::try_join!(refused, beside)?;
        println!("{name}: after {took:?}: {said}; the neighbour: {}", beside.summary());
        if !said.contains(word) {
            wrong.push(format!("{name} is refused without the word {word:?}: {said}"));
        }
        ensure!(took < REFUSAL_MAX, "{name} was refused after {took:?}");
        beside.check_answers(&good).with_context(|| format!("beside {name}"))?;
        let p99 = beside.quantile(0.99);
        ensure!(p99 < NEIGHBOUR_MAX, "the neighbour's p99 beside {name} is {p99:?}");
        ensure!(host.runs()?, "{name} ended the host");
    }
    ensure!(wrong.is_empty(), "{wrong:#?}");
    let after = Held::by(host.pid())?;
    ensure!(after.rss_bytes < before.rss_bytes + KEPT_BYTES_MAX, "before {before:?}, after {after:?}");
    ensure!(after.files <= before.files + 4, "before {before:?}, after {after:?}");
    ensure!(after.maps <= before.maps + 100, "before {before:?}, after {after:?}");
    Ok(())
}

#[tokio::test]
async fn a_component_cut_at_any_of_its_sections_is_not_loaded() -> Result<()> {
    let (stage, mut host) = stage().await?;
    let component = odd::component("sub-instances")?;
    let boundaries = section_boundaries(&component)?;
    ensure!(boundaries.len() > 10, "the sections were not understood: {boundaries:?}");
    // What stands behind the exports is nothing but names, and may be missing.
    let exports = boundaries.iter().rposition(|(kind, _)| *kind == EXPORTS).context("a component has exports")?;
    for (_, cut) in &boundaries[..exports] {
        refused(&stage, &host, &component[..*cut], &format!("a component cut at {cut}")).await?;
    }
    ensure!(host.runs()?, "the host lives");
    Ok(())
}

/// What a host itself keeps as machine code is no component to it either.
#[tokio::test]
async fn machine_code_under_another_name_is_not_loaded() -> Result<()> {
    let stage = Stage::with(&["echo"]).await?;
    let data = tempfile::tempdir()?;
    let host = stage.host().data(data.path()).setting(RESCAN_MS, 200).start_ready(&["echo"]).await?;
    let artifacts = std::fs::read_dir(data.path().join("cache"))?;
    let mut artifacts = artifacts.filter_map(|entry| Some(entry.ok()?.path())).filter(|path| path.is_file());
    let artifact = artifacts.find(|path| path.extension().is_some_and(|kind| kind == "artifact"));
    let code = std::fs::read(artifact.context("the host keeps what it compiled")?)?;
    ensure!(code.starts_with(b"\x7fELF"), "an artifact is machine code first of all");
    let said = refused(&stage, &host, &code, "machine code").await?;
    ensure!(said.contains("machine code"), "{said}");
    Ok(())
}
