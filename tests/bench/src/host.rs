//! The processes that are measured: a host, or a worker in its place. Each is killed and reaped when dropped.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use baton_model::Digest;
use baton_tests::settings::{NO_FUNCTIONS, PATIENCE, host_variables};
use baton_tests::{Event, Events, Folder, Http, Process, Redis, Signal, until};
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::unix::pipe;
use tokio::process::Command;

use crate::folders;
use crate::worker::{Kind, READY};

/// The arguments for HTTP on a free port of this machine.
const HTTP: [&str; 2] = ["--http", "127.0.0.1:0"];

/// `baton serve`, as it comes: no setting is changed but where things are, and HTTP is left out unless asked for.
pub(crate) struct Host {
    process: Process,
    events: Events,
    /// As it was told with the first function that took calls; empty for one that has no functions.
    id: String,
    // Last, so that it goes after the process that writes into it.
    data: TempDir,
}

impl Host {
    /// Starts one and waits until these functions take calls.
    pub(crate) async fn start(redis: &Redis, folder: &Folder, functions: &[String]) -> Result<Self> {
        Self::start_with(&["--no-http"], redis, folder, functions).await
    }

    /// As [`Host::start`], and it serves HTTP on a free port.
    pub(crate) async fn with_http(redis: &Redis, folder: &Folder, functions: &[String]) -> Result<Self> {
        Self::start_with(&HTTP, redis, folder, functions).await
    }

    /// Starts one that serves HTTP for others and runs no functions.
    pub(crate) async fn front(redis: &Redis, folder: &Folder) -> Result<Self> {
        Self::start_with(&[HTTP[0], HTTP[1], NO_FUNCTIONS], redis, folder, &[]).await
    }

    async fn start_with(arguments: &[&str], redis: &Redis, folder: &Folder, functions: &[String]) -> Result<Self> {
        let data = tempfile::Builder::new().prefix("bb-").tempdir_in("/tmp")?;
        let log = std::fs::File::create(data.path().join("log"))?;
        let mut command = Command::new(folders::baton()?);
        command.arg("serve").arg("--redis").arg(redis.url()).arg("--plugins").arg(folder.path());
        command.arg("--data").arg(data.path()).args(arguments).current_dir(data.path());
        for name in host_variables() {
            command.env_remove(name);
        }
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let events = Events::of(&redis.address()).await?;
        let mut host = Self { process: Process::start("the host", command)?, events, id: String::new(), data };
        for function in functions {
            let told = host.ready(function, None).await.with_context(|| host.log())?;
            host.id = told.message["host"].as_str().context("`ready` names its host")?.to_owned();
        }
        Ok(host)
    }

    /// The name under which entries are pending for it.
    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    /// Waits until its HTTP says that calls may be sent there, and gives its base URL.
    pub(crate) async fn http(&self) -> Result<String> {
        let address = until("the host says where it listens", PATIENCE, async || {
            let log = std::fs::read_to_string(self.data.path().join("log"))?;
            Ok(log.lines().find_map(listening_at))
        });
        let base = format!("http://{}", address.await.with_context(|| self.log())?);
        let http = Http::at(&base)?;
        let ready = until("the host's HTTP is ready", PATIENCE, async || {
            Ok((http.get("/readyz").await?.status == 200).then_some(()))
        });
        ready.await.with_context(|| self.log())?;
        Ok(base)
    }

    /// Kills it as a crash would and waits until it is gone.
    pub(crate) async fn kill(mut self) -> Result<()> {
        self.process.kill9().await
    }

    /// Waits until it is told that `function` takes calls, with this digest if one is given.
    pub(crate) async fn ready(&mut self, function: &str, digest: Option<Digest>) -> Result<Event> {
        tokio::select! {
            told = self.events.ready(function, digest, PATIENCE) => told,
            status = self.process.exit_within(PATIENCE) => bail!("the host ended with {}", status?),
        }
    }

    /// Sends SIGTERM.
    pub(crate) fn terminate(&self) -> Result<()> {
        self.process.signal(Signal::TERM)
    }

    /// Waits for its end in order.
    pub(crate) async fn ended(&mut self) -> Result<()> {
        let status = self.process.exit_within(Duration::from_secs(40)).await?;
        if !status.success() {
            bail!("the host ended with {status}: {}", self.log());
        }
        Ok(())
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.pid()
    }

    fn log(&self) -> String {
        let text = std::fs::read_to_string(self.data.path().join("log")).unwrap_or_default();
        format!("the host printed:\n{text}")
    }
}

/// The address, if this is the line of the log that says where HTTP is served.
fn listening_at(line: &str) -> Option<String> {
    let line: Value = serde_json::from_str(line).ok()?;
    (line["message"] == "listening").then(|| line["address"].as_str().map(str::to_owned))?
}

/// Starts a worker in place of a host and waits until it takes calls.
pub(crate) async fn worker(kind: Kind, redis: &Redis, function: &str) -> Result<Process> {
    let own: &Path = &std::env::current_exe()?;
    let mut command = Command::new(own);
    command.args(["worker", "--kind", kind.name(), "--function", function, "--redis", &redis.url()]);
    ready(command).await
}

/// Starts a worker and waits until it says that it is ready.
pub(crate) async fn ready(mut command: Command) -> Result<Process> {
    let (from_worker, to_us) = std::io::pipe()?;
    command.stdin(Stdio::null()).stdout(to_us);
    let process = Process::start("the worker", command)?;
    let mut line = String::new();
    let mut lines = BufReader::new(pipe::Receiver::from_owned_fd(from_worker.into())?);
    let read = tokio::time::timeout(PATIENCE, lines.read_line(&mut line)).await;
    read.context("the worker is not ready in time")??;
    if line.trim() != READY {
        bail!("the worker does not start; it says {line:?}");
    }
    Ok(process)
}
