//! `baton` commands, run to their end.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use baton_model::{HostId, HostRecord};
use serde_json::Value;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use crate::listing::Listing;
use crate::settings::{self, PATIENCE};
use crate::wait::until;

/// How a command ended, and what it printed.
#[derive(Debug)]
pub struct Finished {
    /// Its exit code; none if a signal ended it.
    pub code: Option<i32>,
    /// What it printed for programs and people.
    pub stdout: String,
    /// What it printed for people alone.
    pub stderr: String,
}

impl Finished {
    /// Its standard output as JSON.
    ///
    /// # Errors
    /// If it is none.
    pub fn json(&self) -> Result<Value> {
        serde_json::from_str(&self.stdout).with_context(|| format!("this is no JSON: {self:#?}"))
    }

    /// Whether it ended with this exit code.
    ///
    /// # Errors
    /// If not; the message has all that it printed.
    pub fn expect(self, code: i32) -> Result<Self> {
        ensure!(self.code == Some(code), "exit code {code} was expected: {self:#?}");
        Ok(self)
    }
}

/// Runs `baton` commands against one Redis.
#[derive(Debug, Clone)]
pub struct Commands {
    connect: Vec<OsString>,
    variables: Vec<(String, OsString)>,
    current_dir: PathBuf,
}

impl Commands {
    /// Commands against the Redis at this URL.
    #[must_use]
    pub fn at_redis(url: &str) -> Self {
        Self { connect: vec!["--redis".into(), url.into()], ..Self::alone() }
    }

    /// Commands against the Redis that a host keeps in this data folder.
    #[must_use]
    pub fn at_data(data: &Path) -> Self {
        // By its setting, because `--data` is the input where a function is called.
        Self { variables: vec![(settings::DATA_DIR.to_owned(), data.into())], ..Self::alone() }
    }

    /// Commands that reach no Redis, or name one themselves.
    #[must_use]
    pub fn alone() -> Self {
        Self { connect: Vec::new(), variables: Vec::new(), current_dir: std::env::temp_dir() }
    }

    /// The same commands, run in this folder.
    #[must_use]
    pub fn within(mut self, dir: &Path) -> Self {
        self.current_dir = dir.to_owned();
        self
    }

    /// The same commands with this variable of the environment.
    #[must_use]
    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.variables.push((name.to_owned(), value.into()));
        self
    }

    /// Runs one command.
    ///
    /// # Errors
    /// If there is no binary, or it does not end in time.
    pub async fn run(&self, arguments: &[&str]) -> Result<Finished> {
        self.run_with_input(arguments, b"").await
    }

    /// Runs one command with `input` on its standard input.
    ///
    /// # Errors
    /// As [`Commands::run`].
    pub async fn run_with_input(&self, arguments: &[&str], input: &[u8]) -> Result<Finished> {
        let mut command = Command::new(settings::baton_binary()?);
        command.args(arguments).args(&self.connect).current_dir(&self.current_dir).kill_on_drop(true);
        for name in settings::host_variables() {
            command.env_remove(name);
        }
        command.envs(self.variables.iter().map(|(name, value)| (name, value)));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let what = || format!("`baton {}`", arguments.join(" "));
        let mut child = command.spawn().with_context(what)?;
        let mut stdin = child.stdin.take().context("the standard input is piped")?;
        let run = async {
            // A command that does not read its input has closed it, which is no fault.
            let _ = stdin.write_all(input).await;
            drop(stdin);
            child.wait_with_output().await
        };
        let output =
            tokio::time::timeout(PATIENCE, run).await.with_context(|| format!("{} does not end", what()))??;
        Ok(Finished {
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        })
    }

    /// The hosts that `baton ps --json` lists.
    ///
    /// # Errors
    /// If it fails or prints something else.
    pub async fn hosts(&self) -> Result<Vec<HostRecord>> {
        let listing = self.run(&["ps", "--json"]).await?.expect(0)?.json()?;
        let hosts = listing.get("hosts").context("`baton ps --json` has `hosts`")?;
        Ok(serde_json::from_value(hosts.clone())?)
    }

    /// What `baton ps --json` says now.
    ///
    /// # Errors
    /// If it fails or prints no JSON.
    pub async fn listing(&self) -> Result<Listing> {
        Ok(Listing(self.run(&["ps", "--json"]).await?.expect(0)?.json()?))
    }

    /// Waits until `baton ps` lists a host in this state, such as `online` or `offline (crashed)`.
    ///
    /// # Errors
    /// If it does not within `limit`; the message says which state it has instead.
    pub async fn until_state(&self, host: &HostId, state: &str, limit: Duration) -> Result<()> {
        let mut instead = String::new();
        let what = format!("{host} is {state}");
        let wait = until(&what, limit, async || {
            instead = self.listing().await?.state(host);
            Ok((instead == state).then_some(()))
        });
        wait.await.with_context(|| format!("it is {instead:?}"))
    }
}
