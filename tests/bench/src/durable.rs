//! Durable executions: how many steps a second they take, how soon one goes on when its event comes, and how long a long log
//! takes to be replayed.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use baton_broker::{Beginning, Begun, BrokerConfig, Executions, Loaded, Taken};
use baton_engine::{Component, DurableRun, Engine, EngineConfig, Executed, Invocation, Ran, Stop};
use baton_model::execution::{Log, Received, Replay, Started, calls_of};
use baton_model::{Call, CallId, CallsGrant, FunctionId, Grants, Limits, Reply, ReplyTo};
use baton_tests::settings::{PATIENCE, PREFIX};
use baton_tests::{Caller, Folder, Redis, Subscription, until};
use indicatif::ProgressBar;
use serde_json::{Value, json};

use crate::cost::Nowhere;
use crate::folders;
use crate::host::Host;
use crate::plan::Plan;
use crate::report::{Goal, Part};
use crate::sleepers;
use crate::table::{Table, median, quantile, rate};

/// Executions that take steps at once, and how many each takes, one after another.
const STEPPING: usize = 64;
const STEPS: usize = 20;
/// The p50 from event to reaction, by that of a plain call.
const RATIO: f64 = 3.0;
/// How many facts a long log has about, and the most milliseconds that replaying it may take.
const LONG: u64 = 10_000;
const REPLAY_MAX_MS: f64 = 100.0;
/// How often it is replayed.
const REPLAYS: usize = 20;

/// The function of executions, and that which they call.
pub(crate) const FUNCTIONS: [&str; 2] = ["default/steps", "default/echo"];

/// How many steps its progress has.
pub(crate) fn steps(plan: &Plan) -> usize {
    2 * plan.rounds + 1 + sleepers::STEPS
}

/// A Redis, a host with the functions, and whoever begins executions.
pub(crate) struct Scene {
    pub(crate) executions: Executions,
    pub(crate) function: FunctionId,
    pub(crate) caller: Caller,
    reply: ReplyTo,
    notices: Subscription,
    // They end before their Redis.
    pub(crate) host: Host,
    _folder: Folder,
    _redis: Redis,
}

impl Scene {
    pub(crate) async fn set() -> Result<Self> {
        let redis = Redis::start().await?;
        let folder = Folder::with(&["echo"])?;
        folder.install("steps", &std::fs::read(folders::guest("steps_guest")?).context("`make guests` builds it")?)?;
        folder.write_manifest("steps", "[grants.calls]\nfunctions = [\"echo\"]\n")?;
        let host = Host::start(&redis, &folder, &FUNCTIONS.map(str::to_owned)).await?;
        let notices = redis.subscribe(&[&format!("{PREFIX}:reply:bench")]).await?;
        Ok(Self {
            executions: Executions::new(&BrokerConfig::new(redis.url()))?,
            function: FUNCTIONS[0].parse()?,
            caller: Caller::of(&redis.address()).await?,
            reply: ReplyTo::parse("bench").context("a suffix for replies")?,
            notices,
            host,
            _folder: folder,
            _redis: redis,
        })
    }

    /// Begins one that takes these steps.
    pub(crate) async fn begin(&self, id: &str, steps: &Value, is_told: bool) -> Result<CallId> {
        let id = CallId::parse(id).context("an id")?;
        let input = Reply { media_type: "application/json".to_owned(), body: steps.to_string().into() };
        let beginning = Beginning { input, headers: Vec::new(), parent: None };
        let reply = is_told.then_some(&self.reply);
        let begun = self.executions.start(&self.function, &id, beginning, reply).await?;
        ensure!(begun == Begun::New, "{id} was begun before");
        Ok(id)
    }

    async fn go(&self, id: &CallId) -> Result<()> {
        let payload = Reply { media_type: "application/json".to_owned(), body: "1".into() };
        let received = Received { id: CallId::parse("go").context("an id")?, name: "go".parse()?, payload };
        match self.executions.event(&self.function, id, received).await? {
            Taken::At { .. } => Ok(()),
            other => bail!("the event is not taken: {other:?}"),
        }
    }

    pub(crate) async fn load(&self, id: &CallId) -> Result<Loaded> {
        self.executions.load(&self.function, id).await?.with_context(|| format!("{id} is there"))
    }

