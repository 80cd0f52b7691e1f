//! Calls that are a host's own though it never saw them.

use anyhow::{Context, Result};
use baton_tests::settings::{GROUP, PATIENCE, PREFIX};
use baton_tests::{Signal, Stage};

/// How long nobody has kept the entry when the host finds it: its lease of 30 s is about to lapse.
const IDLE_MS: i64 = 29_000;

/// Otherwise another host may claim it in the moment in which it begins, and it would run twice.
#[tokio::test]
async fn a_call_that_a_host_finds_to_be_its_own_has_a_full_lease_before_it_begins() -> Result<()> {
    let mut stage = Stage::with(&["sleep"]).await?;
    let mut host = stage.host().start_ready(&["sleep"]).await?;
    let id = host.id().await?;
    let mut redis = stage.redis.connect().await?;

    // While the host sleeps its connection goes, and the entry is handed to its name.
    host.signal(Signal::STOP)?;
    let list: String = redis::cmd("CLIENT").arg("LIST").query_async(&mut redis).await?;
    let reader = list.lines().find(|line| line.contains(&format!(" name=baton-reader-{id} ")));
    let reader =
        reader.and_then(|line| line.strip_prefix("id=")?.split(' ').next()).context("the host has a reader")?;
    redis::cmd("CLIENT").arg(&["KILL", "ID", reader]).exec_async(&mut redis).await?;
    let call = stage.caller.send("sleep", r#"{"ms":1000}"#).await?;
    let calls = format!("{PREFIX}:{{default/sleep}}:calls");
    let read = ["GROUP", GROUP, id.as_str(), "COUNT", "1", "STREAMS", &calls, ">"];
    redis::cmd("XREADGROUP").arg(&read).exec_async(&mut redis).await?;
    let idle = IDLE_MS.to_string();
    let old = [&calls, GROUP, id.as_str(), "0", &call, "IDLE", &idle, "JUSTID"];
    redis::cmd("XCLAIM").arg(&old).exec_async(&mut redis).await?;
    host.signal(Signal::CONT)?;

    host.lines().wait_for_several(1, PATIENCE, |line| line.contains("took up calls")).await?;
    let mut look = redis::cmd("XPENDING");
    look.arg(&[&calls, GROUP, "-", "+", "10"]);
    let pending: Vec<(String, String, i64, i64)> = look.query_async(&mut redis).await?;
    let [(entry, owner, idle_ms, _)] = &pending[..] else { anyhow::bail!("one entry is under way: {pending:?}") };
    assert_eq!((entry, owner.as_str()), (&call, id.as_str()));
    assert!(*idle_ms < IDLE_MS, "its lease was not renewed: {pending:?}");
    assert_eq!(stage.caller.result("sleep", &call).await?.attempts, 1, "nobody else had it");
    host.stop().await
}
