//! Outgoing HTTP of functions: `wasi:http` with the rules of the host. What is allowed stands in the grant; what is
//! public in `address`. The crate's own way of sending, which connects to anything, is not even built.

mod address;
mod body;
mod connect;
mod destination;
mod exchange;
mod fault;
mod resolve;
mod times;

use std::sync::Arc;

use baton_model::{HttpGrant, Name};
use ipnet::IpNet;
use tokio::sync::Semaphore;
use wasmtime_wasi_http::{Error as Code, RequestOptions, WasiBody, WasiHttpCtx, WasiHttpHooks};

use crate::log::{CallLog, LogLevel};
use address::Networks;
use connect::Connector;
use fault::Fault;
use resolve::System;
use times::Times;

/// The largest head of an answer; the least that the HTTP library allows is a quarter of it.
const ANSWER_HEAD_BYTES_MAX: usize = 32 << 10;

/// The most header fields of an answer.
const ANSWER_FIELDS_MAX: usize = 128;

/// The most that one set of header fields takes in the host's memory.
const FIELDS_BYTES_MAX: usize = 16 << 10;

/// How much of a request's body waits in the host, twice.
const CHUNK_BYTES_MAX: usize = 16 << 10;

/// The most exchanges of one call at once; a further one waits for its turn.
const AT_ONCE_MAX: usize = 8;

/// The most things of the host that a guest with this interface holds at once. Fewer than others may, because header
/// fields and bodies are larger than clocks and streams.
pub(crate) const RESOURCES_MAX: usize = 1_024;

/// Sends the requests of all functions of a host. Clones are the same.
#[derive(Clone)]
pub(crate) struct Egress(Arc<Connector>);

impl Egress {
    /// Requests reach public addresses, and these networks.
    pub(crate) fn new(opened: Vec<IpNet>) -> Self {
        Self(Arc::new(Connector::new(Networks::new(opened), Box::new(System::new()))))
    }

    /// What one call needs to send requests.
    pub(crate) fn outbox(&self, tenant: Name, grant: HttpGrant, log: Arc<CallLog>) -> Outbox {
        let mut ctx = WasiHttpCtx::new();
        ctx.set_field_size_limit(FIELDS_BYTES_MAX);
        let rules = Arc::new(Rules { tenant, grant, log });
        let hooks = Hooks { egress: self.clone(), rules, at_once: Arc::new(Semaphore::new(AT_ONCE_MAX)), sent: 0 };
        Outbox { ctx, hooks }
    }
}

/// A grant of nothing.
pub(crate) fn nothing() -> HttpGrant {
    HttpGrant { allow: Vec::new(), request_bytes_max: 0, response_bytes_max: 0, requests_max: 0 }
}

/// The requests of one call.
pub(crate) struct Outbox {
    pub(crate) ctx: WasiHttpCtx,
    pub(crate) hooks: Hooks,
}

/// What holds for one call's requests, and where its author reads why one was refused.
struct Rules {
    tenant: Name,
    grant: HttpGrant,
    log: Arc<CallLog>,
}

impl Rules {
    /// The code for the guest; the words go to the function's log, if they explain what the code does not.
    fn tell(&self, fault: &Fault) -> Code {
        if fault.is_ours() {
            self.log.log(LogLevel::Warn, "http", &fault.to_string());
        }
        fault.code(&self.grant)
    }
}

/// Where the crate asks what to do.
pub(crate) struct Hooks {
    egress: Egress,
    rules: Arc<Rules>,
    at_once: Arc<Semaphore>,
    sent: u32,
}

/// What the crate wants to have sent a request with.
type Sending = Box<
    dyn Future<Output = Result<(hyper::Response<WasiBody>, Box<dyn Future<Output = Result<(), Code>> + Send>), Code>>
        + Send,
>;

impl WasiHttpHooks for Hooks {
    /// The header is written when it is known whom the request goes to.
    fn set_host_header(&mut self) -> bool {
        false
    }

    fn send_request(
        &mut self,
        request: hyper::Request<WasiBody>,
        options: Option<RequestOptions>,
        _processed: Box<dyn Future<Output = Result<(), Code>> + Send>,
    ) -> Sending {
        let requests_max = self.rules.grant.requests_max;
        let is_allowed = self.sent < requests_max;
        self.sent = self.sent.saturating_add(1);
        let (Egress(connector), rules, at_once) =
            (self.egress.clone(), Arc::clone(&self.rules), Arc::clone(&self.at_once));
        let times = Times::of(options);
        Box::new(async move {
            if !is_allowed {
                return Err(rules.tell(&Fault::TooMany { requests_max }));
            }
            match exchange::exchange(&connector, Arc::clone(&rules), at_once, request, times).await {
                Ok((answer, connection)) => {
                    let ended = async move {
                        connection.ended().await;
                        Ok(())
                    };
                    Ok((answer, Box::new(ended) as _))
                }
                Err(fault) => Err(rules.tell(&fault)),
            }
        })
    }

    fn p2_outgoing_body_chunk_size(&mut self) -> usize {
        CHUNK_BYTES_MAX
    }
}

#[cfg(test)]
mod tests;
