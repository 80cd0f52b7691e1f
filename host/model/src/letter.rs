//! Dead letters: what is known of one, and which of them somebody means.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::Serialize;

use crate::{CallId, Digest, EntryId, FunctionId, HostId, PastAttempt};

/// The reason of calls that are held to have ended host after host.
pub(crate) const POISON: &str = "poison";

/// Headers that start so are for hosts. What follows a dot in them is by what hosts know it, and nobody else's to know.
const OF_HOSTS: &str = "x-baton-";

/// What is known of a dead letter at a glance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LetterSummary {
    /// The letter's own id, which no other letter of its function has.
    pub letter: EntryId,
    /// The function.
    pub function: FunctionId,
    /// The call; none if what lies there never was one.
    pub id: Option<CallId>,
    /// Why it was given up, one word.
    pub reason: String,
    /// What went wrong, for people; perhaps only its beginning.
    pub error: String,
    /// How many attempts the call had.
    pub attempts: u32,
    /// The component of the last attempt; none if there was none.
    pub digest: Option<Digest>,
    /// When it was given up, in Unix milliseconds.
    pub died_ms: u64,
    /// How large its payload is.
    pub payload_bytes: u64,
    /// Whether the letter holds all of the call.
    pub is_whole: bool,
}

/// A dead letter with all that it holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DeadLetter {
    /// What is known at a glance, with all of the error.
    #[serde(flatten)]
    pub summary: LetterSummary,
    /// When the call was accepted, in Unix milliseconds, as far as that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub accepted_ms: Option<u64>,
    /// The host that gave it up.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host: Option<HostId>,
    /// What the last attempt was allowed: each limit by its name.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub limits: BTreeMap<String, u64>,
    /// What is known of the attempts, the latest last.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub history: Vec<PastAttempt>,
    /// Where in its code the last attempt ended, the innermost frame first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub backtrace: Vec<String>,
    /// The last lines that the last attempt wrote.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub log: Vec<String>,
    /// Media type of the payload.
    #[serde(rename = "type")]
    pub media_type: String,
    /// The call's fields as they stood in its stream, but for the payload.
    pub fields: BTreeMap<String, String>,
    /// The input, byte for byte.
    #[serde(skip)]
    pub payload: Bytes,
}

/// Which letters of a function somebody means. One that says nothing means all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LetterFilter {
    /// Given up for this reason.
    pub reason: Option<String>,
    /// Given up at this time or later, in Unix milliseconds.
    pub from_ms: Option<u64>,
    /// Given up at this time or earlier, in Unix milliseconds.
    pub until_ms: Option<u64>,
}

/// Whether a letter that somebody means is sent again along with others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Redrivable {
    /// It is.
    Yes,
    /// It may be what ended its hosts: it is sent again only if it is meant by name or by this reason.
    Quarantined,
    /// It does not hold a whole call.
    NotWhole,
}

impl LetterFilter {
    /// Whether this letter is meant.
    #[must_use]
    pub fn means(&self, letter: &LetterSummary) -> bool {
        self.reason.as_ref().is_none_or(|reason| *reason == letter.reason)
            && self.from_ms.is_none_or(|from| letter.died_ms >= from)
            && self.until_ms.is_none_or(|until| letter.died_ms <= until)
    }

    /// Whether a letter that is meant is sent again along with the others that are.
    #[must_use]
    pub fn redrives(&self, letter: &LetterSummary) -> Redrivable {
        if !letter.is_whole || letter.id.is_none() {
            Redrivable::NotWhole
        } else if letter.reason == POISON && self.reason.as_deref() != Some(POISON) {
            Redrivable::Quarantined
        } else {
            Redrivable::Yes
        }
    }
}

