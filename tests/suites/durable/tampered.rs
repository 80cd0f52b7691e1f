//! Logs that somebody cut, changed, put in another order, or wrote to: refused, with the place.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use baton_model::execution::chain;
use baton_tests::Stage;

use super::shop::{Order, open, stage, stuck};

const HOUR: Duration = Duration::from_secs(3600);
/// The facts of an order that waits for its payment: started, moved, called, answered, told, awaited.
const FACTS: usize = 6;

/// Position, and names and values, of each entry.
type Entries = Vec<(String, Vec<(String, Vec<u8>)>)>;

/// One way to tamper with a log, and what has to be said of it.
struct Case {
    what: String,
    said: String,
    /// Whether it is seen without reading the log: then no event is taken either.
    at_once: bool,
    tamper: Box<dyn Fn(&mut Entries)>,
}

fn case(what: String, said: String, at_once: bool, tamper: impl Fn(&mut Entries) + 'static) -> Case {
    Case { what, said, at_once, tamper: Box::new(tamper) }
}

/// Chains entries anew from this one on, as whoever knows the rule can.
fn chain_anew(entries: &mut Entries, from: usize, to: usize) {
    for at in from..to {
        let before = match at {
            0 => Vec::new(),
            _ => entries[at - 1]
                .1
                .iter()
                .find(|(name, _)| name == "chain")
                .map(|(_, link)| link.clone())
                .unwrap_or_default(),
        };
        let fields = entries[at].1.iter().map(|(name, value)| (name.as_str(), value.as_slice()));
        let link = chain(&String::from_utf8_lossy(&before), fields);
        if let Some((_, value)) = entries[at].1.iter_mut().find(|(name, _)| name == "chain") {
            *value = link.into_bytes();
        }
    }
}

/// Makes another fact of one, that can be read as well: a digit more in when it was written.
fn alter(entries: &mut Entries, at: usize) {
    if let Some((_, value)) = entries[at].1.iter_mut().find(|(name, _)| name == "at") {
        value.push(b'0');
    }
}

fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    let rewritten = "the log ends with another link than its execution says";
    for at in 0..FACTS {
        let (position, next, is_last) = (at + 1, at + 2, at + 1 == FACTS);
        let gap = format!("after position {at} of the log comes {next}");
        let short = format!("the log ends at position {at}, and its execution says {FACTS}");
        let said = if is_last { short } else { gap };
        cases.push(case(format!("without {position}"), said, true, move |log| drop(log.remove(at))));
        let changed = format!("position {position} of the log was changed");
        cases.push(case(format!("{position} changed"), changed.clone(), false, move |log| alter(log, at)));
        let said = if is_last { rewritten.to_owned() } else { format!("position {next} of the log was changed") };
        cases.push(case(format!("{position} changed and chained anew"), said, false, move |log| {
            alter(log, at);
            chain_anew(log, at, at + 1);
        }));
        cases.push(case(format!("all from {position} on chained anew"), rewritten.to_owned(), false, move |log| {
            alter(log, at);
            chain_anew(log, at, FACTS);
        }));
        if !is_last {
            cases.push(case(format!("{position} and {next} in each other's place"), changed, false, move |log| {
                let (first, second) = (log[at].1.clone(), log[at + 1].1.clone());
                (log[at].1, log[at + 1].1) = (second, first);
            }));
        }
        let said = "position 7 of the log was changed, or put where it does not belong".to_owned();
        cases.push(case(format!("{position} a second time"), said, true, move |log| {
            let again = log[at].1.clone();
            log.push((format!("{}-0", FACTS + 1), again));
        }));
    }
    let foreign = |id: &'static str| {
        move |log: &mut Entries| {
            let fields = vec![("event".to_owned(), b"completed".to_vec())];
            log.push((id.to_owned(), fields));
        }
    };
    let behind = format!("after position {FACTS} of the log comes ");
    cases.push(case(
        "with an entry of somebody else".into(),
        behind.clone() + "1700000000000",
        true,
        foreign("1700000000000-0"),
    ));
    cases.push(case("with an entry between".into(), behind + "an entry that has no position", true, foreign("6-1")));
    cases.push(case("with the next entry".into(), "position 7 of the log was changed".into(), true, foreign("7-0")));
    cases.push(case("cut to its end".into(), "after position 0 of the log comes 4".into(), true, |log| {
        drop(log.drain(..3))
    }));
    cases.push(case("gone".into(), "the log ends at position 0".into(), true, Vec::clear));
    cases
}

