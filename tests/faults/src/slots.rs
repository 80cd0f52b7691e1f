//! The hosts: each has a place with a folder, a data folder and a link of its own, and may die there and be replaced.

use std::fs::File;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use baton_tests::settings::{PREFIX, host_variables};
use baton_tests::{Address, Folder, Process, Proxy, Signal, until};
use serde_json::{Value, json};
use tokio::process::Command;

use crate::builds::Builds;
use crate::history::{Book, History};
use crate::plan::Plan;
use crate::world::World;

/// How long a host may take to be there with its functions; compiling them is slow on a busy machine.
const READY_WITHIN: Duration = Duration::from_secs(60);

/// How often a host is started that ends at once, and the pause between.
const STARTS_MAX: u32 = 10;
const START_AGAIN_AFTER: Duration = Duration::from_millis(500);

/// Where HTTP is served now, by place. Written when a host comes or goes, read by callers.
#[derive(Debug, Default)]
pub(crate) struct Doors(Mutex<Vec<Option<String>>>);

impl Doors {
    /// One of those that are open, another for another `turn`.
    ///
    /// # Panics
    /// If somebody panicked with the list in hand.
    #[must_use]
    pub(crate) fn any(&self, turn: usize) -> Option<String> {
        let doors = self.0.lock().expect("nobody panics with the doors in hand");
        let open: Vec<&String> = doors.iter().flatten().collect();
        (!open.is_empty()).then(|| open[turn % open.len()].clone())
    }

    fn set(&self, slot: usize, door: Option<String>) {
        let mut doors = self.0.lock().expect("nobody panics with the doors in hand");
        if doors.len() <= slot {
            doors.resize(slot + 1, None);
        }
        doors[slot] = door;
    }
}

/// What every place needs to know.
pub(crate) struct Setting {
    /// The run.
    pub(crate) plan: Plan,
    /// The host's program.
    pub(crate) binary: PathBuf,
    /// Where Redis is, past all links.
    pub(crate) redis: Address,
    /// The books.
    pub(crate) history: Arc<History>,
    /// Where HTTP is served.
    pub(crate) doors: Arc<Doors>,
    /// Address and port of the collector.
    pub(crate) collector: String,
    /// What is loaded into hosts, so that their clocks can be changed.
    pub(crate) library: PathBuf,
}

/// One place.
pub(crate) struct Slot {
    setting: Arc<Setting>,
    at: usize,
    /// Its functions.
    pub(crate) folder: Folder,
    /// Between it and Redis.
    pub(crate) link: Proxy,
    /// Its clock.
    pub(crate) world: World,
    process: Option<Process>,
    /// The id of the host that is there; empty until Redis has it.
    pub(crate) host: String,
    starts: u32,
}

impl Slot {
    /// A place with the functions in it and nobody there.
    ///
    /// # Errors
    /// If its folder cannot be made.
    pub(crate) async fn new(setting: &Arc<Setting>, at: usize, builds: &Builds) -> Result<Self> {
        let folder = Folder::new()?;
        for function in ["witness", "acme/witness"] {
            let manifest = format!(
                "[grants.http]\nallow = [\"http://{collector}\"]\n[grants.config]\ncollector = \"{collector}\"\nslot = \"{at}\"\n",
                collector = setting.collector
            );
            folder.write_manifest(function, &manifest)?;
        }
        builds.install(&folder)?;
        let link = Proxy::to(&setting.redis).await?;
        let (process, host) = (None, String::new());
        let world = World::at(setting.history.dir().join(format!("world-{at}")))?;
        Ok(Self { setting: Arc::clone(setting), at, folder, link, world, process, host, starts: 0 })
    }

    fn dir(&self) -> PathBuf {
        self.setting.history.dir().join(format!("host-{}", self.at))
    }

    fn log(&self) -> PathBuf {
        self.dir().join(format!("log-{}.txt", self.starts))
    }

