//! Calling the Lua scripts by their digest, loading one when Redis does not know it.

use redis::{Cmd, Script, Value};

use crate::BrokerError;
use crate::link::Link;

#[cfg(any(test, feature = "mutants"))]
#[path = "scripts/mutants.rs"]
mod mutants;

/// The text of a script that a rule can be taken out of, without its first line, which does not stay the first everywhere.
#[cfg(any(test, feature = "mutants"))]
fn text_of(script: &str) -> &'static str {
    let whole = match script {
        "bury" => include_str!("scripts/bury.lua"),
        "execution_advance" => include_str!("scripts/execution_advance.lua"),
        "execution_event" => include_str!("scripts/execution_event.lua"),
        "leave" => include_str!("scripts/leave.lua"),
        "renew" => include_str!("scripts/renew.lua"),
        "requeue" => include_str!("scripts/requeue.lua"),
        "settle" => include_str!("scripts/settle.lua"),
        "sweep" => include_str!("scripts/sweep.lua"),
        other => unreachable!("no rule is taken out of {other}"),
    };
    whole.split_once('\n').map_or(whole, |(_, body)| body)
}

/// The script as it is without the rule that is left out.
#[cfg(feature = "mutants")]
fn patched(code: &str) -> Box<str> {
    let left_out = baton_model::mutants::name_of_left_out();
    let own =
        |(rule, script, ..): &&(&str, &str, &str, &str)| Some(*rule) == left_out && code.contains(text_of(script));
    let patches = mutants::PATCHES.iter().filter(own);
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

#[cfg(test)]
mod tests {
    use super::{mutants, text_of};

    #[test]
    fn what_a_mutant_takes_out_stands_once_in_its_script() {
        for (rule, script, from, _) in mutants::PATCHES {
            assert_eq!(text_of(script).matches(from).count(), 1, "{rule} in {script}.lua: {from}");
        }
    }
}
