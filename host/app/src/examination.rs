//! What a host would give a component that lies somewhere, with what lies beside it. No host is needed for it.

use std::path::Path;
use std::sync::Arc;

use baton_engine::Services;
use baton_model::{Digest, FunctionId, Limits, Name, RetryPolicy};

use crate::folder::{self, Contents};
use crate::policy::{CapsTable, Manifest, Rules, Secrets, SecurityTable, TenantFile, Terms, Variable};
use crate::services::trial_services;

/// The settings of the host whose word is wanted.
#[derive(Debug, Clone)]
pub struct Examiner {
    /// What an attempt may use, unless its manifest says less.
    pub limits: Limits,
    /// When failed calls are tried again, unless a manifest says otherwise.
    pub retry: RetryPolicy,
    /// What every tenant may be given at the most.
    pub tenants: CapsTable,
    /// What is demanded of components.
    pub security: SecurityTable,
    /// How an environment variable is read.
    pub variable: Variable,
}

/// A component, and on which terms it would run.
pub struct Examined {
    /// The bytes of the component.
    pub component: Vec<u8>,
    /// What its manifest asks for, and what it has without asking.
    pub terms: Terms,
    /// What a trial of it sees of its grants.
    pub services: Option<Arc<Services>>,
}

impl Examiner {
    /// Reads the component `file` and what lies beside it: its manifest, digest and signature, and the `tenant.toml`.
    ///
    /// # Errors
    /// The rule that is broken, with the mend.
    pub fn examine(&self, file: &Path) -> Result<Examined, String> {
        let found = folder::at(file).map_err(|error| format!("it cannot be read: {error}"))?;
        let Contents { component, manifest, digest, signature } =
            folder::read(&found)?.ok_or("it is no regular file, or it changed while it was read")?;
        let rules = Rules::new(&self.limits, &self.tenants, &self.security).map_err(|wrong| wrong.to_string())?;
        let about_tenant = folder::tenant_beside(file).map_or(Ok(None), |found| folder::read_tenant(&found))?;
        let caps = match &about_tenant {
            None => rules.caps(None),
            Some(text) => TenantFile::parse(text).and_then(|file| rules.caps(Some(&file))),
        };
        let caps = caps.map_err(|wrong| format!("the tenant.toml beside it is wrong: {wrong}"))?;
        caps.trust.check(&component, Digest::of(&component), digest.as_deref(), signature.as_deref())?;
        let text = manifest.unwrap_or_default();
        let manifest = Manifest::parse(&text);
        let secrets = Secrets { variable: self.variable };
        let terms = manifest.and_then(|manifest| manifest.terms(&caps, &self.retry, &secrets));
        let terms = terms.map_err(|wrong| format!("its manifest is wrong: {}", wrong.found_in(&text)))?;
        // Whose trial it is makes no difference: it sees settings alone.
        let function = FunctionId::new(Name::parse("default").expect("a name"), Name::parse("check").expect("a name"));
        let services = trial_services(&function, &terms.grants);
        Ok(Examined { component, terms, services })
    }
}
