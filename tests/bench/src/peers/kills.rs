//! `kill -9` of a worker that has calls in its hands: what becomes of them, and when.
//!
//! The calls are made all at once and each takes a while; a quarter of them is answered, and the worker is in the middle of
//! others, when it dies. Either another worker was there all the time, or one is started a second later, as a supervisor does.

use std::time::Duration;

use anyhow::{Context, Result};
use baton_tests::now_ms;
use indicatif::ProgressBar;
use serde_json::json;

use super::Plan;
use super::against::Against;
use super::caller::{Burst, Caller};
use super::queues::{Queue, Stage};
use super::web::Serve;
use crate::plots::Line;
use crate::report::{Goal, Part};
use crate::table::{Table, largest, quantile};

/// How long each call takes.
const EACH: Duration = Duration::from_millis(100);
/// How long workers are left alone first: hosts on a Redis of a few seconds' age hold nobody for crashed.
const SETTLED: Duration = Duration::from_secs(5);
/// How long a supervisor takes to start another.
const RESTARTED_AFTER: Duration = Duration::from_secs(1);
/// The most milliseconds from a kill to the start of a call elsewhere.
const REDELIVERY_MS: f64 = 1_000.0;

/// Who is there after the kill.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum After {
    Another,
    Restarted,
}

impl After {
    const ALL: [Self; 2] = [Self::Another, Self::Restarted];

    fn name(self) -> &'static str {
        match self {
            Self::Another => "another was there",
            Self::Restarted => "restarted after 1 s",
        }
    }
}

/// Baton twice, `wasmtime serve`, and the two others, which wait at the same time.
pub(super) const STEPS: u64 = 4;

/// What became of the calls that met a kill.
struct Outcome {
    who: &'static str,
    after: After,
    calls: usize,
    killed_ms: u64,
    burst: Burst,
}

impl Outcome {
    fn unanswered(&self) -> usize {
        self.calls - self.burst.answers.len() - self.burst.failures
    }

    /// Seconds from the kill to the answers of calls that were executed again.
    fn again(&self) -> Vec<f64> {
        let again = self.burst.answers.iter().filter(|(_, attempts)| *attempts > 1);
        again.map(|(at_ms, _)| self.since(*at_ms)).collect()
    }

    fn since(&self, at_ms: u64) -> f64 {
        (at_ms as f64 - self.killed_ms as f64) / 1e3
    }

    /// How many calls had no answer, by seconds since the kill.
    fn course(&self, until: f64) -> Vec<(f64, f64)> {
        let mut at: Vec<f64> = self.burst.answers.iter().map(|(at_ms, _)| self.since(*at_ms)).collect();
        at.sort_by(f64::total_cmp);
        let before = at.iter().take_while(|at| **at < 0.0).count();
        let mut open = (self.calls - before) as f64;
        let mut points = vec![(0.0, open)];
        for at in &at[before..] {
            points.push((*at, open));
            open -= 1.0;
            points.push((*at, open));
        }
        points.push((until, open));
        // Answers of the same millisecond make one step.
        points.dedup_by(|b, a| {
            a.0 == b.0 && {
                a.1 = a.1.min(b.1);
                true
            }
        });
        points
    }

    fn row(&self) -> Vec<String> {
        let again = self.again();
        let seconds = |figure: f64| if figure.is_nan() { String::new() } else { format!("{figure:.1}") };
        vec![
            self.who.to_owned(),
            self.after.name().to_owned(),
            self.calls.to_string(),
            self.unanswered().to_string(),
            self.burst.failures.to_string(),
            again.len().to_string(),
            seconds(again.iter().copied().fold(f64::NAN, f64::min)),
            seconds(largest(again.iter().copied())),
            seconds(largest(self.burst.answers.iter().map(|(at_ms, _)| self.since(*at_ms)))),
        ]
    }
}

async fn queue(queue: Queue, after: After, plan: &Plan) -> Result<Outcome> {
    let stage = Stage::start(queue).await?;
    let victim = stage.worker().await?;
    let mut alive = Vec::new();
    if after == After::Another {
        alive.push(stage.worker().await?);
    }
    tokio::time::sleep(SETTLED).await;
    let mut caller = Caller::start(queue.callers()[0], &stage.redis.socket().display().to_string()).await?;
    caller.burst(plan.kill_calls, EACH, plan.kill_calls / 4, plan.kill_limit).await?;
    tokio::time::sleep(EACH / 2).await;
    let killed_ms = now_ms();
    victim.kill().await?;
    if after == After::Restarted {
        tokio::time::sleep(RESTARTED_AFTER).await;
        alive.push(stage.worker().await?);
    }
    let burst = caller.burst_over(plan.kill_limit).await?;
    drop(alive);
    Ok(Outcome { who: queue.name(), after, calls: plan.kill_calls, killed_ms, burst })
}

