//! Which calls are made, when and how: decided by the seed alone, before anything runs.

use std::time::Duration;

use serde_json::{Value, json};

use crate::chance::Chance;
use crate::plan::Plan;

/// The functions that are called.
pub(crate) const FUNCTIONS: [&str; 4] = ["default/witness", "acme/witness", "default/echo", "acme/echo"];

/// How a call is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// `XADD`; Redis chooses the id, so a caller that does not hear of it cannot ask again.
    Redis,
    /// `XADD` with an id of the caller's own; sent again until Redis has it.
    RedisNamed,
    /// `POST /v1/call`, without a key.
    Http,
    /// `POST /v1/call` with an `Idempotency-Key`; sent again until there is an answer.
    HttpNamed,
    /// `POST /v1/send` with a key.
    HttpSend,
}

impl Way {
    /// Its name in histories.
    #[must_use]
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Redis => "redis",
            Self::RedisNamed => "redis-named",
            Self::Http => "http",
            Self::HttpNamed => "http-named",
            Self::HttpSend => "http-send",
        }
    }
}

/// One call.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Call {
    /// Which of all.
    pub(crate) n: usize,
    /// When it is due, from the beginning of the run on.
    pub(crate) at: Duration,
    /// With its tenant.
    pub(crate) function: &'static str,
    /// How it is made.
    pub(crate) way: Way,
    /// How urgent it is, if it is no normal call.
    pub(crate) level: Option<&'static str>,
    /// When it is submitted a second time, if it is.
    pub(crate) again: Option<Duration>,
    /// What is sent.
    pub(crate) payload: String,
}

impl Call {
    /// The caller's own id for it, if it has one.
    #[must_use]
    pub(crate) fn name(&self, seed: u64) -> Option<String> {
        match self.way {
            Way::Redis | Way::Http => None,
            Way::RedisNamed | Way::HttpNamed | Way::HttpSend => Some(format!("f{seed}-{}", self.n)),
        }
    }

    /// As it stands in the history.
    #[must_use]
    pub(crate) fn json(&self, seed: u64) -> Value {
        json!({"ev": "send", "n": self.n, "function": self.function, "way": self.way.name(), "id": self.name(seed),
               "level": self.level, "payload": self.payload})
    }
}

/// All calls of a run, in the order of their times.
#[must_use]
pub(crate) fn calls(plan: &Plan) -> Vec<Call> {
    // Levels have a chance of their own, so that a seed makes the calls that it always made.
    let (mut chance, mut levels) = (Chance::of(plan.seed, 2), Chance::of(plan.seed, 6));
    let lasts_ms = u64::try_from(plan.lasts.as_millis()).expect("a run is short");
    let mut burst_ms = 0;
    let mut left = 0u32;
    let mut calls: Vec<Call> = (0..plan.calls)
        .map(|n| {
            // Every now and then forty come at once, so that batches are read and settled.
            if left == 0 && chance.percent(4) {
                (left, burst_ms) = (40, chance.between(0, lasts_ms));
            }
            let at_ms = if left > 0 { burst_ms } else { chance.between(0, lasts_ms) };
            left = left.saturating_sub(1);
            call(n, Duration::from_millis(at_ms), plan, &mut chance, &mut levels)
        })
        .collect();
    calls.sort_by_key(|call| (call.at, call.n));
    calls
}

fn call(n: usize, at: Duration, plan: &Plan, chance: &mut Chance, levels: &mut Chance) -> Call {
    // `echo` needs nothing outside, so calls of it end in large batches; `witness` tells what it does.
    let function = *chance.one(&FUNCTIONS);
    let ways = [Way::Redis, Way::Redis, Way::RedisNamed, Way::RedisNamed, Way::Http, Way::HttpNamed, Way::HttpSend];
    let way = *chance.one(&ways);
    let mode = match chance.between(0, 100) {
        0..88 => "ok",
        88..93 => "reject",
        93..98 => "retry",
        _rest => "trap",
    };
    let longest_ms = u64::try_from(plan.work_max.as_millis()).expect("work is short");
    let ms = match chance.between(0, 100) {
        0..50 => chance.between(0, 5),
        50..80 => chance.between(50, 500),
        80..97 => chance.between(500, 3_000),
        _rest => chance.between(3_000, longest_ms.max(3_001)),
    };
    let tenant = function.split('/').next().unwrap_or_default();
    let pad_max = if chance.percent(1) { 20_000 } else { 100 };
    let pad = "x".repeat(usize::try_from(chance.between(0, pad_max)).expect("a payload is small"));
    // The word begins with the tenant: whoever else sees it has seen too much.
    let k = format!("{tenant}-secret-{n}");
    let payload = json!({"k": k, "ms": ms, "mode": mode, "pad": pad}).to_string();
    let may_repeat = !matches!(way, Way::Redis | Way::Http);
    let again = (may_repeat && chance.percent(35)).then(|| Duration::from_millis(chance.between(0, 3_000)));
    let level = *levels.one(&[None, None, None, Some("high"), Some("low")]);
    Call { n, at, function, way, level, again, payload }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_the_same_calls_and_as_many_as_asked_for() {
        let plan = Plan::short(3);
        assert_eq!(calls(&plan), calls(&plan));
        assert_eq!(calls(&plan).len(), plan.calls);
        assert_ne!(calls(&plan), calls(&Plan::short(4)));
    }

    #[test]
    fn only_calls_with_a_name_are_submitted_twice() {
        let calls = calls(&Plan::usual(1));
        assert!(calls.iter().any(|call| call.again.is_some()));
        assert!(calls.iter().all(|call| call.again.is_none() || call.name(1).is_some()));
    }
}
