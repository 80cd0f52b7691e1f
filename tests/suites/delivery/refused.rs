//! Keys of one level that are broken by hand: the other levels and the other functions go on, and the key is named.

use anyhow::{Result, ensure};
use baton_model::Status;
use baton_tests::settings::{PATIENCE, SEATS};
use baton_tests::{CommandStats, Commands, Host, Stage, until};

const HIGH: &str = "baton:{default/echo}:calls:high";

async fn call(stage: &mut Stage, function: &str, level: &str, payload: &str) -> Result<()> {
    let id = stage.caller.add_at(function, level, &[("payload", payload.as_bytes())]).await?;
    let result = stage.caller.result(function, &id).await?;
    ensure!(result.status == Status::Ok, "{result:?}");
    Ok(())
}

async fn overwrite(stage: &mut Stage, key: &str) -> Result<()> {
    Ok(redis::cmd("SET").arg(key).arg("by hand").query_async(stage.caller.connection()).await?)
}

async fn delete(stage: &mut Stage, key: &str) -> Result<()> {
    Ok(redis::cmd("DEL").arg(key).query_async(stage.caller.connection()).await?)
}

/// The host has said which key is wrong, and how to mend it.
async fn names(host: &Host, key: &str) -> Result<()> {
    let warning = until("the host names the key", PATIENCE, async || {
        Ok(host.lines().warnings().into_iter().find(|warning| warning["key"] == key))
    });
    let said = warning.await?["message"].to_string();
    ensure!(said.contains("only a stream may") && said.contains("delete or rename the key"), "{said}");
    Ok(())
}

