//! What is said about tenants: keeps it true to their `tenant.toml` files and publishes it.
//!
//! It runs in every host, one without functions included, because the gateway asks for it too. A file that is wrong never
//! replaces what a good one said.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use baton_model::{Digest, Name, TenantPolicy, Tenants, Token};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::folder::{self, Stamp, TenantFound, TenantLook};
use crate::policy::{Caps, Rules, TenantFile};
use crate::watch::{Depth, Watch};

/// How far apart the two looks are between which a file must not change.
const SETTLE: Duration = Duration::from_millis(10);
/// How long a file must be away before nothing is said any more: editors delete and create.
const GONE: Duration = Duration::from_secs(1);

/// The most that the functions of a tenant may ask for; or why they get nothing, when its file was wrong from the start.
pub(crate) type Allowed = Arc<Result<Caps, String>>;

/// What tenants are allowed, at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Policies {
    said: Arc<BTreeMap<Name, Allowed>>,
    others: Allowed,
}

impl Policies {
    /// What the functions of `tenant` may ask for.
    pub(crate) fn of(&self, tenant: &Name) -> Allowed {
        self.said.get(tenant).unwrap_or(&self.others).clone()
    }
}

/// What one file said, when it was good or the first that there was.
#[derive(Clone)]
struct Said {
    allowed: Allowed,
    policy: Arc<TenantPolicy>,
}

/// Follows the files about tenants.
pub(crate) struct TenantFiles {
    folder: PathBuf,
    rescan: Duration,
    rules: Rules,
    said: BTreeMap<Name, Said>,
    /// The state of each file that was dealt with.
    settled: BTreeMap<Name, Stamp>,
    /// Files that are new or changed, as the last look saw them, and when it did.
    candidates: BTreeMap<Name, (Stamp, Instant)>,
    /// Tenants whose file is away, since when.
    missing: BTreeMap<Name, Instant>,
    policies: watch::Sender<Policies>,
    tenants: watch::Sender<Tenants>,
}

impl TenantFiles {
    /// Reads what there is. A file that is wrong leaves its tenant with nothing until it is mended: what it would have
    /// said is not known, and there is no good one before it.
    ///
    /// # Errors
    /// If the folder is there and cannot be listed.
    pub(crate) fn read(folder: PathBuf, rescan: Duration, rules: Rules) -> anyhow::Result<Self> {
        let others = rules.caps(None).map_err(|wrong| wrong.to_string());
        let policies = Policies { said: Arc::default(), others: Arc::new(others) };
        let mut this = Self {
            folder,
            rescan,
            rules,
            said: BTreeMap::new(),
            settled: BTreeMap::new(),
            candidates: BTreeMap::new(),
            missing: BTreeMap::new(),
            policies: watch::Sender::new(policies),
            tenants: watch::Sender::new(Tenants::default()),
        };
        for (tenant, found) in look(&this.folder)?.files {
            match this.said_in(&found) {
                Ok(Some(said)) => {
                    this.said.insert(tenant.clone(), said);
                    this.settled.insert(tenant, found.stamp);
                }
                // Somebody writes it at this moment: the next looks read it, and until then the tenant has nothing.
                Ok(None) => _ = this.said.insert(tenant, closed("it is being written".to_owned(), None)),
                Err((reason, text)) => {
                    let path = found.path.display();
                    tracing::error!("{path} is wrong: {reason}; no function of {tenant} is loaded until it is mended");
                    this.said.insert(tenant.clone(), closed(reason, text.as_deref()));
                    this.settled.insert(tenant, found.stamp);
                }
            }
        }
        this.publish();
        Ok(this)
    }

    /// What the functions of each tenant may ask for.
    pub(crate) fn policies(&self) -> watch::Receiver<Policies> {
        self.policies.subscribe()
    }

    /// What is said about each tenant beyond its functions.
    pub(crate) fn tenants(&self) -> watch::Receiver<Tenants> {
        self.tenants.subscribe()
    }

