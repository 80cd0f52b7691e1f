//! A host that brings its own Redis.

use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use baton_model::Status;
use baton_tests::settings::{LEASE_MS, PATIENCE};
use baton_tests::{Address, Caller, Folder, Host, HostPlan, Signal, is_alive, sample, until};
use tempfile::TempDir;

/// A folder for data, short enough for a socket's path in it. A server that outlives its host by a fault would lie
/// in it, and is killed with it.
struct Data {
    dir: TempDir,
    servers: Vec<u32>,
}

impl Data {
    fn new() -> Result<Self> {
        Ok(Self { dir: tempfile::Builder::new().prefix("be-").tempdir_in("/tmp")?, servers: Vec::new() })
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    /// A host on this data, serving `function`, and the id of its redis-server.
    async fn host(&mut self, folder: &Folder, function: &str) -> Result<(Host, u32)> {
        let mut host = HostPlan::embedded(self.path(), folder).setting(LEASE_MS, 1_000).start().await?;
        let server = self.server_of(&host, None).await?;
        host.listed(function).await?;
        Ok((host, server))
    }

    /// The host's own redis-server, remembered; another than `old`.
    async fn server_of(&mut self, host: &Host, old: Option<u32>) -> Result<u32> {
        let server = until("the host has a new redis-server of its own", PATIENCE, async || {
            Ok(host.own_redis().await.ok().filter(|server| Some(*server) != old))
        })
        .await?;
        self.servers.push(server);
        Ok(server)
    }

    /// A caller on the socket in the folder.
    async fn caller(&self) -> Result<Caller> {
        until("the socket in the data folder answers", PATIENCE, async || {
            let Some(socket) = socket_in(self.path())? else { return Ok(None) };
            Ok(Caller::of(&Address::at(socket)).await.ok())
        })
        .await
    }
}

impl Drop for Data {
    fn drop(&mut self) {
        let ours = |pid: &&u32| {
            let cwd = std::fs::read_link(format!("/proc/{pid}/cwd"));
            is_alive(**pid) && cwd.is_ok_and(|cwd| cwd.starts_with(self.path()))
        };
        for pid in self.servers.iter().filter(ours) {
            let _ = std::process::Command::new("kill").args(["-9", &pid.to_string()]).status();
        }
    }
}

fn socket_in(dir: &Path) -> Result<Option<PathBuf>> {
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_socket() {
            return Ok(Some(entry.path()));
        }
        if kind.is_dir()
            && let Some(found) = socket_in(&entry.path())?
        {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

#[tokio::test]
async fn a_host_without_a_url_brings_its_own_redis_and_takes_it_along() -> Result<()> {
    let mut data = Data::new()?;
    let folder = Folder::with(&["hello"])?;
    let (mut host, server) = data.host(&folder, "hello").await?;
    let mut caller = data.caller().await?;
    let answer = caller.call("hello", r#"{"name":"Ada"}"#).await?;
    ensure!(&answer.payload[..] == br#"{"greeting":"Hello, Ada"}"#, "{answer:?}");
    let by_command = host.commands().run(&["call", "hello", "--data", r#"{"name":"Bob"}"#]).await?.expect(0)?;
    ensure!(by_command.stdout.trim() == r#"{"greeting":"Hello, Bob"}"#, "{by_command:?}");

    host.signal(Signal::TERM)?;
    ensure!(host.exit_within(PATIENCE).await?.code() == Some(0), "it leaves with 0");
    ensure!(!is_alive(server), "its redis-server {server} is left behind");
    Ok(())
}

#[tokio::test]
async fn the_own_redis_listens_on_a_private_socket_and_no_port() -> Result<()> {
    let mut data = Data::new()?;
    let folder = Folder::with(&["echo"])?;
    let (mut host, _) = data.host(&folder, "echo").await?;
    let mut caller = data.caller().await?;
    let port: Vec<String> = redis::cmd("CONFIG").arg(&["GET", "port"]).query_async(caller.connection()).await?;
    ensure!(port.get(1).is_some_and(|port| port == "0"), "no port: {port:?}");
    let aof: Vec<String> = redis::cmd("CONFIG").arg(&["GET", "appendonly"]).query_async(caller.connection()).await?;
    ensure!(aof.get(1).is_some_and(|aof| aof == "yes"), "an append-only file: {aof:?}");
    use std::os::unix::fs::PermissionsExt;
    let socket = socket_in(data.path())?.context("there is a socket")?;
    let mode = std::fs::metadata(&socket)?.permissions().mode() & 0o777;
    let dir = std::fs::metadata(socket.parent().context("it lies in a folder")?)?.permissions().mode() & 0o777;
    ensure!(mode & 0o077 == 0 || dir & 0o077 == 0, "others get at it: socket {mode:o} in a folder {dir:o}");
    host.stop().await
}

#[tokio::test]
async fn the_own_redis_is_restarted_when_it_dies_and_keeps_its_calls() -> Result<()> {
    let mut data = Data::new()?;
    let folder = Folder::with(&["echo"])?;
    let (mut host, server) = data.host(&folder, "echo").await?;
    let waiting = data.caller().await?.send_many("later", "kept", 5).await?;
    let killed = std::process::Command::new("kill").args(["-9", &server.to_string()]).status()?;
    ensure!(killed.success(), "{killed}");
    data.server_of(&host, Some(server)).await?;

    let mut caller = data.caller().await?;
    ensure!(caller.call("echo", "again").await?.status == Status::Ok, "calls are served again");
    folder.install("later", &sample("echo")?)?;
    for answer in caller.results("later", &waiting, PATIENCE).await? {
        ensure!(&answer.payload[..] == b"kept", "{answer:?}");
    }
    ensure!(host.runs()?, "the host goes on");
    host.stop().await
}

#[tokio::test]
async fn calls_wait_in_the_data_folder_from_one_start_to_the_next() -> Result<()> {
    let mut data = Data::new()?;
    let folder = Folder::with(&["sleep"])?;
    let (mut host, _) = data.host(&folder, "sleep").await?;
    let mut caller = data.caller().await?;
    let in_flight = caller.send_many("sleep", r#"{"ms":3000}"#, 5).await?;
    let queued = caller.send_many("later", r#"{"ms":1}"#, 5).await?;
    caller.until_pending("sleep", 5).await?;
    // A crash, after which an orphaned server may or may not be there.
    host.kill9().await?;

    let (mut next, _) = data.host(&folder, "sleep").await?;
    folder.install("later", &sample("sleep")?)?;
    let mut caller = data.caller().await?;
    for (function, ids) in [("sleep", &in_flight), ("later", &queued)] {
        for answer in caller.results(function, ids, PATIENCE).await? {
            ensure!(answer.status == Status::Ok, "{answer:?}");
        }
        caller.quiescent(function).await?;
    }
    next.stop().await?;
    let left: Vec<u32> = data.servers.iter().copied().filter(|pid| is_alive(*pid)).collect();
    ensure!(left.is_empty(), "servers left behind: {left:?}");
    Ok(())
}
