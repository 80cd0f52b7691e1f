//! Scratch directories: an empty one for each call of a function that was granted it, gone with the attempt. Here is
//! where they lie and how they go; what a guest may do in one is `scratch/files.rs`.

mod files;
mod quota;
mod streams;
mod totals;

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use baton_model::{Name, ScratchGrant};

use crate::log::CallLog;
pub(crate) use files::{Files, add_to_linker};
pub(crate) use quota::Quota;
use totals::Totals;

/// Where a guest finds its directory: libraries look for temporary files there.
pub(crate) const GUEST_PATH: &str = "/tmp";

/// How often a directory is looked at again in which a write of the ended attempt was still under way.
const LOOKS_MAX: u32 = 5;

/// Where the directories of one process lie. A lock tells the next process, after a crash, that nobody needs them.
pub(crate) struct Home {
    dir: PathBuf,
    lock: PathBuf,
    // Locked as long as it is open.
    _locked: File,
    next: AtomicU64,
    totals: Arc<Totals>,
}

impl Home {
    /// Makes room below `parent`, and removes what processes that are gone left there.
    pub(crate) fn open(parent: &Path) -> io::Result<Self> {
        DirBuilder::new().recursive(true).mode(0o700).create(parent)?;
        sweep(parent)?;
        let name = format!("{:016x}", rand::random::<u64>());
        let lock = parent.join(format!("{name}.lock"));
        // It is locked before it has the name by which others look for locks.
        let unnamed = parent.join(format!(".{name}"));
        let locked = OpenOptions::new().write(true).create_new(true).open(&unnamed)?;
        locked.lock()?;
        fs::rename(&unnamed, &lock)?;
        let dir = parent.join(name);
        DirBuilder::new().mode(0o700).create(&dir)?;
        Ok(Self { dir, lock, _locked: locked, next: AtomicU64::new(0), totals: Arc::default() })
    }

    /// Makes the directory of one call.
    pub(crate) fn scratch(&self, tenant: &Name, grant: ScratchGrant, log: Arc<CallLog>) -> io::Result<Scratch> {
        let path = self.dir.join(self.next.fetch_add(1, Ordering::Relaxed).to_string());
        DirBuilder::new().mode(0o700).create(&path)?;
        let taken = self.totals.share_of(tenant);
        Ok(Scratch { path, quota: Arc::new(Quota::new(grant, taken, log)) })
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        // What cannot be removed now is removed at the next start.
        if remove(&self.dir).is_ok() {
            drop(fs::remove_file(&self.lock));
        }
    }
}

/// Removes the directories whose processes are gone: those whose lock can be had.
fn sweep(parent: &Path) -> io::Result<()> {
    for entry in fs::read_dir(parent)? {
        let lock = entry?.path();
        if lock.extension().is_none_or(|extension| extension != "lock") {
            continue;
        }
        // Another process may be at the same work, and be done first.
        let Ok(file) = File::open(&lock) else { continue };
        if file.try_lock().is_err() {
            continue;
        }
        let left = lock.with_extension("");
        match remove(&left) {
            Ok(()) => drop(fs::remove_file(&lock)),
            Err(error) => tracing::warn!(path = %left.display(), %error, "cannot remove old scratch files"),
        }
    }
    Ok(())
}

/// The directory of one call. It is removed when this is dropped.
pub(crate) struct Scratch {
    path: PathBuf,
    quota: Arc<Quota>,
}

impl Scratch {
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn quota(&self) -> &Arc<Quota> {
        &self.quota
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let (path, quota) = (std::mem::take(&mut self.path), Arc::clone(&self.quota));
        let remove = move || {
            // What the files take they take until they are gone.
            let _quota = quota;
            if let Err(error) = remove(&path) {
                tracing::warn!(path = %path.display(), %error, "cannot remove the scratch files of a call");
            }
        };
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(remove)),
            Err(_) => remove(),
        }
    }
}

/// Removes a directory with all that is in it; one that is not there is removed already.
fn remove(dir: &Path) -> io::Result<()> {
    let mut looks = 0;
    loop {
        match empty(dir).and_then(|()| fs::remove_dir(dir)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            // A write that was under way came in between.
            Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty && looks < LOOKS_MAX => looks += 1,
            other => return other,
        }
    }
}

