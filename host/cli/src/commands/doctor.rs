//! `baton doctor`: what would keep Baton from working well here, and the mend for each.

use std::path::Path;
use std::process::{Command, Stdio};

use baton_app::embedded;
use baton_broker::ServerFacts;
use serde::Serialize;

use crate::args::{Common, Doctor};
use crate::exit::Exit;
use crate::settings::Settings;

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Grade {
    /// As it should be.
    Ok,
    /// It works, with a price that is named.
    Warn,
    /// It does not work, or loses calls.
    Fail,
}

/// One thing that was looked at.
#[derive(Debug, Serialize)]
struct Finding {
    grade: Grade,
    what: &'static str,
    found: String,
    /// What to do about it; none if it is as it should be.
    mend: Option<String>,
}

impl Finding {
    fn ok(what: &'static str, found: impl Into<String>) -> Self {
        Self { grade: Grade::Ok, what, found: found.into(), mend: None }
    }

    fn new(grade: Grade, what: &'static str, found: impl Into<String>, mend: impl Into<String>) -> Self {
        Self { grade, what, found: found.into(), mend: Some(mend.into()) }
    }
}

pub(crate) async fn run(common: &Common, doctor: &Doctor) -> anyhow::Result<Exit> {
    let settings = Settings::read(common)?;
    let mut findings = Vec::new();
    redis(&settings, &mut findings).await;
    findings.extend([memory_maps(), open_files(), page_scan(), wasm_target()]);
    findings.push(folder(doctor.plugins.as_deref().unwrap_or_else(|| settings.plugins())));
    let worst_is_fail = findings.iter().any(|finding| finding.grade == Grade::Fail);
    if doctor.json {
        println!("{}", serde_json::to_string(&findings)?);
    } else {
        print(&findings);
    }
    Ok(if worst_is_fail { Exit::Failed } else { Exit::Ok })
}

fn print(findings: &[Finding]) {
    for finding in findings {
        let grade = match finding.grade {
            Grade::Ok => "ok  ",
            Grade::Warn => "warn",
            Grade::Fail => "FAIL",
        };
        println!("{grade}  {:18}  {}", finding.what, finding.found);
        if let Some(mend) = &finding.mend {
            println!("{:24}  -> {mend}", "");
        }
    }
}

async fn redis(settings: &Settings, findings: &mut Vec<Finding>) {
    let broker = match settings.caller() {
        Ok(broker) => broker,
        Err(_) => return findings.push(embedded_server()),
    };
    let facts = match ServerFacts::ask(&broker).await {
        Ok(facts) => facts,
        Err(error) => {
            let mend = "start it, or give the right --redis URL";
            return findings.push(Finding::new(Grade::Fail, "redis", error.to_string(), mend));
        }
    };
    findings.push(version(&facts));
    findings.push(eviction(&facts));
    findings.push(persistence(&facts));
    if facts.role != "master" {
        let mend = "give the URL of the primary";
        findings.push(Finding::new(
            Grade::Fail,
            "redis role",
            format!("it is a {}, which takes no writes", facts.role),
            mend,
        ));
    }
}

/// No host runs here and no URL was given: then the embedded server will be used, if one is installed.
fn embedded_server() -> Finding {
    match embedded::installed() {
        Some(program) => Finding::ok("redis", format!("no host runs here; the next one will start {program}")),
        None => Finding::new(
            Grade::Fail,
            "redis",
            "neither redis-server nor valkey-server is installed, and no URL was given",
            "apt-get install redis-server, or give a --redis URL",
        ),
    }
}

fn version(facts: &ServerFacts) -> Finding {
    let found = format!("{} {} at {}", facts.server, facts.version, facts.address);
    let least = if facts.server == "valkey" { (7, 2) } else { (7, 0) };
    match facts.version_numbers() {
        Some(version) if version >= least => Finding::ok("redis version", found),
        Some(_) => {
            let mend = format!("upgrade to {}.{} or newer; the scripts need it", least.0, least.1);
            Finding::new(Grade::Fail, "redis version", found, mend)
        }
        None => {
            Finding::new(Grade::Warn, "redis version", found, "make sure that it is Redis 7.0 or Valkey 7.2, or newer")
        }
    }
}

fn eviction(facts: &ServerFacts) -> Finding {
    let what = "maxmemory-policy";
    let unlimited = facts.maxmemory_bytes == Some(0);
    match facts.maxmemory_policy.as_deref() {
        Some("noeviction") => Finding::ok(what, "noeviction: a full Redis refuses calls and loses none"),
        Some(policy) => {
            let found = format!("{policy}: a full Redis throws away calls and results that were accepted");
            let grade = if unlimited { Grade::Warn } else { Grade::Fail };
            Finding::new(grade, what, found, "CONFIG SET maxmemory-policy noeviction, and in redis.conf")
        }
        None => Finding::new(Grade::Warn, what, "this client may not read it", "make sure that it is noeviction"),
    }
}

