//! The listener: connections, their limits, and an end in which every accepted request is answered.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::response::{IntoResponse as _, Response};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::GatewayConfig;
use crate::gate::{Gate, Parts};
use crate::problem::Problem;
use crate::router::router;
use crate::tls::{Tls, handshake};

/// The least that the HTTP library takes as a limit of headers.
const HEADER_BYTES_LEAST: usize = 8192;
/// How long the listener rests when the system has no socket to give.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// How long answers that were made at the last moment may take to be written.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// How long a connection stays open after the order to end, for what is on its way on it.
const LINGER: Duration = Duration::from_millis(300);
/// How many connections beyond the limit are told so; the ones after them are closed without a word.
const REFUSALS_MAX: usize = 64;

/// Why the gateway cannot start.
#[derive(Debug, thiserror::Error)]
pub enum GatewayError {
    /// The address is taken, is not this machine's, or may not be used.
    #[error("cannot listen on {address}: {reason}; choose another with --http ADDRESS, or go without by --no-http")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system says.
        reason: std::io::Error,
    },
    /// There is no TLS with this certificate and this key.
    #[error(
        "cannot speak TLS with the certificate {} and the key {}: {reason}; both must be PEM and belong together",
        cert.display(), key.display()
    )]
    Tls {
        /// The file of the certificate.
        cert: PathBuf,
        /// The file of the key.
        key: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A limit is one with which nothing would work.
    #[error("{0}")]
    Config(String),
}

/// The gateway before it listens.
pub struct Gateway;

/// A gateway that has its address; connections wait until it runs.
pub struct Bound {
    listener: TcpListener,
    address: SocketAddr,
    gate: Arc<Gate>,
    tls: Option<Tls>,
}

impl Gateway {
    /// Takes the address.
    ///
    /// # Errors
    /// [`GatewayError`].
    pub async fn bind(config: GatewayConfig, parts: Parts) -> Result<Bound, GatewayError> {
        if config.header_bytes_max < HEADER_BYTES_LEAST || config.connections_max == 0 || config.requests_max == 0 {
            let rule = "header_bytes_max must be at least 8192, connections_max and requests_max at least 1";
            return Err(GatewayError::Config(rule.to_owned()));
        }
        let tls = config.tls.clone().map(Tls::read).transpose()?;
        let refused = |reason| GatewayError::Listen { address: config.listen, reason };
        let listener = TcpListener::bind(config.listen).await.map_err(refused)?;
        let address = listener.local_addr().map_err(refused)?;
        Ok(Bound { listener, address, gate: Arc::new(Gate::new(config, parts)), tls })
    }
}

impl Bound {
    /// Where it listens.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `stop`, then answers what was accepted and returns. Requests that wait for a result longer than
    /// `end_time_max` from then on are told where it will be. Dropping the future closes every connection.
    pub async fn run(self, stop: CancellationToken) {
        let Self { listener, gate, tls, .. } = self;
        let config = &gate.config;
        let tls = tls.map(|tls| {
            let certificate = tls.config();
            tokio::spawn(tls.follow(config.tls_look));
            certificate
        });
        let greeting = Greeting { tls, time_max: config.header_time_max };
        let mut http = http1::Builder::new();
        http.timer(TokioTimer::new())
            .header_read_timeout(config.header_time_max)
            .max_headers(config.headers_max)
            .max_buf_size(config.header_bytes_max);
        let seats = Arc::new(Semaphore::new(config.connections_max));
        let refusals = Arc::new(Semaphore::new(REFUSALS_MAX));
        let service = router(gate.clone());
        let mut connections = JoinSet::new();
        loop {
            let stream = tokio::select! {
                () = stop.cancelled() => break,
                Some(ended) = connections.join_next(), if !connections.is_empty() => {
                    report(&gate, ended);
                    continue;
                }
                accepted = listener.accept() => match accepted {
                    Ok((stream, _)) => stream,
                    Err(error) => {
                        // Out of file descriptors, at the most: the connections that are open go on.
                        tracing::warn!(%error, "a connection could not be accepted");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                        continue;
                    }
                },
            };
            // An answer is written in one piece; waiting for more to send would only delay it.
            _ = stream.set_nodelay(true);
            if let Ok(seat) = seats.clone().try_acquire_owned() {
                let served = welcome(greeting.clone(), http.clone(), stream, service.clone(), stop.clone());
                connections.spawn(async move {
                    served.await;
                    drop(seat);
                });
            } else if greeting.tls.is_none()
                && let Ok(seat) = refusals.clone().try_acquire_owned()
            {
                // Over TLS a refusal would cost as much as an answer; there the connection is closed without a word.
                let refused = refuse(http.clone(), stream, config.retry_after, config.connections_max);
                connections.spawn(async move {
                    refused.await;
                    drop(seat);
                });
            }
        }
        // Those that connected before, and were not yet accepted, are told too.
        while let Ok(Ok((stream, _))) = timeout(Duration::ZERO, listener.accept()).await {
            let Ok(seat) = seats.clone().try_acquire_owned() else { break };
            let served = welcome(greeting.clone(), http.clone(), stream, service.clone(), stop.clone());
            connections.spawn(async move {
                served.await;
                drop(seat);
            });
        }
        drop(listener);
        end(&gate, connections).await;
    }
}

