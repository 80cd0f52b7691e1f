//! Settling: in batches, until Redis answers, without a script where that is sure. As the broker's `settle.rs`.

use std::collections::BTreeMap;
use std::rc::Rc;

use super::{GROUP, Host, Settlement, Settling, Stage};
use crate::command;
use crate::history::{Claim, Way, key, result_key, stream};
use crate::net::{Ask, Command, Link, Lost};
use crate::redis::{Reply, word};
use crate::time::{MS, SECOND};

const TTL_MS: u64 = 3_600_000;
/// How much of a call a dead letter keeps.
const KEPT_BYTES: u64 = 1 << 20;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Settled,
    Fenced,
}

pub(super) async fn run(host: Rc<Host>) {
    let link = Link::new(&host.server, host.process, Some(format!("baton-settler-{}", host.name)));
    loop {
        let mut taken = vec![host.to_settler.pop().await];
        taken.extend(std::iter::from_fn(|| host.to_settler.take()));
        let mut pause = 20 * MS;
        let mut batches = batches(taken);
        while !batches.is_empty() {
            let mut rest = Vec::new();
            for batch in batches {
                match settle(&host, &link, &batch).await {
                    Ok(verdicts) => {
                        batch.into_iter().zip(verdicts).for_each(|(item, verdict)| done(&host, &item, verdict))
                    }
                    Err(Lost) => rest.push(batch),
                }
            }
            if !rest.is_empty() {
                host.sim.sleep(pause).await;
                pause = (pause * 2).min(2 * SECOND);
            }
            batches = rest;
        }
    }
}

/// Answers of one function together, sure ones apart from others; everything else alone.
fn batches(taken: Vec<Settling>) -> Vec<Vec<Settling>> {
    let mut open: BTreeMap<(usize, bool), Vec<Settling>> = BTreeMap::new();
    let mut all = Vec::new();
    for item in taken {
        match item.what {
            Settlement::Finish(_) => open.entry((item.call.function, item.is_first)).or_default().push(item),
            Settlement::Requeue { .. } | Settlement::Bury { .. } => all.push(vec![item]),
        }
    }
    all.extend(open.into_values());
    all
}

fn done(host: &Rc<Host>, item: &Settling, verdict: Verdict) {
    host.sim.log(|| format!("{} is told of {}: {verdict:?}", host.name, item.call.entry));
    host.land(&item.call);
    host.free_seats(usize::from(item.has_seat));
    if let Settlement::Requeue { wait_ms, .. } = item.what
        && wait_ms >= 0
    {
        let wait = if verdict == Verdict::Fenced { 0 } else { wait_ms.unsigned_abs() * MS };
        host.to_promoter.push((item.call.function, wait));
    }
}

fn claim(host: &Host, item: &Settling, way: Way) -> Claim {
    let call = match item.what {
        Settlement::Finish(_) | Settlement::Bury { .. } => Some(item.call.id.clone()),
        Settlement::Requeue { .. } => None,
    };
    let (entry, host) = (item.call.entry.clone(), host.name.clone());
    Claim { function: item.call.function, host, entry, epoch: item.call.epoch, call, way }
}

async fn settle(host: &Rc<Host>, link: &Link, batch: &[Settling]) -> Result<Vec<Verdict>, Lost> {
    let item = &batch[0];
    let call = &item.call;
    let channel = call.reply.as_ref().map(|reply| format!("baton:reply:{reply}")).unwrap_or_default();
    match &item.what {
        Settlement::Finish(_) if !host.settings.rules.result_first => ack_first(host, link, batch).await,
        Settlement::Finish(_) => match sure(host, link, batch).await {
            Some(verdicts) => Ok(verdicts),
            None => by_script(host, link, batch).await,
        },
        Settlement::Requeue { attempt, wait_ms } => {
            let keys = command!(stream(call.function), key(call.function, "claims"), key(call.function, "delayed"));
            let args = command!(GROUP, host.name, call.entry, call.claims, call.id, attempt, call.accepted_ms, wait_ms);
            let claims = vec![claim(host, item, Way::Requeue)];
            let replies = link.ask_all(vec![Ask::Run("requeue", keys, args)], claims).await?;
            verdict(host, &replies[0], -1).map(|verdict| vec![verdict])
        }
        Settlement::Bury { document, reason, attempts } => {
            let result = result_key(call.function, &call.id);
            let keys =
                command!(stream(call.function), key(call.function, "claims"), key(call.function, "dead"), result);
            let mut args = command!(GROUP, host.name, call.entry, call.claims, TTL_MS, channel);
            args.push(document.clone());
            args.extend(command!(call.id, KEPT_BYTES, "reason", reason, "error", "", "attempts", attempts));
            let claims = vec![claim(host, item, Way::Bury)];
            let replies = link.ask_all(vec![Ask::Run("bury", keys, args)], claims).await?;
            verdict(host, &replies[0], 0).map(|verdict| vec![verdict])
        }
    }
}

