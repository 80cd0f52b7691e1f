//! What an operator says about a tenant, as every room sees it. A tenant about whom nothing is said has the defaults.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::{Digest, Name, Over, Quotas, ReplyTo};

/// Everything that is said about one tenant and that is not about one of its functions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TenantPolicy {
    /// Its share of the seats, beside the weights of the others; 1 by default, never 0.
    pub weight: u32,
    /// For all its functions together.
    pub quotas: Quotas,
    /// What happens at the gateway to a call that would wait for a quota.
    pub over: Over,
    /// Who may act for it over HTTP.
    pub tokens: Vec<Token>,
    /// Whether its notices may only go to reply channels whose suffix starts with `<tenant>.`. It is on for tenants that
    /// have a Redis user of their own: nobody can then have a host write into another's channel.
    pub own_replies_only: bool,
}

impl Default for TenantPolicy {
    fn default() -> Self {
        Self { weight: 1, quotas: Quotas::default(), over: Over::Wait, tokens: Vec::new(), own_replies_only: false }
    }
}

/// Whether this is a reply channel of the tenant's own: its suffix starts with the tenant's name and a dot.
#[must_use]
pub fn is_own_reply(tenant: &Name, reply: &ReplyTo) -> bool {
    reply.as_str().strip_prefix(tenant.as_str()).is_some_and(|rest| rest.starts_with('.'))
}

/// A bearer token, as it is kept: a name for people, and what the token's bytes hash to. A token is made from 256 random
/// bits, so that one round of SHA-256 is enough to hide it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    /// What operators call it.
    pub name: String,
    /// The SHA-256 of the token's text.
    pub sha256: Digest,
    /// From when on it is refused, in Unix milliseconds; none never.
    pub expires_ms: Option<u64>,
}

/// All tenants about whom something is said. Clones are cheap and are the same snapshot.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tenants {
    said: Arc<BTreeMap<Name, Arc<TenantPolicy>>>,
    others: Arc<TenantPolicy>,
}

impl Tenants {
    /// What is said; whoever is not in it has the defaults.
    #[must_use]
    pub fn new(said: BTreeMap<Name, Arc<TenantPolicy>>) -> Self {
        Self::with(said, TenantPolicy::default())
    }

    /// What is said; whoever is not in it has the policy of `others`.
    #[must_use]
    pub fn with(said: BTreeMap<Name, Arc<TenantPolicy>>, others: TenantPolicy) -> Self {
        Self { said: Arc::new(said), others: Arc::new(others) }
    }

    /// The policy of `tenant`.
    #[must_use]
    pub fn of(&self, tenant: &Name) -> &Arc<TenantPolicy> {
        self.said.get(tenant).unwrap_or(&self.others)
    }

    /// Everyone about whom something is said, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&Name, &Arc<TenantPolicy>)> {
        self.said.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reply_channel_is_ones_own_if_it_starts_with_ones_whole_name() {
        let is_own = |reply: &str| is_own_reply(&Name::parse("acme").unwrap(), &ReplyTo::parse(reply).unwrap());
        assert!(is_own("acme.me") && is_own("acme."));
        for other in ["acme", "acme2.me", "acm.me", "other.acme.me", "Acme.me"] {
            assert!(!is_own(other), "{other}");
        }
    }
}
