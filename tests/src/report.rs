//! What became of a load: each call, and the checks that hold for all of them.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use baton_model::{Digest, ResultDocument, Status};
use bytes::Bytes;

/// One accepted call and what became of it.
#[derive(Debug)]
pub struct LoadedCall {
    /// Its id.
    pub id: String,
    /// How many documents came for it on the reply channel.
    pub notices: u32,
    /// From the moment it was due to its first notice; none if no notice came.
    pub latency: Option<Duration>,
    /// Its terminal result.
    pub result: ResultDocument,
    /// The answer that it had to get.
    pub(crate) answer: Bytes,
}

/// What became of a load.
#[derive(Debug)]
pub struct LoadReport {
    /// The accepted calls that have a result.
    pub calls: Vec<LoadedCall>,
    /// The ids of accepted calls that got none in time.
    pub lost: Vec<String>,
    /// What callers were told instead of an id: their calls may or may not have been accepted.
    pub errors: Vec<String>,
}

impl LoadReport {
    /// The digests that answered.
    #[must_use]
    pub fn digests(&self) -> BTreeSet<Digest> {
        self.calls.iter().filter_map(|call| call.result.digest).collect()
    }

    /// Checks what holds whatever happens to hosts and Redis: every accepted call has one answer, the right one, from
    /// a component that was published.
    ///
    /// # Errors
    /// If it does not hold; the message names the first call.
    pub fn check_answers(&self, published: &BTreeSet<Digest>) -> Result<()> {
        ensure!(self.lost.is_empty(), "{} accepted calls have no result: {:?}", self.lost.len(), self.lost.first());
        for call in &self.calls {
            let digest = call.result.digest.context("an answered call has a digest")?;
            ensure!(call.result.status == Status::Ok, "a caller got an error: {call:?}");
            ensure!(call.result.id.as_str() == call.id, "a result of another call: {call:?}");
            ensure!(call.result.payload == call.answer, "an answer to another input: {call:?}");
            ensure!(published.contains(&digest), "answered by a component that was never published: {call:?}");
        }
        Ok(())
    }

    /// Checks that every caller was told once, which the death of a host changes nothing about.
    ///
    /// # Errors
    /// If it does not hold; the message has the calls.
    pub fn check_notices(&self) -> Result<()> {
        let wrong: Vec<&LoadedCall> = self.calls.iter().filter(|call| call.notices != 1).collect();
        ensure!(wrong.is_empty(), "every caller is told once; {} were not: {:?}", wrong.len(), wrong.first());
        Ok(())
    }

    /// How many calls were tried more than once.
    #[must_use]
    pub fn retried(&self) -> usize {
        self.calls.iter().filter(|call| call.result.attempts > 1).count()
    }

    /// Checks what holds as long as neither hosts nor Redis die: besides [`LoadReport::check_answers`], no caller saw an
    /// error, and every call was tried once and answered once.
    ///
    /// # Errors
    /// As [`LoadReport::check_answers`].
    pub fn check_exact(&self, published: &BTreeSet<Digest>) -> Result<()> {
        ensure!(self.errors.is_empty(), "callers saw errors: {:?}", self.errors);
        self.check_answers(published)?;
        self.check_notices()?;
        for call in &self.calls {
            ensure!(call.result.attempts == 1, "more than one attempt: {call:?}");
        }
        Ok(())
    }

    /// The latency that `share` of the answered calls did not exceed, such as 0.99.
    #[must_use]
    pub fn quantile(&self, share: f64) -> Duration {
        let mut latencies: Vec<Duration> = self.calls.iter().filter_map(|call| call.latency).collect();
        latencies.sort_unstable();
        let at = (latencies.len() as f64 * share) as usize;
        latencies.get(at.min(latencies.len().saturating_sub(1))).copied().unwrap_or_default()
    }

    /// In one line, for people.
    #[must_use]
    pub fn summary(&self) -> String {
        format!(
            "{} calls, {} lost, {} errors, {} digests, {} tried again, p50 {:.1?}, p99 {:.1?}, longest {:.1?}",
            self.calls.len() + self.lost.len(),
            self.lost.len(),
            self.errors.len(),
            self.digests().len(),
            self.retried(),
            self.quantile(0.5),
            self.quantile(0.99),
            self.quantile(1.0),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lost_call_is_no_right_answer() {
        let report = LoadReport { calls: Vec::new(), lost: vec!["1-0".to_owned()], errors: Vec::new() };
        assert!(report.check_answers(&BTreeSet::new()).is_err());
        assert!(report.check_exact(&BTreeSet::new()).is_err());
    }
}
