//! The table of hostile guests with measured figures, for docs/security.md: `make hostile`. Everything is measured on one
//! host, one kind of guest after the other; `make test` does the same with a glance at each and writes nothing.

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use baton_tests::settings::{ATTEMPTS_MAX, PATIENCE, RESCAN_MS, SEATS, TIME_MAX_MS, is_asked, repository};
use baton_tests::{Caller, Host, Http, Stage, sample, variant};
use tokio::task::JoinSet;

use crate::cases::{self, Case, Ends};
use crate::measures::{Held, neighbour, took};
use crate::odd;
use crate::others::{Others, SETTINGS};

const LIMIT: Duration = Duration::from_secs(1);

/// How many calls of a kind run at once, again and again for as long as the neighbour is measured.
const AT_ONCE: usize = 8;

const MEASURED_FOR: Duration = Duration::from_secs(3);

/// The same with all other tests, where outcomes count and figures mean nothing.
const GLANCE: Duration = Duration::from_millis(200);

/// The lines in docs/security.md between which the table stands.
const BEGIN: &str = "<!-- `make hostile` writes from here -->";
const END: &str = "<!-- to here -->";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hostile_guests_one_kind_after_the_other_meet_their_outcome_eight_at_once() -> Result<()> {
    let is_written = is_asked("BATON_HOSTILE_TABLE");
    let lasts = if is_written { MEASURED_FOR } else { GLANCE };
    let table = format!(
        "| guest | what becomes of it | longest, ms | host RSS before and after, MiB | neighbour's p99 before and during, ms |\n\
         | --- | --- | ---: | ---: | ---: |\n{}{}",
        calls(lasts).await?,
        refusals(lasts).await?
    );
    if is_written { write_down(&table) } else { Ok(()) }
}

/// A row: what an attack does for as long as the neighbour is measured. The attack gives the longest time that one took.
async fn row(
    stage: &Stage,
    host: &mut Host,
    lasts: Duration,
    (name, outcome): (&str, &str),
    attack: impl AsyncFnOnce(&AtomicBool) -> Result<Duration>,
) -> Result<String> {
    let before = (Held::by(host.pid())?, neighbour(stage, lasts).await?.quantile(0.99));
    let enough = AtomicBool::new(false);
    let beside = async {
        let beside = neighbour(stage, lasts).await;
        enough.store(true, Ordering::Relaxed);
        beside
    };
    let (longest, beside) = tokio::try_join!(attack(&enough), beside).with_context(|| name.to_owned())?;
    let after = Held::by(host.pid())?;
    let line = format!(
        "| {name} | {outcome} | {} | {} → {} | {} → {} |\n",
        longest.as_millis(),
        before.0.rss_bytes >> 20,
        after.rss_bytes >> 20,
        ms(before.1),
        ms(beside.quantile(0.99)),
    );
    print!("{line}");
    ensure!(host.runs()?, "{name} ended the host");
    Ok(line)
}

fn ms(time: Duration) -> String {
    format!("{:.1}", time.as_secs_f64() * 1_000.0)
}

/// What is called, each kind through Redis, and one over HTTP.
async fn calls(lasts: Duration) -> Result<String> {
    let mut stage = Stage::with(&[]).await?;
    let others = Others::start().await?;
    let names = cases::install(&mut stage, LIMIT, &others).await?;
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let plan = stage.host_with(SETTINGS)?.http().setting(ATTEMPTS_MAX, 1).setting(SEATS, 64);
    let mut host = plan.setting(TIME_MAX_MS, 60_000).start_ready(&names).await?;
    neighbour(&stage, lasts).await?;

    let mut table = String::new();
    for case in cases::all() {
        let payload = others.fill(case.payload)?;
        let caller = stage.caller.clone();
        // What has no name of its own is called by its payload, or by its function.
        let name = if case.name.is_empty() { code(case.name()) } else { case.name.to_owned() };
        table += &row(&stage, &mut host, lasts, (&name, &outcome(case)), async |enough| {
            attack(caller, case, &payload, enough).await
        })
        .await?;
    }
    others.heard_nothing().await?;
    let http = Http::of(&host).await?;
    table += &row(&stage, &mut host, lasts, ("loop, called over HTTP", &stopped()), async |enough| {
        let mut longest = Duration::ZERO;
        while !enough.load(Ordering::Relaxed) {
            let start = Instant::now();
            let mut calls = JoinSet::new();
            for _ in 0..AT_ONCE {
                let http = http.clone();
                calls.spawn(async move { http.post("/v1/call/foe/ill", "loop").await });
            }
            for answer in calls.join_all().await {
                answer?.problem(502, "timeout")?;
            }
            longest = longest.max(start.elapsed());
        }
        Ok(longest)
    })
    .await?;
    Ok(table)
}

fn code(text: &str) -> String {
    format!("`{text}`")
}

fn stopped() -> String {
    format!("stopped at its limit of {} ms", LIMIT.as_millis())
}

fn outcome(case: &Case) -> String {
    match case.ends {
        Ends::Answered(_) => "answered, with nothing of value".to_owned(),
        Ends::Each(said) | Ends::Says(said) => format!("told `{}`", said.replace(['\\', '`'], "")),
        Ends::Dead("timeout", _) => stopped(),
        Ends::Dead(reason, _) => format!("dead letter `{reason}`"),
    }
}

async fn attack(mut caller: Caller, case: &Case, payload: &str, enough: &AtomicBool) -> Result<Duration> {
    let mut longest = Duration::ZERO;
    while !enough.load(Ordering::Relaxed) {
        let ids = caller.send_many(&case.called(), payload, AT_ONCE).await?;
        for document in caller.results(&case.called(), &ids, PATIENCE * 4).await? {
            case.check(&document)?;
            longest = longest.max(took(&document).context("it was started")?);
        }
    }
    caller.quiescent(&case.called()).await?;
    Ok(longest)
}

/// What is refused at load, one such file after the other, and how long it took from a file's arrival to the word about
/// it.
async fn refusals(lasts: Duration) -> Result<String> {
    let stage = Stage::with(&["echo"]).await?;
    stage.folder.install("friend/echo", &sample("echo")?)?;
    let plan = stage.host().setting(RESCAN_MS, 200).setting(TIME_MAX_MS, LIMIT.as_millis());
    let mut host = plan.start_ready(&["echo", "friend/echo"]).await?;
    let lines = host.lines().clone();
    let refused = |line: &str| line.contains("default/echo") && line.contains("refused");
    let mut table = String::new();
    let mut so_far = 0;
    for (name, _, bytes) in odd::refused()? {
        let shown = if name.contains(' ') { name.to_owned() } else { code(name) };
        table += &row(&stage, &mut host, lasts, (&shown, "refused at load"), async |enough| {
            let mut longest = Duration::ZERO;
            while !enough.load(Ordering::Relaxed) {
                so_far += 1;
                let start = Instant::now();
                // A file that was refused is not looked at again until it changes.
                stage.folder.install("echo", &variant(&bytes, so_far))?;
                lines.wait_for_several(so_far as usize, PATIENCE, refused).await?;
                longest = longest.max(start.elapsed());
            }
            Ok(longest)
        })
        .await?;
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
