//! Taking over what other hosts left, and putting back what waited. As `sweeper.rs` and `promoter.rs`.

use std::collections::BTreeMap;
use std::rc::Rc;

use baton_model::HostId;

use super::{GROUP, Host, runner};
use crate::command;
use crate::history::{Claim, Way, key, stream};
use crate::net::{Ask, Link, Lost};
use crate::redis::{Reply, word};
use crate::time::{MS, SECOND, first};

/// As in the app's sweeper.
const SHARED_FOR: u64 = 400 * MS;
const SURE_FOR: u64 = SECOND;
const OTHERS_PAUSE: u64 = 100 * MS;
const ROUND_EVERY: u64 = 4;

struct Agenda {
    due: BTreeMap<usize, u64>,
    left: BTreeMap<usize, BTreeMap<String, u64>>,
}

struct Swept {
    next_lapse: i64,
    whole: Vec<String>,
    mine_left: i64,
    others_left: i64,
}

pub(super) async fn run(host: Rc<Host>) {
    let (sim, lease) = (host.sim.clone(), host.settings.lease);
    while host.roster.borrow().is_none() {
        sim.sleep(5 * MS).await;
    }
    let all = 0..host.settings.functions;
    let mut agenda = Agenda { due: all.clone().map(|function| (function, sim.now())).collect(), left: BTreeMap::new() };
    let (mut round_at, mut rounds, mut failures) = (sim.now(), 0_u64, 0);
    while !host.is_draining.get() {
        let next = agenda.due.values().min().copied().unwrap_or(round_at).min(round_at);
        if let Ok(gone) = first(host.to_sweeper.pop(), sim.sleep(next.saturating_sub(sim.now()))).await {
            for function in all.clone() {
                agenda.due.insert(function, sim.now());
                if gone.is_crash {
                    agenda.left.entry(function).or_default().insert(gone.host.clone(), sim.now());
                }
            }
            continue;
        }
        let now = sim.now();
        if round_at <= now {
            let has_others = host.roster.borrow().as_ref().is_some_and(crate::peers::Roster::has_others);
            if has_others || rounds.is_multiple_of(ROUND_EVERY) {
                all.clone().for_each(|function| _ = agenda.due.insert(function, now));
            }
            rounds += 1;
            round_at = now + lease;
        }
        let due: Vec<usize> = agenda.due.iter().filter(|(_, at)| **at <= now).map(|(function, _)| *function).collect();
        for function in due {
            match sweep(&host, function, &mut agenda).await {
                Ok(Some(wait)) => _ = agenda.due.insert(function, sim.now() + wait),
                Ok(None) => _ = agenda.due.remove(&function),
                Err(Lost) => {
                    host.look_for_lost().await;
                    failures += 1;
                    sim.sleep(host.backoff(failures)).await;
                    continue;
                }
            }
            failures = 0;
        }
    }
}

/// Waits for a seat in turn, before the reader.
async fn seat_in_turn(host: &Rc<Host>) {
    host.wanted.set(host.wanted.get() + 1);
    let wait = async {
        while host.seats.get() == 0 {
            host.sim.sleep(2 * MS).await;
        }
    };
    // The reader may hold all that are free, and gives them back when it is woken.
    let mut wait = Box::pin(wait);
    if first(&mut wait, host.wake_reader()).await.is_err() {
        wait.await;
    }
    host.wanted.set(host.wanted.get() - 1);
    host.seats.set(host.seats.get() - 1);
    host.seat_freed.push(());
}

async fn sweep(host: &Rc<Host>, function: usize, agenda: &mut Agenda) -> Result<Option<u64>, Lost> {
    let mut seats = host.seats.replace(0);
    if seats == 0 && agenda.left.contains_key(&function) {
        seat_in_turn(host).await;
        seats = 1;
    }
    let swept = sweep_with(host, function, agenda, &mut seats).await;
    host.free_seats(seats);
    swept
}

