//! What may be typed behind `baton exec`.

use std::path::PathBuf;
use std::time::Duration;

use baton_model::{CallId, Digest, FunctionId, Name, chosen_id};
use clap::Subcommand;

use super::{DataDir, duration, header};

#[derive(Debug, Subcommand)]
pub(crate) enum Exec {
    /// Begin an execution, and print its id
    Start(ExecStart),
    /// Send an execution an event; it may come before it is waited for
    Event(ExecEvent),
    /// Say how an execution stands, and what it waits for
    Show(ExecOne),
    /// Print its event log; --json prints it byte for byte, for `baton exec replay --history`
    History(ExecOne),
    /// Print its result
    Result(ExecResult),
    /// Take an execution back; calls that it has made go on
    Cancel(ExecOne),
    /// List executions, the latest first
    List(ExecList),
    /// Have an execution go on with another build, if that asks for the same steps as its log has
    Move(ExecMove),
    /// Run a component over a recorded history, here, and say where it differs
    Replay(ExecReplay),
}

/// What is handed over: to a function, or with an event.
#[derive(Debug, clap::Args)]
pub(crate) struct Content {
    /// The input: JSON as it is, @FILE for a file's bytes, - for standard input [default: nothing]
    #[arg(long, short, value_name = "JSON|@FILE|-")]
    pub(crate) data: Option<String>,
    /// Media type of the input [default: application/json]
    #[arg(long, value_name = "TYPE")]
    pub(crate) r#type: Option<String>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct ExecStart {
    /// The durable function: NAME or TENANT/NAME
    pub(crate) function: FunctionId,
    #[command(flatten)]
    pub(crate) content: Content,
    /// An id of your own: the same id again is the same execution
    #[arg(long, value_name = "ID", value_parser = chosen_id)]
    pub(crate) id: Option<CallId>,
    /// A header for the function: x-NAME=VALUE; may be repeated
    #[arg(long, value_name = "x-NAME=VALUE", value_parser = header)]
    pub(crate) header: Vec<(String, String)>,
    /// Print a JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

/// Which execution is meant.
#[derive(Debug, clap::Args)]
pub(crate) struct ExecOne {
    #[command(flatten)]
    pub(crate) dir: DataDir,
    /// The execution's id
    pub(crate) id: CallId,
    /// Its function [default: the one that has an execution of this id]
    #[arg(long, short, value_name = "NAME")]
    pub(crate) function: Option<FunctionId>,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct ExecEvent {
    /// The execution's id
    pub(crate) id: CallId,
    /// The event's name
    pub(crate) name: Name,
    /// Its function [default: the one that has an execution of this id]
    #[arg(long, short, value_name = "NAME")]
    pub(crate) function: Option<FunctionId>,
    #[command(flatten)]
    pub(crate) content: Content,
    /// An id of your own: the same id again is the same event
    #[arg(long, value_name = "ID", value_parser = chosen_id)]
    pub(crate) event_id: Option<CallId>,
    /// Print a JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct ExecResult {
    #[command(flatten)]
    pub(crate) one: ExecOne,
    /// Wait so long for the result
    #[arg(long, value_name = "TIME", value_parser = duration, default_value = "0s")]
    pub(crate) wait: Duration,
}

#[derive(Debug, clap::Args)]
pub(crate) struct ExecList {
    #[command(flatten)]
    pub(crate) dir: DataDir,
    /// The function [default: all]
    pub(crate) function: Option<FunctionId>,
    /// Only those in this state
    #[arg(long, value_name = "WORD", value_parser = baton_broker::EXECUTION_STATES)]
    pub(crate) state: Option<String>,
    /// The most executions that are listed
    #[arg(long, value_name = "N", default_value_t = 100)]
    pub(crate) limit: usize,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct ExecMove {
    #[command(flatten)]
    pub(crate) one: ExecOne,
    /// The SHA-256 of a component that some execution runs on [default: the build that its host has now]
    #[arg(long, value_name = "DIGEST", value_parser = digest)]
    pub(crate) to: Option<Digest>,
    /// How long to wait for a host to try it; it is tried all the same
    #[arg(long, value_name = "TIME", value_parser = duration, default_value = "10s")]
    pub(crate) wait: Duration,
}

#[derive(Debug, clap::Args)]
pub(crate) struct ExecReplay {
    #[command(flatten)]
    pub(crate) dir: DataDir,
    /// The execution's id
    #[arg(required_unless_present = "history", conflicts_with = "history")]
    pub(crate) id: Option<CallId>,
    /// Its function [default: the one that has an execution of this id]
    #[arg(long, short, value_name = "NAME", conflicts_with = "history")]
    pub(crate) function: Option<FunctionId>,
    /// A history that `baton exec history --json` printed
    #[arg(long, value_name = "FILE")]
    pub(crate) history: Option<PathBuf>,
    /// The component to run, with what lies beside it
    #[arg(long, value_name = "FILE.wasm")]
    pub(crate) component: PathBuf,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

impl Exec {
    /// The data directory in the command's own words, where it has such words.
    pub(super) fn data_dir(&self) -> Option<&PathBuf> {
        match self {
            Self::Show(one) | Self::History(one) | Self::Cancel(one) => one.dir.data.as_ref(),
            Self::Result(ExecResult { one, .. }) | Self::Move(ExecMove { one, .. }) => one.dir.data.as_ref(),
            Self::List(list) => list.dir.data.as_ref(),
            Self::Replay(replay) => replay.dir.data.as_ref(),
            // What they call --data is their input.
            Self::Start(_) | Self::Event(_) => None,
        }
    }
}

fn digest(text: &str) -> Result<Digest, String> {
    Digest::parse(text).ok_or_else(|| "a digest is 64 hexadecimal digits; `baton check FILE.wasm` prints it".to_owned())
}
