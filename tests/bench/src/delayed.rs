//! Calls that wait for their time: how late they are, and what another tenant notices of 100,000 that are due at once.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use baton_broker::{BrokerConfig, SendOptions};
use baton_model::{FunctionId, ReplyTo};
use baton_tests::settings::{PATIENCE, PREFIX};
use baton_tests::{Caller, Folder, Redis, now_ms, sample};
use indicatif::ProgressBar;
use serde_json::{Value, json};

use crate::fair::{ASKS, BACKLOG, Seen, WORKS, Work, steady};
use crate::host::Host;
use crate::plan::Plan;
use crate::report::{Goal, Part};
use crate::table::{Table, largest, median, quantile};

/// Calls whose lateness is measured in one round, spread over [`SPREAD`].
const CALLS: u64 = 2_000;
const SPREAD: Duration = Duration::from_secs(4);
/// How late a delayed call may be begun, in ms.
const LATE_MAX_MS: f64 = 50.0;
/// The p99 of another tenant beside calls that are due at once, by that without them.
const RATIO: f64 = 2.0;
/// Which backlogs are due at once.
const DUE: [usize; 2] = [0, 3];

/// How many steps its progress has.
pub(crate) fn steps(plan: &Plan) -> usize {
    plan.rounds * (1 + DUE.len())
}

pub(crate) async fn measure(plan: &Plan, bar: &ProgressBar) -> Result<Part> {
    let mut part = Part::default();
    let mut rounds = Vec::new();
    for _ in 0..plan.rounds {
        bar.set_message("how late delayed calls are");
        rounds.push(lateness().await.context("delayed calls")?);
        bar.inc(1);
    }
    let of = |share: f64| median(rounds.iter().map(|late| quantile(late.iter().copied(), share)));
    let (p50, p99) = (of(0.5), of(0.99));
    let longest = largest(rounds.iter().flatten().copied());
    let figure = format!("{p99:.0} ms (p50 {p50:.0}, longest {longest:.0})");
    part.goal(Goal::at_most("d", "a delayed call begins after it is due, p99", p99, LATE_MAX_MS, figure, "ms"));
    part.json("late", json!({"p50_ms": p50, "p99_ms": p99, "longest_ms": longest}));

    let head = ["a call of", "p50 alone", "p50 beside", "p99 alone", "p99 beside", "ratio", "longest"];
    let mut table =
        Table::new("Single calls of one tenant, alone and while 100,000 delayed calls of another are due (ms)", &head);
    let mut json = serde_json::Map::new();
    for work in DUE.map(|n| &WORKS[n]) {
        let mut rounds = Vec::new();
        for _ in 0..plan.rounds {
            bar.set_message(format!("beside 100,000 of {} that are due", work.name));
            rounds.push(beside(work, plan).await.with_context(|| format!("beside due calls of {}", work.name))?);
            bar.inc(1);
        }
        for (n, asks) in ASKS.iter().enumerate() {
            let of = |field: &dyn Fn(&Seen) -> f64| median(rounds.iter().map(|round| field(&round[n])));
            let two = |field: &dyn Fn(&Seen) -> f64| format!("{:.2}", of(field));
            let name = format!("{} beside {}", asks.name(), work.name);
            let ratio = of(&Seen::ratio);
            let longest = largest(rounds.iter().flat_map(|round| &round[n].beside).map(|point| point.1));
            table.row(vec![
                name.clone(),
                two(&|seen| seen.alone(0.5)),
                two(&|seen| seen.beside(0.5)),
                two(&|seen| seen.alone(0.99)),
                two(&|seen| seen.beside(0.99)),
                two(&Seen::ratio),
                format!("{longest:.2}"),
            ]);
            let figure =
                format!("{ratio:.2} x ({} of {} ms)", two(&|seen| seen.beside(0.99)), two(&|seen| seen.alone(0.99)));
            part.goal(Goal::at_most("d", format!("{name} that are due: p99 of that alone"), ratio, RATIO, figure, "x"));
            json.insert(name.replace('`', ""), json!({"ratio": ratio, "longest_ms": longest}));
        }
    }
    part.tables.push(table);
    part.json("beside_due_calls", Value::Object(json));
    Ok(part)
}

