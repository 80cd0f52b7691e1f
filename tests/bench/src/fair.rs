//! Several tenants on one host: what one of them notices of another's backlog. How backlogs share the host: `weights`.

use std::cell::Cell;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use baton_broker::{BrokerConfig, SendOptions};
use baton_model::{FunctionId, ReplyTo, Status};
use baton_tests::settings::{PATIENCE, PREFIX};
use baton_tests::{Caller, Folder, Redis, sample};
use indicatif::ProgressBar;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep_until};

use crate::host::Host;
use crate::plan::Plan;
use crate::plots::Course;
use crate::report::{Goal, Part};
use crate::table::{Table, largest, median, quantile, rate};
use crate::weights;

/// How many calls the one tenant has queued.
pub(crate) const BACKLOG: usize = 100_000;
/// The p99 of another tenant beside it, by that without it.
const RATIO: f64 = 2.0;
/// How often it is looked at what is left.
pub(crate) const LOOK_EVERY: Duration = Duration::from_millis(20);

/// What a backlog consists of.
pub(crate) struct Work {
    pub(crate) name: &'static str,
    pub(crate) function: &'static str,
    /// How many bytes of text there are to count; none for others.
    words_bytes: usize,
}

/// Quick calls, calls that compute, and calls that wait.
pub(crate) const WORKS: [Work; 4] = [
    Work { name: "`echo`", function: "echo", words_bytes: 0 },
    Work { name: "`wordcount` of 2 KB", function: "wordcount", words_bytes: 2_000 },
    Work { name: "`wordcount` of 10 KB", function: "wordcount", words_bytes: 10_000 },
    Work { name: "`sleep` of 5 ms", function: "sleep", words_bytes: 0 },
];

impl Work {
    pub(crate) fn payload(&self) -> String {
        match self.function {
            "wordcount" => {
                let words: String = (0_u32..).map(|n| format!("{} ", n * 7 % 100)).take(self.words_bytes / 3).collect();
                format!(r#"{{"text":"{words}"}}"#)
            }
            _ => r#"{"ms":5}"#.to_owned(),
        }
    }
}

/// What the modest tenant calls: a function, how often, and with what.
pub(crate) struct Asks {
    name: &'static str,
    function: &'static str,
    every: Duration,
    payload: &'static [u8],
}

impl Asks {
    pub(crate) fn name(&self) -> &'static str {
        self.name
    }

    pub(crate) fn function(&self) -> &'static str {
        self.function
    }
}

