//! What is known of the attempts that a call has had. It goes along with the call, from host to host and into its dead
//! letter, so it is kept short.

use serde::{Deserialize, Serialize};

use crate::{Digest, HostId};

/// How many attempts are remembered: the latest.
const KEPT: usize = 20;
/// How much is remembered of what an attempt said, in bytes.
const ERROR_BYTES: usize = 240;
/// How an attempt ended of which its host could not tell any more.
const HOST_LOST: &str = "host-lost";

/// One attempt, as it is remembered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PastAttempt {
    /// Which it was; the first is 1.
    pub attempt: u32,
    /// How it ended, in one word.
    pub end: String,
    /// What it said, for people: its first line, or the beginning of that.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub error: String,
    /// Which host ran it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<HostId>,
    /// Which component it ran.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<Digest>,
    /// When it started, in Unix milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_ms: Option<u64>,
    /// When it ended, in Unix milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_ms: Option<u64>,
    /// How long the call waited after it, at the least, in milliseconds; none if it was the last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub then_waited_ms: Option<u64>,
}

/// The first line, without anything that acts on a terminal, and not longer than it is remembered.
fn plain(text: &str) -> String {
    let mut out = String::with_capacity(ERROR_BYTES);
    for c in text.lines().next().unwrap_or_default().chars() {
        let c = if c.is_control() { ' ' } else { c };
        if out.len() + c.len_utf8() > ERROR_BYTES {
            break;
        }
        out.push(c);
    }
    out
}

impl PastAttempt {
    /// An attempt of which nothing but its end is known.
    #[must_use]
    pub fn ended(attempt: u32, end: impl Into<String>) -> Self {
        Self {
            attempt,
            end: end.into(),
            error: String::new(),
            host: None,
            digest: None,
            started_ms: None,
            ended_ms: None,
            then_waited_ms: None,
        }
    }

    /// Whether a host can have written this: it is short, and nothing in it acts on a terminal.
    #[must_use]
    pub fn is_plain(&self) -> bool {
        let is_plain = |text: &str| text.len() <= ERROR_BYTES && !text.chars().any(char::is_control);
        is_plain(&self.end) && is_plain(&self.error)
    }
}

/// The attempts of a call that has had `made` of them: those that are `known`, `last` if it can be told, and between them
/// those that were lost with their hosts. Of what was `spent` before people sent the call again, nothing is made up.
#[must_use]
pub fn history(known: &[PastAttempt], spent: u32, made: u32, last: Option<PastAttempt>) -> Vec<PastAttempt> {
    let told = known.last().map_or(0, |attempt| attempt.attempt).max(spent);
    let until = last.as_ref().map_or(made, |last| last.attempt.saturating_sub(1));
    let from = until.saturating_sub(told).min(KEPT as u32);
    let lost = (until - from + 1..=until).map(|attempt| PastAttempt::ended(attempt, HOST_LOST));
    let mut all: Vec<PastAttempt> = known.iter().cloned().chain(lost).chain(last).collect();
    all.drain(..all.len().saturating_sub(KEPT));
    for attempt in &mut all {
        if !attempt.is_plain() {
            attempt.error = plain(&attempt.error);
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ended(attempt: u32) -> PastAttempt {
        PastAttempt::ended(attempt, "retry")
    }

    #[test]
    fn attempts_of_which_nobody_tells_were_lost_with_their_hosts() {
        let (one, three) = (vec![ended(1)], vec![ended(1), ended(3)]);
        type Row<'a> = (&'a [PastAttempt], u32, u32, Option<PastAttempt>, &'a str);
        let table: [Row<'_>; 8] = [
            (&[], 0, 1, Some(ended(1)), "1:retry"),
            (&one, 0, 2, Some(ended(2)), "1:retry 2:retry"),
            (&one, 0, 4, Some(ended(4)), "1:retry 2:host-lost 3:host-lost 4:retry"),
            (&[], 0, 2, None, "1:host-lost 2:host-lost"),
            (&three, 0, 4, None, "1:retry 3:retry 4:host-lost"),
            (&three, 3, 5, Some(ended(5)), "1:retry 3:retry 4:host-lost 5:retry"),
            (&[], 3, 4, Some(ended(4)), "4:retry"),
            (&[], 0, 0, None, ""),
        ];
        for (known, spent, made, last, expected) in table {
            let all = history(known, spent, made, last);
            let words: Vec<String> = all.iter().map(|a| format!("{}:{}", a.attempt, a.end)).collect();
            assert_eq!(words.join(" "), expected, "{known:?}, {spent} spent, {made} made");
        }
    }

    #[test]
    fn it_stays_short_however_often_a_call_is_tried() {
        let mut known = Vec::new();
        for attempt in 1..=1_000 {
            let last = PastAttempt { error: "é".repeat(1_000), ..ended(attempt) };
            known = history(&known, 0, attempt, Some(last));
        }
        assert_eq!((known.len(), known.last().map(|last| last.attempt)), (KEPT, Some(1_000)));
        assert!(serde_json::to_string(&known).unwrap().len() < 16 << 10);
        assert_eq!(history(&[], 0, u32::MAX, None).len(), KEPT, "nobody counts to four thousand million");
    }

    #[test]
    fn what_is_remembered_is_read_again() {
        let known = vec![ended(1), PastAttempt { error: "a\tb".into(), ended_ms: Some(5), ..ended(2) }];
        assert!(known[0].is_plain() && !known[1].is_plain());
        let said = PastAttempt { error: "fir\tst\nsecond".into(), ..ended(1) };
        let kept = &history(&[], 0, 1, Some(said))[0];
        assert!(kept.error == "fir st" && kept.is_plain(), "the next host has to take it");
        let text = serde_json::to_string(&known).unwrap();
        assert_eq!(serde_json::from_str::<Vec<PastAttempt>>(&text).unwrap(), known);
    }
}