async fn serve(plan: &Plan) -> Result<Outcome> {
    let mut victim = Serve::start("127.0.0.1:0").await?;
    let mut caller = Caller::start("http", &victim.url).await?;
    caller.burst(plan.kill_calls, EACH, plan.kill_calls / 4, plan.kill_limit).await?;
    tokio::time::sleep(EACH / 2).await;
    let killed_ms = now_ms();
    victim.process.kill9().await?;
    tokio::time::sleep(RESTARTED_AFTER).await;
    let address = victim.url.strip_prefix("http://").context("a URL of HTTP")?.to_owned();
    let _again = Serve::start(&address).await?;
    let burst = caller.burst_over(plan.kill_limit).await?;
    Ok(Outcome { who: "wasmtime serve", after: After::Restarted, calls: plan.kill_calls, killed_ms, burst })
}

pub(super) async fn measure(plan: &Plan, against: &mut Against, bar: &ProgressBar) -> Result<Part> {
    let mut outcomes = Vec::new();
    for after in After::ALL {
        bar.set_message(format!("Baton, {}", after.name()));
        outcomes.push(queue(Queue::Baton, after, plan).await.context("Baton")?);
        bar.inc(1);
    }
    // They mostly wait, for a minute and more, so they wait together.
    bar.set_message("BullMQ and the plain worker, which takes over a minute");
    let [one, two] = After::ALL.map(|after| queue(Queue::BullMq, after, plan));
    let [three, four] = After::ALL.map(|after| queue(Queue::Streams, after, plan));
    let (one, two, three, four) = tokio::try_join!(one, two, three, four)?;
    outcomes.extend([one, two, three, four]);
    bar.inc(1);
    bar.set_message("wasmtime serve");
    outcomes.push(serve(plan).await.context("wasmtime serve")?);
    bar.inc(1);

    let mut part = Part::default();
    let head = [
        "kill -9 of the worker of",
        "after it",
        "calls",
        "no answer",
        "failed",
        "executed again",
        "first of them s",
        "last of them s",
        "last answer s",
    ];
    let title = format!(
        "A worker is killed with calls in its hands ({} ms each; seconds since the kill; given up after {} s)",
        EACH.as_millis(),
        plan.kill_limit.as_secs()
    );
    let mut table = Table::new(&title, &head);
    for outcome in &outcomes {
        table.row(outcome.row());
        let json = json!({
            "calls": outcome.calls, "no_answer": outcome.unanswered(), "failed": outcome.burst.failures,
            "failure": outcome.burst.failure, "executed_again_s": outcome.again(),
        });
        part.json(&format!("{}, {}", outcome.who, outcome.after.name()), json);
    }
    table.note = "`failed`: the caller was told by an error and has to send its call again; `no answer`: nobody told it anything.";
    part.tables.push(table);

    let end = outcomes.iter().flat_map(Outcome::again).fold(RESTARTED_AFTER.as_secs_f64(), f64::max) + 5.0;
    let (ours, theirs): (Vec<&Outcome>, Vec<&Outcome>) = outcomes.iter().partition(|outcome| outcome.who == "Baton");
    for outcome in outcomes.iter().filter(|outcome| outcome.after == After::Another) {
        part.unanswered.push(Line { name: outcome.who, points: outcome.course(end) });
    }
    for (ours, theirs) in ours.iter().flat_map(|ours| theirs.iter().map(move |theirs| (ours, theirs))) {
        if ours.after != theirs.after {
            continue;
        }
        let what = |what: &str| format!("{what} after a kill, {}", ours.after.name());
        let lost = |outcome: &Outcome| (outcome.unanswered() + outcome.burst.failures) as f64;
        // None is none: whoever loses nothing either is not ahead.
        if lost(ours) > 0.0 {
            against.lower(&what("calls without an answer"), lost(ours), theirs.who, lost(theirs), "calls");
        }
        if !theirs.again().is_empty() {
            let (a, b) = (largest(ours.again()), largest(theirs.again()));
            against.lower(&what("last redelivered call"), a, theirs.who, b, "s");
        }
    }
    for outcome in &ours {
        let lost = outcome.unanswered() + outcome.burst.failures;
        if lost > 0 {
            part.broken(format!("{}: {lost} of Baton's calls have no answer", outcome.after.name()));
        }
    }
    let again_ms: Vec<f64> =
        ours.iter().filter(|o| o.after == After::Another).flat_map(|o| o.again()).map(|s| s * 1e3).collect();
    // From answers to starts: each takes as long as it was asked to.
    let p99 = quantile(again_ms.iter().copied(), 0.99) - EACH.as_millis() as f64;
    let figure = format!("{p99:.0} ms ({} calls)", again_ms.len());
    part.goal(Goal::at_most("7", "kill -9 of a host to its calls elsewhere, p99", p99, REDELIVERY_MS, figure, "ms"));
    Ok(part)
}
