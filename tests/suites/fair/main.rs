//! Several tenants on one host: whose calls begin when, and what quotas hold back. Nothing is lost by waiting.

mod doors;
mod quotas;
mod weights;

use anyhow::{Context, Result, ensure};
use baton_model::{ResultDocument, Status};

/// When each of these calls began, in Unix milliseconds and in order; each was answered.
fn starts(results: &[ResultDocument]) -> Result<Vec<u64>> {
    ensure!(results.iter().all(|result| result.status == Status::Ok), "each call is answered: {results:?}");
    let starts: Option<Vec<u64>> = results.iter().map(|result| result.started_ms).collect();
    let mut starts = starts.context("a call that was answered has begun")?;
    starts.sort_unstable();
    Ok(starts)
}

/// The most of these calls that ran at once. One that ends in the millisecond in which another begins was over before.
fn at_once(results: &[ResultDocument]) -> usize {
    let runs = |at: u64| results.iter().filter(|r| r.started_ms.is_some_and(|s| s <= at) && r.finished_ms > at).count();
    results.iter().filter_map(|result| result.started_ms).map(runs).max().unwrap_or_default()
}
