//! Grants: what a manifest asks for beyond computing, and what the operator lets it have.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path, PathBuf};

use baton_model::{BucketScope, CallsGrant, Grants, HttpGrant, HttpTarget, KeyValueGrant, Name, ScratchGrant, Setting};
use schemars::JsonSchema;
use serde::Deserialize;

use super::caps::{Most, Source};
use super::secrets::{SecretFrom, Secrets};
use super::text::Wrong;

/// The most that one HTTP request or answer may have as a body, where nobody says less.
const HTTP_BYTES_MAX: u64 = 64 << 20;
/// What one HTTP request may have as a body when a manifest does not say.
const REQUEST_BYTES: u64 = 1 << 20;
/// What one answer may have as a body when a manifest does not say.
const RESPONSE_BYTES: u64 = 4 << 20;
/// The most requests of one call, where nobody says less.
const REQUESTS_MAX: u64 = 1_000;
/// The requests of one call when a manifest does not say.
const REQUESTS: u64 = 50;
/// The largest scratch directory, where nobody says less.
const SCRATCH_BYTES_MAX: u64 = 256 << 20;
/// The scratch directory when a manifest does not say.
const SCRATCH_BYTES: u64 = 10 << 20;
/// The most files in a scratch directory, where nobody says less.
const SCRATCH_FILES_MAX: u64 = 10_000;
/// The files in a scratch directory when a manifest does not say.
const SCRATCH_FILES: u64 = 100;
/// The most buckets of one function.
const BUCKETS_MAX: usize = 32;
/// The longest name of a bucket, in bytes.
const BUCKET_NAME_BYTES_MAX: usize = 64;
/// The most targets of one function.
const TARGETS_MAX: usize = 256;

/// What the function may reach beyond computing. What is not asked for is denied, but for logging, clock and random.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct GrantsTable {
    /// `wasi:logging`; false denies it.
    #[schemars(extend("default" = true))]
    logging: Option<bool>,
    /// `wasi:clocks`; false denies it.
    #[schemars(extend("default" = true))]
    clock: Option<bool>,
    /// `wasi:random`; false denies it.
    #[schemars(extend("default" = true))]
    random: Option<bool>,
    /// `wasi:config`: the settings of the function by name. A text stands here; a secret comes from a file or an
    /// environment variable of the host that the operator allows, and is shown nowhere.
    config: Option<BTreeMap<String, SettingValue>>,
    /// `wasi:keyvalue`: the buckets that the function may open by name, and who shares each.
    keyvalue: Option<BTreeMap<String, Scope>>,
    /// Outgoing `wasi:http`.
    http: Option<HttpTable>,
    /// An empty directory of the call's own, at `/tmp`.
    scratch: Option<ScratchTable>,
    /// `baton:calls`: calling other functions of the same tenant.
    calls: Option<CallsTable>,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(untagged, expecting = "a setting is a text, { file = \"/path\" } or { env = \"NAME\" }")]
