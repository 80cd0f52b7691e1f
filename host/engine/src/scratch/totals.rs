//! How much all scratch directories of a host may take, and those of one tenant: they lie on one disk with whatever else
//! the host keeps there, and a grant is about one call alone.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use baton_model::Name;

/// The most that all calls of a host have in their directories together.
const HOST_BYTES_MAX: u64 = 4 << 30;
/// The most that the calls of one tenant have.
const TENANT_BYTES_MAX: u64 = 1 << 30;
/// What a file or directory counts beside its bytes: a block of the disk.
pub(super) const FILE_BYTES: u64 = 4 << 10;

#[derive(Default)]
struct Used {
    all: u64,
    tenants: HashMap<Name, u64>,
}

/// What is used now. A lock and no message: it is held for a few additions.
#[derive(Default)]
pub(super) struct Totals(Mutex<Used>);

impl Totals {
    fn lock(&self) -> MutexGuard<'_, Used> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The account of one call of `tenant`.
    pub(super) fn share_of(self: &Arc<Self>, tenant: &Name) -> Share {
        Share { totals: Arc::clone(self), tenant: tenant.clone(), taken: Mutex::new(0) }
    }
}

/// What one call has of them. Dropped, it is given back.
pub(super) struct Share {
    totals: Arc<Totals>,
    tenant: Name,
    /// A lock and no message: streams of the guest's are objects of their own.
    taken: Mutex<u64>,
}

impl Share {
    /// Takes so many bytes, or says which total leaves no room for them.
    pub(super) fn take(&self, bytes: u64) -> Result<(), String> {
        if bytes == 0 {
            return Ok(());
        }
        let mut used = self.totals.lock();
        let all = used.all.saturating_add(bytes);
        let own = used.tenants.get(&self.tenant).copied().unwrap_or(0).saturating_add(bytes);
        for (whose, sum, most) in [("a host", all, HOST_BYTES_MAX), ("a tenant", own, TENANT_BYTES_MAX)] {
            if sum > most {
                return Err(format!("more than the {most} bytes that all calls of {whose} may have at once"));
            }
        }
        used.all = all;
        used.tenants.insert(self.tenant.clone(), own);
        drop(used);
        *self.taken.lock().unwrap_or_else(PoisonError::into_inner) += bytes;
        Ok(())
    }

    /// Gives so many of them back before the call ends.
    pub(super) fn give_back(&self, bytes: u64) {
        *self.taken.lock().unwrap_or_else(PoisonError::into_inner) -= bytes;
        self.totals.lock().give_back(&self.tenant, bytes);
    }
}

impl Used {
    fn give_back(&mut self, tenant: &Name, bytes: u64) {
        self.all -= bytes;
        let own = self.tenants.entry(tenant.clone()).or_default();
        *own -= bytes;
        if *own == 0 {
            self.tenants.remove(tenant);
        }
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let taken = *self.taken.get_mut().unwrap_or_else(PoisonError::into_inner);
        if taken > 0 {
            self.totals.lock().give_back(&self.tenant, taken);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn share(totals: &Arc<Totals>, tenant: &str) -> Share {
        totals.share_of(&Name::parse(tenant).unwrap())
    }

    #[test]
    fn a_tenant_and_a_host_have_so_much_and_it_comes_back_with_the_call() {
        let totals = Arc::<Totals>::default();
        let first: Vec<_> = (0..4).map(|_| share(&totals, "acme")).collect();
        first.iter().for_each(|call| call.take(TENANT_BYTES_MAX / 4).unwrap());
        let more = share(&totals, "acme");
        assert!(more.take(1).unwrap_err().contains("of a tenant"));
        let others: Vec<_> = ["b", "c", "d"].map(|tenant| share(&totals, tenant)).into();
        others.iter().for_each(|call| call.take(TENANT_BYTES_MAX).unwrap());
        assert!(share(&totals, "e").take(1).unwrap_err().contains("of a host"));
        drop(first);
        assert_eq!((more.take(TENANT_BYTES_MAX), more.take(1).is_err()), (Ok(()), true));
        drop((more, others));
        let used = totals.lock();
        assert_eq!((used.all, used.tenants.len()), (0, 0));
    }
}
