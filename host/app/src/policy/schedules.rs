//! When a function is called by itself.

use std::collections::BTreeSet;
use std::sync::Arc;

use baton_model::{Missed, Name, Priority, Schedule, Timetable, TimetableError};
use schemars::JsonSchema;
use serde::Deserialize;

use super::text::Wrong;

/// The most schedules of one function.
const SCHEDULES_MAX: usize = 32;

/// One schedule: calls that are made by the clock, each once in the whole fleet.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ScheduleTable {
    /// What it is called; `default` if there is one alone. By this name it is known which ticks were run.
    #[serde(default = "default_name")]
    name: String,
    /// Minute, hour, day of the month, month and weekday, with seconds before them if there are six: `*/5 * * * *`.
    cron: String,
    /// The time zone of these, by its name: `Europe/Berlin`.
    #[serde(default = "utc")]
    timezone: String,
    /// The input of the calls.
    #[serde(default)]
    payload: String,
    /// Media type of the input.
    #[serde(default = "json", rename = "type")]
    media_type: String,
    /// What becomes of ticks that came while no host had the function.
    #[serde(default)]
    missed: MissedWord,
    /// How urgent its calls are beside the others of the function.
    #[serde(default)]
    priority: PriorityWord,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
enum MissedWord {
    /// They are left out.
    #[default]
    Skip,
    /// The latest of them is run, once for all.
    RunOnce,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
enum PriorityWord {
    /// They go before all others.
    High,
    /// They are calls like any other.
    #[default]
    Normal,
    /// They go when nothing else waits, and a little beside it.
    Low,
}

fn default_name() -> String {
    "default".to_owned()
}

fn utc() -> String {
    "UTC".to_owned()
}

fn json() -> String {
    "application/json".to_owned()
}

/// What these tables say, for a function that takes payloads of at most so many bytes.
pub(super) fn schedules(tables: &[ScheduleTable], payload_bytes_max: usize) -> Result<Arc<[Schedule]>, Wrong> {
    let wrong = |key: &str, rule: String| Err(Wrong::new(&["schedule", key], rule));
    if tables.len() > SCHEDULES_MAX {
        return Err(Wrong::new(
            &["schedule"],
            format!("is there {} times; it may be {SCHEDULES_MAX} times", tables.len()),
        ));
    }
    let mut names = BTreeSet::new();
    let mut schedules = Vec::with_capacity(tables.len());
    for ScheduleTable { name, cron, timezone, payload, media_type, missed, priority } in tables {
        let Ok(name) = Name::parse(name) else {
            return wrong(
                "name",
                format!("is {name:?}, which is no name; it is a-z, 0-9 and -, and begins with a letter"),
            );
        };
        if !names.insert(name.clone()) {
            return wrong("name", format!("is `{name}` twice; give each schedule a name of its own"));
        }
        let timetable = match Timetable::parse(cron, timezone) {
            Ok(timetable) => timetable,
            Err(error @ TimetableError::Cron(_)) => return wrong("cron", format!("is {cron:?}: {error}")),
            Err(error @ TimetableError::Zone) => return wrong("timezone", format!("is {timezone:?}, which {error}")),
        };
        if payload.len() > payload_bytes_max {
            return wrong("payload", format!("has {} bytes; the function takes {payload_bytes_max}", payload.len()));
        }
        let is_json = media_type == "application/json" && !payload.is_empty();
        if is_json && let Err(error) = serde_json::from_str::<serde::de::IgnoredAny>(payload) {
            return wrong("payload", format!("is no JSON ({error}); mend it, or say what it is with `type`"));
        }
        if !is_media_type(media_type) {
            return wrong("type", format!("is {media_type:?}, which is no media type such as text/plain"));
        }
        let missed = match missed {
            MissedWord::Skip => Missed::Skip,
            MissedWord::RunOnce => Missed::RunOnce,
        };
        let priority = match priority {
            PriorityWord::High => Priority::High,
            PriorityWord::Normal => Priority::Normal,
            PriorityWord::Low => Priority::Low,
        };
        let (payload, media_type) = (payload.clone(), media_type.clone());
        schedules.push(Schedule { name, timetable, missed, payload, media_type, priority });
    }
    Ok(schedules.into())
}

/// A little stricter than what entries are held against.
fn is_media_type(text: &str) -> bool {
    let is_token = |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$&^_.+-".contains(&b));
    let essence = text.split(';').next().unwrap_or_default().trim_end();
    let is_plain = text.len() <= 255 && text.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic());
    is_plain && essence.split_once('/').is_some_and(|(kind, rest)| is_token(kind) && is_token(rest))
}
