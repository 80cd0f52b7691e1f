//! The benchmark: arguments, the order of the parts, and where the figures go. It reports and judges; it never fails
//! because a machine was slow.

mod cost;
mod delayed;
mod durable;
mod fair;
mod fleet;
mod flood;
mod folders;
mod gateway;
mod host;
mod loaded;
mod machine;
mod paths;
mod peers;
mod plan;
mod plots;
mod reload;
mod report;
mod sleepers;
mod stop;
mod swaps;
mod table;
mod weights;
mod worker;
mod wrk;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use baton_tests::{Address, CommandStats};
use clap::{Parser, Subcommand};
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use tokio::runtime::Runtime;

use crate::flood::Flood;
use crate::plan::{Plan, Section};
use crate::report::Report;

/// Measures Baton on this machine, prints a table and writes JSON into bench-results/
#[derive(Debug, Parser)]
#[command(version)]
struct Args {
    #[command(subcommand)]
    command: Option<Command>,
    /// About three minutes instead of about eight: fewer rounds, shorter ones
    #[arg(long)]
    quick: bool,
    /// Only these parts
    #[arg(long, value_name = "SECTION", value_enum, value_delimiter = ',')]
    only: Vec<Section>,
    /// Put the table into docs/performance.md and the plots beside it
    #[arg(long)]
    write_docs: bool,
    /// Where the JSON goes [default: bench-results in the repository]
    #[arg(long, value_name = "DIR")]
    results: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// The other process of the message path: reads calls and answers them with their input
    #[command(hide = true)]
    Worker(worker::Args),
    /// Measures Baton beside what people use today; `make bench-peers` installs that first
    Peers(peers::Args),
    /// Keeps calls under way at a host that runs already, for a profiler to look at
    Flood {
        /// The socket of its Redis
        #[arg(long, value_name = "PATH")]
        socket: PathBuf,
        /// The function, with its tenant
        #[arg(long, default_value = "default/echo")]
        function: String,
        #[arg(long, default_value_t = 64)]
        in_flight: usize,
        #[arg(long, default_value_t = 10)]
        seconds: u64,
    },
}

fn main() -> ExitCode {
    let args = Args::parse();
    let ended = match args.command {
        Some(Command::Worker(ref worker)) => worker::run(worker),
        Some(Command::Peers(ref peers)) => one_thread().and_then(|runtime| runtime.block_on(peers::run(peers))),
        Some(Command::Flood { ref socket, ref function, in_flight, seconds }) => {
            one_thread().and_then(|runtime| runtime.block_on(flood(socket, function, in_flight, seconds)))
        }
        None => bench(&args),
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// What the caller costs is then one number, and nothing of ours moves between the cores.
fn one_thread() -> Result<Runtime> {
    Ok(tokio::runtime::Builder::new_current_thread().enable_all().build()?)
}

async fn flood(socket: &Path, function: &str, in_flight: usize, seconds: u64) -> Result<()> {
    let mut caller = Flood::start(socket, function).await?;
    let mut redis = Address::at(socket.to_owned()).connect().await?;
    let before = CommandStats::read(&mut redis).await?;
    let window = caller.run(in_flight, Duration::ZERO, Duration::from_secs(seconds), &[]).await?;
    let said = CommandStats::read(&mut redis).await?.since(&before);
    println!(
        "{:.0} calls/s, p50 {} µs, p99 {} µs",
        window.calls as f64 / window.lasted.as_secs_f64(),
        window.latency.value_at_quantile(0.5),
        window.latency.value_at_quantile(0.99)
    );
    for (command, count) in said.by_name {
        println!("{:>8.2} calls for each {command}", window.calls as f64 / count as f64);
    }
    Ok(())
}

fn bench(args: &Args) -> Result<()> {
    let runtime = one_thread()?;
    let plan = if args.quick { Plan::quick() } else { Plan::full() };
    let sections = if args.only.is_empty() { Section::ALL.to_vec() } else { args.only.clone() };
    let report = runtime.block_on(measure(&plan, &sections))?;
    show(&report, args.results.clone(), args.write_docs)
}

/// Prints what a run found and writes it down.
fn show(report: &Report, results: Option<PathBuf>, write_docs: bool) -> Result<()> {
    report.print();
    let results = results.unwrap_or_else(folders::results);
    println!("\nwritten: {}", report.write_json(&results)?.display());
    if write_docs {
        for path in report.write_docs(&folders::docs())? {
            println!("written: {}", path.display());
        }
    }
    report.broken()
}

async fn measure(plan: &Plan, sections: &[Section]) -> Result<Report> {
    let mut report = Report::new(&report::ALONE, plan.name)?;
    let screen = MultiProgress::new();
    for (n, section) in sections.iter().enumerate() {
        let bar = progress(&screen, plan.steps(*section), format!("{}/{} {}", n + 1, sections.len(), section.name()))?;
        let started = report.begin(section.name());
        let part = match section {
            Section::Cost => cost::measure(plan, &bar),
            Section::Paths => paths::measure(plan, &bar).await,
            Section::Gateway => gateway::measure(plan, &bar).await,
            Section::Reload => reload::measure(plan, &bar).await,
            Section::Swaps => swaps::measure(plan, &bar).await,
            Section::Fleet => fleet::measure(plan, &bar).await,
            Section::Loaded => loaded::measure(plan, &bar).await,
            Section::Fair => fair::measure(plan, &bar).await,
            Section::Delayed => delayed::measure(plan, &bar).await,
            Section::Durable => durable::measure(plan, &bar).await,
            Section::Stop => stop::measure(plan, &bar).await,
        };
        // The other parts are worth their time all the same.
        report.end(started, part);
        bar.finish_with_message("done");
    }
    Ok(report)
}

/// How far a part is. It hides itself where there is no terminal, and then its name is printed.
fn progress(screen: &MultiProgress, steps: u64, name: String) -> Result<ProgressBar> {
    let bar = screen.add(ProgressBar::new(steps));
    bar.set_style(ProgressStyle::with_template("{prefix:>14} [{bar:24}] {pos}/{len} {msg}")?.progress_chars("=> "));
    if bar.is_hidden() {
        eprintln!("==> {name}");
    }
    bar.set_prefix(name);
    bar.tick();
    Ok(bar)
}
