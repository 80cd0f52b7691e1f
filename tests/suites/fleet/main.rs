//! Several hosts on one Redis: what they do when one of them is killed, freezes, is cut off or leaves.

mod absent;
mod calm;
mod found;
mod kills;
mod leaving;
mod listed;
mod notices;
mod silent;

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, Result};
use baton_model::ResultDocument;
use baton_tests::settings::PATIENCE;
use baton_tests::{Caller, Fleet, until};

/// A generous ceiling for what takes a second at the most. It stands well below the lease of thirty seconds, so that
/// whatever waits for a lease is found out. How long things take is measured by the benchmark.
const SOON: Duration = Duration::from_secs(5);

/// A lease that lapses within a test, and that a busy machine can still renew in time.
const SHORT_LEASE: Duration = Duration::from_millis(1_500);

/// Waits until the group of a function knows nobody but hosts that have a place in the fleet.
async fn only_these_consume(caller: &mut Caller, function: &str, fleet: &Fleet) -> Result<()> {
    let ours: BTreeSet<&str> = fleet.ids().into_iter().map(|id| id.as_str()).collect();
    let mut others = Vec::new();
    let what = format!("only living hosts are consumers of {function}");
    let wait = until(&what, PATIENCE, async || {
        others = caller.consumers(function).await?;
        others.retain(|name| !ours.contains(name.as_str()));
        Ok(others.is_empty().then_some(()))
    });
    wait.await.with_context(|| format!("left are {others:?}, and {ours:?} live"))
}

/// The host that settled a call.
fn host_of(answer: &ResultDocument) -> Result<&str> {
    Ok(answer.host.as_ref().with_context(|| format!("a result names its host: {answer:?}"))?.as_str())
}
