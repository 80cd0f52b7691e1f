//! Sends what its payload asks for, and tells what came of it: one line for each request, `STATUS BYTES` or the name of
//! the error. The payload is `MODE URL [NUMBER]`, or `each URL URL …`.
//!
//! Built for wasm32-wasip2 alone; for the machine itself it is an empty crate.
#![cfg(all(target_os = "wasi", target_env = "p2"))]

use baton_sdk::prelude::*;
use wasip2::http::outgoing_handler::handle;
use wasip2::http::types::{
    ErrorCode, Fields, FutureIncomingResponse, Method, OutgoingBody, OutgoingRequest, RequestOptions, Scheme,
};
use wasip2::io::streams::StreamError;

/// What came of one request: the status, how many bytes, where it points to.
type Answered = core::result::Result<(u16, u64, Option<String>), String>;

#[baton_sdk::function]
fn http_guest(order: Text) -> Result<Reply> {
    let mut words = order.split(' ');
    let (mode, url) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let number: u64 = words.next().and_then(|word| word.parse().ok()).unwrap_or(0);
    let told = match mode {
        "get" => told(&get(url, None)),
        "each" => order.split(' ').skip(1).map(|url| told(&get(url, None))).collect::<Vec<_>>().join("\n"),
        // Whatever the answer points to is asked for too.
        "follow" => {
            let first = get(url, None);
            let next = match &first {
                Ok((_, _, Some(location))) => told(&get(location, None)),
                Ok((_, _, None)) | Err(_) => "nowhere".into(),
            };
            format!("{}\n{next}", told(&first))
        }
        "many" => (0..number).map(|_| told(&get(url, None))).collect::<Vec<_>>().join("\n"),
        "post" => told(&post(url, number)),
        "silence" => told(&get(url, Some(number))),
        "host-header" => match Fields::new().set("Host", &[b"other.test".to_vec()]) {
            Ok(()) => "set".into(),
            Err(refused) => format!("{refused:?}"),
        },
        "absolute" => {
            let request = OutgoingRequest::new(Fields::new());
            format!("{:?}", request.set_path_with_query(Some("http://other.test/")))
        }
        // So many fields at once; the host ends the call before they are all there.
        "fields" => {
            let fields = Fields::new();
            for n in 0..number {
                fields
                    .append(&format!("x-{n}"), b"y")
                    .map_err(|refused| Failure::reject("fields", format!("{refused:?}")))?;
            }
            "all".into()
        }
        other => return Err(Failure::reject("no-such-mode", other)),
    };
    Ok(Reply::new("text/plain", told))
}

fn told(answered: &Answered) -> String {
    match answered {
        Ok((status, bytes, _)) => format!("{status} {bytes}"),
        Err(failed) => failed.clone(),
    }
}

fn get(url: &str, silence_ms: Option<u64>) -> Answered {
    let request = request(url, Method::Get)?;
    let options = silence_ms.map(|ms| {
        let options = RequestOptions::new();
        let time = Some(ms * 1_000_000);
        options.set_first_byte_timeout(time).expect("the host takes it");
        options.set_between_bytes_timeout(time).expect("the host takes it");
        options
    });
    answer(&handle(request, options).map_err(name)?)
}

fn post(url: &str, bytes: u64) -> Answered {
    let request = request(url, Method::Post)?;
    let body = request.body().map_err(|()| "no body".to_owned())?;
    let answer_to_come = handle(request, None).map_err(name)?;
    let stream = body.write().map_err(|()| "no stream".to_owned())?;
    let mut left = bytes;
    while left > 0 {
        let piece = left.min(4_096);
        if stream.blocking_write_and_flush(&vec![b'x'; usize::try_from(piece).unwrap_or(0)]).is_err() {
            break;
        }
        left -= piece;
    }
    drop(stream);
    drop(OutgoingBody::finish(body, None));
    answer(&answer_to_come)
}

fn request(url: &str, method: Method) -> core::result::Result<OutgoingRequest, String> {
    let (scheme, rest) = url.split_once("://").ok_or("no url")?;
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let request = OutgoingRequest::new(Fields::new());
    let scheme = if scheme == "https" { Scheme::Https } else { Scheme::Http };
    request.set_method(&method).map_err(|()| "method")?;
    request.set_scheme(Some(&scheme)).map_err(|()| "scheme")?;
    request.set_authority(Some(authority)).map_err(|()| "authority")?;
    request.set_path_with_query(Some(path)).map_err(|()| "path")?;
    Ok(request)
}

fn answer(to_come: &FutureIncomingResponse) -> Answered {
    to_come.subscribe().block();
    let answer = to_come.get().ok_or("not there")?.map_err(|()| "taken twice".to_owned())?.map_err(name)?;
    let location = answer.headers().get("location").first().map(|value| String::from_utf8_lossy(value).into_owned());
    let body = answer.consume().map_err(|()| "no body".to_owned())?;
    let stream = body.stream().map_err(|()| "no stream".to_owned())?;
    let mut bytes = 0;
    loop {
        match stream.blocking_read(64 << 10) {
            Ok(piece) => bytes += piece.len() as u64,
            Err(StreamError::Closed) => return Ok((answer.status(), bytes, location)),
            Err(StreamError::LastOperationFailed(failed)) => return Err(failed.to_debug_string()),
        }
    }
}

fn name(code: ErrorCode) -> String {
    format!("{code:?}")
}
