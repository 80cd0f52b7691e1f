//! A real redis-server for one test: a child on a private Unix socket, with its own data folder.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, IntoConnectionInfo, ProtocolVersion, PushInfo, PushKind, Value};
use rustix::process::Signal;
use tempfile::TempDir;
use tokio::process::Command;
use tokio::sync::mpsc::{self, UnboundedReceiver};

use crate::process::Process;
use crate::settings::PATIENCE;
use crate::wait::until;

/// The name of every connection of a test, so that a host's connections are those with another.
pub const CLIENT_NAME: &str = "baton-tests";

/// How long one command of a test may take.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(10);

/// One redis-server and its data, gone when dropped.
#[derive(Debug)]
pub struct Redis {
    server: Option<Process>,
    settings: Vec<(String, String)>,
    variables: Vec<(String, OsString)>,
    // After the server, so that it is dropped after it.
    dir: TempDir,
}

impl Redis {
    /// Starts one that keeps nothing on disk.
    ///
    /// # Errors
    /// If it does not start or does not answer.
    pub async fn start() -> Result<Self> {
        Self::with(&[("appendonly", "no")]).await
    }

    /// Starts one whose acknowledged writes survive its own `kill -9`.
    ///
    /// # Errors
    /// If it does not start or does not answer.
    pub async fn durable() -> Result<Self> {
        Self::with(&[("appendonly", "yes"), ("appendfsync", "always")]).await
    }

    /// Starts one with these settings of redis.conf.
    ///
    /// # Errors
    /// If it does not start or does not answer.
    pub async fn with(settings: &[(&str, &str)]) -> Result<Self> {
        Self::under(settings, Vec::new()).await
    }

    /// As [`Redis::with`], with these variables in the environment of the server.
    ///
    /// # Errors
    /// If it does not start or does not answer.
    pub async fn under(settings: &[(&str, &str)], variables: Vec<(String, OsString)>) -> Result<Self> {
        // A socket's path has at most 108 bytes, so the folder of the system's own choice may be too deep.
        let dir = tempfile::Builder::new().prefix("bt-").tempdir_in("/tmp")?;
        let settings = settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let mut redis = Self { server: None, settings, variables, dir };
        redis.restart().await?;
        Ok(redis)
    }

    /// Where it listens.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.dir.path().join("redis.sock")
    }

    /// Where its data and its log lie.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Its address, as a host is told it.
    #[must_use]
    pub fn url(&self) -> String {
        url_of(&self.socket())
    }

    /// Its process id; none while it is down.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.server.as_ref().map(Process::pid)
    }

    /// Sends it a signal, such as SIGSTOP.
    ///
    /// # Errors
    /// If it is down.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        self.server.as_ref().context("redis-server is down")?.signal(signal)
    }

    /// Kills it as a crash would.
    ///
    /// # Errors
    /// If it is down already.
    pub async fn kill9(&mut self) -> Result<()> {
        let mut server = self.server.take().context("redis-server is down already")?;
        server.kill9().await
    }

    /// Waits until it has ended by itself.
    ///
    /// # Errors
    /// If it is down, or still runs after `limit`.
    pub async fn ends_within(&mut self, limit: Duration) -> Result<()> {
        self.server.as_mut().context("redis-server is down already")?.exit_within(limit).await?;
        self.server = None;
        Ok(())
    }

    /// Starts it again on the same data and waits until it answers. One that runs is killed first.
    ///
    /// # Errors
    /// If it does not start or does not answer.
    pub async fn restart(&mut self) -> Result<()> {
        if self.server.is_some() {
            self.kill9().await?;
        }
        let mut command = Command::new("redis-server");
        let log = std::fs::File::options().create(true).append(true).open(self.dir.path().join("redis.log"))?;
        command.args(["--port", "0", "--save", "", "--daemonize", "no"]);
        command.arg("--unixsocket").arg(self.socket()).arg("--dir").arg(self.dir.path());
        for (name, value) in &self.settings {
            command.arg(format!("--{name}")).arg(value);
        }
        command.envs(self.variables.iter().map(|(name, value)| (name, value)));
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let mut server = Process::start("redis-server", command)?;
        let address = self.address();
        until("redis-server answers", PATIENCE, async || {
            if let Some(status) = server.ended()? {
                let log = std::fs::read_to_string(self.dir.path().join("redis.log")).unwrap_or_default();
                bail!("redis-server ended with {status}:\n{log}");
            }
            Ok(address.connect().await.ok())
        })
        .await?;
        self.server = Some(server);
        Ok(())
    }

    /// Where to connect to; it stays the same over restarts.
    #[must_use]
    pub fn address(&self) -> Address {
        Address { socket: self.socket() }
    }

    /// A connection for commands.
    ///
    /// # Errors
    /// If it is down.
    pub async fn connect(&self) -> Result<MultiplexedConnection> {
        self.address().connect().await
    }

    /// A connection that hears what is published on channels of these patterns.
    ///
    /// # Errors
    /// If it is down.
    pub async fn subscribe(&self, patterns: &[&str]) -> Result<Subscription> {
        self.address().subscribe(patterns).await
    }
}

/// The URL of a Redis on a Unix socket.
pub(crate) fn url_of(socket: &Path) -> String {
    format!("redis+unix://{}", socket.display())
}

/// Where a Redis listens, whether or not it runs.
#[derive(Debug, Clone)]
pub struct Address {
    socket: PathBuf,
}

