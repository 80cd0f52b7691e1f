//! Calls that are answered.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use baton_model::{Digest, ResultDocument, Status};
use baton_tests::settings::{PATIENCE, REDIS_PREFIX, RESULT_TTL_MS};
use baton_tests::{Stage, now_ms, sample, until};
use bytes::Bytes;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::net::UnixStream;
use tokio::time::timeout;

#[tokio::test]
async fn a_payload_alone_yields_the_result_document_of_the_contract() -> Result<()> {
    let mut stage = Stage::with(&["hello"]).await?;
    let host = stage.host().start_ready(&["hello"]).await?;

    let id = stage.caller.send("hello", r#"{"name":"Ada"}"#).await?;
    stage.caller.result("hello", &id).await?;

    let bytes = stage.caller.result_bytes("hello", &id).await?.context("there is a result")?;
    let line_end = bytes.iter().position(|byte| *byte == b'\n').context("the first line ends")?;
    let line: Value = serde_json::from_slice(&bytes[..line_end])?;
    assert_eq!(String::from_utf8_lossy(&bytes[line_end + 1..]), r#"{"greeting":"Hello, Ada"}"#);
    let digest = Digest::of(&sample("hello")?).to_string();
    for (field, expected) in [
        ("status", Value::from("ok")),
        ("id", Value::from(id.as_str())),
        ("type", Value::from("application/json")),
        ("length", Value::from(25)),
        ("attempts", Value::from(1)),
        ("digest", Value::from(digest)),
        ("host", Value::from(host.id().await?.as_str())),
    ] {
        assert_eq!(line[field], expected, "the field {field} of {line}");
    }
    assert!(line.get("error").is_none(), "an answer has no error: {line}");
    let times: Vec<u64> =
        ["accepted_ms", "started_ms", "finished_ms"].iter().filter_map(|field| line[field].as_u64()).collect();
    assert_eq!(times.len(), 3, "all times are there: {line}");
    assert!(times.is_sorted() && times[2] <= now_ms() + 1000, "the times are in their order: {line}");
    assert!(id.starts_with(&times[0].to_string()), "accepted when Redis took the entry {id}: {line}");

    stage.caller.quiescent("hello").await?;
    let ttl = stage.caller.result_ttl_ms("hello", &id).await?;
    assert!((3_500_000..=3_600_000).contains(&ttl), "a result is kept for an hour, not for {ttl} ms");
    Ok(())
}

#[tokio::test]
async fn an_idle_host_answers_well_within_fifty_milliseconds() -> Result<()> {
    let mut stage = Stage::with(&["hello"]).await?;
    let _host = stage.host().start_ready(&["hello"]).await?;
    let mut notices = stage.redis.subscribe(&["baton:reply:here"]).await?;
    let mut took = Vec::new();
    for _ in 0..20 {
        let start = Instant::now();
        stage.caller.add("hello", &[("payload", br#"{"name":"Ada"}"#), ("reply", b"here")]).await?;
        tokio::time::timeout(PATIENCE, notices.next()).await?.context("a notice came")?;
        took.push(start.elapsed());
    }
    took.sort();
    println!("shortest {:?}, median {:?}, longest {:?}", took[0], took[10], took[19]);
    // The median, because the machine may be busy with the neighbouring tests.
    ensure!(took[10] <= Duration::from_millis(50), "half of the calls took longer than 50 ms: {took:?}");
    Ok(())
}

#[tokio::test]
async fn the_notice_on_the_reply_channel_is_the_result() -> Result<()> {
    let mut stage = Stage::with(&["echo"]).await?;
    let mut notices = stage.redis.subscribe(&["baton:reply:inbox"]).await?;
    let mut waiting = Vec::new();
    // Before the host is there, so that some of them are answered in one batch.
    for n in 0..20 {
        let payload = format!("{n}\n{n}");
        let id = stage.caller.add("echo", &[("payload", payload.as_bytes()), ("reply", b"inbox")]).await?;
        waiting.push((id, payload));
    }
    let _host = stage.host().start_ready(&["echo"]).await?;
    while !waiting.is_empty() {
        let (_, mut text) = tokio::time::timeout(PATIENCE, notices.next())
            .await
            .context("a notice is missing")?
            .context("connected")?;
        while !text.is_empty() {
            let notice = ResultDocument::decode(&mut text)?;
            let at = waiting.iter().position(|(id, _)| *id == notice.id.as_str());
            let (id, payload) = waiting.swap_remove(at.with_context(|| format!("one call, one notice: {notice:?}"))?);
            assert_eq!((notice.status, &notice.payload[..]), (Status::Ok, payload.as_bytes()));
            let result =
                stage.caller.result_now("echo", &id).await?.context("the result is there before its notice")?;
            assert_eq!(result.payload, notice.payload);
        }
    }
    stage.caller.quiescent("echo").await?;
    assert!(notices.drain().await?.is_empty(), "there is one notice for each call");
    Ok(())
}

#[tokio::test]
async fn bytes_and_their_media_type_come_back_as_they_were_sent() -> Result<()> {
    let mut stage = Stage::with(&["echo"]).await?;
    let _host = stage.host().start_ready(&["echo"]).await?;
    let every_byte: Vec<u8> = (0..=255).chain(*b"\r\n\0\n{}\n").collect();
    let large: Vec<u8> = (0..200_000_u32).flat_map(u32::to_le_bytes).collect();
    for payload in [&b""[..], &every_byte, &large] {
        let fields = [("payload", payload), ("type", &b"application/x-thing; a=b"[..])];
        let id = stage.caller.add("echo", &fields).await?;
        let answer = stage.caller.result("echo", &id).await?;
        assert_eq!(answer.status, Status::Ok, "{:?}", answer.error);
        assert_eq!(answer.media_type, "application/x-thing; a=b");
        assert!(answer.payload == payload, "{} bytes came back changed", payload.len());
    }
    Ok(())
}

#[tokio::test]
async fn every_optional_field_of_the_contract_is_accepted() -> Result<()> {
    let mut stage = Stage::with(&["echo"]).await?;
    let _host = stage.host().start_ready(&["echo"]).await?;
    let deadline = (now_ms() + 60_000).to_string();
    let fields: [(&str, &[u8]); 10] = [
        ("payload", b"hi"),
        ("id", b"order/42#a"),
        ("type", b"text/plain"),
        ("reply", b"inbox"),
        ("deadline", deadline.as_bytes()),
        ("traceparent", b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
        ("tracestate", b"vendor=value"),
        ("x-colour", b"blue"),
        ("x-empty", b""),
        ("v", b"1"),
    ];
    stage.caller.add("echo", &fields).await?;
    let answer = stage.caller.result("echo", "order/42#a").await?;
    assert_eq!(
        (answer.status, answer.media_type.as_str(), &answer.payload[..]),
        (Status::Ok, "text/plain", &b"hi"[..])
    );

    for field in &fields[1..] {
        let id = if field.0 == "id" { Some("order/43") } else { None };
        let value = id.map_or(field.1, str::as_bytes);
        let entry = stage.caller.add("echo", &[("payload", b"one"), (field.0, value)]).await?;
        let answer = stage.caller.result("echo", id.unwrap_or(&entry)).await?;
        assert_eq!(answer.status, Status::Ok, "with {} alone: {:?}", field.0, answer.error);
    }
    assert!(stage.caller.dead("echo").await?.is_empty());
    stage.caller.quiescent("echo").await
}

#[tokio::test]
async fn a_function_of_a_tenant_is_called_by_its_full_name() -> Result<()> {
    let mut stage = Stage::with(&["echo"]).await?;
    stage.folder.install("acme/echo", &sample("echo")?)?;
    let _host = stage.host().start_ready(&["echo", "acme/echo"]).await?;
    let id = stage.caller.send("acme/echo", "for acme").await?;
    assert_eq!(&stage.caller.result("acme/echo", &id).await?.payload[..], b"for acme");
    assert!(stage.caller.result_now("echo", &id).await?.is_none(), "the other tenant has nothing of it");
    Ok(())
}

#[tokio::test]
async fn a_call_to_an_unknown_function_waits_until_its_file_appears() -> Result<()> {
    let mut stage = Stage::with(&["echo"]).await?;
    let mut host = stage.host().start_ready(&["echo"]).await?;
    let ids = stage.caller.send_many("later", "waited", 3).await?;
    // A call of a known function, sent later and answered, shows that the host had its chance.
    stage.caller.call("echo", "x").await?;
    assert_eq!(stage.caller.entries("later").await?, 3, "the calls wait in their stream");
    assert!(stage.caller.results_now("later", &ids).await?.iter().all(Option::is_none));

    stage.folder.install("later", &sample("echo")?)?;
    host.ready("later").await?;
    for answer in stage.caller.results("later", &ids, PATIENCE).await? {
        assert_eq!((answer.attempts, &answer.payload), (1, &Bytes::from("waited")));
    }
    stage.caller.quiescent("later").await
}

#[tokio::test]
async fn a_result_is_kept_as_long_as_the_setting_says() -> Result<()> {
    let mut stage = Stage::with(&["echo"]).await?;
    let _host = stage.host().setting(RESULT_TTL_MS, 700).start_ready(&["echo"]).await?;
    let id = stage.caller.send("echo", "short").await?;
    stage.caller.result("echo", &id).await?;
    let ttl = stage.caller.result_ttl_ms("echo", &id).await?;
    assert!((1..=700).contains(&ttl), "{ttl} ms");
    until("the result is gone", PATIENCE, async || {
        Ok(stage.caller.result_now("echo", &id).await?.is_none().then_some(()))
    })
    .await
}

#[tokio::test]
async fn hosts_of_another_prefix_take_nothing_of_ours() -> Result<()> {
    let mut stage = Stage::with(&["echo"]).await?;
    let mut hearing = stage.redis.subscribe(&["stage2:function:ready:echo:default"]).await?;
    let _other = stage.host().setting(REDIS_PREFIX, "stage2").start().await?;
    tokio::time::timeout(PATIENCE, hearing.next()).await?.context("the other host is ready")?;
    let id = stage.caller.send("echo", "ours").await?;
    let theirs: String = redis::cmd("XADD")
        .arg(&["stage2:{default/echo}:calls", "*", "payload", "theirs"])
        .query_async(stage.caller.connection())
        .await?;
    let key = format!("stage2:{{default/echo}}:result:{theirs}");
    until("the other prefix is served", PATIENCE, async || {
        let there: bool = redis::cmd("EXISTS").arg(&key).query_async(stage.caller.connection()).await?;
        Ok(there.then_some(()))
    })
    .await?;
    assert!(stage.caller.result_now("echo", &id).await?.is_none());
    assert_eq!(stage.caller.entries("echo").await?, 1);
    Ok(())
}

/// What Redis carries out, line by line, as `MONITOR` tells it.
async fn monitor(stage: &Stage) -> Result<Lines<BufReader<UnixStream>>> {
    let mut socket = UnixStream::connect(stage.redis.socket()).await?;
    socket.write_all(b"MONITOR\r\n").await?;
    let mut lines = BufReader::new(socket).lines();
    ensure!(lines.next_line().await?.as_deref() == Some("+OK"), "Redis tells what it carries out");
    Ok(lines)
}

#[tokio::test]
async fn a_result_is_written_before_its_call_is_acknowledged() -> Result<()> {
    let mut stage = Stage::with(&["echo"]).await?;
    let _host = stage.host().start_ready(&["echo"]).await?;
    let mut lines = monitor(&stage).await?;
    let mut calls = BTreeMap::new();
    for n in 0..20 {
        // Those with an id of their own are settled by the script, the others without.
        let own = format!("own-{n}");
        let fields: &[(&str, &[u8])] = &[("payload", b"x"), ("id", own.as_bytes())];
        let entry = stage.caller.add("echo", &fields[..1 + n % 2]).await?;
        let id = if n % 2 == 0 { entry.clone() } else { own };
        stage.caller.result("echo", &id).await?;
        calls.insert(entry, id);
    }
    stage.caller.quiescent("echo").await?;
    let mut written = BTreeSet::new();
    while !calls.is_empty() {
        let line = timeout(PATIENCE, lines.next_line()).await??.context("Redis ended")?;
        let words: Vec<&str> = line.split('"').skip(1).step_by(2).collect();
        match words[..] {
            ["SET", key, ..] => _ = written.insert(key.to_owned()),
            ["XACK", _, _, ref entries @ ..] => {
                for id in entries.iter().filter_map(|entry| calls.remove(*entry)) {
                    let key = format!("baton:{{default/echo}}:result:{id}");
                    ensure!(written.contains(&key), "{key} was not written when its call was acknowledged: {line}");
                }
            }
            _ => {}
        }
    }
    Ok(())
}
