//! What is said to Redis, counted by the role of the connection. Counting is a relaxed addition; who reads it is not here.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// What a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The blocking read for calls.
    Reader,
    /// Waking that read.
    Waker,
    /// Settling.
    Settler,
    /// Keeping leases.
    Lease,
    /// The housekeeping of call streams, and notices.
    Queue,
    /// Host records.
    Presence,
    /// Sending calls and reading results.
    Caller,
    /// Looks from outside.
    Admin,
    /// The buckets of functions.
    KeyValue,
}

impl Role {
    /// Every role.
    pub const ALL: [Self; 9] = [
        Self::Reader,
        Self::Waker,
        Self::Settler,
        Self::Lease,
        Self::Queue,
        Self::Presence,
        Self::Caller,
        Self::Admin,
        Self::KeyValue,
    ];

    /// One word, for labels.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Reader => "reader",
            Self::Waker => "waker",
            Self::Settler => "settler",
            Self::Lease => "lease",
            Self::Queue => "queue",
            Self::Presence => "presence",
            Self::Caller => "caller",
            Self::Admin => "admin",
            Self::KeyValue => "keyvalue",
        }
    }
}

/// What one role's connections have done since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RoleCounts {
    /// Commands that were sent, each one of a pipeline or a transaction counted.
    pub commands: u64,
    /// Round trips and connection attempts that failed. A script that Redis did not know yet is no failure.
    pub errors: u64,
    /// Connections that took the place of an earlier one.
    pub reconnects: u64,
}

#[derive(Debug, Default)]
struct Counters {
    commands: AtomicU64,
    errors: AtomicU64,
    reconnects: AtomicU64,
}

/// Counts for all connections that are made with one [`crate::BrokerConfig`].
#[derive(Debug, Default)]
pub struct Meter {
    roles: [Counters; Role::ALL.len()],
}

impl Meter {
    /// What connections of this role have done.
    #[must_use]
    pub fn counts(&self, role: Role) -> RoleCounts {
        let of = self.of(role);
        RoleCounts {
            commands: of.commands.load(Relaxed),
            errors: of.errors.load(Relaxed),
            reconnects: of.reconnects.load(Relaxed),
        }
    }

    pub(crate) fn sent(&self, role: Role, commands: usize) {
        self.of(role).commands.fetch_add(commands as u64, Relaxed);
    }

    pub(crate) fn failed(&self, role: Role) {
        self.of(role).errors.fetch_add(1, Relaxed);
    }

    pub(crate) fn reconnected(&self, role: Role) {
        self.of(role).reconnects.fetch_add(1, Relaxed);
    }

    fn of(&self, role: Role) -> &Counters {
        &self.roles[role as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_role_has_a_place_and_a_word_of_its_own() {
        let meter = Meter::default();
        for role in Role::ALL {
            meter.sent(role, 2);
            meter.failed(role);
            meter.reconnected(role);
        }
        for (i, role) in Role::ALL.into_iter().enumerate() {
            assert_eq!(role as usize, i);
            assert_eq!(meter.counts(role), RoleCounts { commands: 2, errors: 1, reconnects: 1 });
            assert!(Role::ALL[..i].iter().all(|other| other.as_str() != role.as_str()));
        }
    }
}
