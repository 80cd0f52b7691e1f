//! Why a request was not sent, or an answer not handed over: what the guest is told, and what its log says.

use std::net::IpAddr;

use baton_model::HttpGrant;
use wasmtime_wasi_http::Error as Code;

use super::ANSWER_HEAD_BYTES_MAX;

/// Why an exchange failed. The guest gets a code of `wasi:http`; the words are for people.
#[derive(Debug, thiserror::Error)]
pub(super) enum Fault {
    #[error(
        "{0} is not in `[grants.http] allow` of this function's manifest: add it there, if the function shall reach it"
    )]
    NotAllowed(String),
    #[error("the request's authority {authority:?} {rule}: write `host` or `host:port`")]
    Authority { authority: String, rule: &'static str },
    #[error("the method {0} asks for a tunnel or an echo, which functions do not get")]
    Method(String),
    #[error("the request's path and query are longer than {bytes_max} bytes")]
    PathTooLong { bytes_max: usize },
    #[error(
        "the request is not for the host that it is sent to: its path must start with `/`, its header `host` is not its own"
    )]
    NotForThisHost,
    #[error("the call has sent {requests_max} requests, which is all that `[grants.http] requests` allows")]
    TooMany { requests_max: u32 },
    #[error("too many requests of this call are under way at once")]
    TooManyAtOnce,
    #[error(
        "{host} is at {address}, which is {word}: functions reach public addresses only; the operator can open a network \
         with `[security] egress_networks`"
    )]
    Closed { host: String, address: IpAddr, word: &'static str },
    #[error("{host} has no address: {reason}")]
    Unresolved { host: String, reason: String },
    #[error("looking up {0} took too long")]
    LookupTime(String),
    #[error("cannot connect to {target}: {reason}")]
    Connect { target: String, reason: String },
    #[error("connecting to {0} took too long")]
    ConnectTime(String),
    #[error("no TLS with {target}: {reason}")]
    Tls { target: String, reason: String, is_certificate: bool },
    #[error("the request's body is larger than {bytes_max} bytes, `request_bytes` of `[grants.http]`")]
    RequestTooLarge { bytes_max: u64 },
    #[error("the answer's body is larger than {bytes_max} bytes, `response_bytes` of `[grants.http]`")]
    AnswerTooLarge { bytes_max: u64 },
    #[error("the answer's head is larger than {ANSWER_HEAD_BYTES_MAX} bytes, or has too many fields")]
    AnswerHeadTooLarge,
    #[error("the answer did not begin, or did not go on, in time")]
    AnswerTime,
    #[error("the other side asks to speak another protocol than HTTP/1.1")]
    Upgrade,
    #[error("the connection ended before the answer did: {0}")]
    CutShort(String),
    #[error("the other side does not speak HTTP/1.1 as it should: {0}")]
    Protocol(String),
}

impl Fault {
    /// The code for the guest. None of them carries words of ours: what the host knows of its network stays with it.
    pub(super) fn code(&self, grant: &HttpGrant) -> Code {
        match self {
            Self::NotAllowed(_) | Self::NotForThisHost => Code::HttpRequestDenied,
            Self::Authority { .. } => Code::HttpRequestUriInvalid,
            Self::Method(_) => Code::HttpRequestMethodInvalid,
            Self::PathTooLong { .. } => Code::HttpRequestUriTooLong,
            Self::TooMany { .. } | Self::TooManyAtOnce => Code::ConnectionLimitReached,
            Self::Closed { .. } => Code::DestinationIpProhibited,
            Self::Unresolved { .. } => {
                Code::DnsError { rcode: Some("the name has no address".into()), info_code: None }
            }
            Self::LookupTime(_) => Code::DnsTimeout,
            Self::Connect { .. } => Code::ConnectionRefused,
            Self::ConnectTime(_) => Code::ConnectionTimeout,
            Self::Tls { is_certificate: true, .. } => Code::TlsCertificateError,
            Self::Tls { is_certificate: false, .. } => Code::TlsProtocolError,
            Self::RequestTooLarge { .. } => Code::HttpRequestBodySize(Some(grant.request_bytes_max)),
            Self::AnswerTooLarge { .. } => Code::HttpResponseBodySize(Some(grant.response_bytes_max)),
            Self::AnswerHeadTooLarge => Code::HttpResponseHeaderSectionSize(u32::try_from(ANSWER_HEAD_BYTES_MAX).ok()),
            Self::AnswerTime => Code::ConnectionReadTimeout,
            Self::Upgrade => Code::HttpUpgradeFailed,
            Self::CutShort(_) => Code::HttpResponseIncomplete,
            Self::Protocol(_) => Code::HttpProtocolError,
        }
    }

    /// Whether the function's log gets the words: the rules and limits of this host, which the code alone does not
    /// explain. What the network or the other side did is in the code.
    pub(super) fn is_ours(&self) -> bool {
        match self {
            Self::NotAllowed(_)
            | Self::Authority { .. }
            | Self::Method(_)
            | Self::PathTooLong { .. }
            | Self::NotForThisHost
            | Self::TooMany { .. }
            | Self::TooManyAtOnce
            | Self::Closed { .. }
            | Self::Tls { .. }
            | Self::RequestTooLarge { .. }
            | Self::AnswerTooLarge { .. }
            | Self::AnswerHeadTooLarge => true,
            Self::Unresolved { .. }
            | Self::LookupTime(_)
            | Self::Connect { .. }
            | Self::ConnectTime(_)
            | Self::AnswerTime
            | Self::Upgrade
            | Self::CutShort(_)
            | Self::Protocol(_) => false,
        }
    }
}

impl From<hyper::Error> for Fault {
    fn from(error: hyper::Error) -> Self {
        if error.is_parse_too_large() {
            Self::AnswerHeadTooLarge
        } else if error.is_parse() {
            Self::Protocol(error.to_string())
        } else {
            // Whatever else happens to a connection of ours: it was closed, cut or reset.
            Self::CutShort(error.to_string())
        }
    }
}
