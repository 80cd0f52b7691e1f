//! Hostile calls of functions that were granted something: requests, files, buckets, calls.

use anyhow::Result;
use baton_tests::{foreign_guest, http_guest, nested_guest, scratch_guest};

use crate::cases::{Case, Ends, Function, TIMEOUT};

/// What the sender may send to, as far as its own manifest goes: whatever is closed is closed by the host.
const SENDS: &str = r#"
[grants.http]
requests = 50
allow = [
    "http://{listener}", "http://{plain}", "http://{redirects}", "http://{floods}", "http://{drips}", "http://{silent}",
    "http://127.0.0.1", "http://127.1.2.3", "http://0.0.0.0", "http://10.0.0.1", "http://169.254.169.254",
    "http://100.100.100.200", "http://168.63.129.16", "http://[::1]", "http://[::]", "http://[fe80::1]",
    "http://[fd00:ec2::254]", "http://[::ffff:127.0.0.1]", "http://[::7f00:1]", "http://[64:ff9b::7f00:1]",
    "http://[2002:7f00:1::]", "http://localhost:{port}", "http://2130706433", "http://0x7f000001", "http://0177.0.0.1",
    "http://127.1",
]
"#;

const WRITES: &str = "[grants.scratch]\nbytes = 1_000_000\nfiles = 100\n";
const KEEPS: &str = "[grants.config]\n[grants.keyvalue]\ndefault = \"function\"\n";
const CALLS: &str = "[grants.calls]\nfunctions = \"all\"\n";

/// What its tenant may keep in all.
pub(crate) const TENANT: &str = "[quotas]\nstored_bytes = 2_000_000\n";

const fn function(name: &'static str, guest: fn() -> Result<Vec<u8>>, grants: &'static str) -> Function {
    Function { name, guest, grants, is_brief: false }
}

const fn brief(name: &'static str, guest: fn() -> Result<Vec<u8>>, grants: &'static str) -> Function {
    Function { is_brief: true, ..function(name, guest, grants) }
}

pub(crate) const FUNCTIONS: &[Function] = &[
    function("sender", http_guest, SENDS),
    brief("brief-sender", http_guest, SENDS),
    function("writer", scratch_guest, WRITES),
    function("keeper", foreign_guest, KEEPS),
    brief("brief-keeper", foreign_guest, KEEPS),
    function("caller", nested_guest, CALLS),
];

const fn row(name: &'static str, function: &'static str, payload: &'static str, ends: Ends) -> Case {
    Case { name, function, payload, ends }
}

const CLOSED: Ends = Ends::Each("ErrorCode::DestinationIpProhibited");
const NO_ROOM: Ends = Ends::Answered("No space left on device (os error 51)");
/// What the guest's C library makes of a stream that was refused.
const NO_STREAM: Ends = Ends::Answered("I/O error (os error 29)");

