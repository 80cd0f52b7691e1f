//! What may be typed. Text becomes types here; what it means is the commands'.

mod exec;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use baton_model::{
    ATTEMPTS_MAX, BACKOFF_MAX, CallId, Failures, FunctionId, Name, NameError, OrderKey, Priority, SCHEDULE_HEADERS,
    chosen_id,
};
use clap::{Parser, Subcommand};

pub(crate) use self::exec::{Content, Exec, ExecEvent, ExecList, ExecMove, ExecOne, ExecReplay, ExecResult, ExecStart};
use crate::settings::Settings;

/// Functions in WebAssembly, called through Redis, replaced while they run.
#[derive(Debug, Parser)]
#[command(name = "baton", version, propagate_version = true)]
pub(crate) struct Args {
    #[command(flatten)]
    pub(crate) common: Common,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What every command understands.
#[derive(Debug, clap::Args)]
pub(crate) struct Common {
    /// Redis: redis://HOST:PORT/DB, rediss://… for TLS, or unix:///PATH [default: the embedded server of --data; env: REDIS_URL]
    #[arg(long, global = true, value_name = "URL")]
    pub(crate) redis: Option<String>,
    /// Where the embedded Redis and the compile cache live [default: .baton]
    #[arg(long, global = true, value_name = "DIR")]
    pub(crate) data_dir: Option<PathBuf>,
    /// A settings file [default: baton.toml, if there is one]
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run the functions in the plugins folder until a signal ends it
    Serve(Serve),
    /// The same for development: rebuild plugin crates when their sources change, and show each call
    Dev(Serve),
    /// Call a function and print its answer
    Call(Call),
    /// Send a call without waiting, and print its id
    Send(Send),
    /// Print the result of a call that was sent
    Get(Get),
    /// Take a call back: one that waits is taken out, one that runs is stopped
    Cancel(Cancel),
    /// Say where a call is and why, or where its time went
    Why(Why),
    /// List functions and hosts, or the calls that run
    Ps(Ps),
    /// Calls that were given up: look at them, send them again, drop them
    #[command(subcommand)]
    Dead(Dead),
    /// Executions of durable functions: begin one, send it events, look at it, move it, replay it
    #[command(subcommand)]
    Exec(Exec),
    /// Say what a host would say of a component
    Check(Check),
    /// Who the tenants are, their tokens for HTTP, and their Redis users
    #[command(subcommand)]
    Tenant(Tenant),
    /// Look for what would keep Baton from working well here, and say how to mend it
    Doctor(Doctor),
    /// Compile one component from standard input: hosts start this, people do not
    #[command(hide = true)]
    CompileWorker,
}

/// The short form of `--data-dir`, for commands where `--data` is not the input of a call.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct DataDir {
    /// The same as --data-dir
    #[arg(long = "data", id = "directory", value_name = "DIR")]
    pub(crate) data: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Serve {
    #[command(flatten)]
    pub(crate) dir: DataDir,
    /// The folder of functions [default: plugins]
    #[arg(long, value_name = "DIR")]
    pub(crate) plugins: Option<PathBuf>,
    /// How long calls in flight may go on after the signal to end [default: 30s]
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub(crate) drain_timeout: Option<Duration>,
    /// How many calls run at once, at the most [default: 512]
    #[arg(long, value_name = "N")]
    pub(crate) seats: Option<u32>,
    /// Where HTTP is served; port 0 takes a free one [default: 127.0.0.1:7070]
    #[arg(long, value_name = "ADDR:PORT", value_parser = address, conflicts_with = "no_http")]
    pub(crate) http: Option<SocketAddr>,
    /// Serve no HTTP
    #[arg(long)]
    pub(crate) no_http: bool,
    /// Run no functions: serve HTTP for the hosts that do
    #[arg(long, conflicts_with = "no_http")]
    pub(crate) no_functions: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Input {
    /// The input: JSON as it is, @FILE for a file's bytes, - for standard input [default: nothing]
    #[arg(long, short, value_name = "JSON|@FILE|-")]
    pub(crate) data: Option<String>,
    /// Media type of the input [default: application/json]
    #[arg(long, value_name = "TYPE")]
    pub(crate) r#type: Option<String>,
    /// An id of your own: the same id again is the same call
    #[arg(long, value_name = "ID", value_parser = chosen_id)]
    pub(crate) id: Option<CallId>,
    /// After how long the answer is of no use; a call past it is not started
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub(crate) deadline: Option<Duration>,
    /// How long the call waits before it is begun; it waits in Redis
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub(crate) delay: Option<Duration>,
    /// Calls of the function with the same key run one after another
    #[arg(long, value_name = "KEY")]
    pub(crate) key: Option<OrderKey>,
    /// How urgent the call is beside others of the function: high goes before normal before low
    #[arg(long, value_name = "LEVEL", default_value_t)]
    pub(crate) priority: Priority,
    /// The most attempts, the first included [default: as the function's manifest or the host says]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=i64::from(ATTEMPTS_MAX)))]
    pub(crate) attempts: Option<u32>,
    /// The longest wait before the second attempt; it doubles with each further one
    #[arg(long, value_name = "TIME", value_parser = backoff)]
    pub(crate) backoff: Option<Duration>,
    /// The longest wait before any attempt
    #[arg(long, value_name = "TIME", value_parser = backoff)]
    pub(crate) backoff_max: Option<Duration>,
    /// After which failures it is tried again: retry, host-fault, trap, exit, timeout, memory, result-too-large
    #[arg(long, value_name = "WORD,…")]
    pub(crate) retry_on: Option<Failures>,
    /// A header for the function: x-NAME=VALUE; may be repeated
    #[arg(long, value_name = "x-NAME=VALUE", value_parser = header)]
    pub(crate) header: Vec<(String, String)>,
}

/// The functions that a call is sent to.
#[derive(Debug, Clone)]
pub(crate) struct Targets(pub(crate) Vec<FunctionId>);

fn targets(text: &str) -> Result<Targets, String> {
    let all = text.split(',').map(str::parse).collect::<Result<_, NameError>>();
    all.map(Targets).map_err(|error| error.to_string())
}

#[derive(Debug, clap::Args)]
pub(crate) struct Call {
    /// The function: NAME or TENANT/NAME
    pub(crate) function: FunctionId,
    #[command(flatten)]
    pub(crate) input: Input,
    /// How long to wait for the answer; the call goes on all the same
    #[arg(long, value_name = "TIME", value_parser = duration, default_value = "60s")]
    pub(crate) timeout: Duration,
    /// Print the whole result document as one JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Send {
    /// The function: NAME or TENANT/NAME; several with commas between them get a call each, under one id
    #[arg(value_name = "FUNCTION[,FUNCTION…]", value_parser = targets)]
    pub(crate) to: Targets,
    #[command(flatten)]
    pub(crate) input: Input,
    /// Send a call for each line of the input, which is a file or standard input; prints an id for each
    #[arg(long, conflicts_with = "id", requires = "data")]
    pub(crate) lines: bool,
    /// Print a JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Get {
    #[command(flatten)]
    pub(crate) dir: DataDir,
    /// The call's id
    pub(crate) id: CallId,
    /// The function that was called [default: any that has a result under the id]
    #[arg(long, short, value_name = "NAME")]
    pub(crate) function: Option<FunctionId>,
    /// The id is that of a call to several functions: print the result of each
    #[arg(long, conflicts_with = "function")]
    pub(crate) fanout: bool,
    /// Whose functions those are
    #[arg(long, value_name = "NAME", requires = "fanout", default_value = "default")]
    pub(crate) tenant: Name,
    /// Wait so long for the result
    #[arg(long, value_name = "TIME", value_parser = duration, default_value = "0s")]
    pub(crate) wait: Duration,
    /// Print the whole result document as one JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Cancel {
    #[command(flatten)]
    pub(crate) dir: DataDir,
    /// The call's id
    pub(crate) id: CallId,
    /// The function that was called [default: the one that has a call with this id]
    #[arg(long, short, value_name = "NAME")]
    pub(crate) function: Option<FunctionId>,
    /// Print the call's result document as one JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Why {
    #[command(flatten)]
    pub(crate) dir: DataDir,
    /// The call's id
    pub(crate) id: CallId,
    /// The function that was called [default: the one that has a call with this id]
    #[arg(long, short, value_name = "NAME")]
    pub(crate) function: Option<FunctionId>,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Ps {
    #[command(flatten)]
    pub(crate) dir: DataDir,
    /// Show every host that was here within a day
    #[arg(long)]
    pub(crate) all: bool,
    /// List the calls that hosts have in their hands now
    #[arg(long, conflicts_with = "all")]
    pub(crate) calls: bool,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Dead {
    /// List dead letters, the latest first
    Ls(DeadLs),
    /// Print all that a dead letter holds
    Show(DeadShow),
    /// Send calls again that were given up, each under its own id; their old results are removed
    Redrive(DeadMany),
    /// Drop dead letters for good
    Drop(DeadMany),
}

/// Which letters are meant.
#[derive(Debug, clap::Args)]
pub(crate) struct LetterWishes {
    /// Given up for this reason, such as trap, timeout or attempts-exhausted
    #[arg(long, value_name = "WORD")]
    pub(crate) reason: Option<String>,
    /// Given up at least so long ago, such as 1h
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub(crate) older: Option<Duration>,
    /// Given up no longer ago than this
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub(crate) newer: Option<Duration>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct DeadLs {
    #[command(flatten)]
    pub(crate) dir: DataDir,
    /// The function [default: all]
    pub(crate) function: Option<FunctionId>,
    #[command(flatten)]
    pub(crate) wishes: LetterWishes,
    /// The most letters that are listed
    #[arg(long, value_name = "N", default_value_t = 100)]
    pub(crate) limit: usize,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct DeadShow {
    #[command(flatten)]
    pub(crate) dir: DataDir,
    /// The letter's id, or that of its call
    pub(crate) id: String,
    /// The function [default: any that has such a letter]
    #[arg(long, short, value_name = "NAME")]
    pub(crate) function: Option<FunctionId>,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct DeadMany {
    #[command(flatten)]
    pub(crate) dir: DataDir,
    /// Letters by their ids, or by those of their calls
    #[arg(conflicts_with_all = ["reason", "older", "newer", "all"])]
    pub(crate) ids: Vec<String>,
    /// The function [default: any that has a letter of that id; to be said where no id is]
    #[arg(long, short, value_name = "NAME")]
    pub(crate) function: Option<FunctionId>,
    #[command(flatten)]
    pub(crate) wishes: LetterWishes,
    /// All of the function
    #[arg(long)]
    pub(crate) all: bool,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Check {
    /// The component
    #[arg(value_name = "FILE.wasm")]
    pub(crate) file: PathBuf,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Doctor {
    #[command(flatten)]
    pub(crate) dir: DataDir,
    /// The folder of functions [default: plugins]
    #[arg(long, value_name = "DIR")]
    pub(crate) plugins: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Tenant {
    /// Make a tenant: its folder, and a tenant.toml in it
    Add(TenantAdd),
    /// Make a token for HTTP, and print it this once; or take one away
    Token(TenantToken),
    /// List the tenants, how many functions each has, and its tokens
    Ls(TenantLs),
    /// Print the line that makes a Redis user for a tenant, who may call its functions and read their results
    Acl(TenantAcl),
}

/// The folder of functions, for commands that do nothing else with it.
#[derive(Debug, clap::Args)]
pub(crate) struct PluginsDir {
    /// The folder of functions [default: plugins]
    #[arg(long = "plugins", id = "plugins_dir", value_name = "DIR")]
    dir: Option<PathBuf>,
}

impl PluginsDir {
    /// The folder that was typed, or else the one that is set.
    pub(crate) fn dir<'a>(&'a self, settings: &'a Settings) -> &'a Path {
        self.dir.as_deref().unwrap_or_else(|| settings.plugins())
    }
}

#[derive(Debug, clap::Args)]
pub(crate) struct TenantAdd {
    #[command(flatten)]
    pub(crate) plugins: PluginsDir,
    /// The tenant's name
    pub(crate) name: Name,
}

#[derive(Debug, clap::Args)]
pub(crate) struct TenantToken {
    #[command(flatten)]
    pub(crate) plugins: PluginsDir,
    /// The tenant
    #[arg(required_unless_present = "operator", conflicts_with = "operator")]
    pub(crate) tenant: Option<Name>,
    /// A token for operators, who see everything; its hash goes into the settings file
    #[arg(long)]
    pub(crate) operator: bool,
    /// What people call the token [default: token, token-2, …]
    #[arg(long, value_name = "NAME", conflicts_with = "remove")]
    pub(crate) name: Option<String>,
    /// After how long it is no longer taken, such as 90d [default: never]
    #[arg(long, value_name = "TIME", value_parser = duration, conflicts_with = "remove")]
    pub(crate) expires: Option<Duration>,
    /// Take the token of this name away
    #[arg(long, value_name = "NAME", conflicts_with = "json")]
    pub(crate) remove: Option<String>,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct TenantLs {
    #[command(flatten)]
    pub(crate) plugins: PluginsDir,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct TenantAcl {
    #[command(flatten)]
    pub(crate) plugins: PluginsDir,
    /// The tenant
    pub(crate) tenant: Name,
    /// The name of the Redis user [default: the tenant's]
    #[arg(long, value_name = "NAME")]
    pub(crate) user: Option<String>,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

impl Command {
    /// The data directory in the command's own words, where it has such words.
    pub(crate) fn data_dir(&self) -> Option<&PathBuf> {
        match self {
            Self::Serve(serve) | Self::Dev(serve) => serve.dir.data.as_ref(),
            Self::Get(get) => get.dir.data.as_ref(),
            Self::Cancel(cancel) => cancel.dir.data.as_ref(),
            Self::Why(why) => why.dir.data.as_ref(),
            Self::Ps(ps) => ps.dir.data.as_ref(),
            Self::Doctor(doctor) => doctor.dir.data.as_ref(),
            Self::Dead(Dead::Ls(ls)) => ls.dir.data.as_ref(),
            Self::Dead(Dead::Show(show)) => show.dir.data.as_ref(),
            Self::Dead(Dead::Redrive(many) | Dead::Drop(many)) => many.dir.data.as_ref(),
            Self::Exec(exec) => exec.data_dir(),
            Self::Call(_) | Self::Send(_) | Self::Check(_) | Self::Tenant(_) | Self::CompileWorker => None,
        }
    }
}

fn duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text).map_err(|error| format!("{error}; write a time such as 500ms, 30s or 2m"))
}

fn backoff(text: &str) -> Result<Duration, String> {
    let read = duration(text)?;
    if read > BACKOFF_MAX { Err("it is a day at the most".to_owned()) } else { Ok(read) }
}

fn address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| "write an IP address and a port, such as 127.0.0.1:7070 or 0.0.0.0:80".to_owned())
}

fn header(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, _)) if SCHEDULE_HEADERS.contains(&name) || name.starts_with("x-baton-") => {
            Err(format!("{name} is for hosts alone; take another name"))
        }
        Some((name, value)) if name.starts_with("x-") => Ok((name.to_owned(), value.to_owned())),
        _ => Err("a header is x-NAME=VALUE".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_arguments_do_not_contradict_each_other() {
        <Args as clap::CommandFactory>::command().debug_assert();
    }
}
