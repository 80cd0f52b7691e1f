//! Caps: the most that the functions of a tenant may ask for, from the host's settings and the tenant's file. Where both
//! say something, the lower of the two binds.

use std::fmt;

use baton_model::{Limits, Quotas, TenantPolicy};
use schemars::JsonSchema;
use serde::Deserialize;

use super::grants::{GrantCaps, GrantCapsTable};
use super::limits::{LimitCaps, LimitsTable};
use super::quotas::TenantQuotasTable;
use super::tenant::TenantFile;
use super::text::Wrong;
use super::trust::{SecurityTable, Trust};

/// How much a tenant may keep with `wasi:keyvalue` when nobody says.
pub(super) const STORED_BYTES: u64 = 64 << 20;

/// What every tenant may be given at the most: `[tenants]` in the host's settings.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct CapsTable {
    /// Whether notices of every tenant may only go to reply channels that start with its name and a dot.
    own_replies_only: bool,
    limits: LimitsTable,
    quotas: TenantQuotasTable,
    grants: GrantCapsTable,
}

impl CapsTable {
    /// Whether notices of every tenant may only go to reply channels that start with its name and a dot.
    #[must_use]
    pub fn own_replies_only(&self) -> bool {
        self.own_replies_only
    }

    /// Whether it can be held to.
    ///
    /// # Errors
    /// A sentence that names the key, the rule and the mend.
    pub fn check(&self) -> Result<(), String> {
        Rules::new(&Limits::default(), self, &SecurityTable::default()).map(drop).map_err(|wrong| wrong.to_string())
    }
}

/// Who sets a cap.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Source {
    /// The host, by its own limits.
    Host,
    /// `[tenants]` in the host's settings.
    Tenants,
    /// The tenant's `tenant.toml`.
    Tenant,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Host => "this host",
            Self::Tenants => "[tenants] in the host's settings",
            Self::Tenant => "its tenant.toml",
        })
    }
}

/// A number that may not be exceeded, and who says so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Most {
    pub(super) value: u64,
    pub(super) by: Source,
}

impl Most {
    pub(super) fn lowered(self, to: Option<u64>, by: Source) -> Self {
        match to {
            Some(value) if value < self.value => Self { value, by },
            Some(_) | None => self,
        }
    }

    /// What is asked for, or all that is allowed.
    pub(super) fn grant(self, key: &[&str], asked: Option<u64>) -> Result<u64, Wrong> {
        self.grant_or(key, asked, self.value)
    }

    /// What is asked for, or `default` as far as it is allowed.
    pub(super) fn grant_or(self, key: &[&str], asked: Option<u64>, default: u64) -> Result<u64, Wrong> {
        match asked {
            Some(asked) if asked > self.value => {
                Err(Wrong::new(key, format!("is {asked}, but {} allows {} at the most", self.by, self.value)))
            }
            Some(asked) => Ok(asked),
            None => Ok(default.min(self.value)),
        }
    }
}

/// The most that the functions of one tenant may ask for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Caps {
    pub(super) limits: LimitCaps,
    pub(super) grants: GrantCaps,
    pub(super) stored_bytes_max: u64,
    /// What is demanded of its components.
    pub(crate) trust: Trust,
}

/// What holds for every tenant. A tenant's own file is held against it.
#[derive(Debug, Clone)]
pub(crate) struct Rules {
    caps: Caps,
    quotas: Quotas,
    own_replies_only: bool,
}

impl Rules {
    /// The rules of a host with these limits, `[tenants]` and `[security]`.
    ///
    /// # Errors
    /// [`Wrong`] for a value that no operator can mean.
    pub(crate) fn new(limits: &Limits, table: &CapsTable, security: &SecurityTable) -> Result<Self, Wrong> {
        let host = Caps {
            limits: LimitCaps::of_host(limits),
            grants: GrantCaps::default(),
            stored_bytes_max: STORED_BYTES,
            trust: Trust::of(security)?,
        };
        let caps = Caps {
            // Nobody has said anything yet that this could be lower than.
            stored_bytes_max: table.quotas.stored_bytes().unwrap_or(STORED_BYTES),
            ..host.lowered(&table.limits, &table.quotas, &table.grants, Source::Tenants)?
        };
        Ok(Self { caps, quotas: table.quotas.quotas(), own_replies_only: table.own_replies_only })
    }

    /// The caps of a tenant with this file, or without any.
    ///
    /// # Errors
    /// [`Wrong`] for a value in the file that no operator can mean.
    pub(crate) fn caps(&self, file: Option<&TenantFile>) -> Result<Caps, Wrong> {
        match file {
            None => Ok(self.caps.clone()),
            Some(file) => Ok(Caps {
                trust: self.caps.trust.and(file.require_digest, file.require_signature, &file.public_keys)?,
                ..self.caps.lowered(&file.limits, &file.quotas, &file.grants, Source::Tenant)?
            }),
        }
    }

    /// The policy of a tenant with this file, or without any.
    ///
    /// # Errors
    /// As [`Rules::caps`].
    pub(crate) fn policy(&self, file: Option<&TenantFile>) -> Result<TenantPolicy, Wrong> {
        let said = file.map_or_else(|| Ok(TenantPolicy::default()), TenantFile::policy)?;
        Ok(TenantPolicy {
            quotas: said.quotas.lowered(&self.quotas),
            own_replies_only: said.own_replies_only || self.own_replies_only,
            ..said
        })
    }
}

impl Caps {
    fn lowered(
        &self,
        limits: &LimitsTable,
        quotas: &TenantQuotasTable,
        grants: &GrantCapsTable,
        by: Source,
    ) -> Result<Self, Wrong> {
        limits.check()?;
        Ok(Self {
            limits: self.limits.lowered(limits, by),
            grants: self.grants.lowered(grants, by)?,
            stored_bytes_max: quotas.stored_bytes().map_or(self.stored_bytes_max, |b| b.min(self.stored_bytes_max)),
            trust: self.trust.clone(),
        })
    }
}