pub(crate) const CASES: &[Case] = &[
    row(
        "HTTP to hosts that were not granted",
        "sender",
        "each http://example.com/ https://127.0.0.1/ http://127.0.0.2/ http://127.0.0.1.nip.io/",
        Ends::Each("ErrorCode::HttpRequestDenied"),
    ),
    row(
        "HTTP to the machine, its network and clouds' metadata",
        "sender",
        "each http://{listener}/ http://127.0.0.1/ http://127.1.2.3/ http://0.0.0.0/ http://10.0.0.1/ \
         http://169.254.169.254/latest/meta-data/ http://100.100.100.200/ http://168.63.129.16/ http://[::1]/ http://[::]/ \
         http://[fe80::1]/ http://[fd00:ec2::254]/ http://localhost:{port}/",
        CLOSED,
    ),
    row(
        "HTTP to IPv4 in disguise",
        "sender",
        "each http://[::ffff:127.0.0.1]/ http://[::7f00:1]/ http://[64:ff9b::7f00:1]/ http://[2002:7f00:1::]/",
        CLOSED,
    ),
    row(
        "HTTP to numbers that stand for an address",
        "sender",
        "each http://2130706433/ http://0x7f000001/ http://0177.0.0.1/ http://127.1/ http://user@127.0.0.1/",
        Ends::Each("ErrorCode::HttpRequestUriInvalid"),
    ),
    row(
        "HTTP redirected into the machine",
        "sender",
        "follow http://{redirects}/",
        Ends::Answered("302 0\nErrorCode::DestinationIpProhibited"),
    ),
    row("HTTP in absolute form", "sender", "absolute", Ends::Answered("Err(())")),
    row("HTTP with another Host", "sender", "host-header", Ends::Says("Forbidden")),
    row("HTTP with 40,000 header fields", "sender", "fields - 40000", Ends::Dead("trap", "")),
    row("HTTP with no time", "sender", "silence http://{silent}/ 0", Ends::Each("ErrorCode::ConnectionReadTimeout")),
    row("HTTP answer without an end", "sender", "get http://{floods}/", Ends::Says("body size exceeds limit")),
    row("HTTP answer that drips", "brief-sender", "get http://{drips}/", TIMEOUT),
    row("HTTP answer that never comes", "brief-sender", "get http://{silent}/", TIMEOUT),
    row("HTTP 10,000 times", "sender", "many http://{plain}/ 10000", Ends::Says("ErrorCode::ConnectionLimitReached")),
    row("file of 1 GB", "writer", "write 1000000000", NO_STREAM),
    row("file of 1 TiB with a hole", "writer", "sparse 1099511627776", NO_STREAM),
    row("file grown to 1 TiB", "writer", "grow 1099511627776", NO_ROOM),
    row("files that are removed and open", "writer", "write-and-remove 200000", NO_STREAM),
    row("100,000 files", "writer", "files 100000", NO_ROOM),
    row("100,000 directories, each in the last", "writer", "directories 100000", NO_ROOM),
    row("a file opened 100,000 times", "writer", "open 100000", NO_ROOM),
    row("files outside: absolute, `..`, links", "writer", "outside", Ends::Answered("closed")),
    row(
        "bucket filled over its quota",
        "keeper",
        "default fill a 900000\ndefault fill b 900000\ndefault fill c 900000",
        Ends::Says("raise `stored_bytes`"),
    ),
    row("key of 1,025 bytes", "keeper", "default set-long 1025", Ends::Says("a key has 1025 bytes")),
    row("key of 32 MiB", "keeper", "default set-long 33554432", Ends::Dead("trap", "")),
    row("value of 64 MiB", "keeper", "default fill v 67108864", Ends::Dead("trap", "")),
    row("10,000 pairs at once", "keeper", "default set-many 10000", Ends::Says("an operation has 10000 pairs")),
    row("keys read for ever", "brief-keeper", "default touch-for-ever", TIMEOUT),
    row("a value of 100 kB read for ever", "brief-keeper", "default fill v 100000\ndefault read-for-ever v", TIMEOUT),
    row("a bucket listed for ever", "brief-keeper", "default fill-many 100 1000\ndefault list-for-ever", TIMEOUT),
    row("secret of another tenant", "keeper", "default get secret", Ends::Answered("-")),
    row(
        "bucket of another tenant",
        "keeper",
        "friend get secret\n../friend get secret\n{friend}:kv:keeper:default get secret\nbaton:{friend}:kv:keeper:default \
         get secret",
        Ends::Each("not opened: Error::NoSuchStore"),
    ),
    row("calls of itself", "caller", r#"{"again":true}"#, Ends::Says("TooDeep(\\\"8 calls wait")),
    row("fork bomb: calls of itself, two each", "caller", r#"{"fork":2}"#, Ends::Answered("2")),
    row("loop in a nested call", "caller", r#"{"call":"ill","with":"loop"}"#, Ends::Says("timeout")),
];
