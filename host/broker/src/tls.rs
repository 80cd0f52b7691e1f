//! TLS to Redis: whom we trust and who we are, as the bytes of PEM files.

use std::fmt;

use redis::{ClientTlsConfig, TlsCertificates};

/// What a `rediss://` URL is dealt with beyond the defaults.
#[derive(Clone, Default)]
pub struct RedisTls {
    /// The certificates that vouch for the server; none means those that the system trusts.
    pub ca: Option<Vec<u8>>,
    /// Our own certificate and its key, for a server that asks who we are.
    pub client: Option<(Vec<u8>, Vec<u8>)>,
}

impl fmt::Debug for RedisTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { ca, client } = self;
        f.debug_struct("RedisTls").field("ca", &ca.is_some()).field("client", &client.is_some()).finish()
    }
}

impl RedisTls {
    pub(crate) fn certificates(&self) -> TlsCertificates {
        let client = self.client.clone();
        let client_tls = client.map(|(client_cert, client_key)| ClientTlsConfig { client_cert, client_key });
        TlsCertificates { client_tls, root_cert: self.ca.clone() }
    }
}
