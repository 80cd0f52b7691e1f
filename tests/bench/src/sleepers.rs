//! Executions that sleep: what many of them cost a host, and how punctually those wake that are due.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use baton_model::CallId;
use baton_model::execution::{Event, Log};
use baton_tests::{now_ms, resident_bytes};
use futures_util::stream::{self, StreamExt, TryStreamExt};
use indicatif::ProgressBar;
use serde_json::json;

use crate::durable::{FUNCTIONS, Scene};
use crate::plan::Plan;
use crate::report::{Goal, Part};
use crate::table::{largest, quantile, rate};

pub(crate) const STEPS: usize = 3;

/// How many are due in one second.
const DUE: usize = 1_000;
/// How late they may go on, in ms.
const LATE_MAX_MS: f64 = 200.0;
/// How much a host may grow, in MiB.
const GROWTH_MAX_MIB: f64 = 50.0;
/// Executions that are run before anything is measured: what a host holds for all that come after.
const FIRST: usize = 500;
const AT_ONCE: usize = 64;
const MIB: f64 = 1024.0 * 1024.0;

pub(crate) async fn measure(plan: &Plan, bar: &ProgressBar, part: &mut Part) -> Result<()> {
    let mut scene = Scene::set().await?;
    bar.set_message("before any sleeps");
    let first = begin(&scene, "first", FIRST, |_| 0).await?;
    scene.ended(&first).await?;
    let (before, memory) = (resident_bytes(scene.host.pid())?, redis_bytes(&mut scene).await?);
    bar.inc(1);

    let sleepers = plan.durable_sleepers;
    bar.set_message(format!("{sleepers} fall asleep"));
    let (start, hour) = (Instant::now(), now_ms() + 3_600_000);
    let peak = {
        let fall = begin(&scene, "sleeper", sleepers, |_| hour);
        tokio::pin!(fall);
        let (mut peak, mut look) = (before, tokio::time::interval(Duration::from_millis(100)));
        loop {
            tokio::select! {
                ended = &mut fall => break ended.map(|_| peak)?,
                _ = look.tick() => peak = peak.max(resident_bytes(scene.host.pid())?),
            }
        }
    };
    scene.until_idle().await?;
    let asleep = start.elapsed();
    // As many timers as executions: all of them sleep, and none has ended.
    ensure!(scene.caller.timers(FUNCTIONS[0]).await? == sleepers, "they do not all sleep");
    let (after, used) = (resident_bytes(scene.host.pid())?, redis_bytes(&mut scene).await?);
    let growth = (after as f64 - before as f64) / MIB;
    let figure =
        format!("{growth:.1} MiB (from {:.0}; {:.0} while they fell asleep)", before as f64 / MIB, peak as f64 / MIB);
    let what = format!("growth of a host while {sleepers} executions fall asleep");
    part.goal(Goal::at_most("9", what, growth, GROWTH_MAX_MIB, figure, "MiB"));
    let each = used.saturating_sub(memory) as f64 / sleepers as f64;
    let figure =
        format!("{:.1} KiB of Redis; {}/s fall asleep", each / 1024.0, rate(sleepers as f64 / asleep.as_secs_f64()));
    part.goal(Goal::reported("9", "an execution that sleeps", figure));
    bar.inc(1);

    bar.set_message("1,000 are due in one second");
    let first = now_ms() + 5_000;
    let due = |n: usize| first + (n * 1_000 / DUE) as u64;
    let ids = begin(&scene, "due", DUE, due).await?;
    scene.until_idle().await?;
    ensure!(now_ms() + 200 < first, "they were due before all of them slept");
    scene.ended(&ids).await?;
    let (mut fired, mut ended) = (Vec::new(), Vec::new());
    for (n, id) in ids.iter().enumerate() {
        let loaded = scene.load(id).await?;
        let log = Log::read_to(loaded.log, (loaded.length, &loaded.link))?;
        for fact in log.facts() {
            let late = || fact.at_ms as f64 - due(n) as f64;
            if matches!(fact.event, Event::TimerFired { .. }) {
                fired.push(late());
            } else if matches!(fact.event, Event::Completed(_)) {
                ended.push(late());
            }
        }
    }
    ensure!(fired.len() == DUE && ended.len() == DUE, "each fires once, and ends");
    let of = |late: &[f64], share: f64| quantile(late.iter().copied(), share);
    let p99 = of(&ended, 0.99);
    let figure = format!(
        "{p99:.0} ms (p50 {:.0}, longest {:.0}); fired p99 {:.0}",
        of(&ended, 0.5),
        largest(ended.iter().copied()),
        of(&fired, 0.99)
    );
    let what = format!("{DUE} that are due in one second have gone on, p99, beside {sleepers} that sleep");
    part.goal(Goal::at_most("9", what, p99, LATE_MAX_MS, figure, "ms"));
    let late = |late: &[f64]| json!({ "p50_ms": of(late, 0.5), "p99_ms": of(late, 0.99) });
    let figures = json!({
        "sleepers": sleepers, "host_bytes_before": before, "host_bytes_after": after, "host_bytes_peak": peak,
        "redis_bytes_each": each, "fell_asleep_s": asleep.as_secs_f64(), "fired": late(&fired), "gone_on": late(&ended),
    });
    part.json("sleepers", figures);
    bar.inc(1);
    Ok(())
}

/// Begins so many that sleep until a time of their own.
async fn begin(scene: &Scene, name: &str, count: usize, until_ms: impl Fn(usize) -> u64) -> Result<Vec<CallId>> {
    let begin = |n| {
        let steps = json!([{ "sleep-until": until_ms(n) }]);
        async move { scene.begin(&format!("{name}-{n}"), &steps, false).await }
    };
    stream::iter(0..count).map(begin).buffered(AT_ONCE).try_collect().await
}

/// How many bytes Redis holds.
async fn redis_bytes(scene: &mut Scene) -> Result<u64> {
    let said: String = redis::cmd("INFO").arg("memory").query_async(scene.caller.connection()).await?;
    let line = said.lines().find_map(|line| line.strip_prefix("used_memory:")).context("Redis says what it holds")?;
    Ok(line.trim().parse()?)
}