/// What a crash of Redis can cost, in one sentence.
fn persistence(facts: &ServerFacts) -> Finding {
    let what = "persistence";
    let mend = "CONFIG SET appendonly yes, CONFIG SET appendfsync always, and in redis.conf";
    match (facts.appendonly, facts.appendfsync.as_deref()) {
        (Some(true), Some("always")) => Finding::ok(
            what,
            "append-only file, fsync always: what Redis has accepted survives a crash of it and of the machine",
        ),
        (Some(true), Some("everysec")) => Finding::new(
            Grade::Warn,
            what,
            "append-only file, fsync everysec: a crash of the machine can lose the calls and results of the last second or two",
            "CONFIG SET appendfsync always, if that is too much",
        ),
        (Some(true), _) => {
            let found = "append-only file without fsync: a crash of the machine can lose the last half minute or more";
            Finding::new(Grade::Warn, what, found, "CONFIG SET appendfsync everysec, or always")
        }
        (Some(false), _) if facts.save.as_deref().is_some_and(|save| !save.is_empty()) => {
            let found = "snapshots alone: a crash of Redis loses every call and result since the last snapshot";
            Finding::new(Grade::Fail, what, found, mend)
        }
        (Some(false), _) => {
            Finding::new(Grade::Fail, what, "none: a crash or restart of Redis loses every call and every result", mend)
        }
        (None, _) => {
            let found = "this client may not read the settings; what a crash can lose is unknown";
            Finding::new(Grade::Warn, what, found, "make sure that there is an append-only file")
        }
    }
}

/// Pooled instances are memory maps, and the kernel counts those.
fn memory_maps() -> Finding {
    let what = "vm.max_map_count";
    let limit =
        std::fs::read_to_string("/proc/sys/vm/max_map_count").ok().and_then(|text| text.trim().parse::<u64>().ok());
    match limit {
        Some(limit) if limit >= 65_530 => {
            Finding::ok(what, format!("{limit}: enough for about {} calls at once", limit / 6))
        }
        Some(limit) => {
            let found = format!("{limit}: enough for about {} calls at once", limit / 6);
            Finding::new(Grade::Warn, what, found, "sysctl -w vm.max_map_count=262144, or fewer --seats")
        }
        None => Finding::new(Grade::Warn, what, "cannot be read", "make sure that it is at least 65530"),
    }
}

/// A host raises its soft limit to the hard one, which is for the system to raise.
fn open_files() -> Finding {
    const ENOUGH: u64 = 16_384;
    let what = "open files";
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let hard = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max open files"))
        .and_then(|line| line.split_whitespace().nth(1));
    let found = format!("at most {}", hard.unwrap_or("unknown"));
    match hard.map(str::parse::<u64>) {
        Some(Ok(limit)) if limit < ENOUGH => {
            let found = format!("{found}: connections and loaded functions share them");
            Finding::new(Grade::Warn, what, found, format!("ulimit -Hn {ENOUGH}, or LimitNOFILE= in the unit"))
        }
        Some(Ok(_) | Err(_)) => Finding::ok(what, format!("{found}: enough for some thousands of functions")),
        None => Finding::new(Grade::Warn, what, found, format!("make sure that it is at least {ENOUGH}")),
    }
}

/// Linux 6.7 tells which pages an instance touched, so that only those are reset.
fn page_scan() -> Finding {
    let what = "kernel";
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let release = release.trim();
    let mut numbers = release.split(['.', '-']).map_while(|part| part.parse::<u32>().ok());
    match (numbers.next(), numbers.next()) {
        (Some(major), Some(minor)) if (major, minor) >= (6, 7) => {
            Finding::ok(what, format!("{release}: resets the memory of an instance page by page"))
        }
        _ => {
            let found = format!("{release}: resets the memory of an instance as a whole, which makes calls slower");
            Finding::new(Grade::Warn, what, found, "Linux 6.7 or newer")
        }
    }
}

fn wasm_target() -> Finding {
    let what = "wasm target";
    let list = Command::new("rustup")
        .args(["target", "list", "--installed"])
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output();
    match list {
        Ok(output) if String::from_utf8_lossy(&output.stdout).lines().any(|line| line == "wasm32-wasip2") => {
            Finding::ok(what, "wasm32-wasip2 is installed; `baton dev` can build Rust functions")
        }
        Ok(_) => {
            let found = "wasm32-wasip2 is not installed; Rust functions cannot be built here";
            Finding::new(Grade::Warn, what, found, "rustup target add wasm32-wasip2")
        }
        Err(_) => {
            let found = "there is no rustup; Rust functions cannot be built here, components from elsewhere run";
            Finding::new(Grade::Warn, what, found, "install Rust with rustup, if you want to build functions here")
        }
    }
}

fn folder(path: &Path) -> Finding {
    let what = "plugins";
    let shown = path.display();
    match std::fs::read_dir(path) {
        Ok(entries) => {
            let is_component = |entry: &std::fs::DirEntry| entry.path().extension().is_some_and(|end| end == "wasm");
            let count = entries.flatten().filter(is_component).count();
            if count == 0 {
                let mend = "put a component there; `make plugins` builds the samples";
                return Finding::new(Grade::Warn, what, format!("{shown} holds no component"), mend);
            }
            Finding::ok(what, format!("{shown} holds {count} components"))
        }
        Err(error) => Finding::new(
            Grade::Fail,
            what,
            format!("{shown} cannot be read: {error}"),
            format!("mkdir -p {shown}, or give --plugins"),
        ),
    }
}
