//! The queues that are compared: how the worker of each is started, and who calls it.

use anyhow::Result;
use baton_tests::{Folder, Process, Redis};
use tokio::process::Command;

use crate::folders;
use crate::host::{self, Host};

/// What every redis-server is told; Baton's own gets the same.
pub(super) const REDIS: [(&str, &str); 2] = [("appendonly", "yes"), ("appendfsync", "everysec")];

/// The functions that Baton's host has. The others' workers do both by what the payload asks for.
const FUNCTIONS: [&str; 2] = ["echo", "sleep"];

/// Who reads calls from Redis and answers them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Queue {
    Baton,
    BullMq,
    Streams,
}

impl Queue {
    pub(super) const ALL: [Self; 3] = [Self::Baton, Self::BullMq, Self::Streams];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Baton => "Baton",
            Self::BullMq => "BullMQ",
            Self::Streams => "plain Streams worker",
        }
    }

    /// The file of its worker, if that is a Node process.
    pub(super) fn worker_file(self) -> Option<&'static str> {
        match self {
            Self::Baton => None,
            Self::BullMq => Some("bullmq-worker.mjs"),
            Self::Streams => Some("streams-worker.mjs"),
        }
    }

    /// The ways in which Node callers call it; the first is that of single calls.
    pub(super) fn callers(self) -> &'static [&'static str] {
        match self {
            Self::Baton => &["baton"],
            Self::BullMq => &["bullmq", "bullmq-bulk"],
            Self::Streams => &["streams"],
        }
    }
}

/// A queue with a Redis of its own, on which workers can be started.
pub(super) struct Stage {
    queue: Queue,
    folder: Folder,
    pub(super) redis: Redis,
}

impl Stage {
    pub(super) async fn start(queue: Queue) -> Result<Self> {
        Ok(Self { queue, folder: Folder::with(&FUNCTIONS)?, redis: Redis::with(&REDIS).await? })
    }

    /// Starts one more worker and waits until it takes calls.
    pub(super) async fn worker(&self) -> Result<Worker> {
        let Some(file) = self.queue.worker_file() else {
            let functions = FUNCTIONS.map(str::to_owned);
            return Ok(Worker::Host(Host::start(&self.redis, &self.folder, &functions).await?));
        };
        let mut command = Command::new("node");
        command.arg(folders::peers().join(file)).arg(self.redis.socket()).env("NODE_ENV", "production");
        Ok(Worker::Node(host::ready(command).await?))
    }
}

/// The process that answers; ended when dropped.
pub(super) enum Worker {
    Host(Host),
    Node(Process),
}

impl Worker {
    pub(super) fn pid(&self) -> u32 {
        match self {
            Self::Host(host) => host.pid(),
            Self::Node(process) => process.pid(),
        }
    }

    /// Kills it as a crash would and waits until it is gone.
    pub(super) async fn kill(self) -> Result<()> {
        match self {
            Self::Host(host) => host.kill().await,
            Self::Node(mut process) => process.kill9().await,
        }
    }
}
