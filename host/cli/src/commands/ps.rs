//! `baton ps`: functions and hosts, or the calls that run now.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::time::{Duration, SystemTime};

use baton_broker::{Admin, BrokerConfig, Inspect, Presence, QueueDepth};
use baton_model::{
    AboutSchedule, Digest, FunctionId, HostId, HostRecord, HostState, MachineSummary, RunningCall, RunningState,
    ScheduleView, machines, schedule_views,
};
use serde::Serialize;

use crate::args::{Common, Ps};
use crate::exit::Exit;
use crate::settings::Settings;

/// How many gone hosts are shown unless all are asked for.
const GONE_SHOWN: usize = 5;
/// The most calls that are listed.
const CALLS_MAX: usize = 1000;

#[derive(Serialize)]
struct Overview {
    functions: Vec<FunctionRow>,
    hosts: Vec<HostRecord>,
    machines: Vec<MachineSummary>,
}

#[derive(Serialize)]
struct FunctionRow {
    function: FunctionId,
    /// Whether a host takes calls of it now.
    available: bool,
    healthy_hosts: usize,
    /// Whether calls wait for a host to come.
    callers_waiting: bool,
    /// Which host has it loaded, and as which component.
    hosts: Vec<Loaded>,
    #[serde(flatten)]
    depth: QueueDepth,
    /// When it is called by itself.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    schedules: Vec<ScheduleView>,
}

#[derive(Serialize)]
struct Loaded {
    host: HostId,
    digest: Digest,
    state: HostState,
}

