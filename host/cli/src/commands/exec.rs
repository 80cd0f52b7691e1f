//! `baton exec`: executions of durable functions, begun, sent events, looked at, moved and replayed.

mod print;
mod replay;

use std::io::Write as _;
use std::time::{Duration, Instant};

use baton_broker::{
    Admin, Asked, Beginning, Begun, BrokerConfig, Caller, ExecutionView, Executions, Inspect, Loaded, Taken, Withdrawn,
};
use baton_model::execution::{History, Received};
use baton_model::{CallId, FunctionId};
use serde_json::json;

use crate::args::{Common, Exec, ExecEvent, ExecList, ExecMove, ExecOne, ExecResult, ExecStart};
use crate::data;
use crate::exit::{Exit, UsageError};
use crate::settings::Settings;

/// Between two looks at what a host makes of a wish.
const LOOK: Duration = Duration::from_millis(50);
/// The most executions that one step of a list brings.
const PAGE: usize = 1_000;

pub(crate) async fn run(common: &Common, exec: &Exec) -> anyhow::Result<Exit> {
    let settings = Settings::read(common)?;
    match exec {
        // A history in a file needs no Redis.
        Exec::Replay(replay) => replay::run(&settings, replay).await,
        Exec::Start(start) => begin(&Door::open(&settings)?, start).await,
        Exec::Event(event) => hand_over(&Door::open(&settings)?, event).await,
        Exec::Show(one) => show(&Door::open(&settings)?, one).await,
        Exec::History(one) => history(&Door::open(&settings)?, one).await,
        Exec::Result(result) => self::result(&Door::open(&settings)?, result).await,
        Exec::Cancel(one) => cancel(&Door::open(&settings)?, one).await,
        Exec::List(list) => self::list(&Door::open(&settings)?, list).await,
        Exec::Move(wish) => move_to(&Door::open(&settings)?, wish).await,
    }
}

/// The way to Redis.
struct Door {
    broker: BrokerConfig,
    executions: Executions,
}

impl Door {
    fn open(settings: &Settings) -> anyhow::Result<Self> {
        let broker = settings.caller()?;
        Ok(Self { executions: Executions::new(&broker)?, broker })
    }

    /// The function that was named, or else the one that has an execution of this id. None if there is none; that was said.
    async fn function(&self, id: &CallId, named: Option<&FunctionId>) -> anyhow::Result<Option<FunctionId>> {
        if let Some(function) = named {
            return Ok(Some(function.clone()));
        }
        let functions = Admin::new(&self.broker)?.functions().await?;
        let mut owners = self.executions.owners(id, &functions).await?;
        match (owners.pop(), owners.pop()) {
            (None, _) => {
                absent("no function has an", id);
                Ok(None)
            }
            (Some(owner), None) => Ok(Some(owner)),
            (Some(owner), Some(other)) => {
                let rule = format!(
                    "more than one function has an execution {id}: {owner} and {other}; say which with --function"
                );
                Err(UsageError(rule).into())
            }
        }
    }

    /// The execution that is meant. None if there is none; that was said.
    async fn load(&self, one: &ExecOne) -> anyhow::Result<Option<(FunctionId, Loaded)>> {
        let Some(function) = self.function(&one.id, one.function.as_ref()).await? else { return Ok(None) };
        let loaded = self.executions.load(&function, &one.id).await?;
        if loaded.is_none() {
            absent(&format!("{function} has no"), &one.id);
        }
        Ok(loaded.map(|loaded| (function, loaded)))
    }
}

fn absent(whose: &str, id: &CallId) {
    eprintln!("{whose} execution {id}: the id is wrong, or what is known of it has expired");
}

async fn begin(door: &Door, start: &ExecStart) -> anyhow::Result<Exit> {
    let ExecStart { function, content, id, header, json } = start;
    let id = id.clone().unwrap_or_else(Caller::new_id);
    let beginning = Beginning { input: data::content(content)?, headers: header.clone(), parent: None };
    if !Inspect::new(&door.broker)?.has_stream(function).await? {
        eprintln!("no host has had {function} yet; the execution begins when one has it");
    }
    let is_new = match door.executions.start(function, &id, beginning, None).await? {
        Begun::New => true,
        Begun::Before | Begun::Ended => false,
    };
    if *json {
        println!("{}", json!({ "id": id, "function": function, "new": is_new }));
    } else {
        println!("{id}");
        if !is_new {
            eprintln!("it was begun before; that one stands");
        }
    }
    Ok(Exit::Ok)
}

