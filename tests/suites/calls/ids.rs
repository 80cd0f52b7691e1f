//! The caller's own ids, and the fields that hosts write for each other.

use anyhow::Result;
use baton_model::Status;
use baton_tests::settings::{ATTEMPTS_MAX, PATIENCE, SEATS};
use baton_tests::{Stage, until};

#[tokio::test]
async fn the_same_id_sent_again_is_the_same_call_and_keeps_its_first_result() -> Result<()> {
    let mut stage = Stage::with(&["echo"]).await?;
    let _host = stage.host().start_ready(&["echo"]).await?;
    stage.caller.add("echo", &[("payload", b"first"), ("id", b"order-1")]).await?;
    let first = stage.caller.result("echo", "order-1").await?;
    assert_eq!(&first.payload[..], b"first");
    let mut notices = stage.redis.subscribe(&["baton:reply:again"]).await?;
    stage.caller.add("echo", &[("payload", b"second"), ("id", b"order-1"), ("reply", b"again")]).await?;
    let (_, mut text) = tokio::time::timeout(PATIENCE, notices.next()).await?.expect("the second sender is told, too");
    stage.caller.quiescent("echo").await?;
    assert_eq!(stage.caller.result("echo", "order-1").await?, first, "the first terminal result is the only one");
    let told = baton_model::ResultDocument::decode(&mut text)?;
    assert_eq!(&told.payload[..], b"first", "the second sender is told the result that stands");
    Ok(())
}

#[tokio::test]
async fn an_id_that_was_sent_twice_before_any_host_came_has_one_result() -> Result<()> {
    let mut stage = Stage::with(&["echo"]).await?;
    for payload in [b"one", b"two"] {
        stage.caller.add("echo", &[("payload", payload), ("id", b"twin")]).await?;
    }
    let _host = stage.host().start_ready(&["echo"]).await?;
    stage.caller.quiescent("echo").await?;
    let answer = stage.caller.result("echo", "twin").await?;
    assert_eq!(answer.status, Status::Ok);
    assert!([&b"one"[..], b"two"].contains(&&answer.payload[..]), "{answer:?}");
    assert!(stage.caller.dead("echo").await?.is_empty());
    Ok(())
}

#[tokio::test]
async fn a_call_that_another_host_put_back_goes_on_counting() -> Result<()> {
    let mut stage = Stage::with(&["echo", "fail"]).await?;
    let _host = stage.host().setting(ATTEMPTS_MAX, 3).start_ready(&["echo", "fail"]).await?;
    let put_back: [(&str, &[u8]); 3] = [("id", b"again"), ("attempt", b"3"), ("accepted", b"1700000000000")];
    stage.caller.add("echo", &[&[("payload", &b"x"[..])], &put_back[..]].concat()).await?;
    let answer = stage.caller.result("echo", "again").await?;
    assert_eq!((answer.status, answer.attempts, answer.accepted_ms), (Status::Ok, 3, 1_700_000_000_000));

    stage.caller.add("fail", &[&[("payload", &br#"{"kind":"retry"}"#[..])], &put_back[..]].concat()).await?;
    let given_up = stage.caller.result("fail", "again").await?;
    assert_eq!((given_up.status, given_up.attempts), (Status::Dead, 3), "the third attempt was the last: {given_up:?}");
    stage.caller.quiescent("fail").await
}

#[tokio::test]
async fn two_hosts_share_the_calls_of_one_function() -> Result<()> {
    let mut stage = Stage::with(&["sleep"]).await?;
    let one = stage.host().setting(SEATS, 4).start_ready(&["sleep"]).await?;
    let two = stage.host().setting(SEATS, 4).start_ready(&["sleep"]).await?;
    let ids = stage.caller.send_many("sleep", r#"{"ms":300}"#, 16).await?;
    let answers = stage.caller.results("sleep", &ids, PATIENCE).await?;
    for host in [&one, &two] {
        let id = host.id().await?;
        let of_it = answers.iter().filter(|answer| answer.host.as_ref() == Some(&id)).count();
        assert!((4..=12).contains(&of_it), "with 4 seats each, host {id} answered {of_it} of 16");
    }
    assert!(answers.iter().all(|answer| answer.attempts == 1));
    until("both hosts are listed", PATIENCE, async || Ok((one.commands().hosts().await?.len() == 2).then_some(())))
        .await
}
