//! `baton why`: where a call is and why, or where its time went.

use std::io::Write as _;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use baton_broker::{Inspect, Presence, Why};
use baton_model::{HostId, Split};
use serde_json::json;

use super::cancel::{function_of, no_such_call};
use crate::args::{Common, Why as Arguments};
use crate::exit::Exit;
use crate::settings::Settings;

pub(crate) async fn run(common: &Common, arguments: &Arguments) -> anyhow::Result<Exit> {
    let broker = Settings::read(common)?.caller()?;
    let function = match function_of(&broker, &arguments.id, arguments.function.as_ref()).await? {
        Ok(function) => function,
        Err(absent) => return Ok(no_such_call("any function", &arguments.id, absent)),
    };
    let hosts: Vec<HostId> = Presence::new(&broker)?.roll().await?.into_iter().map(|seen| seen.id).collect();
    let why = match Inspect::new(&broker)?.why(&hosts, &function, &arguments.id).await? {
        Ok(why) => why,
        Err(absent) => return Ok(no_such_call(&function.to_string(), &arguments.id, absent)),
    };
    let mut out = std::io::stdout().lock();
    if arguments.json {
        let mut whole = json!(why);
        if !why.rooms.is_empty() {
            whole["hosts"] = json!(why.rooms);
        }
        writeln!(out, "{whole}")?;
    } else {
        print(&mut out, &why)?;
    }
    Ok(Exit::Ok)
}

fn print(out: &mut impl std::io::Write, why: &Why) -> std::io::Result<()> {
    let Why { function, id, state, attempt, .. } = why;
    write!(out, "{function} {id} is {state}")?;
    if let Some(status) = why.status {
        write!(out, " ({status}) after {attempt} attempts")?;
    } else {
        write!(out, ", attempt {attempt}")?;
    }
    if let Some(host) = &why.host {
        write!(out, ", at host {host}")?;
    }
    if let Some(since) = why.since_ms {
        write!(out, ", for {}", ago(since))?;
    }
    writeln!(out)?;
    if let Some(waits_for) = why.waits_for {
        writeln!(out, "  waits because {}", waits_for.text())?;
    }
    if !why.priority.is_normal() {
        writeln!(out, "  among the {} calls of its function", why.priority)?;
    }
    for room in &why.rooms {
        let held = room.held.map_or(String::new(), |held| format!("; {}", held.text()));
        let function = if room.has_function { "has the function" } else { "does not have the function" };
        writeln!(
            out,
            "  host {} ({}) {function}, and {} of {} seats taken{held}",
            room.host, room.state, room.in_flight, room.seats
        )?;
    }
    if let Some(due) = why.due_ms {
        writeln!(out, "  due {}", when(due))?;
    }
    if let Some(deadline) = why.deadline_ms {
        writeln!(out, "  deadline {}", when(deadline))?;
    }
    match &why.time {
        Some(time) => print_time(out, time)?,
        None if why.status.is_some() => {
            writeln!(out, "  where its time went is told of calls that were run and took 10 ms or more")?;
        }
        None => {}
    }
    Ok(())
}

fn print_time(out: &mut impl std::io::Write, time: &Split) -> std::io::Result<()> {
    let Split { total_us, earlier_us, last, settle_ms } = *time;
    writeln!(out, "  took {} in all", ms(total_us))?;
    if earlier_us > 0 {
        writeln!(out, "  earlier attempts {:>14}", ms(earlier_us))?;
    }
    let parts = [
        ("queue", last.queue_us),
        ("admission", last.admission_us),
        ("instantiate", last.instantiate_us),
        ("run", last.run_us),
        ("host calls", last.host_us),
    ];
    for (name, us) in parts {
        writeln!(out, "  {name:16} {:>14}", ms(us))?;
    }
    match settle_ms {
        Some(settle_ms) => writeln!(out, "  {:16} {:>14}", "settle", format!("{settle_ms} ms")),
        None => writeln!(out, "  {:16} {:>14}", "settle", "not known"),
    }
}

fn ms(us: u64) -> String {
    format!("{}.{:03} ms", us / 1_000, us % 1_000)
}

fn ago(at_ms: u64) -> String {
    format!("{} s", (UNIX_EPOCH + Duration::from_millis(at_ms)).elapsed().unwrap_or_default().as_secs())
}

fn when(at_ms: u64) -> String {
    let at = UNIX_EPOCH + Duration::from_millis(at_ms);
    match at.duration_since(SystemTime::now()) {
        Ok(left) => format!("in {:.1} s", left.as_secs_f64()),
        Err(_) => format!("{} ago", ago(at_ms)),
    }
}
