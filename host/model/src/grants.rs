//! What a function may reach beside its call. Everything that reaches outside its instance is denied unless it stands here.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use crate::{HttpTarget, Name};

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
    /// `baton:function/calls`: calling other functions of the same tenant. None denies the interface.
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
    /// The most bytes, keys and values together, that all buckets of the tenant hold.
    pub tenant_bytes_max: u64,
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
    fn a_secret_is_not_in_what_is_printed_for_debugging() {
        let settings = BTreeMap::from([("key".to_owned(), Setting::Secret("hunter2".into()))]);
        let grants = Grants { config: Some(settings), ..Grants::default() };
        let text = format!("{grants:?}");
        assert!(text.contains("<secret>") && !text.contains("hunter2"), "{text}");
    }
}