    /// Waits until they have all ended.
    pub(crate) async fn ended(&mut self, ids: &[CallId]) -> Result<()> {
        let names: Vec<String> = ids.iter().map(CallId::to_string).collect();
        for result in self.caller.results(FUNCTIONS[0], &names, PATIENCE * 4).await? {
            ensure!(result.error.is_none(), "an execution has failed: {result:?}");
        }
        Ok(())
    }

    /// Waits until nothing of them is under way, and they wait for time or events.
    pub(crate) async fn until_idle(&mut self) -> Result<()> {
        until("no execution is under way", PATIENCE * 8, async || {
            let entries = self.caller.entries(FUNCTIONS[0]).await? + self.caller.entries(FUNCTIONS[1]).await?;
            Ok((entries == 0).then_some(()))
        })
        .await
    }

    async fn heard(&mut self) -> Result<()> {
        let heard = tokio::time::timeout(PATIENCE, self.notices.next()).await;
        heard.context("nobody answers")?.map(drop).context("the connection is lost")
    }
}

pub(crate) async fn measure(plan: &Plan, bar: &ProgressBar) -> Result<Part> {
    let mut part = Part::default();
    let mut scene = Scene::set().await?;
    stepping(&mut scene, plan, bar, &mut part).await.context("steps")?;
    reaction(&mut scene, plan, bar, &mut part).await.context("from event to reaction")?;
    bar.set_message("a log of 10,000 events");
    replay(&mut scene, &mut part).await.context("replay")?;
    bar.inc(1);
    drop(scene);
    sleepers::measure(plan, bar, &mut part).await.context("sleeping executions")?;
    Ok(part)
}

/// Steps a second: each is a call of `echo`, whose end is waited for.
async fn stepping(scene: &mut Scene, plan: &Plan, bar: &ProgressBar, part: &mut Part) -> Result<()> {
    let mut rounds = Vec::new();
    for round in 0..plan.rounds {
        bar.set_message("steps");
        let begin = Instant::now();
        let mut ids = Vec::new();
        for n in 0..STEPPING * plan.durable_waves {
            ids.push(scene.begin(&format!("steps-{round}-{n}"), &json!([{ "calls": STEPS }]), false).await?);
        }
        scene.ended(&ids).await?;
        rounds.push((ids.len() * STEPS) as f64 / begin.elapsed().as_secs_f64());
        bar.inc(1);
    }
    let per_second = median(rounds.iter().copied());
    let what = format!("steps of executions, each a call of `echo` that is waited for, {STEPS} in a row");
    part.goal(Goal::reported("9", what, format!("{}/s", rate(per_second))));
    part.json("steps_per_second", json!(rounds));
    Ok(())
}

/// One at a time: a plain call of `echo`, and an event for an execution that waits for it and ends.
async fn reaction(scene: &mut Scene, plan: &Plan, bar: &ProgressBar, part: &mut Part) -> Result<()> {
    let (mut plain, mut event) = (Vec::new(), Vec::new());
    for round in 0..plan.rounds {
        bar.set_message("from event to reaction");
        let mut waiting = Vec::new();
        for n in 0..plan.durable_reactions {
            waiting.push(scene.begin(&format!("go-{round}-{n}"), &json!([{ "event": "go" }]), true).await?);
        }
        scene.until_idle().await?;
        let (mut plain_us, mut event_us) = (Vec::new(), Vec::new());
        let fields: [(&str, &[u8]); 2] = [("payload", b"1"), ("reply", b"bench")];
        for id in &waiting {
            let begin = Instant::now();
            scene.caller.add(FUNCTIONS[1], &fields).await?;
            scene.heard().await?;
            plain_us.push(begin.elapsed().as_secs_f64() * 1e6);
            let begin = Instant::now();
            scene.go(id).await?;
            scene.heard().await?;
            event_us.push(begin.elapsed().as_secs_f64() * 1e6);
        }
        plain.push(plain_us);
        event.push(event_us);
        bar.inc(1);
    }
    let of = |rounds: &[Vec<f64>], share: f64| median(rounds.iter().map(|us| quantile(us.iter().copied(), share)));
    let mut table = Table::new("One at a time, from what is sent to what is heard (µs)", &["", "p50", "p99"]);
    for (name, rounds) in [("a plain call of `echo`", &plain), ("an event, and the end of its execution", &event)] {
        table.row(vec![name.to_owned(), format!("{:.0}", of(rounds, 0.5)), format!("{:.0}", of(rounds, 0.99))]);
    }
    part.tables.push(table);
    for (name, share) in [("p50", 0.5), ("p99", 0.99)] {
        let each = event
            .iter()
            .zip(&plain)
            .map(|(event, plain)| quantile(event.iter().copied(), share) / quantile(plain.iter().copied(), share));
        let ratio = median(each);
        let figure = format!("{ratio:.2} x ({:.0} of {:.0} µs)", of(&event, share), of(&plain, share));
        let what = format!("event to reaction, {name} of a plain call's round trip");
        match name {
            "p50" => part.goal(Goal::at_most("9", what, ratio, RATIO, figure, "x")),
            _ => part.goal(Goal::reported("9", what, figure)),
        }
    }
    let json = |rounds: &[Vec<f64>]| json!({ "p50_us": of(rounds, 0.5), "p99_us": of(rounds, 0.99) });
    part.json("reaction", json!({ "plain": json(&plain), "event": json(&event) }));
    Ok(())
}