#[tokio::test]
async fn a_level_whose_key_is_overwritten_stops_no_other_level_and_no_other_function() -> Result<()> {
    let mut stage = Stage::with(&["echo", "sleep"]).await?;
    let host = stage.host().start_ready(&["echo", "sleep"]).await?;
    for level in [":high", "", ":low"] {
        call(&mut stage, "echo", level, "1").await?;
    }
    // While the host waits for calls there.
    overwrite(&mut stage, HIGH).await?;
    for level in ["", ":low"] {
        call(&mut stage, "echo", level, "2").await?;
    }
    call(&mut stage, "sleep", "", r#"{"ms":0}"#).await?;
    call(&mut stage, "sleep", ":high", r#"{"ms":0}"#).await?;
    names(&host, HIGH).await?;
    // What is asked about others is answered too.
    let unknown = host.commands().run(&["why", "nobody", "--function", "echo"]).await?.expect(1)?;
    ensure!(!unknown.stderr.contains("WRONGTYPE"), "{unknown:?}");
    delete(&mut stage, HIGH).await?;
    call(&mut stage, "echo", ":high", "3").await?;
    stage.caller.quiescent("echo").await
}

#[tokio::test]
async fn the_first_calls_of_other_levels_are_waited_for_beside_a_key_that_is_no_stream() -> Result<()> {
    let mut stage = Stage::with(&["echo", "sleep"]).await?;
    overwrite(&mut stage, HIGH).await?;
    let host = stage.host().setting(SEATS, 4).start_ready(&["echo", "sleep"]).await?;
    // The sweep of the start finds them as well. The next one of a host that is alone comes after two minutes.
    until("the host has swept both", PATIENCE, async || {
        let used = CommandStats::read(stage.caller.connection()).await?;
        Ok(used.by_name.get("xinfo|consumers").is_some_and(|sweeps| *sweeps >= 2).then_some(()))
    })
    .await?;
    call(&mut stage, "sleep", ":high", r#"{"ms":0}"#).await?;
    call(&mut stage, "echo", ":low", "1").await?;
    names(&host, HIGH).await
}

#[tokio::test]
async fn a_level_that_is_deleted_is_read_again_at_once_beside_a_backlog() -> Result<()> {
    const BACKLOG: usize = 4_000;
    let mut stage = Stage::with(&["sleep"]).await?;
    let _host = stage.host().setting(SEATS, 1).start_ready(&["sleep"]).await?;
    call(&mut stage, "sleep", ":high", r#"{"ms":0}"#).await?;
    stage.caller.send_many("sleep", r#"{"ms":10}"#, BACKLOG).await?;
    until("the backlog is begun", PATIENCE, async || {
        Ok((stage.caller.entries("sleep").await? < BACKLOG - 10).then_some(()))
    })
    .await?;
    delete(&mut stage, "baton:{default/sleep}:calls:high").await?;
    // It comes about anew, without a group, and nobody is told of it.
    call(&mut stage, "sleep", ":high", r#"{"ms":0}"#).await?;
    let left = stage.caller.entries("sleep").await?;
    ensure!(left > BACKLOG / 2, "it waited for a backlog of which {left} are left");
    Ok(())
}

#[tokio::test]
async fn an_id_whose_call_is_deleted_by_hand_is_a_new_calls() -> Result<()> {
    let mut stage = Stage::with(&["echo", "fail"]).await?;
    let commands = Commands::at_redis(&stage.redis.url());
    let send = async |extra: &[&str]| {
        let arguments: Vec<&str> = ["send", "echo", "--data", "1"].iter().chain(extra).copied().collect();
        anyhow::Ok(commands.run(&arguments).await?.expect(0)?)
    };
    // In its stream, of each level.
    for (id, level, stream) in [("a", "high", ":high"), ("b", "normal", ""), ("c", "low", ":low")] {
        let stream = format!("baton:{{default/echo}}:calls{stream}");
        let length = async |stage: &mut Stage| {
            let length = redis::cmd("XLEN").arg(&stream).query_async::<usize>(stage.caller.connection()).await;
            anyhow::Ok(length?)
        };
        for _ in 0..2 {
            send(&["--id", id, "--priority", level]).await?;
            ensure!(length(&mut stage).await? == 1, "while it waits it is the same call");
        }
        let () = redis::cmd("XTRIM").arg(&stream).arg("MAXLEN").arg(0).query_async(stage.caller.connection()).await?;
        send(&["--id", id, "--priority", level]).await?;
        ensure!(length(&mut stage).await? == 1, "nothing stood for {id} any more");
    }
    // While it waits for its time; and beside something that is no result.
    let result = "baton:{default/echo}:result:d";
    let () = redis::cmd("RPUSH").arg(result).arg("by hand").query_async(stage.caller.connection()).await?;
    for _ in 0..2 {
        send(&["--id", "d", "--delay", "1h"]).await?;
        ensure!(stage.caller.delayed("echo").await? == 1, "while it waits it is the same call");
    }
    delete(&mut stage, "baton:{default/echo}:delayed").await?;
    send(&["--id", "d", "--delay", "1h"]).await?;
    ensure!(stage.caller.delayed("echo").await? == 1, "nothing stood for it any more");
    // Among the dead letters, with a mark of a call that is gone.
    let host = stage.host().start_ready(&["echo", "fail"]).await?;
    let trap: [(&str, &[u8]); 2] = [("id", b"e"), ("payload", br#"{"kind":"trap"}"#)];
    stage.caller.add("fail", &trap).await?;
    stage.caller.until_dead("fail", 1).await?;
    let set = redis::cmd("SET").arg("baton:{default/fail}:id:e").arg("1-1").to_owned();
    let () = set.query_async(stage.caller.connection()).await?;
    let said =
        host.commands().run(&["dead", "redrive", "e", "--function", "fail", "--json"]).await?.expect(0)?.json()?;
    ensure!(said["redriven"] == 1, "{said}");
    Ok(())
}

/// The delayed call of `sleep` that waits for its time is due, and hosts are told.
async fn come_due(stage: &mut Stage) -> Result<()> {
    const DELAYED: &str = "baton:{default/sleep}:delayed";
    let redis = stage.caller.connection();
    let first: Vec<Vec<u8>> = redis::cmd("ZRANGE").arg(&[DELAYED, "0", "0"]).query_async(redis).await?;
    redis::cmd("ZADD").arg(&[DELAYED, "XX", "1"]).arg(&first[0]).query_async::<()>(redis).await?;
    redis::cmd("PUBLISH").arg(&["baton:hosts", r#"{"due":["default/sleep",0]}"#]).query_async::<()>(redis).await?;
    Ok(())
}

#[tokio::test]
async fn a_call_that_is_to_be_put_under_an_overwritten_key_becomes_a_normal_one() -> Result<()> {
    const LOW: &str = "baton:{default/sleep}:calls:low";
    let mut stage = Stage::with(&["fail", "sleep"]).await?;
    let host = stage.host().start_ready(&["fail", "sleep"]).await?;
    let commands = host.commands();
    // Each is on its way to its level: a letter, one that waits for its time, one that waits for its turn, one that stands
    // above its level.
    let trap: [(&str, &[u8]); 2] = [("id", b"letter"), ("payload", br#"{"kind":"steps","steps":["trap","ok"]}"#)];
    stage.caller.add_at("fail", ":high", &trap).await?;
    stage.caller.until_dead("fail", 1).await?;
    let later = ["send", "sleep", "--data", r#"{"ms":0}"#, "--priority", "low", "--delay", "1h", "--id", "later"];
    commands.run(&later).await?.expect(0)?;
    let turn = |payload: &'static [u8]| [("payload", payload), ("key", &b"k"[..])];
    // None of them comes before the keys are overwritten, however slow the machine is.
    let holder = stage.caller.add("sleep", &turn(br#"{"ms":60000}"#)).await?;
    stage.caller.until_pending("sleep", 1).await?;
    let next = stage.caller.add_at("sleep", ":low", &turn(br#"{"ms":0}"#)).await?;
    until("both wait", PATIENCE, async || Ok((stage.caller.delayed("sleep").await? == 2).then_some(()))).await?;
    overwrite(&mut stage, LOW).await?;
    overwrite(&mut stage, "baton:{default/fail}:calls:high").await?;
    come_due(&mut stage).await?;
    commands.run(&["cancel", &holder, "--function", "sleep"]).await?.expect(0)?;
    let above = stage.caller.add("sleep", &[("payload", br#"{"ms":0}"#), ("priority", b"low")]).await?;
    for id in ["later", &next, &above] {
        let result = stage.caller.result("sleep", id).await?;
        ensure!((result.status, result.attempts) == (Status::Ok, 1), "{result:?}");
    }
    commands.run(&["dead", "redrive", "letter", "--function", "fail"]).await?.expect(0)?;
    until("the letter's call has another end", PATIENCE, async || {
        let result = stage.caller.result_now("fail", "letter").await?;
        Ok(result.is_some_and(|result| result.status == Status::Ok).then_some(()))
    })
    .await
}
