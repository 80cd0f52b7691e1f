//! The embedded default: a real redis-server (or valkey-server) child on a private Unix socket, supervised.
//!
//! It has a process group of its own, so that Ctrl-C in a terminal reaches the host alone, which stops it last.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, bail};
use baton_broker::{BrokerConfig, Queue};
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// The names under which a server may be installed, in the order in which they are tried.
const SERVERS: [&str; 2] = ["redis-server", "valkey-server"];
/// The longest path of a Unix socket that the kernel takes, in bytes.
const SOCKET_PATH_BYTES_MAX: usize = 107;
/// How long a server may take to load its data before the start is given up.
const START_MAX: Duration = Duration::from_secs(60);
/// The waits between two starts of a server that ends soon.
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// How long it may take to end.
const STOP_MAX: Duration = Duration::from_secs(10);

/// Where the embedded server of the data directory `data` listens.
#[must_use]
pub fn socket_path(data: &Path) -> PathBuf {
    data.join("redis.sock")
}

/// The URL of the embedded server of the data directory `data`.
#[must_use]
pub fn url(data: &Path) -> String {
    format!("unix://{}", socket_path(data).display())
}

/// The server that would be started: the first that is installed.
#[must_use]
pub fn installed() -> Option<&'static str> {
    let answers = |program: &&str| {
        let mut ask = std::process::Command::new(program);
        ask.arg("--version").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        ask.status().is_ok_and(|status| status.success())
    };
    SERVERS.into_iter().find(answers)
}

/// A running embedded server. Stop it with [`Embedded::stop`]; dropped, it is killed.
pub struct Embedded {
    url: String,
    stop: CancellationToken,
    supervisor: JoinHandle<()>,
    _lock: File,
}

impl Embedded {
    /// Starts a server that keeps its data in `data`, and waits until it answers.
    ///
    /// # Errors
    /// If no server is installed, another host uses the directory, or the server does not come up.
    pub async fn start(data: &Path) -> anyhow::Result<Self> {
        std::fs::create_dir_all(data).with_context(|| format!("cannot make the data directory {}", data.display()))?;
        let data = data.canonicalize().with_context(|| format!("cannot find {}", data.display()))?;
        let lock = lock(&data)?;
        let socket = socket_path(&data);
        let length = socket.as_os_str().len();
        if length > SOCKET_PATH_BYTES_MAX {
            bail!(
                "the path {} has {length} bytes; a Unix socket's path has at most {SOCKET_PATH_BYTES_MAX}. \
                 Choose a shorter --data, or give a --redis URL",
                socket.display()
            );
        }
        end_orphan(&data, &socket).await?;
        let url = url(&data);
        let (program, mut child) = spawn_any(&data, &socket)?;
        answers(&mut child, &url, &data).await?;
        tracing::info!(server = program, socket = %socket.display(), "embedded Redis started");

        let stop = CancellationToken::new();
        let supervisor = tokio::spawn(supervise(child, program, data, socket, stop.clone()));
        Ok(Self { url, stop, supervisor, _lock: lock })
    }

    /// Its URL.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Stops the server and waits until it is gone. What it has accepted is in its append-only file.
    pub async fn stop(self) {
        self.stop.cancel();
        _ = self.supervisor.await;
    }
}

/// One host for each data directory: two servers would write one append-only file.
fn lock(data: &Path) -> anyhow::Result<File> {
    let path = data.join("lock");
    let file = File::create(&path).with_context(|| format!("cannot make {}", path.display()))?;
    if file.try_lock().is_err() {
        bail!(
            "another host uses the data directory {}; stop it, or choose another --data (several hosts can share one \
             Redis: give them its --redis URL)",
            data.display()
        );
    }
    Ok(file)
}

/// Starts whichever server is installed.
fn spawn_any(data: &Path, socket: &Path) -> anyhow::Result<(&'static str, Child)> {
    for program in SERVERS {
        match spawn(program, data, socket) {
            Err(error) if is_not_installed(&error) => {}
            other => return Ok((program, other?)),
        }
    }
    bail!(
        "there is neither redis-server nor valkey-server on the PATH. Install one (Debian: apt-get install redis-server), \
         or give a --redis URL"
    )
}

fn is_not_installed(error: &anyhow::Error) -> bool {
    error.downcast_ref::<std::io::Error>().is_some_and(|error| error.kind() == std::io::ErrorKind::NotFound)
}

