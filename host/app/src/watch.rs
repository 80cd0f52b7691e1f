//! Hints that something changed in some folders. The only file that names notify.
//!
//! A hint says that it is time to look, never what happened: events are lost, doubled and differ by file system.

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use notify::event::{AccessKind, AccessMode};
use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::sync::Notify;

/// How deep a folder is watched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Depth {
    /// The folder's own files.
    Files,
    /// Everything below it.
    Tree,
}

/// Watches folders.
pub(crate) struct Watch {
    watcher: Option<RecommendedWatcher>,
    depth: Depth,
    /// The folders, each with the inode that is watched: one that was made anew is another.
    watched: BTreeSet<(PathBuf, u64)>,
    hint: Arc<Notify>,
}

impl Watch {
    /// Watches nothing yet. Where the system has no watches left it never will, and says so once.
    pub(crate) fn new(depth: Depth, wanted: impl Fn(&Path) -> bool + Send + 'static) -> Self {
        let hint = Arc::new(Notify::new());
        let notify = hint.clone();
        let watcher = notify::recommended_watcher(move |event: notify::Result<Event>| {
            let is_change = match event {
                // Reading our own plugin gives events too.
                Ok(event) => is_change(event.kind) && (event.paths.is_empty() || event.paths.iter().any(|p| wanted(p))),
                // An overflow, for one.
                Err(_) => true,
            };
            if is_change {
                notify.notify_one();
            }
        });
        let watcher = watcher
            .inspect_err(
                |error| tracing::warn!(%error, "no file watches; changes are found by looking every few seconds"),
            )
            .ok();
        Self { watcher, depth, watched: BTreeSet::new(), hint }
    }

    /// Watches exactly these folders from now on.
    pub(crate) fn follow(&mut self, folders: &[PathBuf]) {
        let Some(watcher) = &mut self.watcher else { return };
        let inode = |path: &PathBuf| std::fs::metadata(path).ok().map(|meta| (path.clone(), meta.ino()));
        let wanted: BTreeSet<(PathBuf, u64)> = folders.iter().filter_map(inode).collect();
        let mode = match self.depth {
            Depth::Files => RecursiveMode::NonRecursive,
            Depth::Tree => RecursiveMode::Recursive,
        };
        for (gone, _) in self.watched.difference(&wanted) {
            // It fails when the folder is gone, and then there is nothing left to unwatch.
            _ = watcher.unwatch(gone);
        }
        let mut watched: BTreeSet<(PathBuf, u64)> = self.watched.intersection(&wanted).cloned().collect();
        for new in wanted.difference(&self.watched) {
            match watcher.watch(&new.0, mode) {
                Ok(()) => _ = watched.insert(new.clone()),
                Err(error) => tracing::debug!(folder = %new.0.display(), %error, "cannot be watched"),
            }
        }
        self.watched = watched;
    }

    /// Waits for the next hint. One that came while nobody waited is not lost.
    pub(crate) async fn hint(&self) {
        self.hint.notified().await;
    }
}

fn is_change(kind: EventKind) -> bool {
    match kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write)) => true,
        EventKind::Access(_) => false,
        EventKind::Any | EventKind::Create(_) | EventKind::Modify(_) | EventKind::Remove(_) | EventKind::Other => true,
    }
}