struct Tampered<'a> {
    case: Case,
    order: Order<'a>,
    sound: Entries,
}

async fn read(stage: &mut Stage, order: &Order<'_>) -> Result<Entries> {
    let key = format!("baton:{{default/order}}:log:{}", order.id);
    Ok(redis::cmd("XRANGE").arg(key).arg("-").arg("+").query_async(stage.caller.connection()).await?)
}

async fn write(stage: &mut Stage, order: &Order<'_>, entries: &Entries) -> Result<()> {
    let key = format!("baton:{{default/order}}:log:{}", order.id);
    let mut all = redis::pipe();
    all.atomic().cmd("DEL").arg(&key);
    for (id, fields) in entries {
        all.cmd("XADD").arg(&key).arg(id);
        for (name, value) in fields {
            all.arg(name).arg(value.as_slice());
        }
    }
    Ok(all.exec_async(stage.caller.connection()).await?)
}

/// What a host reads when a timer has fired, or an event has come.
async fn wake(stage: &mut Stage, order: &Order<'_>) -> Result<()> {
    let fields: [(&str, &[u8]); 3] = [("payload", b""), ("id", order.id.as_bytes()), ("execution", b"1")];
    stage.caller.add("order", &fields).await.map(drop)
}

#[tokio::test]
async fn a_log_that_was_tampered_with_is_refused_with_the_place() -> Result<()> {
    let mut stage = stage().await?;
    let (_host, http) = open(&stage).await?;
    let mut all = Vec::new();
    for case in cases() {
        all.push(Tampered { case, order: Order::of(&http, 300, HOUR).await?, sound: Vec::new() });
    }
    for Tampered { case, order, sound } in &mut all {
        order.until_last("event-awaited").await?;
        *sound = read(&mut stage, order).await?;
        ensure!(sound.len() == FACTS, "{}: {sound:?}", case.what);
        let mut log = sound.clone();
        (case.tamper)(&mut log);
        write(&mut stage, order, &log).await?;
        if case.at_once {
            let path = format!("/v1/exec/default/order/{}/events/payment", order.id);
            http.post(&path, "{}").await?.problem(409, "log-damaged").with_context(|| case.what.clone())?;
        }
        wake(&mut stage, order).await?;
    }
    let made = |info: Vec<(String, redis::Value)>| info.into_iter().find(|(name, _)| name == "entries-added");
    let info = redis::cmd("XINFO").arg(&["STREAM", "baton:{default/sleep}:calls"]).clone();
    let info = info.query_async(stage.caller.connection()).await?;
    ensure!(made(info).is_some_and(|(_, count)| count == redis::Value::Int(0)), "nothing was shipped");

    for Tampered { case, order, sound } in &all {
        let why = stuck(order).await.with_context(|| case.what.clone())?;
        ensure!(why.contains(&case.said), "{}: {:?} was expected: {why}", case.what, case.said);
        let shown = order.show().await?;
        let damage = shown["damage"].as_str().unwrap_or_default();
        ensure!(damage.contains(&case.said), "{}: it is shown as {shown}", case.what);
        // Whoever puts it right again gets it going again.
        write(&mut stage, order, sound).await?;
        order.pay(300, "p1").await.with_context(|| case.what.clone())?;
    }
    for Tampered { case, order, .. } in &all {
        let receipt = order.result().await?.expect(200).with_context(|| case.what.clone())?.json()?;
        ensure!(receipt["paid"] == 300, "{}: {receipt}", case.what);
    }
    let orders: Vec<Order<'_>> = all.into_iter().map(|tampered| tampered.order).collect();
    super::judge::logs_are_sound(&stage, &orders).await
}

#[tokio::test]
async fn a_state_that_says_something_else_than_its_log_is_refused() -> Result<()> {
    let mut stage = stage().await?;
    let (_host, http) = open(&stage).await?;
    for (field, value, said) in [
        ("length", "7", "the log ends at position 6, and its execution says 7"),
        ("length", "5", "the log ends at position 6, and its execution says 5"),
        ("chain", "0123456789012345678901234567890123456789", "the log ends with another link than its execution says"),
    ] {
        let order = Order::of(&http, 300, HOUR).await?;
        order.until_last("event-awaited").await?;
        let key = format!("baton:{{default/order}}:exec:{}", order.id);
        redis::cmd("HSET").arg(&[&key, field, value]).query_async::<()>(stage.caller.connection()).await?;
        wake(&mut stage, &order).await?;
        let why = stuck(&order).await?;
        ensure!(why.contains(said), "{field} {value}: {why}");
    }
    Ok(())
}
