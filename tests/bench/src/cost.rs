//! A call inside the process: a fresh store and instance, the call, the drop; no Redis.

use std::sync::Arc;
use std::thread;
use std::time::Instant;

use anyhow::{Context, Result, anyhow, bail};
use baton_engine::{Component, Engine, EngineConfig, Invocation, LogSink, LogStream, Tuning};
use baton_model::{Call, CallId, Grants, Limits, Outcome};
use baton_tests::sample;
use indicatif::ProgressBar;
use serde_json::json;

use crate::flood::payload;
use crate::plan::Plan;
use crate::report::{Goal, Part};
use crate::table::{Table, median};

/// Hears nothing of what functions say.
pub(crate) struct Nowhere;

impl LogSink for Nowhere {
    fn line(&self, _: LogStream<'_>, _: &str) {}
    fn truncated(&self, _: u64) {}
}

/// Function, what it stands for, and the most microseconds that its goal allows.
const FUNCTIONS: [(&str, &str, f64); 2] = [("echo", "imports no WASI", 10.0), ("hello", "imports WASI", 25.0)];

pub(crate) fn measure(plan: &Plan, bar: &ProgressBar) -> Result<Part> {
    let mut part = Part::default();
    let head = ["call in process, fresh instance", "tuned µs", "crate's defaults µs", "share"];
    let mut table = Table::new("A call in process", &head);
    for (function, what, goal_us) in FUNCTIONS {
        let bytes = sample(function)?;
        let mut figures = Vec::new();
        for tuning in [Tuning::Tuned, Tuning::CrateDefaults] {
            bar.set_message(format!("{function}, {tuning:?}"));
            let bytes = &bytes;
            // A thread of its own: this one runs a runtime already.
            let us = thread::scope(|scope| scope.spawn(|| one(bytes, tuning, plan)).join());
            figures.push(us.map_err(|_| anyhow!("the measuring thread panicked"))??);
            bar.inc(1);
        }
        let (tuned, defaults) = (figures[0], figures[1]);
        let share = tuned / defaults;
        let name = format!("{function} ({what})");
        table.row(vec![name.clone(), format!("{tuned:.1}"), format!("{defaults:.1}"), format!("{share:.2}")]);
        let figure = format!("{tuned:.1} µs");
        part.goal(Goal::at_most("1", format!("{function} in process"), tuned, goal_us, figure, "µs"));
        let what = format!("{function} in process, of the crate's defaults");
        part.goal(Goal::at_most("1", what, share, 1.0 / 3.0, format!("{share:.2}"), "of the defaults"));
        part.json(function, json!({"tuned_us": tuned, "crate_defaults_us": defaults, "share": share}));
    }
    part.tables.push(table);
    Ok(part)
}

/// The median over batches of the mean microseconds of a call.
fn one(bytes: &[u8], tuning: Tuning, plan: &Plan) -> Result<f64> {
    let component = Engine::new(EngineConfig { tuning, ..EngineConfig::default() })?.load(bytes, &Grants::default())?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(batches(&component, plan))
}

async fn batches(component: &Component, plan: &Plan) -> Result<f64> {
    let call = Arc::new(call()?);
    let log: Arc<dyn LogSink> = Arc::new(Nowhere);
    let mut means = Vec::new();
    for batch in 0..=plan.cost_batches {
        let start = Instant::now();
        for _ in 0..plan.cost_calls {
            let invocation = Invocation {
                call: Arc::clone(&call),
                limits: Limits::default(),
                log: Arc::clone(&log),
                waits: false,
                weight: 1,
                services: None,
                durable: None,
            };
            match component.execute(invocation).await {
                Outcome::Replied(_) => {}
                other => bail!("the function does not answer: {other:?}"),
            }
        }
        // The first batch warms up.
        if batch > 0 {
            means.push(start.elapsed().as_secs_f64() * 1e6 / f64::from(plan.cost_calls));
        }
    }
    Ok(median(means))
}

fn call() -> Result<Call> {
    Ok(Call::plain("default/cost".parse()?, CallId::parse("1-0").context("an id")?, payload(0)))
}
