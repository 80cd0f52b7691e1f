//! New builds of a durable function: who has begun ends on the build that it began with.

use anyhow::{Result, ensure};
use baton_model::{Digest, Status};
use baton_tests::settings::{LEASE_MS, NO_FUNCTIONS, PATIENCE};
use baton_tests::{Event, Fleet, Host, Http, Stage, patched, saga_guest, until, variant};

use super::shop::{Order, sagas, stuck};

const EXECUTIONS: usize = 200;

/// A stage with the first build, a host without functions, and the builds: the first, one whose steps are in another order,
/// and one with the same steps as that.
async fn scene() -> Result<(Stage, Host, Http, [Vec<u8>; 3])> {
    let stage = sagas().await?;
    let front = stage.host().http().argument(NO_FUNCTIONS).start().await?;
    let http = Http::of(&front).await?;
    let first = saga_guest()?;
    let second = patched(&first, "saga-build-0", "saga-build-1")?;
    let third = variant(&second, 3);
    Ok((stage, front, http, [first, second, third]))
}

async fn begin<'a>(http: &'a Http, count: usize) -> Result<Vec<Order<'a>>> {
    let mut begun = Vec::with_capacity(count);
    for _ in 0..count {
        begun.push(Order::with(http, "1").await?);
    }
    Ok(begun)
}

