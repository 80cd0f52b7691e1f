//! `baton tenant`: who the tenants are, their tokens, and their Redis users.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::Context as _;
use base64::Engine as _;
use baton_model::{Digest, Name};
use serde_json::json;

use crate::args::{Common, Tenant, TenantAcl, TenantAdd, TenantLs, TenantToken};
use crate::exit::{Exit, UsageError};
use crate::settings::{self, Settings};
use crate::token_file::{KeptToken, TokenFile};

pub(crate) fn run(common: &Common, command: &Tenant) -> anyhow::Result<Exit> {
    let settings = Settings::read(common)?;
    match command {
        Tenant::Add(add) => self::add(&settings, add),
        Tenant::Token(token) => self::token(common, &settings, token),
        Tenant::Ls(ls) => self::ls(&settings, ls),
        Tenant::Acl(acl) => self::acl(&settings, acl),
    }
}

/// Where a tenant's functions lie: the tenant `default` has no folder of its own.
fn folder(plugins: &Path, tenant: &Name) -> PathBuf {
    if tenant.as_str() == "default" { plugins.to_owned() } else { plugins.join(format!("@{tenant}")) }
}

fn file(plugins: &Path, tenant: &Name) -> PathBuf {
    folder(plugins, tenant).join("tenant.toml")
}

/// The same, if it is the tenant's own: behind a link may be the file of another one. Hosts follow none either.
fn own_file(plugins: &Path, tenant: &Name) -> anyhow::Result<PathBuf> {
    let path = file(plugins, tenant);
    let is_link = |path: &Path| path.symlink_metadata().is_ok_and(|meta| meta.is_symlink());
    let folder = path.parent().filter(|folder| *folder != plugins);
    if let Some(link) = folder.into_iter().chain([path.as_path()]).find(|path| is_link(path)) {
        let rule = format!("{} is a link, which hosts do not follow; put the file itself there", link.display());
        return Err(UsageError(rule).into());
    }
    Ok(path)
}

fn add(settings: &Settings, add: &TenantAdd) -> anyhow::Result<Exit> {
    let TenantAdd { plugins, name } = add;
    let plugins = plugins.dir(settings);
    let path = own_file(plugins, name)?;
    if path.exists() {
        return Err(UsageError(format!("{name} is there already: {}", path.display())).into());
    }
    let folder = folder(plugins, name);
    std::fs::create_dir_all(&folder).with_context(|| format!("cannot make the folder {}", folder.display()))?;
    TokenFile::make(path.clone(), &beginning(name))?;
    println!("{}", path.display());
    eprintln!("{name} has its folder; put components into it, and give it a token with `baton tenant token {name}`");
    Ok(Exit::Ok)
}

/// What a new tenant's file says. Nobody relies on a new tenant yet, so it begins with the narrower rule.
fn beginning(tenant: &Name) -> String {
    format!(
        "# What the tenant {tenant} may have. Hosts take changes while they run.\n\n\
         # Notices go to reply channels that start with `{tenant}.` alone, so that nobody can have a host write into the\n\
         # channel of another tenant.\n\
         own_replies_only = true\n\n\
         # Its share of a host, beside the weights of the others.\n\
         # weight = 1\n"
    )
}

fn token(common: &Common, settings: &Settings, token: &TenantToken) -> anyhow::Result<Exit> {
    let TenantToken { plugins, tenant, name, expires, remove, operator: _, json } = token;
    let (path, key): (PathBuf, &[&str]) = match tenant {
        Some(tenant) => {
            let path = own_file(plugins.dir(settings), tenant)?;
            if !path.exists() && tenant.as_str() != "default" {
                let rule = format!("there is no {}; make the tenant with `baton tenant add {tenant}`", path.display());
                return Err(UsageError(rule).into());
            }
            (path, &["tokens"])
        }
        None => (settings::file(common), &["http", "operator_tokens"]),
    };
    let shown = path.display().to_string();
    let mut file = TokenFile::open(path, key)?;
    if let Some(name) = remove {
        if !file.remove(name) {
            return Err(UsageError(format!("{shown} has no token {name:?}; see `baton tenant ls`")).into());
        }
        file.save()?;
        eprintln!("the token {name:?} is gone from {shown}{}", when_it_holds(tenant.as_ref()));
        return Ok(Exit::Ok);
    }
    let name = name.clone().unwrap_or_else(|| file.free_name());
    let expires = expires.map(end_after).transpose()?;
    let text = new_token();
    let kept = KeptToken { name, sha256: Digest::of(text.as_bytes()), expires };
    file.add(&kept)?;
    file.save()?;
    let KeptToken { name, expires, .. } = kept;
    if *json {
        println!("{}", json!({ "token": text, "name": name, "expires": expires, "file": shown }));
    } else {
        println!("{text}");
        eprintln!(
            "this is the only time that the token is shown; {shown} has its hash under the name {name:?}{}",
            when_it_holds(tenant.as_ref())
        );
    }
    Ok(Exit::Ok)
}

/// Settings are read at a start, tenants' files whenever they change.
fn when_it_holds(tenant: Option<&Name>) -> &'static str {
    if tenant.is_some() { "" } else { "; hosts read it when they start" }
}

