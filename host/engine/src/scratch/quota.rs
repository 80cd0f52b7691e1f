//! How much a call may write into its scratch directory. Counted is by how much files grow, all in all: nothing is given
//! back, for a file that was removed and is still open takes its room as before. Pure but for the line in the log.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use baton_model::ScratchGrant;

use super::totals::{FILE_BYTES, Share};
use crate::log::{CallLog, LogLevel};

/// The most files, directories and streams that a call has open at once: each takes one of the host's own.
const OPEN_MAX: u32 = 64;

/// What one call has used of its grant.
pub(crate) struct Quota {
    grant: ScratchGrant,
    // Counters, because streams of the guest's are objects of their own; one attempt's task alone changes them.
    bytes: AtomicU64,
    files: AtomicU32,
    open: AtomicU32,
    is_told: AtomicBool,
    /// Of what the host and the tenant have.
    share: Share,
    log: Arc<CallLog>,
}

/// It does not fit.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Full;

impl Quota {
    pub(super) fn new(grant: ScratchGrant, share: Share, log: Arc<CallLog>) -> Self {
        Self {
            grant,
            bytes: AtomicU64::new(0),
            files: AtomicU32::new(0),
            open: AtomicU32::new(0),
            is_told: AtomicBool::new(false),
            share,
            log,
        }
    }

    /// A file grows by so much.
    pub(super) fn grow(&self, bytes: u64) -> Result<(), Full> {
        let more = |used: u64| used.checked_add(bytes).filter(|sum| *sum <= self.grant.bytes_max);
        self.bytes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).map_err(|_| {
            self.tell(&format!("more than {} bytes, `bytes` of `[grants.scratch]`", self.grant.bytes_max))
        })?;
        self.share.take(bytes).map_err(|total| {
            self.bytes.fetch_sub(bytes, Ordering::Relaxed);
            self.tell(&total)
        })
    }

    /// A file or directory is made.
    pub(super) fn make(&self) -> Result<(), Full> {
        let more = |used: u32| used.checked_add(1).filter(|sum| *sum <= self.grant.files_max);
        self.files.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).map_err(|_| {
            self.tell(&format!(
                "more than {} files and directories, `files` of `[grants.scratch]`",
                self.grant.files_max
            ))
        })?;
        self.share.take(FILE_BYTES).map_err(|total| {
            self.files.fetch_sub(1, Ordering::Relaxed);
            self.tell(&total)
        })
    }

    /// It was not made after all.
    pub(super) fn unmake(&self) {
        self.files.fetch_sub(1, Ordering::Relaxed);
        self.share.give_back(FILE_BYTES);
    }

    /// Something is opened.
    pub(super) fn open(self: &Arc<Self>) -> Result<Ticket, Full> {
        let more = |open: u32| (open < OPEN_MAX).then_some(open + 1);
        match self.open.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more) {
            Ok(_) => Ok(Ticket(Some(Arc::clone(self)))),
            Err(_) => Err(self.tell(&format!("more than {OPEN_MAX} files, directories and streams open at once"))),
        }
    }

    /// Says once a call why its writes fail; the guest only sees that the disk is full.
    fn tell(&self, what: &str) -> Full {
        if !self.is_told.swap(true, Ordering::Relaxed) {
            self.log.log(LogLevel::Warn, "scratch", &format!("the call asks for {what}, in its scratch directory"));
        }
        Full
    }
}

/// Something that is open; dropped, it is closed. Empty once it was forgotten.
pub(super) struct Ticket(Option<Arc<Quota>>);

impl Ticket {
    /// It is closed by [`Quota::close`] instead, which whoever keeps no ticket calls.
    pub(super) fn forget(mut self) {
        self.0 = None;
    }
}

impl Quota {
    /// One that was opened, and whose ticket was forgotten, is closed.
    pub(super) fn close(&self) {
        self.open.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if let Some(quota) = &self.0 {
            quota.close();
        }
    }
}

#[cfg(test)]
mod tests {
    use baton_model::Name;

    use super::super::tests::Nowhere;
    use super::super::totals::Totals;
    use super::*;

    fn quota(bytes_max: u64, files_max: u32) -> Arc<Quota> {
        let log = Arc::new(CallLog::new(Arc::new(Nowhere), 0));
        let share = Arc::<Totals>::default().share_of(&Name::parse("acme").unwrap());
        Arc::new(Quota::new(ScratchGrant { bytes_max, files_max }, share, log))
    }

    #[test]
    fn files_grow_up_to_the_limit_and_not_by_a_byte_more() {
        let quota = quota(10, 0);
        assert_eq!(quota.grow(6), Ok(()));
        for more in [5, u64::MAX] {
            assert_eq!(quota.grow(more), Err(Full), "{more}");
        }
        assert_eq!((quota.grow(4), quota.grow(0), quota.grow(1)), (Ok(()), Ok(()), Err(Full)));
    }

    #[test]
    fn what_all_calls_have_together_binds_too() {
        let quota = quota(u64::MAX, 1);
        assert_eq!(quota.grow(2 << 30), Err(Full), "a tenant has 1 GiB");
        assert_eq!((quota.grow(1 << 30), quota.make()), (Ok(()), Err(Full)));
        assert_eq!(quota.files.load(Ordering::Relaxed), 0, "what was refused is not counted");
    }

    #[test]
    fn what_could_not_be_made_is_not_counted() {
        let quota = quota(0, 1);
        assert_eq!(quota.make(), Ok(()));
        quota.unmake();
        assert_eq!((quota.make(), quota.make()), (Ok(()), Err(Full)));
    }

    #[test]
    fn as_many_are_open_as_may_be_and_closing_makes_room() {
        let quota = quota(0, 0);
        let mut open: Vec<_> = (0..OPEN_MAX).map(|_| quota.open().unwrap()).collect();
        assert!(quota.open().is_err());
        drop(open.pop());
        quota.open().unwrap().forget();
        assert!(quota.open().is_err());
        quota.close();
        assert!(quota.open().is_ok());
        drop(open);
        assert_eq!(Arc::strong_count(&quota), 1, "whoever forgets a ticket does not keep what the call has taken");
    }
}
