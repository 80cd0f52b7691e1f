//! One exchange: a request, a connection of its own, the head of the answer. Redirects are answers like any other.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use http_body_util::BodyExt as _;
use hyper::body::Body as _;
use hyper::client::conn::http1;
use hyper::header::{self, HeaderValue};
use hyper::{Response, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout, timeout_at};
use wasmtime_wasi::runtime::{AbortOnDropJoinHandle, spawn};
use wasmtime_wasi_http::WasiBody;

use super::body::{Answer, Request};
use super::connect::Connector;
use super::destination::Destination;
use super::fault::Fault;
use super::times::Times;
use super::{ANSWER_FIELDS_MAX, ANSWER_HEAD_BYTES_MAX, Rules};

/// A connection under way; it ends when this is dropped.
pub(super) struct Connection {
    driver: AbortOnDropJoinHandle<()>,
    _permit: OwnedSemaphorePermit,
}

impl Connection {
    /// Waits for the connection's end, and then makes room for the call's next.
    pub(super) async fn ended(self) {
        self.driver.await;
    }
}

/// Sends a request and waits for the head of its answer.
///
/// # Errors
/// [`Fault`] says which rule the request or the answer broke, or what failed on the way.
pub(super) async fn exchange(
    connector: &Connector,
    rules: Arc<Rules>,
    at_once: Arc<Semaphore>,
    request: hyper::Request<WasiBody>,
    times: Times,
) -> Result<(Response<WasiBody>, Connection), Fault> {
    let (mut head, body) = request.into_parts();
    let to = Destination::of(&head, &rules.grant.allow)?;
    let bytes_max = rules.grant.request_bytes_max;
    let declared =
        head.headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    if declared.is_some_and(|bytes| bytes > bytes_max) {
        return Err(Fault::RequestTooLarge { bytes_max });
    }

    // A timer of no length lets through what is ready at once.
    if times.connect.is_zero() {
        return Err(Fault::ConnectTime(to.to_string()));
    }
    let until = Instant::now() + times.connect;
    let permit = match timeout_at(until, at_once.acquire_owned()).await {
        Ok(Ok(permit)) => permit,
        Ok(Err(_)) | Err(_) => return Err(Fault::TooManyAtOnce),
    };
    let stream = connector.connect(&rules.tenant, &to, until).await?;
    let (mut sender, connection) = http1::Builder::new()
        .max_buf_size(ANSWER_HEAD_BYTES_MAX)
        .max_header_size(ANSWER_HEAD_BYTES_MAX)
        .max_headers(ANSWER_FIELDS_MAX)
        .handshake(TokioIo::new(stream))
        .await?;
    // What becomes of the connection comes back through the answer as well.
    let driver = spawn(async move { drop(connection.await) });
    let connection = Connection { driver, _permit: permit };

    // Origin form, and a host that is the one connected to.
    let path = head.uri.path_and_query().map_or("/", |path| path.as_str());
    let path = if path.starts_with('?') { format!("/{path}") } else { path.to_owned() };
    head.uri = Uri::try_from(if path.is_empty() { "/".to_owned() } else { path }).map_err(|_| Fault::NotForThisHost)?;
    let host = HeaderValue::try_from(to.host_header()).map_err(|_| Fault::NotForThisHost)?;
    head.headers.insert(header::HOST, host);

    let is_over = Arc::new(AtomicBool::new(false));
    let body = Request::new(body, Arc::clone(&rules), Arc::clone(&is_over));
    let answer = timeout(times.first_byte, sender.send_request(hyper::Request::from_parts(head, body)))
        .await
        .map_err(|_| Fault::AnswerTime)?
        .map_err(|error| match is_over.load(Ordering::Relaxed) {
            true => Fault::RequestTooLarge { bytes_max },
            false => Fault::from(error),
        })?;
    if answer.status() == StatusCode::SWITCHING_PROTOCOLS {
        return Err(Fault::Upgrade);
    }
    let bytes_max = rules.grant.response_bytes_max;
    if answer.body().size_hint().lower() > bytes_max {
        return Err(Fault::AnswerTooLarge { bytes_max });
    }
    Ok((answer.map(|body| Answer::new(body, times.between_bytes, rules).boxed_unsync()), connection))
}
