//! A TCP proxy between one host and a redis-server, whose link can be cut, muted, held and slowed while it is in use.
//!
//! The server listens on a Unix socket, so whoever was told the proxy's port reaches it through the proxy alone, and
//! everybody else past it.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use anyhow::Result;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

use crate::redis_server::Address;

/// The most that is read at once; a chunk of [`Link::Slow`].
const CHUNK_BYTES: usize = 64 * 1024;

/// What the proxy does with its connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Link {
    /// Everything passes.
    Pass,
    /// Connections are reset, and new ones as soon as they come.
    Cut,
    /// Bytes are swallowed both ways while sockets stay open, and neither end learns when the other closes; new
    /// connections come about and hang. Afterwards all of them are reset: what they lost cannot come any more.
    HalfOpen,
    /// What the client says passes, and what it is answered is swallowed: it never learns what was carried out.
    /// Afterwards all connections are reset.
    Unanswered,
    /// Nothing passes, and nothing is lost: everything comes late, when the link is good again.
    Held,
    /// Each chunk passes after so long.
    Slow(Duration),
}

/// The link's state, and how often it has become useless to the connections that were there.
#[derive(Debug, Clone, Copy)]
struct State {
    link: Link,
    /// A connection lives in one epoch alone.
    epoch: u64,
}

/// Counted by the tasks of all connections and read by tests.
#[derive(Debug, Default)]
struct Counters {
    accepted: AtomicUsize,
    open: AtomicUsize,
}

/// A proxy; its connections end with it.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    state: watch::Sender<State>,
    counters: Arc<Counters>,
    task: JoinHandle<()>,
}

