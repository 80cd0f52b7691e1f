//! What becomes of the scripts when a rule is left out, for `make mutants` and for the simulation. Each text stands once in
//! its script.

/// Rule, script, what is taken out, and what stands there instead.
pub(crate) const PATCHES: &[(&str, &str, &str, &str)] = &[
    ("fence", "settle", "mine = now == lease", "mine = true"),
    ("fence", "settle", OWNER_IN_SETTLE, "local mine = true"),
    ("fence", "bury", OWNER_IN_BURY, ""),
    ("fence", "bury", CLAIMS_IN_BURY, ""),
    ("fence", "requeue", OWNER_IN_REQUEUE, ""),
    ("fence", "requeue", CLAIMS_IN_REQUEUE, ""),
    ("owner-check", "settle", OWNER_IN_SETTLE, "local mine = true"),
    ("requeue-lease", "requeue", OWNER_IN_REQUEUE, ""),
    ("requeue-lease", "requeue", CLAIMS_IN_REQUEUE, ""),
    ("bury-lease", "bury", OWNER_IN_BURY, ""),
    ("bury-lease", "bury", CLAIMS_IN_BURY, ""),
    ("renewal-check", "renew", LEASE_IN_RENEW, "local kept = not pending.err"),
    (
        "dedupe",
        "settle",
        "redis.call('SET', result, document, 'NX', 'PX', ttl)",
        "redis.call('SET', result, document, 'PX', ttl)",
    ),
    ("consumer-deletion-guard", "sweep", " and facts.pending == 0 then", " then"),
    ("leave-guard", "leave", "if #pending > 0 then return 0 end", ""),
    ("execution-fence", "execution_advance", OWNER_IN_BURY, ""),
    ("execution-fence", "execution_advance", CLAIMS_IN_BURY, ""),
    ("execution-fence", "execution_advance", "or book.run ~= run or book.steps ~= ARGV[8] then", "then"),
    ("event-once", "execution_event", "if before then return { tonumber(string.match(before, '^%d+')), 0 } end", ""),
    ("attempt-counter", "sweep", "redis.call('HINCRBY', claims, id, 1)", "0"),
];

const OWNER_IN_SETTLE: &str =
    "local mine = owned[entry] or #redis.call('XPENDING', calls, group, entry, entry, 1, me) == 1";
const OWNER_IN_BURY: &str = "if pending.err or #pending == 0 then return 0 end";
const CLAIMS_IN_BURY: &str = "if (redis.call('HGET', claims, entry) or '0') ~= ARGV[4] then return 0 end";
const OWNER_IN_REQUEUE: &str = "if pending.err or #pending == 0 then return -1 end";
const CLAIMS_IN_REQUEUE: &str = "if (redis.call('HGET', claims, entry) or '0') ~= ARGV[4] then return -1 end";
const LEASE_IN_RENEW: &str =
    "local kept = not pending.err and #pending == 1 and (redis.call('HGET', claims, entry) or '0') == lease";
