//! A shell in which a README's commands mean what they mean to its reader.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, Result};
use tempfile::TempDir;
use tokio::process::Command;

use crate::redis_server::Redis;
use crate::settings::{self, PATIENCE};

/// A shell with `baton` in its path, and `baton` and `redis-cli` both speaking to one Redis.
#[derive(Debug)]
pub struct Shell {
    programs: TempDir,
    redis_url: String,
    current_dir: PathBuf,
}

impl Shell {
    /// A shell in `current_dir`, on this Redis.
    ///
    /// # Errors
    /// If there is no binary.
    pub fn beside(redis: &Redis, current_dir: &Path) -> Result<Self> {
        let programs = tempfile::Builder::new().prefix("bs-").tempdir_in("/tmp")?;
        symlink(settings::baton_binary()?, programs.path().join("baton"))?;
        // A README's reader has Redis on its usual port; the test's listens on a socket of its own.
        let real = find_program("redis-cli").context("redis-cli is not installed; it comes with redis-server")?;
        let redis_cli = programs.path().join("redis-cli");
        let script = format!("#!/bin/sh\nexec '{}' -s '{}' \"$@\"\n", real.display(), redis.socket().display());
        fs::write(&redis_cli, script)?;
        fs::set_permissions(&redis_cli, fs::Permissions::from_mode(0o755))?;
        Ok(Self { programs, redis_url: redis.url(), current_dir: current_dir.to_owned() })
    }

    /// Runs one command line; gives its exit code and all that a reader would see of it.
    ///
    /// # Errors
    /// If it does not end in time.
    pub async fn run(&self, line: &str) -> Result<(Option<i32>, String)> {
        let path = std::env::var("PATH").unwrap_or_default();
        let mut command = Command::new("sh");
        command.arg("-c").arg(format!("{{ {line}\n}} 2>&1")).current_dir(&self.current_dir).kill_on_drop(true);
        for name in settings::host_variables() {
            command.env_remove(name);
        }
        command.env("PATH", format!("{}:{path}", self.programs.path().display()));
        command.env("REDIS_URL", &self.redis_url).stdin(Stdio::null()).stdout(Stdio::piped());
        let run = tokio::time::timeout(PATIENCE, command.output());
        let output = run.await.with_context(|| format!("`{line}` does not end"))??;
        Ok((output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned()))
    }
}

fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|dir| dir.join(name)).find(|file| file.is_file())
}
