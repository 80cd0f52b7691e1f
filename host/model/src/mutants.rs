//! Rules that a build for tests alone can be told to leave out, one at a time, so that the suites are seen to miss each
//! (`make mutants`). Without the feature `mutants` none is ever left out: the answer is a constant, and the compiler drops
//! whatever would be done instead.

/// A rule that lost or doubled work when it was not kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    /// The scripts that end or put back a call look whether the host still has its lease.
    Fence,
    /// The script that settles looks whose the entry is.
    OwnerCheck,
    /// A result is written before its entry is acknowledged.
    ResultBeforeAck,
    /// The same id is the same call, and its first result stands.
    Dedupe,
    /// After a failed read, a host looks for what was handed to it and never arrived.
    OwnPendingRecovery,
    /// The calls of a host that is gone are taken over without waiting for its leases.
    PresenceSweep,
    /// A group that is missing is made anew.
    NogroupRepair,
    /// A waiting read is woken and its answer read, not dropped.
    Unblock,
    /// A consumer is deleted only if nothing is pending for it.
    ConsumerDeletionGuard,
    /// It is counted how often an entry was claimed.
    AttemptCounter,
    /// A file is taken when it has stopped changing.
    FileStability,
    /// A component serves only after one instance of it came to life.
    TrialInstance,
    /// The script that appends to a log looks whether the host still has the execution, and whether the log is what it read.
    ExecutionFence,
    /// The same event is one event.
    EventOnce,
}

/// Whether this rule is left out.
#[cfg(not(feature = "mutants"))]
#[must_use]
pub const fn is_left_out(_: Rule) -> bool {
    false
}

#[cfg(feature = "mutants")]
pub use chosen::{is_left_out, leave_out, name_of_left_out};

#[cfg(feature = "mutants")]
mod chosen {
    use std::sync::OnceLock;

    use super::Rule;

    /// The only state of its kind: it is set before anything else happens, in a build that nobody is given.
    static LEFT_OUT: OnceLock<Rule> = OnceLock::new();

    impl Rule {
        /// Every rule.
        pub const ALL: [Self; 14] = [
            Self::Fence,
            Self::OwnerCheck,
            Self::ResultBeforeAck,
            Self::Dedupe,
            Self::OwnPendingRecovery,
            Self::PresenceSweep,
            Self::NogroupRepair,
            Self::Unblock,
            Self::ConsumerDeletionGuard,
            Self::AttemptCounter,
            Self::FileStability,
            Self::TrialInstance,
            Self::ExecutionFence,
            Self::EventOnce,
        ];

        /// Its name, as `make mutants` says it.
        #[must_use]
        pub fn name(self) -> &'static str {
            match self {
                Self::Fence => "fence",
                Self::OwnerCheck => "owner-check",
                Self::ResultBeforeAck => "result-before-ack",
                Self::Dedupe => "dedupe",
                Self::OwnPendingRecovery => "own-pending-recovery",
                Self::PresenceSweep => "presence-sweep",
                Self::NogroupRepair => "nogroup-repair",
                Self::Unblock => "unblock",
                Self::ConsumerDeletionGuard => "consumer-deletion-guard",
                Self::AttemptCounter => "attempt-counter",
                Self::FileStability => "file-stability",
                Self::TrialInstance => "trial-instance",
                Self::ExecutionFence => "execution-fence",
                Self::EventOnce => "event-once",
            }
        }
    }

    /// Whether this rule is left out.
    #[must_use]
    pub fn is_left_out(rule: Rule) -> bool {
        LEFT_OUT.get() == Some(&rule)
    }

    /// The name of the rule that is left out, if one is.
    #[must_use]
    pub fn name_of_left_out() -> Option<&'static str> {
        LEFT_OUT.get().map(|rule| rule.name())
    }

    /// Leaves the rule of this name out from now on.
    ///
    /// # Errors
    /// If there is no rule of that name.
    pub fn leave_out(name: &str) -> Result<(), String> {
        let rule = Rule::ALL.into_iter().find(|rule| rule.name() == name);
        let rule = rule.ok_or_else(|| format!("a mutant has no rule {name} to leave out"))?;
        LEFT_OUT.get_or_init(|| rule);
        Ok(())
    }
}
