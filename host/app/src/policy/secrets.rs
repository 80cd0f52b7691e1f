//! Secrets: where a manifest may have them from. What they hold is in no error and in no log.

use std::collections::BTreeSet;
use std::fs::OpenOptions;
use std::io::Read as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use schemars::JsonSchema;
use serde::Deserialize;

use super::grants::is_in_one_of;

/// The largest secret.
const SECRET_BYTES_MAX: u64 = 64 << 10;

/// Where a secret comes from.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum SecretFrom {
    /// A file of the host, which lies in a directory that the operator allows. One line end at its end is no part of it.
    File(PathBuf),
    /// An environment variable of the host that the operator allows.
    Env(String),
}

/// How the environment of the host is read.
pub type Variable = fn(&str) -> Option<String>;

/// What secrets are read through.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Secrets {
    pub(crate) variable: Variable,
}

impl Secrets {
    /// Reads a secret.
    ///
    /// # Errors
    /// The rule that it breaks, without what it holds. Whether a file exists is not told of a place that is not allowed.
    pub(super) fn read(&self, from: &SecretFrom, env: &BTreeSet<String>, files: &[PathBuf]) -> Result<String, String> {
        match from {
            SecretFrom::Env(name) if !env.contains(name) => Err(format!(
                "asks for the environment variable {name:?}, which its tenant may not have; the operator allows it with \
                 `grants.config.env = [{name:?}]` in its tenant.toml"
            )),
            SecretFrom::Env(name) => (self.variable)(name)
                .ok_or_else(|| format!("asks for the environment variable {name:?}, which this host does not have")),
            SecretFrom::File(path) => {
                let place = path.canonicalize().ok().filter(|place| path.is_absolute() && is_in_one_of(place, files));
                let Some(place) = place else {
                    return Err(format!(
                        "asks for the file {}, which is not there or not in a directory that its tenant may have secrets \
                         from; the operator allows one with `grants.config.files` in its tenant.toml",
                        path.display()
                    ));
                };
                read_file(&place).map_err(|rule| format!("asks for the file {}, which {rule}", path.display()))
            }
        }
    }
}

fn read_file(path: &Path) -> Result<String, String> {
    // What stands there now may not be what was looked at: a link is not followed, and a pipe is not waited for.
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = OpenOptions::new().read(true).custom_flags(flags.bits().cast_signed()).open(path);
    let file = file.map_err(|error| format!("cannot be read: {error}"))?;
    if !file.metadata().is_ok_and(|meta| meta.is_file()) {
        return Err("is no regular file".to_owned());
    }
    let mut text = String::new();
    let read = file.take(SECRET_BYTES_MAX + 1).read_to_string(&mut text);
    // The system's word for what is not UTF-8 says nothing of what is.
    let bytes = read.map_err(|error| format!("cannot be read as text: {error}"))?;
    if bytes as u64 > SECRET_BYTES_MAX {
        return Err(format!("has more than {SECRET_BYTES_MAX} bytes"));
    }
    let line = text.strip_suffix('\n').map(|line| line.strip_suffix('\r').unwrap_or(line));
    Ok(line.map_or_else(|| text.clone(), str::to_owned))
}

#[cfg(test)]
mod tests {
    use rustix::fs::{CWD, FileType, Mode, mknodat};

    use super::*;

    #[test]
    fn a_pipe_is_not_waited_for_and_a_link_is_not_followed() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        mknodat(CWD, at("pipe"), FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        assert!(read_file(&at("pipe")).unwrap_err().contains("no regular file"));
        std::fs::write(at("secret"), "hush\r\n").unwrap();
        assert_eq!(read_file(&at("secret")).unwrap(), "hush");
        std::os::unix::fs::symlink(at("secret"), at("link")).unwrap();
        assert!(read_file(&at("link")).is_err());
    }
}
