//! The reloader: keeps the catalog true to the plugins folder.
//!
//! Events are hints to look; the looks are the truth. A file is loaded when two looks found it unchanged, off the call
//! path; only one that loads, exports the right things and comes to life once replaces its predecessor.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use baton_broker::Notice;
use baton_model::mutants::{Rule, is_left_out};
use baton_model::{Digest, FunctionId};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::announcer::News;
use crate::catalog::Published;
use crate::folder::{self, Found, Look, Stamps};
use crate::loading::{Ended, Loader};
use crate::metrics::{Metrics, Reload};
use crate::tenants::{Allowed, Policies};
use crate::watch::{Depth, Watch};

/// How far apart the two looks are between which a file must not change.
const SETTLE: Duration = Duration::from_millis(10);
/// How long a file must be away before its function is: editors delete and create.
const GONE: Duration = Duration::from_secs(1);

/// What the reloader is made from.
pub(crate) struct Reloader {
    pub(crate) folder: PathBuf,
    pub(crate) rescan: Duration,
    pub(crate) loader: Loader,
    /// What the tenants are allowed.
    pub(crate) policies: watch::Receiver<Policies>,
    pub(crate) catalog: Arc<Published>,
    pub(crate) news: mpsc::Sender<News>,
    pub(crate) metrics: Arc<Metrics>,
    /// Set when everything that lay in the folder at the start was loaded or refused.
    pub(crate) first_pass: watch::Sender<bool>,
}

/// How one load went.
struct Load {
    function: FunctionId,
    seen: Seen,
    ended: Ended,
    /// From the stable file to here.
    took: Duration,
}

/// What a function comes from: when any of it changes, the function is loaded again.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Seen {
    stamps: Stamps,
    /// What its tenant is allowed.
    allowed: Allowed,
}

/// What is known of the folder.
#[derive(Default)]
struct Known {
    /// The state of each file that was dealt with: loaded or refused.
    settled: BTreeMap<FunctionId, Seen>,
    /// Files that are new or changed, as the last look saw them, and when it did.
    candidates: BTreeMap<FunctionId, (Seen, Instant)>,
    /// What its tenant was allowed when the revision that serves was last found to be within it.
    serving: BTreeMap<FunctionId, Allowed>,
    loading: BTreeSet<FunctionId>,
    /// Functions whose file is away, since when.
    missing: BTreeMap<FunctionId, Instant>,
    /// Reasons that were said, so that each is said once.
    said: BTreeSet<String>,
}

impl Reloader {
    /// Follows the folder until `stop`.
    pub(crate) async fn run(self, stop: CancellationToken) {
        let mut watch = Watch::new(Depth::Files, |_| true);
        let mut known = Known::default();
        let mut loads: JoinSet<Load> = JoinSet::new();
        let mut next_look = Instant::now();
        let mut policies = self.policies.clone();
        loop {
            tokio::select! {
                () = tokio::time::sleep_until(next_look) => {}
                () = watch.hint() => {}
                Ok(()) = policies.changed() => {}
                Some(ended) = loads.join_next() => {
                    if let Ok(load) = ended {
                        self.take(&mut known, load);
                    }
                }
                () = stop.cancelled() => return,
            }
            next_look = Instant::now() + self.look(&mut known, &mut watch, &mut loads).await;
            if known.candidates.is_empty() && known.loading.is_empty() {
                self.first_pass.send_if_modified(|done| !std::mem::replace(done, true));
            }
        }
    }

