//! Functions that reach outside as they were granted: requests over HTTP, and files. The guests are crates of tests/guests.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use baton_engine::{Engine, EngineConfig, Invocation, LogSink, Services};
use baton_model::{Grants, HttpGrant, HttpTarget, Limits, Outcome, ScratchGrant};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use crate::support::{Sink, call, config, limits};

/// A guest of tests/guests, as `make guests` built it.
fn guest(name: &str) -> Vec<u8> {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap();
    let path = target.join("wasm32-wasip2/guest").join(format!("{name}.wasm"));
    std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}; `make guests` builds it", path.display()))
}

/// A function with its grants, on a host of its own.
struct Function {
    engine: Engine,
    component: baton_engine::Component,
    grants: Grants,
    limits: Limits,
}

impl Function {
    fn new(guest: &[u8], grants: Grants, config: EngineConfig) -> Self {
        let engine = Engine::new(config).unwrap();
        let component = engine.load(guest, &grants).unwrap_or_else(|e| panic!("{e}"));
        Self { engine, component, grants, limits: limits() }
    }

    async fn outcome(&self, order: &str) -> (Outcome, Vec<String>) {
        let sink = Arc::new(Sink::default());
        let invocation = Invocation {
            call: Arc::new(call(order.to_owned())),
            limits: self.limits,
            log: Arc::clone(&sink) as Arc<dyn LogSink>,
            waits: false,
            weight: 1,
            durable: None,
            services: Some(Arc::new(Services {
                function: "acme/outside".parse().unwrap(),
                grants: Arc::new(self.grants.clone()),
                keyvalue: None,
                calls: None,
            })),
        };
        let outcome = self.component.execute(invocation).await;
        let lines = sink.lines.lock().unwrap().clone();
        (outcome, lines)
    }

    async fn answer(&self, order: &str) -> String {
        match self.outcome(order).await {
            (Outcome::Replied(reply), _) => String::from_utf8(reply.body.to_vec()).unwrap(),
            (other, lines) => panic!("{order}: {other:?}, {lines:?}"),
        }
    }
}

/// A function that may send to these, on a host where the loopback is open.
fn sender(allow: &[&str]) -> Function {
    let http = HttpGrant {
        allow: allow.iter().map(|target| HttpTarget::parse(target).unwrap()).collect(),
        request_bytes_max: 100_000,
        response_bytes_max: 100_000,
        requests_max: 3,
    };
    let config = EngineConfig { egress_networks: vec!["127.0.0.1/32".parse().unwrap()], ..config() };
    Function::new(&guest("http_guest"), Grants { http: Some(http), ..Grants::default() }, config)
}

/// A server that answers each connection with these bytes once it has heard of the request, and goes on with the last
/// of them for ever if it is told to. Returns its URL.
async fn server(answer: String, is_endless: bool) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let answer = answer.clone();
            tokio::spawn(async move {
                let mut heard = [0; 4_096];
                let mut sent = stream.read(&mut heard).await.map(drop);
                sent = sent.and(stream.write_all(answer.as_bytes()).await);
                while is_endless && sent.is_ok() {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                    sent = stream.write_all(&answer.as_bytes()[answer.len() - 1..]).await;
                }
                while matches!(stream.read(&mut heard).await, Ok(n) if n > 0) {}
            });
        }
    });
    url
}

fn ok(body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len())
}

#[test]
fn a_component_of_any_hosts_bindings_is_refused_without_the_grant_and_told_what_to_add() {
    let refused = Engine::new(config()).unwrap().load(&guest("http_guest"), &Grants::default()).map(drop);
    let refused = refused.unwrap_err().to_string();
    for part in ["wasi:http/outgoing-handler@0.2.", "wasi:http/types@0.2.", "[grants.http]", "allow = [\"https://"] {
        assert!(refused.contains(part), "{part}: {refused}");
    }
}

#[tokio::test]
async fn a_component_of_any_hosts_bindings_sends_requests_when_it_was_granted_them() {
    let url = server(ok("hello"), false).await;
    let function = sender(&[&url]);
    assert_eq!(function.answer(&format!("get {url}/a")).await, "200 5");
    assert_eq!(function.answer(&format!("post {url}/a 50000")).await, "200 5");
}

#[tokio::test]
async fn what_breaks_a_rule_is_a_code_for_the_guest_and_a_line_for_its_author() {
    let url = server(ok("hello"), false).await;
    let port = url.rsplit(':').next().unwrap();
    let listening = server(String::new(), false).await;
    let private = ["http://169.254.169.254", "http://10.0.0.1", "http://[::1]:80", "http://[::ffff:127.0.0.1]:80"];
    let function = sender(&[&[&*url, &*listening], &private[..]].concat());
    for target in private {
        let (outcome, lines) = function.outcome(&format!("get {target}/latest")).await;
        let Outcome::Replied(reply) = outcome else { panic!("{target}: {outcome:?}") };
        assert_eq!(reply.body, "ErrorCode::DestinationIpProhibited".as_bytes(), "{target}");
        assert!(lines.iter().any(|line| line.contains("egress_networks")), "{target}: {lines:?}");
    }
    for (order, code) in [
        (format!("get http://localhost:{port}/"), "HttpRequestDenied"),
        (format!("get http://user@127.0.0.1:{port}/"), "HttpRequestUriInvalid"),
        ("get http://2130706433/".into(), "HttpRequestUriInvalid"),
        (format!("post {listening}/ 200000"), "HttpRequestBodySize"),
        ("host-header -".into(), "Forbidden"),
        ("absolute -".into(), "Err(())"),
    ] {
        let answer = function.answer(&order).await;
        assert!(answer.contains(code), "{order}: {answer}");
    }
    let many = function.answer(&format!("many {url}/ 5")).await;
    let lines: Vec<&str> = many.lines().collect();
    assert_eq!(lines[..3], ["200 5"; 3]);
    assert!(lines[3..].iter().all(|line| line.contains("ConnectionLimitReached")), "{many}");
    assert_eq!(function.answer(&format!("get {url}/")).await, "200 5", "the next call has its own requests");
}