async fn hand_over(door: &Door, event: &ExecEvent) -> anyhow::Result<Exit> {
    let ExecEvent { id, name, function, content, event_id, json } = event;
    let payload = data::content(content)?;
    let Some(function) = door.function(id, function.as_ref()).await? else { return Ok(Exit::Failed) };
    let event_id = event_id.clone().unwrap_or_else(Caller::new_id);
    let received = Received { id: event_id.clone(), name: name.clone(), payload };
    let taken = door.executions.event(&function, id, received).await?;
    match taken {
        Taken::At { position, is_new } if *json => {
            println!(
                "{}",
                json!({ "event": event_id, "position": position, "new": is_new, "id": id, "function": function })
            );
        }
        Taken::At { is_new, .. } => {
            println!("{event_id}");
            if !is_new {
                eprintln!("an event of this id came before; that one stands");
            }
        }
        Taken::Unknown | Taken::Ended | Taken::Full | Taken::Damaged => {
            let (_, why) = taken.refusal().unwrap_or_default();
            eprintln!("the execution {id} of {function} {why}");
            return Ok(Exit::Failed);
        }
    }
    Ok(Exit::Ok)
}

async fn show(door: &Door, one: &ExecOne) -> anyhow::Result<Exit> {
    let Some((function, loaded)) = door.load(one).await? else { return Ok(Exit::Failed) };
    let view = loaded.view(&one.id);
    let mut out = std::io::stdout().lock();
    if one.json {
        let mut whole = json!(view);
        whole["function"] = json!(function);
        writeln!(out, "{whole}")?;
    } else {
        print::view(&mut out, &function, &view)?;
    }
    Ok(Exit::Ok)
}

async fn history(door: &Door, one: &ExecOne) -> anyhow::Result<Exit> {
    let Some((function, loaded)) = door.load(one).await? else { return Ok(Exit::Failed) };
    let history = History::new(&function, &one.id, &loaded.state, loaded.length, loaded.log);
    let mut out = std::io::stdout().lock();
    if one.json {
        writeln!(out, "{}", serde_json::to_string(&history)?)?;
        return Ok(Exit::Ok);
    }
    match history.log() {
        Ok(log) => {
            print::log(&mut out, &log)?;
            Ok(Exit::Ok)
        }
        Err(error) => {
            eprintln!("{function} {}: {error}; --json prints it as it is", one.id);
            Ok(Exit::Failed)
        }
    }
}

async fn result(door: &Door, result: &ExecResult) -> anyhow::Result<Exit> {
    let ExecResult { one, wait } = result;
    let began = Instant::now();
    let Some(function) = door.function(&one.id, one.function.as_ref()).await? else { return Ok(Exit::Failed) };
    let caller = Caller::new(&door.broker, data::reply_channel())?;
    if door.executions.owners(&one.id, std::slice::from_ref(&function)).await?.is_empty() {
        absent(&format!("{function} has no"), &one.id);
        return Ok(Exit::Failed);
    }
    match caller.wait(&function, &one.id, wait.saturating_sub(began.elapsed())).await? {
        Some(result) => data::print_result(&function, &result, one.json),
        None => match door.executions.load(&function, &one.id).await? {
            None => {
                absent(&format!("{function} has no"), &one.id);
                Ok(Exit::Failed)
            }
            Some(loaded) if loaded.ended_ms.is_some() => {
                eprintln!(
                    "it has ended, and its result has expired; `baton exec history {}` has the end of it",
                    one.id
                );
                Ok(Exit::Failed)
            }
            Some(loaded) => {
                match loaded.stuck {
                    Some(why) => eprintln!("it has no result, and is stuck: {why}"),
                    None => eprintln!("it has no result yet; `baton exec show {}` says what it waits for", one.id),
                }
                Ok(Exit::NoAnswer)
            }
        },
    }
}

async fn cancel(door: &Door, one: &ExecOne) -> anyhow::Result<Exit> {
    let Some(function) = door.function(&one.id, one.function.as_ref()).await? else { return Ok(Exit::Failed) };
    match door.executions.cancel(&function, &one.id).await? {
        Withdrawn::Done(result) if one.json => {
            data::print_result(&function, &result, true)?;
            Ok(Exit::Ok)
        }
        Withdrawn::Done(_) => {
            println!("{function} {} is taken back", one.id);
            Ok(Exit::Ok)
        }
        Withdrawn::Ended => {
            eprintln!("{function} {} had ended before; its result stands", one.id);
            Ok(Exit::Failed)
        }
        Withdrawn::Unknown => {
            absent(&format!("{function} has no"), &one.id);
            Ok(Exit::Failed)
        }
    }
}

