//! Permits: how many calls that make calls may run or wait at once, by tenant, by function and by depth.
//!
//! Each tenant has its share, as with seats: half of the permits are kept for the tenants by weight, at least one for each,
//! and the rest is for whoever has work. Whoever may have so many calls at once may have as many of each depth, and no
//! more: if the deeper ones counted with those that wait for them, a function that calls itself could never go on.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use baton_model::{FunctionId, Name};
use tokio::sync::Notify;

/// The most calls that wait for each other.
pub(super) const DEPTH_MAX: u32 = 8;
/// Depths, from 0 on.
const DEPTHS: usize = DEPTH_MAX as usize + 1;
/// Permits that only calls of a depth and deeper ones can have.
const PERMITS_A_DEPTH: u32 = 16;
/// The most calls of one tenant and depth that wait at this host for a permit; others wait in Redis.
const IN_LINE_MAX: u32 = 16;

/// How many permits only calls from outside can have, and deeper ones where those leave any.
fn of_outside(seats: u32) -> u32 {
    seats.clamp(PERMITS_A_DEPTH, 512)
}

/// How many permits a host with so many seats has.
pub(super) fn total(seats: u32) -> u32 {
    of_outside(seats) + DEPTH_MAX * PERMITS_A_DEPTH
}

/// What is said of a tenant that has functions which make calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Share {
    pub(super) weight: u32,
    /// The most calls that it may have at once.
    pub(super) concurrency_max: Option<u32>,
}

/// What one tenant holds.
#[derive(Default)]
struct Tenant {
    /// None once it has no function any more that makes calls.
    share: Option<Share>,
    /// By whose permits they are: of a call's own depth, or of a lesser one.
    permits: [u32; DEPTHS],
    /// By their own depth.
    calls: [u32; DEPTHS],
    in_line: [u32; DEPTHS],
}

#[derive(Default)]
struct Books {
    tenants: HashMap<Name, Tenant>,
    /// By depth. Functions that have none are not in it.
    functions: HashMap<FunctionId, [u32; DEPTHS]>,
    in_use: [u32; DEPTHS],
}

/// The permits of one host.
pub(super) struct Permits {
    of_depth: [u32; DEPTHS],
    /// A lock and no message: it is held for a few additions.
    books: Mutex<Books>,
    freed: Notify,
}

/// Why there is no permit now.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Taken;

impl Permits {
    pub(super) fn new(seats: u32) -> Self {
        let mut of_depth = [PERMITS_A_DEPTH; DEPTHS];
        of_depth[0] = of_outside(seats);
        Self { of_depth, books: Mutex::default(), freed: Notify::new() }
    }

    fn lock(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes in who has functions that make calls. What a tenant holds it keeps.
    pub(super) fn share_out(&self, shares: impl IntoIterator<Item = (Name, Share)>) {
        let mut books = self.lock();
        books.tenants.values_mut().for_each(|tenant| tenant.share = None);
        for (name, share) in shares {
            books.tenants.entry(name).or_default().share = Some(share);
        }
        books
            .tenants
            .retain(|_, tenant| tenant.share.is_some() || tenant.calls != [0; DEPTHS] || tenant.in_line != [0; DEPTHS]);
        drop(books);
        self.freed.notify_waiters();
    }

    /// A permit for a call of `function`, of which `own_max` may be at once, if there is one now.
    pub(super) fn take(
        self: &Arc<Self>,
        function: &FunctionId,
        depth: u32,
        own_max: Option<u32>,
    ) -> Result<Permit, Taken> {
        let depth = depth.min(DEPTH_MAX) as usize;
        let mut books = self.lock();
        let own = books.functions.get(function).map_or(0, |calls| calls[depth]);
        let all = books.tenants.entry(function.tenant().clone()).or_default();
        let tenant_max = all.share.and_then(|share| share.concurrency_max);
        if own_max.is_some_and(|max| own >= max) || tenant_max.is_some_and(|max| all.calls[depth] >= max) {
            return Err(Taken);
        }
        // Those that only deep calls can have come first, so that the others are left to whoever needs them.
        let has_room = |level: &usize| books.has_room(function.tenant(), *level, self.of_depth[*level]);
        let level = (0..=depth).rev().find(has_room).ok_or(Taken)?;
        books.count(function, depth, level, |count| *count += 1);
        Ok(Permit { permits: self.clone(), function: function.clone(), depth, level })
    }

    /// A place in the line for a permit. None if the line is as long as it may be.
    pub(super) fn line_up(self: &Arc<Self>, function: &FunctionId, depth: u32) -> Option<Place> {
        let depth = depth.min(DEPTH_MAX) as usize;
        let mut books = self.lock();
        let in_line = &mut books.tenants.entry(function.tenant().clone()).or_default().in_line[depth];
        if *in_line >= IN_LINE_MAX {
            return None;
        }
        *in_line += 1;
        Some(Place { permits: self.clone(), tenant: function.tenant().clone(), depth })
    }
}

impl Books {
    /// Whether this tenant may have one more of the `total` permits of one level.
    fn has_room(&self, name: &Name, level: usize, total: u32) -> bool {
        let free = total.saturating_sub(self.in_use[level]);
        let weight = |tenant: &Tenant| tenant.share.map_or(0, |share| u64::from(share.weight.max(1)));
        let weights: u64 = self.tenants.values().map(weight).sum();
        let owed = |tenant: &Tenant| {
            let Some(share) = tenant.share else { return 0 };
            let kept = u64::from(total / 2) * u64::from(share.weight.max(1)) / weights.max(1);
            u32::try_from(kept).unwrap_or(total).max(1).saturating_sub(tenant.permits[level])
        };
        let is_owed_one = self.tenants.get(name).is_some_and(|tenant| owed(tenant) > 0);
        let others = self.tenants.iter().filter(|(other, _)| *other != name);
        let owed_to_others: u32 = others.map(|(_, tenant)| owed(tenant)).fold(0, u32::saturating_add);
        free > 0 && (is_owed_one || free > owed_to_others)
    }

