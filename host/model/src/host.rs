//! What a host tells its peers and operators about itself.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{Digest, FunctionId, HostId};

/// Where a host stands in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HostState {
    /// It is loading its functions and takes no calls yet.
    Starting,
    /// It takes calls.
    Online,
    /// It takes no new calls and finishes what it has.
    Draining,
    /// It is gone.
    Offline,
}

impl fmt::Display for HostState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Starting => "starting",
            Self::Online => "online",
            Self::Draining => "draining",
            Self::Offline => "offline",
        })
    }
}

/// One function as a host has it loaded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoadedFunction {
    /// Its full name.
    pub function: FunctionId,
    /// The component that new calls run on.
    pub digest: Digest,
}

/// A host's own account of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostRecord {
    /// New at every start.
    pub id: HostId,
    /// The machine's name; several hosts may share one.
    pub machine: String,
    /// The process.
    pub pid: u32,
    /// The version of Baton.
    pub version: String,
    /// Where it stands.
    pub state: HostState,
    /// How many attempts it runs at once, at the most.
    pub seats: u32,
    /// When it started, in Unix milliseconds.
    pub started_ms: u64,
    /// What it has loaded.
    pub functions: Vec<LoadedFunction>,
}
