//! Rules that are taken out, one at a time, to see that the simulation misses them.

use crate::host::Rules;
use crate::redis::Patch;

/// One rule less.
pub struct Mutant {
    /// Its name.
    pub name: &'static str,
    /// What hosts do not do any more.
    pub rules: fn(&mut Rules),
    /// What scripts do not do any more.
    pub patches: &'static [Patch],
}

const OWNER_IN_SETTLE: &str =
    "local mine = owned[entry] or #redis.call('XPENDING', calls, group, entry, entry, 1, me) == 1";
const CLAIMS_IN_BURY: &str = "if (redis.call('HGET', claims, entry) or '0') ~= ARGV[4] then return 0 end";
const CLAIMS_IN_REQUEUE: &str = "if (redis.call('HGET', claims, entry) or '0') ~= ARGV[4] then return -1 end";

fn none(_: &mut Rules) {}

/// All of them.
pub const MUTANTS: [Mutant; 18] = [
    Mutant {
        name: "fence",
        rules: none,
        patches: &[
            Patch { script: "settle", from: "mine = now == lease", to: "mine = true" },
            Patch { script: "settle", from: OWNER_IN_SETTLE, to: "local mine = true" },
            Patch { script: "bury", from: CLAIMS_IN_BURY, to: "" },
            Patch { script: "bury", from: "if pending.err or #pending == 0 then return 0 end", to: "" },
            Patch { script: "requeue", from: CLAIMS_IN_REQUEUE, to: "" },
            Patch { script: "requeue", from: "if pending.err or #pending == 0 then return -1 end", to: "" },
        ],
    },
    Mutant {
        name: "owner-check",
        rules: none,
        patches: &[Patch { script: "settle", from: OWNER_IN_SETTLE, to: "local mine = true" }],
    },
    Mutant { name: "result-before-ack", rules: |rules| rules.result_first = false, patches: &[] },
    Mutant {
        name: "dedupe",
        rules: none,
        patches: &[Patch {
            script: "settle",
            from: "redis.call('SET', result, document, 'NX', 'PX', ttl)",
            to: "redis.call('SET', result, document, 'PX', ttl)",
        }],
    },
    Mutant { name: "own-pending-recovery", rules: |rules| rules.recovers_own = false, patches: &[] },
    Mutant { name: "recovery-renews", rules: |rules| rules.renews_recovered = false, patches: &[] },
    Mutant { name: "presence-sweep", rules: |rules| rules.sees_crashes = false, patches: &[] },
    Mutant { name: "nogroup-repair", rules: |rules| rules.repairs_groups = false, patches: &[] },
    Mutant { name: "unblock", rules: |rules| rules.unblocks = false, patches: &[] },
    Mutant {
        name: "consumer-deletion-guard",
        rules: none,
        patches: &[Patch { script: "sweep", from: " and facts.pending == 0 then", to: " then" }],
    },
    Mutant {
        name: "leave-guard",
        rules: none,
        patches: &[Patch { script: "leave", from: "if #pending > 0 then return 0 end", to: "" }],
    },
    Mutant {
        name: "attempt-counter",
        rules: none,
        patches: &[Patch { script: "sweep", from: "redis.call('HINCRBY', claims, id, 1)", to: "1" }],
    },
    Mutant { name: "cut-before-claim", rules: |rules| rules.cuts_off = false, patches: &[] },
    Mutant { name: "renewal", rules: |rules| rules.renews = false, patches: &[] },
    Mutant { name: "stop-at-lapse", rules: |rules| rules.stops_lapsed = false, patches: &[] },
    Mutant {
        name: "requeue-lease",
        rules: none,
        patches: &[
            Patch { script: "requeue", from: CLAIMS_IN_REQUEUE, to: "" },
            Patch { script: "requeue", from: "if pending.err or #pending == 0 then return -1 end", to: "" },
        ],
    },
    Mutant {
        name: "bury-lease",
        rules: none,
        patches: &[
            Patch { script: "bury", from: CLAIMS_IN_BURY, to: "" },
            Patch { script: "bury", from: "if pending.err or #pending == 0 then return 0 end", to: "" },
        ],
    },
    Mutant {
        name: "renewal-check",
        rules: none,
        patches: &[Patch {
            script: "renew",
            from: "local kept = not pending.err and #pending == 1 and (redis.call('HGET', claims, entry) or '0') == lease",
            to: "local kept = not pending.err",
        }],
    },
];
