//! The Redis user of a tenant: what Redis itself lets it do.

use baton_model::{Digest, Name, Priority};

use crate::keys::Keys;

/// What a tenant's user may do at Redis, and nothing else: add calls to the streams of the tenant's functions, read their
/// results, and listen for their notices. It can neither read what it added nor write what it reads. `password` is what
/// the user's password hashes to with SHA-256.
///
/// The line is for Redis 7 or later, and makes the user anew: what it was allowed before is gone.
#[must_use]
pub fn tenant_acl(keys: &Keys, tenant: &Name, user: &str, password: Digest) -> String {
    let calls = Priority::ALL.map(|level| format!("%W~{}", keys.calls_of(tenant, level))).join(" ");
    let (results, replies) = (keys.results_of(tenant), keys.replies_of(tenant));
    format!(
        "ACL SETUSER {user} reset on #{password} {calls} %R~{results} &{replies} \
         +xadd +get +subscribe +unsubscribe +psubscribe +punsubscribe +ping"
    )
}
