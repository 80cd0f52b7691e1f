//! Many seeds, on all processors.

use std::fmt;
use std::ops::Range;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::mutants::Mutant;
use crate::{Ended, Plan, Rules, Scripts, run};

/// A promise that was broken.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Broken {
    /// In which world.
    pub seed: u64,
    /// Which promise.
    pub promise: &'static str,
    /// How.
    pub how: String,
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "seed {} breaks {}: {}", self.seed, self.promise, self.how)
    }
}

/// What many seeds came to.
#[derive(Debug)]
pub struct Report {
    /// How many worlds there were.
    pub seeds: u64,
    /// How many calls they had.
    pub calls: usize,
    /// How many attempts.
    pub attempts: usize,
    /// What was broken in them, by seed.
    pub broken: Vec<Broken>,
    /// How long it took.
    pub took: Duration,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        #[expect(clippy::cast_precision_loss, reason = "a figure for people")]
        let rate = self.seeds as f64 / self.took.as_secs_f64() * 60.0;
        let (seeds, calls, attempts) = (self.seeds, self.calls, self.attempts);
        write!(f, "{seeds} seeds, {calls} calls, {attempts} attempts in {:.1} s: ", self.took.as_secs_f64())?;
        write!(f, "{rate:.0} seeds a minute, {} broken", self.broken.len())
    }
}

/// The rules and the scripts that are kept without this one.
#[must_use]
pub fn without(mutant: Option<&Mutant>) -> (Rules, Rc<Scripts>) {
    let mut rules = Rules::default();
    mutant.iter().for_each(|mutant| (mutant.rules)(&mut rules));
    (rules, Rc::new(Scripts::new(&mutant.map(Mutant::patches).unwrap_or_default())))
}

/// Runs the worlds of these seeds without a rule, or with all; no further ones once a promise was broken, if that is
/// enough.
#[must_use]
pub fn hunt(seeds: Range<u64>, mutant: Option<&Mutant>, one_is_enough: bool) -> Report {
    let began = Instant::now();
    let (next, is_over) = (AtomicU64::new(seeds.start), AtomicBool::new(false));
    let report = Mutex::new(Report { seeds: 0, calls: 0, attempts: 0, broken: Vec::new(), took: Duration::ZERO });
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                let (rules, scripts) = without(mutant);
                while !is_over.load(Relaxed) {
                    let seed = next.fetch_add(1, Relaxed);
                    if seed >= seeds.end {
                        return;
                    }
                    let Ended { broken, calls, executions, .. } = run(seed, Plan::of(seed, rules), &scripts, false);
                    let mut report = report.lock().unwrap_or_else(PoisonError::into_inner);
                    report.seeds += 1;
                    report.calls += calls;
                    report.attempts += executions;
                    if let Some((promise, how)) = broken {
                        report.broken.push(Broken { seed, promise, how });
                        is_over.store(one_is_enough, Relaxed);
                    }
                }
            });
        }
    });
    let mut report = report.into_inner().unwrap_or_else(PoisonError::into_inner);
    report.broken.sort();
    report.took = began.elapsed();
    report
}