/// Takes everything out of a directory. A guest nests as deep as it likes, so nothing here descends: a directory
/// within one of `dir`'s is moved up into `dir` first.
fn empty(dir: &Path) -> io::Result<()> {
    let mut moved = 0_u64;
    let mut is_empty = false;
    while !is_empty {
        is_empty = true;
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            is_empty = false;
            if !entry.file_type()?.is_dir() {
                fs::remove_file(entry.path())?;
                continue;
            }
            for inner in fs::read_dir(entry.path())? {
                let inner = inner?;
                if inner.file_type()?.is_dir() {
                    // A name that is taken is the next one's: only an empty directory would give way.
                    let mut free = dir.join(format!(".moved-{moved}"));
                    while fs::symlink_metadata(&free).is_ok() {
                        moved += 1;
                        free = dir.join(format!(".moved-{moved}"));
                    }
                    fs::rename(inner.path(), free)?;
                    moved += 1;
                } else {
                    fs::remove_file(inner.path())?;
                }
            }
            fs::remove_dir(entry.path())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::{LogSink, LogStream};

    pub(super) struct Nowhere;
    impl LogSink for Nowhere {
        fn line(&self, _: LogStream<'_>, _: &str) {}
        fn truncated(&self, _: u64) {}
    }

    fn scratch(home: &Home) -> Scratch {
        let log = Arc::new(CallLog::new(Arc::new(Nowhere), 0));
        home.scratch(&Name::parse("acme").unwrap(), ScratchGrant { bytes_max: 1, files_max: 1 }, log).unwrap()
    }

    fn names(dir: &Path) -> usize {
        fs::read_dir(dir).unwrap().count()
    }

    #[test]
    fn the_directory_of_a_call_goes_with_it_however_deep_it_is() {
        let parent = tempfile::tempdir().unwrap();
        let home = Home::open(parent.path()).unwrap();
        let call = scratch(&home);
        let mut deep = call.path().to_owned();
        for _ in 0..60 {
            deep = deep.join("d");
            fs::create_dir(&deep).unwrap();
            fs::write(deep.join("f"), "x").unwrap();
            fs::create_dir(deep.join(".moved-0")).unwrap();
        }
        std::os::unix::fs::symlink(parent.path(), call.path().join("link")).unwrap();
        drop(call);
        assert_eq!(names(&home.dir), 0);
        drop(home);
        assert_eq!(names(parent.path()), 0, "the process leaves nothing, and the link was not followed");
    }

    #[test]
    fn deeper_than_any_stack_is_removed_too() {
        let parent = tempfile::tempdir().unwrap();
        // Two long chains, one hung under the other, as a guest would do it: no path is that long.
        let (mut chain, n) = (parent.path().join("0"), 1_200);
        fs::create_dir(&chain).unwrap();
        for i in 1..n {
            let outer = parent.path().join(i.to_string());
            fs::create_dir(&outer).unwrap();
            fs::rename(&chain, outer.join("d")).unwrap();
            chain = outer;
        }
        remove(&chain).unwrap();
        assert_eq!(names(parent.path()), 0);
    }

    #[test]
    fn what_a_process_left_is_removed_when_it_is_gone_and_not_before() {
        let parent = tempfile::tempdir().unwrap();
        let alive = Home::open(parent.path()).unwrap();
        let kept = scratch(&alive);
        let crashed = Home::open(parent.path()).unwrap();
        let left = scratch(&crashed);
        fs::write(left.path().join("f"), "x").unwrap();
        // A crash closes the lock, and runs no destructor.
        let (dir, lock) = (crashed.dir.clone(), crashed.lock.clone());
        std::mem::forget(left);
        let Home { _locked, .. } = &crashed;
        _locked.unlock().unwrap();
        std::mem::forget(crashed);
        let next = Home::open(parent.path()).unwrap();
        assert!(!dir.exists() && !lock.exists(), "what was left is gone");
        assert!(kept.path().exists(), "what is in use stays");
        drop((next, kept, alive));
        assert_eq!(names(parent.path()), 0);
    }
}