impl Proxy {
    /// Listens on a free port of this machine alone, in front of the server at `redis`, and lets everything pass.
    ///
    /// # Errors
    /// If there is no free port.
    pub async fn to(redis: &Address) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let (state, watched) = watch::channel(State { link: Link::Pass, epoch: 0 });
        let counters = Arc::<Counters>::default();
        let task = tokio::spawn(accept(listener, redis.socket().to_owned(), watched, Arc::clone(&counters)));
        Ok(Self { address, state, counters, task })
    }

    /// The URL of the server, by way of this proxy.
    #[must_use]
    pub fn url(&self) -> String {
        format!("redis://{}", self.address)
    }

    /// Changes the link, from now on and for the connections that are there.
    pub fn set(&self, link: Link) {
        self.state.send_modify(|state| {
            let swallows = matches!(state.link, Link::HalfOpen | Link::Unanswered);
            let is_lost = link == Link::Cut || (swallows && link != state.link);
            *state = State { link, epoch: state.epoch + u64::from(is_lost) };
        });
    }

    /// How many connections there are now.
    #[must_use]
    pub fn open(&self) -> usize {
        self.counters.open.load(Relaxed)
    }

    /// How many connections there ever were, those that were reset at once included.
    #[must_use]
    pub fn accepted(&self) -> usize {
        self.counters.accepted.load(Relaxed)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(listener: TcpListener, socket: PathBuf, state: watch::Receiver<State>, counters: Arc<Counters>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                // What a client gave up before it was accepted is no connection.
                let Ok((client, _)) = accepted else { continue };
                counters.accepted.fetch_add(1, Relaxed);
                connections.spawn(serve(client, socket.clone(), state.clone(), Arc::clone(&counters)));
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

/// One connection from its first byte to its last.
async fn serve(mut client: TcpStream, socket: PathBuf, state: watch::Receiver<State>, counters: Arc<Counters>) {
    counters.open.fetch_add(1, Relaxed);
    let State { link, epoch } = *state.borrow();
    let mut end = state.clone();
    let is_cut = link == Link::Cut || {
        tokio::select! {
            biased;
            _ = end.wait_for(|state| state.epoch != epoch) => true,
            carried = carry(&mut client, &socket, state) => carried.is_err(),
        }
    };
    if is_cut {
        // Without this the client would be told of an orderly end.
        _ = client.set_zero_linger();
    }
    drop(client);
    counters.open.fetch_sub(1, Relaxed);
}

/// Carries bytes both ways until both ends have closed.
async fn carry(client: &mut TcpStream, socket: &PathBuf, mut state: watch::Receiver<State>) -> io::Result<()> {
    let link = state.borrow().link;
    if link == Link::HalfOpen {
        // Nothing of it ever reaches the server. It ends with the epoch.
        return swallow(client).await;
    }
    // The end of the proxy ends this too, with all others.
    _ = state.wait_for(|state| state.link != Link::Held).await;
    let mut server = UnixStream::connect(socket).await?;
    client.set_nodelay(true)?;
    let (from_client, to_client) = client.split();
    let (from_server, to_server) = server.split();
    let asked = pump(from_client, to_server, state.clone(), |link| link == Link::HalfOpen);
    let answered = pump(from_server, to_client, state, |link| matches!(link, Link::HalfOpen | Link::Unanswered));
    tokio::try_join!(asked, answered)?;
    Ok(())
}

/// Reads and forgets, for ever.
async fn swallow(client: &mut TcpStream) -> io::Result<()> {
    let mut chunk = vec![0; CHUNK_BYTES];
    while client.read(&mut chunk).await.is_ok_and(|bytes| bytes > 0) {}
    std::future::pending().await
}

/// Carries bytes one way until their source has closed, and closes the sink then. What comes while the link swallows is
/// forgotten.
async fn pump(
    mut source: impl AsyncRead + Unpin,
    mut sink: impl AsyncWrite + Unpin,
    mut state: watch::Receiver<State>,
    swallows: impl Fn(Link) -> bool,
) -> io::Result<()> {
    let mut chunk = vec![0; CHUNK_BYTES];
    loop {
        if state.borrow_and_update().link == Link::Held {
            _ = state.changed().await;
            continue;
        }
        let bytes = tokio::select! {
            biased;
            _ = state.changed() => continue,
            bytes = source.read(&mut chunk) => bytes.unwrap_or(0),
        };
        let link = state.borrow().link;
        if let Link::Slow(delay) = link {
            tokio::time::sleep(delay).await;
        }
        // The link may have gone bad since the bytes were read.
        let passes = state.wait_for(|state| state.link != Link::Held).await.map(|state| state.link);
        if passes.is_ok_and(&swallows) {
            if bytes == 0 {
                // That one end has closed does not reach the other.
                std::future::pending::<()>().await;
            }
            continue;
        }
        if bytes == 0 {
            return sink.shutdown().await;
        }
        sink.write_all(&chunk[..bytes]).await?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::PATIENCE;
    use crate::{Redis, until};
    use redis::aio::MultiplexedConnection;
    use redis::{AsyncConnectionConfig, Client, RedisResult};
    use std::time::Instant;

    /// How long the tests look whether something really does not come.
    const SHORT: Duration = Duration::from_millis(150);

    async fn connect(proxy: &Proxy) -> RedisResult<MultiplexedConnection> {
        let config = AsyncConnectionConfig::new().set_response_timeout(None).set_connection_timeout(None);
        Client::open(proxy.url())?.get_multiplexed_async_connection_with_config(&config).await
    }

    async fn ping(connection: &mut MultiplexedConnection) -> RedisResult<String> {
        redis::cmd("PING").query_async(connection).await
    }

    async fn until_open(proxy: &Proxy, count: usize) -> Result<()> {
        until(&format!("{count} connections are open"), PATIENCE, async || Ok((proxy.open() == count).then_some(())))
            .await
    }

    #[tokio::test]
    async fn a_good_link_passes_everything_and_counts_its_connections() -> Result<()> {
        let redis = Redis::start().await?;
        let proxy = Proxy::to(&redis.address()).await?;
        let mut connection = connect(&proxy).await?;
        let large = "x".repeat(3 * CHUNK_BYTES);
        redis::cmd("SET").arg(&["key", &large]).exec_async(&mut connection).await?;
        let back: String = redis::cmd("GET").arg("key").query_async(&mut connection).await?;
        assert_eq!(back, large);
        let _other = connect(&proxy).await?;
        assert_eq!((proxy.open(), proxy.accepted()), (2, 2));
        drop(connection);
        until_open(&proxy, 1).await?;
        Ok(())
    }

    #[tokio::test]
    async fn a_cut_link_ends_every_connection_and_takes_new_ones_when_it_is_mended() -> Result<()> {
        let redis = Redis::start().await?;
        let proxy = Proxy::to(&redis.address()).await?;
        let mut connection = connect(&proxy).await?;
        proxy.set(Link::Cut);
        assert!(ping(&mut connection).await.is_err(), "it was reset");
        assert!(connect(&proxy).await.is_err(), "new ones are refused");
        until_open(&proxy, 0).await?;
        proxy.set(Link::Pass);
        assert_eq!(ping(&mut connect(&proxy).await?).await?, "PONG");
        Ok(())
    }

    #[tokio::test]
    async fn a_half_open_link_swallows_everything_and_tells_nobody() -> Result<()> {
        let redis = Redis::start().await?;
        let proxy = Proxy::to(&redis.address()).await?;
        let mut connection = connect(&proxy).await?;
        redis::cmd("CLIENT").arg(&["SETNAME", "muted"]).exec_async(&mut connection).await?;
        proxy.set(Link::HalfOpen);
        let mut lost = connection.clone();
        let hangs = tokio::time::timeout(SHORT, redis::cmd("SET").arg(&["lost", "x"]).exec_async(&mut lost)).await;
        assert!(hangs.is_err(), "it hangs: {hangs:?}");
        assert!(tokio::time::timeout(SHORT, connect(&proxy)).await.is_err(), "a new one hangs too");

        let mut past = redis.connect().await?;
        drop((connection, lost));
        tokio::time::sleep(SHORT).await;
        let list: String = redis::cmd("CLIENT").arg("LIST").query_async(&mut past).await?;
        assert!(list.contains("name=muted"), "the server was not told that the client has closed");

        proxy.set(Link::Pass);
        until_open(&proxy, 0).await?;
        assert_eq!(ping(&mut connect(&proxy).await?).await?, "PONG");
        let lost: bool = redis::cmd("EXISTS").arg("lost").query_async(&mut past).await?;
        assert!(!lost, "what was swallowed does not come later");
        Ok(())
    }

    #[tokio::test]
    async fn on_an_unanswered_link_what_is_said_is_done_and_nobody_is_told() -> Result<()> {
        let redis = Redis::start().await?;
        let proxy = Proxy::to(&redis.address()).await?;
        let mut connection = connect(&proxy).await?;
        proxy.set(Link::Unanswered);
        let mut unsure = connection.clone();
        let set = tokio::spawn(async move { redis::cmd("SET").arg(&["done", "x"]).exec_async(&mut unsure).await });
        let mut past = redis.connect().await?;
        until("the server has carried it out", PATIENCE, async || {
            let is_there: bool = redis::cmd("EXISTS").arg("done").query_async(&mut past).await?;
            Ok(is_there.then_some(()))
        })
        .await?;
        assert!(!set.is_finished(), "its answer was swallowed");
        proxy.set(Link::Pass);
        assert!(set.await?.is_err(), "the connection was reset, and no answer comes late");
        assert!(ping(&mut connection).await.is_err());
        assert_eq!(ping(&mut connect(&proxy).await?).await?, "PONG");
        Ok(())
    }

    #[tokio::test]
    async fn a_held_link_brings_everything_late() -> Result<()> {
        let redis = Redis::start().await?;
        let proxy = Proxy::to(&redis.address()).await?;
        let mut connection = connect(&proxy).await?;
        proxy.set(Link::Held);
        let mut late = connection.clone();
        let ask = tokio::spawn(async move { ping(&mut late).await });
        let new = async { ping(&mut connect(&proxy).await?).await };
        tokio::pin!(new);
        assert!(tokio::time::timeout(SHORT, &mut new).await.is_err(), "a new one waits");
        assert!(!ask.is_finished());
        proxy.set(Link::Pass);
        assert_eq!((ask.await??, new.await?), ("PONG".to_owned(), "PONG".to_owned()));
        assert_eq!(ping(&mut connection).await?, "PONG", "nobody lost a connection");
        Ok(())
    }

    #[tokio::test]
    async fn a_slow_link_is_slow_each_way() -> Result<()> {
        let redis = Redis::start().await?;
        let proxy = Proxy::to(&redis.address()).await?;
        let mut connection = connect(&proxy).await?;
        proxy.set(Link::Slow(Duration::from_millis(50)));
        let start = Instant::now();
        assert_eq!(ping(&mut connection).await?, "PONG");
        assert!(start.elapsed() >= Duration::from_millis(100), "{:?}", start.elapsed());
        Ok(())
    }
}
