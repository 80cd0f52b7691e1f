//! Every hostile call: who does what, and what must become of it. The test and the table of `make hostile` read this.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use baton_model::{ResultDocument, Status};
use baton_tests::{Stage, ill_guest, sample};

use crate::granted;
use crate::odd;
use crate::others::{self, Others};

/// The tenant of all hostile functions.
pub(crate) const TENANT: &str = "foe";

/// The function that is `ill` with more time.
const PATIENT: &str = "patient";

/// The time limit of functions that are not brief: for what ends by itself, however slow the machine is.
const PATIENCE: Duration = Duration::from_secs(20);

/// A hostile function.
pub(crate) struct Function {
    pub(crate) name: &'static str,
    pub(crate) guest: fn() -> Result<Vec<u8>>,
    /// What its manifest says beside its time limit; with the names of [`Others`] in it.
    pub(crate) grants: &'static str,
    /// Whether its time limit is short, for what ends by that alone.
    pub(crate) is_brief: bool,
}

const FUNCTIONS: &[Function] = &[
    Function { name: "ill", guest: ill_guest, grants: "", is_brief: true },
    Function { name: PATIENT, guest: ill_guest, grants: "", is_brief: false },
];

/// All that are no odd ones.
fn functions() -> impl Iterator<Item = &'static Function> {
    FUNCTIONS.iter().chain(granted::FUNCTIONS)
}

/// How a call must end.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Ends {
    /// It is answered, with just this.
    Answered(&'static str),
    /// It is answered with this line, once for each thing that it tried.
    Each(&'static str),
    /// It is answered, and has this word.
    Says(&'static str),
    /// It is given up with this reason, and the error has this word.
    Dead(&'static str, &'static str),
}

/// One hostile call.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Case {
    /// What it is; empty for that of its payload, or of its function.
    pub(crate) name: &'static str,
    /// The function, without its tenant: `ill` is the crate tests/hostile, others are those of `granted` and odd ones.
    pub(crate) function: &'static str,
    /// With the names of [`Others`] in it.
    pub(crate) payload: &'static str,
    pub(crate) ends: Ends,
}

const fn ill(payload: &'static str, ends: Ends) -> Case {
    Case { name: "", function: "ill", payload, ends }
}

/// For what ends by itself, however slow the machine is.
const fn patient(payload: &'static str, ends: Ends) -> Case {
    Case { name: "", function: PATIENT, payload, ends }
}

const fn odd(function: &'static str, ends: Ends) -> Case {
    Case { name: "", function, payload: "", ends }
}

pub(crate) const TIMEOUT: Ends = Ends::Dead("timeout", "limit");

/// All cases.
pub(crate) fn all() -> impl Iterator<Item = &'static Case> {
    CASES.iter().chain(granted::CASES)
}

/// Those of functions that were granted nothing.
const CASES: &[Case] = &[
    ill("loop", TIMEOUT),
    patient("recursion", Ends::Dead("trap", "stack")),
    ill("copies", TIMEOUT),
    ill("clock-for-ever", TIMEOUT),
    ill("quick-then-loop 1", TIMEOUT),
    patient("panic", Ends::Dead("trap", "unreachable")),
    patient("unreachable", Ends::Dead("trap", "unreachable")),
    patient("exit 0", Ends::Dead("exit", "code 0")),
    patient("exit 1", Ends::Dead("exit", "code 1")),
    patient("memory-at-once", Ends::Dead("memory", "memory")),
    patient("memory-by-steps", Ends::Dead("memory", "memory")),
    patient("hold 100000000", Ends::Answered("held 100000000")),
    patient("result 104857600", Ends::Dead("result-too-large", "limit")),
    patient("result 1048577", Ends::Dead("result-too-large", "limit")),
    ill("sleep", TIMEOUT),
    ill("sleep-zero-for-ever", TIMEOUT),
    patient("pollables", Ends::Dead("trap", "")),
    ill("poll-many", TIMEOUT),
    patient("random-at-once", Ends::Dead("trap", "")),
    ill("random-for-ever", TIMEOUT),
    patient("ambient", Ends::Answered("0 arguments, 0 variables, 0 bytes of input")),
    patient("files", Ends::Answered("got []")),
    patient("sockets {listener}", Ends::Answered("got []")),
    patient("stdout 1073741824", Ends::Answered("wrote 1073741824")),
    patient("forge-lines", Ends::Answered("said")),
    patient("log-at-once", Ends::Dead("trap", "")),
    ill("log-for-ever", TIMEOUT),
    odd("table", Ends::Dead("trap", "table")),
    odd("large-list", Ends::Dead("trap", "")),
    odd("no-utf8", Ends::Dead("trap", "utf")),
    odd("astray", Ends::Dead("trap", "")),
    odd("sub-instances", Ends::Dead("trap", "")),
    odd("canary", Ends::Answered("te")),
    odd("canary-large", Ends::Answered("te")),
];