impl DeadLetter {
    /// Reads an entry of the dead letters of `function`: the fields of the call as they stood, and behind them, from the
    /// last `reason` on, what was written about its end. What cannot be read is left out: a call may have been given up
    /// because of it.
    #[must_use]
    pub fn read(function: FunctionId, letter: EntryId, entry: Vec<(Vec<u8>, Vec<u8>)>) -> Self {
        let split = entry.iter().rposition(|(name, _)| name == b"reason").unwrap_or(entry.len());
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let end: BTreeMap<String, String> =
            entry[split..].iter().map(|(name, value)| (text(name), text(value))).collect();
        let mut payload = Bytes::new();
        let mut fields = BTreeMap::new();
        for (name, value) in entry.into_iter().take(split) {
            if name == b"payload" {
                payload = value.into();
                continue;
            }
            let (name, mut value) = (text(&name), text(&value));
            if name.starts_with(OF_HOSTS) {
                value.truncate(value.find('.').unwrap_or(value.len()));
            }
            fields.insert(name, value);
        }
        let told = |name: &str| end.get(name).cloned().unwrap_or_default();
        let lines = |name: &str| -> Vec<String> { told(name).lines().map(str::to_owned).collect() };
        let accepted = fields.get("accepted").or_else(|| end.get("accepted_ms"));
        Self {
            summary: LetterSummary {
                letter,
                function,
                id: fields.get("id").and_then(|id| CallId::parse(id)),
                reason: told("reason"),
                error: told("error"),
                attempts: told("attempts").parse().unwrap_or(0),
                digest: Digest::parse(&told("digest")),
                died_ms: told("died_ms").parse().unwrap_or_else(|_| letter.ms()),
                payload_bytes: payload.len() as u64,
                is_whole: !end.is_empty() && !end.contains_key("cut_bytes"),
            },
            accepted_ms: accepted.and_then(|ms| ms.parse().ok()),
            host: HostId::parse(&told("host")),
            limits: serde_json::from_str(&told("limits")).unwrap_or_default(),
            history: serde_json::from_str(&told("history")).unwrap_or_default(),
            backtrace: lines("backtrace"),
            log: lines("log"),
            media_type: fields.get("type").cloned().unwrap_or_else(|| "application/json".to_owned()),
            fields,
            payload,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(fields: &[(&str, &str)]) -> DeadLetter {
        let fields = fields.iter().map(|(name, value)| (name.as_bytes().to_vec(), value.as_bytes().to_vec()));
        DeadLetter::read("a/f".parse().unwrap(), EntryId::parse("1700-1").unwrap(), fields.collect())
    }

    #[test]
    fn the_fields_of_the_call_are_told_from_those_of_its_end() {
        let letter = read(&[
            ("payload", "{}"),
            ("reason", "the caller's own, which is why it is no call"),
            ("x-baton-depth", "3.0123456789abcdef0123456789abcdef"),
            ("id", "order-1"),
            ("reason", "malformed"),
            ("error", "the field \"reason\" is unknown"),
            ("attempts", "2"),
            ("digest", ""),
            ("accepted_ms", "1600"),
            ("host", "web-1"),
            ("limits", r#"{"time_ms":500}"#),
            ("history", r#"[{"attempt":1,"end":"host-lost"},{"attempt":2,"end":"trap","what":"is to come"}]"#),
            ("log", "one\ntwo"),
            ("died_ms", "1699"),
        ]);
        let summary = &letter.summary;
        assert_eq!((summary.reason.as_str(), summary.attempts, summary.died_ms), ("malformed", 2, 1699));
        assert_eq!((summary.digest, summary.payload_bytes, summary.is_whole), (None, 2, true));
        assert_eq!((letter.accepted_ms, &letter.payload[..]), (Some(1600), &b"{}"[..]));
        assert_eq!((letter.limits["time_ms"], letter.history.len(), letter.log.len()), (500, 2, 2));
        assert_eq!((letter.host, letter.backtrace.len()), (HostId::parse("web-1"), 0));
        let names: Vec<&str> = letter.fields.keys().map(String::as_str).collect();
        assert_eq!(names, ["id", "reason", "x-baton-depth"]);
        assert_eq!(letter.fields["x-baton-depth"], "3", "by what hosts know it is nobody else's to know");
        assert!(!read(&[("payload", "{"), ("reason", "oversize"), ("cut_bytes", "7")]).summary.is_whole);
        assert!(!read(&[("payload", "{}")]).summary.is_whole, "nobody gave this up");
    }

    #[test]
    fn a_filter_means_what_it_says() {
        let letter = |reason: &str, died: &str| {
            read(&[("payload", ""), ("id", "a"), ("reason", reason), ("died_ms", died)]).summary
        };
        let filter = |reason: Option<&str>, from_ms, until_ms| LetterFilter {
            reason: reason.map(str::to_owned),
            from_ms,
            until_ms,
        };
        let (trap, poison) = (letter("trap", "500"), letter("poison", "500"));
        let table = [
            (filter(None, None, None), true, true),
            (filter(Some("trap"), None, None), true, false),
            (filter(Some("poison"), Some(500), Some(500)), false, true),
            (filter(None, Some(501), None), false, false),
            (filter(None, None, Some(499)), false, false),
        ];
        for (filter, means_trap, means_poison) in table {
            assert_eq!((filter.means(&trap), filter.means(&poison)), (means_trap, means_poison), "{filter:?}");
        }
    }

    #[test]
    fn what_may_end_hosts_is_not_sent_again_by_accident() {
        let all = LetterFilter::default();
        let named = LetterFilter { reason: Some("poison".into()), ..LetterFilter::default() };
        let poison = read(&[("payload", ""), ("id", "a"), ("reason", "poison")]).summary;
        assert_eq!(all.redrives(&poison), Redrivable::Quarantined);
        assert_eq!(named.redrives(&poison), Redrivable::Yes);
        assert_eq!(all.redrives(&LetterSummary { reason: "trap".into(), ..poison.clone() }), Redrivable::Yes);
        assert_eq!(named.redrives(&LetterSummary { id: None, ..poison.clone() }), Redrivable::NotWhole);
        assert_eq!(named.redrives(&LetterSummary { is_whole: false, ..poison }), Redrivable::NotWhole);
    }
}