#[tokio::test]
async fn a_redirect_into_a_private_range_leads_nowhere() {
    let into = "HTTP/1.1 302 Found\r\nlocation: http://169.254.169.254/latest\r\ncontent-length: 0\r\n\r\n";
    let url = server(into.into(), false).await;
    let answer = sender(&[&url, "http://169.254.169.254"]).answer(&format!("follow {url}/")).await;
    assert_eq!(answer, "302 0\nErrorCode::DestinationIpProhibited");
}

#[tokio::test]
async fn an_answer_that_drips_for_ever_ends_with_the_attempt() {
    let url = server("HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\nx".into(), true).await;
    let mut function = sender(&[&url]);
    let answer = function.answer(&format!("get {url}/")).await;
    assert!(answer.contains("HttpResponseBodySize"), "{answer}: a declared length that is too large is not read");
    let url = server("HTTP/1.1 200 OK\r\nx: y".into(), true).await;
    function = sender(&[&url]);
    function.limits.time_max = Duration::from_millis(300);
    let (outcome, _) = function.outcome(&format!("get {url}/")).await;
    assert_eq!(outcome, Outcome::TimedOut { limit: Duration::from_millis(300) });
    let silent = server(String::from("HTTP/1.1 200 OK\r\n"), false).await;
    let answer = sender(&[&silent]).answer(&format!("silence {silent}/ 0")).await;
    assert_eq!(answer, "ErrorCode::ConnectionReadTimeout");
}

#[tokio::test]
async fn header_fields_without_measure_end_the_call_and_not_the_host() {
    let function = sender(&[]);
    let (outcome, _) = function.outcome("fields - 40000").await;
    assert!(matches!(outcome, Outcome::Trapped { .. }), "{outcome:?}");
    assert_eq!(function.answer("fields - 100").await, "all");
}

/// A function with files, below `dir`.
fn writer(dir: &Path, bytes_max: u64, files_max: u32) -> Function {
    let grants = Grants { scratch: Some(ScratchGrant { bytes_max, files_max }), ..Grants::default() };
    Function::new(&guest("scratch_guest"), grants, EngineConfig { scratch_dir: Some(dir.to_owned()), ..config() })
}

#[tokio::test]
async fn a_scratch_directory_works_as_any_and_is_empty_for_each_call_and_gone_after_it() {
    let dir = tempfile::tempdir().unwrap();
    let function = writer(dir.path(), 1_000, 10);
    for _ in 0..2 {
        assert_eq!(function.answer("round-trip").await, "hello, file in g of 11 bytes");
        assert_eq!(function.answer("left").await, "0");
    }
    // The runtime removes them; the engine's end removes the rest of it.
    let Function { engine, component, .. } = function;
    drop((engine, component));
    let gone = async {
        while std::fs::read_dir(dir.path()).unwrap().next().is_some() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), gone).await.expect("nothing is left");
}

/// As the guest's C library has it. Of a stream's error it says no more than that there was one.
const FULL: &str = "No space left on device (os error 51)";
const FAILED: &str = "I/O error (os error 29)";

#[tokio::test]
async fn a_call_writes_as_much_as_it_was_granted_and_not_a_byte_more() {
    let dir = tempfile::tempdir().unwrap();
    let function = writer(dir.path(), 100_000, 10);
    for (order, answer) in [
        ("write 100000", "written"),
        ("write 100001", FAILED),
        ("append 10", "appended"),
        ("grow 100000", "grown"),
        ("grow 100001", FULL),
        ("sparse 99999", "written"),
        ("sparse 100000", FAILED),
        ("write-and-remove 10000", "removed"),
        ("write-and-remove 10001", FAILED),
        ("files 10", "made"),
        ("files 11", FULL),
        ("directories 11", FULL),
        ("open 40", "40"),
        ("open 400", FULL),
        ("outside", "closed"),
    ] {
        assert_eq!(function.answer(order).await, answer, "{order}");
    }
    let (_, lines) = function.outcome("files 11").await;
    assert!(lines.iter().any(|line| line.contains("`files` of `[grants.scratch]`")), "{lines:?}");
}

#[tokio::test]
async fn without_the_grant_there_is_no_directory() {
    let dir = tempfile::tempdir().unwrap();
    let mut function = writer(dir.path(), 1_000, 10);
    function.grants.scratch = None;
    let (outcome, _) = function.outcome("write 1").await;
    let Outcome::Replied(reply) = outcome else { panic!("{outcome:?}") };
    assert_ne!(reply.body, "written".as_bytes());
    assert_eq!(function.answer("outside").await, "closed");
}
