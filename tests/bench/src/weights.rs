//! Backlogs of several tenants, and whose calls end while all have one.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use baton_tests::settings::{GROUP, PATIENCE};
use baton_tests::{Caller, Folder, Redis, sample};
use indicatif::ProgressBar;
use serde_json::{Value, json};
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::fair::{BACKLOG, LOOK_EVERY, WORKS, Work, calls_key, queue};
use crate::host::Host;
use crate::plan::Plan;
use crate::report::{Goal, Part};
use crate::table::{Table, largest};

/// What shares may be off by, in per cent of what they should be.
const OFF_PERCENT: f64 = 10.0;
/// The weights of those that share a host by weight.
const WEIGHTS: [u32; 3] = [1, 2, 4];
/// What the backlogs are measured after, so that all have begun.
const BEGUN: Duration = Duration::from_millis(100);

/// Three backlogs of the same work under three weights.
pub(crate) async fn measure(plan: &Plan, bar: &ProgressBar, part: &mut Part) -> Result<()> {
    let head = ["three backlogs of", "weight", "should have", "calls", "off", "seats", "off"];
    let mut table = Table::new("Backlogs of three tenants, by weight", &head);
    table.note =
        "The share of each in the calls that ended while all three had a backlog, and in the seats that were taken.";
    let mut json = serde_json::Map::new();
    for work in &WORKS {
        bar.set_message(format!("by weight: {}", work.name));
        let (calls, seats) = shares(work, plan).await.with_context(|| format!("three backlogs of {}", work.name))?;
        bar.inc(1);
        let all: u32 = WEIGHTS.iter().sum();
        let share = |figures: &[f64], n: usize| figures[n] / figures.iter().sum::<f64>();
        let should = |n: usize| f64::from(WEIGHTS[n]) / f64::from(all);
        let off = |figures: &[f64], n: usize| (share(figures, n) / should(n) - 1.0) * 100.0;
        for (n, weight) in WEIGHTS.iter().enumerate() {
            table.row(vec![
                work.name.to_owned(),
                weight.to_string(),
                format!("{:.1} %", should(n) * 100.0),
                format!("{:.1} %", share(&calls, n) * 100.0),
                format!("{:+.1} %", off(&calls, n)),
                format!("{:.1} %", share(&seats, n) * 100.0),
                format!("{:+.1} %", off(&seats, n)),
            ]);
        }
        let worst = largest((0..WEIGHTS.len()).map(|n| off(&calls, n).abs()));
        let what = format!("three backlogs of {} by weight: calls that ended", work.name);
        part.goal(Goal::at_most("8", what, worst, OFF_PERCENT, format!("{worst:.1} % off at the most"), "%"));
        json.insert(work.name.replace('`', ""), json!({"weights": WEIGHTS, "calls": calls, "seats": seats}));
    }
    part.tables.push(table);
    part.json("by_weight", Value::Object(json));
    Ok(())
}

/// How many calls of each ended while all had a backlog, and how many seats each had on average.
async fn shares(work: &Work, plan: &Plan) -> Result<(Vec<f64>, Vec<f64>)> {
    let redis = Redis::start().await?;
    let folder = Folder::with(&[])?;
    let functions: Vec<String> = WEIGHTS.iter().map(|weight| format!("weight{weight}/{}", work.function)).collect();
    let mut caller = Caller::of(&redis.address()).await?;
    for (function, weight) in functions.iter().zip(WEIGHTS) {
        folder.write_tenant(&format!("weight{weight}"), &format!("weight = {weight}\n"))?;
        folder.install(function, &sample(work.function)?)?;
    }
    let _host = Host::start(&redis, &folder, &functions).await?;
    let payload = work.payload();
    for function in &functions {
        let known = caller.send_many(function, &payload, 100).await?;
        caller.results(function, &known, PATIENCE).await?;
    }
    for function in &functions {
        queue(&mut caller, function, &payload, BACKLOG).await?;
    }
    tokio::time::sleep(BEGUN).await;
    let mut look = redis::pipe();
    for function in &functions {
        look.cmd("XLEN").arg(calls_key(function));
        look.cmd("XPENDING").arg(calls_key(function)).arg(GROUP);
    }
    let mut first: Vec<f64> = Vec::new();
    let mut last: Vec<f64> = Vec::new();
    let mut seats = vec![0.0; functions.len()];
    let start = Instant::now();
    let mut due = interval(LOOK_EVERY);
    due.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while start.elapsed() < plan.fair_lasts {
        due.tick().await;
        let said: Vec<redis::Value> = look.query_async(caller.connection()).await?;
        let mut left = Vec::new();
        let mut taken = Vec::new();
        for pair in said.chunks(2) {
            left.push(redis::from_redis_value::<f64>(pair[0].clone())?);
            let redis::Value::Array(summary) = &pair[1] else { continue };
            taken.push(redis::from_redis_value::<f64>(summary[0].clone())?);
        }
        // What is left is more than what one tenant can have in hand.
        if left.iter().any(|left| *left < BACKLOG as f64 / 20.0) {
            break;
        }
        seats.iter_mut().zip(&taken).for_each(|(sum, taken)| *sum += taken);
        if first.is_empty() {
            first.clone_from(&left);
        }
        last = left;
    }
    ensure!(!last.is_empty(), "a backlog was worked off before anything could be measured");
    let calls = first.iter().zip(&last).map(|(first, last)| first - last).collect();
    Ok((calls, seats))
}
