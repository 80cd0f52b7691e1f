//! From a name to addresses: the one look-up of a request. Whether an address may be reached is `address`'s.

use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::net::{IpAddr, ToSocketAddrs as _};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};

use baton_model::Name;
use tokio::sync::Semaphore;

/// The most look-ups of all functions together: each one holds a thread for as long as the system's resolver wants,
/// even if nobody waits for it any more.
const LOOKUPS_MAX: usize = 64;
/// The most of them that are one tenant's: a name server that never answers holds up its own tenant alone.
const LOOKUPS_A_TENANT_MAX: usize = 4;
/// Of how many tenants something is kept before that is given up which nobody needs just now.
const TENANTS_MAX: usize = 256;

/// What a look-up brings, once.
pub(super) type Looked = Pin<Box<dyn Future<Output = io::Result<Vec<IpAddr>>> + Send>>;

/// Whoever knows the addresses of a name. Tests have one whose answers change.
pub(super) trait Resolver: Send + Sync {
    /// All addresses of the name, in the order in which they are to be tried. Who drops this before its turn has come is
    /// out of the line.
    fn resolve(&self, tenant: &Name, name: String) -> Looked;
}

/// What looks a name up, and may take as long as it likes.
type Look = dyn Fn(&str) -> io::Result<Vec<IpAddr>> + Send + Sync;

/// The system's own resolver, with its hosts file and its settings.
pub(super) struct System {
    // Held by the look-up's thread, not by who waits for it.
    all: Arc<Semaphore>,
    /// A lock and no message: it is held for one map operation.
    tenants: Mutex<HashMap<Name, Arc<Semaphore>>>,
    look: Arc<Look>,
}

impl System {
    pub(super) fn new() -> Self {
        // The port plays no part in it.
        Self::with(|name| Ok((name, 0).to_socket_addrs()?.map(|found| found.ip()).collect()))
    }

    fn with(look: impl Fn(&str) -> io::Result<Vec<IpAddr>> + Send + Sync + 'static) -> Self {
        Self { all: Arc::new(Semaphore::new(LOOKUPS_MAX)), tenants: Mutex::default(), look: Arc::new(look) }
    }

    fn of(&self, tenant: &Name) -> Arc<Semaphore> {
        let mut tenants = self.tenants.lock().unwrap_or_else(PoisonError::into_inner);
        if tenants.len() >= TENANTS_MAX && !tenants.contains_key(tenant) {
            // Permits that are out hold theirs.
            tenants.retain(|_, lookups| Arc::strong_count(lookups) > 1);
        }
        let lookups = tenants.entry(tenant.clone()).or_insert_with(|| Arc::new(Semaphore::new(LOOKUPS_A_TENANT_MAX)));
        Arc::clone(lookups)
    }
}

impl Resolver for System {
    fn resolve(&self, tenant: &Name, name: String) -> Looked {
        let (own, all, look) = (self.of(tenant), Arc::clone(&self.all), Arc::clone(&self.look));
        Box::pin(async move {
            // One's own first: who waits for that takes nothing from others.
            let own = own.acquire_owned().await.map_err(io::Error::other)?;
            let permits = (own, all.acquire_owned().await.map_err(io::Error::other)?);
            let lookup = tokio::task::spawn_blocking(move || {
                let _permits = permits;
                look(&name)
            });
            lookup.await.map_err(io::Error::other)?
        })
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;

    fn name(text: &str) -> Name {
        Name::parse(text).unwrap()
    }

    #[tokio::test]
    async fn a_name_server_that_is_silent_holds_up_its_own_tenant_alone() {
        let (told, mut begun) = tokio::sync::mpsc::unbounded_channel();
        let (answer, answered) = mpsc::channel::<()>();
        let answered = Mutex::new(answered);
        let system = System::with(move |name| {
            told.send(name.to_owned()).unwrap();
            if name.ends_with("silent.test") {
                // Until the test is over.
                _ = answered.lock().unwrap_or_else(PoisonError::into_inner).recv();
            }
            Ok(vec![Ipv4Addr::LOCALHOST.into()])
        });
        let ask = |n: usize| system.resolve(&name("acme"), format!("n{n}.silent.test"));
        let mut line: Vec<_> = (0..2 * LOOKUPS_MAX).map(|n| tokio::spawn(ask(n))).collect();
        for _ in 0..LOOKUPS_A_TENANT_MAX {
            assert!(begun.recv().await.unwrap().ends_with("silent.test"));
        }
        let found = system.resolve(&name("globex"), "example.test".to_owned());
        let found =
            tokio::time::timeout(Duration::from_secs(30), found).await.expect("it has places of its own").unwrap();
        assert_eq!((found, begun.recv().await.unwrap()), (vec![Ipv4Addr::LOCALHOST.into()], "example.test".to_owned()));
        // Who is gone is out of the line: the next who asks is the next.
        line.drain(..).for_each(|asked| asked.abort());
        let next = tokio::spawn(ask(999));
        tokio::task::yield_now().await;
        drop(answer);
        next.await.unwrap().unwrap();
        assert_eq!(begun.recv().await.unwrap(), "n999.silent.test");
    }
}