/// A log of about ten thousand facts: read from Redis, looked through, and the function run over it, in this process; and
/// what an event takes that comes to it.
async fn replay(scene: &mut Scene, part: &mut Part) -> Result<()> {
    let at_once = json!({ "calls-at-once": 500 });
    let id =
        scene.begin("long", &Value::Array([vec![at_once; 10], vec![json!({ "event": "go" })]].concat()), true).await?;
    until("the log is as long as it should be", PATIENCE * 8, async || {
        Ok((scene.load(&id).await?.length >= LONG).then_some(()))
    })
    .await?;
    scene.until_idle().await?;
    let (mut read, mut ran, mut facts) = (Vec::new(), Vec::new(), 0);
    let bytes = std::fs::read(folders::guest("steps_guest")?)?;
    let grants = Grants { calls: Some(CallsGrant::All), ..Grants::default() };
    let component = Engine::new(EngineConfig::default())?.load(&bytes, &grants)?;
    for _ in 0..REPLAYS {
        let begin = Instant::now();
        let (loaded, log) = scene.executions.read(&scene.function, &id).await?.context("it is there")?;
        let log = log?;
        read.push(begin.elapsed().as_secs_f64() * 1e3);
        facts = loaded.length;
        let begin = Instant::now();
        run_over(&component, log, &id, loaded.now_ms).await?;
        ran.push(begin.elapsed().as_secs_f64() * 1e3);
    }
    let whole = median(read.iter().zip(&ran).map(|(read, ran)| read + ran));
    let (read, ran) = (median(read), median(ran));
    let per_second = facts as f64 / (whole / 1e3);
    let figure = format!("{whole:.1} ms: read and looked through {read:.1}, run {ran:.1}; {}/s", rate(per_second));
    part.goal(Goal::at_most("9", format!("a log of {facts} events, replayed"), whole, REPLAY_MAX_MS, figure, "ms"));
    let begin = Instant::now();
    scene.go(&id).await?;
    scene.heard().await?;
    let reacted = begin.elapsed().as_secs_f64() * 1e3;
    part.goal(Goal::reported("9", "event to reaction behind such a log", format!("{reacted:.1} ms")));
    let figures = json!({ "events": facts, "read_ms": read, "ran_ms": ran, "reacted_ms": reacted });
    part.json("replay", figures);
    Ok(())
}

/// The function over the whole log, up to where it waits.
async fn run_over(component: &Component, log: Log, id: &CallId, clock_ms: u64) -> Result<()> {
    let Started { input, seed, .. } = log.started().clone();
    let mut call = Call::plain(FUNCTIONS[0].parse()?, id.clone(), input.body.to_vec());
    call.media_type = input.media_type;
    let run = DurableRun {
        replay: Replay::new(log),
        calls_begin: calls_of(&call.function, id, seed),
        depth: 0,
        clock_ms,
        calls: Some(CallsGrant::All),
        payload_bytes_max: 1 << 20,
        watch: None,
    };
    let invocation = Invocation {
        call: Arc::new(call),
        limits: Limits { time_max: Duration::from_secs(30), ..Limits::default() },
        log: Arc::new(Nowhere),
        waits: true,
        weight: 1,
        services: None,
        durable: Some(run),
    };
    match component.execute_timed(invocation).await {
        Executed { ran: Some(Ran { stop: Some(Stop::Waits), fresh }), .. } if fresh.is_empty() => Ok(()),
        Executed { outcome, ran, .. } => bail!("it does not wait where its log ends: {outcome:?}, {ran:?}"),
    }
}
