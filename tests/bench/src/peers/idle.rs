//! What a worker with nothing to do says to Redis.

use std::time::Duration;

use anyhow::Result;
use baton_tests::CommandStats;
use indicatif::ProgressBar;
use serde_json::json;

use super::Plan;
use super::against::Against;
use super::queues::{Queue, Stage};
use super::rates::mib;
use crate::report::{Goal, Part};
use crate::table::Table;

/// How long a worker is left alone before it is held for idle.
const REST: Duration = Duration::from_secs(2);
const COMMANDS: f64 = 0.2;

/// What one idle worker says, and what it holds.
struct Said {
    stats: CommandStats,
    per_second: f64,
    mib: f64,
}

async fn idle(queue: Queue, plan: &Plan) -> Result<Said> {
    let stage = Stage::start(queue).await?;
    let worker = stage.worker().await?;
    tokio::time::sleep(REST).await;
    let mut look = stage.redis.connect().await?;
    let before = CommandStats::read(&mut look).await?;
    tokio::time::sleep(plan.idle).await;
    let mut stats = CommandStats::read(&mut look).await?.since(&before);
    // The first of our own two looks is among them.
    stats.total -= 1;
    stats.by_name.remove("info");
    Ok(Said { per_second: stats.total as f64 / plan.idle.as_secs_f64(), stats, mib: mib(worker.pid())? })
}

pub(super) async fn measure(plan: &Plan, against: &mut Against, bar: &ProgressBar) -> Result<Part> {
    bar.set_message(format!("{} s of silence, all at once", plan.idle.as_secs()));
    let [baton, bullmq, streams] = Queue::ALL.map(|queue| idle(queue, plan));
    let (baton, bullmq, streams) = tokio::try_join!(baton, bullmq, streams)?;
    bar.inc(1);
    let mut part = Part::default();
    let head = ["an idle worker of", "Redis commands a second", "which", "worker MiB"];
    let mut table = Table::new("Idleness", &head);
    for (queue, said) in Queue::ALL.into_iter().zip([&baton, &bullmq, &streams]) {
        let which = said.stats.by_name.iter().map(|(name, count)| format!("{name} {count}")).collect::<Vec<_>>();
        let per_second = format!("{:.2}", said.per_second);
        table.row(vec![queue.name().to_owned(), per_second, which.join(", "), format!("{:.0}", said.mib)]);
        part.json(
            queue.name(),
            json!({"commands": said.stats.by_name, "per_second": said.per_second, "mib": said.mib}),
        );
        if queue != Queue::Baton {
            let what = "Redis commands of an idle worker";
            against.lower(what, baton.per_second, queue.name(), said.per_second, "a second");
            against.lower("memory of an idle worker", baton.mib, queue.name(), said.mib, "MiB");
        }
    }
    part.tables.push(table);
    let figure = format!("{:.2} a second", baton.per_second);
    part.goal(Goal::at_most("5", "commands of an idle host", baton.per_second, COMMANDS, figure, "a second"));
    Ok(part)
}
