//! The rules of outgoing requests against servers on the loopback, which a test opens as an operator would.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use baton_model::{HttpGrant, HttpTarget, Name};
use bytes::Bytes;
use futures_util::FutureExt as _;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::Frame;
use hyper::{Request, Response};
use rustls::RootCertStore;
use rustls::pki_types::PrivateKeyDer;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, mpsc};
use wasmtime_wasi_http::{Error as Code, RequestOptions, WasiBody, WasiHttpHooks as _};

use super::address::Networks;
use super::connect::Connector;
use super::resolve::{Looked, Resolver};
use super::{AT_ONCE_MAX, Egress, Outbox};
use crate::log::{CallLog, LogSink, LogStream};

/// A resolver whose answers are a list: one for each look-up, the last for all further ones.
struct Answers {
    lists: Vec<Vec<IpAddr>>,
    asked: Arc<AtomicUsize>,
}

impl Resolver for Answers {
    fn resolve(&self, _: &Name, name: String) -> Looked {
        let nth = self.asked.fetch_add(1, Ordering::SeqCst).min(self.lists.len().saturating_sub(1));
        let found = match self.lists.get(nth) {
            Some(list) => Ok(list.clone()),
            None => Err(io::Error::other(format!("no such name: {name}"))),
        };
        Box::pin(std::future::ready(found))
    }
}

/// The function's log, kept.
#[derive(Default)]
struct Lines(Mutex<Vec<String>>);

impl LogSink for Lines {
    fn line(&self, _: LogStream<'_>, text: &str) {
        self.0.lock().unwrap().push(text.to_owned());
    }
    fn truncated(&self, _: u64) {}
}

/// One call with its grant, on a host with these networks open.
struct Call {
    outbox: Outbox,
    lines: Arc<Lines>,
    asked: Arc<AtomicUsize>,
}

impl Call {
    fn new(allow: &[String]) -> Self {
        Self::on(&["127.0.0.0/8"], &[&["127.0.0.1"]], grant(allow), None)
    }

    fn on(open: &[&str], answers: &[&[&str]], grant: HttpGrant, roots: Option<RootCertStore>) -> Self {
        let lists = answers.iter().map(|list| list.iter().map(|ip| ip.parse().unwrap()).collect()).collect();
        let asked = Arc::new(AtomicUsize::new(0));
        let resolver = Box::new(Answers { lists, asked: Arc::clone(&asked) });
        let networks = Networks::new(open.iter().map(|net| net.parse().unwrap()).collect());
        let connector = match roots {
            None => Connector::new(networks, resolver),
            Some(roots) => Connector::trusting(networks, resolver, roots),
        };
        let lines = Arc::new(Lines::default());
        let log = Arc::new(CallLog::new(Arc::clone(&lines) as Arc<dyn LogSink>, 64 << 10));
        Self { outbox: Egress(Arc::new(connector)).outbox(Name::parse("acme").unwrap(), grant, log), lines, asked }
    }

    async fn send(&mut self, request: Request<WasiBody>) -> Result<Response<WasiBody>, Code> {
        self.send_with(request, None).await
    }

    async fn send_with(
        &mut self,
        request: Request<WasiBody>,
        options: Option<RequestOptions>,
    ) -> Result<Response<WasiBody>, Code> {
        let sending = self.outbox.hooks.send_request(request, options, Box::new(async { Ok(()) }));
        let (answer, connection) = Box::into_pin(sending).await?;
        // As the crate does: the connection lives as long as the answer's body.
        let connection = wasmtime_wasi::runtime::spawn(async move { Box::into_pin(connection).await.unwrap() });
        Ok(answer.map(|mut body| {
            StreamBody::new(futures_util::stream::poll_fn(move |cx| {
                let _alive = &connection;
                hyper::body::Body::poll_frame(std::pin::Pin::new(&mut body), cx)
            }))
            .boxed_unsync()
        }))
    }

    fn lines(&self) -> String {
        self.lines.0.lock().unwrap().join("\n")
    }
}

fn grant(allow: &[String]) -> HttpGrant {
    HttpGrant {
        allow: allow.iter().map(|target| HttpTarget::parse(target).unwrap()).collect(),
        request_bytes_max: 100_000,
        response_bytes_max: 100_000,
        requests_max: 50,
    }
}

