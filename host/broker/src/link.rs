//! Connections to Redis: how they are opened, and one that replaces itself when it is broken.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use baton_model::Tenants;
use redis::aio::MultiplexedConnection;
use redis::io::tcp::{TcpSettings, socket2::TcpKeepalive};
use redis::{Arg, AsyncConnectionConfig, Client, Cmd, ConnectionAddr, ConnectionInfo, IntoConnectionInfo, Value, cmd};
use tokio::sync::{Mutex, watch};

use crate::entry::Rules;
use crate::keys::{GROUP, Keys};
use crate::meter::{Meter, Role};
use crate::seal::Seal;
use crate::{BrokerError, RedisTls};

/// The commands that change nothing, of those that are sent one by one. Those by which hosts watch each other are not
/// among them: there, a connection that was lost is news.
const READS: [&[u8]; 9] = [b"GET", b"EXISTS", b"PING", b"LRANGE", b"SCAN", b"XPENDING", b"HGET", b"HEXISTS", b"XRANGE"];

/// How long a connection may take to come about.
pub(crate) const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// How long a command that does not block may take. A timed-out command does not say whether it was carried out.
pub(crate) const COMMAND_TIMEOUT: Duration = Duration::from_secs(5);

/// Timeouts in a row after which a connection is held for dead, though nobody closed it.
const TIMEOUTS_MAX: u32 = 2;

/// What a host's dealings with Redis depend on.
#[derive(Debug, Clone)]
pub struct BrokerConfig {
    /// Where Redis is: `redis://…`, `rediss://…` for TLS, or `unix://…`.
    pub url: String,
    /// What a `rediss://` URL is dealt with; none by the defaults.
    pub tls: Option<RedisTls>,
    /// The prefix of all keys and channels.
    pub prefix: String,
    /// How long an entry stays its host's without being renewed.
    pub lease: Duration,
    /// How long a result is kept.
    pub result_ttl: Duration,
    /// The consumer group of all hosts.
    pub group: String,
    /// How long the log of an execution that has ended is kept.
    pub log_ttl: Duration,
    /// The largest payload that a call may have.
    pub payload_bytes_max: usize,
    /// What is said about tenants: whose notices may go where.
    pub tenants: watch::Receiver<Tenants>,
    /// Where what is said to Redis is counted.
    pub meter: Arc<Meter>,
    /// By what hosts know what hosts wrote into an entry.
    pub seal: Arc<Seal>,
}

impl BrokerConfig {
    /// The defaults of docs/protocol.md for a Redis at `url`.
    #[must_use]
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            tls: None,
            prefix: "baton".to_owned(),
            group: GROUP.to_owned(),
            lease: Duration::from_secs(30),
            result_ttl: Duration::from_secs(3600),
            log_ttl: Duration::from_secs(7 * 24 * 3600),
            payload_bytes_max: 1 << 20,
            tenants: watch::channel(Tenants::default()).1,
            meter: Arc::default(),
            seal: Arc::default(),
        }
    }

    pub(crate) fn rules(&self) -> Rules {
        Rules { payload_bytes_max: self.payload_bytes_max, tenants: self.tenants.clone(), seal: self.seal.clone() }
    }

    /// Makes the keys and channels.
    #[must_use]
    pub fn keys(&self) -> Keys {
        Keys::new(&self.prefix).read_by(&self.group)
    }

    /// The client for this URL. It connects to nothing yet.
    pub(crate) fn client(&self) -> Result<Client, BrokerError> {
        let bad = |reason: redis::RedisError| BrokerError::BadUrl {
            url: without_password(&self.url),
            reason: reason.to_string(),
        };
        let info: ConnectionInfo = self.url.as_str().into_connection_info().map_err(bad)?;
        // A cut network is noticed by the kernel within about 15 s, whatever stands in its own settings.
        let keepalive = TcpKeepalive::new().with_time(Duration::from_secs(5)).with_interval(Duration::from_secs(3));
        let tcp = TcpSettings::default()
            .set_nodelay(true)
            .set_keepalive(keepalive.with_retries(3))
            .set_user_timeout(Duration::from_secs(15));
        let info = info.set_tcp_settings(tcp);
        match &self.tls {
            Some(tls) => Client::build_with_tls(info, tls.certificates()).map_err(bad),
            None => Client::open(info).map_err(bad),
        }
    }
}

/// The URL as it may be shown: without the password.
fn without_password(url: &str) -> String {
    match (url.find("://"), url.rfind('@')) {
        (Some(scheme), Some(at)) if scheme + 3 <= at => format!("{}***{}", &url[..scheme + 3], &url[at..]),
        _ => url.to_owned(),
    }
}

