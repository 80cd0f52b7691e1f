//! A real host process.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use baton_model::{Digest, HostId, HostRecord};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::process::Command;

use crate::commands::Commands;
use crate::events::{Event, Events};
use crate::folder::Folder;
use crate::lines::Lines;
use crate::process::Process;
use crate::proxy::Proxy;
use crate::redis_server::{Address, Redis};
use crate::settings::{self, PATIENCE};
use crate::stats;
use crate::wait::until;

/// How a host is going to be started.
#[derive(Debug, Clone)]
pub struct HostPlan {
    redis: Option<(String, Address)>,
    /// Where the host itself looks for that Redis, if not where everybody else does.
    link: Option<String>,
    plugins: PathBuf,
    data: Option<PathBuf>,
    /// What is said of HTTP.
    http: Vec<OsString>,
    arguments: Vec<OsString>,
    variables: Vec<(String, String)>,
    open_files: Option<u32>,
}

impl HostPlan {
    /// A host on this Redis and this folder, with a data folder of its own.
    #[must_use]
    pub fn on(redis: &Redis, folder: &Folder) -> Self {
        Self { redis: Some((redis.url(), redis.address())), ..Self::bare(folder) }
    }

    /// A host that brings its own Redis, kept in `data`.
    #[must_use]
    pub fn embedded(data: &Path, folder: &Folder) -> Self {
        Self { data: Some(data.to_owned()), ..Self::bare(folder) }
    }

    fn bare(folder: &Folder) -> Self {
        let plugins = folder.path().to_owned();
        let http = vec!["--no-http".into()];
        Self {
            redis: None,
            link: None,
            plugins,
            data: None,
            http,
            arguments: Vec::new(),
            variables: Vec::new(),
            open_files: None,
        }
    }

    /// Over this proxy: the host, and nobody else. Its commands and its listener go past it.
    #[must_use]
    pub fn through(mut self, proxy: &Proxy) -> Self {
        self.link = Some(proxy.url());
        self
    }

    /// With this data folder instead of one of its own.
    #[must_use]
    pub fn data(mut self, data: &Path) -> Self {
        self.data = Some(data.to_owned());
        self
    }

    /// With a setting, by its variable of the environment.
    #[must_use]
    pub fn setting(mut self, name: &str, value: impl ToString) -> Self {
        self.variables.push((name.to_owned(), value.to_string()));
        self
    }

    /// With HTTP on a free port, which [`Host::http`] tells. Without this a host serves none.
    #[must_use]
    pub fn http(self) -> Self {
        self.http_at("127.0.0.1:0")
    }

    /// With HTTP at this address.
    #[must_use]
    pub fn http_at(mut self, address: &str) -> Self {
        self.http = vec!["--http".into(), address.into()];
        self
    }

    /// With nothing said of HTTP, so that settings and defaults hold.
    #[must_use]
    pub fn http_unsaid(mut self) -> Self {
        self.http.clear();
        self
    }

    /// With an argument.
    #[must_use]
    pub fn argument(mut self, argument: impl Into<OsString>) -> Self {
        self.arguments.push(argument.into());
        self
    }

    /// With so many files that it may have open, until it raises that.
    #[must_use]
    pub fn open_files(mut self, soft_limit: u32) -> Self {
        self.open_files = Some(soft_limit);
        self
    }