impl Case {
    /// Its name in tables and messages.
    pub(crate) fn name(&self) -> &'static str {
        let payload = self.payload.strip_suffix(" {listener}").unwrap_or(self.payload);
        [self.name, payload, self.function].into_iter().find(|name| !name.is_empty()).unwrap_or_default()
    }

    /// The function with its tenant.
    pub(crate) fn called(&self) -> String {
        format!("{TENANT}/{}", self.function)
    }

    /// Its time limit, where that of most is `limit`.
    pub(crate) fn limit(&self, limit: Duration) -> Duration {
        let is_brief = functions().any(|function| function.name == self.function && function.is_brief);
        if is_brief { limit } else { PATIENCE }
    }

    /// Checks that a call of it ended as it must.
    pub(crate) fn check(&self, document: &ResultDocument) -> Result<()> {
        let name = self.name();
        let said = String::from_utf8_lossy(&document.payload);
        let brief: String = said.chars().take(500).collect();
        let says = |expected: &str, as_expected: bool| {
            ensure!(document.status == Status::Ok, "{name}: {document:?}");
            ensure!(as_expected, "{name} said {brief:?}, and should have said {expected:?}");
            Ok(())
        };
        match self.ends {
            Ends::Answered(with) => says(with, said == with)?,
            Ends::Each(line) => says(line, !said.is_empty() && said.lines().all(|said| said == line))?,
            Ends::Says(word) => says(word, said.contains(word))?,
            Ends::Dead(reason, word) => {
                let Some(error) = &document.error else { bail!("{name} is no failure: {document:?}") };
                let as_expected = document.status == Status::Dead && error.code == reason;
                ensure!(
                    as_expected && error.message.contains(word),
                    "{name}: not {reason} with {word:?}: {document:?}"
                );
                let harmless = error.message.chars().all(|c| c == '\n' || !c.is_control());
                ensure!(harmless, "{name}: the message acts on terminals: {:?}", error.message);
            }
        }
        Ok(())
    }
}

/// Puts every hostile function, brief ones with this time limit, and the neighbour `friend/echo` into the folder, and
/// something into a bucket of the neighbour's. Gives all their names.
pub(crate) async fn install(stage: &mut Stage, limit: Duration, others: &Others) -> Result<Vec<String>> {
    let mut names = Vec::new();
    let mut install = |function: &str, bytes: &[u8], limit: Duration, grants: &str| -> Result<()> {
        let name = format!("{TENANT}/{function}");
        let manifest = format!("limits.time_ms = {}\n{}", limit.as_millis(), others.fill(grants)?);
        stage.folder.write_tenant(TENANT, granted::TENANT)?;
        stage.folder.write_manifest(&name, &manifest)?;
        stage.folder.install(&name, bytes)?;
        names.push(name);
        Ok(())
    };
    for function in functions() {
        let limit = if function.is_brief { limit } else { PATIENCE };
        install(function.name, &(function.guest)()?, limit, function.grants)?;
    }
    for name in odd::CALLED {
        install(name, &odd::component(name)?, PATIENCE, "")?;
    }
    stage.folder.install("friend/echo", &sample("echo")?)?;
    names.push("friend/echo".to_owned());
    others::keep_something(stage).await?;
    Ok(names)
}

/// The modes of tests/hostile, as its table has them.
fn modes() -> Result<Vec<&'static str>> {
    let source = include_str!("../../hostile/src/lib.rs");
    let (_, table) = source.split_once("const MODES").context("the table of modes")?;
    let (table, _) = table.split_once("];").context("the end of the table")?;
    Ok(table.lines().filter_map(|line| line.trim().strip_prefix("(\"")?.split('"').next()).collect())
}

#[test]
fn every_mode_and_every_odd_guest_has_a_case() -> Result<()> {
    let modes = modes()?;
    ensure!(modes.len() > 20, "the table was not understood: {modes:?}");
    for mode in modes {
        let is_ill = |case: &Case| case.function == "ill" || case.function == PATIENT;
        let is_its = |case: &Case| is_ill(case) && case.payload.split(' ').next() == Some(mode);
        ensure!(CASES.iter().any(is_its), "no case for the mode {mode}");
    }
    for guest in odd::CALLED {
        ensure!(CASES.iter().any(|case| case.function == *guest), "no case for the odd guest {guest}");
    }
    for function in functions() {
        ensure!(all().any(|case| case.function == function.name), "no case for the function {}", function.name);
    }
    for name in odd::CALLED {
        odd::component(name)?;
    }
    odd::refused()?;
    Ok(())
}
