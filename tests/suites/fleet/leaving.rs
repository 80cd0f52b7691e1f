//! Hosts that are asked to leave while there is work.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Result, ensure};
use baton_model::Digest;
use baton_tests::settings::{SEATS, full_length};
use baton_tests::{Fleet, Load, Stage, sample};

use super::only_these_consume;

#[tokio::test]
async fn a_rolling_restart_under_load_is_seen_by_no_caller() -> Result<()> {
    let (per_second, lasts) =
        if full_length() { (1_000, Duration::from_secs(30)) } else { (300, Duration::from_secs(8)) };
    let mut stage = Stage::with(&["sleep"]).await?;
    let mut fleet = Fleet::of(3, &stage.host().setting(SEATS, 128), &["sleep"]).await?;
    let load = Load { function: "sleep".into(), per_second, lasts, in_flight_max: 100_000 };
    let load = load.start_sleeping(stage.redis.address(), Duration::from_millis(20));
    for at in 0..3 {
        tokio::time::sleep(lasts / 8).await;
        fleet.stop(at).await?;
        fleet.replace(at).await?;
    }
    let report = load.report().await?;
    println!("{}", report.summary());
    ensure!(report.calls.len() == (lasts.as_secs() * u64::from(per_second)) as usize, "Redis took every call");
    report.check_exact(&BTreeSet::from([Digest::of(&sample("sleep")?)]))?;
    stage.caller.quiescent("sleep").await?;
    only_these_consume(&mut stage.caller, "sleep", &fleet).await
}