/// Waits for the connections to end; after a while the requests that still wait are answered at once.
async fn end(gate: &Gate, mut connections: JoinSet<()>) {
    let mut all = pin!(async {
        while let Some(ended) = connections.join_next().await {
            report(gate, ended);
        }
    });
    if timeout(gate.config.end_time_max, all.as_mut()).await.is_err() {
        gate.ending.cancel();
        _ = timeout(LAST_WORDS, all).await;
    }
}

fn report(gate: &Gate, ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        tracing::error!(%error, "a request failed by a fault of the gateway");
        gate.parts.fault.cancel();
    }
}

/// How connections begin.
#[derive(Clone)]
struct Greeting {
    /// What handshakes are made with; none for plain HTTP.
    tls: Option<watch::Receiver<Arc<ServerConfig>>>,
    time_max: Duration,
}

async fn welcome(
    greeting: Greeting,
    http: http1::Builder,
    stream: TcpStream,
    service: Router,
    stop: CancellationToken,
) {
    let Some(tls) = greeting.tls else { return serve(http, stream, service, stop).await };
    let certificate = tls.borrow().clone();
    let stream = tokio::select! {
        stream = handshake(certificate, stream, greeting.time_max) => stream,
        // Nothing was asked yet.
        () = stop.cancelled() => None,
    };
    if let Some(stream) = stream {
        serve(http, stream, service, stop).await;
    }
}

async fn serve(
    http: http1::Builder,
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    service: Router,
    stop: CancellationToken,
) {
    let mut connection = pin!(http.serve_connection(TokioIo::new(stream), TowerToHyperService::new(service)));
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = stop.cancelled() => {
            // A request may be on its way on this connection. It is told that the host is ending, with which the
            // connection closes; only one on which nothing comes is closed without a word.
            match timeout(LINGER, connection.as_mut()).await {
                Ok(ended) => ended,
                Err(_) => {
                    connection.as_mut().graceful_shutdown();
                    connection.await
                }
            }
        }
    };
    if let Err(error) = ended {
        tracing::trace!(%error, "a connection ended early");
    }
}

/// Answers the first request with 503 and closes.
async fn refuse(mut http: http1::Builder, stream: TcpStream, retry_after: Duration, connections_max: usize) {
    let service = service_fn(move |_: hyper::Request<Incoming>| async move {
        let detail = format!("there are {connections_max} connections, which is the limit; try again a little later");
        let response = Problem::new(503, "overloaded").detail(detail).retry_after(retry_after).into_response();
        Ok::<Response<Body>, Infallible>(response)
    });
    _ = http.keep_alive(false).serve_connection(TokioIo::new(stream), service).await;
}