/// By how many milliseconds each of many delayed calls was begun late, on two hosts.
async fn lateness() -> Result<Vec<f64>> {
    let redis = Redis::start().await?;
    let folder = Folder::with(&["echo"])?;
    let functions = ["default/echo".to_owned()];
    let _hosts = (Host::start(&redis, &folder, &functions).await?, Host::start(&redis, &folder, &functions).await?);
    let sender = baton_broker::Caller::new(&BrokerConfig::new(redis.url()), reply()?)?;
    let function: FunctionId = functions[0].parse()?;
    let mut ids = Vec::new();
    let every = SPREAD / u32::try_from(CALLS)?;
    for n in 0..CALLS {
        // In no order, so that the first to come is another one again and again.
        let delay = Duration::from_millis(500) + every * u32::try_from(n * 7_919 % CALLS)?;
        let options = SendOptions { delay: Some(delay), ..SendOptions::default() };
        ids.push((sender.send(&function, b"1", &options).await?, delay));
    }
    let mut caller = Caller::of(&redis.address()).await?;
    let names: Vec<String> = ids.iter().map(|(id, _)| id.to_string()).collect();
    let results = caller.results("echo", &names, PATIENCE).await?;
    let late = results.iter().zip(&ids).map(|(result, (_, delay))| {
        let due_ms = result.accepted_ms + u64::try_from(delay.as_millis()).unwrap_or(u64::MAX);
        let started_ms = result.started_ms.context("it was begun")?;
        ensure!(started_ms >= due_ms, "a call was begun {} ms early", due_ms - started_ms);
        Ok((started_ms - due_ms) as f64)
    });
    late.collect()
}

fn reply() -> Result<ReplyTo> {
    ReplyTo::parse("bench").context("a suffix for replies")
}

/// One round on a host and a Redis of its own.
async fn beside(work: &Work, plan: &Plan) -> Result<Vec<Seen>> {
    let redis = Redis::start().await?;
    let greedy = format!("greedy/{}", work.function);
    let folder = Folder::with(&[])?;
    folder.install(&greedy, &sample(work.function)?)?;
    let mut functions = vec![greedy.clone()];
    for asks in &ASKS {
        functions.push(asks.function().to_owned());
        folder.install(asks.function(), &sample(asks.function().trim_start_matches("modest/"))?)?;
    }
    let _host = Host::start(&redis, &folder, &functions).await?;
    let modest = baton_broker::Caller::new(&BrokerConfig::new(redis.url()), reply()?)?;
    let mut caller = Caller::of(&redis.address()).await?;
    let payload = work.payload();
    let known = caller.send_many(&greedy, &payload, 100).await?;
    caller.results(&greedy, &known, PATIENCE).await?;
    steady(&modest, plan.fair_warm_up, async || Ok(true)).await?;
    let alone = steady(&modest, plan.fair_lasts, async || Ok(true)).await?;
    let due_ms = now_ms() + 6_000;
    put_aside(&mut caller, &greedy, &payload, due_ms).await?;
    // The doors say so; this is nobody's door.
    let word = format!(r#"{{"due":["{greedy}",{}]}}"#, due_ms.saturating_sub(now_ms()));
    let _heard: i64 =
        redis::cmd("PUBLISH").arg(format!("{PREFIX}:hosts")).arg(word).query_async(caller.connection()).await?;
    let left = due_ms.saturating_sub(now_ms());
    ensure!(left > 200, "they were due before all of them were there");
    tokio::time::sleep(Duration::from_millis(left - 100)).await;
    let beside = steady(&modest, plan.fair_lasts, async || {
        let waiting = caller.entries(&greedy).await? + caller.delayed(&greedy).await?;
        Ok(waiting > BACKLOG / 20)
    });
    let beside = beside.await?;
    ensure!(beside.iter().all(|points| points.len() >= 20), "they were run before anything could be measured");
    Ok(alone.into_iter().zip(beside).map(|(alone, beside)| Seen { alone, beside }).collect())
}

/// 100,000 calls that are due within one second, as the script of the doors leaves them.
async fn put_aside(caller: &mut Caller, function: &str, payload: &str, due_ms: u64) -> Result<()> {
    const STEP: usize = 1_000;
    let add = "for i = ARGV[2], ARGV[3] do redis.call('ZADD', KEYS[1], ARGV[1] + i % 1000, cmsgpack.pack({'payload', ARGV[4], \
               'id', 'd-' .. i, 'attempt', '1', 'accepted', ARGV[1]})) end";
    for first in (0..BACKLOG).step_by(STEP) {
        let mut put = redis::cmd("EVAL");
        put.arg(add).arg(1).arg(format!("{PREFIX}:{{{function}}}:delayed"));
        let () = put.arg(due_ms).arg(first).arg(first + STEP - 1).arg(payload).query_async(caller.connection()).await?;
    }
    Ok(())
}
