//! The names under which hosts of workflows are set up elsewhere.

use anyhow::{Result, ensure};
use baton_tests::settings::PATIENCE;
use baton_tests::{Commands, Stage, until};

#[tokio::test]
async fn the_names_of_other_systems_are_understood() -> Result<()> {
    let mut stage = Stage::with(&["echo"]).await?;
    let names = [
        ("WORKFLOW_WORKER_COUNT", "3"),
        ("WORKFLOW_REDIS_CONSUMER_GROUP", "workers"),
        ("WORKFLOW_REDIS_BATCH_SIZE", "2"),
    ];
    let plan = names.into_iter().fold(stage.host(), |plan, (name, value)| plan.setting(name, value));
    let host = plan.setting("WORKFLOW_REDIS_IDLE_TIMEOUT_MS", 7_000).start_ready(&["echo"]).await?;
    let record = host.record().await?;
    ensure!((record.seats, record.lease_ms) == (3, 7_000), "{record:?}");
    let mut groups = redis::cmd("XINFO");
    groups.arg("GROUPS").arg("baton:{default/echo}:calls");
    let groups: Vec<std::collections::BTreeMap<String, redis::Value>> =
        groups.query_async(stage.caller.connection()).await?;
    ensure!(groups.len() == 1 && format!("{:?}", groups[0]["name"]).contains("workers"), "{groups:?}");
    ensure!(stage.caller.call("echo", "7").await?.payload == "7");
    // Another host, whose keys begin otherwise, has nothing to do with it.
    let other = stage.host().setting("WORKFLOW_REDIS_STREAM_PREFIX", "flows").start().await?;
    let mut keys = redis::cmd("KEYS");
    keys.arg("flows:*");
    until("it has keys of its own", PATIENCE, async || {
        let keys: Vec<String> = keys.query_async(stage.caller.connection()).await?;
        Ok((!keys.is_empty()).then_some(()))
    })
    .await?;
    drop(other);
    Ok(())
}

#[tokio::test]
async fn a_wrong_value_is_refused_under_the_name_by_which_it_was_said() -> Result<()> {
    let wrong = Commands::alone().with("WORKFLOW_REDIS_BATCH_SIZE", "200");
    let said = wrong.run(&["exec", "list"]).await?.expect(2)?.stderr;
    ensure!(said.contains("calls.batch_max (here WORKFLOW_REDIS_BATCH_SIZE) must be 1 to 128"), "{said}");
    // Where both are said, our own name is meant.
    let ours = wrong.with("BATON_CALLS__BATCH_MAX", "300").run(&["exec", "list"]).await?.expect(2)?.stderr;
    ensure!(ours.contains("calls.batch_max must be 1 to 128"), "{ours}");
    Ok(())
}
