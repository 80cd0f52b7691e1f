//! Schedules: which times a cron expression means, and what is done about those that have come or were missed.

use std::fmt;
use std::time::Duration;

use croner::Cron;
use croner::parser::{CronParser, Seconds};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};

use crate::{CallId, Name, Priority};

/// How late a tick may be and still be run by itself. What is later was missed.
pub const LATE_MAX: Duration = Duration::from_secs(10);

/// How far ahead of the clock the ticks may be that were dealt with. A clock that is set back by more was wrong before: what
/// was done by it is forgotten, and so a schedule stands still for no longer than this.
pub const AHEAD_MAX: Duration = Duration::from_secs(60);

/// The headers by which a function sees the name of its schedule, and the tick. Callers cannot say them.
pub const SCHEDULE_HEADERS: [&str; 2] = ["x-schedule", "x-schedule-tick"];

/// How the ids of ticks begin.
const TICK: &str = "tick.";

/// Reads an id that somebody chose for a call.
///
/// # Errors
/// The rule that is broken, for people: the form of any id, and that it is no tick's, which nobody may forestall.
pub fn chosen_id(text: &str) -> Result<CallId, String> {
    let id: CallId = text.parse()?;
    if id.as_str().starts_with(TICK) {
        return Err(format!("{text:?} starts with `{TICK}`, as the calls of schedules do; choose another id"));
    }
    Ok(id)
}

/// The first day of 2026.
const SOME_DAY_MS: u64 = 1_767_225_600_000;

/// A cron expression in a time zone: the times at which something is due, which are called ticks.
#[derive(Clone)]
pub struct Timetable {
    cron: Cron,
    zone: TimeZone,
    text: Box<str>,
    zone_name: Box<str>,
}

impl Timetable {
    /// Reads a cron expression of five fields, or of six with seconds before them, and the name of a time zone.
    ///
    /// # Errors
    /// The rule that is broken, for people.
    pub fn parse(cron: &str, zone: &str) -> Result<Self, TimetableError> {
        // The parser knows years too, which nobody else's cron has.
        if cron.split_whitespace().count() > 6 {
            return Err(TimetableError::Cron("it has more than six fields".to_owned()));
        }
        let read = CronParser::builder().seconds(Seconds::Optional).build().parse(cron);
        let parsed = read.map_err(|error| TimetableError::Cron(error.to_string()))?;
        let known = TimeZone::get(zone).map_err(|_| TimetableError::Zone)?;
        let timetable = Self { cron: parsed, zone: known, text: cron.into(), zone_name: zone.into() };
        // Whatever ever comes has come within years of any day; 29 February may be eight years away.
        match timetable.next(SOME_DAY_MS) {
            Some(_) => Ok(timetable),
            None => Err(TimetableError::Cron("there is no such day".to_owned())),
        }
    }

    /// The first tick after `after_ms`, both in Unix milliseconds. None if there is none within the next years.
    #[must_use]
    pub fn next(&self, after_ms: u64) -> Option<u64> {
        let after = Timestamp::from_millisecond(i64::try_from(after_ms).ok()?).ok()?;
        let next = self.cron.find_next_occurrence(&after.to_zoned(self.zone.clone()), false).ok()?;
        // Ticks are whole seconds.
        u64::try_from(next.timestamp().as_second()).ok().map(|seconds| seconds * 1000)
    }

    /// The last tick up to `until_ms`, both in Unix milliseconds.
    #[must_use]
    pub fn last(&self, until_ms: u64) -> Option<u64> {
        let until = Timestamp::from_second(i64::try_from(until_ms / 1000).ok()?).ok()?;
        let last = self.cron.find_previous_occurrence(&until.to_zoned(self.zone.clone()), true).ok()?;
        u64::try_from(last.timestamp().as_second()).ok().map(|seconds| seconds * 1000)
    }

    /// The expression as it was written.
    #[must_use]
    pub fn cron(&self) -> &str {
        &self.text
    }

    /// The name of its time zone.
    #[must_use]
    pub fn zone(&self) -> &str {
        &self.zone_name
    }
}

impl PartialEq for Timetable {
    fn eq(&self, other: &Self) -> bool {
        (&self.text, &self.zone_name) == (&other.text, &other.zone_name)
    }
}

impl Eq for Timetable {}

impl fmt::Debug for Timetable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.text, self.zone_name)
    }
}

/// Why something is no timetable.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TimetableError {
    /// The expression.
    #[error("{0}; write minute, hour, day, month and weekday, with seconds before them if you like: \"*/5 * * * *\"")]
    Cron(String),
    /// The zone.
    #[error("is the name of no time zone such as \"Europe/Berlin\" or \"UTC\"")]
    Zone,
}

