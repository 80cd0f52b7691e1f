//! Where things are read from and written to.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use baton_tests::settings::repository;

/// Where the JSON goes unless somebody says otherwise. It is not kept in the repository.
pub(crate) fn results() -> PathBuf {
    repository().join("bench-results")
}

/// The documentation.
pub(crate) fn docs() -> PathBuf {
    repository().join("docs")
}

/// What callers and workers of the peers are, and where `npm` puts what they need.
pub(crate) fn peers() -> PathBuf {
    repository().join("tests/bench/peers")
}

/// The target folder, in which this program lies two levels down.
fn target() -> Result<PathBuf> {
    let own = std::env::current_exe()?;
    own.ancestors().nth(2).map(Into::into).with_context(|| format!("{} lies in no target folder", own.display()))
}

/// The command-line tool of wasmtime that `make bench-peers` installs.
pub(crate) fn wasmtime() -> Result<PathBuf> {
    Ok(target()?.join("peers/bin/wasmtime"))
}

/// A guest that was built for the tests.
pub(crate) fn guest(name: &str) -> Result<PathBuf> {
    Ok(target()?.join("wasm32-wasip2/guest").join(format!("{name}.wasm")))
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
