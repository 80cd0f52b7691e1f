//! What each test stands on: a redis-server, a gateway, and a client.

use std::collections::HashMap;
use std::future::ready;
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use baton_broker::{Admin, BrokerConfig, Caller, Cancel, DeadLetters, Inspect, Presence, Queue};
use baton_gateway::{Executions, Gateway, GatewayConfig, HostStatus, Parts};
use baton_model::{FunctionId, HostId, HostState, ReplyTo, Tenants};
use bytes::Bytes;
use reqwest::header::HeaderMap;
use reqwest::{Method, StatusCode};
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::host::{FakeHost, register};

/// Longer than anything takes that does not hang.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// A gateway on a Redis of its own.
pub(crate) struct Stage {
    pub(crate) broker: BrokerConfig,
    pub(crate) address: SocketAddr,
    pub(crate) status: watch::Sender<HostStatus>,
    /// How much it says that it has to do.
    pub(crate) executions: watch::Sender<Executions>,
    pub(crate) reachable: watch::Sender<bool>,
    /// What the metrics are; the host fails if they are not whole.
    pub(crate) metrics: watch::Sender<&'static str>,
    pub(crate) tenants: watch::Sender<Tenants>,
    pub(crate) fault: CancellationToken,
    pub(crate) stop: CancellationToken,
    pub(crate) running: JoinHandle<()>,
    client: reqwest::Client,
    redis: Child,
    dir: TempDir,
}

/// An answer, read to its end.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// A header as text; empty if it is not there.
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map(|value| value.to_str().expect("ASCII")).unwrap_or_default()
    }

    /// Asserts that it is a problem after RFC 9457 with this status and code.
    #[track_caller]
    pub(crate) fn is_problem(&self, status: u16, code: &str) {
        assert_eq!(self.status, status, "{self:?}");
        assert_eq!(self.header("content-type"), "application/problem+json", "{self:?}");
        let problem = self.json();
        assert_eq!((&problem["status"], &problem["code"]), (&Value::from(status), &Value::from(code)), "{self:?}");
        for field in ["type", "title", "detail"] {
            assert!(problem[field].as_str().is_some_and(|text| !text.is_empty()), "{field}: {self:?}");
        }
        if status == 503 {
            assert!(self.header("retry-after").parse::<u64>().is_ok_and(|s| s >= 1), "{self:?}");
        }
    }
}

impl Stage {
    /// A gateway with the defaults.
    pub(crate) async fn new() -> Result<Self> {
        Self::with(|_| {}).await
    }

