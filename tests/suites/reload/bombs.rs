//! Files that are made to cost the compiler more than a host has.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use baton_model::Digest;
use baton_tests::settings::PATIENCE;
use baton_tests::{Commands, Host, Stage, children_of, is_alive, memory_bomb, plain_bombs, sample, time_bomb, until};

use crate::bad_files::never_replace;

#[tokio::test]
async fn a_compile_bomb_never_replaces_a_good_one() -> Result<()> {
    let mut bad: Vec<_> = plain_bombs()?.into_iter().map(|(what, _, bytes)| (what.to_owned(), bytes)).collect();
    bad.push(("a bomb of memory".to_owned(), memory_bomb()?));
    never_replace(bad).await
}

#[tokio::test]
async fn what_a_look_at_a_file_shows_is_refused_with_the_rule() -> Result<()> {
    for (what, word, bytes) in plain_bombs()? {
        let said = refusal(&bytes).await?;
        ensure!(said.contains("too costly to compile") && said.contains(word), "{what}: {said}");
    }
    Ok(())
}

#[tokio::test]
async fn a_compiler_that_takes_too_much_is_stopped_at_its_limit() -> Result<()> {
    let memory = refusal(&memory_bomb()?).await?;
    ensure!(memory.contains("MiB of memory"), "{memory}");
    // 56 KB, which would take 20 s.
    let time = refusal(&time_bomb(40, 0)?).await?;
    ensure!(time.contains("more than 5 s of CPU"), "{time}");
    Ok(())
}

/// What `baton check` says of a component that it refuses.
async fn refusal(bytes: &[u8]) -> Result<String> {
    let file = tempfile::Builder::new().suffix(".wasm").tempfile()?;
    fs::write(file.path(), bytes)?;
    let path = file.path().to_str().context("a path of ours is text")?;
    Ok(Commands::alone().run(&["check", path]).await?.expect(1)?.stdout)
}

/// The process in which the host compiles.
async fn compiling(host: &Host) -> Result<u32> {
    let pid = host.pid();
    until("the host compiles in a process of its own", PATIENCE, async || {
        let children = children_of(pid)?;
        Ok(children.into_iter().find(|(_, name)| name == "baton-compile").map(|(child, _)| child))
    })
    .await
}

/// The soft limit of a process, as `/proc` names and counts it.
fn limit(pid: u32, name: &str) -> Result<String> {
    let limits = fs::read_to_string(format!("/proc/{pid}/limits"))?;
    let line = limits.lines().find_map(|line| line.strip_prefix(name)).context("the limit has a line")?;
    Ok(line.split_whitespace().next().context("the limit has a value")?.to_owned())
}

#[tokio::test]
async fn the_compiler_is_a_process_with_limits_that_ends_with_its_host() -> Result<()> {
    let mut stage = Stage::with(&["echo"]).await?;
    let mut host = stage.host().setting("SECRET_OF_THE_HOST", "hush").start_ready(&["echo"]).await?;
    // It gets 4 s for each file and 6 s for each MiB: 53 s of CPU, far more than this test takes.
    stage.folder.install("acme/slow", &time_bomb(200, 8 << 20)?)?;
    let compiler = compiling(&host).await?;
    until("the compiler has limited itself", PATIENCE, async || {
        Ok((limit(compiler, "Max cpu time")? != "unlimited").then_some(()))
    })
    .await?;
    until("it has limited all that it wants to", PATIENCE, async || {
        Ok((limit(compiler, "Max core file size")? == "0").then_some(()))
    })
    .await?;
    for (name, expected) in [("Max open files", "16"), ("Max file size", "0")] {
        ensure!(limit(compiler, name)? == expected, "{name}");
    }
    for name in ["Max data size", "Max address space"] {
        let bytes: u64 = limit(compiler, name)?.parse().with_context(|| format!("{name} is limited"))?;
        ensure!(bytes < 4 << 30, "{name}: {bytes}");
    }
    let environment = fs::read_to_string(format!("/proc/{compiler}/environ"))?;
    ensure!(!environment.contains("hush") && !environment.contains("PATH="), "it knows {environment:?}");
    let mut files = Vec::new();
    for file in fs::read_dir(format!("/proc/{compiler}/fd"))? {
        files.push(fs::read_link(file?.path())?.to_string_lossy().into_owned());
    }
    ensure!(files.len() == 3 && files.iter().all(|file| file.starts_with("pipe:")), "it has open {files:?}");

    // Meanwhile calls are answered.
    let answer = stage.caller.call("echo", "x").await?;
    ensure!(answer.digest == Some(Digest::of(&sample("echo")?)), "{answer:?}");
    host.kill9().await?;
    until("the compiler ends with its host", Duration::from_secs(10), async || Ok((!is_alive(compiler)).then_some(())))
        .await
}

#[tokio::test]
async fn a_host_that_is_told_to_stop_does_not_wait_for_its_compiler() -> Result<()> {
    let stage = Stage::with(&["echo"]).await?;
    let mut host = stage.host().start_ready(&["echo"]).await?;
    stage.folder.install("acme/slow", &time_bomb(200, 8 << 20)?)?;
    let compiler = compiling(&host).await?;
    host.stop().await?;
    until("the compiler ends with its host", Duration::from_secs(10), async || Ok((!is_alive(compiler)).then_some(())))
        .await
}