async fn list(door: &Door, list: &ExecList) -> anyhow::Result<Exit> {
    let functions = match &list.function {
        Some(function) => vec![function.clone()],
        None => Admin::new(&door.broker)?.functions().await?,
    };
    let limit = list.limit.max(1);
    let mut found: Vec<(FunctionId, ExecutionView)> = Vec::new();
    for function in &functions {
        let (mut behind, mut of_this) = (None, 0);
        while of_this <= limit {
            let (views, next) = door.executions.list(function, list.state.as_deref(), behind.as_deref(), PAGE).await?;
            of_this += views.len();
            found.extend(views.into_iter().map(|view| (function.clone(), view)));
            let Some(next) = next else { break };
            behind = Some(next);
        }
    }
    found.sort_by_key(|(_, view)| std::cmp::Reverse(view.began_ms));
    let more = found.len() > limit;
    found.truncate(limit);
    let mut out = std::io::stdout().lock();
    if list.json {
        let views: Vec<_> = found
            .iter()
            .map(|(function, view)| {
                let mut view = json!(view);
                view["function"] = json!(function);
                view
            })
            .collect();
        writeln!(out, "{}", json!({ "executions": views, "more": more }))?;
    } else {
        print::list(&mut out, &found, more)?;
    }
    Ok(Exit::Ok)
}

async fn move_to(door: &Door, wish: &ExecMove) -> anyhow::Result<Exit> {
    let ExecMove { one, to, wait } = wish;
    let Some(function) = door.function(&one.id, one.function.as_ref()).await? else { return Ok(Exit::Failed) };
    match door.executions.move_to(&function, &one.id, *to).await? {
        Asked::Done => {}
        Asked::Ended => {
            eprintln!("{function} {} has ended; it runs on nothing any more", one.id);
            return Ok(Exit::Failed);
        }
        Asked::Unknown => {
            absent(&format!("{function} has no"), &one.id);
            return Ok(Exit::Failed);
        }
    }
    let began = Instant::now();
    loop {
        let Some(loaded) = door.executions.load(&function, &one.id).await? else {
            absent(&format!("{function} has no"), &one.id);
            return Ok(Exit::Failed);
        };
        if loaded.wish.is_empty() || loaded.ended_ms.is_some() {
            return moved(&function, one, &loaded.view(&one.id));
        }
        if began.elapsed() >= *wait {
            eprintln!("no host has tried it yet; `baton exec show {}` says what comes of it", one.id);
            return Ok(Exit::NoAnswer);
        }
        tokio::time::sleep(LOOK.min(wait.saturating_sub(began.elapsed()))).await;
    }
}

/// Says what came of a wish.
fn moved(function: &FunctionId, one: &ExecOne, view: &ExecutionView) -> anyhow::Result<Exit> {
    let details = view.details.as_ref();
    let refused = details.and_then(|details| details.refused.as_deref());
    let digest = details.and_then(|details| details.digest);
    let stands = view.stuck.as_deref().or(details.and_then(|details| details.damage.as_deref()));
    if view.ended_ms.is_some() {
        eprintln!("{function} {} has ended before it was moved; it runs on nothing any more", one.id);
        return Ok(Exit::Failed);
    }
    let mut out = std::io::stdout().lock();
    if one.json {
        let said = json!({ "id": one.id, "function": function, "digest": digest, "refused": refused, "stuck": stands });
        writeln!(out, "{said}")?;
    }
    match (refused, stands, digest) {
        (Some(why), _, _) => eprintln!("{function} {} is not moved to {}", one.id, print::refusal(why)),
        (None, Some(why), _) => eprintln!("{function} {} is stuck: {why}", one.id),
        (None, None, digest) => {
            if !one.json {
                let digest = digest.map_or_else(|| "no component yet".to_owned(), |digest| digest.to_string());
                writeln!(out, "{function} {} runs on {digest}", one.id)?;
            }
            return Ok(Exit::Ok);
        }
    }
    Ok(Exit::Failed)
}