/// One that is through at once, and one that takes about as long as real ones do.
pub(crate) const ASKS: [Asks; 2] = [
    Asks { name: "`echo`", function: "modest/echo", every: Duration::from_millis(10), payload: br#"{"ms":5}"# },
    Asks {
        name: "`sleep` of 5 ms",
        function: "modest/sleep",
        every: Duration::from_millis(20),
        payload: br#"{"ms":5}"#,
    },
];

/// When a call was due in seconds, and how long its answer took in milliseconds.
pub(crate) type Points = Vec<(f64, f64)>;

/// What the modest tenant saw of one of its functions in one round beside one kind of backlog.
pub(crate) struct Seen {
    pub(crate) alone: Points,
    pub(crate) beside: Points,
}

impl Seen {
    pub(crate) fn alone(&self, share: f64) -> f64 {
        ms(&self.alone, share)
    }

    pub(crate) fn beside(&self, share: f64) -> f64 {
        ms(&self.beside, share)
    }

    pub(crate) fn ratio(&self) -> f64 {
        ms(&self.beside, 0.99) / ms(&self.alone, 0.99)
    }
}

/// One round beside one kind of backlog.
struct Round {
    /// By what it asks for.
    seen: Vec<Seen>,
    /// Calls of the backlog that ended in a second.
    worked_off: f64,
}

fn ms(points: &Points, share: f64) -> f64 {
    quantile(points.iter().map(|point| point.1), share)
}

pub(crate) async fn measure(plan: &Plan, bar: &ProgressBar) -> Result<Part> {
    let mut part = Part::default();
    beside_backlogs(plan, bar, &mut part).await?;
    weights::measure(plan, bar, &mut part).await?;
    Ok(part)
}

async fn beside_backlogs(plan: &Plan, bar: &ProgressBar, part: &mut Part) -> Result<()> {
    let head =
        ["a call of", "p50 alone", "p50 beside", "p99 alone", "p99 beside", "ratio", "longest", "backlog, calls/s"];
    let mut table =
        Table::new("Single calls of one tenant, alone and beside 100,000 queued calls of another (ms)", &head);
    table.note = "Each figure is the median of the rounds, the longest but one excepted, which is of all. The last column is \
                  how fast the backlog was worked off meanwhile.";
    let mut json = serde_json::Map::new();
    for work in &WORKS {
        let mut rounds = Vec::new();
        for _ in 0..plan.rounds {
            bar.set_message(format!("beside 100,000 of {}", work.name));
            rounds.push(beside(work, plan).await.with_context(|| format!("beside a backlog of {}", work.name))?);
            bar.inc(1);
        }
        for (n, asks) in ASKS.iter().enumerate() {
            judge(part, &mut table, &mut json, (work, asks), &rounds, n);
        }
        part.beside.extend(rounds.first().map(|round| course(work, round)));
    }
    part.tables.push(table);
    part.json("beside_a_backlog", Value::Object(json));
    Ok(())
}

/// The row, the goal and the JSON of the `n`th function that is asked for.
fn judge(
    part: &mut Part,
    table: &mut Table,
    json: &mut serde_json::Map<String, Value>,
    (work, asks): (&Work, &Asks),
    rounds: &[Round],
    n: usize,
) {
    let of = |field: &dyn Fn(&Seen) -> f64| median(rounds.iter().map(|round| field(&round.seen[n])));
    let (alone, beside) = (of(&|seen| ms(&seen.alone, 0.99)), of(&|seen| ms(&seen.beside, 0.99)));
    let ratio = of(&Seen::ratio);
    let worked_off = median(rounds.iter().map(|round| round.worked_off));
    let name = format!("{} beside {}", asks.name, work.name);
    let two = |ms: f64| format!("{ms:.2}");
    table.row(vec![
        name.clone(),
        two(of(&|seen| ms(&seen.alone, 0.5))),
        two(of(&|seen| ms(&seen.beside, 0.5))),
        two(alone),
        two(beside),
        two(ratio),
        two(largest(rounds.iter().flat_map(|round| &round.seen[n].beside).map(|point| point.1))),
        rate(worked_off),
    ]);
    let figure = format!("{ratio:.2} x ({beside:.2} of {alone:.2} ms)");
    part.goal(Goal::at_most("8", format!("{name}: p99 of that alone"), ratio, RATIO, figure, "x"));
    let figures =
        |points: &Points| json!({"calls": points.len(), "p50_ms": ms(points, 0.5), "p99_ms": ms(points, 0.99)});
    let each = rounds.iter().map(|round| {
        let seen = &round.seen[n];
        json!({
            "alone": figures(&seen.alone), "beside": figures(&seen.beside), "ratio": seen.ratio(),
            "worked_off_per_second": round.worked_off,
        })
    });
    json.insert(name.replace('`', ""), json!({"ratio": ratio, "rounds": each.collect::<Vec<Value>>()}));
}

/// The modest tenant's quick calls, first alone and then beside the backlog.
fn course(work: &Work, round: &Round) -> Course {
    let Seen { alone, beside } = &round.seen[0];
    let end = alone.last().map_or(0.0, |point| point.0);
    let after = beside.iter().map(|(at, ms)| (at + end, *ms));
    Course {
        name: format!("echo; at the mark another tenant queues 100,000 calls of {}", work.name.replace('`', "")),
        points: alone.iter().copied().chain(after).collect(),
        marks: vec![end],
    }
}

/// One round on a host and a Redis of its own.
async fn beside(work: &Work, plan: &Plan) -> Result<Round> {
    let redis = Redis::start().await?;
    let greedy = format!("greedy/{}", work.function);
    let folder = Folder::with(&[])?;
    folder.install(&greedy, &sample(work.function)?)?;
    let mut functions = vec![greedy.clone()];
    for asks in &ASKS {
        functions.push(asks.function.to_owned());
        folder.install(asks.function, &sample(asks.function.trim_start_matches("modest/"))?)?;
    }
    let _host = Host::start(&redis, &folder, &functions).await?;
    let modest = baton_broker::Caller::new(
        &BrokerConfig::new(redis.url()),
        ReplyTo::parse("bench").context("a suffix for replies")?,
    )?;
    let mut caller = Caller::of(&redis.address()).await?;
    let payload = work.payload();
    // So that the host knows how long they take.
    let known = caller.send_many(&greedy, &payload, 100).await?;
    caller.results(&greedy, &known, PATIENCE).await?;
    steady(&modest, plan.fair_warm_up, async || Ok(true)).await?;
    let alone = steady(&modest, plan.fair_lasts, async || Ok(true)).await?;
    queue(&mut caller, &greedy, &payload, BACKLOG).await?;
    let (before, start) = (caller.entries(&greedy).await?, Instant::now());
    let mut left = before;
    let mut end = start;
    let beside = steady(&modest, plan.fair_lasts, async || {
        let now = caller.entries(&greedy).await?;
        // The last of it is no backlog any more.
        let is_backlog = now > BACKLOG / 20;
        if is_backlog {
            (left, end) = (now, Instant::now());
        }
        Ok(is_backlog)
    });
    let beside = beside.await?;
    ensure!(beside.iter().all(|points| points.len() >= 20), "it was worked off before anything could be measured");
    let seen = alone.into_iter().zip(beside).map(|(alone, beside)| Seen { alone, beside }).collect();
    Ok(Round { seen, worked_off: (before - left) as f64 / (end - start).as_secs_f64() })
}

/// Calls each of [`ASKS`] one by one, for so long and while `goes_on`, which is asked from time to time.
pub(crate) async fn steady(
    modest: &baton_broker::Caller,
    lasts: Duration,
    mut goes_on: impl AsyncFnMut() -> Result<bool>,
) -> Result<Vec<Points>> {
    let is_over = Cell::new(false);
    let look = async {
        let end = Instant::now() + lasts;
        while Instant::now() < end && goes_on().await? {
            tokio::time::sleep(LOOK_EVERY).await;
        }
        is_over.set(true);
        anyhow::Ok(())
    };
    let [quick, usual] = ASKS.each_ref().map(|asks| one_by_one(modest, asks, &is_over));
    let (quick, usual, ()) = tokio::try_join!(quick, usual, look)?;
    Ok(vec![quick, usual])
}

/// Calls when it is due, until it is over.
async fn one_by_one(modest: &baton_broker::Caller, asks: &Asks, is_over: &Cell<bool>) -> Result<Points> {
    let function: FunctionId = asks.function.parse()?;
    let options = SendOptions::default();
    let mut points = Vec::new();
    let start = Instant::now();
    let (mut due, mut answered) = (start, start);
    while !is_over.get() {
        sleep_until(due).await;
        // A timer that is late is no matter of the host; a call that held up the next one is.
        let from = if answered > due { due } else { Instant::now() };
        let (_, result) = modest.call(&function, asks.payload, &options, PATIENCE).await?;
        ensure!(result.is_some_and(|result| result.status == Status::Ok), "a call of {function} was not answered");
        answered = Instant::now();
        points.push(((due - start).as_secs_f64(), (answered - from).as_secs_f64() * 1e3));
        due += asks.every;
    }
    Ok(points)
}

/// Adds so many calls at once: the host sees none of them before all are there.
pub(crate) async fn queue(caller: &mut Caller, function: &str, payload: &str, count: usize) -> Result<()> {
    let mut all = redis::Pipeline::with_capacity(count);
    all.atomic();
    for _ in 0..count {
        all.cmd("XADD").arg(calls_key(function)).arg("*").arg("payload").arg(payload).ignore();
    }
    Ok(all.exec_async(caller.connection()).await?)
}

pub(crate) fn calls_key(function: &str) -> String {
    format!("{PREFIX}:{{{function}}}:calls")
}
