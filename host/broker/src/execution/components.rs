//! The components that executions run on, kept in Redis for whichever host goes on with them.

use std::time::Duration;

use baton_model::{Digest, FunctionId};
use bytes::Bytes;
use redis::{Value, pipe};

use super::{Executions, millis};
use crate::BrokerError;

impl Executions {
    /// Keeps a component, so that every host can go on with the executions that run on it.
    ///
    /// # Errors
    /// Any [`BrokerError`]; doing it again does no harm.
    pub async fn keep(&self, function: &FunctionId, digest: &Digest, bytes: &[u8]) -> Result<(), BrokerError> {
        let (key, lasts) = (self.keys.component(function, digest), millis(self.log_ttl));
        let mut all = pipe();
        all.cmd("SET").arg(&key).arg(bytes).arg("NX").arg("PX").arg(lasts);
        // One that executions run on lasts for ever, which is longer.
        all.cmd("PEXPIRE").arg(&key).arg(lasts).arg("GT");
        for answer in self.link.run_all(&all).await? {
            answer.extract_error()?;
        }
        Ok(())
    }

    /// For how long a component is kept at the least after [`Executions::keep`].
    #[must_use]
    pub fn kept_for(&self) -> Duration {
        self.log_ttl
    }

    /// Whether a component is kept.
    ///
    /// # Errors
    /// Any [`BrokerError`].
    pub async fn is_kept(&self, function: &FunctionId, digest: &Digest) -> Result<bool, BrokerError> {
        let answer = self.link.run(redis::cmd("EXISTS").arg(self.keys.component(function, digest))).await?;
        Ok(answer == Value::Int(1))
    }

    /// A component that was kept. None if it is not, or not any more.
    ///
    /// # Errors
    /// Any [`BrokerError`].
    pub async fn component(&self, function: &FunctionId, digest: &Digest) -> Result<Option<Bytes>, BrokerError> {
        match self.link.run(redis::cmd("GET").arg(self.keys.component(function, digest))).await? {
            Value::Nil => Ok(None),
            Value::BulkString(bytes) => Ok(Some(bytes.into())),
            other => Err(BrokerError::shape("GET", &other)),
        }
    }
}
