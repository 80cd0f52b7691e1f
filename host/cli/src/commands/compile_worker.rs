//! `baton compile-worker`: what hosts start to compile a component apart from themselves.

use std::path::PathBuf;

use baton_engine::Compiler;

use crate::exit::Exit;

/// The name of the command, as `args.rs` has it.
const NAME: &str = "compile-worker";

pub(crate) fn run() -> anyhow::Result<Exit> {
    baton_engine::compile_worker()?;
    Ok(Exit::Ok)
}

/// A compiler that is this command. The program is the one that runs now, even if its file has been replaced since.
pub(crate) fn compiler() -> Compiler {
    Compiler::Process { program: PathBuf::from("/proc/self/exe"), arguments: vec![NAME.into()] }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{Args, Command};

    #[test]
    fn the_arguments_of_the_compiler_lead_to_its_command() {
        let Compiler::Process { arguments, .. } = compiler() else { panic!("hosts compile in a process") };
        let args = <Args as clap::Parser>::try_parse_from([vec!["baton".into()], arguments].concat()).unwrap();
        assert!(matches!(args.command, Command::CompileWorker));
    }
}