    /// A gateway with defaults but for what `change` changes.
    pub(crate) async fn with(change: impl FnOnce(&mut GatewayConfig)) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("bg-").tempdir_in("/tmp")?;
        let socket = dir.path().join("redis.sock");
        let mut redis = Command::new("redis-server")
            .args(["--port", "0", "--save", "", "--appendonly", "no", "--unixsocket"])
            .arg(&socket)
            .arg("--dir")
            .arg(dir.path())
            .stdout(Stdio::null())
            .spawn()
            .context("redis-server must be installed")?;
        let broker = BrokerConfig::new(format!("redis+unix://{}", socket.display()));
        let queue = Queue::new(&broker)?;
        let began = Instant::now();
        while queue.ping().await.is_err() {
            if began.elapsed() > PATIENCE || redis.try_wait()?.is_some() {
                bail!("redis-server does not answer");
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let mut config = GatewayConfig { listen: SocketAddr::from(([127, 0, 0, 1], 0)), ..GatewayConfig::default() };
        change(&mut config);
        let started = HostStatus { started: true, ..HostStatus::default() };
        let (executions, work) = watch::channel(Executions::default());
        let (status, seen) = watch::channel(started);
        let (reachable, answers) = watch::channel(true);
        let (metrics, text) = watch::channel("# EOF\n");
        let (tenants, said) = watch::channel(Tenants::default());
        let fault = CancellationToken::new();
        let parts = Parts {
            caller: Arc::new(Caller::new(&broker, ReplyTo::parse("gateway-1").context("a suffix")?)?),
            presence: Arc::new(Presence::new(&broker)?),
            admin: Arc::new(Admin::new(&broker)?),
            inspect: Arc::new(Inspect::new(&broker)?),
            dead: Arc::new(DeadLetters::new(&broker)?),
            cancel: Arc::new(Cancel::new(&broker)?),
            durable: Arc::new(baton_broker::Executions::new(&broker)?),
            tenants: said,
            // Of one function its host is known, and what it takes.
            allowance: Arc::new(|_| baton_gateway::Allowance::default()),
            payload_bytes_max: Arc::new(|function| (function.function().as_str() == "tiny").then_some(10)),
            status: Arc::new(move || *seen.borrow()),
            executions: Arc::new(move || *work.borrow()),
            redis_reachable: Arc::new(move || Box::pin(ready(*answers.borrow()))),
            metrics: Arc::new(move || {
                assert!(text.borrow().ends_with("# EOF\n"), "the metrics are not whole, as the test wants it");
                Box::pin(ready((*text.borrow()).to_owned()))
            }),
            entrants: TaskTracker::new(),
            http_meter: Arc::new(|_, _, _, _| {}),
            fault: fault.clone(),
        };
        let bound = match Gateway::bind(config, parts).await {
            Ok(bound) => bound,
            Err(error) => {
                redis.kill()?;
                redis.wait()?;
                return Err(error.into());
            }
        };
        let address = bound.local_addr();
        let stop = CancellationToken::new();
        let running = tokio::spawn(bound.run(stop.clone()));
        let client = reqwest::Client::builder().no_proxy().build()?;
        Ok(Self {
            broker,
            address,
            status,
            executions,
            reachable,
            metrics,
            tenants,
            fault,
            stop,
            running,
            client,
            redis,
            dir,
        })
    }

    /// A host with these functions.
    pub(crate) async fn host(&self, functions: &[&str]) -> Result<FakeHost> {
        FakeHost::start(&self.broker, "host-1", functions).await
    }

    /// A host that is loading its functions; whoever asks for a [`Stage::host`] then, ends that.
    pub(crate) async fn host_is_starting(&self) -> Result<()> {
        let host: HostId = "host-1".parse().map_err(anyhow::Error::msg)?;
        register(&self.broker, &host, HostState::Starting, &[]).await
    }

    /// A function that was there and has no host now.
    pub(crate) async fn has_had(&self, function: &str) -> Result<()> {
        Queue::new(&self.broker)?.ensure_groups(&[function.parse()?]).await?;
        Ok(())
    }

    /// Ends Redis as a crash would.
    pub(crate) fn kill_redis(&mut self) -> Result<()> {
        self.redis.kill()?;
        self.redis.wait()?;
        Ok(())
    }

    /// How often Redis has carried out each command, as its `INFO` says; one that is not named was not.
    pub(crate) async fn commands(&self) -> Result<HashMap<String, u64>> {
        let mut link = UnixStream::connect(self.dir.path().join("redis.sock")).await?;
        link.write_all(b"INFO commandstats\r\nQUIT\r\n").await?;
        let mut said = String::new();
        link.read_to_string(&mut said).await?;
        let count = |line: &str| {
            let (name, facts) = line.strip_prefix("cmdstat_")?.split_once(":calls=")?;
            Some((name.to_owned(), facts.split(',').next()?.parse().ok()?))
        };
        Ok(said.lines().filter_map(count).collect())
    }

    /// Waits until Redis has carried out a command so many times.
    pub(crate) async fn asked_for(&self, command: &str, times: u64) -> Result<()> {
        let began = Instant::now();
        while self.commands().await?.get(command).is_none_or(|count| *count < times) {
            assert!(began.elapsed() < PATIENCE, "{command} is not asked for {times} times");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Ok(())
    }

    /// Waits until so many calls of `function` stand in its stream unread.
    pub(crate) async fn queued(&self, function: &str, calls: u64) -> Result<()> {
        let (admin, function) = (Admin::new(&self.broker)?, function.parse::<FunctionId>()?);
        let began = Instant::now();
        while admin.depth(&function).await?.queued != calls {
            assert!(began.elapsed() < PATIENCE, "{function} has not {calls} calls waiting");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Ok(())
    }

    pub(crate) async fn get(&self, path: &str) -> Result<Answer> {
        self.ask(Method::GET, path, &[], "").await
    }

    pub(crate) async fn post(&self, path: &str, body: impl Into<reqwest::Body>) -> Result<Answer> {
        self.ask(Method::POST, path, &[], body).await
    }

    pub(crate) async fn ask(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<reqwest::Body>,
    ) -> Result<Answer> {
        let mut request = self.client.request(method, format!("http://{}{path}", self.address)).timeout(PATIENCE);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let answer = request.body(body).send().await?;
        Ok(Answer { status: answer.status(), headers: answer.headers().clone(), body: answer.bytes().await? })
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        _ = self.redis.kill();
        _ = self.redis.wait();
    }
}
