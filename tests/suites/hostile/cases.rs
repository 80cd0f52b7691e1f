//! Every hostile call: who does what, and what must become of it. The test and the table of `make hostile` read this.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use baton_model::{ResultDocument, Status};
use baton_tests::{Stage, ill_guest, sample};

use crate::odd;

/// The tenant of all hostile functions.
pub(crate) const TENANT: &str = "foe";

/// The function that is `ill` with more time.
const PATIENT: &str = "patient";
const PATIENCE: Duration = Duration::from_secs(20);

/// How a call must end.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Ends {
    /// It is answered, with just this.
    Answered(&'static str),
    /// It is given up with this reason, and the error has this word.
    Dead(&'static str, &'static str),
}

/// One hostile call.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Case {
    /// The function, without its tenant: `ill` is the crate tests/hostile, the others are odd ones.
    pub(crate) function: &'static str,
    pub(crate) payload: &'static str,
    pub(crate) ends: Ends,
}

const fn ill(payload: &'static str, ends: Ends) -> Case {
    Case { function: "ill", payload, ends }
}

/// For what ends by itself, however slow the machine is.
const fn patient(payload: &'static str, ends: Ends) -> Case {
    Case { function: PATIENT, payload, ends }
}

const fn odd(function: &'static str, ends: Ends) -> Case {
    Case { function, payload: "", ends }
}

const TIMEOUT: Ends = Ends::Dead("timeout", "limit");

/// All of them. `{listener}` in a payload is the address of somebody who listens and must not hear anything.
pub(crate) const CASES: &[Case] = &[
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
    pub(crate) fn name(&self) -> String {
        let payload = self.payload.strip_suffix(" {listener}").unwrap_or(self.payload);
        if payload.is_empty() { self.function.to_owned() } else { payload.to_owned() }
    }

    /// The function with its tenant.
    pub(crate) fn called(&self) -> String {
        format!("{TENANT}/{}", self.function)
    }

    /// Its time limit, where that of most is `limit`.
    pub(crate) fn limit(&self, limit: Duration) -> Duration {
        if self.function == "ill" { limit } else { PATIENCE }
    }

    /// Checks that a call of it ended as it must.
    pub(crate) fn check(&self, document: &ResultDocument) -> Result<()> {
        let name = self.name();
        match self.ends {
            Ends::Answered(with) => {
                ensure!(document.status == Status::Ok, "{name}: {document:?}");
                let said = String::from_utf8_lossy(&document.payload);
                ensure!(said == with, "{name} said {said:?}, and should have said {with:?}");
            }
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

/// Puts every hostile function, `ill` with this time limit, and the neighbour `friend/echo` into the folder. Gives all
/// their names.
pub(crate) fn install(stage: &Stage, limit: Duration) -> Result<Vec<String>> {
    let ill = ill_guest()?;
    let mut functions = vec![("ill", ill.clone(), limit), (PATIENT, ill, PATIENCE)];
    for name in odd::CALLED {
        functions.push((name, odd::component(name)?, PATIENCE));
    }
    let mut names = Vec::new();
    for (function, bytes, limit) in functions {
        let name = format!("{TENANT}/{function}");
        stage.folder.write_manifest(&name, &format!("limits.time_ms = {}\n", limit.as_millis()))?;
        stage.folder.install(&name, &bytes)?;
        names.push(name);
    }
    stage.folder.install("friend/echo", &sample("echo")?)?;
    names.push("friend/echo".to_owned());
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
    for name in odd::CALLED.iter().chain(odd::REFUSED.iter().map(|(name, _)| name)) {
        odd::component(name)?;
    }
    Ok(())
}