    /// Starts the process and waits for nothing.
    ///
    /// # Errors
    /// If there is no binary, or it does not start, or its Redis is down.
    pub async fn start(self) -> Result<Host> {
        let own_data = match self.data {
            Some(_) => None,
            None => Some(tempfile::Builder::new().prefix("bd-").tempdir_in("/tmp")?),
        };
        let data = match (&self.data, &own_data) {
            (Some(given), _) => given.clone(),
            (None, Some(own)) => own.path().to_owned(),
            (None, None) => bail!("a host needs a data folder"),
        };
        let baton = settings::baton_binary()?;
        let mut command = match self.open_files {
            None => Command::new(baton),
            Some(limit) => {
                // The shell becomes the host, so that its id is the host's.
                let mut command = Command::new("/bin/sh");
                command.arg("-c").arg(format!(r#"ulimit -S -n {limit}; exec "$0" "$@""#)).arg(baton);
                command
            }
        };
        command.arg("serve");
        if let Some((url, _)) = &self.redis {
            command.arg("--redis").arg(self.link.as_ref().unwrap_or(url));
        }
        command.arg("--plugins").arg(&self.plugins).arg("--data").arg(&data);
        command.args(&self.http).args(&self.arguments);
        for name in settings::host_variables() {
            command.env_remove(name);
        }
        command.env("RUST_LOG", settings::host_log()).envs(self.variables.iter().map(|(name, value)| (name, value)));
        let (read_end, write_end) = std::io::pipe()?;
        // Its own folder, so that no `baton.toml` of ours changes what it does.
        command.current_dir(&data).stdin(Stdio::null()).stdout(write_end.try_clone()?).stderr(write_end);

        let (commands, events) = match &self.redis {
            Some((url, address)) => (Commands::at_redis(url), Some(Events::of(address).await?)),
            None => (Commands::at_data(&data), None),
        };
        let process = Process::start("the host", command)?;
        Ok(Host { process, lines: Lines::of(read_end)?, events, commands, _own_data: own_data })
    }

    /// Starts it and waits until these functions take calls.
    ///
    /// # Errors
    /// As [`HostPlan::start`], or if it is not ready in time; the message has what it printed.
    pub async fn start_ready(self, functions: &[&str]) -> Result<Host> {
        let mut host = self.start().await?;
        for function in functions {
            host.ready(function).await?;
        }
        Ok(host)
    }
}

/// A host process; killed by its id and reaped when dropped.
pub struct Host {
    process: Process,
    lines: Lines,
    events: Option<Events>,
    commands: Commands,
    // Last, so that it goes after the process that writes into it.
    _own_data: Option<TempDir>,
}

impl Host {
    /// Waits until it takes calls for `function`: by its event, or by `baton ps` if it brings its own Redis.
    ///
    /// # Errors
    /// If it does not in time, or has ended.
    pub async fn ready(&mut self, function: &str) -> Result<()> {
        match &mut self.events {
            Some(events) => {
                let ended = self.process.exit_within(PATIENCE);
                tokio::select! {
                    told = events.ready(function, None, PATIENCE) => { told?; }
                    status = ended => bail!("the host ended with {} before {function} was ready", status?),
                }
            }
            None => self.listed(function).await?,
        }
        Ok(())
    }

    /// Waits until new calls of `function` run on these bytes.
    ///
    /// # Errors
    /// If it is not told in time.
    pub async fn ready_with(&mut self, function: &str, component: &[u8]) -> Result<Event> {
        self.events()?.ready(function, Some(Digest::of(component)), PATIENCE).await
    }

    /// Waits until `baton ps` lists `function` at this host.
    ///
    /// # Errors
    /// If it does not in time, or the host has ended.
    pub async fn listed(&mut self, function: &str) -> Result<()> {
        let function = function.parse()?;
        until(&format!("`baton ps` lists {function}"), PATIENCE, async || {
            if let Some(status) = self.process.ended()? {
                bail!("the host ended with {status} before {function} was listed");
            }
            let record = self.record().await.ok();
            let has = |record: HostRecord| record.functions.iter().any(|loaded| loaded.function == function);
            Ok(record.is_some_and(has).then_some(()))
        })
        .await
    }

    /// Its own account of itself, from `baton ps --json`.
    ///
    /// # Errors
    /// If it is not listed.
    pub async fn record(&self) -> Result<HostRecord> {
        let pid = self.pid();
        let hosts = self.commands.hosts().await?;
        hosts
            .into_iter()
            .find(|host| host.pid == pid)
            .with_context(|| format!("`baton ps` lists no host with pid {pid}"))
    }

    /// Its id.
    ///
    /// # Errors
    /// If it is not listed.
    pub async fn id(&self) -> Result<HostId> {
        Ok(self.record().await?.id)
    }

    /// The base URL of its HTTP, such as `http://127.0.0.1:40001`, from the line that says where it listens.
    ///
    /// # Errors
    /// If it says so not in time, or was not started with [`HostPlan::http`].
    pub async fn http(&self) -> Result<String> {
        let is_it = |line: &str| address_in(line).is_some();
        let lines = self.lines.wait_for_several(1, PATIENCE, is_it).await.context("the host serves no HTTP")?;
        let address = lines.first().and_then(|line| address_in(line)).context("the line has an address")?;
        Ok(format!("http://{address}"))
    }

    /// What it tells on the coordination channels.
    ///
    /// # Errors
    /// If it brings its own Redis, which nobody could listen to before it was there.
    pub fn events(&mut self) -> Result<&mut Events> {
        self.events.as_mut().context("a host with its own Redis has no listener")
    }

    /// What it prints.
    #[must_use]
    pub fn lines(&self) -> &Lines {
        &self.lines
    }

    /// `baton` commands against the Redis that it uses.
    #[must_use]
    pub fn commands(&self) -> &Commands {
        &self.commands
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// If it has ended.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        self.process.signal(signal)
    }

    /// Whether it still runs.
    ///
    /// # Errors
    /// If the system does not say.
    pub fn runs(&mut self) -> Result<bool> {
        Ok(self.process.ended()?.is_none())
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// If it still runs after `limit`.
    pub async fn exit_within(&mut self, limit: Duration) -> Result<ExitStatus> {
        self.process.exit_within(limit).await
    }

    /// Sends SIGTERM and waits until it has ended with 0.
    ///
    /// # Errors
    /// If it ends otherwise, or not in time.
    pub async fn stop(&mut self) -> Result<()> {
        self.signal(Signal::TERM)?;
        let status = self.exit_within(PATIENCE).await?;
        if !status.success() {
            bail!("after SIGTERM the host ended with {status}");
        }
        Ok(())
    }

    /// Kills it as a crash would.
    ///
    /// # Errors
    /// If it has ended already.
    pub async fn kill9(&mut self) -> Result<()> {
        self.process.kill9().await
    }

    /// The process id of the Redis that it brought.
    ///
    /// # Errors
    /// If it has none within the limit.
    pub async fn own_redis(&self) -> Result<u32> {
        let pid = self.pid();
        until("the host has a redis-server of its own", PATIENCE, async || {
            Ok(stats::children_of(pid)?.into_iter().find(|(_, name)| is_redis(name)).map(|(child, _)| child))
        })
        .await
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.lines.print_tail(&format!("host {}", self.pid()));
        // A host that a failed test leaves behind cannot stop the Redis that it brought, so both are killed here.
        let servers =
            if self.events.is_none() { stats::children_of(self.pid()).unwrap_or_default() } else { Vec::new() };
        self.process.kill_now();
        for (pid, _) in servers.into_iter().filter(|(_, name)| is_redis(name)) {
            if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
                // It may have ended with its host.
                let _ = kill_process(pid, Signal::KILL);
            }
        }
    }
}

/// The address in the line that says where HTTP is served.
fn address_in(line: &str) -> Option<String> {
    let line: serde_json::Value = serde_json::from_str(line).ok()?;
    (line["message"] == "listening").then(|| line["address"].as_str().map(str::to_owned))?
}

fn is_redis(process: &str) -> bool {
    process.starts_with("redis-server") || process.starts_with("valkey-server")
}
