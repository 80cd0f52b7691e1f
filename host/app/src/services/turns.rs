//! Turns at the buckets: Redis does one thing after the other, for calls and buckets alike, so a host asks for few things at
//! once, a tenant for fewer, and who has moved much rests before the next.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use baton_model::Name;
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The most operations that a host has under way.
const HOST_MAX: usize = 4;
/// The most of them that are one tenant's.
const TENANT_MAX: usize = 2;
/// After an operation its place rests for as long as what it moved takes at this rate, in bytes for each second: about a
/// fifth of what Redis does.
const RATE: u64 = 128 << 20;
/// What each key costs Redis beside its value, in bytes.
const KEY_BYTES: usize = 256;
/// Rests that are shorter are not worth a timer.
const REST_MIN: Duration = Duration::from_millis(1);
/// For how long an operation keeps its place of which nobody waited for the end: it is still Redis's to do.
const UNKNOWN: Duration = Duration::from_millis(50);
/// Of how many tenants something is kept before that is given up which nobody needs just now.
const TENANTS_MAX: usize = 256;

/// Who may ask now.
pub(super) struct Turns {
    all: Arc<Semaphore>,
    /// A lock and no message: it is held for one map operation.
    tenants: Mutex<HashMap<Name, Arc<Semaphore>>>,
}

impl Default for Turns {
    fn default() -> Self {
        Self { all: Arc::new(Semaphore::new(HOST_MAX)), tenants: Mutex::default() }
    }
}

impl Turns {
    /// Waits for the tenant's turn. One's own first: who waits for that takes nothing from others.
    pub(super) async fn next(&self, tenant: &Name) -> Turn {
        let own = self.of(tenant).acquire_owned().await.expect("it is never closed");
        let all = Arc::clone(&self.all).acquire_owned().await.expect("it is never closed");
        Turn { places: Some((own, all)) }
    }

    fn of(&self, tenant: &Name) -> Arc<Semaphore> {
        let mut tenants = self.tenants.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(places) = tenants.get(tenant) {
            return Arc::clone(places);
        }
        if tenants.len() >= TENANTS_MAX {
            // Places that are taken hold theirs.
            tenants.retain(|_, places| Arc::strong_count(places) > 1);
        }
        Arc::clone(tenants.entry(tenant.clone()).or_insert_with(|| Arc::new(Semaphore::new(TENANT_MAX))))
    }
}

/// A turn. Dropped before the end of its operation is known, it keeps its places for a while.
pub(super) struct Turn {
    places: Option<(OwnedSemaphorePermit, OwnedSemaphorePermit)>,
}

impl Turn {
    /// The operation has ended: it moved so many keys, and so many bytes of values.
    pub(super) fn ended(mut self, keys: usize, bytes: usize) {
        let Some((own, all)) = self.places.take() else { return };
        drop(all);
        let moved = u64::try_from(bytes.saturating_add(keys.saturating_mul(KEY_BYTES))).unwrap_or(u64::MAX);
        keep(own, Duration::from_micros(moved.saturating_mul(1_000_000) / RATE));
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if let Some(places) = self.places.take() {
            keep(places, UNKNOWN);
        }
    }
}

fn keep<T: Send + 'static>(places: T, time: Duration) {
    if time < REST_MIN {
        return;
    }
    if let Ok(runtime) = Handle::try_current() {
        runtime.spawn(async move {
            tokio::time::sleep(time).await;
            drop(places);
        });
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;

    #[tokio::test]
    async fn a_tenant_has_two_places_and_leaves_the_others_to_others() {
        let turns = Turns::default();
        let [acme, globex, initech] = ["acme", "globex", "initech"].map(|name| Name::parse(name).unwrap());
        let two = [turns.next(&acme).await, turns.next(&acme).await];
        let mut third = std::pin::pin!(turns.next(&acme));
        assert!(futures_util::poll!(&mut third).is_pending());
        let others = [turns.next(&globex).await, turns.next(&globex).await];
        let mut fifth = std::pin::pin!(turns.next(&initech));
        assert!(futures_util::poll!(&mut fifth).is_pending(), "the host has four");
        others.into_iter().for_each(|turn| turn.ended(1, 0));
        fifth.await.ended(1, 0);
        two.into_iter().for_each(|turn| turn.ended(1, 0));
        assert!(futures_util::poll!(&mut third).is_ready(), "who moves little does not rest");
    }

    #[tokio::test]
    async fn who_has_moved_much_or_went_away_rests_alone() {
        let turns = Turns::default();
        let [acme, globex] = ["acme", "globex"].map(|name| Name::parse(name).unwrap());
        let two = [turns.next(&acme).await, turns.next(&acme).await];
        let began = Instant::now();
        two.into_iter().for_each(|turn| turn.ended(1, 1 << 20));
        let mut other = std::pin::pin!(turns.next(&globex));
        assert!(futures_util::poll!(&mut other).is_ready(), "the host's places do not rest");
        drop(turns.next(&acme).await);
        assert!(began.elapsed() >= Duration::from_millis(7), "{:?}", began.elapsed());
        let began = Instant::now();
        let both = [turns.next(&acme).await, turns.next(&acme).await];
        assert!(began.elapsed() >= UNKNOWN, "what Redis still does counts: {:?}", began.elapsed());
        drop(both);
    }
}
