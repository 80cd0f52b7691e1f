//! TLS for the listener: the certificate and its key, read from files, and read again when they change.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::GatewayError;

/// Where a certificate and its key lie.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// The chain of certificates, the server's own first, as PEM.
    pub cert: PathBuf,
    /// The private key, as PEM.
    pub key: PathBuf,
}

/// What the files hold.
#[derive(Clone, PartialEq, Eq)]
struct Pem {
    cert: Vec<u8>,
    key: Vec<u8>,
}

/// Follows the files.
pub(crate) struct Tls {
    files: TlsFiles,
    /// What was read last, good or not.
    read: Pem,
    /// What the last look found, if it is new.
    candidate: Option<Pem>,
    config: watch::Sender<Arc<ServerConfig>>,
}

impl Tls {
    /// Reads the files.
    ///
    /// # Errors
    /// [`GatewayError::Tls`] if they cannot be read, are no PEM, or do not belong together.
    pub(crate) fn read(files: TlsFiles) -> Result<Self, GatewayError> {
        let refused = |reason| GatewayError::Tls { cert: files.cert.clone(), key: files.key.clone(), reason };
        let read = pem(&files).map_err(refused)?;
        let config = server_config(&read).map_err(refused)?;
        Ok(Self { read, candidate: None, config: watch::Sender::new(config), files })
    }

    /// What handshakes are made with, now and later.
    pub(crate) fn config(&self) -> watch::Receiver<Arc<ServerConfig>> {
        self.config.subscribe()
    }

    /// Looks at the files every `pause`. Ends with the last that listens.
    pub(crate) async fn follow(mut self, pause: Duration) {
        loop {
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.config.closed() => return,
            }
            let files = self.files.clone();
            // If it cannot be read, somebody is replacing it: another look finds it, or what holds goes on.
            let found = tokio::task::spawn_blocking(move || pem(&files).ok()).await;
            self.take(found.ok().flatten());
        }
    }

    /// Deals with what a look found. It is taken when two looks agree, since the certificate and the key come one after
    /// the other; what is wrong leaves everything as it was, and is told once.
    fn take(&mut self, found: Option<Pem>) {
        let before = self.candidate.take();
        let Some(found) = found.filter(|found| *found != self.read) else { return };
        if before.as_ref() != Some(&found) {
            self.candidate = Some(found);
            return;
        }
        let cert = self.files.cert.display();
        match server_config(&found) {
            Ok(config) => {
                tracing::info!(%cert, "certificate taken");
                self.config.send_replace(config);
            }
            Err(reason) => {
                tracing::error!(%cert, reason, "the new certificate is not taken; the one before holds on");
            }
        }
        self.read = found;
    }
}

fn pem(files: &TlsFiles) -> Result<Pem, String> {
    let read = |path: &Path| std::fs::read(path).map_err(|error| format!("{} cannot be read: {error}", path.display()));
    Ok(Pem { cert: read(&files.cert)?, key: read(&files.key)? })
}

fn server_config(pem: &Pem) -> Result<Arc<ServerConfig>, String> {
    let chain: Result<Vec<CertificateDer<'static>>, _> = CertificateDer::pem_slice_iter(&pem.cert).collect();
    let chain = chain.map_err(|error| format!("the certificate is no PEM: {error}"))?;
    if chain.is_empty() {
        return Err("there is no certificate in the file".to_owned());
    }
    let key = PrivateKeyDer::from_pem_slice(&pem.key).map_err(|error| format!("the key is no PEM: {error}"))?;
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_no_client_auth()
        .with_single_cert(chain, key);
    let mut config = config.map_err(|error| error.to_string())?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// Agrees with a client on keys. None if it does not come about within `limit`.
pub(crate) async fn handshake(
    config: Arc<ServerConfig>,
    stream: TcpStream,
    limit: Duration,
) -> Option<TlsStream<TcpStream>> {
    match timeout(limit, TlsAcceptor::from(config).accept(stream)).await {
        Ok(Ok(stream)) => Some(stream),
        Ok(Err(error)) => {
            tracing::trace!(%error, "a handshake failed");
            None
        }
        Err(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made() -> Pem {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        Pem { cert: made.cert.pem().into_bytes(), key: made.signing_key.serialize_pem().into_bytes() }
    }

    #[test]
    fn a_certificate_is_replaced_when_it_is_whole_and_its_key_fits() {
        let dir = tempfile::tempdir().unwrap();
        let files = TlsFiles { cert: dir.path().join("cert.pem"), key: dir.path().join("key.pem") };
        let (first, second) = (made(), made());
        std::fs::write(&files.cert, &first.cert).unwrap();
        std::fs::write(&files.key, &first.key).unwrap();
        let mut tls = Tls::read(files).unwrap();
        let mut seen = tls.config();
        let mut is_taken = |found: Option<Pem>| {
            tls.take(found);
            let is_new = seen.has_changed().unwrap();
            seen.mark_unchanged();
            is_new
        };
        let half = Pem { cert: second.cert.clone(), key: first.key.clone() };
        let cut = Pem { cert: b"-----BEGIN CERTIFICATE-----".to_vec(), key: second.key.clone() };
        for wrong in [half, cut] {
            for _ in 0..3 {
                assert!(!is_taken(Some(wrong.clone())));
            }
        }
        assert!(!is_taken(Some(second.clone())), "it may be half written");
        assert!(!is_taken(None), "it is away");
        assert!(!is_taken(Some(second.clone())));
        assert!(is_taken(Some(second.clone())));
        assert!(!is_taken(Some(second)), "it is the one that holds");
    }
}
