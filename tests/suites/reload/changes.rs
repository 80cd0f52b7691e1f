//! Files that come, change and go as they should.

use std::os::unix::fs::FileExt as _;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use baton_model::{Digest, Status};
use baton_tests::settings::{PATIENCE, RESCAN_MS, SEATS};
use baton_tests::{Host, Stage, patched, sample, variant};

/// Waits until the world is told that `function` is gone from this host.
async fn gone(host: &mut Host, function: &str) -> Result<()> {
    let function = function.parse()?;
    host.events()?.wait_for("offline", PATIENCE, |event| event.tells("offline", &function)).await?;
    Ok(())
}

#[tokio::test]
async fn the_next_call_is_answered_by_the_new_build() -> Result<()> {
    let mut stage = Stage::with(&["hello"]).await?;
    let mut host = stage.host().start_ready(&["hello"]).await?;
    let old = sample("hello")?;
    let new = patched(&old, "Hello", "Howdy")?;
    // Back and forth: a build that was here before is as good as a new one.
    for (component, word) in [(&new, "Howdy"), (&old, "Hello"), (&new, "Howdy")] {
        stage.folder.install("hello", component)?;
        host.ready_with("hello", component).await?;
        let answer = stage.caller.call("hello", r#"{"name":"Ada"}"#).await?;
        assert_eq!(String::from_utf8_lossy(&answer.payload), format!(r#"{{"greeting":"{word}, Ada"}}"#));
        assert_eq!(answer.digest, Some(Digest::of(component)));
    }
    let loaded = host.record().await?.functions;
    assert_eq!(loaded.len(), 1);
    assert_eq!(loaded[0].digest, Digest::of(&new), "`baton ps` lists what serves");
    Ok(())
}

#[tokio::test]
async fn a_call_in_flight_finishes_on_its_build_while_new_calls_run_on_the_new_one() -> Result<()> {
    let mut stage = Stage::with(&["sleep"]).await?;
    let mut host = stage.host().setting(SEATS, 16).start_ready(&["sleep"]).await?;
    let old = sample("sleep")?;
    let long = stage.caller.send("sleep", r#"{"ms":3000}"#).await?;
    stage.caller.until_pending("sleep", 1).await?;
    let new = variant(&old, 1);
    stage.folder.install("sleep", &new)?;
    host.ready_with("sleep", &new).await?;
    let short = stage.caller.call("sleep", r#"{"ms":1}"#).await?;
    assert_eq!(short.digest, Some(Digest::of(&new)));
    assert!(stage.caller.result_now("sleep", &long).await?.is_none(), "the first call is still in flight");
    let long = stage.caller.result("sleep", &long).await?;
    assert_eq!((long.status, long.attempts, long.digest), (Status::Ok, 1, Some(Digest::of(&old))));
    stage.caller.quiescent("sleep").await
}

#[tokio::test]
async fn a_deleted_function_drains_and_its_queued_calls_wait_for_its_return() -> Result<()> {
    let mut stage = Stage::with(&["echo", "sleep"]).await?;
    let mut host = stage.host().setting(SEATS, 16).start_ready(&["echo", "sleep"]).await?;
    let in_flight = stage.caller.send("sleep", r#"{"ms":2500}"#).await?;
    stage.caller.until_pending("sleep", 1).await?;
    stage.folder.delete("sleep")?;
    gone(&mut host, "sleep").await?;
    let finished = stage.caller.result("sleep", &in_flight).await?;
    assert_eq!((finished.status, finished.attempts), (Status::Ok, 1), "what was in flight is answered");

    let queued = stage.caller.send_many("sleep", r#"{"ms":1}"#, 5).await?;
    stage.caller.call("echo", "the host had its chance").await?;
    assert!(stage.caller.results_now("sleep", &queued).await?.iter().all(Option::is_none));
    assert_eq!(stage.caller.entries("sleep").await?, 5, "queued calls wait in their stream");
    assert!(host.record().await?.functions.iter().all(|loaded| loaded.function.function().as_str() != "sleep"));

    stage.folder.install("sleep", &variant(&sample("sleep")?, 1))?;
    host.ready("sleep").await?;
    for answer in stage.caller.results("sleep", &queued, PATIENCE).await? {
        assert_eq!((answer.status, answer.attempts), (Status::Ok, 1));
    }
    stage.caller.quiescent("sleep").await
}

#[tokio::test]
async fn a_replacement_that_keeps_size_and_time_of_change_is_noticed() -> Result<()> {
    let mut stage = Stage::with(&["echo"]).await?;
    let echo = sample("echo")?;
    let (one, two, three) = (variant(&echo, 1), variant(&echo, 2), variant(&echo, 3));
    stage.folder.install("echo", &one)?;
    let mut host = stage.host().start_ready(&["echo"]).await?;
    let mtime = stage.folder.mtime("echo")?;
    assert_eq!(one.len(), two.len());

    stage.folder.install_with_mtime("echo", &two, mtime)?;
    host.ready_with("echo", &two).await?;
    stage.folder.copy("echo", &three)?;
    std::fs::File::options().write(true).open(stage.folder.file("echo")?)?.set_modified(mtime)?;
    host.ready_with("echo", &three).await?;
    assert_eq!(stage.caller.call("echo", "x").await?.digest, Some(Digest::of(&three)));
    Ok(())
}

#[tokio::test]
async fn only_files_that_are_functions_by_name_are_looked_at() -> Result<()> {
    let mut stage = Stage::with(&["echo"]).await?;
    let echo = sample("echo")?;
    let folder = stage.folder.path();
    for name in [".hidden.wasm", "Upper.wasm", "1st.wasm", "echo.wasm.bak", "echo.cwasm", "readme.txt"] {
        std::fs::write(folder.join(name), &echo)?;
    }
    std::fs::create_dir_all(folder.join("sources"))?;
    std::fs::write(folder.join("sources").join("inner.wasm"), &echo)?;
    std::fs::create_dir_all(folder.join("folder.wasm"))?;
    let mut host = stage.host().start_ready(&["echo"]).await?;
    // One more that is a function, and comes last: when it is ready, the others had their chance.
    stage.folder.install("acme/echo", &echo)?;
    host.ready("acme/echo").await?;
    let mut loaded: Vec<String> =
        host.record().await?.functions.iter().map(|loaded| loaded.function.to_string()).collect();
    loaded.sort();
    assert_eq!(loaded, ["acme/echo", "default/echo"]);
    let answer = stage.caller.call("echo", "x").await?;
    assert_eq!(answer.host.context("a result names its host")?, host.id().await?);
    Ok(())
}

/// How long a file stays as it is before it is taken.
const SETTLE: Duration = Duration::from_millis(10);

#[tokio::test]
async fn a_file_that_changes_all_the_time_is_taken_when_it_has_stopped() -> Result<()> {
    let mut stage = Stage::with(&["echo"]).await?;
    let echo = sample("echo")?;
    let mut host = stage.host().setting(RESCAN_MS, 20).start_ready(&["echo"]).await?;
    let file = stage.folder.file("echo")?;
    // Each time a whole component, and another one: the last byte of a name is rewritten in place.
    let written = tokio::task::spawn_blocking(move || -> Result<(Vec<u8>, usize)> {
        let file = std::fs::OpenOptions::new().write(true).open(file)?;
        let (end, mut last, mut pauses) = (Instant::now() + Duration::from_secs(3), Instant::now(), 0);
        let mut n = 10_000_000;
        while Instant::now() < end {
            n += 1;
            let next = variant(&[], n);
            file.write_all_at(&next, echo.len() as u64)?;
            // Whoever looks twice in such a pause is right to take it.
            pauses += usize::from(last.elapsed() >= SETTLE);
            last = Instant::now();
        }
        Ok((variant(&echo, n), pauses))
    });
    let (last, pauses) = written.await??;
    host.ready_with("echo", &last).await?;
    ensure!(stage.caller.call("echo", "x").await?.digest == Some(Digest::of(&last)), "the last one serves");
    let echo = "echo".parse()?;
    let taken = host.events()?.heard().await?.iter().filter(|event| event.tells("ready", &echo)).count();
    // Beside the first and the last, which were waited for.
    ensure!(taken <= pauses, "{taken} were taken, and there were {pauses} pauses");
    Ok(())
}
