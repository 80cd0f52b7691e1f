//! The model of Redis beside a real redis-server: the same random commands and the same scripts, answer by answer.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use baton_sim::redis::{Reply, Script, Scripts, word};
use baton_sim::rng::Rng;
use redis::{Connection, ConnectionLike as _, Value, cmd};

/// A redis-server on a socket of its own.
struct Server {
    process: Child,
    dir: tempfile::TempDir,
}

impl Server {
    fn start() -> Self {
        let dir = tempfile::Builder::new().prefix("bs-").tempdir_in("/tmp").unwrap();
        let mut command = Command::new("redis-server");
        command.args(["--port", "0", "--save", "", "--appendonly", "no", "--unixsocket"]).arg(dir.path().join("s"));
        command.arg("--dir").arg(dir.path()).stdout(Stdio::null()).stderr(Stdio::null());
        Self { process: command.spawn().expect("redis-server is installed"), dir }
    }

    /// Connects as soon as it listens.
    fn connect(&self) -> Connection {
        let client = redis::Client::open(format!("unix://{}", self.dir.path().join("s").display())).unwrap();
        let end = Instant::now() + Duration::from_secs(30);
        loop {
            match client.get_connection() {
                Ok(connection) => return connection,
                Err(error) => assert!(Instant::now() < end, "redis-server does not answer: {error}"),
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        _ = self.process.kill();
        _ = self.process.wait();
    }
}

/// How far apart the two may see a time, in ms: the real one goes on by itself.
const DRIFT: i64 = 2_000;
/// Longer than any test takes, so that what is idle for so long was made so.
const LONG: u64 = 1_000_000;

const STREAMS: [&str; 2] = ["{f}:calls", "{g}:calls"];
const HOSTS: [&str; 3] = ["h1", "h2", "h3"];

/// The model and the real one, with the ids of the entries so far.
struct Pair {
    model: Scripts,
    real: Connection,
    ids: Vec<String>,
    said: Vec<String>,
}

type Words = Vec<Vec<u8>>;

impl Pair {
    fn set_clock(&mut self) {
        let (seconds, micros): (u64, u64) = cmd("TIME").query(&mut self.real).unwrap();
        self.model.store.borrow_mut().now_ms = seconds * 1000 + micros / 1000;
    }

    fn ask(&mut self, words: &[Vec<u8>]) -> Reply {
        self.said.push(words.iter().map(|word| String::from_utf8_lossy(word)).collect::<Vec<_>>().join(" "));
        self.set_clock();
        let model = self.model.store.borrow_mut().execute(words);
        let mut command = redis::Cmd::new();
        words.iter().for_each(|word| _ = command.arg(word));
        let real = answer(self.real.req_packed_command(&command.get_packed_command()));
        self.compare(&model, &real);
        if words[0] == b"XADD" {
            self.ids.push(model.to_text());
        }
        model
    }

    fn run(&mut self, script: Script, keys: &[String], args: &[Vec<u8>]) -> Reply {
        let shown: Vec<_> = args.iter().map(|word| String::from_utf8_lossy(word)).collect();
        self.said.push(format!("{script}.lua {keys:?} {}", shown.join(" ")));
        self.set_clock();
        let key_words: Words = keys.iter().map(word).collect();
        let model = self.model.run(script, &key_words, args);
        let mut command = cmd("EVAL");
        command.arg(Scripts::text(script)).arg(keys.len());
        key_words.iter().chain(args).for_each(|word| _ = command.arg(word));
        let real = answer(self.real.req_packed_command(&command.get_packed_command()));
        self.compare(&model, &real);
        model
    }

    fn compare(&mut self, model: &Reply, real: &Reply) {
        if let Err(what) = self.same(model, real) {
            let last = self.said.len().saturating_sub(25);
            panic!("{what}\nmodel {model:?}\nreal  {real:?}\nafter\n{}", self.said[last..].join("\n"));
        }
    }

    fn same(&mut self, model: &Reply, real: &Reply) -> Result<(), String> {
        match (model, real) {
            // A row of a pending list, and one of a list of consumers: each has a time in it.
            (Reply::Array(a), Reply::Array(b)) if idle_at(a).is_some() && idle_at(a) == idle_at(b) => {
                let at = idle_at(a).unwrap_or(0);
                if (a[at].to_int() - b[at].to_int()).abs() >= DRIFT {
                    return Err("one is idle for longer".to_owned());
                }
                a.iter().zip(b).enumerate().filter(|(i, _)| *i != at).try_for_each(|(_, (a, b))| self.same(a, b))
            }
            (Reply::Array(a), Reply::Array(b)) if a.len() == b.len() => {
                a.iter().zip(b).try_for_each(|(a, b)| self.same(a, b))
            }
            (Reply::Int(a), Reply::Int(b)) if a == b || (*a > 100 || *b > 100) && (a - b).abs() < DRIFT => Ok(()),
            (Reply::Bulk(_), Reply::Bulk(_)) => self.same_text(&model.to_text(), &real.to_text()),
            // What a script passes on of a refusal has its place around it.
            (Reply::Error(a), Reply::Error(b)) if a.split(' ').next() == b.split(' ').next() => Ok(()),
            (a, b) if a == b => Ok(()),
            _differ => Err("they differ".to_owned()),
        }
    }

    fn same_text(&mut self, model: &str, real: &str) -> Result<(), String> {
        if model == real {
            return Ok(());
        }
        if let (Ok(a), Ok(b)) = (model.parse::<i64>(), real.parse::<i64>())
            && (a - b).abs() < DRIFT
        {
            return Ok(());
        }
        Err(format!("{model} is not {real}"))
    }

    /// Begins on an empty server. The streams have their last ids in the future, so that Redis goes on counting from
    /// there and both give the same ids.
    fn begin(&mut self) {
        self.ask(&words("FLUSHALL"));
        self.ids.clear();
        for (stream, ms) in STREAMS.iter().zip([8_000_000_000_000_u64, 8_100_000_000_000]) {
            for (key, ms) in [((*stream).to_owned(), ms), (format!("{}:dead", &stream[..3]), ms + 50_000_000_000)] {
                self.ask(&words(&format!("XADD {key} {ms}-0 payload first")));
                self.ask(&words(&format!("XDEL {key} {ms}-0")));
            }
        }
    }
}

/// Where in a row the time stands for which something is idle.
fn idle_at(row: &[Reply]) -> Option<usize> {
    match row {
        [Reply::Bulk(_), Reply::Bulk(_), Reply::Int(_), Reply::Int(_)] => Some(2),
        [.., Reply::Bulk(name), Reply::Int(_)] if name == b"idle" => Some(row.len() - 1),
        _other => None,
    }
}

fn answer(answer: redis::RedisResult<Value>) -> Reply {
    match answer {
        Ok(value) => reply(value),
        Err(error) => Reply::Error(format!("{} {}", error.code().unwrap_or("ERR"), error.detail().unwrap_or(""))),
    }
}

fn reply(value: Value) -> Reply {
    match value {
        Value::Nil => Reply::Nil,
        Value::Int(number) => Reply::Int(number),
        Value::BulkString(bytes) => Reply::Bulk(bytes),
        Value::SimpleString(text) => Reply::Status(text),
        Value::Okay => Reply::Status("OK".to_owned()),
        Value::Array(parts) => Reply::Array(parts.into_iter().map(reply).collect()),
        Value::ServerError(error) => Reply::Error(format!("{} ", error.code())),
        other => panic!("an answer of another kind: {other:?}"),
    }
}

fn words(text: &str) -> Words {
    text.split_whitespace().map(word).collect()
}

/// One step: a command or a script, on a state that chance has made.
fn step(pair: &mut Pair, rng: &mut Rng) {
    let stream = *rng.pick(&STREAMS);
    let tag = &stream[..3];
    let host = *rng.pick(&HOSTS);
    let old = if rng.chance(3) { "5-5".to_owned() } else { pair.ids.last().cloned().unwrap_or("1-1".to_owned()) };
    let id = match pair.ids.len() {
        0 => old,
        many => pair.ids[many - 1 - usize::try_from(rng.below(many.min(12) as u64)).unwrap()].clone(),
    };
    let key = |name: &str| format!("{tag}:{name}");
    let call = format!("c{}", rng.below(6));
    let command = match rng.below(40) {
        0..6 => format!(
            "XADD {stream} * payload p{} {}",
            rng.below(9),
            if rng.chance(40) { format!("id {call}") } else { String::new() }
        ),
        6..11 => format!("XREADGROUP GROUP hosts {host} COUNT {} STREAMS {stream} >", rng.between(1, 3)),
        11 => format!("XREADGROUP GROUP hosts {host} COUNT 2 STREAMS {} {} > >", STREAMS[0], STREAMS[1]),
        12 => format!("XACK {stream} hosts {id} 7-7"),
        13 => format!("XDEL {stream} {id}"),
        14 | 15 => format!(
            "XCLAIM {stream} hosts {host} {} {id} IDLE {LONG} JUSTID",
            if rng.chance(80) { 0 } else { LONG / 2 }
        ),
        16 => format!("XCLAIM {stream} hosts {host} 0 {id}"),
        17 => format!("XPENDING {stream} hosts"),
        18 => format!("XPENDING {stream} hosts IDLE {} - + {} {host}", LONG / 2, rng.between(1, 4)),
        19 => format!("XPENDING {stream} hosts ({id} + 3"),
        20 => format!("XRANGE {stream} {} + COUNT 2", if rng.chance(50) { "-".to_owned() } else { format!("({id}") }),
        21 => format!(
            "XGROUP {}",
            if rng.chance(70) {
                format!("CREATE {stream} hosts 0 MKSTREAM")
            } else {
                format!("DELCONSUMER {stream} hosts {host}")
            }
        ),
        22 => format!("{} {}", rng.pick(&["HINCRBY", "HSET"]), format_args!("{} {id} 1", key("claims"))),
        23 => format!("{} {} {id}", rng.pick(&["HGET", "HDEL", "HEXISTS"]), key("claims")),
        24 => format!("SET {} d{} NX PX {}", key(&call), rng.below(9), if rng.chance(90) { LONG } else { 1 }),
        25 => format!("{} {}", rng.pick(&["GET", "PTTL", "EXISTS", "DEL"]), key(&call)),
        26 => format!(
            "ZRANGE {} 0 {} {}",
            key("delayed"),
            rng.between(0, 2),
            if rng.chance(50) { "WITHSCORES" } else { "REV" }
        ),
        27 if rng.chance(15) => return pair.begin(),
        27 => format!("XLEN {stream}"),
        28 => format!("ZADD {} {} m{}", key("seen"), rng.below(50), rng.below(6)),
        29 => format!("{} {}", rng.pick(&["ZCARD", "ZREMRANGEBYRANK", "ZREMRANGEBYSCORE"]), key("seen")),
        _script => return script(pair, rng, stream, host, &id, &call),
    };
    let command = match &command {
        text if text.starts_with("ZREMRANGEBYRANK") => format!("{text} 0 -{}", rng.between(2, 4)),
        text if text.starts_with("ZREMRANGEBYSCORE") => format!("{text} -inf {}", rng.below(20)),
        text => text.clone(),
    };
    pair.ask(&words(&command));
    if command.ends_with("PX 1") {
        // So that it has expired for both, whichever was quicker.
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn script(pair: &mut Pair, rng: &mut Rng, stream: &str, host: &str, id: &str, call: &str) {
    let tag = &stream[..3];
    let key = |name: &str| format!("{tag}:{name}");
    let claims = if rng.chance(70) {
        let asked = pair.ask(&words(&format!("HGET {} {id}", key("claims"))));
        if asked == Reply::Nil { "0".to_owned() } else { asked.to_text() }
    } else {
        rng.below(2).to_string()
    };
    let (stream, claimed, delayed, dead) = (stream.to_owned(), key("claims"), key("delayed"), key("dead"));
    let result = key(call);
    match rng.below(9) {
        0 => {
            // A real batch has its entries in order, and may have one of another host among them.
            let mut ids = vec![id.to_owned()];
            ids.extend(pair.ids.iter().rev().take(2).cloned());
            ids.sort_by_key(|id| pair.ids.iter().position(|known| known == id));
            ids.dedup();
            let mut keys = vec![stream, claimed];
            ids.iter().for_each(|id| keys.push(key(&format!("r{id}").replace('-', "x"))));
            let mut args = words(&format!("hosts {host} {LONG} {} {}", ids[0], ids[ids.len() - 1]));
            for id in &ids {
                args.extend(words(&format!("{id} {claims} doc{}", rng.below(99))));
                args.push(if rng.chance(50) { b"reply".to_vec() } else { Vec::new() });
            }
            pair.run("settle", &keys, &args)
        }
        1 => {
            let wait = if rng.chance(50) { -1 } else { i64::try_from(rng.below(2)).unwrap() * 1_000_000 };
            let args = words(&format!("hosts {host} {id} {claims} {call} 2 77 {wait}"));
            pair.run("requeue", &[stream, claimed, delayed], &args)
        }
        2 => {
            let mut args = words(&format!("hosts {host} {id} {claims} {LONG}"));
            args.push(Vec::new());
            args.extend(words(&format!("doc {call} {} reason trap error oh attempts 1", rng.below(16))));
            pair.run("bury", &[stream, claimed, dead, result], &args)
        }
        3 => pair.run("renew", &[stream, claimed], &words(&format!("hosts {host} {id} {claims} 3-3 0"))),
        4 | 5 => {
            let others: Vec<&&str> = HOSTS.iter().filter(|other| **other != host).collect();
            let (mut gone, mut cut, mut live) = (Vec::new(), Vec::new(), Vec::new());
            for other in others {
                match rng.below(4) {
                    0 => gone.push(*other),
                    1 => cut.push(*other),
                    2 => live.push(format!("{other} {}", LONG / 2)),
                    _unknown => {}
                }
            }
            let shares = rng.between(1, 2);
            let args = format!(
                "hosts {host} {} {} {shares} {} {} {} {} {} {}",
                LONG / 2,
                rng.below(4),
                rng.below(shares),
                gone.len(),
                cut.len(),
                gone.join(" "),
                cut.join(" "),
                live.join(" ")
            );
            pair.run("sweep", &[stream, claimed, delayed], &words(&args))
        }
        6 => pair.run("promote", &[stream, delayed, dead], &words("3")),
        7 => pair.run("ensure", &[stream], &words("hosts")),
        _leave => pair.run("leave", &[stream], &words(&format!("hosts {host}"))),
    };
}

#[test]
fn the_model_answers_like_redis() {
    let redis = Server::start();
    let seeds = std::env::var("BATON_SIM_DIFFERENTIAL").map_or(120, |count| count.parse().unwrap());
    for seed in 0..seeds {
        let real = redis.connect();
        let said = vec![format!("seed {seed}")];
        let mut pair = Pair { model: Scripts::new(&[]), real, ids: Vec::new(), said };
        pair.begin();
        let mut rng = Rng::new(seed);
        for _ in 0..150 {
            step(&mut pair, &mut rng);
        }
        // What no answer showed.
        for stream in STREAMS {
            for look in [
                format!("XRANGE {stream} - +"),
                format!("XPENDING {stream} hosts - + 1000"),
                format!("XINFO CONSUMERS {stream} hosts"),
                format!("ZRANGE {}:delayed 0 -1 WITHSCORES", &stream[..3]),
                format!("XRANGE {}:dead - +", &stream[..3]),
            ] {
                pair.ask(&words(&look));
            }
        }
    }
}