    /// Follows the files until `stop`.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        let is_ours = |path: &Path| {
            let name = path.file_name().unwrap_or_default().as_encoded_bytes();
            name == b"tenant.toml" || name.starts_with(b"@")
        };
        let mut watch = Watch::new(Depth::Files, is_ours);
        let mut next_look = Instant::now();
        loop {
            tokio::select! {
                () = tokio::time::sleep_until(next_look) => {}
                () = watch.hint() => {}
                () = stop.cancelled() => return,
            }
            let folder = self.folder.clone();
            let look = tokio::task::spawn_blocking(move || look(&folder)).await;
            let again = match look {
                Ok(Ok(look)) => {
                    watch.follow(&look.folders);
                    self.take(look, Instant::now())
                }
                // What was said stays; the reloader, which needs the folder too, says what is wrong with it.
                Ok(Err(_)) | Err(_) => self.rescan,
            };
            next_look = Instant::now() + again;
        }
    }

    /// Deals with what a look saw; says when to look again at the latest.
    fn take(&mut self, look: TenantLook, now: Instant) -> Duration {
        let mut again = self.rescan.min(self.note_missing(&look, now));
        for (tenant, found) in look.files {
            if self.settled.get(&tenant) == Some(&found.stamp) {
                self.candidates.remove(&tenant);
                continue;
            }
            let since = match self.candidates.get(&tenant) {
                Some((stamp, since)) if *stamp == found.stamp => *since,
                _ => now,
            };
            if now.duration_since(since) < SETTLE {
                // Of a tenant that comes with its file nothing held before, and its functions come at the same moment.
                if !self.said.contains_key(&tenant)
                    && let Ok(Some(said)) = self.said_in(&found)
                {
                    self.said.insert(tenant.clone(), said);
                }
                self.candidates.insert(tenant, (found.stamp, since));
                again = again.min(SETTLE);
                continue;
            }
            self.candidates.remove(&tenant);
            match self.said_in(&found) {
                Ok(Some(said)) => {
                    tracing::info!(%tenant, "tenant.toml taken");
                    self.said.insert(tenant.clone(), said);
                }
                Ok(None) => {
                    again = again.min(SETTLE);
                    continue;
                }
                Err((reason, _)) if self.said.contains_key(&tenant) => {
                    tracing::error!("{} is wrong: {reason}; what held for {tenant} holds on", found.path.display());
                }
                Err((reason, text)) => {
                    let path = found.path.display();
                    tracing::error!("{path} is wrong: {reason}; no function of {tenant} is loaded until it is mended");
                    self.said.insert(tenant.clone(), closed(reason, text.as_deref()));
                }
            }
            self.settled.insert(tenant, found.stamp);
        }
        self.publish();
        again
    }

    fn note_missing(&mut self, look: &TenantLook, now: Instant) -> Duration {
        self.candidates.retain(|tenant, _| look.files.contains_key(tenant));
        self.missing.retain(|tenant, _| !look.files.contains_key(tenant));
        let mut again = Duration::MAX;
        let known: Vec<Name> = self.said.keys().chain(self.settled.keys()).cloned().collect();
        for tenant in known.into_iter().filter(|tenant| !look.files.contains_key(tenant)) {
            let since = *self.missing.entry(tenant.clone()).or_insert(now);
            let left = (since + GONE).saturating_duration_since(now);
            if !left.is_zero() {
                again = again.min(left);
                continue;
            }
            self.missing.remove(&tenant);
            self.settled.remove(&tenant);
            if self.said.remove(&tenant).is_some() {
                tracing::warn!(%tenant, "tenant.toml is gone; the tenant has the defaults");
            }
        }
        again
    }

    /// What a file says. None if it is being written.
    ///
    /// # Errors
    /// What is wrong, and the text if it could be read.
    fn said_in(&self, found: &TenantFound) -> Result<Option<Said>, (String, Option<String>)> {
        let Some(text) = folder::read_tenant(found).map_err(|reason| (reason, None))? else { return Ok(None) };
        let said = TenantFile::parse(&text).and_then(|file| {
            let caps = self.rules.caps(Some(&file)).map_err(|wrong| wrong.found_in(&text))?;
            Ok(Said { allowed: Arc::new(Ok(caps)), policy: Arc::new(self.rules.policy(Some(&file))?) })
        });
        said.map(Some).map_err(|wrong| (wrong.to_string(), Some(text)))
    }

    /// Publishes what is said now. Who listens is told of changes alone.
    fn publish(&self) {
        let allowed = self.said.iter().map(|(tenant, said)| (tenant.clone(), said.allowed.clone())).collect();
        self.policies.send_if_modified(|policies| {
            let next = Policies { said: Arc::new(allowed), others: policies.others.clone() };
            *policies != next && {
                *policies = next;
                true
            }
        });
        let said = self.said.iter().map(|(tenant, said)| (tenant.clone(), said.policy.clone())).collect();
        // The rules were held against themselves when they were made.
        let next = Tenants::with(said, self.rules.policy(None).unwrap_or_default());
        self.tenants.send_if_modified(|tenants| {
            *tenants != next && {
                *tenants = next;
                true
            }
        });
    }
}

/// A folder that is not there has no tenants.
fn look(folder: &Path) -> std::io::Result<TenantLook> {
    match folder::look_for_tenants(folder) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(TenantLook::default()),
        look => look,
    }
}

