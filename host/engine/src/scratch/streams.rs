//! Streams into and out of scratch files: those of the WASI crate, counted.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use wasmtime_wasi::async_trait;
use wasmtime_wasi::p2::{
    DynInputStream, DynOutputStream, InputStream, OutputStream, Pollable, StreamError, StreamResult,
};

use super::quota::{Full, Quota, Ticket};

/// A stream out of a file.
pub(super) struct Reader {
    pub(super) inner: DynInputStream,
    pub(super) _open: Ticket,
}

#[async_trait]
impl InputStream for Reader {
    fn read(&mut self, size: usize) -> StreamResult<Bytes> {
        self.inner.read(size)
    }

    async fn blocking_read(&mut self, size: usize) -> StreamResult<Bytes> {
        self.inner.blocking_read(size).await
    }

    async fn cancel(&mut self) {
        self.inner.cancel().await;
    }
}

#[async_trait]
impl Pollable for Reader {
    async fn ready(&mut self) {
        self.inner.ready().await;
    }
}

/// Where a stream writes.
pub(super) enum Place {
    /// From this position on, in a file that is `high` bytes long as far as this stream knows. What others did to it
    /// meanwhile can only make it longer than that, or it was that long before: growth is counted too often, never
    /// too seldom.
    At { position: u64, high: u64 },
    /// At the end, wherever that is.
    End,
}

/// A stream into a file.
pub(super) struct Writer {
    pub(super) inner: DynOutputStream,
    pub(super) place: Place,
    pub(super) quota: Arc<Quota>,
    pub(super) _open: Ticket,
}

impl Writer {
    /// Counts what is about to be written.
    fn count(&mut self, bytes: usize) -> StreamResult<()> {
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        match &mut self.place {
            Place::End => self.quota.grow(bytes).map_err(full),
            Place::At { position, high } => {
                let end = position.saturating_add(bytes);
                self.quota.grow(end.saturating_sub(*high)).map_err(full)?;
                (*position, *high) = (end, end.max(*high));
                Ok(())
            }
        }
    }
}

/// As the disk says it, so that the interface finds the code for it.
fn full(Full: Full) -> StreamError {
    let error = io::Error::from_raw_os_error(rustix::io::Errno::NOSPC.raw_os_error());
    StreamError::LastOperationFailed(error.into())
}

#[async_trait]
impl OutputStream for Writer {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        self.count(bytes.len())?;
        self.inner.write(bytes)
    }

    fn flush(&mut self) -> StreamResult<()> {
        self.inner.flush()
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        self.inner.check_write()
    }

    async fn blocking_write_and_flush(&mut self, bytes: Bytes) -> StreamResult<()> {
        self.count(bytes.len())?;
        self.inner.blocking_write_and_flush(bytes).await
    }

    async fn cancel(&mut self) {
        self.inner.cancel().await;
    }
}

#[async_trait]
impl Pollable for Writer {
    async fn ready(&mut self) {
        self.inner.ready().await;
    }
}
