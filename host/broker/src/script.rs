//! Calling the Lua scripts by their digest, loading one when Redis does not know it.

use redis::{Cmd, Script, Value};

use crate::BrokerError;
use crate::link::Link;

#[cfg(feature = "mutants")]
#[path = "scripts/mutants.rs"]
mod mutants;

/// The script as it is without the rule that is left out.
#[cfg(feature = "mutants")]
fn patched(code: &str) -> Box<str> {
    let left_out = baton_model::mutants::name_of_left_out();
    let patches = mutants::PATCHES.iter().filter(|(rule, _, from, _)| Some(*rule) == left_out && code.contains(from));
    patches.fold(code.to_owned(), |text, (_, _, from, to)| text.replacen(from, to, 1)).into()
}

/// A script with what knows a mark that stands for a call before it.
macro_rules! marking {
    ($file:literal) => {
        $crate::script::Lua::new(concat!(
            "#!lua\n",
            include_str!("scripts/fields.lua"),
            include_str!("scripts/waiting.lua"),
            include_str!("scripts/mark.lua"),
            include_str!($file)
        ))
    };
}
pub(crate) use marking;

/// One script of ours. Its file documents keys, arguments and answers.
pub(crate) struct Lua {
    code: Box<str>,
    sha: String,
}

impl Lua {
    pub(crate) fn new(code: &'static str) -> Self {
        Self::made(code)
    }

    /// A script that is put together from ours.
    pub(crate) fn made(code: impl Into<Box<str>>) -> Self {
        let code: Box<str> = code.into();
        #[cfg(feature = "mutants")]
        let code = patched(&code);
        let sha = Script::new(&code).get_hash().to_owned();
        Self { code, sha }
    }

    /// The start of a call with so many keys; keys and then arguments are appended.
    pub(crate) fn call(&self, keys: usize) -> Cmd {
        let mut cmd = Cmd::new();
        cmd.arg("EVALSHA").arg(&self.sha).arg(keys);
        cmd
    }

    /// What makes Redis know the script, for a pipeline that calls it.
    pub(crate) fn load(&self) -> Cmd {
        redis::cmd("SCRIPT").arg("LOAD").arg(&*self.code).to_owned()
    }

    /// Carries out a call that [`Lua::call`] began. After a restart of Redis the script is loaded first: nothing was
    /// carried out when Redis says that it does not know it.
    pub(crate) async fn run(&self, link: &Link, call: &Cmd) -> Result<Value, BrokerError> {
        match link.run(call).await {
            Err(BrokerError::NoScript) => {
                link.run(&self.load()).await?;
                link.run(call).await
            }
            other => other,
        }
    }
}
