//! Functions that call functions, beside other tenants that do: what one takes is not the others', and no queue grows by it
//! beyond what it may hold.

use anyhow::{Context, Result, ensure};
use baton_model::Status;
use baton_tests::settings::{PATIENCE, SEATS};
use baton_tests::{nested_guest, until};
use serde_json::json;

use crate::nested::{ALL, stage, told};

#[tokio::test]
async fn a_tenant_whose_calls_all_wait_leaves_the_others_theirs() -> Result<()> {
    let mut stage = stage(&[("acme/one", ALL), ("victim/one", ALL)]).await?;
    let _host = stage.host().setting(SEATS, 16).start_ready(&["acme/one", "victim/one"]).await?;
    // Somebody has called it, and no host has it: whoever waits for it waits as long as it may.
    stage.caller.send("acme/sink", "").await?;
    stage.caller.send_many("acme/one", &json!({ "call": "sink" }).to_string(), 200).await?;
    // It has twelve of sixteen, those that are not kept for the other.
    until("as many of them wait as may", PATIENCE, async || {
        Ok((stage.caller.entries("acme/sink").await? > 12).then_some(()))
    })
    .await?;
    let chain = (0..8).fold(json!({}), |inner, _| json!({ "call": "one", "with": inner }));
    assert_eq!(told(&mut stage, "victim/one", &chain).await?["depth"], "8");
    assert_eq!(stage.caller.entries("acme/sink").await?, 13, "no more of them wait than may");
    Ok(())
}

#[tokio::test]
async fn one_call_at_once_is_enough_for_a_function_that_calls_itself() -> Result<()> {
    let mut stage = stage(&[]).await?;
    stage.folder.write_tenant("acme", "[quotas]\nconcurrency = 1\n")?;
    stage.folder.write_manifest("acme/one", &format!("{ALL}quotas.concurrency = 1\n"))?;
    stage.folder.install("acme/one", &nested_guest()?)?;
    let _host = stage.host().start_ready(&["acme/one"]).await?;
    let chain = (0..8).fold(json!({}), |inner, _| json!({ "call": "one", "with": inner })).to_string();
    let calls = stage.caller.send_many("acme/one", &chain, 3).await?;
    for answer in stage.caller.results("acme/one", &calls, PATIENCE).await? {
        assert_eq!((answer.status, answer.attempts), (Status::Ok, 1), "{:?}", answer.error);
    }
    stage.caller.quiescent("acme/one").await
}

#[tokio::test]
async fn a_depth_is_for_hosts_to_say() -> Result<()> {
    let mut stage = stage(&[("acme/one", ALL)]).await?;
    let _host = stage.host().start_ready(&["acme/one"]).await?;
    let sealed = told(&mut stage, "acme/one", &json!({ "call": "one", "with": {} })).await?;
    assert_eq!(sealed["depth"], "1", "what a function sees has nothing in it that it could pass on");
    for depth in ["7", "0", "1.00000000000000000000000000000000"] {
        let fields: [(&str, &[u8]); 2] = [("payload", b"{}"), ("x-baton-depth", depth.as_bytes())];
        let id = stage.caller.add("acme/one", &fields).await?;
        let answer = stage.caller.result("acme/one", &id).await?;
        let error = answer.error.context("it is refused")?;
        assert_eq!((answer.status, error.code.as_str()), (Status::Dead, "malformed"));
        ensure!(error.message.contains("`x-baton-depth` is for hosts alone"), "{}", error.message);
    }
    Ok(())
}

#[tokio::test]
async fn what_nobody_has_had_is_not_called_and_leaves_nothing_behind() -> Result<()> {
    let mut stage = stage(&[("acme/one", ALL)]).await?;
    let _host = stage.host().start_ready(&["acme/one"]).await?;
    for send in [false, true] {
        let answer = told(&mut stage, "acme/one", &json!({ "call": "ghost", "send": send })).await?.to_string();
        ensure!(answer.contains("Invalid") && answer.contains("no host has had"), "{answer}");
    }
    let keys: Vec<String> = redis::cmd("KEYS").arg("*ghost*").query_async(stage.caller.connection()).await?;
    assert_eq!(keys, [""; 0]);
    Ok(())
}

#[tokio::test]
async fn a_queue_takes_no_more_from_functions_than_it_may_hold() -> Result<()> {
    let mut stage = stage(&[("acme/one", ALL), ("acme/two", ALL)]).await?;
    stage.folder.write_tenant("acme", "[quotas]\nqueue_calls = 5\n")?;
    let _host = stage.host().start_ready(&["acme/one", "acme/two"]).await?;
    stage.caller.send("acme/sink", "").await?;
    let order = json!({ "fork": 50, "call": "sink" });
    assert_eq!(told(&mut stage, "acme/one", &order).await?, json!(4));
    assert_eq!(told(&mut stage, "acme/two", &order).await?, json!(0), "the queues of a tenant count together");
    assert_eq!(stage.caller.entries("acme/sink").await?, 5);
    let refused = told(&mut stage, "acme/one", &json!({ "call": "sink" })).await?.to_string();
    ensure!(refused.contains("Unavailable") && refused.contains("`queue_calls`"), "{refused}");
    Ok(())
}

#[tokio::test]
async fn tenants_with_the_longest_names_call_functions_too() -> Result<()> {
    let function = format!("{}/one", "a".repeat(63));
    let mut stage = stage(&[(&function, ALL)]).await?;
    let _host = stage.host().start_ready(&[&function]).await?;
    assert_eq!(told(&mut stage, &function, &json!({ "call": "one", "with": {} })).await?["depth"], "1");
    Ok(())
}
