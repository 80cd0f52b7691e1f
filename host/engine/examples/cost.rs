//! What one call costs inside the engine: a fresh store, an instance, the call and the drop, tuned and untuned.
//!
//! `cargo run --release -p baton-engine --example cost [component.wasm ...]`; without a file it measures an echo that
//! imports nothing. Believe the ratio, not the microseconds: other work on the machine shows in both.

#[path = "../tests/engine/guests.rs"]
mod guests;

use std::sync::Arc;
use std::time::Instant;

use baton_engine::{CompileSpeed, Component, Engine, EngineConfig, Invocation, LoadError, LogSink, LogStream, Tuning};
use baton_model::{Call, CallId, Grants, Limits, Outcome};

const BATCHES: usize = 40;
const CALLS_PER_BATCH: u32 = 500;

struct Nowhere;

impl LogSink for Nowhere {
    fn line(&self, _: LogStream<'_>, _: &str) {}
    fn truncated(&self, _: u64) {}
}

fn call(payload: &'static [u8]) -> Arc<Call> {
    Arc::new(Call::plain("default/cost".parse().expect("a name"), CallId::parse("1-0").expect("an id"), payload))
}

/// The median over batches of the mean microseconds of a call.
async fn measure(component: &Component, call: &Arc<Call>) -> f64 {
    let log: Arc<dyn LogSink> = Arc::new(Nowhere);
    let mut means = Vec::new();
    for batch in 0..=BATCHES {
        let start = Instant::now();
        for _ in 0..CALLS_PER_BATCH {
            let invocation = Invocation {
                call: Arc::clone(call),
                limits: Limits::default(),
                log: Arc::clone(&log),
                waits: false,
                weight: 1,
                services: None,
                durable: None,
            };
            match component.execute(invocation).await {
                Outcome::Trapped { message } | Outcome::HostFault { message } => panic!("{message}"),
                _ => {}
            }
        }
        // The first batch warms up.
        if batch > 0 {
            means.push(start.elapsed().as_secs_f64() * 1e6 / f64::from(CALLS_PER_BATCH));
        }
    }
    means.sort_by(f64::total_cmp);
    means[means.len() / 2]
}

fn measure_blocking(component: &Component, call: &Arc<Call>) -> f64 {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(measure(component, call))
}

/// The component, and how many milliseconds it took to load.
fn load(engine: &Engine, bytes: &[u8]) -> Result<(Component, f64), LoadError> {
    let start = Instant::now();
    let component = engine.load(bytes, &Grants::default())?;
    Ok((component, start.elapsed().as_secs_f64() * 1e3))
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut components = vec![
        ("echo (imports nothing)".to_owned(), guests::echo()),
        ("echo that prints a line".to_owned(), guests::print(1)),
    ];
    for path in std::env::args().skip(1) {
        components.push((path.clone(), std::fs::read(path)?));
    }
    let call = call(&[b'x'; 100]);
    println!("microseconds a call                      milliseconds to load");
    println!(
        "{:>6} {:>6} {:>6}  2 threads {:>9} {:>9} {:>9}  component (imports)",
        "tuned", "crate", "ratio", "full", "quick", "cached"
    );
    let engine = |tuning| Engine::new(EngineConfig { tuning, ..EngineConfig::default() });
    let (tuned, untuned) = (engine(Tuning::Tuned)?, engine(Tuning::CrateDefaults)?);
    let quick = Engine::new(EngineConfig { compile: CompileSpeed::Quick, ..EngineConfig::default() })?;
    let cache = tempfile::tempdir()?;
    let cached = Engine::new(EngineConfig { cache_dir: Some(cache.path().to_owned()), ..EngineConfig::default() })?;
    for (name, bytes) in components {
        cached.load(&bytes, &Grants::default())?;
        let (a, full_ms) = load(&tuned, &bytes)?;
        let (b, _) = load(&untuned, &bytes)?;
        let (_, quick_ms) = load(&quick, &bytes)?;
        let (_, cached_ms) = load(&cached, &bytes)?;
        let a_us = measure_blocking(&a, &call);
        let b_us = measure_blocking(&b, &call);
        // Two threads at the same time: what the pool's locks and the kernel's memory map cost.
        let two_us = std::thread::scope(|scope| {
            let threads = [0; 2].map(|_| scope.spawn(|| measure_blocking(&a, &call)));
            threads.map(|thread| thread.join().expect("no panic")).iter().sum::<f64>() / 2.0
        });
        let imports = a.imports().len();
        println!(
            "{a_us:>6.1} {b_us:>6.1} {:>6.2} {two_us:>10.1} {full_ms:>9.2} {quick_ms:>9.2} {cached_ms:>9.2}  {name} ({imports})",
            b_us / a_us
        );
    }
    Ok(())
}
