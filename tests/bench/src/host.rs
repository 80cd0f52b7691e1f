//! The processes that are measured: a host, or a worker in its place. Each is killed and reaped when dropped.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use baton_model::Digest;
use baton_tests::settings::{PATIENCE, host_variables};
use baton_tests::{Event, Events, Folder, Process, Redis, Signal};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::unix::pipe;
use tokio::process::Command;

use crate::folders;
use crate::worker::{Kind, READY};

/// `baton serve`, as it comes: no setting is changed but where things are, and HTTP is left out.
pub(crate) struct Host {
    process: Process,
    events: Events,
    // Last, so that it goes after the process that writes into it.
    data: TempDir,
}

impl Host {
    /// Starts one and waits until these functions take calls.
    pub(crate) async fn start(redis: &Redis, folder: &Folder, functions: &[String]) -> Result<Self> {
        let data = tempfile::Builder::new().prefix("bb-").tempdir_in("/tmp")?;
        let log = std::fs::File::create(data.path().join("log"))?;
        let mut command = Command::new(folders::baton()?);
        command.arg("serve").arg("--redis").arg(redis.url()).arg("--plugins").arg(folder.path());
        command.arg("--data").arg(data.path()).arg("--no-http").current_dir(data.path());
        for name in host_variables() {
            command.env_remove(name);
        }
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let events = Events::of(&redis.address()).await?;
        let mut host = Self { process: Process::start("the host", command)?, events, data };
        for function in functions {
            let ready = host.ready(function, None).await;
            ready.with_context(|| host.log())?;
        }
        Ok(host)
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

/// Starts a worker in place of a host and waits until it takes calls.
pub(crate) async fn worker(kind: Kind, redis: &Redis, function: &str) -> Result<Process> {
    let (from_worker, to_us) = std::io::pipe()?;
    let own: &Path = &std::env::current_exe()?;
    let mut command = Command::new(own);
    command.args(["worker", "--kind", kind.name(), "--function", function, "--redis", &redis.url()]);
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