fn get(uri: &str) -> Request<WasiBody> {
    Request::get(uri).body(full("")).unwrap()
}

fn full(text: &'static str) -> WasiBody {
    Full::from(text).map_err(|never| match never {}).boxed_unsync()
}

fn brief(time: Duration) -> Option<RequestOptions> {
    Some(RequestOptions { connect_timeout: None, first_byte_timeout: Some(time), between_bytes_timeout: Some(time) })
}

/// A server that sends `answer` on each connection once a request's head is there, and then waits until the client
/// goes. It tells each head, and each end.
struct Server {
    port: u16,
    heads: mpsc::UnboundedReceiver<String>,
}

impl Server {
    async fn answering(answer: impl Into<Vec<u8>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Self::on(listener, answer.into(), false, |stream| std::future::ready(Some(stream)))
    }

    /// One whose answer never ends.
    async fn endless(answer: impl Into<Vec<u8>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Self::on(listener, answer.into(), true, |stream| std::future::ready(Some(stream)))
    }

    fn on<S, F>(
        listener: TcpListener,
        answer: Vec<u8>,
        is_endless: bool,
        wrap: impl Fn(tokio::net::TcpStream) -> F + Send + Sync + 'static,
    ) -> Self
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
        F: Future<Output = Option<S>> + Send + 'static,
    {
        let port = listener.local_addr().unwrap().port();
        let (tell, heads) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (wrapped, tell, answer) = (wrap(stream), tell.clone(), answer.clone());
                tokio::spawn(async move {
                    let Some(mut stream) = wrapped.await else { return };
                    let mut head = Vec::new();
                    let mut chunk = [0; 4_096];
                    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
                        match stream.read(&mut chunk).await {
                            Ok(n) if n > 0 => head.extend_from_slice(&chunk[..n]),
                            Ok(_) | Err(_) => break,
                        }
                    }
                    drop(tell.send(String::from_utf8_lossy(&head).into_owned()));
                    let mut sent = stream.write_all(&answer).await;
                    while is_endless && sent.is_ok() {
                        sent = stream.write_all(b"1000\r\n").await;
                        sent = sent.and(stream.write_all(&[b'x'; 0x1000]).await).and(stream.write_all(b"\r\n").await);
                    }
                    while matches!(stream.read(&mut chunk).await, Ok(n) if n > 0) {}
                    drop(tell.send("gone".into()));
                });
            }
        });
        Self { port, heads }
    }

    fn url(&self, host: &str) -> String {
        format!("http://{host}:{}", self.port)
    }

    async fn told(&mut self) -> String {
        self.heads.recv().await.unwrap()
    }
}

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi";

async fn text(answer: Response<WasiBody>) -> Result<String, Code> {
    Ok(String::from_utf8(answer.into_body().collect().await?.to_bytes().to_vec()).unwrap())
}

#[tokio::test]
async fn a_request_goes_to_the_host_it_names_in_origin_form_and_the_answer_comes_back() {
    let mut server = Server::answering(OK).await;
    let url = server.url("api.test");
    let mut call = Call::new(std::slice::from_ref(&url));
    let answer = call.send(get(&format!("{url}/a?b"))).await.unwrap();
    assert_eq!(text(answer).await.unwrap(), "hi");
    let head = server.told().await.to_ascii_lowercase();
    assert!(head.starts_with("get /a?b http/1.1\r\n"), "{head}");
    assert!(head.contains(&format!("\r\nhost: api.test:{}\r\n", server.port)), "{head}");
    assert_eq!(call.asked.load(Ordering::SeqCst), 1, "one look-up for one request");
    assert_eq!(call.lines(), "");
}

