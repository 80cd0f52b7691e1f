//! Entries that are no calls: each becomes a dead letter with the reason, and the host goes on.

use anyhow::{Context, Result, ensure};
use baton_model::Status;
use baton_tests::settings::PAYLOAD_BYTES_MAX;
use baton_tests::{Stage, sample};

/// What is wrong, a word that the error must have in it, and the fields.
type Case<'a> = (&'a str, &'a str, Vec<(&'a str, &'a [u8])>);

fn cases() -> Vec<Case<'static>> {
    let payload: (&str, &[u8]) = ("payload", b"{}");
    let with = |name: &'static str, value: &'static [u8]| vec![payload, (name, value)];
    vec![
        ("an unknown field", "colour", with("colour", b"red")),
        ("a tenant in a field", "tenant", with("tenant", b"acme")),
        ("no payload", "payload", vec![("type", b"text/plain")]),
        ("two payloads", "payload", with("payload", b"[]")),
        ("two types", "type", vec![payload, ("type", b"a/b"), ("type", b"a/b")]),
        ("a type that is not UTF-8", "type", with("type", b"\xff\xfe")),
        ("a header that is not UTF-8", "x-name", with("x-name", b"\xc3\x28")),
        ("a header of two lines", "x-name", with("x-name", b"a\r\nb: c")),
        ("an id with a space", "id", with("id", b"a b")),
        ("an empty id", "id", with("id", b"")),
        ("an id that is too long", "id", with("id", &[b'a'; 129])),
        ("an id that is not ASCII", "id", with("id", "ä".as_bytes())),
        ("a reply channel with a space", "reply", with("reply", b"a b")),
        ("a version of the future", "v", with("v", b"2")),
        ("a deadline in words", "deadline", with("deadline", b"soon")),
        ("a negative deadline", "deadline", with("deadline", b"-1")),
        ("a traceparent of another form", "traceparent", with("traceparent", b"00-1-2-3")),
        ("an attempt of zero", "attempt", with("attempt", b"0")),
    ]
}

#[tokio::test]
async fn every_malformed_entry_becomes_a_dead_letter_that_says_why() -> Result<()> {
    let mut stage = Stage::with(&["echo"]).await?;
    let mut host = stage.host().start_ready(&["echo"]).await?;
    for (n, (what, word, fields)) in cases().into_iter().enumerate() {
        let entry = stage.caller.add("echo", &fields).await?;
        let dead = stage.caller.until_dead("echo", n + 1).await?;
        let letter = &dead[n];
        ensure!(letter.text("reason") == "malformed", "{what}: {letter:?}");
        ensure!(letter.text("error").contains(word), "{what}: the error does not name {word}: {letter:?}");
        let sent = fields.iter().find(|(name, _)| *name == "payload").map(|(_, value)| *value);
        ensure!(sent.is_none() || letter.bytes("payload").is_some(), "{what}: the payload is kept: {letter:?}");
        // The caller of a malformed call is told as well, under the entry's id where its own cannot be used.
        let told = stage.caller.result("echo", &entry).await?;
        ensure!(told.status == Status::Dead && told.error.is_some(), "{what}: {told:?}");
    }
    let answer = stage.caller.call("echo", "still there").await?;
    ensure!(answer.status == Status::Ok && host.runs()?, "the host goes on");
    stage.caller.quiescent("echo").await
}

#[tokio::test]
async fn malformed_entries_among_good_ones_cost_the_good_ones_nothing() -> Result<()> {
    let mut stage = Stage::with(&["echo"]).await?;
    let mut good = Vec::new();
    for (_, _, fields) in cases() {
        stage.caller.add("echo", &fields).await?;
        good.push(stage.caller.send("echo", "good").await?);
    }
    let _host = stage.host().start_ready(&["echo"]).await?;
    for answer in stage.caller.results("echo", &good, baton_tests::settings::PATIENCE).await? {
        assert_eq!((answer.status, answer.attempts), (Status::Ok, 1));
    }
    stage.caller.until_dead("echo", cases().len()).await?;
    stage.caller.quiescent("echo").await
}

