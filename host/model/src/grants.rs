//! What a function may reach beside its call. Everything that reaches outside its instance is denied unless it stands here.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use crate::{FunctionId, HttpTarget, Name};

/// What one function was granted. The engine offers an interface only where its grant is there; a component that imports
/// more is refused when it is loaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grants {
    /// `wasi:logging`. It carries nothing out but lines of the log, which have a limit, so it is granted by default.
    pub logging: bool,
    /// `wasi:clocks`. Granted by default: a bare component needs it to sleep and to measure.
    pub clock: bool,
    /// `wasi:random`. Granted by default: a bare component needs it to seed its hash tables.
    pub random: bool,
    /// `wasi:config`: the settings of the function, secrets included. None denies the interface.
    pub config: Option<BTreeMap<String, Setting>>,
    /// `wasi:keyvalue`. None denies the interface.
    pub keyvalue: Option<KeyValueGrant>,
    /// Outgoing `wasi:http`. None denies the interface.
    pub http: Option<HttpGrant>,
    /// An empty directory of the call's own. None gives no directory: opening a file fails.
    pub scratch: Option<ScratchGrant>,
    /// `baton:calls`: calling other functions of the same tenant. None denies the interface.
    pub calls: Option<CallsGrant>,
}

impl Default for Grants {
    fn default() -> Self {
        Self {
            logging: true,
            clock: true,
            random: true,
            config: None,
            keyvalue: None,
            http: None,
            scratch: None,
            calls: None,
        }
    }
}

/// The value of one setting of a function.
#[derive(Clone, PartialEq, Eq)]
pub enum Setting {
    /// It may be shown to operators.
    Plain(String),
    /// It is for the function alone: neither logs nor listings show it.
    Secret(String),
}

impl Setting {
    /// The value, for the function itself and nobody else.
    #[must_use]
    pub fn reveal(&self) -> &str {
        match self {
            Self::Plain(value) | Self::Secret(value) => value,
        }
    }
}

impl fmt::Debug for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Plain(value) => write!(f, "{value:?}"),
            Self::Secret(_) => f.write_str("<secret>"),
        }
    }
}

/// Which buckets a function may open, and who shares each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyValueGrant {
    /// By the name under which the function opens it.
    pub buckets: BTreeMap<String, BucketScope>,
    /// The most bytes that all buckets of the tenant hold: keys and values, and [`PAIR_BYTES`] for each pair of them.
    pub tenant_bytes_max: u64,
}

/// What a pair in a bucket counts beside its key and its value: what it costs to keep it, so that a million tiny pairs
/// are not nearly free.
pub const PAIR_BYTES: u64 = 64;

impl KeyValueGrant {
    /// The bucket that `function` opens under this name. None if it was not granted one of that name.
    #[must_use]
    pub fn bucket(&self, function: &FunctionId, name: &str) -> Option<Bucket> {
        let owner = match self.buckets.get(name)? {
            BucketScope::Function => Some(function.function().clone()),
            BucketScope::Tenant => None,
        };
        Some(Bucket { tenant: function.tenant().clone(), owner, name: name.to_owned() })
    }
}

/// One bucket. Two functions with the same bucket share it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bucket {
    /// Whose it is.
    pub tenant: Name,
    /// The one function that has it; none if all functions of the tenant may be granted it.
    pub owner: Option<Name>,
    /// Its name, which is the manifest's.
    pub name: String,
}

/// Who shares a bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BucketScope {
    /// The calls of this function.
    Function,
    /// All functions of the tenant that were granted it.
    Tenant,
}

/// Where a function may send HTTP requests, and how much of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpGrant {
    /// A request must fit one of these; none at all lets a component load that imports the interface and never uses it.
    pub allow: Vec<HttpTarget>,
    /// The largest body of one request.
    pub request_bytes_max: u64,
    /// The largest body of one answer.
    pub response_bytes_max: u64,
    /// The most requests that one call sends.
    pub requests_max: u32,
}

/// How large the directory of a call is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ScratchGrant {
    /// The most bytes that a call may write there.
    pub bytes_max: u64,
    /// The most files and directories that a call may make there.
    pub files_max: u32,
}

/// Which functions of the same tenant a function may call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CallsGrant {
    /// All of them.
    All,
    /// These.
    Only(BTreeSet<Name>),
}

impl CallsGrant {
    /// Whether `function`, of the same tenant, may be called.
    #[must_use]
    pub fn allows(&self, function: &Name) -> bool {
        match self {
            Self::All => true,
            Self::Only(names) => names.contains(function),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_is_the_functions_or_the_tenants_and_never_anothers() {
        let buckets = [("own".to_owned(), BucketScope::Function), ("all".to_owned(), BucketScope::Tenant)];
        let grant = KeyValueGrant { buckets: buckets.into(), tenant_bytes_max: 1 };
        let bucket = |function: &str, name| grant.bucket(&function.parse().unwrap(), name);
        assert_ne!(bucket("acme/a", "own"), bucket("acme/b", "own"));
        assert_eq!(bucket("acme/a", "all"), bucket("acme/b", "all"));
        assert_ne!(bucket("acme/a", "all"), bucket("other/a", "all"));
        assert_eq!(bucket("acme/a", "none"), None);
    }

    #[test]
    fn a_secret_is_not_in_what_is_printed_for_debugging() {
        let settings = BTreeMap::from([("key".to_owned(), Setting::Secret("hunter2".into()))]);
        let grants = Grants { config: Some(settings), ..Grants::default() };
        let text = format!("{grants:?}");
        assert!(text.contains("<secret>") && !text.contains("hunter2"), "{text}");
    }
}