/// Where a client would connect, for people; without the password.
pub(crate) fn address(client: &Client) -> String {
    match client.get_connection_info().addr() {
        ConnectionAddr::Tcp(host, port) => format!("{host}:{port}"),
        other => other.to_string(),
    }
}

fn settings(response_timeout: Option<Duration>) -> AsyncConnectionConfig {
    AsyncConnectionConfig::new()
        .set_connection_timeout(Some(CONNECT_TIMEOUT))
        .set_response_timeout(response_timeout)
        .set_pipeline_buffer_size(4096)
}

async fn open(client: &Client, timeout: Option<Duration>) -> Result<MultiplexedConnection, BrokerError> {
    client.get_multiplexed_async_connection_with_config(&settings(timeout)).await.map_err(|e| {
        match BrokerError::from(e) {
            BrokerError::Unreachable(reason) => BrokerError::Unreachable(format!("{}: {reason}", address(client))),
            other => other,
        }
    })
}

/// Opens a connection on which a read may block for as long as it likes. Its user keeps the time.
pub(crate) async fn open_blocking(client: &Client) -> Result<MultiplexedConnection, BrokerError> {
    open(client, None).await
}

/// An open connection.
#[derive(Clone)]
pub(crate) struct Open {
    connection: MultiplexedConnection,
    /// Since when it is the only one of its name at Redis; none if that is not known, or if it has no name.
    pub(crate) alone_since: Option<Instant>,
    /// Which of this link's connections it is.
    number: u64,
}

/// A connection for commands that do not block, shared by reference, opened on first use and anew when it is broken.
pub(crate) struct Link {
    client: Client,
    name: Option<String>,
    /// The open connection. A lock and no message: it is held for a clone, or while one task connects for all.
    open: Mutex<Option<Open>>,
    timeouts: AtomicU32,
    opened: AtomicU64,
    /// Where its commands are counted, if anywhere.
    count: Option<(Arc<Meter>, Role)>,
}

impl Link {
    pub(crate) fn new(client: Client) -> Self {
        Self {
            client,
            name: None,
            open: Mutex::new(None),
            timeouts: AtomicU32::new(0),
            opened: AtomicU64::new(0),
            count: None,
        }
    }

    /// A link whose connection has a name, under which others can have Redis close it.
    pub(crate) fn named(client: Client, name: String) -> Self {
        Self { name: Some(name), ..Self::new(client) }
    }

    /// The same link, its commands counted with those of its role.
    pub(crate) fn counted(self, config: &BrokerConfig, role: Role) -> Self {
        Self { count: Some((config.meter.clone(), role)), ..self }
    }

    fn count(&self, count: impl FnOnce(&Meter, Role)) {
        if let Some((meter, role)) = &self.count {
            count(meter, *role);
        }
    }

    pub(crate) fn client(&self) -> &Client {
        &self.client
    }

    /// The open connection, or a new one.
    pub(crate) async fn connection(&self) -> Result<Open, BrokerError> {
        let mut slot = self.open.lock().await;
        if let Some(open) = slot.as_ref() {
            return Ok(open.clone());
        }
        let opened = open(&self.client, Some(COMMAND_TIMEOUT)).await;
        let mut connection = opened.inspect_err(|_| self.count(Meter::failed))?;
        let alone_since = match &self.name {
            None => None,
            // Without it everything works, only slower; a server may forbid it.
            Some(name) => stand_alone(&mut connection, name).await.ok().map(|()| Instant::now()),
        };
        let number = self.opened.fetch_add(1, Ordering::Relaxed);
        if number > 0 {
            self.count(Meter::reconnected);
        }
        let fresh = Open { connection, alone_since, number };
        *slot = Some(fresh.clone());
        self.timeouts.store(0, Ordering::Relaxed);
        Ok(fresh)
    }

    /// Carries out one command. One that only reads is asked once more on a new connection, if it was the connection that
    /// failed: Redis, or whatever stands between, may have closed it while it was idle.
    pub(crate) async fn run(&self, command: &Cmd) -> Result<Value, BrokerError> {
        let only_reads = command.args_iter().next().is_some_and(|name| match name {
            Arg::Simple(name) => READS.iter().any(|read| name.eq_ignore_ascii_case(read)),
            _ => false,
        });
        match self.run_once(command).await {
            Err(error) if only_reads && self.is_worth_another(&error).await => self.run_once(command).await,
            other => other,
        }
    }

    /// Whether it was the connection that failed, and a new one is to be opened. What does no harm when it is done twice is then
    /// done once more: Redis may have been restarted since the connection was used last.
    pub(crate) async fn is_worth_another(&self, error: &BrokerError) -> bool {
        error.is_connection() && self.open.lock().await.is_none()
    }

