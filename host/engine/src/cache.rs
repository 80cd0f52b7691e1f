//! Machine code kept on disk, so that a restart compiles nothing. A loss of it is never a failure, only slower.
//!
//! Whoever can write here can run code in the host: the directory is ours alone, or it is not used.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::hash::{Hash, Hasher};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use baton_model::Digest;
use sha2::{Digest as _, Sha256};
use wasmtime::component::Component;

use crate::config::WASMTIME_VERSION;

/// Artifacts that nobody asked for this long are removed.
const UNUSED_MAX: Duration = Duration::from_secs(30 * 24 * 3600);

/// The most that all artifacts may take together; those unused for longest go first.
const TOTAL_BYTES_MAX: u64 = 2 << 30;

/// A file that is still being written after this long belongs to a host that died.
const WRITING_MAX: Duration = Duration::from_secs(3600);

/// The bytes of the checksum at the end of every artifact.
const CHECKSUM_BYTES: usize = 32;

/// A directory of artifacts.
pub(crate) struct Cache {
    dir: PathBuf,
    /// The engine's settings, the machine's abilities and the exact version, hashed: what the code depends on beside
    /// the component.
    environment: [u8; 32],
    writes: AtomicU64,
}

/// Why a directory is no cache.
#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    /// It cannot be made, read or written.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// It is a file or a link.
    #[error("it is no directory; remove it or name another")]
    NotADirectory,
    /// It belongs to another user.
    #[error("it belongs to user {owner}, this host runs as user {me}; name a directory of its own")]
    Foreign {
        /// Whose it is.
        owner: u32,
        /// Who we are.
        me: u32,
    },
    /// Others may write to it.
    #[error("its mode is {mode:o}, so others may write machine code there; run `chmod 700` on it")]
    Open {
        /// Its permission bits.
        mode: u32,
    },
}

impl Cache {
    /// Opens the directory, makes it if there is none, and removes what is old.
    pub(crate) fn open(dir: PathBuf, engine: &wasmtime::Engine) -> Result<Self, CacheError> {
        DirBuilder::new().recursive(true).mode(0o700).create(&dir)?;
        let found = fs::symlink_metadata(&dir)?;
        if !found.is_dir() {
            return Err(CacheError::NotADirectory);
        }
        let mode = found.mode() & 0o777;
        if mode & 0o022 != 0 {
            return Err(CacheError::Open { mode });
        }
        let cache = Self { dir, environment: environment(engine), writes: AtomicU64::new(0) };
        // Who we are is who owns what we make.
        let (probe, file) = cache.create_temporary()?;
        let me = file.metadata()?.uid();
        fs::remove_file(probe)?;
        if found.uid() != me {
            return Err(CacheError::Foreign { owner: found.uid(), me });
        }
        cache.prune();
        Ok(cache)
    }

    /// The machine code of this component. None if there is none, or none that is whole and ours.
    pub(crate) fn load(&self, engine: &wasmtime::Engine, digest: &Digest) -> Option<Component> {
        let path = self.path(digest);
        let code = match read(engine, &path) {
            Ok(code) => code,
            Err(ReadError::Io(e)) if e.kind() == io::ErrorKind::NotFound => return None,
            Err(e) => {
                tracing::warn!(path = %path.display(), reason = %e, "a cached artifact is unusable; compiling again");
                return None;
            }
        };
        // The modification time says when it was last of use; being wrong about that costs a compilation.
        let _ = File::open(&path).and_then(|file| file.set_modified(SystemTime::now()));
        Some(code)
    }

    /// Keeps the machine code of this component, if that can be done.
    pub(crate) fn store(&self, digest: &Digest, code: &Component) {
        if let Err(reason) = self.try_store(digest, code) {
            tracing::warn!(dir = %self.dir.display(), %reason, "a compiled component could not be kept");
        }
        self.prune();
    }