/// Waits until each waits for its event: it has made its first calls, on the build that it began with.
async fn until_waiting(sagas: &[Order<'_>]) -> Result<()> {
    for saga in sagas {
        saga.until_last("event-awaited").await?;
    }
    Ok(())
}

/// Each was answered by this build, says so in its result, and names it in its log alone.
async fn ended_on(stage: &mut Stage, sagas: &[Order<'_>], build: &str, component: &[u8]) -> Result<()> {
    let digest = Digest::of(component);
    for saga in sagas {
        let result = stage.caller.result("order", &saga.id).await?;
        ensure!((result.status, result.digest) == (Status::Ok, Some(digest)), "{digest} was expected: {result:?}");
        ensure!(result.payload == build, "{build} was expected: {result:?}");
        let history = saga.history().await?;
        let moved: Vec<_> = history.iter().filter(|event| event["event"] == "moved-to-digest").collect();
        ensure!(moved.len() == 1 && moved[0]["digest"] == digest.to_string(), "{moved:?}");
        let order = if build.ends_with('0') { ["\"one\"", "\"two\""] } else { ["\"two\"", "\"one\""] };
        let called = history.iter().filter(|event| event["event"] == "call-scheduled");
        let called: Vec<_> = called.filter_map(|event| event["payload"].as_str()).collect();
        ensure!(called[..2] == order, "{called:?}");
    }
    Ok(())
}

/// Waits until each host begins executions on this build.
async fn until_ready(fleet: &mut Fleet, component: &[u8]) -> Result<()> {
    let (function, digest) = ("order".parse()?, Digest::of(component));
    for at in 0..2 {
        let id = fleet.id(at).clone();
        let fits =
            |event: &Event| event.tells("ready", &function) && event.is_of(&id) && event.digest() == Some(digest);
        fleet.host_mut(at).events()?.wait_for("the new build", PATIENCE, fits).await?;
    }
    Ok(())
}

async fn go(sagas: &[Order<'_>]) -> Result<()> {
    for saga in sagas {
        saga.tell("go", "go").await?.expect(202)?;
    }
    Ok(())
}

/// How many executions each component is held for, and how long it is kept at the least; -1 is for ever.
async fn held(stage: &mut Stage, components: &[Vec<u8>]) -> Result<Vec<(u64, i64)>> {
    let redis = stage.caller.connection();
    let mut held = Vec::new();
    for component in components {
        let digest = Digest::of(component).to_string();
        let count = redis::cmd("HGET").arg(&["baton:{default/order}:components", &digest]).query_async(redis).await?;
        let mut kept = redis::cmd("PTTL");
        kept.arg(format!("baton:{{default/order}}:component:{digest}"));
        held.push((Option::<u64>::unwrap_or_default(count), kept.query_async(redis).await?));
    }
    Ok(held)
}

#[tokio::test]
async fn executions_end_on_the_build_that_they_began_with() -> Result<()> {
    let (mut stage, _front, http, [first, second, third]) = scene().await?;
    let mut fleet = Fleet::of(2, &stage.host(), &["order", "echo"]).await?;
    let old = begin(&http, EXECUTIONS).await?;
    // Some are done, some have been told to go on, and all others wait, when the new build comes.
    let (done, waiting) = old.split_at(EXECUTIONS / 4);
    go(&done[..done.len() / 2]).await?;
    until_waiting(waiting).await?;
    go(&done[done.len() / 2..]).await?;
    stage.folder.install("order", &second)?;
    until_ready(&mut fleet, &second).await?;
    let new = begin(&http, EXECUTIONS / 4).await?;
    until_waiting(&new).await?;
    // The same steps, and another build all the same.
    stage.folder.install("order", &third)?;
    until_ready(&mut fleet, &third).await?;
    let newest = begin(&http, EXECUTIONS / 4).await?;
    until_waiting(&newest).await?;
    let builds = [first, second, third];
    let counts: Vec<u64> = held(&mut stage, &builds).await?.into_iter().map(|(count, _)| count).collect();
    let quarter = EXECUTIONS as u64 / 4;
    ensure!(counts[0] >= 3 * quarter && counts[1..] == [quarter, quarter], "{counts:?} wait on each build");

    // The first build is nowhere but in Redis now, and no host that ran it lives on.
    let (later, last) = waiting.split_at(waiting.len() / 2);
    go(later).await?;
    for at in 0..2 {
        if at == 0 {
            fleet.kill(at).await?;
        } else {
            fleet.stop(at).await?;
        }
    }
    for at in 0..2 {
        fleet.replace(at).await?;
    }
    for some in [last, &new, &newest] {
        go(some).await?;
    }
    let [first, second, third] = &builds;
    ended_on(&mut stage, &old, "saga-build-0", first).await?;
    ended_on(&mut stage, &new, "saga-build-1", second).await?;
    ended_on(&mut stage, &newest, "saga-build-1", third).await?;
    for (count, kept_ms) in held(&mut stage, &builds).await? {
        ensure!(count == 0 && kept_ms > 0, "nobody needs it any more: {count} do, and it goes in {kept_ms} ms");
    }
    stage.caller.quiescent("order").await?;
    let all: Vec<Order<'_>> = old.into_iter().chain(new).chain(newest).collect();
    super::judge::logs_are_sound(&stage, &all).await
}

#[tokio::test]
async fn an_execution_whose_build_is_nowhere_is_stuck_and_goes_on_when_it_is_back() -> Result<()> {
    let (mut stage, _front, http, [first, second, _]) = scene().await?;
    let mut host = stage.host().start_ready(&["order", "echo"]).await?;
    let saga = begin(&http, 1).await?.remove(0);
    saga.until_last("event-awaited").await?;
    stage.folder.install("order", &second)?;
    host.ready_with("order", &second).await?;
    host.stop().await?;
    let key = format!("baton:{{default/order}}:component:{}", Digest::of(&first));
    let bytes: Vec<u8> = redis::cmd("GETDEL").arg(&key).query_async(stage.caller.connection()).await?;
    ensure!(bytes == first, "what was kept is the component");
    let _host = stage.host().start_ready(&["order", "echo"]).await?;
    saga.tell("go", "go").await?.expect(202)?;
    let why = stuck(&saga).await?;
    ensure!(why.contains(&Digest::of(&first).to_string()), "it says what is missing: {why}");
    redis::cmd("SET").arg(&key).arg(&bytes).query_async::<()>(stage.caller.connection()).await?;
    // What is stuck is tried again with whatever comes.
    saga.tell("go", "again").await?.expect(202)?;
    ended_on(&mut stage, &[saga], "saga-build-0", &first).await
}

#[tokio::test]
async fn what_was_put_in_the_place_of_a_build_is_not_run() -> Result<()> {
    let (mut stage, _front, http, [first, second, _]) = scene().await?;
    let mut host = stage.host().start_ready(&["order", "echo"]).await?;
    let saga = begin(&http, 1).await?.remove(0);
    saga.until_last("event-awaited").await?;
    stage.folder.install("order", &second)?;
    host.ready_with("order", &second).await?;
    host.stop().await?;
    let key = format!("baton:{{default/order}}:component:{}", Digest::of(&first));
    redis::cmd("SET").arg(&key).arg(&second).query_async::<()>(stage.caller.connection()).await?;
    let _host = stage.host().start_ready(&["order", "echo"]).await?;
    saga.tell("go", "go").await?.expect(202)?;
    let why = stuck(&saga).await?;
    ensure!(why.contains(&Digest::of(&first).to_string()) && why.contains("something else"), "{why}");
    ensure!(saga.words().await?.last().is_some_and(|last| last == "event-received"), "nothing was written behind it");
    Ok(())
}

#[tokio::test]
async fn an_execution_moves_to_a_build_that_asks_for_the_same_steps_and_to_no_other() -> Result<()> {
    let (mut stage, _front, http, [first, second, _]) = scene().await?;
    let mut host = stage.host().start_ready(&["order", "echo"]).await?;
    let saga = begin(&http, 1).await?.remove(0);
    saga.until_last("event-awaited").await?;
    let mut judged = Vec::new();
    // The same steps in another order, and then the same steps.
    let third = variant(&first, 3);
    for component in [&second, &third] {
        stage.folder.install("order", component)?;
        host.ready_with("order", component).await?;
        let digest = Digest::of(component).to_string();
        http.post(&format!("/v1/exec/default/order/{}/move", saga.id), "").await?.expect(202)?;
        let tried = until("the move is tried", PATIENCE, async || {
            let shown = saga.show().await?;
            let refused = shown["refused"].as_str().filter(|said| said.starts_with(&digest)).map(str::to_owned);
            Ok(if shown["digest"] == digest { Some(None) } else { refused.map(Some) })
        });
        judged.push(tried.await?);
    }
    let [Some(refused), None] = &judged[..] else { anyhow::bail!("refused once, and then moved: {judged:?}") };
    ensure!(refused.contains("step 1 is a call of echo"), "the first step that differs is named: {refused}");
    saga.tell("go", "go").await?.expect(202)?;
    let result = stage.caller.result("order", &saga.id).await?;
    ensure!(result.digest == Some(Digest::of(&third)) && result.payload == "saga-build-0", "{result:?}");
    let history = saga.history().await?;
    let moved = history.iter().filter(|event| event["event"] == "moved-to-digest");
    let moved: Vec<_> = moved.filter_map(|event| event["digest"].as_str()).collect();
    ensure!(moved == [Digest::of(&first).to_string(), Digest::of(&third).to_string()], "{moved:?}");
    ensure!(history.iter().filter(|event| event["event"] == "call-scheduled").count() == 3, "{history:?}");
    stage.caller.quiescent("order").await?;
    super::judge::logs_are_sound(&stage, &[saga]).await
}

#[tokio::test]
async fn an_execution_goes_on_with_a_new_build_by_itself_where_its_manifest_says_so() -> Result<()> {
    let (mut stage, _front, http, [first, second, _]) = scene().await?;
    let grants = "[grants.calls]\nfunctions = [\"echo\", \"sleep\"]\n";
    stage.folder.write_manifest("order", &format!("{grants}\n[executions]\non_new_build = \"move\"\n"))?;
    let mut host = stage.host().start_ready(&["order", "echo"]).await?;
    let saga = begin(&http, 1).await?.remove(0);
    saga.until_last("event-awaited").await?;
    // One that asks for other steps is refused, and named; it goes on with its own.
    stage.folder.install("order", &second)?;
    host.ready_with("order", &second).await?;
    saga.tell("other", "other").await?.expect(202)?;
    let digest = Digest::of(&second).to_string();
    until("the move is tried", PATIENCE, async || {
        Ok(saga.show().await?["refused"].as_str().is_some_and(|said| said.starts_with(&digest)).then_some(()))
    })
    .await?;
    let third = variant(&first, 3);
    stage.folder.install("order", &third)?;
    host.ready_with("order", &third).await?;
    saga.tell("go", "go").await?.expect(202)?;
    let result = stage.caller.result("order", &saga.id).await?;
    ensure!(result.digest == Some(Digest::of(&third)) && result.payload == "saga-build-0", "{result:?}");
    ensure!(saga.show().await?["refused"].is_null(), "what it was moved to is not refused");
    Ok(())
}

#[tokio::test]
async fn a_build_that_redis_does_not_keep_any_more_is_not_moved_to() -> Result<()> {
    let (mut stage, _front, http, [_, second, _]) = scene().await?;
    let third = variant(&second, 3);
    let mut host = stage.host().setting(LEASE_MS, 1000).start_ready(&["order", "echo"]).await?;
    stage.folder.install("order", &second)?;
    host.ready_with("order", &second).await?;
    let old = begin(&http, 1).await?.remove(0);
    old.until_last("event-awaited").await?;
    stage.folder.install("order", &third)?;
    host.ready_with("order", &third).await?;
    let saga = begin(&http, 1).await?.remove(0);
    saga.until_last("event-awaited").await?;
    // The host has the old build at hand from here on, and Redis has it not.
    old.tell("go", "go").await?.expect(202)?;
    old.result().await?.expect(200)?;
    let key = format!("baton:{{default/order}}:component:{}", Digest::of(&second));
    redis::cmd("DEL").arg(&key).query_async::<()>(stage.caller.connection()).await?;
    let path = format!("/v1/exec/default/order/{}/move?digest={}", saga.id, Digest::of(&second));
    http.post(&path, "").await?.expect(202)?;
    let refused =
        until("the move is refused", PATIENCE, async || Ok(saga.show().await?["refused"].as_str().map(str::to_owned)))
            .await?;
    ensure!(refused.contains("is not kept"), "{refused}");
    // A component that was kept, and is not any more, is kept again for the next that begins.
    let key = format!("baton:{{default/order}}:component:{}", Digest::of(&third));
    redis::cmd("DEL").arg(&key).query_async::<()>(stage.caller.connection()).await?;
    let new = begin(&http, 1).await?.remove(0);
    new.until_last("event-awaited").await?;
    for one in [&saga, &new] {
        one.tell("go", "go").await?.expect(202)?;
        one.result().await?.expect(200)?;
    }
    Ok(())
}