/// What is done about ticks that came while no host had the function.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Missed {
    /// Nothing.
    #[default]
    Skip,
    /// The latest of them is run, once for all.
    RunOnce,
}

/// One schedule of a function, as its manifest has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Schedule {
    /// What it is called: by this, and not by its component, it is known what it has run.
    pub name: Name,
    /// When it is due.
    pub timetable: Timetable,
    /// What is done about ticks that were missed.
    pub missed: Missed,
    /// The input of its calls.
    pub payload: String,
    /// Media type of the input.
    pub media_type: String,
    /// How urgent its calls are beside the others of the function.
    pub priority: Priority,
}

impl Schedule {
    /// The call of one tick: the same whichever host makes it.
    #[must_use]
    pub fn call_id(&self, tick_ms: u64) -> CallId {
        CallId::parse(&format!("{TICK}{}.{tick_ms}", self.name)).expect("a name and a number are printable and short")
    }

    /// What people are told about it.
    #[must_use]
    pub fn about(&self) -> AboutSchedule {
        let (name, cron, timezone) = (self.name.as_str(), self.timetable.cron(), self.timetable.zone());
        AboutSchedule { name: name.to_owned(), cron: cron.to_owned(), timezone: timezone.to_owned() }
    }
}

/// What is to be done next about a schedule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// This tick is run now.
    Run(u64),
    /// This tick is waited for.
    Wait(u64),
    /// There is none any more.
    Never,
}

/// What is to be done about a timetable of which all was done up to `done_ms`, at `now_ms`; both are Unix milliseconds of
/// one clock. Each tick is run by itself as long as it is no later than [`LATE_MAX`]; of those that are, `missed` says what
/// becomes, unless one comes that is not.
#[must_use]
pub fn next_tick(timetable: &Timetable, missed: Missed, done_ms: u64, now_ms: u64) -> Next {
    let late_max = u64::try_from(LATE_MAX.as_millis()).unwrap_or(u64::MAX);
    let from = done_ms.max(now_ms.saturating_sub(late_max));
    match timetable.next(from) {
        Some(tick) if tick <= now_ms => Next::Run(tick),
        next => match (missed, timetable.last(from)) {
            (Missed::RunOnce, Some(tick)) if tick > done_ms => Next::Run(tick),
            (Missed::RunOnce | Missed::Skip, _) => next.map_or(Next::Never, Next::Wait),
        },
    }
}

/// One schedule, in words.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct AboutSchedule {
    /// What it is called.
    pub name: String,
    /// Its cron expression.
    pub cron: String,
    /// The name of its time zone.
    pub timezone: String,
}

/// One schedule, and when it is due next.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ScheduleView {
    /// The schedule.
    #[serde(flatten)]
    pub about: AboutSchedule,
    /// Its next tick, in Unix milliseconds; none if there is none, or if it was written for a newer version.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_ms: Option<u64>,
}