    fn try_store(&self, digest: &Digest, code: &Component) -> Result<(), ReadError> {
        let bytes = code.serialize()?;
        let (temporary, mut file) = self.create_temporary()?;
        // Not synced: a file that a power failure cut short has the wrong checksum and is written again.
        let written = file
            .write_all(&bytes)
            .and_then(|()| file.write_all(&Sha256::digest(&bytes)))
            .and_then(|()| fs::rename(&temporary, self.path(digest)));
        if written.is_err() {
            let _ = fs::remove_file(&temporary);
        }
        Ok(written?)
    }

    fn create_temporary(&self) -> io::Result<(PathBuf, File)> {
        let count = self.writes.fetch_add(1, Ordering::Relaxed);
        let path = self.dir.join(format!("{}-{:p}-{count}.writing", std::process::id(), self));
        let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&path)?;
        Ok((path, file))
    }

    fn path(&self, digest: &Digest) -> PathBuf {
        let mut key = Sha256::new();
        key.update(digest.to_string());
        key.update(self.environment);
        self.dir.join(format!("{}.artifact", Digest::of(&key.finalize())))
    }

    /// Removes what is old, then what is too much. Another host may do the same at the same time.
    fn prune(&self) {
        let Ok(entries) = fs::read_dir(&self.dir) else { return };
        let now = SystemTime::now();
        let mut kept: Vec<(Duration, u64, PathBuf)> = Vec::new();
        for path in entries.flatten().map(|entry| entry.path()) {
            let unused_max = match path.extension().and_then(|extension| extension.to_str()) {
                Some("artifact") => UNUSED_MAX,
                Some("writing") => WRITING_MAX,
                // Not ours to touch.
                _ => continue,
            };
            let Ok(file) = fs::symlink_metadata(&path) else { continue };
            let unused = file.modified().ok().and_then(|t| now.duration_since(t).ok()).unwrap_or_default();
            if unused > unused_max {
                let _ = fs::remove_file(path);
            } else {
                kept.push((unused, file.len(), path));
            }
        }
        kept.sort_unstable();
        let mut total = 0;
        for (_, bytes, path) in kept {
            total += bytes;
            if total > TOTAL_BYTES_MAX {
                let _ = fs::remove_file(path);
            }
        }
    }
}

#[derive(Debug, thiserror::Error)]
enum ReadError {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("its checksum is wrong")]
    Corrupt,
    #[error("{0:#}")]
    Refused(#[from] wasmtime::Error),
}

fn read(engine: &wasmtime::Engine, path: &Path) -> Result<Component, ReadError> {
    let mut file = File::open(path)?;
    let mut bytes = Vec::with_capacity(usize::try_from(file.metadata()?.len()).unwrap_or(0));
    file.read_to_end(&mut bytes)?;
    let split = bytes.len().checked_sub(CHECKSUM_BYTES).ok_or(ReadError::Corrupt)?;
    let (code, checksum) = bytes.split_at(split);
    if Sha256::digest(code).as_slice() != checksum {
        return Err(ReadError::Corrupt);
    }
    // SAFETY: these bytes are what `Component::serialize` gave: they lie in a directory that only our own user can
    // write to (`Cache::open`), their checksum is right, and their name holds the engine's settings, this machine's
    // abilities and the exact version of wasmtime. They were read into memory before they were checked, so nobody can
    // change them afterwards.
    #[allow(unsafe_code, reason = "wasmtime cannot know where machine code comes from; this module does")]
    let component = unsafe { Component::deserialize(engine, code)? };
    Ok(component)
}

/// What machine code depends on beside the component it is made from.
fn environment(engine: &wasmtime::Engine) -> [u8; 32] {
    struct Sha(Sha256);
    impl Hasher for Sha {
        fn write(&mut self, bytes: &[u8]) {
            self.0.update(bytes);
        }
        /// Never asked for: 64 bits would be too few.
        fn finish(&self) -> u64 {
            0
        }
    }
    let mut sha = Sha(Sha256::new());
    engine.precompile_compatibility_hash().hash(&mut sha);
    sha.0.update(WASMTIME_VERSION);
    sha.0.finalize().into()
}
