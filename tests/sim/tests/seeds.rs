//! Some thousand worlds, and what is missed when a rule is taken out.

use std::rc::Rc;

use baton_sim::hunt::hunt;
use baton_sim::mutants::MUTANTS;
use baton_sim::{Plan, Rules, Scripts, run};

#[test]
fn every_promise_is_kept_in_every_world() {
    let report = hunt(0..2_000, None, false);
    println!("{report}");
    let told: Vec<String> = report.broken.iter().map(ToString::to_string).collect();
    assert!(told.is_empty(), "see one with `make sim SEED=…`:\n{}", told.join("\n"));
}

#[test]
fn every_rule_that_is_taken_out_is_missed() {
    for mutant in &MUTANTS {
        let report = hunt(0..6_000, Some(mutant), true);
        let first = report.broken.first();
        println!("{:<24} {}", mutant.name, first.map(ToString::to_string).unwrap_or_default());
        assert!(first.is_some(), "nobody misses the rule {} in {} worlds", mutant.name, report.seeds);
    }
}

#[test]
fn a_seed_is_the_same_world_again() {
    let scripts = Rc::new(Scripts::new(&[]));
    for seed in 0..30 {
        let [one, other] = [(); 2].map(|()| run(seed, Plan::of(seed, Rules::default()), &scripts, true));
        assert!(one.log.len() > 10 && one.log == other.log, "seed {seed}");
    }
}