#[tokio::test]
async fn tls_is_spoken_where_the_certificate_is_for_the_host_and_nowhere_else() {
    let certificate = rcgen::generate_simple_self_signed(["api.test".into()]).unwrap();
    let key = PrivateKeyDer::try_from(certificate.signing_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.cert.der().clone()], key)
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let server = Server::on(listener, OK.into(), false, move |stream| {
        let acceptor = acceptor.clone();
        async move { acceptor.accept(stream).await.ok() }
    });
    let mut roots = RootCertStore::empty();
    roots.add(certificate.cert.der().clone()).unwrap();
    let url = |host: &str| format!("https://{host}:{}", server.port);
    let grant = grant(&[url("api.test"), url("other.test"), url("127.0.0.1")]);
    let mut call = Call::on(&["127.0.0.1/32"], &[&["127.0.0.1"]], grant.clone(), Some(roots));
    assert_eq!(text(call.send(get(&url("api.test"))).await.unwrap()).await.unwrap(), "hi");
    for other in ["other.test", "127.0.0.1"] {
        let refused = call.send(get(&url(other))).await.unwrap_err();
        assert!(matches!(refused, Code::TlsCertificateError), "{other}: {refused}");
    }
    // The same server, on a host that does not trust it.
    let mut stranger = Call::on(&["127.0.0.1/32"], &[&["127.0.0.1"]], grant, Some(RootCertStore::empty()));
    let refused = stranger.send(get(&url("api.test"))).await.unwrap_err();
    assert!(matches!(refused, Code::TlsCertificateError), "{refused}");
}

#[tokio::test]
async fn what_is_not_allowed_is_refused_before_anything_is_looked_up_and_the_log_says_what_to_add() {
    let mut call = Call::new(&["http://api.test".into()]);
    let refused = call.send(get("http://other.test/")).await.unwrap_err();
    assert!(matches!(refused, Code::HttpRequestDenied), "{refused}");
    assert_eq!(call.asked.load(Ordering::SeqCst), 0);
    let lines = call.lines();
    assert!(lines.contains("http://other.test is not in `[grants.http] allow`"), "{lines}");
}

#[tokio::test]
async fn a_name_with_one_closed_address_is_closed_whatever_its_others_are() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://api.test:{}", listener.local_addr().unwrap().port());
    for closed in ["10.0.0.1", "169.254.169.254", "::ffff:127.0.0.1", "64:ff9b::7f00:1", "::1", "0.0.0.0"] {
        for answers in [&["127.0.0.1", closed][..], &[closed, "127.0.0.1"], &[closed]] {
            let mut call = Call::on(&["127.0.0.1/32"], &[answers], grant(std::slice::from_ref(&url)), None);
            let refused = call.send(get(&url)).await.unwrap_err();
            assert!(matches!(refused, Code::DestinationIpProhibited), "{closed}: {refused}");
            assert!(call.lines().contains(&format!("api.test is at {closed}")), "{}", call.lines());
        }
    }
    assert!(listener.accept().now_or_never().is_none(), "nobody connected");
}

#[tokio::test]
async fn addresses_in_the_place_of_a_name_are_held_to_the_same_rule() {
    let urls = ["http://127.0.0.1:9", "http://169.254.169.254", "http://[::1]:9", "http://[::ffff:10.0.0.1]"];
    let mut call = Call::on(&[], &[], grant(&urls.map(String::from)), None);
    for url in urls {
        let refused = call.send(get(url)).await.unwrap_err();
        assert!(matches!(refused, Code::DestinationIpProhibited), "{url}: {refused}");
    }
    let refused = call.send(get("http://2130706433/")).await.unwrap_err();
    assert!(matches!(refused, Code::HttpRequestUriInvalid), "{refused}");
    assert_eq!(call.asked.load(Ordering::SeqCst), 0, "nothing of it was looked up");
}

#[tokio::test]
async fn a_name_that_changes_its_address_is_looked_up_once_a_request_and_checked_each_time() {
    let server = Server::answering(OK).await;
    let url = server.url("rebinding.test");
    let grant = grant(std::slice::from_ref(&url));
    let mut call = Call::on(&["127.0.0.1/32"], &[&["127.0.0.1"], &["127.0.0.2"]], grant, None);
    assert_eq!(text(call.send(get(&url)).await.unwrap()).await.unwrap(), "hi");
    assert_eq!(call.asked.load(Ordering::SeqCst), 1, "what was checked is what is connected to");
    let refused = call.send(get(&url)).await.unwrap_err();
    assert!(matches!(refused, Code::DestinationIpProhibited), "{refused}");
}

