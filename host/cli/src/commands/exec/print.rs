//! Executions and their logs, for people.

use std::io::{Result, Write};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use baton_broker::ExecutionView;
use baton_model::execution::{Event, Log};
use baton_model::{FunctionId, Reply, Status};

use super::super::ps::ago;

/// How much of a payload a line has.
const SHOWN: usize = 60;
/// How many digits of a digest a line has.
const DIGITS: usize = 12;

/// How an execution stands.
pub(super) fn view(out: &mut impl Write, function: &FunctionId, view: &ExecutionView) -> Result<()> {
    let ExecutionView { id, state, run, steps, events, .. } = view;
    let (steps, events) = (counted(u64::from(*steps), "step"), counted(*events, "event"));
    writeln!(out, "{function} {id} is {state}, with {steps} and {events} in run {run}")?;
    match view.ended_ms {
        Some(ended) => writeln!(out, "  began {} ago, ended {} ago", ago(view.began_ms), ago(ended))?,
        None => writeln!(out, "  began {} ago", ago(view.began_ms))?,
    }
    let Some(details) = &view.details else { return Ok(()) };
    match details.digest {
        Some(digest) => writeln!(out, "  runs on {digest}")?,
        None if view.state == "running" => writeln!(out, "  waits for a host that has {function}")?,
        None => {}
    }
    for open in &details.waits_for {
        match open.due_ms {
            Some(due) => writeln!(out, "  waits for step {}: {}, {}", open.step, open.what, left(due))?,
            None => writeln!(out, "  waits for step {}: {}", open.step, open.what)?,
        }
    }
    if let Some(why) = &view.stuck {
        writeln!(out, "  is stuck: {why}")?;
    }
    if let Some(why) = &view.failed {
        writeln!(out, "  failed: {why}")?;
    }
    if let Some(damage) = &details.damage {
        writeln!(out, "  its log is damaged: {damage}")?;
    }
    if let Some(wish) = &details.wish {
        writeln!(out, "  is to be moved to {wish}; no host has tried that yet")?;
    }
    if let Some(refused) = &details.refused {
        writeln!(out, "  was not moved to {}", refusal(refused))?;
    }
    Ok(())
}

/// A component and why not, with the digest shortened.
pub(super) fn refusal(said: &str) -> String {
    match said.split_once(' ') {
        Some((digest, why)) => format!("{}: {why}", digest.get(..DIGITS).unwrap_or(digest)),
        None => said.to_owned(),
    }
}

/// A number and what it counts.
fn counted(count: u64, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

fn left(due_ms: u64) -> String {
    let due = UNIX_EPOCH + Duration::from_millis(due_ms);
    match due.duration_since(SystemTime::now()) {
        Ok(left) if left >= Duration::from_secs(1) => {
            format!("for {} more", humantime::format_duration(Duration::from_secs(left.as_secs())))
        }
        Ok(_) | Err(_) => "due now".to_owned(),
    }
}

pub(super) fn list(out: &mut impl Write, found: &[(FunctionId, ExecutionView)], more: bool) -> Result<()> {
    let widest = |text: &dyn Fn(&(FunctionId, ExecutionView)) -> usize, least: usize| {
        found.iter().map(text).max().unwrap_or(0).max(least)
    };
    let (id, of) = (widest(&|(_, view)| view.id.as_str().len(), 9), widest(&|(of, _)| of.to_string().len(), 8));
    writeln!(
        out,
        "{:id$}  {:of$}  {:9}  {:>6}  {:>6}  {:>8}  WHY",
        "EXECUTION", "FUNCTION", "STATE", "STEPS", "EVENTS", "BEGAN"
    )?;
    for (function, view) in found {
        let why =
            view.stuck.as_deref().or(view.failed.as_deref()).unwrap_or_default().lines().next().unwrap_or_default();
        let line = format!(
            "{:id$}  {:of$}  {:9}  {:>6}  {:>6}  {:>8}  {why}",
            view.id.as_str(),
            function.to_string(),
            view.state,
            view.steps,
            view.events,
            ago(view.began_ms)
        );
        writeln!(out, "{}", line.trim_end())?;
    }
    if found.is_empty() {
        writeln!(out, "(none)")?;
    }
    if more {
        writeln!(out, "(and more: --limit lists more of them, --state chooses)")?;
    }
    Ok(())
}

/// A log, a line for each event: its position, how long after the start it was written, and what it says.
pub(super) fn log(out: &mut impl Write, log: &Log) -> Result<()> {
    let began = log.facts().first().map_or(0, |fact| fact.at_ms);
    for (fact, position) in log.facts().iter().zip(1_u64..) {
        let after = Duration::from_millis(fact.at_ms.saturating_sub(began));
        let step = fact.event.asked_in().or(fact.event.answers()).map(|step| format!("step {step}"));
        let line = format!(
            "{position:>5}  {:>11}  {:15}  {:8}  {}",
            format!("+{:.3}s", after.as_secs_f64()),
            fact.event.as_str(),
            step.unwrap_or_default(),
            says(&fact.event)
        );
        writeln!(out, "{}", line.trim_end())?;
    }
    Ok(())
}

/// What an event says beside its word and step.
fn says(event: &Event) -> String {
    match event {
        Event::Started(started) => shown(&started.input),
        Event::CallScheduled { call, .. } => format!("{}  {}", call.function, shown(&call.payload)),
        Event::CallCompleted { result, .. } => match (&result.error, result.status) {
            (Some(error), status) => format!("{status}: {} ({})", error.message, error.code),
            (None, Status::Ok) => shown(&Reply { media_type: result.media_type.clone(), body: result.payload.clone() }),
            (None, status) => status.to_string(),
        },
        Event::TimerSet { .. } | Event::EventAwaited { .. } => event.to_string(),
        Event::EventReceived(received) => format!("{}  {}  {}", received.name, received.id, shown(&received.payload)),
        Event::Emitted { name, payload, .. } => format!("{name}  {}", shown(payload)),
        Event::MovedToDigest { digest } => digest.to_string(),
        Event::Completed(reply) => shown(reply),
        Event::Failed(error) => format!("{} ({})", error.message, error.code),
        Event::TimerFired { .. } | Event::Cancelled => String::new(),
    }
}

/// The head of what was handed over, if it is text.
fn shown(content: &Reply) -> String {
    let bytes = content.body.len();
    let text = std::str::from_utf8(&content.body).ok().filter(|text| !text.chars().any(char::is_control));
    match text {
        Some(text) if text.chars().count() <= SHOWN => text.to_owned(),
        Some(text) => format!("{}... ({bytes} bytes)", text.chars().take(SHOWN).collect::<String>()),
        None => format!("({} of {})", counted(bytes as u64, "byte"), content.media_type),
    }
}
