//! A durable function that takes the steps that it is told, one after another.
//!
//! Built for wasm32-wasip2 alone; for the machine itself it is an empty crate.
#![cfg(all(target_os = "wasi", target_env = "p2"))]

use std::collections::HashMap;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use baton_sdk::durable::{Call, Execution};
use baton_sdk::prelude::*;

#[derive(Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Step {
    /// So many calls of `echo`, each waited for before the next is made.
    Calls(u32),
    /// So many calls of `echo`, all at once.
    CallsAtOnce(u32),
    /// A call of `echo`, which is durable too, with these steps.
    CallWith(Vec<Step>),
    /// A sleep until a time in Unix milliseconds.
    SleepUntil(u64),
    /// A wait for this event.
    Event(String),
    /// So many facts for whoever reads along.
    Emit(u32),
    /// A look at the clocks and the random numbers, which is said in the log and emitted.
    Witness(u32),
    /// A wait by the standard clock, of so many milliseconds.
    Doze(u64),
    /// A beginning anew with these steps.
    Restart(Vec<Step>),
}

/// The time, how long it has run, the order of a hash table, and a random number.
fn seen(execution: &Execution) -> (Option<Duration>, Duration, Vec<u32>, u64) {
    let words: HashMap<u32, ()> = (0..32).map(|n| (n, ())).collect();
    let order = words.into_keys().collect();
    (SystemTime::now().duration_since(UNIX_EPOCH).ok(), Instant::now().elapsed(), order, execution.random())
}

#[baton_sdk::durable]
fn steps_guest(execution: &Execution, steps: Vec<Step>) -> Result<u64> {
    for step in steps {
        match step {
            Step::Calls(count) => {
                for n in 0..count {
                    execution.call::<Bytes>("echo", &n)?;
                }
            }
            Step::CallsAtOnce(count) => {
                let calls: Result<Vec<Call>> = (0..count).map(|n| Call::to("echo", &n)).collect();
                if let Some(failed) = execution.call_all(calls?).into_iter().find_map(|end| end.err()) {
                    return Err(Failure::reject(failed.code, failed.message));
                }
            }
            Step::CallWith(steps) => drop(execution.call::<Bytes>("echo", &steps)?),
            Step::SleepUntil(time_ms) => execution.sleep_until(time_ms),
            Step::Event(name) => drop(execution.wait_event(&name)),
            Step::Emit(count) => {
                for n in 0..count {
                    execution.emit("counted", &n)?;
                }
            }
            Step::Witness(n) => {
                log::info!("witness {n}");
                execution.emit("seen", &seen(execution))?;
            }
            Step::Doze(ms) => std::thread::sleep(Duration::from_millis(ms)),
            Step::Restart(steps) => match execution.restart(&steps)? {},
        }
    }
    Ok(execution.now_ms())
}
