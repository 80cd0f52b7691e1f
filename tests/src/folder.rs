//! A plugins folder, and every way in which files get into one.

use std::fs::{self, File, FileTimes};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};
use baton_model::FunctionId;
use tempfile::TempDir;

use crate::component::sample;

/// A plugins folder of one test.
#[derive(Debug)]
pub struct Folder {
    dir: TempDir,
}

impl Folder {
    /// An empty one.
    ///
    /// # Errors
    /// If it cannot be made.
    pub fn new() -> Result<Self> {
        Ok(Self { dir: tempfile::Builder::new().prefix("bp-").tempdir_in("/tmp")? })
    }

    /// One with these samples in it.
    ///
    /// # Errors
    /// If it cannot be made, or a sample was not built.
    pub fn with(samples: &[&str]) -> Result<Self> {
        let folder = Self::new()?;
        for name in samples {
            folder.install(name, &sample(name)?)?;
        }
        Ok(folder)
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// The file of a function: `echo` lies in the folder itself, `acme/echo` under `@acme`, which is made.
    ///
    /// # Errors
    /// If it is no name of a function.
    pub fn file(&self, function: &str) -> Result<PathBuf> {
        let id: FunctionId = function.parse()?;
        let dir = match function.split_once('/') {
            Some((tenant, _)) => self.path().join(format!("@{tenant}")),
            None => self.path().to_owned(),
        };
        fs::create_dir_all(&dir)?;
        Ok(dir.join(format!("{}.wasm", id.function())))
    }

    /// Writes elsewhere and renames into place, as a careful tool does.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn install(&self, function: &str, bytes: &[u8]) -> Result<()> {
        self.rename_into(function, bytes, None)
    }

    /// As [`Folder::install`], with a time of last change that the caller chooses.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn install_with_mtime(&self, function: &str, bytes: &[u8], mtime: SystemTime) -> Result<()> {
        self.rename_into(function, bytes, Some(mtime))
    }

    /// The time of last change of a function's file.
    ///
    /// # Errors
    /// If there is none.
    pub fn mtime(&self, function: &str) -> Result<SystemTime> {
        Ok(fs::metadata(self.file(function)?)?.modified()?)
    }

    fn rename_into(&self, function: &str, bytes: &[u8], mtime: Option<SystemTime>) -> Result<()> {
        let file = self.file(function)?;
        let name = file.file_name().context("a file has a name")?.to_string_lossy();
        let beside = file.with_file_name(format!(".{name}.new"));
        fs::write(&beside, bytes)?;
        if let Some(mtime) = mtime {
            File::options().write(true).open(&beside)?.set_times(FileTimes::new().set_modified(mtime))?;
        }
        fs::rename(beside, file)?;
        Ok(())
    }

    /// Overwrites in place, as `cp` does.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn copy(&self, function: &str, bytes: &[u8]) -> Result<()> {
        Ok(fs::write(self.file(function)?, bytes)?)
    }

    /// Overwrites in place, with a pause in the middle. The pause is what is tested, not something waited for.
    ///
    /// # Errors
    /// If it cannot be written.
    pub async fn copy_slowly(&self, function: &str, bytes: &[u8], pause: Duration) -> Result<()> {
        let mut file = File::create(self.file(function)?)?;
        let (first, second) = bytes.split_at(bytes.len() / 2);
        file.write_all(first)?;
        file.flush()?;
        tokio::time::sleep(pause).await;
        file.write_all(second)?;
        Ok(())
    }

    /// Deletes a function's file.
    ///
    /// # Errors
    /// If there is none.
    pub fn delete(&self, function: &str) -> Result<()> {
        Ok(fs::remove_file(self.file(function)?)?)
    }

    /// Writes a file beside a function's own, such as its `hello.wasm.sha256`.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn write_beside(&self, function: &str, suffix: &str, text: &str) -> Result<()> {
        let file = self.file(function)?;
        let name = file.file_name().context("a file has a name")?.to_string_lossy().into_owned();
        Ok(fs::write(file.with_file_name(name + suffix), text)?)
    }

    /// Writes a function's manifest.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn write_manifest(&self, function: &str, text: &str) -> Result<()> {
        Ok(fs::write(self.file(function)?.with_extension("toml"), text)?)
    }

    /// Writes what is said about a tenant.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn write_tenant(&self, tenant: &str, text: &str) -> Result<()> {
        let path = match tenant {
            "default" => self.path().join("tenant.toml"),
            tenant => self.path().join(format!("@{tenant}")).join("tenant.toml"),
        };
        path.parent().map_or(Ok(()), fs::create_dir_all)?;
        Ok(fs::write(path, text)?)
    }

    /// Puts a symbolic link where a function's file would be, with a rename as [`Folder::install`] does.
    ///
    /// # Errors
    /// If it cannot be made.
    pub fn link(&self, function: &str, target: &Path) -> Result<()> {
        let file = self.file(function)?;
        let beside = file.with_file_name(".link.new");
        std::os::unix::fs::symlink(target, &beside)?;
        Ok(fs::rename(beside, file)?)
    }
}