    fn count(&mut self, function: &FunctionId, depth: usize, level: usize, change: impl Fn(&mut u32)) {
        let own = self.functions.entry(function.clone()).or_default();
        change(&mut own[depth]);
        if *own == [0; DEPTHS] {
            self.functions.remove(function);
        }
        let tenant = self.tenants.entry(function.tenant().clone()).or_default();
        change(&mut tenant.calls[depth]);
        change(&mut tenant.permits[level]);
        change(&mut self.in_use[level]);
    }
}

/// What a call that makes calls has from its beginning to its end.
pub(super) struct Permit {
    permits: Arc<Permits>,
    function: FunctionId,
    depth: usize,
    level: usize,
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.permits.lock().count(&self.function, self.depth, self.level, |count| *count -= 1);
        self.permits.freed.notify_waiters();
    }
}

/// A place in the line.
pub(super) struct Place {
    permits: Arc<Permits>,
    tenant: Name,
    depth: usize,
}

impl Place {
    /// The permit, when there is one.
    pub(super) async fn permit(self, function: &FunctionId, own_max: Option<u32>) -> Permit {
        let depth = u32::try_from(self.depth).unwrap_or(DEPTH_MAX);
        loop {
            let mut freed = std::pin::pin!(self.permits.freed.notified());
            // Before it is looked, so that nothing is freed between the look and the wait.
            freed.as_mut().enable();
            if let Ok(permit) = self.permits.take(function, depth, own_max) {
                return permit;
            }
            freed.await;
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut books = self.permits.lock();
        books.tenants.entry(self.tenant.clone()).or_default().in_line[self.depth] -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn permits(seats: u32, tenants: &[(&str, u32, Option<u32>)]) -> Arc<Permits> {
        let permits = Arc::new(Permits::new(seats));
        permits.share_out(tenants.iter().map(|(name, weight, concurrency_max)| {
            (Name::parse(name).unwrap(), Share { weight: *weight, concurrency_max: *concurrency_max })
        }));
        permits
    }

    fn take_all(permits: &Arc<Permits>, function: &str, depth: u32) -> Vec<Permit> {
        let function = function.parse().unwrap();
        std::iter::from_fn(|| permits.take(&function, depth, None).ok()).collect()
    }

    #[test]
    fn who_is_alone_has_all_and_deep_calls_have_some_of_their_own() {
        let permits = permits(100, &[("acme", 1, None)]);
        let outside = take_all(&permits, "acme/a", 0);
        assert_eq!(outside.len(), 100);
        let deep: Vec<_> = (1..=DEPTH_MAX).map(|depth| take_all(&permits, "acme/a", depth)).collect();
        assert_eq!(deep.iter().map(Vec::len).collect::<Vec<_>>(), [16; 8]);
        drop(outside);
        assert_eq!(take_all(&permits, "acme/a", 3).len(), 100, "what nobody else wants is for deep calls too");
    }

    #[test]
    fn no_tenant_takes_what_is_kept_for_others_at_any_depth() {
        let permits = permits(16, &[("acme", 1000, None), ("globex", 1, None), ("initech", 1, None)]);
        let taken: Vec<_> = (0..=DEPTH_MAX).map(|depth| take_all(&permits, "acme/a", depth)).collect();
        assert_eq!(taken.iter().map(Vec::len).collect::<Vec<_>>(), [14; 9]);
        for other in ["globex/b", "initech/c"] {
            let chain: Vec<_> = (0..=DEPTH_MAX).map(|depth| take_all(&permits, other, depth)).collect();
            assert_eq!(chain.iter().map(Vec::len).collect::<Vec<_>>(), [1; 9], "{other} has a whole chain");
        }
    }

    #[test]
    fn concurrency_holds_for_each_depth() {
        let permits = permits(100, &[("acme", 1, Some(3))]);
        let function = "acme/a".parse().unwrap();
        let of_function: Vec<_> = std::iter::from_fn(|| permits.take(&function, 0, Some(2)).ok()).take(10).collect();
        assert_eq!(of_function.len(), 2, "the function's own");
        assert_eq!(take_all(&permits, "acme/b", 0).len(), 1, "the tenant's");
        assert_eq!(take_all(&permits, "acme/b", 1).len(), 3);
        drop(of_function);
        let left = permits.lock().functions.len();
        assert_eq!((left, take_all(&permits, "acme/b", 0).len()), (0, 3));
    }

    #[tokio::test]
    async fn the_line_is_short_and_moves_on() {
        let permits = permits(100, &[("acme", 1, Some(1))]);
        let function: FunctionId = "acme/a".parse().unwrap();
        let first = permits.take(&function, 0, None).unwrap();
        let mut line: Vec<_> = (0..IN_LINE_MAX).map(|_| permits.line_up(&function, 0).unwrap()).collect();
        assert!(permits.line_up(&function, 0).is_none() && permits.line_up(&function, 1).is_some());
        let mut next = std::pin::pin!(line.pop().unwrap().permit(&function, None));
        assert!(futures_util::poll!(&mut next).is_pending());
        drop(first);
        let second = next.await;
        assert!(permits.line_up(&function, 0).is_some());
        assert!(permits.take(&function, 0, None).is_err());
        drop(second);
    }
}