#[tokio::test]
async fn a_redirect_is_an_answer_and_where_it_points_to_is_held_to_the_rules() {
    let server =
        Server::answering("HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n").await;
    let url = server.url("api.test");
    let mut call = Call::new(std::slice::from_ref(&url));
    let answer = call.send(get(&url)).await.unwrap();
    assert_eq!(answer.status(), 302);
    let location = answer.headers()["location"].to_str().unwrap().to_owned();
    assert!(matches!(call.send(get(&location)).await.unwrap_err(), Code::HttpRequestDenied));
}

#[tokio::test]
async fn an_answer_that_does_not_begin_or_go_on_is_given_up() {
    let time = Duration::from_millis(50);
    for (part, began) in
        [("", false), ("HTTP/1.1 200 OK\r\nx: ", false), ("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhi", true)]
    {
        let mut server = Server::answering(part).await;
        let url = server.url("slow.test");
        let mut call = Call::new(std::slice::from_ref(&url));
        let failed = match call.send_with(get(&url), brief(time)).await {
            Ok(answer) => {
                assert!(began, "{part:?}");
                text(answer).await.unwrap_err()
            }
            Err(failed) => failed,
        };
        assert!(matches!(failed, Code::ConnectionReadTimeout), "{part:?}: {failed}");
        server.told().await;
        assert_eq!(server.told().await, "gone", "the connection ended with it");
    }
}

#[tokio::test]
async fn no_time_at_all_is_over_at_once() {
    let server = Server::answering("").await;
    let url = server.url("api.test");
    let mut call = Call::new(std::slice::from_ref(&url));
    let failed = call.send_with(get(&url), brief(Duration::ZERO)).await.unwrap_err();
    assert!(matches!(failed, Code::ConnectionReadTimeout), "{failed}");
    let none = RequestOptions { connect_timeout: Some(Duration::ZERO), ..RequestOptions::default() };
    let failed = call.send_with(get(&url), Some(none)).await.unwrap_err();
    assert!(matches!(failed, Code::ConnectionTimeout), "{failed}");
}

#[tokio::test]
async fn an_answer_without_end_is_cut_at_the_limit_and_its_connection_closed() {
    let mut server = Server::endless("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").await;
    let url = server.url("api.test");
    let mut call = Call::new(std::slice::from_ref(&url));
    let mut body = call.send(get(&url)).await.unwrap().into_body();
    let mut bytes = 0;
    let failed = loop {
        match body.frame().await.expect("it ends with an error") {
            Ok(frame) => bytes += frame.into_data().unwrap().len(),
            Err(failed) => break failed,
        }
    };
    assert!(matches!(failed, Code::HttpResponseBodySize(Some(100_000))), "{failed}");
    assert!((1..=100_000).contains(&bytes), "{bytes}");
    assert!(body.frame().await.is_none());
    drop(body);
    server.told().await;
    assert!(call.lines().contains("`response_bytes` of `[grants.http]`"), "{}", call.lines());
}

#[tokio::test]
async fn an_answer_that_says_it_is_too_large_is_not_read() {
    let server = Server::answering("HTTP/1.1 200 OK\r\ncontent-length: 100001\r\n\r\n").await;
    let url = server.url("api.test");
    let mut call = Call::new(std::slice::from_ref(&url));
    let failed = call.send(get(&url)).await.unwrap_err();
    assert!(matches!(failed, Code::HttpResponseBodySize(Some(100_000))), "{failed}");
    // The answer to HEAD only tells what the body would be.
    let head = Request::head(&url).body(full("")).unwrap();
    assert_eq!(call.send(head).await.unwrap().headers()["content-length"], "100001");
}

#[tokio::test]
async fn a_request_that_is_too_large_is_not_sent_whole() {
    let server = Server::answering("").await;
    let url = server.url("api.test");
    let mut call = Call::new(std::slice::from_ref(&url));
    let declared = Request::post(&url).header("content-length", "100001").body(full("x")).unwrap();
    let failed = call.send(declared).await.unwrap_err();
    assert!(matches!(failed, Code::HttpRequestBodySize(Some(100_000))), "{failed}");
    let pieces = futures_util::stream::repeat_with(|| Ok(Frame::data(Bytes::from_static(&[b'x'; 1_000]))));
    let endless = Request::post(&url).body(StreamBody::new(pieces).boxed_unsync()).unwrap();
    let failed = call.send(endless).await.unwrap_err();
    assert!(matches!(failed, Code::HttpRequestBodySize(Some(100_000))), "{failed}");
}

