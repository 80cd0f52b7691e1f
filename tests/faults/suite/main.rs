//! The short tier, as one test: every kind of fault at least once, and every invariant holds.

use anyhow::{Result, ensure};
use baton_faults::{Plan, run};
use baton_tests::settings::{baton_binary, profile_dir};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_call_is_lost_or_doubled_whatever_breaks() -> Result<()> {
    let dir = profile_dir()?.join("test-logs/faults");
    let verdict = run(&Plan::short(1), &baton_binary()?, &dir).await?;
    ensure!(verdict.holds, "the report above says which; histories and timeline lie in {}", verdict.dir.display());
    Ok(())
}
