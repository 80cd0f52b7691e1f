//! Machine code kept on disk, so that a restart compiles nothing. A loss of it is never a failure, only slower.
//!
//! Whoever can write here can run code in the host. So the directory is ours alone, or it is not used; and each
//! artifact bears a seal, made with a key that only we can read, or it is not used.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::hash::{Hash, Hasher};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use baton_model::Digest;
use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest as _, Sha256};
use wasmtime::component::Component;

use crate::artifact;
use crate::config::WASMTIME_VERSION;

/// Artifacts that nobody asked for this long are removed.
const UNUSED_MAX: Duration = Duration::from_secs(30 * 24 * 3600);

/// The most that all artifacts may take together; those unused for longest go first.
const TOTAL_BYTES_MAX: u64 = 2 << 30;

/// A file that is still being written after this long belongs to a host that died.
const WRITING_MAX: Duration = Duration::from_secs(3600);

/// The file of the key with which artifacts are sealed.
const KEY_FILE: &str = "key";

/// The bytes of the seal at the end of every artifact.
const SEAL_BYTES: usize = 32;

/// The bytes of the key: a block of the hash.
const KEY_BYTES: usize = 64;

/// A directory of artifacts.
pub(crate) struct Cache {
    dir: PathBuf,
    /// The engine's settings, the machine's abilities and the exact version, hashed: what the code depends on beside
    /// the component.
    environment: [u8; 32],
    /// Seals artifacts: what does not bear its mark was not written by a host of this directory.
    seal: Hmac<Sha256>,
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
    /// Others may read or write it.
    #[error(
        "its mode is {mode:o}, so it is not private, and machine code from it would run here; run `chmod 700` on it"
    )]
    Open {
        /// Its permission bits.
        mode: u32,
    },
    /// The key for the seals is not one that only we know.
    #[error("its file `{KEY_FILE}` {0}; remove it, and components are compiled again")]
    Key(&'static str),
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
        if mode & 0o077 != 0 {
            return Err(CacheError::Open { mode });
        }
        let me = rustix::process::geteuid().as_raw();
        if found.uid() != me {
            return Err(CacheError::Foreign { owner: found.uid(), me });
        }
        let seal = Hmac::new(&key(&dir, me)?.into());
        let cache = Self { dir, environment: environment(engine), seal, writes: AtomicU64::new(0) };
        cache.prune();
        Ok(cache)
    }

    /// The machine code of this component. None if there is none, or none that is whole and ours.
    pub(crate) fn load(&self, engine: &wasmtime::Engine, digest: &Digest) -> Option<Component> {
        let path = self.path(digest);
        let code = match self.read(engine, digest, &path) {
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
    pub(crate) fn store(&self, digest: &Digest, code: Vec<u8>) {
        if let Err(reason) = self.try_store(digest, code) {
            tracing::warn!(dir = %self.dir.display(), %reason, "a compiled component could not be kept");
        }
        self.prune();
    }

    fn try_store(&self, digest: &Digest, mut artifact: Vec<u8>) -> io::Result<()> {
        let seal = self.sealing(digest, &artifact).finalize().into_bytes();
        artifact.extend_from_slice(&seal);
        let count = self.writes.fetch_add(1, Ordering::Relaxed);
        let temporary = self.dir.join(format!("{}-{:p}-{count}.writing", std::process::id(), self));
        // Not synced: a file that a power failure cut short has no seal and is written again.
        let written = create_private(&temporary)
            .and_then(|mut file| file.write_all(&artifact))
            .and_then(|()| fs::rename(&temporary, self.path(digest)));
        if written.is_err() {
            let _ = fs::remove_file(&temporary);
        }
        written
    }

    fn read(&self, engine: &wasmtime::Engine, digest: &Digest, path: &Path) -> Result<Component, ReadError> {
        let mut file = File::open(path)?;
        let mut bytes = Vec::with_capacity(usize::try_from(file.metadata()?.len()).unwrap_or(0));
        file.read_to_end(&mut bytes)?;
        let split = bytes.len().checked_sub(SEAL_BYTES).ok_or(ReadError::Unsealed)?;
        let (code, seal) = bytes.split_at(split);
        self.sealing(digest, code).verify_slice(seal).map_err(|_| ReadError::Unsealed)?;
        Ok(artifact::load(engine, code)?)
    }

    /// The seal is over the code and all that it depends on, so that no artifact stands for another.
    fn sealing(&self, digest: &Digest, code: &[u8]) -> Hmac<Sha256> {
        let mut seal = self.seal.clone();
        seal.update(&self.environment);
        seal.update(digest.to_string().as_bytes());
        seal.update(code);
        seal
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
    #[error("no host of this directory sealed it, or it is damaged")]
    Unsealed,
    #[error("{0:#}")]
    Refused(#[from] wasmtime::Error),
}

/// A new file that is ours alone.
fn create_private(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)
}

/// The key of the directory's seals, made at its first use. Hosts that share the directory share it.
fn key(dir: &Path, me: u32) -> Result<[u8; KEY_BYTES], CacheError> {
    let path = dir.join(KEY_FILE);
    if !fs::exists(&path)? {
        // Whole before it has its name, so that another host that starts now never reads half of it.
        let temporary = dir.join(format!("{}-{:016x}.writing", std::process::id(), rand::random::<u64>()));
        let mut file = create_private(&temporary)?;
        let linked = file
            .write_all(&rand::random::<[u8; KEY_BYTES]>())
            .and_then(|()| file.sync_all())
            .and_then(|()| fs::hard_link(&temporary, &path));
        fs::remove_file(&temporary)?;
        match linked {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            made => made?,
        }
    }
    let found = fs::symlink_metadata(&path)?;
    if !found.is_file() || found.uid() != me || found.mode() & 0o077 != 0 {
        return Err(CacheError::Key("is not a file that this host's user alone can read"));
    }
    fs::read(&path)?.try_into().map_err(|_| CacheError::Key("is no key: it does not have 64 bytes"))
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
