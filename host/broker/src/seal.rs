//! The seal of the hosts: by it a host knows what another host wrote into an entry. Whoever may add calls to a stream can
//! write any field, and a call's depth is not for callers to say.
//!
//! The seal's key lies in Redis where no tenant's user can read it. What is sealed stands in entries, which none of them
//! can read either, and is opened before a function sees it.

use std::fmt;
use std::sync::{PoisonError, RwLock};

use baton_model::FunctionId;
use hmac::{Hmac, KeyInit, Mac};
use redis::{Value, cmd};
use sha2::Sha256;

use crate::BrokerError;
use crate::keys::Keys;
use crate::link::Link;

/// The header that says how many calls wait for a call, each for the next. Hosts write it.
pub(crate) const DEPTH: &str = "x-baton-depth";
/// The header that says whose step a call is. Hosts write it, and no function sees it.
pub(crate) const STEP: &str = "x-baton-step";
/// Headers that start so are for hosts.
pub(crate) const OF_HOSTS: &str = "x-baton-";

/// The key of the seal, once it is known. A lock and no message: it is held to copy or to replace the key.
#[derive(Default)]
pub struct Seal(RwLock<Option<Hmac<Sha256>>>);

impl fmt::Debug for Seal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Seal")
    }
}

impl Seal {
    /// Learns the key, which the first host of all has made. Redis may be too full for a new one; then nobody has
    /// sealed anything.
    pub(crate) async fn learn(&self, link: &Link, keys: &Keys) -> Result<(), BrokerError> {
        let key = match link.run(cmd("GET").arg(keys.seal())).await? {
            Value::Nil => {
                let made: [u8; 32] = rand::random();
                match link.run(cmd("SET").arg(keys.seal()).arg(&made).arg("NX").arg("GET")).await {
                    Ok(Value::Nil) => made.to_vec(),
                    Ok(Value::BulkString(other)) => other,
                    Ok(other) => return Err(BrokerError::shape("SET", &other)),
                    Err(error @ (BrokerError::Unable(_) | BrokerError::Refused(_))) => {
                        tracing::warn!(%error, "the seal of the hosts cannot be made; functions cannot call functions");
                        return Ok(());
                    }
                    Err(error) => return Err(error),
                }
            }
            Value::BulkString(key) => key,
            other => return Err(BrokerError::shape("GET", &other)),
        };
        self.set(&key);
        Ok(())
    }

    fn set(&self, key: &[u8]) {
        let seal = Hmac::new_from_slice(key).expect("a key may have any length");
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Some(seal);
    }

    pub(crate) fn is_known(&self) -> bool {
        self.0.read().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    /// A depth as it stands in an entry of `function`; none while the key is not known.
    pub(crate) fn close(&self, function: &FunctionId, depth: u32) -> Option<String> {
        self.close_text(function, DEPTH, &depth.to_string())
    }

    /// What a host says under this header, as it stands in an entry of `function`; none while the key is not known.
    pub(crate) fn close_text(&self, function: &FunctionId, header: &str, text: &str) -> Option<String> {
        let tag = self.mac(function, header, text)?.finalize().into_bytes();
        let tag = tag.iter().take(16).fold(0_u128, |number, byte| number << 8 | u128::from(*byte));
        Some(format!("{text}.{tag:032x}"))
    }

    /// The depth that a host wrote; none if no host did.
    pub(crate) fn open(&self, function: &FunctionId, text: &str) -> Option<u32> {
        self.open_text(function, DEPTH, text)?.parse().ok()
    }

    /// What a host wrote under this header; none if no host did.
    pub(crate) fn open_text<'a>(&self, function: &FunctionId, header: &str, text: &'a str) -> Option<&'a str> {
        let (text, tag) = text.rsplit_once('.')?;
        let is_hex = tag.len() == 32 && tag.bytes().all(|byte| byte.is_ascii_hexdigit());
        let tag = u128::from_str_radix(tag, 16).ok().filter(|_| is_hex)?;
        self.mac(function, header, text)?.verify_truncated_left(&tag.to_be_bytes()).ok()?;
        Some(text)
    }

    fn mac(&self, function: &FunctionId, header: &str, text: &str) -> Option<Hmac<Sha256>> {
        let mut mac = self.0.read().unwrap_or_else(PoisonError::into_inner).clone()?;
        mac.update(format!("{header}\n{function}\n{text}").as_bytes());
        Some(mac)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_one_host_closes_another_opens_and_nobody_else_can_make_it() {
        let (one, other, stranger) = (Seal::default(), Seal::default(), Seal::default());
        let (here, there) = ("acme/resize".parse().unwrap(), "acme/other".parse().unwrap());
        assert_eq!((one.close(&here, 3), one.is_known()), (None, false));
        one.set(b"a key");
        other.set(b"a key");
        stranger.set(b"another");
        let closed = one.close(&here, 3).unwrap();
        assert_eq!(other.open(&here, &closed), Some(3));
        assert_eq!((stranger.open(&here, &closed), other.open(&there, &closed)), (None, None));
        let lower = closed.replacen('3', "0", 1);
        for made_up in ["3", "3.", "", ".", &lower, &closed[..closed.len() - 1], &format!("{closed}0")] {
            assert_eq!(other.open(&here, made_up), None, "{made_up}");
        }
    }
}
