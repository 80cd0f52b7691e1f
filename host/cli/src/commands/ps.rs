//! `baton ps`: functions and hosts, or the calls that run now.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::time::{Duration, SystemTime};

use baton_broker::{Admin, BrokerConfig, Inspect, Presence, QueueDepth, RunStage, RunningCall};
use baton_model::{Digest, FunctionId, HostId, HostRecord};
use serde::Serialize;

use crate::args::{Common, Ps};
use crate::exit::Exit;
use crate::settings::Settings;

/// The most calls that are listed.
const CALLS_MAX: usize = 1000;

#[derive(Serialize)]
struct Overview {
    functions: Vec<FunctionRow>,
    hosts: Vec<HostRecord>,
}

#[derive(Serialize)]
struct FunctionRow {
    function: FunctionId,
    /// Which host has it loaded, and as which component.
    hosts: Vec<Loaded>,
    #[serde(flatten)]
    depth: QueueDepth,
}

#[derive(Serialize)]
struct Loaded {
    host: HostId,
    digest: Digest,
}

pub(crate) async fn run(common: &Common, ps: &Ps) -> anyhow::Result<Exit> {
    let broker = Settings::read(common)?.caller()?;
    if ps.calls {
        return calls(&broker, ps.json).await;
    }
    let presence = Presence::new(&broker)?;
    let admin = Admin::new(&broker)?;
    let known = presence.known().await?;
    let mut hosts: Vec<HostRecord> = presence.records(&known).await?.into_iter().flatten().collect();
    hosts.sort_by(|a, b| a.id.cmp(&b.id));

    let mut rows: BTreeMap<FunctionId, Vec<Loaded>> = BTreeMap::new();
    for function in admin.functions().await? {
        rows.entry(function).or_default();
    }
    for host in &hosts {
        for loaded in &host.functions {
            let row = rows.entry(loaded.function.clone()).or_default();
            row.push(Loaded { host: host.id.clone(), digest: loaded.digest });
        }
    }
    let mut functions = Vec::with_capacity(rows.len());
    for (function, hosts) in rows {
        let depth = admin.depth(&function).await?;
        functions.push(FunctionRow { function, hosts, depth });
    }
    let overview = Overview { functions, hosts };
    let mut out = std::io::stdout().lock();
    if ps.json {
        writeln!(out, "{}", serde_json::to_string(&overview)?)?;
    } else {
        print(&mut out, &overview)?;
    }
    Ok(Exit::Ok)
}

#[derive(Serialize)]
struct Calls {
    calls: Vec<RunningCall>,
}

/// What hosts have in their hands.
async fn calls(broker: &BrokerConfig, as_json: bool) -> anyhow::Result<Exit> {
    let functions = Admin::new(broker)?.functions().await?;
    let mut calls = Inspect::new(broker)?.running(&functions, CALLS_MAX).await?;
    calls.sort_by_key(|call| call.since_ms);
    let mut out = std::io::stdout().lock();
    if as_json {
        writeln!(out, "{}", serde_json::to_string(&Calls { calls })?)?;
        return Ok(Exit::Ok);
    }
    let widest = |text: fn(&RunningCall) -> usize, least| calls.iter().map(text).max().unwrap_or(0).max(least);
    let function = widest(|call| call.function.to_string().len(), 8);
    let id = widest(|call| call.id.as_str().len(), 4);
    writeln!(out, "{:function$}  {:id$}  {:>7}  {:8}  {:>7}  HOST", "FUNCTION", "CALL", "ATTEMPT", "STATE", "SINCE")?;
    for call in &calls {
        let (name, since) = (call.function.to_string(), up(call.since_ms));
        let state = match call.state {
            RunStage::Starting => "starting",
            RunStage::Running => "running",
        };
        writeln!(
            out,
            "{name:function$}  {:id$}  {:>7}  {state:8}  {since:>7}  {}",
            call.id.as_str(),
            call.attempt,
            call.host
        )?;
    }
    if calls.is_empty() {
        writeln!(out, "(none runs now)")?;
    }
    if calls.len() == CALLS_MAX {
        writeln!(out, "(and perhaps more: {CALLS_MAX} are listed at the most)")?;
    }
    Ok(Exit::Ok)
}

fn print(out: &mut impl std::io::Write, overview: &Overview) -> std::io::Result<()> {
    let width = overview.functions.iter().map(|row| row.function.to_string().len()).max().unwrap_or(0).max(8);
    writeln!(
        out,
        "{:width$}  {:12}  {:>5}  {:>7}  {:>7}  {:>7}  {:>5}",
        "FUNCTION", "DIGEST", "HOSTS", "QUEUED", "RUNNING", "DELAYED", "DEAD"
    )?;
    for row in &overview.functions {
        let mut digests: Vec<String> = row.hosts.iter().map(|loaded| loaded.digest.short()).collect();
        digests.dedup();
        let digest = match &digests[..] {
            [] => "-".to_owned(),
            [one] => one.clone(),
            several => format!("{} kinds", several.len()),
        };
        let QueueDepth { queued, pending, delayed, dead } = row.depth;
        let (name, hosts) = (row.function.to_string(), row.hosts.len());
        writeln!(out, "{name:width$}  {digest:12}  {hosts:>5}  {queued:>7}  {pending:>7}  {delayed:>7}  {dead:>5}")?;
    }
    if overview.functions.is_empty() {
        writeln!(out, "(none: put a component into the plugins folder of a host)")?;
    }
    writeln!(out)?;
    let width = overview.hosts.iter().map(|host| host.id.as_str().len()).max().unwrap_or(0).max(4);
    writeln!(out, "{:width$}  {:9}  {:>5}  {:>9}  {:>7}  VERSION", "HOST", "STATE", "SEATS", "FUNCTIONS", "UP")?;
    for host in &overview.hosts {
        let (id, state) = (host.id.as_str(), host.state.to_string());
        let (functions, up) = (host.functions.len(), up(host.started_ms));
        writeln!(out, "{id:width$}  {state:9}  {:>5}  {functions:>9}  {up:>7}  {}", host.seats, host.version)?;
    }
    if overview.hosts.is_empty() {
        writeln!(out, "(none: start one with `baton serve`)")?;
    }
    Ok(())
}

/// How long ago it started, in its two largest units.
fn up(started_ms: u64) -> String {
    let started = SystemTime::UNIX_EPOCH + Duration::from_millis(started_ms);
    let seconds = started.elapsed().unwrap_or_default().as_secs();
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m{}s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{}h{}m", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{}d{}h", seconds / 86_400, seconds % 86_400 / 3600),
    }
}