async fn sweep_with(
    host: &Rc<Host>,
    function: usize,
    agenda: &mut Agenda,
    seats: &mut usize,
) -> Result<Option<u64>, Lost> {
    let Some(roster) = host.roster.borrow().clone() else { return Ok(Some(host.settings.lease)) };
    let (now, mut is_shared) = (host.sim.now(), true);
    let mut gone: Vec<HostId> = Vec::new();
    if let Some(left) = agenda.left.get_mut(&function) {
        left.retain(|gone, _| !roster.has(&HostId::parse(gone).expect("an id")));
        is_shared = left.values().all(|since| now - since < SHARED_FOR);
        gone = left.keys().filter_map(|gone| HostId::parse(gone)).collect();
        if !left.values().all(|since| now - since < SURE_FOR) {
            gone = host.without_connection(&host.queue, &gone).await?;
        }
    }
    let share = if is_shared { roster.share(&format!("f{function}").parse().expect("a name")) } else { (1, 0) };
    let plan = |cut: &[String], room: usize| {
        let mut args =
            command!(GROUP, host.name, host.settings.lease / MS, room, share.0.max(1), share.1, gone.len(), cut.len());
        args.extend(gone.iter().map(word).chain(cut.iter().map(word)));
        for (other, lease) in roster.others() {
            args.extend(command!(other, lease.as_millis()));
        }
        args
    };
    let mut swept = ask(host, function, plan(&[], *seats), seats).await?;
    if !swept.whole.is_empty() {
        let silent = std::mem::take(&mut swept.whole);
        if *seats == 0 {
            seat_in_turn(host).await;
            *seats = 1;
        }
        host.cut_off(&host.queue, &silent, false).await?;
        swept = ask(host, function, plan(&silent, *seats), seats).await?;
    }
    if swept.mine_left > 0 || !swept.whole.is_empty() {
        return Ok(Some(MS));
    }
    if swept.others_left > 0 {
        return Ok(Some(OTHERS_PAUSE));
    }
    agenda.left.remove(&function);
    Ok(u64::try_from(swept.next_lapse).ok().map(|ms| (ms + 5) * MS))
}

async fn ask(host: &Rc<Host>, function: usize, args: Vec<Vec<u8>>, seats: &mut usize) -> Result<Swept, Lost> {
    let keys = command!(stream(function), key(function, "claims"), key(function, "delayed"), key(function, "timers"));
    let claim =
        Claim { function, host: host.name.clone(), entry: String::new(), epoch: 0, call: None, way: Way::Sweep };
    let asked = host.sim.now();
    let replies = host.queue.ask_all(vec![Ask::Run("sweep", keys, args)], vec![claim]).await?;
    let [lapse, due, taken, whole, mine, others, _] = replies[0].parts() else {
        host.server.history.borrow_mut().broke("I1", format!("sweep.lua failed: {:?}", replies[0]));
        return Err(Lost);
    };
    for row in taken.parts() {
        let claims = u32::try_from(row.parts()[1].to_int()).unwrap_or(0);
        let entry = Reply::Array(vec![row.parts()[0].clone(), row.parts()[2].clone()]);
        let call = host.parse(function, &entry, claims, asked, None).and_then(|call| host.board(call));
        if let Some(call) = call
            && *seats > 0
        {
            *seats -= 1;
            runner::start(host, call);
        }
    }
    if let Ok(wait) = u64::try_from(due.to_int()) {
        host.to_promoter.push((function, wait * MS));
    }
    let whole = whole.parts().iter().map(Reply::to_text).collect();
    Ok(Swept { next_lapse: lapse.to_int(), whole, mine_left: mine.to_int(), others_left: others.to_int() })
}

/// Puts calls back into their streams when their wait is over.
pub(super) async fn promote(host: Rc<Host>) {
    let sim = &host.sim;
    let link = Link::new(&host.server, host.process, None);
    let mut agenda: BTreeMap<usize, u64> = BTreeMap::new();
    let mut failures = 0;
    while !host.is_draining.get() {
        let next = agenda.iter().min_by_key(|(_, at)| **at).map(|(function, at)| (*function, *at));
        let wait = next.map_or(SECOND * 3600, |(_, at)| at.saturating_sub(sim.now()));
        if let Ok((function, wait)) = first(host.to_promoter.pop(), sim.sleep(wait)).await {
            let at = sim.now() + wait;
            agenda.entry(function).and_modify(|have| *have = at.min(*have)).or_insert(at);
            continue;
        }
        let Some((function, _)) = next else { continue };
        let keys = command!(stream(function), key(function, "delayed"), key(function, "timers"), key(function, "dead"));
        match link.ask(Ask::Run("promote", keys, command!(100, 262_144))).await {
            Ok(answer) => {
                failures = 0;
                match answer.parts().get(1).and_then(|ms| u64::try_from(ms.to_int()).ok()) {
                    Some(ms) => _ = agenda.insert(function, sim.now() + ms.max(1) * MS),
                    None => _ = agenda.remove(&function),
                }
            }
            Err(Lost) => {
                failures += 1;
                sim.sleep(host.backoff(failures)).await;
            }
        }
    }
}
