//! The table of hostile guests with measured figures, for docs/security.md: `make hostile`. Everything is measured on one
//! host, one kind of guest after the other; `make test` does the same with a glance at each and writes nothing.

use std::fmt::Write as _;
use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use baton_tests::settings::{ATTEMPTS_MAX, PATIENCE, RESCAN_MS, SEATS, TIME_MAX_MS, is_asked, repository};
use baton_tests::{Caller, Host, Stage, sample};

use crate::cases::{self, CASES, Case, Ends};
use crate::measures::{Held, neighbour, took};
use crate::odd;

const LIMIT: Duration = Duration::from_secs(1);

/// How many calls of a kind run at once, again and again for as long as the neighbour is measured.
const AT_ONCE: usize = 8;

const MEASURED_FOR: Duration = Duration::from_secs(3);

/// The same with all other tests, where outcomes count and figures mean nothing.
const GLANCE: Duration = Duration::from_millis(200);

/// The lines in docs/security.md between which the table stands.
const BEGIN: &str = "<!-- `make hostile` writes from here -->";
const END: &str = "<!-- to here -->";

#[tokio::test]
async fn hostile_guests_one_kind_after_the_other_meet_their_outcome_eight_at_once() -> Result<()> {
    let is_written = is_asked("BATON_HOSTILE_TABLE");
    let measured_for = if is_written { MEASURED_FOR } else { GLANCE };
    let stage = Stage::with(&[]).await?;
    let names = cases::install(&stage, LIMIT)?;
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let plan = stage.host().setting(ATTEMPTS_MAX, 1).setting(SEATS, 64).setting(TIME_MAX_MS, 60_000);
    let mut host = plan.start_ready(&names).await?;
    neighbour(&stage, measured_for).await?;

    let mut table = String::from(
        "| guest | what becomes of it | longest, ms | host RSS before and after, MiB | neighbour's p99 before and during, ms |\n\
         | --- | --- | ---: | ---: | ---: |\n",
    );
    for case in CASES {
        let before = (Held::by(host.pid())?, neighbour(&stage, measured_for).await?.quantile(0.99));
        let (longest, during) = measure(&stage, case, measured_for).await?;
        let after = Held::by(host.pid())?;
        let line = format!(
            "| `{}` | {} | {} | {} → {} | {} → {} |",
            case.name(),
            outcome(case),
            longest.as_millis(),
            before.0.rss_bytes >> 20,
            after.rss_bytes >> 20,
            ms(before.1),
            ms(during),
        );
        println!("{line}");
        writeln!(table, "{line}")?;
        anyhow::ensure!(host.runs()?, "{} ended the host", case.name());
    }
    table.push_str(&refusals().await?);
    if is_written { write_down(&table) } else { Ok(()) }
}

fn ms(time: Duration) -> String {
    format!("{:.1}", time.as_secs_f64() * 1_000.0)
}

fn outcome(case: &Case) -> String {
    match case.ends {
        Ends::Answered(_) => "answered, with nothing of value".to_owned(),
        Ends::Dead("timeout", _) => format!("stopped at its limit of {} ms", LIMIT.as_millis()),
        Ends::Dead(reason, _) => format!("dead letter `{reason}`"),
    }
}

/// Runs a kind of guest for as long as the neighbour is measured. Gives the longest time that one took, and the
/// neighbour's p99.
async fn measure(stage: &Stage, case: &Case, measured_for: Duration) -> Result<(Duration, Duration)> {
    let enough = AtomicBool::new(false);
    let measured = async {
        let during = neighbour(stage, measured_for).await;
        enough.store(true, Ordering::Relaxed);
        during
    };
    let (longest, during) = tokio::join!(attack(stage.caller.clone(), case, &enough), measured);
    Ok((longest?, during?.quantile(0.99)))
}

async fn attack(mut caller: Caller, case: &Case, enough: &AtomicBool) -> Result<Duration> {
    let payload = case.payload.replace("{listener}", "127.0.0.1:9");
    let mut longest = Duration::ZERO;
    while !enough.load(Ordering::Relaxed) {
        let ids = caller.send_many(&case.called(), &payload, AT_ONCE).await?;
        for document in caller.results(&case.called(), &ids, PATIENCE * 4).await? {
            case.check(&document)?;
            longest = longest.max(took(&document).context("it was started")?);
        }
    }
    Ok(longest)
}

/// What is refused at load, and how long it took from the file's arrival to the word about it.
async fn refusals() -> Result<String> {
    let stage = Stage::with(&["echo"]).await?;
    let plan = stage.host().setting(RESCAN_MS, 200).setting(TIME_MAX_MS, LIMIT.as_millis());
    let host: Host = plan.start_ready(&["echo"]).await?;
    let mut table = String::new();
    let refused = |line: &str| line.contains("default/echo") && line.contains("refused");
    for (n, (name, _)) in odd::REFUSED.iter().enumerate() {
        let before = Held::by(host.pid())?;
        let start = Instant::now();
        stage.folder.install("echo", &odd::component(name)?)?;
        host.lines().wait_for_several(n + 1, PATIENCE, refused).await?;
        let longest = start.elapsed();
        let after = Held::by(host.pid())?;
        let line = format!(
            "| `{name}` | refused at load | {} | {} → {} | |",
            longest.as_millis(),
            before.rss_bytes >> 20,
            after.rss_bytes >> 20
        );
        println!("{line}");
        writeln!(table, "{line}")?;
    }
    // The function that stood there serves on.
    stage.folder.install("echo", &sample("echo")?)?;
    stage.caller.clone().call("echo", "x").await?;
    Ok(table)
}

/// Puts the table into docs/security.md, between its two lines.
fn write_down(table: &str) -> Result<()> {
    let path = repository().join("docs/security.md");
    let text = fs::read_to_string(&path)?;
    let (before, rest) = text.split_once(BEGIN).context("docs/security.md has the line before the table")?;
    let (_, after) = rest.split_once(END).context("docs/security.md has the line behind the table")?;
    fs::write(&path, format!("{before}{BEGIN}\n\n{table}\n{END}{after}"))?;
    println!("written into {}", path.display());
    Ok(())
}