fn spawn(program: &str, data: &Path, socket: &Path) -> anyhow::Result<Child> {
    let log = File::options()
        .create(true)
        .append(true)
        .open(data.join("redis.log"))
        .context("cannot make the log of the embedded Redis")?;
    let mut command = Command::new(program);
    command
        .args(["--port", "0", "--unixsocketperm", "700", "--unixsocket"])
        .arg(socket)
        .arg("--dir")
        .arg(data)
        .arg("--pidfile")
        .arg(pid_path(data))
        .args(["--appendonly", "yes", "--appendfsync", "everysec", "--save", ""])
        .args(["--maxmemory-policy", "noeviction", "--daemonize", "no", "--loglevel", "notice"])
        .stdin(Stdio::null())
        .stdout(log.try_clone().context("cannot share the log of the embedded Redis")?)
        .stderr(log)
        .process_group(0)
        .kill_on_drop(true);
    command.spawn().with_context(|| format!("cannot start {program}"))
}

fn pid_path(data: &Path) -> PathBuf {
    data.join("redis.pid")
}

/// Waits until the server answers: it may have to load its data first.
async fn answers(child: &mut Child, url: &str, data: &Path) -> anyhow::Result<()> {
    let queue = Queue::new(&BrokerConfig::new(url))?;
    let end = Instant::now() + START_MAX;
    let log = data.join("redis.log");
    loop {
        let error = match queue.ping().await {
            Ok(()) => return Ok(()),
            Err(error) => error,
        };
        if let Some(status) = child.try_wait()? {
            bail!("the embedded Redis ended at once ({status}); {} says why", log.display());
        }
        if Instant::now() > end {
            bail!(
                "the embedded Redis did not answer within {} s ({error}); see {}",
                START_MAX.as_secs(),
                log.display()
            );
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn supervise(mut child: Child, program: &'static str, data: PathBuf, socket: PathBuf, stop: CancellationToken) {
    let mut pause = PAUSE_MIN;
    let mut started = Instant::now();
    loop {
        let status = tokio::select! {
            status = child.wait() => status,
            () = stop.cancelled() => return end(child, &data).await,
        };
        let status = status.map_or_else(|error| error.to_string(), |status| status.to_string());
        tracing::error!(%status, log = %data.join("redis.log").display(), "the embedded Redis ended; starting it again from its append-only file");
        if started.elapsed() > Duration::from_secs(10) {
            pause = PAUSE_MIN;
        } else {
            // It ends as soon as it starts: its data may be damaged. Its log says so.
            tokio::select! {
                () = tokio::time::sleep(pause) => pause = (pause * 2).min(PAUSE_MAX),
                () = stop.cancelled() => return,
            }
        }
        loop {
            match spawn(program, &data, &socket) {
                Ok(fresh) => {
                    child = fresh;
                    started = Instant::now();
                    break;
                }
                Err(error) => tracing::error!(error = format!("{error:#}"), "the embedded Redis cannot be started"),
            }
            tokio::select! {
                () = tokio::time::sleep(pause) => pause = (pause * 2).min(PAUSE_MAX),
                () = stop.cancelled() => return,
            }
        }
    }
}

/// Ends the server: by its own command, which it obeys at once (a signal waits for its next tick), then by signals.
async fn end(mut child: Child, data: &Path) {
    if let Ok(queue) = Queue::new(&BrokerConfig::new(url(data))) {
        // It hangs up instead of answering.
        _ = queue.shut_server_down().await;
    }
    if tokio::time::timeout(Duration::from_millis(500), child.wait()).await.is_ok() {
        return;
    }
    if let Some(pid) = child.id().and_then(|id| Pid::from_raw(id.cast_signed())) {
        _ = kill_process(pid, Signal::TERM);
    }
    if tokio::time::timeout(STOP_MAX, child.wait()).await.is_err() {
        tracing::warn!("the embedded Redis does not end; killing it");
        _ = child.kill().await;
    }
}

/// Ends a server that a killed host left behind on our socket. This host holds the directory's lock, so it is nobody's.
async fn end_orphan(data: &Path, socket: &Path) -> anyhow::Result<()> {
    let Some(pid) = orphan(data, socket) else { return Ok(()) };
    tracing::info!(pid = pid.as_raw_nonzero().get(), "ending the embedded Redis that a killed host left behind");
    _ = kill_process(pid, Signal::TERM);
    let end = Instant::now() + STOP_MAX;
    while orphan(data, socket).is_some() {
        if Instant::now() > end {
            bail!("the Redis process {} of a former host does not end; end it by hand", pid.as_raw_nonzero());
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Ok(())
}

/// The process in the pid file, if it is alive and is the server of this very socket: a pid may have a new owner.
fn orphan(data: &Path, socket: &Path) -> Option<Pid> {
    let id: i32 = std::fs::read_to_string(pid_path(data)).ok()?.trim().parse().ok()?;
    let title = std::fs::read(format!("/proc/{id}/cmdline")).ok()?;
    let title = String::from_utf8_lossy(&title).replace('\0', " ");
    let is_ours = SERVERS.iter().any(|name| title.contains(name)) && title.contains(&socket.display().to_string());
    is_ours.then(|| Pid::from_raw(id)).flatten()
}
