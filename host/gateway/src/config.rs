//! What the gateway depends on: where it listens, and a limit for everything that a client can make it hold.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use baton_model::Token;

use crate::{Auth, TlsFiles};

/// Where the gateway listens and what it bears. Every limit is enforced here, before Redis hears of a request.
#[derive(Debug, Clone)]
pub struct GatewayConfig {
    /// Where it listens; port 0 takes a free one.
    pub listen: SocketAddr,
    /// When a request has to have a token.
    pub auth: Auth,
    /// The tokens of operators, who see everything.
    pub operator_tokens: Vec<Token>,
    /// The names under which it may be asked for where no token is: beside `localhost` and addresses, which always may.
    pub hosts: Vec<String>,
    /// The certificate with which it speaks TLS, and nothing else; none for plain HTTP.
    pub tls: Option<TlsFiles>,
    /// How often it is looked whether the certificate was replaced.
    pub tls_look: Duration,
    /// The largest body; more is answered with 413. Not above what the hosts take as a payload.
    pub body_bytes_max: usize,
    /// The longest that a body may take to arrive; then 408.
    pub body_time_max: Duration,
    /// The most bytes of request line and headers together; more is answered with 431. At least 8,192.
    pub header_bytes_max: usize,
    /// The most headers of one request; more is answered with 431.
    pub headers_max: usize,
    /// The longest that the headers of a request may take to arrive, that an idle connection is kept, and that the
    /// handshake of TLS may take.
    pub header_time_max: Duration,
    /// The longest that a request waits for a result; then 504, and the call goes on.
    pub call_time_max: Duration,
    /// The longest that a call to a function which nobody has had waits while a host is still loading its functions;
    /// then 404.
    pub start_time_max: Duration,
    /// The most connections; the next ones are told 503.
    pub connections_max: usize,
    /// The most requests that are worked on at once, probes and metrics not counted; the next ones get 503.
    pub requests_max: usize,
    /// How long requests that wait for a result may go on waiting after the order to end; then 503 with the place
    /// where the result will be.
    pub end_time_max: Duration,
    /// What `Retry-After` says where nobody knows better.
    pub retry_after: Duration,
}

impl Default for GatewayConfig {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 7070)),
            auth: Auth::default(),
            operator_tokens: Vec::new(),
            hosts: Vec::new(),
            tls: None,
            tls_look: Duration::from_secs(1),
            body_bytes_max: 1 << 20,
            body_time_max: Duration::from_secs(30),
            header_bytes_max: 16 << 10,
            headers_max: 100,
            header_time_max: Duration::from_secs(20),
            call_time_max: Duration::from_secs(60),
            start_time_max: Duration::from_secs(10),
            connections_max: 4096,
            requests_max: 2048,
            end_time_max: Duration::from_secs(3),
            retry_after: Duration::from_secs(1),
        }
    }
}
