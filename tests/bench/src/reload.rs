//! A new build: from the moment the file is in place to `ready`, and to the first answer, with and without the compiled
//! code in the host's cache.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, ensure};
use baton_engine::{Compiler, Engine, EngineConfig};
use baton_model::{Digest, Grants};
use baton_tests::{Folder, Redis, sample, variant};
use indicatif::ProgressBar;
use serde_json::json;

use crate::flood::Flood;
use crate::folders;
use crate::host::Host;
use crate::plan::Plan;
use crate::report::{Goal, Part};
use crate::table::{Table, largest, median};

const FUNCTIONS: [&str; 2] = ["echo", "hello"];
/// The command of the host that compiles one component for its host.
const COMPILE_WORKER: &str = "compile-worker";
/// How often a bare compile is measured.
const COMPILES: usize = 5;
/// Between two builds, so that the next is not found by the look at the last.
const PAUSE: Duration = Duration::from_millis(130);
/// The most milliseconds from a cached build to `ready`; and those beside the compiler's for one that is not.
const WARM_MS: f64 = 30.0;
const BESIDE_COMPILE_MS: f64 = 50.0;

/// Milliseconds from a build's file being in place to `ready`, and to the first answer.
struct Took {
    ready: f64,
    answer: f64,
}

pub(crate) async fn measure(plan: &Plan, bar: &ProgressBar) -> Result<Part> {
    let mut part = Part::default();
    let head =
        ["new build", "bare compile ms", "in a process ms", "to ready ms", "longest", "to first answer ms", "longest"];
    let mut table = Table::new("From a new build in place to serving", &head);
    for function in FUNCTIONS {
        let bytes = sample(function)?;
        bar.set_message(format!("{function}, bare compile"));
        let compile = compile_ms(&bytes, &Compiler::InProcess)?;
        let (program, arguments) = (folders::baton()?, vec![COMPILE_WORKER.into()]);
        let apart = compile_ms(&bytes, &Compiler::Process { program, arguments })?;
        bar.inc(1);
        let (cold, warm) = builds(function, &bytes, plan, bar).await?;
        let mut json = json!({"bytes": bytes.len(), "bare_compile_ms": compile, "compile_in_a_process_ms": apart});
        for (kind, took) in [("cold", &cold), ("warm", &warm)] {
            let ready = || took.iter().map(|took| took.ready);
            let answer = || took.iter().map(|took| took.answer);
            let if_cold = |ms: f64| if kind == "cold" { format!("{ms:.1}") } else { String::new() };
            table.row(vec![
                format!("{function} ({} KB), {kind}", bytes.len() / 1000),
                if_cold(compile),
                if_cold(apart),
                format!("{:.1}", median(ready())),
                format!("{:.1}", largest(ready())),
                format!("{:.1}", median(answer())),
                format!("{:.1}", largest(answer())),
            ]);
            json[kind] = json!({
                "ready_ms": ready().collect::<Vec<_>>(), "first_answer_ms": answer().collect::<Vec<_>>(),
            });
        }
        part.json(function, json);
        let (cold, warm) = (median(cold.iter().map(|t| t.answer)), median(warm.iter().map(|t| t.answer)));
        let what = format!("{function}, new build to first answer, warm cache");
        part.goal(Goal::at_most("6", what, warm, WARM_MS, format!("{warm:.1} ms"), "ms"));
        let figure = format!("{cold:.1} ms ({:.1} beside the compiler)", cold - compile);
        let what = format!("{function}, new build to first answer, cold cache");
        let limit = (compile + BESIDE_COMPILE_MS).round();
        part.goal(Goal::at_most("6", what, cold, limit, figure, "ms"));
    }
    part.tables.push(table);
    Ok(part)
}

/// The median of loading it with an engine as hosts have it, without a cache.
fn compile_ms(bytes: &[u8], compiler: &Compiler) -> Result<f64> {
    let compile = || {
        let engine = Engine::new(EngineConfig { compiler: compiler.clone(), ..EngineConfig::default() })?;
        let mut took = Vec::new();
        for _ in 0..COMPILES {
            let start = Instant::now();
            engine.load(bytes, &Grants::default())?;
            took.push(start.elapsed().as_secs_f64() * 1e3);
        }
        anyhow::Ok(median(took))
    };
    thread::scope(|scope| scope.spawn(compile).join()).map_err(|_| anyhow!("the compiling thread panicked"))?
}

/// Installs new builds one after the other, then the same ones again.
async fn builds(function: &str, bytes: &[u8], plan: &Plan, bar: &ProgressBar) -> Result<(Vec<Took>, Vec<Took>)> {
    let redis = Redis::start().await?;
    let folder = Folder::with(&[function])?;
    let mut host = Host::start(&redis, &folder, &[function.to_owned()]).await?;
    let mut flood = Flood::start(&redis.socket(), &format!("default/{function}")).await?;
    flood.call().await?;
    let mut rounds = [Vec::new(), Vec::new()];
    for (round, kind) in ["cold", "warm"].into_iter().enumerate() {
        for n in 1..=plan.reloads {
            bar.set_message(format!("{function}, {kind}"));
            tokio::time::sleep(PAUSE).await;
            let next = variant(bytes, n);
            let digest = Digest::of(&next);
            folder.install(function, &next)?;
            let start = Instant::now();
            host.ready(function, Some(digest)).await?;
            let ready = start.elapsed().as_secs_f64() * 1e3;
            let answered_by = flood.call().await?.digest;
            let answer = start.elapsed().as_secs_f64() * 1e3;
            ensure!(answered_by == Some(digest), "the first call after `ready` ran on another build");
            rounds[round].push(Took { ready, answer });
            bar.inc(1);
        }
    }
    let [cold, warm] = rounds;
    Ok((cold, warm))
}
