//! Where things are read from and written to.

use std::path::PathBuf;

use anyhow::{Result, bail};
use baton_tests::settings::repository;

/// Where the JSON goes unless somebody says otherwise. It is not kept in the repository.
pub(crate) fn results() -> PathBuf {
    repository().join("bench-results")
}

/// The documentation.
pub(crate) fn docs() -> PathBuf {
    repository().join("docs")
}

/// The host that was built beside this program, or the one that `BATON_BIN` names.
pub(crate) fn baton() -> Result<PathBuf> {
    let path = match std::env::var_os("BATON_BIN") {
        Some(path) => PathBuf::from(path),
        None => std::env::current_exe()?.with_file_name("baton"),
    };
    if !path.is_file() {
        bail!("there is no host at {}; `make bench` builds it, or name another with BATON_BIN", path.display());
    }
    Ok(path)
}