#[tokio::test]
async fn a_head_without_measure_is_refused() {
    let fields = |n: usize| (0..n).map(|i| format!("x-{i}: y\r\n")).collect::<String>();
    let large = format!("x: {}\r\n", "y".repeat(40_000));
    for head in [fields(40_000), fields(200), large] {
        let server = Server::answering(format!("HTTP/1.1 200 OK\r\n{head}\r\n")).await;
        let url = server.url("api.test");
        let failed = Call::new(std::slice::from_ref(&url)).send(get(&url)).await.map(drop).unwrap_err();
        let bytes = head.len();
        assert!(matches!(failed, Code::HttpResponseHeaderSectionSize(Some(_))), "{bytes} bytes: {failed}");
    }
}

#[tokio::test]
async fn what_does_not_speak_http_or_wants_to_stop_speaking_it_is_refused() {
    for (answer, code) in [
        ("220 mail.test ESMTP\r\n\r\n", "protocol"),
        ("HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n", "upgrade"),
    ] {
        let server = Server::answering(answer).await;
        let url = server.url("api.test");
        let failed = Call::new(std::slice::from_ref(&url)).send(get(&url)).await.unwrap_err();
        assert!(failed.to_string().contains(code), "{answer}: {failed}");
    }
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let url = format!("http://{free}");
    let failed = Call::new(std::slice::from_ref(&url)).send(get(&url)).await.unwrap_err();
    assert!(matches!(failed, Code::ConnectionRefused), "{failed}");
}

#[tokio::test]
async fn a_call_sends_as_many_requests_as_it_was_granted() {
    let server = Server::answering(OK).await;
    let url = server.url("api.test");
    let grant = HttpGrant { requests_max: 2, ..grant(std::slice::from_ref(&url)) };
    let mut call = Call::on(&["127.0.0.0/8"], &[&["127.0.0.1"]], grant, None);
    for _ in 0..2 {
        call.send(get(&url)).await.unwrap();
    }
    let refused = call.send(get(&url)).await.unwrap_err();
    assert!(matches!(refused, Code::ConnectionLimitReached), "{refused}");
    assert!(call.lines().contains("has sent 2 requests"), "{}", call.lines());
}

#[tokio::test]
async fn more_requests_at_once_than_a_call_may_have_wait_for_their_turn() {
    // Answers that are not over yet hold their places.
    let server = Server::answering("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n").await;
    let url = server.url("api.test");
    let mut call = Call::new(std::slice::from_ref(&url));
    let mut open = Vec::new();
    for _ in 0..AT_ONCE_MAX {
        open.push(call.send(get(&url)).await.unwrap());
    }
    let some = RequestOptions { connect_timeout: Some(Duration::from_millis(20)), ..RequestOptions::default() };
    let failed = call.send_with(get(&url), Some(some)).await.unwrap_err();
    assert!(matches!(failed, Code::ConnectionLimitReached), "{failed}");
    drop(open.pop());
    call.send(get(&url)).await.expect("there is a place again");
}

#[tokio::test]
async fn an_answer_that_is_let_go_ends_its_connection() {
    let mut server = Server::answering("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n").await;
    let url = server.url("api.test");
    let mut call = Call::new(std::slice::from_ref(&url));
    drop(call.send(get(&url)).await.unwrap());
    server.told().await;
    assert_eq!(server.told().await, "gone");
}

#[tokio::test]
async fn the_system_resolver_knows_this_machine() {
    let found = super::resolve::System::new().resolve(&Name::parse("acme").unwrap(), "localhost".into()).await.unwrap();
    assert!(found.iter().all(IpAddr::is_loopback) && !found.is_empty(), "{found:?}");
}

/// The call's places are its own.
#[test]
fn a_call_has_its_own_places() {
    let (a, b) = (Call::new(&[]), Call::new(&[]));
    let places = |call: &Call| Arc::clone(&call.outbox.hooks.at_once);
    let taken: Arc<Semaphore> = places(&a);
    let _permit = taken.try_acquire_many(AT_ONCE_MAX.try_into().unwrap()).unwrap();
    assert!(places(&b).try_acquire().is_ok());
}
