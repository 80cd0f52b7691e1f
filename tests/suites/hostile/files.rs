//! Files that no host may load: each is refused with its reason, in time, and the good one of that name serves on.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use baton_model::{Digest, Status};
use baton_tests::settings::{PATIENCE, RESCAN_MS, TIME_MAX_MS};
use baton_tests::{Host, Stage, sample, section_boundaries};

use crate::odd;

/// The number of the section of exports in a component.
const EXPORTS: u8 = 11;

const LIMIT: Duration = Duration::from_millis(800);

async fn stage() -> Result<(Stage, Host)> {
    let stage = Stage::with(&["echo"]).await?;
    let plan = stage.host().setting(RESCAN_MS, 200).setting(TIME_MAX_MS, LIMIT.as_millis());
    let host = plan.start_ready(&["echo"]).await?;
    Ok((stage, host))
}

fn complains(line: &str) -> bool {
    (line.contains("WARN") || line.contains("ERROR")) && (line.contains("echo.wasm") || line.contains("default/echo"))
}

/// Puts the file in the place of `echo` and gives the complaint.
async fn refused(stage: &mut Stage, host: &Host, bytes: &[u8], what: &str) -> Result<String> {
    let so_far = host.lines().that(complains).len();
    stage.folder.install("echo", bytes)?;
    let said = host.lines().wait_for_several(so_far + 1, PATIENCE, complains).await;
    let said = said.with_context(|| format!("nobody complained of {what}"))?.remove(so_far);
    let answer = stage.caller.call("echo", what).await?;
    let good = Digest::of(&sample("echo")?);
    ensure!(answer.status == Status::Ok && answer.digest == Some(good), "{what} took the place of echo: {answer:?}");
    Ok(said)
}

#[tokio::test]
async fn no_odd_component_is_loaded_and_each_is_told_why() -> Result<()> {
    let (mut stage, mut host) = stage().await?;
    let mut wrong = Vec::new();
    for (name, word) in odd::REFUSED {
        let start = Instant::now();
        let said = refused(&mut stage, &host, &odd::component(name)?, name).await?;
        println!("{name}: after {:?}: {said}", start.elapsed());
        if !said.contains(word) {
            wrong.push(format!("{name} is refused without the word {word:?}: {said}"));
        }
        // Two looks at the folder, the compiler, the limit.
        ensure!(start.elapsed() < LIMIT + Duration::from_secs(5), "{name} was refused after {:?}", start.elapsed());
        ensure!(host.runs()?, "{name} ended the host");
    }
    ensure!(wrong.is_empty(), "{wrong:#?}");
    Ok(())
}

#[tokio::test]
async fn a_component_cut_at_any_of_its_sections_is_not_loaded() -> Result<()> {
    let (mut stage, mut host) = stage().await?;
    let component = odd::component("sub-instances")?;
    let boundaries = section_boundaries(&component)?;
    ensure!(boundaries.len() > 10, "the sections were not understood: {boundaries:?}");
    // What stands behind the exports is nothing but names, and may be missing.
    let exports = boundaries.iter().rposition(|(kind, _)| *kind == EXPORTS).context("a component has exports")?;
    for (_, cut) in &boundaries[..exports] {
        refused(&mut stage, &host, &component[..*cut], &format!("a component cut at {cut}")).await?;
    }
    ensure!(host.runs()?, "the host lives");
    Ok(())
}

/// What a host itself keeps as machine code is no component to it either.
#[tokio::test]
async fn machine_code_under_another_name_is_not_loaded() -> Result<()> {
    let mut stage = Stage::with(&["echo"]).await?;
    let data = tempfile::tempdir()?;
    let host = stage.host().data(data.path()).setting(RESCAN_MS, 200).start_ready(&["echo"]).await?;
    let artifacts = std::fs::read_dir(data.path().join("cache"))?;
    let mut artifacts = artifacts.filter_map(|entry| Some(entry.ok()?.path())).filter(|path| path.is_file());
    let artifact = artifacts.find(|path| path.extension().is_some_and(|kind| kind == "artifact"));
    let code = std::fs::read(artifact.context("the host keeps what it compiled")?)?;
    ensure!(code.starts_with(b"\x7fELF"), "an artifact is machine code first of all");
    let said = refused(&mut stage, &host, &code, "machine code").await?;
    ensure!(said.contains("machine code"), "{said}");
    Ok(())
}