pub(crate) async fn run(common: &Common, ps: &Ps) -> anyhow::Result<Exit> {
    let broker = Settings::read(common)?.caller()?;
    if ps.calls {
        return calls(&broker, ps.json).await;
    }
    let presence = Presence::new(&broker)?;
    let admin = Admin::new(&broker)?;
    let mut hosts = presence.survey().await?;

    let mut rows: BTreeMap<FunctionId, (Vec<Loaded>, Vec<AboutSchedule>)> = BTreeMap::new();
    for function in admin.functions().await? {
        rows.entry(function).or_default();
    }
    for host in hosts.iter().filter(|host| host.state != HostState::Offline) {
        for loaded in &host.functions {
            let (hosts, schedules) = rows.entry(loaded.function.clone()).or_default();
            hosts.push(Loaded { host: host.id.clone(), digest: loaded.digest, state: host.state });
            schedules.extend_from_slice(&loaded.schedules);
        }
    }
    let mut functions = Vec::with_capacity(rows.len());
    let now_ms = millis(SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default());
    for (function, (hosts, schedules)) in rows {
        let depth = admin.depth(&function).await?;
        let healthy_hosts = hosts.iter().filter(|loaded| loaded.state == HostState::Online).count();
        let (available, callers_waiting) = (healthy_hosts > 0, healthy_hosts == 0 && depth.queued > 0);
        let schedules = schedule_views(schedules, now_ms);
        functions.push(FunctionRow { function, available, healthy_hosts, callers_waiting, hosts, depth, schedules });
    }
    let in_flight =
        Inspect::new(&broker)?.in_flight(&functions.iter().map(|row| row.function.clone()).collect::<Vec<_>>()).await?;
    for host in &mut hosts {
        host.in_flight = in_flight.get(&host.id).copied().unwrap_or(0);
    }
    let overview = Overview { functions, machines: machines(&hosts), hosts };
    let mut out = std::io::stdout().lock();
    if ps.json {
        writeln!(out, "{}", serde_json::to_string(&overview)?)?;
    } else {
        print(&mut out, &overview, ps.all)?;
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
    let hosts: Vec<HostId> = Presence::new(broker)?.roll().await?.into_iter().map(|seen| seen.id).collect();
    let mut calls = Inspect::new(broker)?.running(&hosts, &functions, CALLS_MAX).await?;
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
        let (name, since) = (call.function.to_string(), ago(call.since_ms));
        let state = match call.state {
            RunningState::Starting => "starting",
            RunningState::Running => "running",
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

fn print(out: &mut impl std::io::Write, overview: &Overview, all: bool) -> std::io::Result<()> {
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
    print_schedules(out, &overview.functions)?;
    let states: Vec<String> = overview.hosts.iter().map(state).collect();
    let width = overview.hosts.iter().map(|host| host.id.as_str().len()).max().unwrap_or(0).max(4);
    let wide = states.iter().map(String::len).max().unwrap_or(0).max(5);
    let head = ("HOST", "STATE", "SEATS", "FUNCTIONS", "UP", "LAST SEEN");
    writeln!(
        out,
        "{:width$}  {:wide$}  {:>5}  {:>9}  {:>7}  {:>9}  VERSION",
        head.0, head.1, head.2, head.3, head.4, head.5
    )?;
    let shown = if all { overview.hosts.len() } else { overview.hosts.len().min(live(overview) + GONE_SHOWN) };
    for (host, state) in overview.hosts[..shown].iter().zip(&states) {
        let id = host.id.as_str();
        let is_gone = host.state == HostState::Offline;
        let up = if is_gone { "-".to_owned() } else { ago(host.started_ms) };
        let seen = if is_gone { host.last_seen_ms.map_or("-".to_owned(), ago) } else { "now".to_owned() };
        let functions = host.functions.len();
        writeln!(
            out,
            "{id:width$}  {state:wide$}  {:>5}  {functions:>9}  {up:>7}  {seen:>9}  {}",
            host.seats, host.version
        )?;
    }
    if shown < overview.hosts.len() {
        writeln!(out, "({} more that are gone; --all lists them)", overview.hosts.len() - shown)?;
    }
    if overview.hosts.is_empty() {
        writeln!(out, "(none: start one with `baton serve`)")?;
    }
    Ok(())
}

/// The schedules of all functions, if there are any, the next tick first.
fn print_schedules(out: &mut impl std::io::Write, functions: &[FunctionRow]) -> std::io::Result<()> {
    let mut all: Vec<(&FunctionId, &ScheduleView)> =
        functions.iter().flat_map(|row| row.schedules.iter().map(|schedule| (&row.function, schedule))).collect();
    if all.is_empty() {
        return Ok(());
    }
    all.sort_by_key(|(_, schedule)| schedule.next_ms.unwrap_or(u64::MAX));
    let widest =
        |text: fn(&(&FunctionId, &ScheduleView)) -> usize, least| all.iter().map(text).max().unwrap_or(0).max(least);
    let function = widest(|(function, _)| function.to_string().len(), 8);
    let name = widest(|(_, schedule)| schedule.about.name.len(), 8);
    let cron = widest(|(_, schedule)| schedule.about.cron.len(), 4);
    writeln!(out, "{:function$}  {:name$}  {:cron$}  {:>10}  TIME ZONE", "FUNCTION", "SCHEDULE", "CRON", "NEXT TICK")?;
    for (of, schedule) in all {
        let AboutSchedule { name: called, cron: text, timezone } = &schedule.about;
        let next = schedule.next_ms.map_or("-".to_owned(), until);
        writeln!(out, "{:function$}  {called:name$}  {text:cron$}  {next:>10}  {timezone}", of.to_string())?;
    }
    writeln!(out)
}

/// A host's state, with the reason if it is gone.
fn state(host: &HostRecord) -> String {
    match host.reason {
        Some(reason) => format!("{} ({reason})", host.state),
        None => host.state.to_string(),
    }
}

fn live(overview: &Overview) -> usize {
    overview.hosts.iter().filter(|host| host.state != HostState::Offline).count()
}

/// How long ago that was, in its two largest units.
pub(crate) fn ago(at_ms: u64) -> String {
    let at = SystemTime::UNIX_EPOCH + Duration::from_millis(at_ms);
    span(at.elapsed().unwrap_or_default())
}

/// How long it is until then.
fn until(at_ms: u64) -> String {
    let at = SystemTime::UNIX_EPOCH + Duration::from_millis(at_ms);
    format!("in {}", span(at.duration_since(SystemTime::now()).unwrap_or_default()))
}

fn span(time: Duration) -> String {
    let seconds = time.as_secs();
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m{}s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{}h{}m", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{}d{}h", seconds / 86_400, seconds % 86_400 / 3600),
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