enum SettingValue {
    /// A setting that operators may see.
    Plain(String),
    /// A secret, and where it comes from.
    Secret(SecretFrom),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Scope {
    /// The calls of this function share it.
    Function,
    /// All functions of the tenant that ask for it share it.
    Tenant,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
struct HttpTable {
    /// Where requests may go: `https://api.example.com`, `https://*.example.com`, `http://host:8080`.
    allow: Vec<String>,
    /// The largest body of a request, in bytes.
    #[schemars(extend("default" = REQUEST_BYTES, "maximum" = HTTP_BYTES_MAX))]
    request_bytes: Option<u64>,
    /// The largest body of an answer, in bytes.
    #[schemars(extend("default" = RESPONSE_BYTES, "maximum" = HTTP_BYTES_MAX))]
    response_bytes: Option<u64>,
    /// The most requests of one call.
    #[schemars(extend("default" = REQUESTS, "maximum" = REQUESTS_MAX))]
    requests: Option<u32>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
struct ScratchTable {
    /// The most bytes that a call may write there.
    #[schemars(extend("default" = SCRATCH_BYTES, "maximum" = SCRATCH_BYTES_MAX))]
    bytes: Option<u64>,
    /// The most files and directories that a call may make there.
    #[schemars(extend("default" = SCRATCH_FILES, "maximum" = SCRATCH_FILES_MAX))]
    files: Option<u32>,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct CallsTable {
    /// The names of functions of the same tenant, or "all".
    functions: Functions,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(untagged, expecting = "functions are \"all\" or a list of names, such as [\"resize\"]")]
enum Functions {
    /// All functions of the tenant.
    All(AllWord),
    /// These functions of the tenant.
    Only(Vec<String>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum AllWord {
    /// All functions of the tenant.
    All,
}

/// What functions may be granted at the most. What is left out is not taken away; environment variables and files must
/// be named.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct GrantCapsTable {
    /// False takes `wasi:logging` away.
    logging: Option<bool>,
    /// False takes `wasi:clocks` away.
    clock: Option<bool>,
    /// False takes `wasi:random` away.
    random: Option<bool>,
    /// False takes `wasi:keyvalue` away.
    keyvalue: Option<bool>,
    /// False takes `baton:calls` away.
    calls: Option<bool>,
    /// Where secrets of functions may come from.
    config: ConfigCapsTable,
    /// Where functions may send requests, and how much.
    http: HttpCapsTable,
    /// How large scratch directories may be; 0 bytes takes them away.
    scratch: ScratchTable,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
struct ConfigCapsTable {
    /// The environment variables of the host that secrets may come from; none unless they are named in `tenant.toml`.
    env: Option<BTreeSet<String>>,
    /// The directories that secrets may come from; none unless they are named in `tenant.toml`.
    files: Option<Vec<PathBuf>>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
struct HttpCapsTable {
    /// The targets that functions may ask for; anything public if it is left out, nothing if it is empty.
    allow: Option<Vec<String>>,
    /// The largest body of a request, in bytes.
    #[schemars(extend("maximum" = HTTP_BYTES_MAX))]
    request_bytes: Option<u64>,
    /// The largest body of an answer, in bytes.
    #[schemars(extend("maximum" = HTTP_BYTES_MAX))]
    response_bytes: Option<u64>,
    /// The most requests of one call.
    #[schemars(extend("maximum" = REQUESTS_MAX))]
    requests: Option<u32>,
}

/// The most that functions may be granted, and who says so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct GrantCaps {
    /// Grants that nobody gets.
    taken: BTreeMap<&'static str, Source>,
    /// A target must fit each of these lists.
    http_allow: Vec<(Vec<HttpTarget>, Source)>,
    request_bytes: Most,
    response_bytes: Most,
    requests: Most,
    scratch_bytes: Most,
    scratch_files: Most,
    /// What every tenant's list is cut down to, if the settings say so.
    env_most: Option<BTreeSet<String>>,
    files_most: Option<Vec<PathBuf>>,
    /// What this tenant's secrets may come from.
    pub(super) env: BTreeSet<String>,
    pub(super) files: Vec<PathBuf>,
}

impl Default for GrantCaps {
    fn default() -> Self {
        let most = |value| Most { value, by: Source::Host };
        Self {
            taken: BTreeMap::new(),
            http_allow: Vec::new(),
            request_bytes: most(HTTP_BYTES_MAX),
            response_bytes: most(HTTP_BYTES_MAX),
            requests: most(REQUESTS_MAX),
            scratch_bytes: most(SCRATCH_BYTES_MAX),
            scratch_files: most(SCRATCH_FILES_MAX),
            env_most: None,
            files_most: None,
            env: BTreeSet::new(),
            files: Vec::new(),
        }
    }
}

impl GrantCaps {
    /// The same, and no more than `table` says.
    pub(super) fn lowered(&self, table: &GrantCapsTable, by: Source) -> Result<Self, Wrong> {
        let mut caps = self.clone();
        for (name, switch) in [
            ("logging", table.logging),
            ("clock", table.clock),
            ("random", table.random),
            ("keyvalue", table.keyvalue),
            ("calls", table.calls),
        ] {
            if switch == Some(false) {
                caps.taken.entry(name).or_insert(by);
            }
        }
        let http = &table.http;
        if let Some(allow) = &http.allow {
            caps.http_allow.push((targets(allow)?, by));
        }
        caps.request_bytes = caps.request_bytes.lowered(http.request_bytes, by);
        caps.response_bytes = caps.response_bytes.lowered(http.response_bytes, by);
        caps.requests = caps.requests.lowered(http.requests.map(u64::from), by);
        caps.scratch_bytes = caps.scratch_bytes.lowered(table.scratch.bytes, by);
        caps.scratch_files = caps.scratch_files.lowered(table.scratch.files.map(u64::from), by);
        let ConfigCapsTable { env, files } = &table.config;
        for file in files.iter().flatten() {
            if !file.is_absolute() || file.components().any(|part| part == Component::ParentDir) {
                let rule = format!("has {}; name directories from / on, without ..", file.display());
                return Err(Wrong::new(&["grants", "config", "files"], rule));
            }
        }
        match by {
            // What all tenants may be given is given to none of them by that.
            Source::Host | Source::Tenants => {
                caps.env_most.clone_from(env);
                caps.files_most.clone_from(files);
            }
            Source::Tenant => {
                let (env, files) = (env.clone().unwrap_or_default(), files.clone().unwrap_or_default());
                caps.env = match &self.env_most {
                    None => env,
                    Some(most) => env.intersection(most).cloned().collect(),
                };
                caps.files = match &self.files_most {
                    None => files,
                    Some(most) => common(&files, most),
                };
            }
        }
        Ok(caps)
    }

    fn may_have(&self, grant: &'static str) -> Result<(), Wrong> {
        match self.taken.get(grant) {
            Some(by) => Err(Wrong::new(&["grants", grant], format!("is asked for, but {by} takes it away"))),
            None => Ok(()),
        }
    }

    /// Whether a grant that everybody has by default is there.
    fn switch(&self, grant: &'static str, asked: Option<bool>) -> Result<bool, Wrong> {
        match asked {
            Some(false) => Ok(false),
            Some(true) => self.may_have(grant).map(|()| true),
            None => Ok(!self.taken.contains_key(grant)),
        }
    }
}

/// The directories that lie in one of each.
fn common(one: &[PathBuf], other: &[PathBuf]) -> Vec<PathBuf> {
    let within = |inner: &[PathBuf], outer: &[PathBuf]| -> Vec<PathBuf> {
        let is_within = |path: &&PathBuf| outer.iter().any(|dir| path.starts_with(dir));
        inner.iter().filter(is_within).cloned().collect()
    };
    let mut both = within(one, other);
    for path in within(other, one) {
        if !both.contains(&path) {
            both.push(path);
        }
    }
    both
}

fn targets(texts: &[String]) -> Result<Vec<HttpTarget>, Wrong> {
    let key = ["grants", "http", "allow"];
    if texts.len() > TARGETS_MAX {
        return Err(Wrong::new(&key, format!("has {} targets, the limit is {TARGETS_MAX}", texts.len())));
    }
    texts.iter().map(|text| HttpTarget::parse(text).map_err(|e| Wrong::new(&key, format!("is wrong: {e}")))).collect()
}

impl GrantsTable {
    /// The grants of a function whose manifest says this.
    pub(super) fn grant(&self, caps: &GrantCaps, stored_bytes_max: u64, secrets: &Secrets) -> Result<Grants, Wrong> {
        Ok(Grants {
            logging: caps.switch("logging", self.logging)?,
            clock: caps.switch("clock", self.clock)?,
            random: caps.switch("random", self.random)?,
            config: self.config.as_ref().map(|settings| config(settings, caps, secrets)).transpose()?,
            keyvalue: match &self.keyvalue {
                None => None,
                Some(buckets) => {
                    caps.may_have("keyvalue")?;
                    Some(KeyValueGrant { buckets: buckets_of(buckets)?, tenant_bytes_max: stored_bytes_max })
                }
            },
            http: self.http.as_ref().map(|http| http.grant(caps)).transpose()?,
            scratch: self.scratch.as_ref().map(|scratch| scratch.grant(caps)).transpose()?,
            calls: match &self.calls {
                None => None,
                Some(calls) => {
                    caps.may_have("calls")?;
                    Some(calls.grant()?)
                }
            },
        })
    }
}

fn config(
    settings: &BTreeMap<String, SettingValue>,
    caps: &GrantCaps,
    secrets: &Secrets,
) -> Result<BTreeMap<String, Setting>, Wrong> {
    let mut config = BTreeMap::new();
    for (name, value) in settings {
        if name.is_empty() || name.len() > 128 {
            return Err(Wrong::new(&["grants", "config"], "has a name that is empty or longer than 128 bytes"));
        }
        let setting = match value {
            SettingValue::Plain(text) => Setting::Plain(text.clone()),
            SettingValue::Secret(from) => {
                let secret = secrets.read(from, &caps.env, &caps.files);
                Setting::Secret(secret.map_err(|rule| Wrong::new(&["grants", "config", name], rule))?)
            }
        };
        config.insert(name.clone(), setting);
    }
    Ok(config)
}

fn buckets_of(buckets: &BTreeMap<String, Scope>) -> Result<BTreeMap<String, BucketScope>, Wrong> {
    if buckets.len() > BUCKETS_MAX {
        let rule = format!("has {} buckets, the limit is {BUCKETS_MAX}", buckets.len());
        return Err(Wrong::new(&["grants", "keyvalue"], rule));
    }
    let is_in_names = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
    let scope = |(name, scope): (&String, &Scope)| {
        if name.is_empty() || name.len() > BUCKET_NAME_BYTES_MAX || !name.bytes().all(is_in_names) {
            let rule =
                format!("is no name of a bucket; it takes 1 to {BUCKET_NAME_BYTES_MAX} of a-z, A-Z, 0-9, -, _ and .");
            return Err(Wrong::new(&["grants", "keyvalue", name], rule));
        }
        let scope = match scope {
            Scope::Function => BucketScope::Function,
            Scope::Tenant => BucketScope::Tenant,
        };
        Ok((name.clone(), scope))
    };
    buckets.iter().map(scope).collect()
}

impl HttpTable {
    fn grant(&self, caps: &GrantCaps) -> Result<HttpGrant, Wrong> {
        let allow = targets(&self.allow)?;
        for (list, by) in &caps.http_allow {
            if let Some(target) = allow.iter().find(|target| !list.iter().any(|cap| cap.covers(target))) {
                let rule = format!("has {target}, which is not among the targets that {by} allows");
                return Err(Wrong::new(&["grants", "http", "allow"], rule));
            }
        }
        let key = |name| ["grants", "http", name];
        let requests = caps.requests.grant_or(&key("requests"), self.requests.map(u64::from), REQUESTS)?;
        Ok(HttpGrant {
            allow,
            request_bytes_max: caps.request_bytes.grant_or(&key("request_bytes"), self.request_bytes, REQUEST_BYTES)?,
            response_bytes_max: caps.response_bytes.grant_or(
                &key("response_bytes"),
                self.response_bytes,
                RESPONSE_BYTES,
            )?,
            requests_max: u32::try_from(requests).unwrap_or(u32::MAX),
        })
    }
}

impl ScratchTable {
    fn grant(&self, caps: &GrantCaps) -> Result<ScratchGrant, Wrong> {
        if caps.scratch_bytes.value == 0 {
            let rule = format!("is asked for, but {} takes it away", caps.scratch_bytes.by);
            return Err(Wrong::new(&["grants", "scratch"], rule));
        }
        let key = |name| ["grants", "scratch", name];
        let files = caps.scratch_files.grant_or(&key("files"), self.files.map(u64::from), SCRATCH_FILES)?;
        Ok(ScratchGrant {
            bytes_max: caps.scratch_bytes.grant_or(&key("bytes"), self.bytes, SCRATCH_BYTES)?,
            files_max: u32::try_from(files).unwrap_or(u32::MAX),
        })
    }
}

impl CallsTable {
    fn grant(&self) -> Result<CallsGrant, Wrong> {
        match &self.functions {
            Functions::All(AllWord::All) => Ok(CallsGrant::All),
            Functions::Only(names) => {
                let parse = |text: &String| {
                    Name::parse(text)
                        .map_err(|error| Wrong::new(&["grants", "calls", "functions"], format!("is wrong: {error}")))
                };
                Ok(CallsGrant::Only(names.iter().map(parse).collect::<Result<_, _>>()?))
            }
        }
    }
}

/// Whether `file`, with its links followed, lies in one of `directories`, with theirs followed.
pub(super) fn is_in_one_of(file: &Path, directories: &[PathBuf]) -> bool {
    directories.iter().filter_map(|dir| dir.canonicalize().ok()).any(|dir| file.starts_with(dir))
}
