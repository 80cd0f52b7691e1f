//! How many files a host may have open.

use anyhow::{Context, Result, ensure};
use baton_tests::Stage;

#[tokio::test]
async fn a_host_raises_its_limit_on_open_files_as_far_as_it_may() -> Result<()> {
    let stage = Stage::with(&["echo"]).await?;
    let host = stage.host().open_files(256).start_ready(&["echo"]).await?;
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", host.pid()))?;
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files")).context("it has such a limit")?;
    let (soft, hard) = line.trim().split_once(char::is_whitespace).context("a soft and a hard one")?;
    ensure!(hard.trim_start().starts_with(soft) && soft != "256", "{line}");
    Ok(())
}
