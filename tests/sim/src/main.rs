//! `baton-sim`: runs the worlds of many seeds, or shows one.

use anyhow::{Result, bail};
use baton_sim::hunt::{hunt, without};
use baton_sim::mutants::{MUTANTS, Mutant};
use baton_sim::{Plan, run};
use clap::Parser;

/// Runs hosts, callers and a model of Redis on virtual time.
#[derive(Parser)]
struct Args {
    /// How many seeds.
    #[arg(long, default_value_t = 20_000)]
    seeds: u64,
    /// Where to begin.
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// Runs this seed alone and tells everything that happens.
    #[arg(long)]
    seed: Option<u64>,
    /// Takes this rule out; `all` tries each.
    #[arg(long)]
    mutant: Option<String>,
    /// Ends at the first promise that is broken and tells it, in a word.
    #[arg(long)]
    first: bool,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let seeds = args.from..args.from + args.seeds;
    let mutant = match args.mutant.as_deref() {
        None => None,
        Some("all") => return all_mutants(&seeds),
        Some(name) => match MUTANTS.iter().find(|mutant| mutant.name == name) {
            Some(mutant) => Some(mutant),
            None => bail!("no mutant {name}; there are {}", MUTANTS.map(|mutant| mutant.name).join(", ")),
        },
    };
    if let Some(seed) = args.seed {
        return show(seed, mutant);
    }
    if args.first {
        let report = hunt(seeds, mutant, true);
        report.broken.first().into_iter().for_each(|broken| println!("{} {}", broken.seed, broken.promise));
        return Ok(());
    }
    let report = hunt(seeds, mutant, false);
    println!("{report}");
    report.broken.iter().take(10).for_each(|broken| println!("{broken}"));
    match report.broken.first() {
        None => Ok(()),
        Some(first) => bail!("promises are broken; `--seed {}` tells the whole story", first.seed),
    }
}

fn show(seed: u64, mutant: Option<&Mutant>) -> Result<()> {
    let (rules, scripts) = without(mutant);
    let ended = run(seed, Plan::of(seed, rules), &scripts, true);
    ended.log.iter().for_each(|line| println!("{line}"));
    println!("seed {seed}: {} calls, {} attempts, {} ms of virtual time", ended.calls, ended.executions, ended.took_ms);
    match ended.broken {
        Some((promise, how)) => bail!("{promise} is broken: {how}"),
        None => Ok(()),
    }
}

fn all_mutants(seeds: &std::ops::Range<u64>) -> Result<()> {
    let mut survivors = Vec::new();
    for mutant in &MUTANTS {
        let report = hunt(seeds.clone(), Some(mutant), true);
        match report.broken.first() {
            Some(broken) => println!("{:<24} {broken}", mutant.name),
            None => survivors.push(mutant.name),
        }
    }
    if survivors.is_empty() { Ok(()) } else { bail!("not missed in so many seeds: {}", survivors.join(", ")) }
}
