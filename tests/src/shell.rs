//! A shell in which a README's commands mean what they mean to its reader.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, Result};
use tokio::process::Command;

use crate::redis_server::Redis;
use crate::settings::{self, PATIENCE};

/// A shell in a folder that has the built host where a clone of the project has it, and in its path as well.
#[derive(Debug)]
pub struct Shell {
    folder: PathBuf,
    programs: PathBuf,
    redis_url: Option<String>,
}

impl Shell {
    /// A shell in `folder`, in which `target/release/baton` is made.
    ///
    /// # Errors
    /// If there is no binary, or the folder has one already.
    pub fn within(folder: &Path) -> Result<Self> {
        let programs = folder.join("target/release");
        fs::create_dir_all(&programs)?;
        symlink(settings::baton_binary()?, programs.join("baton"))?;
        Ok(Self { folder: folder.to_owned(), programs, redis_url: None })
    }

    /// The same shell, with this Redis as `REDIS_URL`.
    #[must_use]
    pub fn on(self, redis: &Redis) -> Self {
        Self { redis_url: Some(redis.url()), ..self }
    }

    /// Runs one command line; gives its exit code and all that a reader would see of it.
    ///
    /// # Errors
    /// If it does not end in time.
    pub async fn run(&self, line: &str) -> Result<(Option<i32>, String)> {
        let path = std::env::var("PATH").unwrap_or_default();
        let mut command = Command::new("sh");
        command.arg("-c").arg(format!("{{ {line}\n}} 2>&1")).current_dir(&self.folder).kill_on_drop(true);
        for name in settings::host_variables() {
            command.env_remove(name);
        }
        command.env("PATH", format!("{}:{path}", self.programs.display()));
        command.envs(self.redis_url.iter().map(|url| ("REDIS_URL", url)));
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        let run = tokio::time::timeout(PATIENCE, command.output());
        let output = run.await.with_context(|| format!("`{line}` does not end"))??;
        Ok((output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned()))
    }
}
