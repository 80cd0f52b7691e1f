//! The bodies of an exchange, counted, and the answer's with a limit on silence.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::time::{Instant, Sleep};
use wasmtime_wasi_http::{Error as Code, WasiBody};

use super::Rules;
use super::fault::Fault;

/// A request's body, as long as it fits.
pub(super) struct Request {
    inner: WasiBody,
    bytes_left: u64,
    rules: Arc<Rules>,
    /// Set when it did not fit: the error that comes back is about a broken body only.
    is_over: Arc<AtomicBool>,
}

impl Request {
    pub(super) fn new(inner: WasiBody, rules: Arc<Rules>, is_over: Arc<AtomicBool>) -> Self {
        Self { inner, bytes_left: rules.grant.request_bytes_max, rules, is_over }
    }
}

impl Body for Request {
    type Data = Bytes;
    type Error = Code;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Code>>> {
        let frame = ready!(Pin::new(&mut self.inner).poll_frame(cx));
        if let Some(Ok(frame)) = &frame
            && !take(&mut self.bytes_left, frame)
        {
            self.is_over.store(true, Ordering::Relaxed);
            let fault = Fault::RequestTooLarge { bytes_max: self.rules.grant.request_bytes_max };
            return Poll::Ready(Some(Err(fault.code(&self.rules.grant))));
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// An answer's body, as long as it fits and keeps coming.
pub(super) struct Answer {
    // None after its end.
    inner: Option<Incoming>,
    bytes_left: u64,
    silence_max: Duration,
    /// Runs while somebody waits for the next bytes, and not while the guest is busy with those it has.
    silence: Option<Pin<Box<Sleep>>>,
    rules: Arc<Rules>,
}

impl Answer {
    pub(super) fn new(inner: Incoming, silence_max: Duration, rules: Arc<Rules>) -> Self {
        let bytes_left = rules.grant.response_bytes_max;
        Self { inner: Some(inner), bytes_left, silence_max, silence: None, rules }
    }

    fn end(&mut self, fault: &Fault) -> Poll<Option<Result<Frame<Bytes>, Code>>> {
        // With the body goes the connection.
        self.inner = None;
        self.silence = None;
        Poll::Ready(Some(Err(self.rules.tell(fault))))
    }
}

impl Body for Answer {
    type Data = Bytes;
    type Error = Code;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Code>>> {
        let this = &mut *self;
        let Some(inner) = &mut this.inner else { return Poll::Ready(None) };
        match Pin::new(inner).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                this.silence = None;
                if take(&mut this.bytes_left, &frame) {
                    return Poll::Ready(Some(Ok(frame)));
                }
                let bytes_max = this.rules.grant.response_bytes_max;
                this.end(&Fault::AnswerTooLarge { bytes_max })
            }
            Poll::Ready(Some(Err(error))) => this.end(&Fault::from(error)),
            Poll::Ready(None) => {
                (this.inner, this.silence) = (None, None);
                Poll::Ready(None)
            }
            Poll::Pending => {
                let silence_max = this.silence_max;
                let silence = this
                    .silence
                    .get_or_insert_with(|| Box::pin(tokio::time::sleep_until(Instant::now() + silence_max)));
                ready!(silence.as_mut().poll(cx));
                this.end(&Fault::AnswerTime)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.inner.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.as_ref().map_or_else(SizeHint::default, Body::size_hint)
    }
}

/// Counts a frame; false if it does not fit. Trailers are held by the limit on heads.
fn take(bytes_left: &mut u64, frame: &Frame<Bytes>) -> bool {
    let bytes = frame.data_ref().map_or(0, |data| u64::try_from(data.len()).unwrap_or(u64::MAX));
    match bytes_left.checked_sub(bytes) {
        Some(left) => {
            *bytes_left = left;
            true
        }
        None => false,
    }
}
