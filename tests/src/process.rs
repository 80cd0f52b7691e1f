//! One child process: signals by its own id, its end within a limit, and killed and reaped when dropped.

use std::process::ExitStatus;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};

/// A child process that does not outlive its owner.
#[derive(Debug)]
pub struct Process {
    what: String,
    child: Child,
    pid: u32,
    ended: Option<ExitStatus>,
}

impl Process {
    /// Starts `command`; `what` names it in errors.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn start(what: &str, mut command: Command) -> Result<Self> {
        let child = command.spawn().with_context(|| format!("{what} does not start; is it installed?"))?;
        let pid = child.id().context("a fresh child has an id")?;
        Ok(Self { what: what.to_owned(), child, pid, ended: None })
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// If it has ended already: its id may be another's by now.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let id = self.child.id().with_context(|| format!("{} has ended already", self.what))?;
        let pid = i32::try_from(id).ok().and_then(Pid::from_raw).context("a process id is a positive number")?;
        kill_process(pid, signal).with_context(|| format!("{} does not take {signal:?}", self.what))
    }

    /// How it ended, if it has.
    ///
    /// # Errors
    /// If the system does not say.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        if self.ended.is_none() {
            self.ended = self.child.try_wait()?;
        }
        Ok(self.ended)
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// If it still runs after `limit`.
    pub async fn exit_within(&mut self, limit: Duration) -> Result<ExitStatus> {
        if let Some(status) = self.ended {
            return Ok(status);
        }
        let status = tokio::time::timeout(limit, self.child.wait())
            .await
            .with_context(|| format!("{} still runs after {limit:?}", self.what))??;
        self.ended = Some(status);
        Ok(status)
    }

    /// Kills it with SIGKILL and waits until it is gone.
    ///
    /// # Errors
    /// If it has ended already, or does not end.
    pub async fn kill9(&mut self) -> Result<()> {
        self.signal(Signal::KILL)?;
        self.exit_within(Duration::from_secs(10)).await?;
        Ok(())
    }
}

impl Process {
    /// Kills it and waits until it is gone, where there is no runtime to wait on. A killed process is gone within
    /// milliseconds.
    pub(crate) fn kill_now(&mut self) {
        let start = Instant::now();
        if self.ended.is_none() && self.child.start_kill().is_ok() {
            while matches!(self.child.try_wait(), Ok(None)) && start.elapsed() < Duration::from_secs(5) {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill_now();
    }
}