#[tokio::test]
async fn an_oversize_payload_is_refused_and_the_largest_allowed_is_not() -> Result<()> {
    let mut stage = Stage::with(&["echo"]).await?;
    let _host = stage.host().setting(PAYLOAD_BYTES_MAX, 4096).start_ready(&["echo"]).await?;
    let largest = stage.caller.call("echo", [b'x'; 4096]).await?;
    assert_eq!((largest.status, largest.payload.len()), (Status::Ok, 4096));

    let too_large: (&str, &[u8]) = ("payload", &[b'x'; 4097]);
    stage.caller.add("echo", &[too_large, ("id", b"large")]).await?;
    let letter = &stage.caller.until_dead("echo", 1).await?[0];
    assert_eq!(letter.text("reason"), "oversize", "{letter:?}");
    assert!(letter.text("error").contains("4096"), "the error says the limit: {letter:?}");
    assert_eq!(stage.caller.result("echo", "large").await?.status, Status::Dead);
    stage.caller.quiescent("echo").await
}

#[tokio::test]
async fn a_payload_over_the_default_limit_of_one_mebibyte_is_refused() -> Result<()> {
    let mut stage = Stage::with(&["echo"]).await?;
    let _host = stage.host().start_ready(&["echo"]).await?;
    let largest = stage.caller.call("echo", vec![0; 1 << 20]).await?;
    assert_eq!((largest.status, largest.payload.len()), (Status::Ok, 1 << 20));
    let id = stage.caller.send("echo", vec![0; (1 << 20) + 1]).await?;
    assert_eq!(stage.caller.result("echo", &id).await?.status, Status::Dead);
    stage.caller.quiescent("echo").await
}

#[tokio::test]
async fn of_what_is_too_large_a_dead_letter_keeps_the_head() -> Result<()> {
    let mut stage = Stage::with(&["echo"]).await?;
    let _host = stage.host().setting(PAYLOAD_BYTES_MAX, 4096).start_ready(&["echo"]).await?;
    let (large, colour) = (vec![b'x'; 3_000_000], vec![b'y'; 1_000_000]);
    stage.caller.add("echo", &[("payload", &large), ("type", b"a/b"), ("reply", b"me")]).await?;
    stage.caller.add("echo", &[("colour", &colour), ("payload", b"small")]).await?;
    let letters = stage.caller.until_dead("echo", 2).await?;
    let of = |reason: &str| letters.iter().find(|letter| letter.text("reason") == reason);
    let oversize = of("oversize").context("the one is too large")?;
    assert_eq!(oversize.bytes("payload").map(<[u8]>::len), Some(4096));
    assert_eq!((oversize.text("cut_bytes").as_str(), oversize.text("type").as_str()), ("2995904", "a/b"));
    let malformed = of("malformed").context("the other has an unknown field")?;
    assert_eq!((malformed.bytes("colour").map(<[u8]>::len), malformed.text("payload").as_str()), (Some(4096), "small"));
    let kept: u64 = redis::cmd("MEMORY")
        .arg("USAGE")
        .arg("baton:{default/echo}:dead")
        .query_async(stage.caller.connection())
        .await?;
    ensure!(kept < 100_000, "{kept} bytes are kept");
    stage.caller.quiescent("echo").await
}

#[tokio::test]
async fn a_stream_that_is_none_stops_its_own_function_alone() -> Result<()> {
    let mut stage = Stage::with(&["echo", "hello"]).await?;
    let mut host = stage.host().start_ready(&["echo", "hello"]).await?;
    let calls = "baton:{default/echo}:calls";
    redis::pipe().del(calls).set(calls, "no stream").exec_async(stage.caller.connection()).await?;
    for _ in 0..5 {
        ensure!(stage.caller.call("hello", "{}").await?.status == Status::Ok, "the neighbour is served");
    }
    redis::cmd("DEL").arg(calls).exec_async(stage.caller.connection()).await?;
    // A host looks again by itself after a while, and at once when its set of functions changes.
    stage.folder.install("another", &sample("echo")?)?;
    host.ready("another").await?;
    ensure!(stage.caller.call("echo", "x").await?.status == Status::Ok, "once it is mended, so is the function");
    ensure!(host.runs()?, "the host goes on");
    stage.caller.quiescent("echo").await
}
