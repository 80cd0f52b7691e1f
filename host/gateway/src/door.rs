//! The door for new calls: whether one may come in, and its body, within the limits of size and time.

use axum::body::{Body, HttpBody as _};
use bytes::Bytes;
use http_body_util::{BodyExt as _, LengthLimitError, Limited};

use crate::GatewayConfig;
use crate::gate::Gate;
use crate::problem::Problem;

/// Refuses new calls while the host drains.
pub(crate) fn open(gate: &Gate) -> Result<(), Problem> {
    if gate.status().draining {
        let detail = "this host is ending and takes no new calls; send the call again, another host will take it";
        return Err(Problem::new(503, "draining").detail(detail).retry_after(gate.config.retry_after));
    }
    Ok(())
}

/// Reads the whole body, if it is not larger than the function takes as a payload, where that is known.
pub(crate) async fn body(
    body: Body,
    config: &GatewayConfig,
    payload_bytes_max: Option<usize>,
) -> Result<Bytes, Problem> {
    let bytes_max = payload_bytes_max.unwrap_or(usize::MAX).min(config.body_bytes_max);
    let too_large = || {
        let detail =
            format!("the body is larger than {bytes_max} bytes, the limit; send a reference to where the data lies");
        Problem::new(413, "body-too-large").detail(detail)
    };
    // What is announced as too large is refused before it is sent.
    if body.size_hint().lower() > u64::try_from(bytes_max).unwrap_or(u64::MAX) {
        return Err(too_large());
    }
    match tokio::time::timeout(config.body_time_max, Limited::new(body, bytes_max).collect()).await {
        Ok(Ok(read)) => Ok(read.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(too_large()),
        Ok(Err(_)) => {
            Err(Problem::bad("bad-body", "the body ended before its end, or is not framed as HTTP/1.1 has it"))
        }
        Err(_) => {
            let limit = config.body_time_max.as_secs();
            Err(Problem::new(408, "body-too-slow")
                .detail(format!("the body did not arrive within {limit} s; send it faster")))
        }
    }
}
