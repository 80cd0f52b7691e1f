//! A host, from its start to its end: what it is made from, and when it ends.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use baton_broker::BrokerConfig;
use baton_engine::{CompileSpeed, Compiler};
use baton_gateway::GatewayConfig;
use baton_model::{HostState, Limits, RetryPolicy};

use crate::build::Host;
use crate::policy::{CapsTable, SecurityTable, Variable};
use crate::signals::Signals;

/// What a host is made from.
#[derive(Debug, Clone)]
pub struct HostConfig {
    /// How it deals with Redis.
    pub broker: BrokerConfig,
    /// The folder of functions.
    pub plugins: PathBuf,
    /// Where it keeps what it need not make twice.
    pub data: PathBuf,
    /// How many attempts run at once, at the most.
    pub seats: u32,
    /// How many calls one read brings at the most, within what a host asks for at once.
    pub batch: u32,
    /// What an attempt may use, unless its manifest says less.
    pub limits: Limits,
    /// When failed calls are tried again, unless a manifest says otherwise.
    pub retry: RetryPolicy,
    /// What every tenant may be given at the most; a tenant's own file can only say less.
    pub tenants: CapsTable,
    /// What is demanded of components, and which networks functions may reach.
    pub security: SecurityTable,
    /// How an environment variable is read that an operator lets a function have as a secret.
    pub variable: Variable,
    /// How long attempts in flight may go on after the signal to end.
    pub drain_timeout: Duration,
    /// How often the folder is looked at when no event tells that it changed.
    pub rescan: Duration,
    /// Where components are compiled.
    pub compiler: Compiler,
    /// How much the compiler tries.
    pub compile: CompileSpeed,
    /// Where HTTP is served, and within which limits; none serves none. Its `body_bytes_max` gives way to what Redis
    /// takes as a payload.
    pub http: Option<GatewayConfig>,
    /// Whether it runs functions. Without them it is a front for a fleet: HTTP, and no more.
    pub functions: bool,
}

/// How a host ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// Asked to, and in order.
    InOrder,
    /// At once, by a second signal. What was in flight is taken over when its leases lapse.
    AtOnce,
    /// By a fault of its own, after a drain.
    ByFault,
}

/// Runs a host until a signal ends it. `ready` is called once, when everything in the folder was loaded or refused and
/// calls are taken, with the address of HTTP if it is served.
///
/// # Errors
/// If it cannot start: the engine, the folder, the URL or the address of HTTP is at fault. An unreachable Redis is none:
/// it waits for it.
pub async fn run(
    config: HostConfig,
    signals: &mut Signals,
    ready: impl FnOnce(Option<SocketAddr>),
) -> anyhow::Result<Ended> {
    let mut host = Host::start(config).await?;
    let mut ready = Some(ready);
    let is_fault = loop {
        tokio::select! {
            name = signals.next() => {
                tracing::info!(signal = name, "ending");
                break false;
            }
            ended = host.parts.next_end() => {
                match ended {
                    Err(error) if error.is_panic() => tracing::error!(%error, "a part of the host failed; ending"),
                    _ => tracing::error!("a part of the host ended by itself; ending"),
                }
                break true;
            }
            () = host.fault.cancelled() => break true,
            _ = host.first_pass.wait_for(|done| *done), if ready.is_some() => {
                host.state.send_replace(HostState::Online);
                ready.take().into_iter().for_each(|ready| ready(host.address));
            }
        }
    };
    host.state.send_replace(HostState::Draining);
    tokio::select! {
        () = host.drain.run(host.parts) => {}
        name = signals.next() => {
            tracing::warn!(signal = name, "second signal: ending at once; calls in flight are taken over by other hosts");
            return Ok(Ended::AtOnce);
        }
    }
    Ok(if is_fault { Ended::ByFault } else { Ended::InOrder })
}
