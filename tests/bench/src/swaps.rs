//! New builds under load: what callers notice of it, and that no call is lost, doubled or answered by a build that was
//! never published.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, Result};
use baton_model::Digest;
use baton_tests::{CORE_MODULE, Folder, Load, LoadReport, Redis, cpu_time, sample, variant};
use indicatif::ProgressBar;
use serde_json::json;

use crate::host::Host;
use crate::plan::Plan;
use crate::report::{Goal, Part};
use crate::table::Table;

/// Calls a second.
const PER_SECOND: u32 = 2_000;
/// The pause in the middle of a slow write.
const WRITE_PAUSE: Duration = Duration::from_millis(60);
/// The most milliseconds that replacements may add to the p99.
const ADDED_P99_MS: f64 = 10.0;

pub(crate) async fn measure(plan: &Plan, bar: &ProgressBar) -> Result<Part> {
    let redis = Redis::start().await?;
    let folder = Folder::with(&["echo"])?;
    let echo = sample("echo")?;
    let mut host = Host::start(&redis, &folder, &["echo".to_owned()]).await?;
    let load = |lasts| Load { function: "echo".into(), per_second: PER_SECOND, lasts, in_flight_max: 10_000 };

    bar.set_message("load alone");
    let mut published = BTreeSet::from([Digest::of(&echo)]);
    let before = load(plan.swaps_baseline).start(redis.address()).report().await?;
    before.check_exact(&published).context("under load alone")?;
    bar.inc(1);

    bar.set_message("load and new builds");
    let cpu_before = cpu_time(host.pid())?;
    let running = load(plan.swaps_last).start(redis.address());
    let mut due = tokio::time::interval(plan.swaps_last / (plan.swaps + 2));
    for n in 1..=plan.swaps {
        due.tick().await;
        published.extend(replace(&folder, n, &echo).await?.map(|component| Digest::of(&component)));
        bar.inc(1);
    }
    let last = variant(&echo, plan.swaps + 1);
    published.insert(Digest::of(&last));
    folder.install("echo", &last)?;
    host.ready("echo", Some(Digest::of(&last))).await?;
    bar.set_message("looking at every answer");
    let busy = running.report().await?;
    let exact = busy.check_exact(&published);
    let cpu = (cpu_time(host.pid())? - cpu_before).as_secs_f64() / plan.swaps_last.as_secs_f64();
    bar.inc(1);

    bar.set_message("load alone again");
    let after = load(plan.swaps_baseline).start(redis.address()).report().await?;
    bar.inc(1);
    // What disturbs the quiet load comes from elsewhere, so the quieter of the two is what is added to.
    let calm = if ms(&before, 0.99) <= ms(&after, 0.99) { before } else { after };
    let mut part = Part::default();
    let head = ["echo at 2,000 calls/s", "calls", "builds that answered", "p50 ms", "p99 ms", "longest ms"];
    let mut table = Table::new("New builds under load", &head);
    let swaps = format!("{} replacements in {} s", plan.swaps, plan.swaps_last.as_secs());
    for (name, report) in [("no replacement", &calm), (swaps.as_str(), &busy)] {
        table.row(vec![
            name.to_owned(),
            report.calls.len().to_string(),
            report.digests().len().to_string(),
            format!("{:.2}", ms(report, 0.5)),
            format!("{:.2}", ms(report, 0.99)),
            format!("{:.1}", ms(report, 1.0)),
        ]);
    }
    part.tables.push(table);
    let added = ms(&busy, 0.99) - ms(&calm, 0.99);
    let what = format!("{swaps}: added p99");
    part.goal(Goal::at_most("6", what, added, ADDED_P99_MS, format!("{added:.2} ms"), "ms"));
    let wrong = f64::from(u8::from(exact.is_err()));
    let figure = exact.as_ref().err().map_or("none".to_owned(), |error| brief(&format!("{error:#}")));
    let what = format!("{swaps}: lost, doubled or wrong answers");
    part.goal(Goal::at_most("6", what, wrong, 0.0, figure, "calls"));
    let figures = |report: &LoadReport| {
        json!({
            "calls": report.calls.len(), "errors": report.errors.len(), "builds": report.digests().len(),
            "p50_ms": ms(report, 0.5), "p99_ms": ms(report, 0.99), "longest_ms": ms(report, 1.0),
        })
    };
    part.json("no_replacement", figures(&calm));
    part.json("replacements", figures(&busy));
    part.json("added_p99_ms", json!(added));
    part.json("exact", json!(exact.is_ok()));
    part.json("host_cores_used", json!(cpu));
    Ok(part)
}

/// Does replacement number `n` in one of the ways in which files get into a folder. Gives the component that may
/// answer calls from then on; none if the file is one that must never answer any.
async fn replace(folder: &Folder, n: u32, echo: &[u8]) -> Result<Option<Vec<u8>>> {
    let next = variant(echo, n);
    match n % 6 {
        0 => folder.install("echo", &next)?,
        1 => folder.copy("echo", &next)?,
        2 => folder.copy_slowly("echo", &next, WRITE_PAUSE).await?,
        3 => {
            folder.delete("echo")?;
            folder.install("echo", &next)?;
        }
        4 => {
            folder.copy("echo", &next[..next.len() * 2 / 3])?;
            return Ok(None);
        }
        _ => {
            folder.copy("echo", CORE_MODULE)?;
            return Ok(None);
        }
    }
    Ok(Some(next))
}

fn ms(report: &LoadReport, share: f64) -> f64 {
    report.quantile(share).as_secs_f64() * 1e3
}

/// As much of an error as fits into a table.
fn brief(text: &str) -> String {
    text.chars().take(60).collect()
}