/// What holds for a tenant of whom it is not known what was said. If there were, or may have been, tokens in the file,
/// there is one now that fits nobody: a mistake in a file must not open what the file was to close.
fn closed(reason: String, text: Option<&str>) -> Said {
    // However the key is spelt: a token is a hash, and keys can be written with escapes.
    let is_trace = |text: &str| ["token", "sha256", "\\"].iter().any(|trace| text.to_lowercase().contains(trace));
    let has_tokens = text.is_none_or(is_trace);
    let nobody = || Token { name: "nobody".to_owned(), sha256: Digest::of(reason.as_bytes()), expires_ms: Some(0) };
    let tokens = has_tokens.then(nobody).into_iter().collect();
    let policy = Arc::new(TenantPolicy { tokens, own_replies_only: true, ..TenantPolicy::default() });
    Said { allowed: Arc::new(Err(reason)), policy }
}

#[cfg(test)]
mod tests {
    use baton_model::Limits;

    use super::*;
    use crate::policy::{CapsTable, SecurityTable};

    fn files(folder: &Path) -> TenantFiles {
        let rules = Rules::new(&Limits::default(), &CapsTable::default(), &SecurityTable::default()).unwrap();
        TenantFiles::read(folder.to_owned(), Duration::from_secs(60), rules).unwrap()
    }

    /// Two looks at the folder, far enough apart for what lies there to count as stable.
    fn look_twice(files: &mut TenantFiles) {
        let now = Instant::now();
        files.take(look(&files.folder).unwrap(), now);
        files.take(look(&files.folder).unwrap(), now + SETTLE);
    }

    fn weight(files: &TenantFiles, tenant: &str) -> u32 {
        files.tenants().borrow().of(&Name::parse(tenant).unwrap()).weight
    }

    #[test]
    fn a_wrong_file_never_replaces_what_a_good_one_said() {
        let folder = tempfile::tempdir().unwrap();
        let acme = folder.path().join("@acme");
        std::fs::create_dir(&acme).unwrap();
        std::fs::write(acme.join("tenant.toml"), "weight = 2").unwrap();
        std::fs::write(folder.path().join("tenant.toml"), "weight = 3").unwrap();
        let mut files = files(folder.path());
        assert_eq!((weight(&files, "acme"), weight(&files, "default"), weight(&files, "other")), (2, 3, 1));

        let mut heard = files.tenants();
        std::fs::write(acme.join("tenant.toml"), "weight = \"heavy\"").unwrap();
        look_twice(&mut files);
        assert_eq!((weight(&files, "acme"), heard.has_changed().unwrap()), (2, false));
        std::fs::write(acme.join("tenant.toml"), "weight = 40").unwrap();
        look_twice(&mut files);
        assert_eq!((weight(&files, "acme"), heard.has_changed().unwrap()), (40, true));
        heard.mark_unchanged();

        std::fs::remove_file(acme.join("tenant.toml")).unwrap();
        look_twice(&mut files);
        assert_eq!(weight(&files, "acme"), 40, "an editor may be at it");
        files.take(look(folder.path()).unwrap(), Instant::now() + 2 * GONE);
        assert_eq!(weight(&files, "acme"), 1);
    }

    #[test]
    fn a_tenant_that_comes_with_a_file_never_has_the_defaults() {
        let folder = tempfile::tempdir().unwrap();
        let mut files = files(folder.path());
        let write = |tenant: &str, text: &str| {
            let folder = folder.path().join(format!("@{tenant}"));
            std::fs::create_dir(&folder).unwrap();
            std::fs::write(folder.join("tenant.toml"), text).unwrap();
        };
        write("right", "weight = 7");
        write("wrong", "wieght = 7");
        files.take(look(folder.path()).unwrap(), Instant::now());
        assert_eq!(weight(&files, "right"), 7, "at first sight");
        look_twice(&mut files);
        let allowed = |tenant: &str| files.policies().borrow().of(&Name::parse(tenant).unwrap());
        assert!(allowed("right").is_ok());
        assert!(allowed("wrong").as_ref().as_ref().unwrap_err().contains("did you mean `weight`"));
    }

    #[test]
    fn a_file_that_was_wrong_from_the_start_gives_nothing_and_opens_nothing() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("tenant.toml"), "wieght = 3\n[[token]]\nname = \"ci\"").unwrap();
        let mut files = files(folder.path());
        let default = Name::parse("default").unwrap();
        let allowed = |files: &TenantFiles| files.policies().borrow().of(&default);
        assert!(allowed(&files).as_ref().as_ref().unwrap_err().contains("did you mean `weight`"));
        let tokens = files.tenants().borrow().of(&default).tokens.clone();
        assert!(tokens.len() == 1 && tokens[0].expires_ms == Some(0), "{tokens:?}");

        std::fs::write(folder.path().join("tenant.toml"), "weight = 3").unwrap();
        look_twice(&mut files);
        assert!(allowed(&files).is_ok());
        assert!(!files.tenants().borrow().of(&default).own_replies_only);
        assert!(files.tenants().borrow().of(&default).tokens.is_empty());
    }
}
