//! Builds of the functions: the same code under other digests, which tell their number.

use anyhow::Result;
use baton_model::Digest;
use baton_tests::settings::{profile_dir, repository};
use baton_tests::{Folder, patched, sample, variant};
use serde_json::{Value, json};

/// The text in the guest that another number replaces.
const FIRST: &str = "build-000000";

/// The functions as they are to be now.
#[derive(Debug)]
pub(crate) struct Builds {
    witness: Vec<u8>,
    echo: Vec<u8>,
    number: u32,
}

impl Builds {
    /// How many functions a folder has.
    pub(crate) const FUNCTIONS: usize = 4;

    /// The first builds, as `make plugins guests` has left them.
    ///
    /// # Errors
    /// If they were not built.
    pub(crate) fn new() -> Result<Self> {
        // A test binary lies in `deps`, the program beside the host; the guests lie beside the profile in any case.
        let own = std::env::current_exe()?;
        let profile = own.ancestors().find(|dir| dir.join("../wasm32-wasip2/guest").is_dir());
        let profile = match profile {
            Some(dir) => dir.to_owned(),
            None => profile_dir()?,
        };
        let path = profile.join("../wasm32-wasip2/guest/witness_guest.wasm");
        let witness = std::fs::read(&path).map_err(|error| {
            anyhow::anyhow!("{}: {error}; `make guests` builds it, in {}", path.display(), repository().display())
        })?;
        // A guest without the text could not be told from its next build.
        patched(&witness, FIRST, FIRST)?;
        Ok(Self { witness, echo: sample("echo")?, number: 0 })
    }

    /// Goes on to the next build.
    pub(crate) fn next(&mut self) {
        self.number += 1;
    }

    /// The witness as it is to be now.
    ///
    /// # Errors
    /// If the guest has no place for the number.
    pub(crate) fn witness(&self) -> Result<Vec<u8>> {
        patched(&self.witness, FIRST, &self.name())
    }

    fn name(&self) -> String {
        format!("build-{:06}", self.number)
    }

    fn echo(&self) -> Vec<u8> {
        variant(&self.echo, self.number)
    }

    /// Its name and digests, for the history.
    ///
    /// # Errors
    /// As [`Builds::witness`].
    pub(crate) fn json(&self) -> Result<Value> {
        let witness = Digest::of(&self.witness()?).to_string();
        Ok(
            json!({"ev": "build", "build": self.name(), "witness": witness, "echo": Digest::of(&self.echo()).to_string()}),
        )
    }

    /// Puts all functions into a folder, each by a rename.
    ///
    /// # Errors
    /// If that fails.
    pub(crate) fn install(&self, folder: &Folder) -> Result<()> {
        let witness = self.witness()?;
        for function in ["witness", "acme/witness"] {
            folder.install(function, &witness)?;
        }
        for function in ["echo", "acme/echo"] {
            folder.install(function, &self.echo())?;
        }
        Ok(())
    }
}
