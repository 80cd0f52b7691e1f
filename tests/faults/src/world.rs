//! Redis and its world: a disk that is slow or full, and a clock that jumps, by a small library that is loaded into the
//! server (`world.c`).

use std::ffi::OsString;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use baton_tests::Redis;
use baton_tests::settings::repository;

use crate::plan::Durability;

/// What the library reads, in its order.
#[derive(Debug, Clone, Copy)]
enum Field {
    SyncMs,
    ClockMs,
    IsFull,
}

/// The world of one process: of Redis, or of a host, for which its clock alone is changed.
#[derive(Debug)]
pub(crate) struct World {
    file: File,
    path: PathBuf,
    clock_ms: i64,
}

impl World {
    /// One in which nothing is wrong, written down in the file `path`.
    ///
    /// # Errors
    /// If it cannot be written.
    pub(crate) fn at(path: PathBuf) -> Result<Self> {
        let file = File::options().create(true).truncate(true).read(true).write(true).open(&path)?;
        file.set_len(24)?;
        Ok(Self { file, path, clock_ms: 0 })
    }

    /// What a process has to have in its environment to live in it.
    #[must_use]
    pub(crate) fn variables(&self, library: &Path) -> Vec<(String, OsString)> {
        vec![("LD_PRELOAD".to_owned(), library.into()), ("FAULTS_WORLD".to_owned(), self.path.clone().into())]
    }

    /// Starts a server in a world of its own.
    ///
    /// # Errors
    /// If it does not start.
    pub(crate) async fn start(dir: &Path, library: &Path, durability: Durability) -> Result<(Self, Redis)> {
        let world = Self::at(dir.join("world"))?;
        let mut settings = durability.settings().to_vec();
        // The checker reads the whole file, so it is never rewritten; and each second of Redis's clock is noted in it.
        settings.extend([("auto-aof-rewrite-percentage", "0"), ("aof-timestamp-enabled", "yes")]);
        let redis = Redis::under(&settings, world.variables(library)).await?;
        Ok((world, redis))
    }

    fn set(&self, field: Field, value: i64) -> Result<()> {
        self.file.write_all_at(&value.to_ne_bytes(), 8 * field as u64).context("the world cannot be written")
    }

    /// Each fsync takes so much longer.
    ///
    /// # Errors
    /// If it cannot be written.
    pub(crate) fn slow_disk(&self, ms: i64) -> Result<()> {
        self.set(Field::SyncMs, ms)
    }

    /// Files take no more, or do again.
    ///
    /// # Errors
    /// If it cannot be written.
    pub(crate) fn full_disk(&self, is_full: bool) -> Result<()> {
        self.set(Field::IsFull, i64::from(is_full))
    }

    /// The wall clock jumps by so much. Gives how far it is ahead now.
    ///
    /// # Errors
    /// If it cannot be written.
    pub(crate) fn jump(&mut self, ms: i64) -> Result<i64> {
        self.clock_ms += ms;
        self.set(Field::ClockMs, self.clock_ms)?;
        Ok(self.clock_ms)
    }
}

/// Builds the library in `dir`.
///
/// # Errors
/// If there is no C compiler.
pub(crate) fn library(dir: &Path) -> Result<PathBuf> {
    let (source, library) = (repository().join("tests/faults/world.c"), dir.join("world.so"));
    let mut compiler = Command::new("cc");
    compiler.args(["-O2", "-shared", "-fPIC", "-o"]).arg(&library).arg(source).arg("-ldl");
    let built = compiler.status().context("there is no C compiler (cc); `make setup` installs one")?;
    ensure!(built.success(), "world.c does not compile: {built}");
    Ok(library)
}
