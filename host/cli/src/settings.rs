//! Settings: arguments over `BATON_SECTION__KEY` over the settings file over defaults. The only file that reads the
//! environment.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use baton_app::{CapsTable, Examiner, HostConfig, SecurityTable, embedded};
use baton_broker::{BrokerConfig, RedisTls};
use baton_engine::CompileSpeed;
use baton_gateway::{Auth, GatewayConfig, TlsFiles};
use baton_model::{Digest, Limits, RetryPolicy, Token};
use config::{Config, Environment, File, FileFormat};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde::Deserialize;

use crate::args::{Common, Serve};
use crate::commands::compile_worker;
use crate::exit::UsageError;

/// The settings file that is read if it is there.
const FILE: &str = "baton.toml";

/// Variables under which hosts of workflows are set up elsewhere, and the settings of ours that they mean.
const WORKFLOW: [(&str, &str); 5] = [
    ("WORKFLOW_WORKER_COUNT", "BATON_CALLS__SEATS"),
    ("WORKFLOW_REDIS_STREAM_PREFIX", "BATON_REDIS__PREFIX"),
    ("WORKFLOW_REDIS_CONSUMER_GROUP", "BATON_REDIS__CONSUMER_GROUP"),
    ("WORKFLOW_REDIS_BATCH_SIZE", "BATON_CALLS__BATCH_MAX"),
    ("WORKFLOW_REDIS_IDLE_TIMEOUT_MS", "BATON_CALLS__LEASE_MS"),
];

/// The name of theirs by which a setting of ours was said, in brackets, where it was; for people.
fn said_as(key: &str) -> String {
    let own = format!("BATON_{}", key.replace('.', "__").to_uppercase());
    let is_said = |name: &str| std::env::var_os(name).is_some();
    let theirs = WORKFLOW.iter().find(|(theirs, ours)| *ours == own && is_said(theirs) && !is_said(&own));
    theirs.map_or_else(String::new, |(theirs, _)| format!(" (here {theirs})"))
}

