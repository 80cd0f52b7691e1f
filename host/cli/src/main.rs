//! The command line: arguments become settings, settings become a host or a question to Redis, and that an exit code.

mod args;
mod commands;
mod data;
mod exit;
mod logging;
mod settings;
mod token_file;

use std::process::ExitCode;

use clap::Parser as _;

use crate::args::{Args, Command};
use crate::exit::Exit;

fn main() -> ExitCode {
    #[cfg(feature = "mutants")]
    if let Err(error) = settings::rule_to_leave_out().map_or(Ok(()), |rule| baton_model::mutants::leave_out(&rule)) {
        eprintln!("error: {error}");
        return Exit::Usage.into();
    }
    let args = Args::parse();
    if matches!(args.command, Command::CompileWorker) {
        // Before there is a runtime: it has threads and files of its own.
        return commands::compile_worker::run().unwrap_or_else(|error| exit::report(&error)).into();
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: cannot start threads: {error}");
            return Exit::Failed.into();
        }
    };
    let exit = runtime.block_on(dispatch(args)).unwrap_or_else(|error| exit::report(&error));
    // A blocking compile must not hold up the end.
    runtime.shutdown_background();
    exit.into()
}

async fn dispatch(args: Args) -> anyhow::Result<Exit> {
    let mut common = args.common;
    common.data_dir = args.command.data_dir().cloned().or(common.data_dir);
    match args.command {
        Command::Serve(serve) => commands::serve::run(&common, &serve).await,
        Command::Dev(serve) => commands::dev::run(&common, &serve).await,
        Command::Call(call) => commands::call::run(&common, &call).await,
        Command::Send(send) => commands::send::run(&common, &send).await,
        Command::Get(get) => commands::get::run(&common, &get).await,
        Command::Cancel(cancel) => commands::cancel::run(&common, &cancel).await,
        Command::Why(why) => commands::why::run(&common, &why).await,
        Command::Ps(ps) => commands::ps::run(&common, &ps).await,
        Command::Exec(exec) => commands::exec::run(&common, &exec).await,
        Command::Dead(dead) => commands::dead::run(&common, &dead).await,
        Command::Check(check) => commands::check::run(&common, &check).await,
        Command::Tenant(tenant) => commands::tenant::run(&common, &tenant),
        Command::Doctor(doctor) => commands::doctor::run(&common, &doctor).await,
        Command::CompileWorker => commands::compile_worker::run(),
    }
}