    /// Looks once, starts what is to be loaded, and says when to look again at the latest.
    async fn look(&self, known: &mut Known, watch: &mut Watch, loads: &mut JoinSet<Load>) -> Duration {
        let folder = self.folder.clone();
        let look = match tokio::task::spawn_blocking(move || folder::look(&folder)).await {
            Ok(Ok(look)) => look,
            Ok(Err(error)) => {
                let path = self.folder.display();
                known.say(format!("the plugins folder {path} cannot be read: {error}; what is loaded stays"));
                return self.rescan;
            }
            Err(_) => return self.rescan,
        };
        watch.follow(&look.folders);
        for (path, reason) in &look.refused {
            known.say(format!("{} is no function: {reason}", path.display()));
        }
        let now = Instant::now();
        let mut again = self.rescan;
        again = again.min(self.note_missing(known, &look, now));
        let policies = self.policies.borrow().clone();
        for (function, found) in look.functions {
            let seen = Seen { stamps: found.stamps, allowed: policies.of(function.tenant()) };
            if known.settled.get(&function) == Some(&seen) {
                known.candidates.remove(&function);
                continue;
            }
            let since = match known.candidates.get(&function) {
                Some((before, since)) if *before == seen => *since,
                _ => now,
            };
            let is_stable = now.duration_since(since) >= SETTLE || is_left_out(Rule::FileStability);
            if is_stable && !known.loading.contains(&function) {
                known.candidates.remove(&function);
                known.loading.insert(function.clone());
                self.load(function, found, seen.allowed, loads);
            } else {
                known.candidates.insert(function, (seen, since));
                again = again.min(SETTLE);
            }
        }
        again
    }

    fn load(&self, function: FunctionId, found: Found, allowed: Allowed, loads: &mut JoinSet<Load>) {
        let loader = self.loader.clone();
        let current = self.catalog.snapshot().get(&function).cloned();
        loads.spawn(async move {
            let (seen, began) = (Seen { stamps: found.stamps, allowed }, Instant::now());
            let ended = loader.load(&function, found, current, seen.allowed.clone()).await;
            Load { function, seen, ended, took: began.elapsed() }
        });
    }

    /// Deals with a file that was loaded, or could not be.
    fn take(&self, known: &mut Known, load: Load) {
        let Load { function, seen, ended, took } = load;
        let function = &function;
        known.loading.remove(function);
        match ended {
            // Somebody is writing it; the next look sees what it has become.
            Ended::Changed => return,
            Ended::Same => _ = known.serving.insert(function.clone(), seen.allowed.clone()),
            Ended::Refused { digest, reason } => {
                // What serves may be more than is allowed now, and what was taken away is not to be had any longer.
                let is_allowed = known.serving.get(function) == Some(&seen.allowed);
                let serving = self.catalog.snapshot().get(function).map(|r| r.component.digest());
                let stays = match serving {
                    None => String::new(),
                    Some(digest) if is_allowed => format!("; {} keeps serving", digest.short()),
                    Some(digest) => {
                        self.remove(known, function, digest);
                        "; its calls wait, because what its tenant is allowed has changed".to_owned()
                    }
                };
                let which = digest.map_or_else(String::new, |digest: Digest| format!(" ({})", digest.short()));
                // What was said is known: the same build, touched or put back, is not refused a second time.
                if known.say(format!("{function}{which} is refused: {reason}{stays}")) {
                    self.metrics.reloaded(Reload::Refused, Some(took));
                }
            }
            Ended::Loaded { revision, took } => {
                let digest = revision.component.digest();
                let replaces = self.catalog.snapshot().get(function).map(|old| old.component.digest().short());
                self.catalog.put(revision.clone());
                known.serving.insert(function.clone(), seen.allowed.clone());
                self.metrics.reloaded(Reload::Loaded, Some(took));
                tracing::info!(
                    %function, digest = %digest.short(), replaces, cached = revision.component.from_cache(),
                    took_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX), "function ready"
                );
                self.tell(Notice::Ready, function, Some(digest));
            }
        }
        known.settled.insert(function.clone(), seen);
    }

    /// Takes out functions whose file has been away for long enough; says when to look again.
    fn note_missing(&self, known: &mut Known, look: &Look, now: Instant) -> Duration {
        let is_there = |function: &FunctionId| look.functions.contains_key(function) || look.held.contains(function);
        known.candidates.retain(|function, _| look.functions.contains_key(function));
        known.missing.retain(|function, _| !is_there(function));
        let mut again = Duration::MAX;
        let settled: Vec<FunctionId> = known.settled.keys().filter(|f| !is_there(f)).cloned().collect();
        for function in settled {
            let since = *known.missing.entry(function.clone()).or_insert(now);
            let left = (since + GONE).saturating_duration_since(now);
            if !left.is_zero() {
                again = again.min(left);
                continue;
            }
            known.missing.remove(&function);
            known.settled.remove(&function);
            let digest = self.catalog.snapshot().get(&function).map(|revision| revision.component.digest());
            if let Some(digest) = digest {
                self.remove(known, &function, digest);
                tracing::info!(%function, "function removed with its file; calls that come now wait for it");
            }
        }
        again
    }

    fn remove(&self, known: &mut Known, function: &FunctionId, digest: Digest) {
        known.serving.remove(function);
        self.catalog.remove(function);
        self.metrics.reloaded(Reload::Removed, None);
        self.tell(Notice::Offline, function, Some(digest));
    }

    fn tell(&self, notice: Notice, function: &FunctionId, digest: Option<Digest>) {
        // News are hints. When so many wait that there is no room, nobody misses one.
        _ = self.news.try_send(News {
            notice,
            function: function.clone(),
            digest,
            change: self.catalog.change(),
            about: None,
        });
    }
}