/// Everything that can be set. Each part of the host gets its own from this; none of them knows this.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Settings {
    redis: Redis,
    data: Data,
    plugins: Plugins,
    calls: Calls,
    retry: Retry,
    drain: Drain,
    http: Http,
    executions: Executions,
    tenants: CapsTable,
    security: SecurityTable,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Redis {
    url: Option<String>,
    prefix: Option<String>,
    consumer_group: Option<String>,
    tls_ca: Option<PathBuf>,
    tls_cert: Option<PathBuf>,
    tls_key: Option<PathBuf>,
    /// What the three files hold.
    #[serde(skip)]
    tls: Option<RedisTls>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Data {
    dir: PathBuf,
}

impl Default for Data {
    fn default() -> Self {
        Self { dir: PathBuf::from(".baton") }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Plugins {
    dir: PathBuf,
    rescan_ms: u64,
}

impl Default for Plugins {
    fn default() -> Self {
        Self { dir: PathBuf::from("plugins"), rescan_ms: 2000 }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Calls {
    seats: u32,
    batch_max: u32,
    lease_ms: u64,
    result_ttl_ms: u64,
    payload_bytes_max: usize,
    time_max_ms: u64,
    memory_bytes_max: usize,
    result_bytes_max: usize,
    log_bytes_max: usize,
}

impl Default for Calls {
    fn default() -> Self {
        let limits = Limits::default();
        Self {
            seats: 512,
            batch_max: 128,
            lease_ms: 30_000,
            result_ttl_ms: 3_600_000,
            payload_bytes_max: 1 << 20,
            time_max_ms: u64::try_from(limits.time_max.as_millis()).unwrap_or(u64::MAX),
            memory_bytes_max: limits.memory_bytes_max,
            result_bytes_max: limits.result_bytes_max,
            log_bytes_max: limits.log_bytes_max,
        }
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Retry {
    attempts_max: Option<u32>,
    backoff_base_ms: Option<u64>,
    backoff_max_ms: Option<u64>,
    hosts_lost_max: Option<u32>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Executions {
    log_ttl_ms: u64,
}

impl Default for Executions {
    fn default() -> Self {
        Self { log_ttl_ms: 7 * 24 * 3_600_000 }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Drain {
    timeout_ms: u64,
}

impl Default for Drain {
    fn default() -> Self {
        Self { timeout_ms: 30_000 }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Http {
    listen: SocketAddr,
    enabled: bool,
    auth: AuthSetting,
    operator_tokens: Vec<OperatorToken>,
    hosts: Vec<String>,
    tls_cert: Option<PathBuf>,
    tls_key: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum AuthSetting {
    Auto,
    Required,
    Off,
}

/// As `baton tenant token --operator` writes it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct OperatorToken {
    name: String,
    sha256: Digest,
    expires: Option<String>,
}

impl Redis {
    fn read_tls(&self) -> anyhow::Result<Option<RedisTls>> {
        let client = both("redis", self.tls_cert.as_ref(), self.tls_key.as_ref())?;
        if self.tls_ca.is_none() && client.is_none() {
            return Ok(None);
        }
        if !self.url.as_ref().is_some_and(|url| url.starts_with("rediss://")) {
            let rule =
                "the settings redis.tls_ca, redis.tls_cert and redis.tls_key are for TLS; give a rediss:// URL too";
            return Err(UsageError(rule.to_owned()).into());
        }
        let ca = self.tls_ca.as_ref().map(|path| certificates(path)).transpose()?;
        let key = |path: &Path| {
            let bytes = pem(path)?;
            let read = PrivateKeyDer::from_pem_slice(&bytes);
            read.map_err(|_| UsageError(format!("there is no key in {}; it must be PEM", path.display())))?;
            anyhow::Ok(bytes)
        };
        let client = client.map(|(cert, of_cert)| anyhow::Ok((certificates(cert)?, key(of_cert)?))).transpose()?;
        Ok(Some(RedisTls { ca, client }))
    }
}

/// A certificate and its key: neither is of use alone.
fn both<'a>(
    section: &str,
    cert: Option<&'a PathBuf>,
    key: Option<&'a PathBuf>,
) -> anyhow::Result<Option<(&'a PathBuf, &'a PathBuf)>> {
    match (cert, key) {
        (Some(cert), Some(key)) => Ok(Some((cert, key))),
        (None, None) => Ok(None),
        (Some(_), None) | (None, Some(_)) => {
            let rule = format!("of the settings {section}.tls_cert and {section}.tls_key one is missing; set both");
            Err(UsageError(rule).into())
        }
    }
}

fn pem(path: &Path) -> anyhow::Result<Vec<u8>> {
    Ok(std::fs::read(path).map_err(|error| UsageError(format!("cannot read {}: {error}", path.display())))?)
}

fn certificates(path: &Path) -> anyhow::Result<Vec<u8>> {
    let bytes = pem(path)?;
    let found: Result<Vec<CertificateDer<'_>>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
    match found {
        Ok(found) if !found.is_empty() => Ok(bytes),
        Ok(_) | Err(_) => {
            Err(UsageError(format!("there is no certificate in {}; it must be PEM", path.display())).into())
        }
    }
}

impl OperatorToken {
    fn read(&self) -> anyhow::Result<Token> {
        let Self { name, sha256, expires } = self;
        let expires_ms = expires.as_ref().map(|text| {
            let end = humantime::parse_rfc3339_weak(text).ok().and_then(|end| end.duration_since(UNIX_EPOCH).ok());
            end.and_then(|end| u64::try_from(end.as_millis()).ok()).ok_or_else(|| {
                let rule = "is no time such as 2027-01-01T00:00:00Z";
                UsageError(format!("the setting http.operator_tokens: expires of {name:?} is {text:?}, which {rule}"))
            })
        });
        Ok(Token { name: name.clone(), sha256: *sha256, expires_ms: expires_ms.transpose()? })
    }
}

impl Default for Http {
    fn default() -> Self {
        let listen = GatewayConfig::default().listen;
        Self {
            listen,
            enabled: true,
            auth: AuthSetting::Auto,
            operator_tokens: Vec::new(),
            hosts: Vec::new(),
            tls_cert: None,
            tls_key: None,
        }
    }
}

/// What is wrong, without the line of the file that TOML errors show: a password may stand in it.
fn without_text(error: &config::ConfigError, file: &Path) -> String {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    match toml_edit::Document::parse(text.as_str()) {
        Ok(_) => error.to_string(),
        Err(wrong) => {
            let line = wrong.span().map_or(1, |span| text[..span.start].matches('\n').count() + 1);
            format!("{}: line {line}: {}", file.display(), wrong.message().trim_end())
        }
    }
}

impl Settings {
    /// Reads the settings file and the environment.
    ///
    /// # Errors
    /// A [`UsageError`] that names the key, the rule and where it was set.
    pub(crate) fn read(common: &Common) -> anyhow::Result<Self> {
        let file = match &common.config {
            Some(path) => File::from(path.as_path()).format(FileFormat::Toml),
            None => File::from(Path::new(FILE)).format(FileFormat::Toml).required(false),
        };
        // Only BATON_SECTION__KEY is a setting; other names that start alike are not ours to refuse.
        let variables = std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value)));
        let said: HashMap<String, String> =
            variables.filter_map(|(name, value)| Some((name, value.into_string().ok()?))).collect();
        let of_workflows = |(theirs, ours): &(&str, &str)| Some(((*ours).to_owned(), said.get(*theirs)?.clone()));
        let mut ours: HashMap<String, String> = WORKFLOW.iter().filter_map(of_workflows).collect();
        // Where both are said, our own name is meant.
        ours.extend(said.into_iter().filter(|(name, _)| name.starts_with("BATON_") && name.contains("__")));
        let environment = Environment::with_prefix("BATON")
            .prefix_separator("_")
            .separator("__")
            .try_parsing(true)
            .source(Some(ours));
        let read = Config::builder().add_source(file).add_source(environment).build();
        let file = common.config.as_deref().unwrap_or(Path::new(FILE));
        let mut settings: Self = read
            .and_then(Config::try_deserialize)
            .map_err(|error| UsageError(format!("the settings are wrong: {}", without_text(&error, file))))?;
        settings.redis.url =
            settings.redis.url.or_else(|| std::env::var("REDIS_URL").ok().filter(|url| !url.is_empty()));
        if let Some(url) = &common.redis {
            settings.redis.url = Some(url.clone());
        }
        if let Some(data) = &common.data_dir {
            settings.data.dir.clone_from(data);
        }
        settings.check()?;
        settings.redis.tls = settings.redis.read_tls()?;
        Ok(settings)
    }

    /// Whether notices of every tenant go to its own reply channels alone.
    pub(crate) fn own_replies_only(&self) -> bool {
        self.tenants.own_replies_only()
    }

    fn check(&self) -> anyhow::Result<()> {
        let calls = &self.calls;
        let wrong = |key: &str, rule: &str| Err(UsageError(format!("the setting {key}{} {rule}", said_as(key))).into());
        if calls.seats == 0 || calls.seats > 10_000 {
            return wrong("calls.seats", "must be 1 to 10000; more instances do not fit into one process");
        }
        if calls.lease_ms < 100 {
            return wrong("calls.lease_ms", "must be at least 100; a shorter lease lapses before it can be renewed");
        }
        if calls.time_max_ms == 0 || calls.memory_bytes_max < 65_536 {
            return wrong("calls.time_max_ms", "must be above 0, and calls.memory_bytes_max at least 65536");
        }
        if let Err(rule) = self.tenants.check() {
            return Err(UsageError(format!("the setting [tenants] is wrong: {rule}")).into());
        }
        if let Err(rule) = self.security.check() {
            return Err(UsageError(format!("the setting [security] is wrong: {rule}")).into());
        }
        if self.retry.attempts_max == Some(0) {
            return wrong("retry.attempts_max", "must be at least 1; the first attempt counts");
        }
        let is_plain =
            |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.:".contains(&b));
        if self.redis.prefix.as_deref().is_some_and(|prefix| !is_plain(prefix)) {
            return wrong("redis.prefix", "must be letters, digits, -, _, . and : only");
        }
        if self.redis.consumer_group.as_deref().is_some_and(|group| !is_plain(group)) {
            return wrong("redis.consumer_group", "must be letters, digits, -, _, . and : only");
        }
        if !(1..=128).contains(&calls.batch_max) {
            return wrong("calls.batch_max", "must be 1 to 128; a read that brings more leaves less for other hosts");
        }
        if self.executions.log_ttl_ms < 60_000 {
            return wrong(
                "executions.log_ttl_ms",
                "must be at least 60000; whoever began an execution looks at it later",
            );
        }
        Ok(())
    }

    /// Where the embedded Redis and the cache live.
    pub(crate) fn data(&self) -> &Path {
        &self.data.dir
    }

    /// The folder of functions.
    pub(crate) fn plugins(&self) -> &Path {
        &self.plugins.dir
    }

    /// The URL that was given. None asks for the embedded server.
    pub(crate) fn redis_url(&self) -> Option<&str> {
        self.redis.url.as_deref()
    }

    /// What an attempt may use.
    pub(crate) fn limits(&self) -> Limits {
        let calls = &self.calls;
        Limits {
            time_max: Duration::from_millis(calls.time_max_ms),
            memory_bytes_max: calls.memory_bytes_max,
            payload_bytes_max: calls.payload_bytes_max,
            result_bytes_max: calls.result_bytes_max,
            log_bytes_max: calls.log_bytes_max,
        }
    }

    fn retry(&self) -> RetryPolicy {
        let retry = RetryPolicy::default();
        RetryPolicy {
            attempts_max: self.retry.attempts_max.unwrap_or(retry.attempts_max),
            backoff_base: self.retry.backoff_base_ms.map_or(retry.backoff_base, Duration::from_millis),
            backoff_max: self.retry.backoff_max_ms.map_or(retry.backoff_max, Duration::from_millis),
            on: retry.on,
            hosts_lost_max: self.retry.hosts_lost_max.unwrap_or(retry.hosts_lost_max),
        }
    }

    /// What says of a component what a host would say.
    pub(crate) fn examiner(&self) -> Examiner {
        let (tenants, security) = (self.tenants.clone(), self.security.clone());
        Examiner { limits: self.limits(), retry: self.retry(), tenants, security, variable }
    }

    /// How to deal with the Redis at `url`.
    pub(crate) fn broker(&self, url: &str) -> BrokerConfig {
        let mut broker = BrokerConfig::new(url);
        if let Some(prefix) = &self.redis.prefix {
            broker.prefix.clone_from(prefix);
        }
        if let Some(group) = &self.redis.consumer_group {
            broker.group.clone_from(group);
        }
        broker.tls.clone_from(&self.redis.tls);
        broker.lease = Duration::from_millis(self.calls.lease_ms);
        broker.result_ttl = Duration::from_millis(self.calls.result_ttl_ms);
        broker.log_ttl = Duration::from_millis(self.executions.log_ttl_ms);
        broker.payload_bytes_max = self.calls.payload_bytes_max;
        broker
    }

    /// How a caller deals with Redis: the URL that was given, or the embedded server that a host runs here.
    ///
    /// # Errors
    /// A sentence with the mend, if no URL was given and no host runs here.
    pub(crate) fn caller(&self) -> anyhow::Result<BrokerConfig> {
        if let Some(url) = self.redis_url() {
            return Ok(self.broker(url));
        }
        let data = self.data();
        let here = data.canonicalize().unwrap_or_else(|_| data.to_owned());
        if !embedded::socket_path(&here).exists() {
            return Err(baton_broker::BrokerError::Unreachable(format!(
                "no host runs with the data directory {}; start one with `baton serve`, or give a --redis URL",
                data.display()
            ))
            .into());
        }
        Ok(self.broker(&embedded::url(&here)))
    }

    /// Where HTTP is served; none if it is not.
    ///
    /// # Errors
    /// A [`UsageError`] if a host would neither serve HTTP nor run functions, or if a token of an operator is none.
    fn http(&self, serve: &Serve) -> anyhow::Result<Option<GatewayConfig>> {
        let is_served = !serve.no_http && (self.http.enabled || serve.http.is_some());
        if !is_served && serve.no_functions {
            let rule = "--no-functions leaves HTTP alone, and http.enabled is false; give --http ADDR:PORT as well";
            return Err(UsageError(rule.to_owned()).into());
        }
        let listen = serve.http.unwrap_or(self.http.listen);
        let auth = match self.http.auth {
            AuthSetting::Auto => Auth::Auto,
            AuthSetting::Required => Auth::Required,
            AuthSetting::Off => Auth::Off,
        };
        let operator_tokens = self.http.operator_tokens.iter().map(OperatorToken::read).collect::<Result<_, _>>()?;
        let tls = both("http", self.http.tls_cert.as_ref(), self.http.tls_key.as_ref())?;
        let tls = tls.map(|(cert, key)| TlsFiles { cert: cert.clone(), key: key.clone() });
        let hosts = self.http.hosts.clone();
        Ok(is_served.then(|| GatewayConfig { listen, auth, operator_tokens, hosts, tls, ..GatewayConfig::default() }))
    }

    /// A host at the Redis at `url`.
    ///
    /// # Errors
    /// A [`UsageError`] if it would neither serve HTTP nor run functions.
    pub(crate) fn host(&self, url: &str, serve: &Serve, compile: CompileSpeed) -> anyhow::Result<HostConfig> {
        Ok(HostConfig {
            broker: self.broker(url),
            plugins: serve.plugins.clone().unwrap_or_else(|| self.plugins.dir.clone()),
            data: self.data.dir.clone(),
            seats: serve.seats.unwrap_or(self.calls.seats),
            batch: self.calls.batch_max,
            limits: self.limits(),
            retry: self.retry(),
            tenants: self.tenants.clone(),
            security: self.security.clone(),
            variable,
            drain_timeout: serve.drain_timeout.unwrap_or(Duration::from_millis(self.drain.timeout_ms)),
            rescan: Duration::from_millis(self.plugins.rescan_ms.max(10)),
            compiler: compile_worker::compiler(),
            compile,
            http: self.http(serve)?,
            functions: !serve.no_functions,
        })
    }
}

/// A variable that an operator lets a function have as a secret.
fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// The settings file: the one that was named, or the one that is read if it is there.
pub(crate) fn file(common: &Common) -> PathBuf {
    common.config.clone().unwrap_or_else(|| PathBuf::from(FILE))
}

/// What `RUST_LOG` says, if anything.
pub(crate) fn log_filter() -> Option<String> {
    std::env::var("RUST_LOG").ok().filter(|filter| !filter.is_empty())
}

/// Whether colours are unwanted, as in <https://no-color.org>.
pub(crate) fn no_color() -> bool {
    std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty())
}

/// Which rule a host for `make mutants` is to leave out, if any. The suites hand variables that begin otherwise on to hosts.
#[cfg(feature = "mutants")]
pub(crate) fn rule_to_leave_out() -> Option<String> {
    std::env::var("MUTANT").ok().filter(|rule| !rule.is_empty())
}
