//! From a name to addresses: the one look-up of a request. Whether an address may be reached is `address`'s.

use std::future::Future;
use std::io;
use std::net::{IpAddr, ToSocketAddrs as _};
use std::pin::Pin;
use std::sync::Arc;

use tokio::sync::Semaphore;

/// The most look-ups of all functions together: each one holds a thread for as long as the system's resolver wants,
/// even if nobody waits for it any more.
const LOOKUPS_MAX: usize = 64;

/// What a look-up brings, once.
pub(super) type Looked = Pin<Box<dyn Future<Output = io::Result<Vec<IpAddr>>> + Send>>;

/// Whoever knows the addresses of a name. Tests have one whose answers change.
pub(super) trait Resolver: Send + Sync {
    /// All addresses of the name, in the order in which they are to be tried.
    fn resolve(&self, name: String) -> Looked;
}

/// The system's own resolver, with its hosts file and its settings.
pub(super) struct System {
    // Held by the look-up's thread, not by who waits for it.
    lookups: Arc<Semaphore>,
}

impl System {
    pub(super) fn new() -> Self {
        Self { lookups: Arc::new(Semaphore::new(LOOKUPS_MAX)) }
    }
}

impl Resolver for System {
    fn resolve(&self, name: String) -> Looked {
        let lookups = Arc::clone(&self.lookups);
        Box::pin(async move {
            let permit = lookups.acquire_owned().await.map_err(io::Error::other)?;
            let lookup = tokio::task::spawn_blocking(move || {
                let _permit = permit;
                // The port plays no part in it.
                Ok((name.as_str(), 0).to_socket_addrs()?.map(|found| found.ip()).collect())
            });
            lookup.await.map_err(io::Error::other)?
        })
    }
}
