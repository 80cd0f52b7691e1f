//! Functions that do nothing but call functions, beside a neighbour whose function calls functions too.

use anyhow::{Result, ensure};
use baton_model::Status;
use baton_tests::settings::{PATIENCE, SEATS};
use baton_tests::{Stage, nested_guest, until};
use serde_json::json;

const CALLS: &str = "grants.calls.functions = \"all\"\n";

/// How much may wait in the queues of the tenant with the bombs.
const QUEUE_CALLS: usize = 500;
/// How many calls each kind begins with.
const BEGIN: usize = 50;

/// Each calls what never answers, or calls itself a thousand times without waiting, and so do those that it calls. The
/// neighbour's function has a chain of eight calls all the while, and the queue is as long as it may be and no longer.
#[tokio::test]
async fn a_neighbour_calls_functions_beside_calls_that_only_wait_and_fork_bombs() -> Result<()> {
    let mut stage = Stage::with(&[]).await?;
    stage.folder.write_tenant("fiend", &format!("[quotas]\nqueue_calls = {QUEUE_CALLS}\n"))?;
    for function in ["foe/caller", "fiend/bomb", "friend/caller"] {
        stage.folder.write_manifest(function, CALLS)?;
        stage.folder.install(function, &nested_guest()?)?;
    }
    let mut host = stage.host().setting(SEATS, 16).start_ready(&["foe/caller", "fiend/bomb", "friend/caller"]).await?;
    // Somebody has called it, and no host has it.
    stage.caller.send("foe/sink", "").await?;
    stage.caller.send_many("foe/caller", &json!({ "call": "sink" }).to_string(), BEGIN).await?;
    until("some of them wait", PATIENCE, async || Ok((stage.caller.entries("foe/sink").await? > 8).then_some(())))
        .await?;
    stage.caller.send_many("fiend/bomb", &json!({ "fork": 1000 }).to_string(), BEGIN).await?;
    until("the bombs have filled their queue", PATIENCE, async || {
        Ok((stage.caller.entries("fiend/bomb").await? > QUEUE_CALLS / 2).then_some(()))
    })
    .await?;
    let chain = (0..8).fold(json!({}), |inner, _| json!({ "call": "caller", "with": inner })).to_string();
    for _ in 0..10 {
        let answer = stage.caller.call("friend/caller", &chain).await?;
        ensure!(answer.status == Status::Ok, "{:?}", answer.error);
        // Those that run are in the stream too; and what one host decides at one moment it counts.
        let most = QUEUE_CALLS + 2 * BEGIN + 64;
        let long = stage.caller.entries("fiend/bomb").await?;
        ensure!(long <= most, "{long} calls stand in the queue, there may be about {most}");
    }
    ensure!(host.runs()?, "the host lives");
    Ok(())
}
