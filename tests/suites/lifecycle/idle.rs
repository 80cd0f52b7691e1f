//! A host with nothing to do.

use std::time::Duration;

use anyhow::{Result, ensure};
use baton_tests::{CommandStats, Stage, cpu_time, sample, variant};

/// How many functions are loaded and not called.
const FUNCTIONS: u32 = 20;

#[tokio::test]
async fn an_idle_host_with_twenty_functions_leaves_redis_alone() -> Result<()> {
    let mut stage = Stage::with(&[]).await?;
    let echo = sample("echo")?;
    let names: Vec<String> = (0..FUNCTIONS).map(|n| format!("idle-{n}")).collect();
    for (n, name) in (0..).zip(&names) {
        stage.folder.install(name, &variant(&echo, n))?;
    }
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let host = stage.host().start_ready(&names).await?;
    stage.caller.call(names[0], "one call, so that everything has started").await?;

    // The window is what is measured, not something waited for: two of the reads that block for thirty seconds.
    let window = Duration::from_secs(60);
    let (before, cpu_before) = (CommandStats::read(stage.caller.connection()).await?, cpu_time(host.pid())?);
    tokio::time::sleep(window).await;
    let (after, cpu_after) = (CommandStats::read(stage.caller.connection()).await?, cpu_time(host.pid())?);
    let used = after.since(&before);
    println!("within {window:?}: {used}; the host used {:?} of CPU time", cpu_after - cpu_before);
    // One of them was the reading itself.
    let commands = used.total.saturating_sub(1) as f64;
    ensure!(commands <= 0.2 * window.as_secs_f64(), "at most 0.2 commands a second: {used}");
    ensure!(cpu_after - cpu_before < window / 10, "an idle host is idle");
    Ok(())
}
