//! From a destination to a stream of bytes: one look-up, every address checked, a connection to one of these very
//! addresses, TLS on top where it was asked for.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use baton_model::Name;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::OnceCell;
use tokio::time::{Instant, timeout_at};
use tokio_rustls::TlsConnector;

use super::address::Networks;
use super::destination::{Destination, Host};
use super::fault::Fault;
use super::resolve::Resolver;

/// How many addresses of a name are tried, one after the other.
const ADDRESSES_TRIED_MAX: usize = 4;

/// What HTTP is spoken over.
pub(super) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// Connects for all functions of the host. It keeps no connection: each request gets its own, so that none carries
/// anything from one call to the next.
pub(super) struct Connector {
    networks: Networks,
    resolver: Box<dyn Resolver>,
    // Read from the system when the first function asks for TLS.
    tls: OnceCell<TlsConnector>,
}

impl Connector {
    pub(super) fn new(networks: Networks, resolver: Box<dyn Resolver>) -> Self {
        Self { networks, resolver, tls: OnceCell::new() }
    }

    /// A connector that trusts these roots and not the system's.
    #[cfg(test)]
    pub(super) fn trusting(networks: Networks, resolver: Box<dyn Resolver>, roots: RootCertStore) -> Self {
        Self { networks, resolver, tls: OnceCell::new_with(Some(TlsConnector::from(client(roots).unwrap()))) }
    }

    /// Connects, before `until`.
    ///
    /// # Errors
    /// [`Fault`] says which step failed, or which rule an address breaks.
    pub(super) async fn connect(
        &self,
        tenant: &Name,
        to: &Destination,
        until: Instant,
    ) -> Result<Box<dyn Stream>, Fault> {
        let addresses =
            timeout_at(until, self.addresses(tenant, to)).await.map_err(|_| Fault::LookupTime(to.host_text()))??;
        let connected = async {
            let stream = reach(to, &addresses).await?;
            // A request is written in one go; waiting to fill a packet would only delay it.
            stream.set_nodelay(true).map_err(|error| refused(to, &error))?;
            match to.is_tls {
                false => Ok(Box::new(stream) as Box<dyn Stream>),
                true => self.secure(to, stream).await,
            }
        };
        timeout_at(until, connected).await.map_err(|_| Fault::ConnectTime(to.to_string()))?
    }

    /// The addresses that may be connected to. One that is closed closes the name: it would be reached by chance.
    async fn addresses(&self, tenant: &Name, to: &Destination) -> Result<Vec<IpAddr>, Fault> {
        let addresses = match &to.host {
            Host::Address(address) => vec![*address],
            Host::Name(name) => {
                let unresolved = |reason: String| Fault::Unresolved { host: name.clone(), reason };
                let found = self.resolver.resolve(tenant, name.clone()).await;
                let found = found.map_err(|error| unresolved(error.to_string()))?;
                if found.is_empty() {
                    return Err(unresolved("the resolver knows none".into()));
                }
                found
            }
        };
        for address in &addresses {
            self.networks.check(*address).map_err(|word| Fault::Closed {
                host: to.host_text(),
                address: *address,
                word,
            })?;
        }
        Ok(addresses)
    }

    async fn secure(&self, to: &Destination, stream: TcpStream) -> Result<Box<dyn Stream>, Fault> {
        let broken = |error: &io::Error| {
            let cause = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
            let is_certificate = matches!(cause, Some(rustls::Error::InvalidCertificate(_)));
            Fault::Tls { target: to.to_string(), reason: error.to_string(), is_certificate }
        };
        let connector = self.tls.get_or_try_init(native).await.map_err(|error| broken(&error))?;
        let name = match &to.host {
            Host::Address(address) => ServerName::from(*address),
            Host::Name(name) => ServerName::try_from(name.clone()).map_err(|error| broken(&io::Error::other(error)))?,
        };
        Ok(Box::new(connector.connect(name, stream).await.map_err(|error| broken(&error))?))
    }
}

async fn reach(to: &Destination, addresses: &[IpAddr]) -> Result<TcpStream, Fault> {
    let mut failed = io::Error::from(io::ErrorKind::AddrNotAvailable);
    for address in addresses.iter().take(ADDRESSES_TRIED_MAX) {
        match TcpStream::connect(SocketAddr::new(*address, to.port)).await {
            Ok(stream) => return Ok(stream),
            Err(error) => failed = error,
        }
    }
    Err(refused(to, &failed))
}

fn refused(to: &Destination, error: &io::Error) -> Fault {
    Fault::Connect { target: to.to_string(), reason: error.to_string() }
}

/// Trusts what this machine trusts: `SSL_CERT_FILE` and `SSL_CERT_DIR` are understood.
async fn native() -> io::Result<TlsConnector> {
    let loaded = tokio::task::spawn_blocking(|| {
        let found = rustls_native_certs::load_native_certs();
        let mut roots = RootCertStore::empty();
        let (added, _) = roots.add_parsable_certificates(found.certs);
        if added == 0 {
            return Err(io::Error::other(
                "this machine trusts no root certificate: install `ca-certificates`, or set SSL_CERT_FILE for the host",
            ));
        }
        Ok(TlsConnector::from(client(roots)?))
    });
    loaded.await.map_err(io::Error::other)?
}

fn client(roots: RootCertStore) -> io::Result<Arc<ClientConfig>> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    // A resumed session would tell a server that two calls, perhaps of two tenants, come from one host.
    config.resumption = rustls::client::Resumption::disabled();
    Ok(Arc::new(config))
}