fn verdict(host: &Host, reply: &Reply, fenced: i64) -> Result<Verdict, Lost> {
    match reply {
        Reply::Int(answer) if *answer == fenced => Ok(Verdict::Fenced),
        Reply::Int(_) => Ok(Verdict::Settled),
        other => {
            host.server.history.borrow_mut().broke("I1", format!("a script failed: {other:?}"));
            Ok(Verdict::Fenced)
        }
    }
}

fn document(item: &Settling) -> &[u8] {
    match &item.what {
        Settlement::Finish(document) | Settlement::Bury { document, .. } => document,
        Settlement::Requeue { .. } => &[],
    }
}

async fn by_script(host: &Rc<Host>, link: &Link, batch: &[Settling]) -> Result<Vec<Verdict>, Lost> {
    let function = batch[0].call.function;
    let id = |item: &&Settling| baton_model::EntryId::parse(&item.call.entry);
    let (first, last) = (batch.iter().min_by_key(id), batch.iter().max_by_key(id));
    let mut keys = command!(stream(function), key(function, "claims"));
    let mut args = command!(GROUP, host.name, TTL_MS);
    args.extend(first.into_iter().chain(last).map(|item| word(&item.call.entry)));
    for item in batch {
        keys.push(word(&result_key(function, &item.call.id)));
        args.extend(command!(item.call.entry, item.call.claims));
        args.push(document(item).to_vec());
        args.push(item.call.reply.as_ref().map_or_else(Vec::new, |reply| word(&format!("baton:reply:{reply}"))));
    }
    let claims = batch.iter().enumerate().map(|(at, item)| claim(host, item, Way::Settle(at))).collect();
    let replies = link.ask_all(vec![Ask::Run("settle", keys, args)], claims).await?;
    if replies[0].parts().len() != batch.len() {
        host.server.history.borrow_mut().broke("I1", format!("settle.lua failed: {:?}", replies[0]));
    }
    replies[0].parts().iter().map(|reply| verdict(host, reply, 0)).collect()
}

/// One transaction without a script. None if it does not serve, or if it is not known whether it did.
async fn sure(host: &Rc<Host>, link: &Link, batch: &[Settling]) -> Option<Vec<Verdict>> {
    let (open, since) = link.connection().await.ok()?;
    let sure_for = (250 * MS).min(host.settings.lease / 8);
    let is_sure = |item: &Settling| {
        item.is_first
            && item.call.claims == 0
            && item.call.read.is_some_and(|(asked, answered)| asked > since && host.sim.now() - answered < sure_for)
    };
    if !batch.iter().all(is_sure) {
        return None;
    }
    let function = batch[0].call.function;
    let set = |item: &Settling| {
        let mut set = command!("SET", result_key(function, &item.call.id));
        set.push(document(item).to_vec());
        set.extend(command!("NX", "PX", TTL_MS));
        Ask::Do(set)
    };
    let mut asks: Vec<Ask> = batch.iter().map(set).collect();
    asks.extend(acknowledgement(function, batch));
    asks.extend(notices(batch));
    let claims = batch.iter().map(|item| claim(host, item, Way::Sure)).collect();
    let replies = link.ask_on(&open, asks, claims).await.ok()?;
    let is_whole = usize::try_from(replies[batch.len()].to_int()) == Ok(batch.len());
    Some(vec![if is_whole { Verdict::Settled } else { Verdict::Fenced }; batch.len()])
}

fn acknowledgement(function: usize, batch: &[Settling]) -> [Ask; 2] {
    let entries: Command = batch.iter().map(|item| word(&item.call.entry)).collect();
    let (mut ack, mut delete) = (command!("XACK", stream(function), GROUP), command!("XDEL", stream(function)));
    ack.extend(entries.clone());
    delete.extend(entries);
    [Ask::Do(ack), Ask::Do(delete)]
}

fn notices(batch: &[Settling]) -> impl Iterator<Item = Ask> {
    batch.iter().filter_map(|item| {
        let mut publish = command!("PUBLISH", format!("baton:reply:{}", item.call.reply.as_ref()?));
        publish.push(document(item).to_vec());
        Some(Ask::Do(publish))
    })
}

/// What must not be: the entry is acknowledged, and then the result is written.
async fn ack_first(host: &Rc<Host>, link: &Link, batch: &[Settling]) -> Result<Vec<Verdict>, Lost> {
    let function = batch[0].call.function;
    // Somebody may have taken it meanwhile.
    if batch.iter().any(|item| host.with_flight(&item.call, |flight| flight.stage) != Some(Stage::Settling)) {
        return Ok(vec![Verdict::Fenced; batch.len()]);
    }
    let mut asks = Vec::from(acknowledgement(function, batch));
    let mut forget = command!("HDEL", key(function, "claims"));
    forget.extend(batch.iter().map(|item| word(&item.call.entry)));
    asks.push(Ask::Do(forget));
    link.ask_all(asks, Vec::new()).await?;
    for item in batch {
        let mut set = command!("SET", result_key(function, &item.call.id));
        set.push(document(item).to_vec());
        set.extend(command!("NX", "PX", TTL_MS));
        link.ask_all(vec![Ask::Do(set)], vec![claim(host, item, Way::Write)]).await?;
    }
    Ok(vec![Verdict::Settled; batch.len()])
}
