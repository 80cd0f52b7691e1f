//! The development loop: rebuilds a plugin crate when its sources change, and puts the new component into the folder.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant, SystemTime};

use tokio::process::Command;
use tokio_util::sync::CancellationToken;

use crate::watch::{Depth, Watch};

/// How long sources must be quiet before they are built: editors write several files.
const QUIET: Duration = Duration::from_millis(50);
/// How often sources are looked at when no event tells that they changed.
const RESCAN: Duration = Duration::from_secs(2);

/// What functions are compiled for.
const TARGET: &str = "wasm32-wasip2";

/// Builds the crates in a plugins folder.
pub struct Builder {
    folder: PathBuf,
}

/// The newest time and the number of a crate's sources: what tells that they changed.
type Sources = (SystemTime, usize);

impl Builder {
    /// Builds the crates in `folder`; what cargo makes goes where cargo puts it.
    #[must_use]
    pub fn new(folder: PathBuf) -> Self {
        Self { folder }
    }

    /// Builds whatever changes until `stop`. A crate whose component is missing or older than its sources is built at
    /// once.
    pub async fn run(self, stop: CancellationToken) {
        let mut watch = Watch::new(Depth::Tree, is_source);
        let mut built: BTreeMap<PathBuf, Sources> = BTreeMap::new();
        loop {
            let crates = self.crates();
            watch.follow(&crates);
            for path in crates {
                let Some(now) = sources(&path) else { continue };
                let is_due = match built.get(&path) {
                    Some(before) => *before != now,
                    None => self.is_stale(&path, now),
                };
                built.insert(path.clone(), now);
                if is_due {
                    tokio::select! {
                        () = self.build(&path) => {}
                        () = stop.cancelled() => return,
                    }
                }
            }
            tokio::select! {
                () = watch.hint() => tokio::time::sleep(QUIET).await,
                () = tokio::time::sleep(RESCAN) => {}
                () = stop.cancelled() => return,
            }
        }
    }

    /// The folders that hold a crate, sorted.
    fn crates(&self) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(&self.folder).into_iter().flatten().flatten();
        let mut crates: Vec<PathBuf> = entries
            .map(|entry| entry.path())
            .filter(|path| !name_of(path).starts_with(['@', '.']) && path.join("Cargo.toml").is_file())
            .collect();
        crates.sort();
        crates
    }

    fn component(&self, path: &Path) -> PathBuf {
        self.folder.join(format!("{}.wasm", name_of(path)))
    }

    fn is_stale(&self, path: &Path, (newest, _): Sources) -> bool {
        let modified = std::fs::metadata(self.component(path)).and_then(|meta| meta.modified());
        modified.map_or(true, |at| at < newest)
    }

    async fn build(&self, path: &Path) {
        let name = name_of(path);
        let started = Instant::now();
        tracing::info!(target: "baton::build", "building {name}");
        let output = Command::new("cargo")
            .args(["build", "--quiet", "--target", TARGET, "--profile", "guest"])
            // A crate of its own need not define the profile.
            .args(["--config", "profile.guest.inherits=\"release\""])
            .args(["--message-format", "json-render-diagnostics", "--manifest-path"])
            .arg(path.join("Cargo.toml"))
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output()
            .await;
        let output = match output {
            Ok(output) => output,
            Err(error) => {
                tracing::error!(target: "baton::build", "cannot start cargo to build {name}: {error}");
                return;
            }
        };
        let said = String::from_utf8_lossy(&output.stderr);
        if !output.status.success() {
            tracing::error!(target: "baton::build", "{name} does not build; the revision before it keeps serving\n{}", said.trim_end());
            return;
        }
        if !said.trim().is_empty() {
            tracing::warn!(target: "baton::build", "{name} builds with warnings\n{}", said.trim_end());
        }
        let installed = match artifact(&output.stdout) {
            Some(artifact) => install(&artifact, &self.component(path)),
            None => Err(std::io::Error::other("cargo made no component; the crate needs crate-type = [\"cdylib\"]")),
        };
        match installed {
            Ok(()) => {
                let took_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
                tracing::info!(target: "baton::build", "built {name} in {took_ms} ms");
            }
            Err(error) => {
                tracing::error!(target: "baton::build", "the component of {name} cannot be installed: {error}")
            }
        }
    }
}

fn name_of(path: &Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

fn is_source(path: &Path) -> bool {
    let in_build = path.components().any(|part| part.as_os_str() == "target");
    !in_build && path.extension().is_some_and(|end| ["rs", "toml", "wit"].iter().any(|source| end == *source))
}

/// None if there is nothing to build.
fn sources(path: &Path) -> Option<Sources> {
    let mut newest = None;
    let mut count = 0;
    let mut folders = vec![path.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            let path = entry.path();
            let Ok(kind) = entry.file_type() else { continue };
            if kind.is_dir() && !name_of(&path).starts_with('.') && name_of(&path) != "target" {
                folders.push(path);
            } else if kind.is_file() && is_source(&path) {
                count += 1;
                newest = newest.max(entry.metadata().and_then(|meta| meta.modified()).ok());
            }
        }
    }
    newest.map(|newest| (newest, count))
}

/// The component that cargo says it made: the last artifact for the target that ends in `.wasm`.
fn artifact(messages: &[u8]) -> Option<PathBuf> {
    let messages = String::from_utf8_lossy(messages);
    let messages = messages.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    let artifacts = messages.filter(|message| message["reason"] == "compiler-artifact");
    let names = artifacts.flat_map(|message| message["filenames"].as_array().cloned().unwrap_or_default());
    let mut paths = names.filter_map(|name| name.as_str().map(PathBuf::from));
    paths.rfind(|path| path.extension().is_some_and(|end| end == "wasm") && path.iter().any(|part| part == TARGET))
}

/// Puts the component into the folder in one step, so that nobody sees half of it.
fn install(artifact: &Path, component: &Path) -> std::io::Result<()> {
    let folder = component.parent().unwrap_or(Path::new("."));
    // Its name starts with a dot, so that no host takes it for a function.
    let mut staged = tempfile::NamedTempFile::with_prefix_in(".", folder)?;
    std::io::copy(&mut std::fs::File::open(artifact)?, &mut staged)?;
    staged.as_file().set_permissions(std::fs::Permissions::from_mode(0o644))?;
    staged.persist(component).map(drop).map_err(|error| error.error)
}
