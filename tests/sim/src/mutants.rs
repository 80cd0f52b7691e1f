//! Rules that are taken out, one at a time, to see that the simulation misses them.

use crate::host::Rules;
use crate::redis::Patch;

/// The table by which a host for `make mutants` changes its scripts.
#[path = "../../../host/broker/src/scripts/mutants.rs"]
mod table;

/// One rule less.
pub struct Mutant {
    /// Its name.
    pub name: &'static str,
    /// What hosts do not do any more.
    pub rules: fn(&mut Rules),
}

impl Mutant {
    /// What scripts do not do any more.
    #[must_use]
    pub fn patches(&self) -> Vec<Patch> {
        let own = table::PATCHES.iter().filter(|(rule, ..)| *rule == self.name);
        own.map(|&(_, script, from, to)| Patch { script, from, to }).collect()
    }
}

const fn in_a_script(name: &'static str) -> Mutant {
    Mutant { name, rules: |_| () }
}

/// All of them.
pub const MUTANTS: [Mutant; 18] = [
    in_a_script("fence"),
    in_a_script("owner-check"),
    Mutant { name: "result-before-ack", rules: |rules| rules.result_first = false },
    in_a_script("dedupe"),
    Mutant { name: "own-pending-recovery", rules: |rules| rules.recovers_own = false },
    Mutant { name: "recovery-renews", rules: |rules| rules.renews_recovered = false },
    Mutant { name: "presence-sweep", rules: |rules| rules.sees_crashes = false },
    Mutant { name: "nogroup-repair", rules: |rules| rules.repairs_groups = false },
    Mutant { name: "unblock", rules: |rules| rules.unblocks = false },
    in_a_script("consumer-deletion-guard"),
    in_a_script("leave-guard"),
    in_a_script("attempt-counter"),
    Mutant { name: "cut-before-claim", rules: |rules| rules.cuts_off = false },
    Mutant { name: "renewal", rules: |rules| rules.renews = false },
    Mutant { name: "stop-at-lapse", rules: |rules| rules.stops_lapsed = false },
    in_a_script("requeue-lease"),
    in_a_script("bury-lease"),
    in_a_script("renewal-check"),
];
