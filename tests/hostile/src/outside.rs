//! Reaching outside, and waiting there.

use std::fs::{self, File};
use std::hint::black_box;
use std::io::{Read, stdin};
use std::net::{TcpListener, TcpStream, ToSocketAddrs, UdpSocket};
use std::time::Duration;

use crate::Told;
use crate::raw::wasi::clocks::monotonic_clock::subscribe_duration;
use crate::raw::wasi::io::poll::{Pollable, poll};
use crate::raw::wasi::random::random::get_random_bytes;

const HOUR: Duration = Duration::from_secs(3600);

pub(crate) fn sleep(_: &str) -> Told {
    std::thread::sleep(HOUR);
    Ok("slept".into())
}

/// Waits that are over at once, one after the other.
pub(crate) fn sleep_zero_for_ever(_: &str) -> Told {
    loop {
        subscribe_duration(0).block();
    }
}

fn hours(count: usize) -> Vec<Pollable> {
    let hour = u64::try_from(HOUR.as_nanos()).unwrap_or(u64::MAX);
    (0..count).map(|_| subscribe_duration(hour)).collect()
}

/// 100,000 things of the host at once.
pub(crate) fn pollables(_: &str) -> Told {
    Ok(format!("held {}", black_box(hours(100_000)).len()))
}

/// As many waits as there may be, looked at all together again and again.
pub(crate) fn poll_many(_: &str) -> Told {
    let mut waits = hours(2_000);
    waits.push(subscribe_duration(0));
    let all: Vec<&Pollable> = waits.iter().collect();
    loop {
        black_box(poll(&all));
    }
}

pub(crate) fn random_at_once(_: &str) -> Told {
    Ok(format!("got {}", get_random_bytes(1 << 30).len()))
}

/// 1 GiB in portions that are allowed, again and again.
pub(crate) fn random_for_ever(_: &str) -> Told {
    loop {
        black_box(get_random_bytes(64 << 10));
    }
}

/// What lies about: arguments, environment, standard input.
pub(crate) fn ambient(_: &str) -> Told {
    let arguments = std::env::args().skip(1).count();
    let variables = std::env::vars().count();
    let mut input = Vec::new();
    let read = stdin().read_to_end(&mut input).map_or(0, |bytes| bytes);
    Ok(format!("{arguments} arguments, {variables} variables, {read} bytes of input"))
}

/// Files by every way to name one. Answers with those that it got hold of.
#[expect(deprecated, reason = "the one way to make a link that the standard library has on every system")]
pub(crate) fn files(_: &str) -> Told {
    let mut got = Vec::new();
    for path in ["/etc/passwd", "etc/passwd", "../../../../etc/passwd", "/proc/self/environ", "/dev/null", "/", "."] {
        if File::open(path).is_ok() || fs::read_dir(path).is_ok() || fs::metadata(path).is_ok() {
            got.push(path);
        }
    }
    if fs::write("/tmp/hostile", "x").is_ok() || fs::write("hostile", "x").is_ok() || fs::create_dir("dir").is_ok() {
        got.push("written");
    }
    let links = [fs::hard_link("/etc/passwd", "link"), fs::soft_link("/etc/passwd", "link")];
    if links.iter().any(Result::is_ok) || File::open("link").is_ok() {
        got.push("linked");
    }
    Ok(format!("got {got:?}"))
}

/// Sockets of every kind, and names. Answers with what it got hold of; `ADDRESS:PORT` is somebody who listens.
pub(crate) fn sockets(listener: &str) -> Told {
    let mut got = Vec::new();
    for to in [listener, "169.254.169.254:80", "[::1]:80"] {
        if TcpStream::connect(to).is_ok() {
            got.push(format!("tcp {to}"));
        }
    }
    if TcpListener::bind("127.0.0.1:0").is_ok() {
        got.push("tcp listener".into());
    }
    if UdpSocket::bind("127.0.0.1:0").and_then(|socket| socket.send_to(b"x", listener)).is_ok() {
        got.push("udp".into());
    }
    if ("localhost", 80).to_socket_addrs().is_ok_and(|mut found| found.next().is_some()) {
        got.push("dns".into());
    }
    Ok(format!("got {got:?}"))
}
