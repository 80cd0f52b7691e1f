//! Keeping leases: the entries of long calls are renewed, on a connection that nothing else delays.

use baton_model::{FunctionId, HostId, Lease, Priority};
use redis::Value;

use crate::BrokerError;
use crate::keys::Keys;
use crate::link::{BrokerConfig, Link};
use crate::meter::Role;
use crate::script::Lua;

/// How a renewal ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Renewal {
    /// The lease lasts for its full time again.
    Kept,
    /// The entry is another host's, or gone. The attempt is of no use any more.
    Lost,
}

/// Renews the leases of one host.
pub struct LeaseKeeper {
    link: Link,
    keys: Keys,
    host: HostId,
    renew: Lua,
}

impl LeaseKeeper {
    /// A keeper for `host`.
    ///
    /// # Errors
    /// [`BrokerError::BadUrl`].
    pub fn new(config: &BrokerConfig, host: HostId) -> Result<Self, BrokerError> {
        let renew = Lua::new(include_str!("scripts/renew.lua"));
        Ok(Self { link: Link::new(config.client()?).counted(config, Role::Lease), keys: config.keys(), host, renew })
    }

    /// Renews these leases of one function and says for each, in order, whether it was kept.
    ///
    /// # Errors
    /// Any [`BrokerError`]; whether the leases were renewed is then unknown, and it may be tried again.
    pub async fn renew(&self, function: &FunctionId, leases: &[Lease]) -> Result<Vec<Renewal>, BrokerError> {
        let mut renewals = vec![Renewal::Lost; leases.len()];
        for level in Priority::ALL {
            let of_level = |(_, lease): &(usize, &Lease)| lease.entry.level() == level;
            let (places, leases): (Vec<usize>, Vec<&Lease>) = leases.iter().enumerate().filter(of_level).unzip();
            if leases.is_empty() {
                continue;
            }
            let mut call = self.renew.call(2);
            call.arg(self.keys.calls_at(function, level)).arg(self.keys.claims_at(function, level));
            call.arg(self.keys.group()).arg(self.host.as_str());
            for lease in &leases {
                call.arg(lease.entry.in_stream()).arg(lease.claims);
            }
            match self.renew.run(&self.link, &call).await? {
                Value::Array(answers) if answers.len() == leases.len() => {
                    for (place, answer) in places.into_iter().zip(answers) {
                        renewals[place] = if answer == Value::Int(1) { Renewal::Kept } else { Renewal::Lost };
                    }
                }
                other => return Err(BrokerError::shape("renew.lua", &other)),
            }
        }
        Ok(renewals)
    }
}
