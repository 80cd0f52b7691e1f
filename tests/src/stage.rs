//! What nearly every test starts with: a Redis, a folder and a caller.

use anyhow::Result;

use crate::caller::Caller;
use crate::folder::Folder;
use crate::host::HostPlan;
use crate::redis_server::Redis;

/// A Redis, a plugins folder and a caller, of one test alone.
#[derive(Debug)]
pub struct Stage {
    /// Calls by Redis alone.
    pub caller: Caller,
    /// The plugins folder.
    pub folder: Folder,
    /// The server.
    pub redis: Redis,
}

impl Stage {
    /// With these samples in the folder, on a Redis that keeps nothing on disk.
    ///
    /// # Errors
    /// If Redis does not start, or a sample was not built.
    pub async fn with(samples: &[&str]) -> Result<Self> {
        Self::on(Redis::start().await?, samples).await
    }

    /// With these samples in the folder, on this Redis.
    ///
    /// # Errors
    /// If a sample was not built.
    pub async fn on(redis: Redis, samples: &[&str]) -> Result<Self> {
        let folder = Folder::with(samples)?;
        Ok(Self { caller: Caller::of(&redis.address()).await?, folder, redis })
    }

    /// A host on this Redis and this folder.
    #[must_use]
    pub fn host(&self) -> HostPlan {
        HostPlan::on(&self.redis, &self.folder)
    }

    /// As [`Stage::host`], with what an operator's `baton.toml` says.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn host_with(&self, settings: &str) -> Result<HostPlan> {
        let file = self.folder.path().join(".baton.toml");
        std::fs::write(&file, settings)?;
        Ok(self.host().argument("--config").argument(file))
    }
}