impl Address {
    /// The Redis that listens on `socket`.
    #[must_use]
    pub fn at(socket: PathBuf) -> Self {
        Self { socket }
    }

    /// The path of its socket.
    #[must_use]
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// A connection for commands.
    ///
    /// # Errors
    /// If nobody listens, or the server still loads its data.
    pub async fn connect(&self) -> Result<MultiplexedConnection> {
        let client = Client::open(url_of(&self.socket))?;
        let config = AsyncConnectionConfig::new().set_response_timeout(Some(RESPONSE_TIMEOUT));
        let mut connection = client.get_multiplexed_async_connection_with_config(&config).await?;
        introduce(&mut connection).await?;
        Ok(connection)
    }

    /// A connection that hears what is published on channels of these patterns.
    ///
    /// # Errors
    /// If nobody listens.
    pub async fn subscribe(&self, patterns: &[&str]) -> Result<Subscription> {
        let info = url_of(&self.socket).into_connection_info()?;
        let redis = info.redis_settings().clone().set_protocol(ProtocolVersion::RESP3);
        let client = Client::open(info.set_redis_settings(redis))?;
        let (sender, pushes) = mpsc::unbounded_channel();
        let config = AsyncConnectionConfig::new().set_response_timeout(Some(RESPONSE_TIMEOUT)).set_push_sender(sender);
        let mut connection = client.get_multiplexed_async_connection_with_config(&config).await?;
        introduce(&mut connection).await?;
        for pattern in patterns {
            connection.psubscribe(pattern).await?;
        }
        Ok(Subscription { connection, pushes })
    }

    /// As [`Address::subscribe`], with patience for a server that is being restarted.
    ///
    /// # Errors
    /// If nobody listens for too long.
    pub async fn subscribe_again(&self, patterns: &[&str]) -> Result<Subscription> {
        let start = Instant::now();
        loop {
            match self.subscribe(patterns).await {
                Err(_) if start.elapsed() < PATIENCE => tokio::time::sleep(Duration::from_millis(20)).await,
                ended => return ended,
            }
        }
    }
}

/// Names the connection. Until a server has loaded its data, it refuses the `PING`, and then there is no connection yet.
async fn introduce(connection: &mut MultiplexedConnection) -> Result<()> {
    let mut setup = redis::pipe();
    setup.cmd("CLIENT").arg("SETNAME").arg(CLIENT_NAME).cmd("PING");
    setup.exec_async(connection).await?;
    Ok(())
}

/// What one subscribed connection hears.
pub struct Subscription {
    connection: MultiplexedConnection,
    pushes: UnboundedReceiver<PushInfo>,
}

impl Subscription {
    /// The next message: its channel and what was said. None once the connection is lost.
    pub async fn next(&mut self) -> Option<(String, Bytes)> {
        loop {
            let push = self.pushes.recv().await?;
            match push.kind {
                PushKind::Disconnection => return None,
                PushKind::PMessage => match message(push.data) {
                    Some(message) => return Some(message),
                    None => continue,
                },
                _other => {}
            }
        }
    }

    /// The messages that were published before now. Redis answers on a connection in order, so its answer to a `PING`
    /// stands behind all of them.
    ///
    /// # Errors
    /// If the connection is lost.
    pub async fn drain(&mut self) -> Result<Vec<(String, Bytes)>> {
        let _pong: Value = redis::cmd("PING").query_async(&mut self.connection).await?;
        let mut heard = Vec::new();
        while let Ok(push) = self.pushes.try_recv() {
            if push.kind == PushKind::PMessage {
                heard.extend(message(push.data));
            }
        }
        Ok(heard)
    }
}

/// Pattern, channel and text, as a pushed `pmessage` brings them.
fn message(data: Vec<Value>) -> Option<(String, Bytes)> {
    let [_pattern, Value::BulkString(channel), Value::BulkString(text)] = <[Value; 3]>::try_from(data).ok()? else {
        return None;
    };
    Some((String::from_utf8(channel).ok()?, Bytes::from(text)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Caller;

    #[tokio::test]
    async fn a_durable_server_keeps_what_it_acknowledged_over_its_own_death() -> Result<()> {
        let mut redis = Redis::durable().await?;
        let sent = Caller::of(&redis.address()).await?.send_many("echo", "kept", 10).await?;
        let first = redis.pid();
        redis.kill9().await?;
        assert!(redis.connect().await.is_err());
        redis.restart().await?;
        assert_ne!(redis.pid(), first);
        assert_eq!(Caller::of(&redis.address()).await?.entries("echo").await?, sent.len());
        Ok(())
    }

    #[tokio::test]
    async fn a_subscription_has_heard_all_that_was_said_before_it_is_drained() -> Result<()> {
        let mut redis = Redis::start().await?;
        let mut subscription = redis.subscribe(&["a:*"]).await?;
        let mut connection = redis.connect().await?;
        for n in 0..100 {
            redis::cmd("PUBLISH").arg(&["a:b", &n.to_string()]).exec_async(&mut connection).await?;
        }
        redis::cmd("PUBLISH").arg(&["other", "x"]).exec_async(&mut connection).await?;
        let heard = subscription.drain().await?;
        assert_eq!(heard.len(), 100);
        assert_eq!(heard[99], ("a:b".to_owned(), Bytes::from("99")));
        redis.kill9().await?;
        assert_eq!(subscription.next().await, None, "a lost connection is told");
        Ok(())
    }
}