impl Known {
    /// Says a sentence, unless it was said before. True if it was not.
    fn say(&mut self, sentence: String) -> bool {
        let is_new = !self.said.contains(&sentence);
        if is_new {
            tracing::warn!("{sentence}");
            self.said.insert(sentence);
        }
        is_new
    }
}

/// The folder, made if it is not there: a host with nothing to do is a host that waits for its first function.
///
/// # Errors
/// The system's word, if it cannot be made.
pub(crate) fn ensure_folder(folder: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(folder)
}

#[cfg(test)]
mod tests {
    use baton_broker::BrokerConfig;
    use baton_engine::{Engine, EngineConfig};
    use baton_model::{Limits, RetryPolicy};

    use crate::policy::{CapsTable, Rules, Secrets, SecurityTable};
    use crate::services::Providers;
    use crate::tenants::TenantFiles;

    use super::*;

    #[tokio::test]
    async fn a_refused_build_is_counted_once_and_never_named() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("bad.wasm"), b"no wasm").unwrap();
        // Nothing listens on the discard port.
        let broker = BrokerConfig::new("redis://127.0.0.1:9");
        let metrics = Metrics::alone(&broker).unwrap();
        let engine = Engine::new(EngineConfig { instances_max: 4, ..EngineConfig::default() }).unwrap();
        let rules = Rules::new(&Limits::default(), &CapsTable::default(), &SecurityTable::default()).unwrap();
        let tenants = TenantFiles::read(folder.path().to_owned(), Duration::from_secs(1), rules).unwrap();
        let reloader = Reloader {
            folder: folder.path().to_owned(),
            rescan: Duration::from_secs(1),
            loader: Loader::new(
                engine,
                RetryPolicy::default(),
                Secrets { variable: |_| None },
                Providers::new(&broker).unwrap(),
                metrics.clone(),
            ),
            policies: tenants.policies(),
            catalog: Arc::new(Published::new()),
            news: mpsc::channel(1).0,
            metrics: metrics.clone(),
            first_pass: watch::channel(false).0,
        };
        let (function, found) = folder::look(folder.path()).unwrap().functions.pop_first().unwrap();
        let (mut known, mut loads) = (Known::default(), JoinSet::new());
        for _ in 0..2 {
            // The same bytes again, as when the file is touched or put back.
            let allowed = reloader.policies.borrow().of(function.tenant());
            reloader.load(function.clone(), found.clone(), allowed, &mut loads);
            reloader.take(&mut known, loads.join_next().await.unwrap().unwrap());
        }
        let text = metrics.render().await;
        assert!(text.contains("baton_reloads_total{outcome=\"refused\"} 1\n"), "{text}");
        assert!(text.contains("baton_reload_duration_seconds_count{outcome=\"refused\"} 1\n"), "{text}");
        assert!(!text.contains("default/bad"), "{text}");
    }
}
