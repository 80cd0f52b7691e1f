//! What the suites know of the host's settings, the limits they wait by, and the environment that they read.
//!
//! A setting of the host is renamed here and nowhere else.

use std::env;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};

/// The prefix of every key and channel.
pub const PREFIX: &str = "baton";
/// The consumer group of all hosts.
pub const GROUP: &str = "hosts";

/// How long a lease holds without renewal; 30,000 by default.
pub const LEASE_MS: &str = "BATON_CALLS__LEASE_MS";
/// The longest an attempt may take.
pub const TIME_MAX_MS: &str = "BATON_CALLS__TIME_MAX_MS";
/// The largest payload.
pub const PAYLOAD_BYTES_MAX: &str = "BATON_CALLS__PAYLOAD_BYTES_MAX";
/// How many attempts a host runs at once.
pub const SEATS: &str = "BATON_CALLS__SEATS";
/// How long a result is kept; an hour by default.
pub const RESULT_TTL_MS: &str = "BATON_CALLS__RESULT_TTL_MS";
/// The most attempts that a call gets.
pub const ATTEMPTS_MAX: &str = "BATON_RETRY__ATTEMPTS_MAX";
/// How many hosts one entry may lose.
pub const HOSTS_LOST_MAX: &str = "BATON_RETRY__HOSTS_LOST_MAX";
/// The longest wait before a second attempt.
pub const BACKOFF_BASE_MS: &str = "BATON_RETRY__BACKOFF_BASE_MS";
/// How often the folder is looked at when no event asks for it.
pub const RESCAN_MS: &str = "BATON_PLUGINS__RESCAN_MS";
/// The prefix of every key, as the host is told.
pub const REDIS_PREFIX: &str = "BATON_REDIS__PREFIX";
/// Where a host keeps its own Redis.
pub const DATA_DIR: &str = "BATON_DATA__DIR";
/// Where HTTP is served.
pub const HTTP_LISTEN: &str = "BATON_HTTP__LISTEN";
/// Whether it is.
pub const HTTP_ENABLED: &str = "BATON_HTTP__ENABLED";
/// The argument for a host that serves HTTP and runs no functions.
pub const NO_FUNCTIONS: &str = "--no-functions";
/// The argument for how long a drain may take, such as `30s`.
pub const DRAIN_TIMEOUT: &str = "--drain-timeout";
/// The argument for how long `baton call` waits for its answer, such as `10s`.
pub const CALL_TIMEOUT: &str = "--timeout";

/// How long a test waits for what should come at once. It is a ceiling for a loaded machine, never a measurement.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Whether the suites run at the length of the goals (`BATON_FULL=1`) instead of the few seconds of every day.
#[must_use]
pub fn full_length() -> bool {
    is_asked("BATON_FULL")
}

/// Whether this variable of the environment is `1`: more is asked for than every day.
#[must_use]
pub fn is_asked(variable: &str) -> bool {
    env::var_os(variable).is_some_and(|value| value == "1")
}

/// What chance is made from: `BATON_SEED`, or another number each time.
///
/// # Errors
/// If the variable has no number.
pub fn seed() -> Result<u64> {
    match env::var_os("BATON_SEED") {
        Some(seed) => seed.to_str().and_then(|seed| seed.parse().ok()).context("BATON_SEED is no number"),
        None => Ok(crate::wait::now_ms() % 1_000_000),
    }
}

/// The `baton` binary of the profile that the tests were built in, or the one that `BATON_BIN` names.
///
/// # Errors
/// If there is no such file; the message says how to build it.
pub fn baton_binary() -> Result<PathBuf> {
    let path = match env::var_os("BATON_BIN") {
        Some(path) => PathBuf::from(path),
        None => profile_dir()?.join("baton"),
    };
    if !path.is_file() {
        bail!(
            "there is no host at {}; build it with `cargo build --release` and test with `cargo test --release -p \
             baton-tests`, or name another with BATON_BIN",
            path.display()
        );
    }
    Ok(path)
}

/// `target/<profile>`: two above the running test binary, which lies in its `deps`.
///
/// # Errors
/// If the running binary has no such place.
pub fn profile_dir() -> Result<PathBuf> {
    let own = env::current_exe().context("the running test has no path")?;
    own.parent().and_then(Path::parent).map(Path::to_owned).context("the running test lies in no target folder")
}

/// The repository.
#[must_use]
pub fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the tests lie in the repository").to_owned()
}

/// What hosts log: as `RUST_LOG` says it of the test run, so that a failure can be looked into.
#[must_use]
pub fn host_log() -> String {
    env::var("RUST_LOG").unwrap_or_else(|_| "info".to_owned())
}

/// The names of all variables of the environment that would change what a host does.
#[must_use]
pub fn host_variables() -> Vec<String> {
    let is_the_hosts = |name: &String| name.starts_with("BATON_") || name == "REDIS_URL" || name == "RUST_LOG";
    env::vars_os().filter_map(|(name, _)| name.into_string().ok()).filter(is_the_hosts).collect()
}