fn end_after(duration: Duration) -> anyhow::Result<String> {
    let end = SystemTime::now().checked_add(duration);
    let end = end.filter(|end| *end < SystemTime::UNIX_EPOCH + Duration::from_secs(253_402_300_799));
    let end = end.ok_or_else(|| UsageError("--expires is after the year 9999; leave it out".to_owned()))?;
    Ok(humantime::format_rfc3339_seconds(end).to_string())
}

/// 256 random bits, with a start by which tools that look for leaked secrets know it.
fn new_token() -> String {
    format!("baton_{}", base64::prelude::BASE64_URL_SAFE_NO_PAD.encode(rand::random::<[u8; 32]>()))
}

fn ls(settings: &Settings, ls: &TenantLs) -> anyhow::Result<Exit> {
    let plugins = ls.plugins.dir(settings);
    let mut rows = Vec::new();
    for tenant in tenants(plugins)? {
        let functions = functions(&folder(plugins, &tenant))?;
        let path = own_file(plugins, &tenant)?;
        let tokens = if path.exists() { TokenFile::open(path, &["tokens"])?.tokens()? } else { Vec::new() };
        rows.push((tenant, functions, tokens));
    }
    if ls.json {
        let tenants = rows.iter().map(|(tenant, functions, tokens)| {
            let tokens = tokens.iter().map(|token| json!({ "name": token.name, "expires": token.expires }));
            json!({ "tenant": tenant, "functions": functions, "tokens": tokens.collect::<Vec<_>>() })
        });
        println!("{}", json!({ "tenants": tenants.collect::<Vec<_>>() }));
        return Ok(Exit::Ok);
    }
    println!("{:<24} {:>9}  TOKENS", "TENANT", "FUNCTIONS");
    for (tenant, functions, tokens) in rows {
        let tokens = tokens.into_iter().map(|token| match token.expires {
            Some(end) => format!("{} (until {end})", token.name),
            None => token.name,
        });
        let tokens: Vec<String> = tokens.collect();
        let tokens = if tokens.is_empty() { "none".to_owned() } else { tokens.join(", ") };
        println!("{:<24} {:>9}  {tokens}", tenant.as_str(), functions.len());
    }
    Ok(Exit::Ok)
}

/// Everybody who has a folder, and `default`, who needs none.
fn tenants(plugins: &Path) -> anyhow::Result<Vec<Name>> {
    let mut found = vec![Name::parse("default")?];
    for name in names(plugins)? {
        if let Some(tenant) = name.strip_prefix('@').and_then(|name| Name::parse(name).ok())
            && plugins.join(&name).is_dir()
        {
            found.push(tenant);
        }
    }
    found.sort();
    found.dedup();
    Ok(found)
}

fn functions(folder: &Path) -> anyhow::Result<Vec<Name>> {
    let stems = names(folder)?.into_iter().filter_map(|name| Name::parse(name.strip_suffix(".wasm")?).ok());
    let mut found: Vec<Name> = stems.collect();
    found.sort();
    Ok(found)
}

/// What lies in a folder; nothing if it is not there.
fn names(folder: &Path) -> anyhow::Result<Vec<String>> {
    let entries = match std::fs::read_dir(folder) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries,
    };
    let unreadable = || format!("cannot look into {}", folder.display());
    let mut found = Vec::new();
    for entry in entries.with_context(unreadable)? {
        found.extend(entry.with_context(unreadable)?.file_name().into_string());
    }
    Ok(found)
}

fn acl(settings: &Settings, acl: &TenantAcl) -> anyhow::Result<Exit> {
    let TenantAcl { plugins, tenant, user, json } = acl;
    let path = own_file(plugins.dir(settings), tenant)?;
    let has_own_replies =
        settings.own_replies_only() || TokenFile::open(path.clone(), &[])?.is_true("own_replies_only");
    let user = user.clone().unwrap_or_else(|| match tenant.as_str() {
        // The user `default` is everybody who gives no name, and no tenant has a dot in its name.
        "default" => "default.tenant".to_owned(),
        name => name.to_owned(),
    });
    let is_word = |user: &str| user.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
    if user.is_empty() || user == "default" || user.len() > 128 || !is_word(&user) {
        let rule = "--user must be 1 to 128 letters, digits, -, _ and ., and not `default`, which is everybody who gives no name";
        return Err(UsageError(rule.to_owned()).into());
    }
    let password: String = rand::random::<[u8; 32]>().iter().map(|byte| format!("{byte:02x}")).collect();
    let keys = settings.broker("").keys();
    let line = baton_broker::tenant_acl(&keys, tenant, &user, Digest::of(password.as_bytes()));
    if *json {
        println!("{}", json!({ "user": user, "password": password, "acl": line }));
        return Ok(Exit::Ok);
    }
    println!("{line}");
    eprintln!("password of {user}, shown this once: {password}");
    if !has_own_replies {
        eprintln!(
            "careful: until {} says `own_replies_only = true`, this user can have notices written into the channels of \
             other tenants",
            path.display()
        );
    }
    Ok(Exit::Ok)
}
