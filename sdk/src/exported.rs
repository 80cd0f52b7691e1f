//! Where the host's call comes in: the contract's types become the ones of this crate, and back.

use core::marker::PhantomData;

use crate::bindings::baton::function::types;
use crate::bindings::exports::baton::function::handler as contract;
use crate::{Bytes, Context, Failure, Function};

/// A function as the component's export.
pub struct Exported<F>(PhantomData<F>);

impl<F: Function> contract::Guest for Exported<F> {
    fn handle(context: contract::Context, payload: alloc::vec::Vec<u8>) -> Result<contract::Reply, contract::Failure> {
        #[cfg(feature = "log")]
        crate::logger::install();
        match F::handle(context.into(), Bytes::from(payload)) {
            Ok(reply) => Ok(contract::Reply { media_type: reply.media_type, body: reply.body.into() }),
            Err(failure) => Err(failure.into()),
        }
    }
}

impl From<contract::Context> for Context {
    fn from(context: contract::Context) -> Self {
        Self {
            call_id: context.call_id,
            tenant: context.tenant,
            function: context.function,
            attempt: context.attempt,
            deadline_ms: context.deadline_ms,
            media_type: context.media_type,
            traceparent: context.traceparent,
            tracestate: context.tracestate,
            headers: context.headers,
        }
    }
}

impl From<Failure> for contract::Failure {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Retry { message, after } => Self::Retry(types::RetryFailure {
                message,
                after_ms: after.map(|after| u64::try_from(after.as_millis()).unwrap_or(u64::MAX)),
            }),
            Failure::Reject { code, message } => Self::Reject(types::RejectFailure { code, message }),
        }
    }
}
