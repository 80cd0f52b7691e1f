//! `baton-faults`: arguments, and the exit status: 0 if every invariant holds, 1 if not, 2 if nothing could be proven. Of a
//! counter-example 0 says that it is one.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, bail};
use baton_faults::{Durability, Plan, faults, run};
use baton_tests::settings::repository;
use clap::{Parser, ValueEnum};

/// Plays faults against real hosts and a real Redis, and has an independent checker judge what callers and guests saw
#[derive(Debug, Parser)]
#[command(version)]
struct Args {
    /// What decides every call and every fault
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How many calls; they are spread over the time of the tier
    #[arg(long, value_name = "N")]
    calls: Option<usize>,
    /// How long faults come, in seconds
    #[arg(long, value_name = "SECONDS")]
    seconds: Option<u64>,
    /// How large a run
    #[arg(long, value_enum, default_value_t = Tier::Usual)]
    tier: Tier,
    /// Show what a weaker setting of Redis loses, instead; violations are then what is expected
    #[arg(long, value_enum)]
    counter_example: Option<Example>,
    /// The host to try [default: the one beside this program]
    #[arg(long, value_name = "PATH")]
    hosts_binary: Option<PathBuf>,
    /// Where histories and reports go [default: fault-results/seed-SEED in the repository]
    #[arg(long, value_name = "DIR")]
    results: Option<PathBuf>,
    /// Only these faults, such as kill-host,kill-redis
    #[arg(long, value_name = "FAULT", value_delimiter = ',')]
    only: Vec<String>,
    /// Print the schedule of faults and play nothing
    #[arg(long)]
    print_schedule: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Tier {
    /// Two minutes, as in `make test`
    Short,
    /// Ten minutes, 10,000 calls
    Usual,
    /// An hour and a half, and a look at whether hosts grow
    Full,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Example {
    /// `appendfsync everysec`, a slow disk, and kill -9 of Redis
    Everysec,
    /// No append-only file at all
    None,
}

fn main() -> ExitCode {
    match start(&Args::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn start(args: &Args) -> Result<bool> {
    let plan = plan(args)?;
    if args.print_schedule {
        for event in faults(&plan) {
            println!("{}", event.json());
        }
        return Ok(true);
    }
    let binary = match &args.hosts_binary {
        Some(binary) => binary.clone(),
        None => std::env::current_exe()?.with_file_name("baton"),
    };
    if !binary.is_file() {
        bail!("there is no host at {}; `make faults` builds it, or name another with --hosts-binary", binary.display());
    }
    let dir = match &args.results {
        Some(dir) => dir.clone(),
        None => repository().join(format!("fault-results/seed-{}", plan.seed)),
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let verdict = runtime.block_on(run(&plan, &binary, &dir))?;
    println!("\nhistories and report: {}", verdict.dir.display());
    if args.counter_example.is_some() {
        println!("this is the counter-example: what is broken above is what such a Redis costs");
        return Ok(!verdict.holds);
    }
    Ok(verdict.holds)
}

fn plan(args: &Args) -> Result<Plan> {
    let mut plan = match (args.counter_example, args.tier) {
        (Some(Example::Everysec), _) => Plan::counter_example(args.seed, Durability::EverySecond),
        (Some(Example::None), _) => Plan::counter_example(args.seed, Durability::Nothing),
        (None, Tier::Short) => Plan::short(args.seed),
        (None, Tier::Usual) => Plan::usual(args.seed),
        (None, Tier::Full) => Plan::full(args.seed),
    };
    plan.calls = args.calls.unwrap_or(plan.calls);
    plan.lasts = args.seconds.map_or(plan.lasts, std::time::Duration::from_secs);
    for name in &args.only {
        match baton_faults::Fault::named(name) {
            Some(fault) => plan.only.push(fault),
            None => bail!("{name} is no fault; --print-schedule shows their names"),
        }
    }
    Ok(plan)
}
