//! `baton exec replay`: a component is run over a recorded history, here, and asked for the same steps or not.

use std::io::Write as _;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use baton_app::Examined;
use baton_engine::{DurableRun, Invocation, LogSink, LogStream, Ran, StepWatch, Stop};
use baton_model::execution::{Answer, Event, FAILED, History, Log, Replay, calls_of};
use baton_model::{Call, CallError, CallsGrant, Disposition, Outcome, RetryPolicy, RetryWish, decide};
use serde_json::json;

use super::{Door, absent};
use crate::args::{ExecOne, ExecReplay};
use crate::commands::check;
use crate::exit::{Exit, UsageError};
use crate::settings::Settings;

/// How a replay ended.
enum End {
    /// The component asks for the steps of the log, and does this behind it.
    Same(String),
    /// It does not; this is where and how.
    Differs(String),
}

pub(super) async fn run(settings: &Settings, replay: &ExecReplay) -> anyhow::Result<Exit> {
    let Some(history) = history(settings, replay).await? else { return Ok(Exit::Failed) };
    let log = match history.log() {
        Ok(log) => log,
        Err(error) => {
            eprintln!("the history of {} {} cannot be replayed: {error}", history.function, history.id);
            return Ok(Exit::Failed);
        }
    };
    let events = log.facts().len();
    let watch = Arc::new(Watch { prints: !replay.json, steps: Mutex::default() });
    let began = Instant::now();
    let end = match over(settings, &replay.component, &history, log, &watch).await {
        Ok(end) => end,
        Err(reason) => {
            eprintln!("{} is refused: {reason:#}", replay.component.display());
            return Ok(Exit::Failed);
        }
    };
    let took_ms = began.elapsed().as_secs_f64() * 1e3;
    let steps = *watch.steps.lock().unwrap_or_else(PoisonError::into_inner);
    let (is_same, text) = match end {
        End::Same(text) => (true, text),
        End::Differs(text) => (false, text),
    };
    let mut out = std::io::stdout().lock();
    if replay.json {
        let said = json!({
            "id": history.id, "function": history.function, "same": is_same, "says": text, "events": events, "steps": steps,
            "took_ms": took_ms,
        });
        writeln!(out, "{said}")?;
    } else if is_same {
        writeln!(out, "the same {steps} steps as in the log; {text}")?;
    } else {
        writeln!(out, "it differs: {text}")?;
    }
    Ok(if is_same { Exit::Ok } else { Exit::Failed })
}

/// From the file that was named, or from Redis. None if there is no such execution; that was said.
async fn history(settings: &Settings, replay: &ExecReplay) -> anyhow::Result<Option<History>> {
    let Some(id) = &replay.id else {
        let path = replay.history.as_deref().unwrap_or(Path::new("-"));
        let text = std::fs::read_to_string(path)
            .map_err(|error| UsageError(format!("cannot read {}: {error}", path.display())))?;
        let read = serde_json::from_str(&text);
        let rule = |error| {
            UsageError(format!("{} is no history: {error}; `baton exec history ID --json` prints one", path.display()))
        };
        return Ok(Some(read.map_err(rule)?));
    };
    let one = ExecOne { dir: replay.dir.clone(), id: id.clone(), function: replay.function.clone(), json: false };
    let door = Door::open(settings)?;
    let Some(function) = door.function(id, one.function.as_ref()).await? else { return Ok(None) };
    let Some(loaded) = door.executions.load(&function, id).await? else {
        absent(&format!("{function} has no"), id);
        return Ok(None);
    };
    Ok(Some(History::new(&function, id, &loaded.state, loaded.length, loaded.log)))
}

/// Runs the component over the log, and says how that ended.
async fn over(
    settings: &Settings,
    file: &Path,
    history: &History,
    log: Log,
    watch: &Arc<Watch>,
) -> anyhow::Result<End> {
    std::fs::metadata(file).map_err(|error| UsageError(format!("cannot read {}: {error}", file.display())))?;
    let Examined { component, terms, services } = settings.examiner().examine(file).map_err(anyhow::Error::msg)?;
    let component = check::load(&component, &terms, services).await?;
    if !component.is_durable() {
        anyhow::bail!("it is not durable: it does not import baton:durable/steps");
    }
    let (started, end) = (log.started().clone(), log.end().cloned());
    let clock_ms = log.facts().last().map_or(0, |fact| fact.at_ms);
    let call = Arc::new(call_of(history, &started.headers, &started.input));
    let durable = DurableRun {
        replay: Replay::new(log),
        calls_begin: calls_of(&history.function, &history.id, started.seed),
        depth: 0,
        clock_ms,
        // Nothing is called here: which functions it may call is for its manifest and its host to say.
        calls: Some(CallsGrant::All),
        payload_bytes_max: terms.limits.payload_bytes_max,
        watch: Some(watch.clone()),
    };
    let invocation = Invocation {
        call: call.clone(),
        limits: terms.limits,
        log: watch.clone(),
        waits: false,
        weight: 1,
        services: None,
        durable: Some(durable),
    };
    let executed = component.execute_timed(invocation).await;
    Ok(match executed.divergence() {
        Some(divergence) => End::Differs(divergence),
        None => ended(&call, executed.ran, executed.outcome, end.as_ref()),
    })
}