    async fn run_once(&self, command: &Cmd) -> Result<Value, BrokerError> {
        let mut open = self.connection().await?;
        self.count(|meter, role| meter.sent(role, 1));
        let answer = open.connection.send_packed_command(command).await.and_then(Value::extract_error);
        self.judge(open.number, answer).await
    }

    /// Carries out several commands in one round trip and gives their answers, in order. What Redis refused stands
    /// among them as [`Value::ServerError`].
    pub(crate) async fn run_all(&self, pipeline: &redis::Pipeline) -> Result<Vec<Value>, BrokerError> {
        let mut open = self.connection().await?;
        self.count(|meter, role| meter.sent(role, pipeline.len()));
        let answers = open.connection.send_packed_commands(pipeline, 0, pipeline.len()).await;
        self.judge(open.number, answers).await
    }

    /// Carries out several commands as one step, on this very connection, and gives their answers. When Redis refuses
    /// one beforehand, as for want of memory, it carries out none; one that fails later fails alone.
    pub(crate) async fn run_as_one(&self, open: &mut Open, pipeline: &redis::Pipeline) -> Result<Value, BrokerError> {
        self.count(|meter, role| meter.sent(role, pipeline.len()));
        let answer = pipeline.query_async::<Value>(&mut open.connection).await;
        self.judge(open.number, answer).await
    }

    async fn judge<T>(&self, number: u64, answer: Result<T, redis::RedisError>) -> Result<T, BrokerError> {
        let error = match answer {
            Ok(value) => {
                self.timeouts.store(0, Ordering::Relaxed);
                return Ok(value);
            }
            Err(error) => error,
        };
        if error.code() != Some("NOSCRIPT") {
            self.count(Meter::failed);
        }
        let broken = if error.is_timeout() {
            self.timeouts.fetch_add(1, Ordering::Relaxed) + 1 >= TIMEOUTS_MAX
        } else {
            BrokerError::from(error.clone()).is_connection()
        };
        if broken {
            // Somebody may have opened a new one meanwhile; that one is not at fault.
            let mut slot = self.open.lock().await;
            if slot.as_ref().is_some_and(|open| open.number == number) {
                *slot = None;
            }
        }
        Err(error.into())
    }
}

/// Names a connection and has Redis close all others of that name: what was sent on them is not to arrive any more.
async fn stand_alone(connection: &mut MultiplexedConnection, name: &str) -> Result<(), redis::RedisError> {
    let mut introduce = redis::pipe();
    introduce.cmd("CLIENT").arg("SETNAME").arg(name).ignore().cmd("CLIENT").arg("ID");
    introduce.cmd("CLIENT").arg("LIST").arg("TYPE").arg("normal");
    let (own, list): (u64, String) = introduce.query_async(connection).await?;
    for id in ids_of(&list, |other| other == name).filter(|id| *id != own) {
        cmd("CLIENT").arg("KILL").arg("ID").arg(id).query_async::<()>(connection).await?;
    }
    Ok(())
}

/// The ids and names in an answer to `CLIENT LIST`.
pub(crate) fn connections_of(list: &str) -> impl Iterator<Item = (u64, &str)> {
    list.lines().filter_map(|line| {
        let field = |key: &str| line.split(' ').find_map(|field| field.strip_prefix(key));
        Some((field("id=")?.parse().ok()?, field("name=")?))
    })
}

/// The ids in an answer to `CLIENT LIST` of connections with a wanted name.
pub(crate) fn ids_of(list: &str, is_wanted: impl Fn(&str) -> bool) -> impl Iterator<Item = u64> {
    connections_of(list).filter(move |(_, name)| is_wanted(name)).map(|(id, _)| id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_list_gives_the_ids_behind_a_name() {
        let list = "id=7 addr=/x:0 name=a resp=2\nid=9 addr=/x:0 name= resp=2\nid=12 addr=/x:0 name=a resp=3\n";
        assert_eq!(ids_of(list, |name| name == "a").collect::<Vec<_>>(), [7, 12]);
        assert_eq!(ids_of(list, |name| name == "b").count(), 0);
    }

    #[test]
    fn a_password_is_never_shown() {
        assert_eq!(without_password("redis://me:secret@host:1/0"), "redis://***@host:1/0");
        assert_eq!(without_password("redis://host:1"), "redis://host:1");
        let error = BrokerConfig::new("http://me:secret@x").client().unwrap_err().to_string();
        assert!(!error.contains("secret") && error.contains("redis://HOST:PORT"), "{error}");
    }
}