    /// Its process id, if somebody is there.
    #[must_use]
    pub(crate) fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(Process::pid)
    }

    /// Starts a host and waits until it has its functions, or for long enough: it may be kept from them by what else is
    /// going on. One that ends meanwhile, as it may without Redis, is started again, as whoever runs hosts does it.
    ///
    /// # Errors
    /// If it ends again and again, or there is no program.
    pub(crate) async fn start(&mut self) -> Result<()> {
        let mut tries = 1;
        loop {
            match self.start_once().await {
                Err(_) if tries < STARTS_MAX => tries += 1,
                ended => return ended,
            }
            self.process = None;
            self.tell(json!({"ev": "host-ends", "host": self.host, "how": "by itself, at its start"}));
            tokio::time::sleep(START_AGAIN_AFTER).await;
        }
    }

    async fn start_once(&mut self) -> Result<()> {
        let plan = &self.setting.plan;
        self.starts += 1;
        let dir = self.dir();
        std::fs::create_dir_all(&dir)?;
        let config = dir.join("baton.toml");
        std::fs::write(&config, "[security]\negress_networks = [\"127.0.0.1/32\"]\n")?;
        let log = File::create(self.log())?;
        let mut command = Command::new(&self.setting.binary);
        command.arg("serve").arg("--redis").arg(self.link.url()).arg("--plugins").arg(self.folder.path());
        command.arg("--data").arg(&dir).arg("--config").arg(&config);
        command.args(["--http", "127.0.0.1:0"]);
        command.arg("--drain-timeout").arg(format!("{}ms", plan.drain.as_millis()));
        for name in host_variables() {
            command.env_remove(name);
        }
        command.env("RUST_LOG", "info").env("BATON_CALLS__LEASE_MS", plan.lease.as_millis().to_string());
        // Hosts are killed and cut off far more often here than a call that is not to blame would see.
        command.env("BATON_RETRY__HOSTS_LOST_MAX", "5");
        command.env("BATON_RETRY__BACKOFF_BASE_MS", "300").env("BATON_CALLS__SEATS", "64");
        command.env("BATON_CALLS__RESULT_TTL_MS", "86400000").env("BATON_PLUGINS__RESCAN_MS", "500");
        command.envs(self.world.variables(&self.setting.library));
        command.current_dir(&dir).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        self.process = Some(Process::start("the host", command)?);
        let pid = self.pid().context("it was just started")?;
        self.tell(json!({"ev": "host-starts", "pid": pid}));
        self.arrive(pid).await
    }

    /// Waits until it is registered and has its functions, and opens its door.
    async fn arrive(&mut self, pid: u32) -> Result<()> {
        let log = self.log();
        let (redis, process) = (self.setting.redis.clone(), &mut self.process);
        let mut id = String::new();
        let ready = until("the host has its functions", READY_WITHIN, async || {
            if let Some(status) = process.as_mut().map(Process::ended).transpose()?.flatten() {
                bail!("the host ended with {status}, see {}", log.display());
            }
            let Some(record) = record(&redis, pid).await else { return Ok(None) };
            id = record["id"].as_str().unwrap_or_default().to_owned();
            let functions = record["functions"].as_array().map_or(0, Vec::len);
            let door = std::fs::read_to_string(&log)?.lines().find_map(listening_at);
            Ok(door.filter(|_| functions >= Builds::FUNCTIONS && record["state"] == "online"))
        });
        let ready = ready.await;
        self.host = id;
        if let Ok(door) = &ready {
            self.setting.doors.set(self.at, Some(format!("http://{door}")));
        }
        self.tell(json!({"ev": "host-ready", "pid": pid, "host": self.host, "is_ready": ready.is_ok()}));
        match ready {
            Err(error) if self.process.as_mut().is_none_or(|process| !matches!(process.ended(), Ok(None))) => {
                Err(error)
            }
            _there => Ok(()),
        }
    }

    /// Kills it.
    ///
    /// # Errors
    /// If nobody is there.
    pub(crate) async fn kill(&mut self) -> Result<()> {
        self.setting.doors.set(self.at, None);
        let mut process = self.process.take().context("nobody is there")?;
        let killed = process.kill9().await;
        self.tell(json!({"ev": "host-ends", "host": self.host, "how": "killed"}));
        killed
    }

    /// Tells it to end, and waits for that. Gives how it ended and after how many milliseconds.
    ///
    /// # Errors
    /// If nobody is there, or it does not end within `limit`.
    pub(crate) async fn stop(&mut self, limit: Duration) -> Result<(Option<i32>, f64)> {
        let from = self.setting.history.now();
        let process = self.process.as_mut().context("nobody is there")?;
        process.signal(Signal::TERM)?;
        let status = process.exit_within(limit).await;
        self.setting.doors.set(self.at, None);
        self.process = None;
        self.tell(json!({"ev": "host-ends", "host": self.host, "how": "stopped"}));
        Ok((status?.code(), self.setting.history.now() - from))
    }

    /// Sends it a signal.
    ///
    /// # Errors
    /// If nobody is there.
    pub(crate) fn signal(&self, signal: Signal) -> Result<()> {
        self.process.as_ref().context("nobody is there")?.signal(signal)
    }

    /// Whether a host is there that has not ended by itself.
    ///
    /// # Errors
    /// If the system does not say.
    pub(crate) fn runs(&mut self) -> Result<bool> {
        Ok(match &mut self.process {
            Some(process) => process.ended()?.is_none(),
            None => false,
        })
    }

    fn tell(&self, mut line: Value) {
        line["slot"] = self.at.into();
        self.setting.history.write(Book::Faults, line);
    }
}

/// The record of the host with this process id, if Redis has one.
async fn record(redis: &Address, pid: u32) -> Option<Value> {
    let mut connection = redis.connect().await.ok()?;
    let ids: Vec<String> =
        redis::cmd("SMEMBERS").arg(format!("{PREFIX}:{{hosts}}:online")).query_async(&mut connection).await.ok()?;
    for id in ids {
        let key = format!("{PREFIX}:{{hosts}}:host:{id}");
        let text: Option<String> = redis::cmd("GET").arg(key).query_async(&mut connection).await.ok()?;
        let record: Option<Value> = text.and_then(|text| serde_json::from_str(&text).ok());
        if let Some(record) = record.filter(|record| record["pid"] == pid) {
            return Some(record);
        }
    }
    None
}

/// The address, if this line of a log says where HTTP is served.
fn listening_at(line: &str) -> Option<String> {
    let line: Value = serde_json::from_str(line).ok()?;
    (line["message"] == "listening").then(|| line["address"].as_str().map(str::to_owned))?
}