fn call_of(history: &History, headers: &[(String, String)], input: &baton_model::Reply) -> Call {
    Call {
        function: history.function.clone(),
        id: history.id.clone(),
        id_is_own: true,
        payload: input.body.clone(),
        media_type: input.media_type.clone(),
        reply: None,
        deadline_ms: None,
        traceparent: None,
        tracestate: None,
        headers: headers.to_vec(),
        key: None,
        priority: baton_model::Priority::Normal,
        delay: None,
        attempt: 1,
        spent: 0,
        history: Vec::new(),
        step: None,
        event: None,
        is_wake: true,
        retry: RetryWish::default(),
        accepted_ms: 0,
    }
}

/// How the run ended, beside how the log did.
fn ended(call: &Call, ran: Option<Ran>, outcome: Outcome, logged: Option<&Event>) -> End {
    let (answer, says) = match (ran, outcome) {
        (Some(Ran { stop: Some(stop @ (Stop::Waits | Stop::GoesOn | Stop::Restarts { .. })), fresh }), _) => {
            return match (logged, stop, fresh.last()) {
                (Some(end @ (Event::Completed(_) | Event::Failed(_))), ..) => {
                    End::Differs(format!("the log ends with {}, and the function goes on", end.as_str()))
                }
                (_, Stop::Restarts { .. }, _) => End::Same("the function begins anew where the log ends".to_owned()),
                (_, _, Some(step)) => End::Same(format!("behind it the function asks for {step}")),
                (_, _, None) => End::Same("the function waits where the log ends".to_owned()),
            };
        }
        (_, Outcome::Replied(reply)) => {
            let says = format!("the function answers with {} bytes", reply.body.len());
            (Event::Completed(reply), says)
        }
        // As hosts write it: run again over the same log, it would ask for the same again.
        (_, Outcome::RetryAsked { message, .. }) => {
            let says = format!("the function ends with {FAILED}: {message}");
            (Event::Failed(CallError { code: FAILED.to_owned(), message }), says)
        }
        (_, outcome) => match decide(outcome, call.attempt, &RetryPolicy::default(), None, 0.0) {
            Disposition::Retry { error, .. } | Disposition::Bury { error, .. } | Disposition::Fail(_, error) => {
                let says = format!("the function ends with {}: {}", error.code, error.message);
                (Event::Failed(error), says)
            }
            Disposition::Answer(_) => return End::Differs("the function answers without an end".to_owned()),
        },
    };
    match logged {
        None | Some(Event::Cancelled) => End::Same(says),
        Some(end) if *end == answer => End::Same(format!("{says}, as in the log")),
        Some(end) => End::Differs(format!("{says}, which is not the `{}` that the log ends with", end.as_str())),
    }
}

/// Prints each step, and what the guest says meanwhile.
struct Watch {
    prints: bool,
    /// How many steps there were. A lock and no message: one thread takes it, for an addition.
    steps: Mutex<u32>,
}

impl StepWatch for Watch {
    fn step(&self, asked: &Event, answer: &Answer) {
        *self.steps.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        if !self.prints {
            return;
        }
        let says = match answer {
            Answer::Called(result) => format!("{}, {} bytes", result.status, result.payload.len()),
            Answer::Woken => "its time is over".to_owned(),
            Answer::Event(received) => format!("the event {}", received.id),
            Answer::Told => String::new(),
            Answer::Wait => "no answer yet".to_owned(),
        };
        let step = asked.asked_in().unwrap_or(0);
        println!("{}", format!("step {step}: {asked}  -> {says}").trim_end_matches("  -> "));
    }
}

impl LogSink for Watch {
    fn line(&self, _: LogStream<'_>, text: &str) {
        if self.prints {
            println!("    {text}");
        }
    }

    fn truncated(&self, dropped_bytes: u64) {
        if self.prints {
            println!("    (and {dropped_bytes} bytes more than its log may have)");
        }
    }
}