/// The schedules of one function as its hosts have them, each once for each way in which it is written, with its next tick
/// after `now_ms`.
#[must_use]
pub fn schedule_views(mut all: Vec<AboutSchedule>, now_ms: u64) -> Vec<ScheduleView> {
    all.sort();
    all.dedup();
    let next = |about: &AboutSchedule| Timetable::parse(&about.cron, &about.timezone).ok()?.next(now_ms);
    all.into_iter().map(|about| ScheduleView { next_ms: next(&about), about }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(text: &str) -> u64 {
        u64::try_from(text.parse::<Timestamp>().unwrap().as_millisecond()).unwrap()
    }

    fn shown(ms: u64) -> String {
        Timestamp::from_millisecond(i64::try_from(ms).unwrap()).unwrap().to_string()
    }

    #[test]
    fn ticks_are_those_of_the_clock_on_the_wall() {
        for (cron, zone, after, expected) in [
            ("*/5 * * * *", "UTC", "2026-11-21T14:02:07.5Z", &["2026-11-21T14:05:00Z", "2026-11-21T14:10:00Z"][..]),
            ("* * * * * *", "UTC", "2026-11-21T14:02:07.5Z", &["2026-11-21T14:02:08Z", "2026-11-21T14:02:09Z"]),
            ("0 9 * * MON-FRI", "Europe/Berlin", "2026-11-20T08:00:00Z", &["2026-11-23T08:00:00Z"]),
            // 2:30 is not there on the day on which the clock goes forward, and is there twice when it goes back.
            ("30 2 * * *", "Europe/Berlin", "2026-03-28T12:00:00Z", &["2026-03-29T01:00:00Z", "2026-03-30T00:30:00Z"]),
            ("30 2 * * *", "Europe/Berlin", "2026-10-24T12:00:00Z", &["2026-10-25T00:30:00Z", "2026-10-26T01:30:00Z"]),
            ("30 * * * *", "Europe/Berlin", "2026-10-25T00:00:00Z", &["2026-10-25T00:30:00Z", "2026-10-25T01:30:00Z"]),
            ("@daily", "America/New_York", "2026-11-21T14:00:00Z", &["2026-11-22T05:00:00Z"]),
        ] {
            let timetable = Timetable::parse(cron, zone).unwrap();
            let mut at = ms(after);
            for tick in expected {
                at = timetable.next(at).unwrap();
                assert_eq!(shown(at), *tick, "{cron} {zone} after {after}");
                assert_eq!(timetable.last(at + 999), Some(at), "{cron}");
            }
        }
    }

    #[test]
    fn what_is_no_timetable_is_refused() {
        for cron in ["", "* * *", "61 * * * *", "*/0 * * * *", "0 0 0 * * * 2027", "@reboot", "0 0 30 2 *"] {
            assert!(matches!(Timetable::parse(cron, "UTC"), Err(TimetableError::Cron(_))), "{cron}");
        }
        assert_eq!(Timetable::parse("* * * * *", "Mars/Base"), Err(TimetableError::Zone));
    }

    #[test]
    fn a_tick_is_run_once_and_what_is_late_is_run_or_not() {
        let hourly = Timetable::parse("0 * * * *", "UTC").unwrap();
        let secondly = Timetable::parse("* * * * * *", "UTC").unwrap();
        let at = |text: &str| ms(&format!("2026-11-21T{text}Z"));
        let (run, wait) = (|text: &str| Next::Run(at(text)), |text: &str| Next::Wait(at(text)));
        for (timetable, done, now, skip, run_once) in [
            // It has not come yet; it comes; it was done.
            (&hourly, "13:00:00", "13:59:59.999", wait("14:00:00"), wait("14:00:00")),
            (&hourly, "13:00:00", "14:00:00", run("14:00:00"), run("14:00:00")),
            (&hourly, "14:00:00", "14:00:00.001", wait("15:00:00"), wait("15:00:00")),
            // A little late; too late; several too late; the last of several only a little late.
            (&hourly, "13:00:00", "14:00:09.999", run("14:00:00"), run("14:00:00")),
            (&hourly, "13:00:00", "14:00:10.001", wait("15:00:00"), run("14:00:00")),
            (&hourly, "08:00:00", "14:30:00", wait("15:00:00"), run("14:00:00")),
            (&hourly, "08:00:00", "14:00:03", run("14:00:00"), run("14:00:00")),
            // Of many ticks each is run that is not too late, the oldest first.
            (&secondly, "14:00:00", "14:00:03.5", run("14:00:01"), run("14:00:01")),
            (&secondly, "13:00:00", "14:00:00.5", run("13:59:51"), run("13:59:51")),
            // Since when it is there matters, not what came before that.
            (&hourly, "14:30:00", "14:30:00", wait("15:00:00"), wait("15:00:00")),
        ] {
            assert_eq!(next_tick(timetable, Missed::Skip, at(done), at(now)), skip, "skip: {done}, {now}");
            assert_eq!(next_tick(timetable, Missed::RunOnce, at(done), at(now)), run_once, "run once: {done}, {now}");
        }
    }

    #[test]
    fn nobody_chooses_the_id_of_a_tick() {
        for (text, is_taken) in
            [("order-1", true), ("ticket.7", true), ("tick", true), ("tick.nightly.1", false), ("a b", false)]
        {
            assert_eq!(chosen_id(text).is_ok(), is_taken, "{text}");
        }
    }

    #[test]
    fn schedules_are_shown_once_with_their_next_tick() {
        let about =
            |name: &str, cron: &str| AboutSchedule { name: name.into(), cron: cron.into(), timezone: "UTC".into() };
        let nightly = about("nightly", "0 3 * * *");
        let all = vec![nightly.clone(), about("later", "in a new dialect"), nightly];
        let views = schedule_views(all, ms("2026-11-21T14:00:00Z"));
        let next: Vec<(&str, Option<String>)> =
            views.iter().map(|view| (view.about.name.as_str(), view.next_ms.map(shown))).collect();
        assert_eq!(next, [("later", None), ("nightly", Some("2026-11-22T03:00:00Z".to_owned()))]);
    }
}
