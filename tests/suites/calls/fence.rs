//! Who may settle a call: nobody but the host that holds its lease.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use baton_model::Status;
use baton_tests::settings::{GROUP, LEASE_MS, PATIENCE, SEATS};
use baton_tests::{HostPlan, Signal, Stage};

/// A host whose leases lapse after a second, with room for all calls of a test.
fn quick_lease(stage: &Stage) -> HostPlan {
    stage.host().setting(LEASE_MS, 1_000).setting(SEATS, 16)
}

#[tokio::test]
async fn a_host_whose_entry_was_taken_away_writes_no_result() -> Result<()> {
    let mut stage = Stage::with(&["sleep"]).await?;
    let _one = stage.host().setting(SEATS, 2).start_ready(&["sleep"]).await?;
    let _two = stage.host().setting(SEATS, 2).start_ready(&["sleep"]).await?;
    // More than one host has seats for, so that both have read and are consumers by name.
    let both = stage.caller.send_many("sleep", r#"{"ms":300}"#, 4).await?;
    stage.caller.results("sleep", &both, PATIENCE).await?;
    let id = stage.caller.send("sleep", r#"{"ms":700}"#).await?;
    let (entry, owner) = stage.caller.until_pending("sleep", 1).await?.remove(0);
    let consumers = stage.caller.consumers("sleep").await?;
    let other = consumers.iter().find(|name| **name != owner).context("the other host is a consumer as well")?;
    let _claimed: redis::Value = redis::cmd("XCLAIM")
        .arg(&["baton:{default/sleep}:calls", GROUP, other, "0", &entry])
        .query_async(stage.caller.connection())
        .await?;
    // A later call that sleeps longer: when it is answered, the first attempt has long been over.
    stage.caller.call("sleep", r#"{"ms":1400}"#).await?;
    match stage.caller.result_now("sleep", &id).await? {
        None => {
            assert_eq!(stage.caller.pending("sleep").await?, [(entry, other.clone())], "it is the other's to settle")
        }
        Some(result) => {
            // The other may have found the entry among its own and served it, as it has every right to.
            let host = result.host.context("a result names its host")?;
            assert_eq!(host.as_str(), other, "the host that lost the entry settled it");
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_long_call_on_a_live_host_is_not_taken_away_when_its_first_lease_would_have_lapsed() -> Result<()> {
    let mut stage = Stage::with(&["sleep"]).await?;
    let _one = quick_lease(&stage).start_ready(&["sleep"]).await?;
    let _two = quick_lease(&stage).start_ready(&["sleep"]).await?;
    let ids = stage.caller.send_many("sleep", r#"{"ms":4000}"#, 6).await?;
    let owners: BTreeMap<String, String> = stage.caller.until_pending("sleep", ids.len()).await?.into_iter().collect();
    for answer in stage.caller.results("sleep", &ids, PATIENCE).await? {
        assert_eq!((answer.status, answer.attempts), (Status::Ok, 1), "{answer:?}");
        // Whoever took it first answered it: a host's consumer has the host's id for its name.
        let host = answer.host.as_ref().context("a result names its host")?;
        assert_eq!(owners.get(answer.id.as_str()).map(String::as_str), Some(host.as_str()), "{answer:?}");
    }
    stage.caller.quiescent("sleep").await
}

#[tokio::test]
async fn a_host_that_wakes_after_its_leases_changes_nothing() -> Result<()> {
    let mut stage = Stage::with(&["sleep"]).await?;
    let mut notices = stage.redis.subscribe(&["baton:reply:inbox"]).await?;
    let mut frozen = quick_lease(&stage).start_ready(&["sleep"]).await?;
    let frozen_id = frozen.id().await?;
    let mut ids = Vec::new();
    for _ in 0..10 {
        let fields: [(&str, &[u8]); 2] = [("payload", br#"{"ms":1500}"#), ("reply", b"inbox")];
        ids.push(stage.caller.add("sleep", &fields).await?);
    }
    stage.caller.until_pending("sleep", 10).await?;
    frozen.signal(Signal::STOP)?;
    let mut successor = quick_lease(&stage).start_ready(&["sleep"]).await?;
    let results = stage.caller.results("sleep", &ids, PATIENCE).await?;
    let successor_id = successor.id().await?;
    for result in &results {
        assert_eq!((result.status, result.host.as_ref()), (Status::Ok, Some(&successor_id)), "{result:?}");
    }

    frozen.signal(Signal::CONT)?;
    // It is awake and past everything that it had in hand when it answers again, alone.
    successor.stop().await?;
    let answer = stage.caller.call("sleep", r#"{"ms":1}"#).await?;
    assert_eq!(answer.host, Some(frozen_id));
    frozen.stop().await?;
    assert_eq!(stage.caller.results("sleep", &ids, PATIENCE).await?, results, "the first results stand");
    let mut told = 0;
    for (_, mut text) in notices.drain().await? {
        while !text.is_empty() {
            baton_model::ResultDocument::decode(&mut text)?;
            told += 1;
        }
    }
    assert_eq!(told, ids.len(), "each caller was told once");
    stage.caller.quiescent("sleep").await
}

/// How many connections are open at Redis through which this host settles.
async fn settling_connections(stage: &Stage, host: &baton_model::HostId) -> Result<usize> {
    let mut redis = stage.redis.connect().await?;
    let list: String = redis::cmd("CLIENT").arg("LIST").query_async(&mut redis).await?;
    let name = format!("name=baton-settler-{host}");
    Ok(list.split_whitespace().filter(|field| *field == name).count())
}

#[tokio::test]
async fn a_frozen_host_is_cut_off_before_its_calls_are_taken_over() -> Result<()> {
    let mut stage = Stage::with(&["sleep"]).await?;
    let frozen = quick_lease(&stage).start_ready(&["sleep"]).await?;
    let frozen_id = frozen.id().await?;
    stage.caller.call("sleep", r#"{"ms":1}"#).await?;
    let id = stage.caller.send("sleep", r#"{"ms":1500}"#).await?;
    stage.caller.until_pending("sleep", 1).await?;
    frozen.signal(Signal::STOP)?;
    assert_eq!(settling_connections(&stage, &frozen_id).await?, 1, "what it may have on its way could still arrive");

    let _successor = quick_lease(&stage).start_ready(&["sleep"]).await?;
    stage.caller.results("sleep", &[id], PATIENCE).await?;
    assert_eq!(settling_connections(&stage, &frozen_id).await?, 0, "nothing late can come from it any more");
    Ok(())
}
