//! Where a request wants to go, and whether the function's grant lets it. Pure: names are not resolved here.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use baton_model::HttpTarget;
use hyper::http::request::Parts;
use hyper::http::uri::Scheme;
use hyper::{Method, header};

use super::fault::Fault;

/// The longest path with its query; servers take about as much.
const PATH_BYTES_MAX: usize = 8 << 10;

/// One place to connect to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Destination {
    pub(super) is_tls: bool,
    pub(super) host: Host,
    pub(super) port: u16,
}

/// A name, which has to be resolved, or an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Host {
    /// In lower case, without a dot at its end.
    Name(String),
    Address(IpAddr),
}

impl Destination {
    /// Reads where the request goes, and holds it against the rules.
    ///
    /// # Errors
    /// [`Fault`] names the rule that it breaks.
    pub(super) fn of(request: &Parts, allow: &[HttpTarget]) -> Result<Self, Fault> {
        let method = request.method.as_str();
        if [Method::CONNECT, Method::TRACE].iter().any(|tunnel| method.eq_ignore_ascii_case(tunnel.as_str())) {
            return Err(Fault::Method(method.chars().take(20).collect()));
        }
        let path = request.uri.path_and_query().map_or("", |path| path.as_str());
        if path.len() > PATH_BYTES_MAX {
            return Err(Fault::PathTooLong { bytes_max: PATH_BYTES_MAX });
        }
        // Anything else in the request line, an absolute URI above all, could address another host behind a proxy.
        // The header is ours to write.
        if !(path.is_empty() || path.starts_with(['/', '?'])) || request.headers.contains_key(header::HOST) {
            return Err(Fault::NotForThisHost);
        }
        let is_tls = request.uri.scheme() == Some(&Scheme::HTTPS);
        let authority = request.uri.authority().map_or("", |authority| authority.as_str());
        let (host, port) = split(authority)
            .map_err(|rule| Fault::Authority { authority: authority.chars().take(300).collect(), rule })?;
        let destination = Self { is_tls, host, port: port.unwrap_or(if is_tls { 443 } else { 80 }) };
        if !allow.iter().any(|target| target.allows(is_tls, &destination.host_text(), destination.port)) {
            return Err(Fault::NotAllowed(destination.to_string()));
        }
        Ok(destination)
    }

    /// The host as it stands in an allow-list and in a certificate: without brackets.
    pub(super) fn host_text(&self) -> String {
        match &self.host {
            Host::Name(name) => name.clone(),
            Host::Address(address) => address.to_string(),
        }
    }

    /// The header `host` for it: the port only if it is not the scheme's own.
    pub(super) fn host_header(&self) -> String {
        let host = match &self.host {
            Host::Address(IpAddr::V6(address)) => format!("[{address}]"),
            Host::Address(IpAddr::V4(_)) | Host::Name(_) => self.host_text(),
        };
        if self.port == if self.is_tls { 443 } else { 80 } { host } else { format!("{host}:{}", self.port) }
    }
}

impl std::fmt::Display for Destination {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}://{}", if self.is_tls { "https" } else { "http" }, self.host_header())
    }
}

/// Takes an authority apart; what is unusual in it is refused, for each reader would read it in a way of his own.
fn split(authority: &str) -> Result<(Host, Option<u16>), &'static str> {
    if authority.is_empty() {
        return Err("is empty");
    }
    if authority.contains('@') {
        return Err("carries a user name");
    }
    let (host, port) = match authority.strip_prefix('[') {
        Some(rest) => {
            let (address, rest) = rest.split_once(']').ok_or("has a bracket that is not closed")?;
            let address: Ipv6Addr = address.parse().map_err(|_| "has no IPv6 address in its brackets")?;
            let port = match rest.strip_prefix(':') {
                None if rest.is_empty() => None,
                None => return Err("has something behind its brackets"),
                Some(port) => Some(port),
            };
            (Host::Address(IpAddr::V6(address)), port)
        }
        None => match authority.split_once(':') {
            Some((host, port)) => (name(host)?, Some(port)),
            None => (name(authority)?, None),
        },
    };
    match port {
        None => Ok((host, None)),
        // `parse` takes a sign too.
        Some(port) => match port.parse::<u16>() {
            Ok(number) if number != 0 && port.bytes().all(|b| b.is_ascii_digit()) => Ok((host, Some(number))),
            Ok(_) | Err(_) => Err("has a port that is no number from 1 to 65535"),
        },
    }
}

fn name(host: &str) -> Result<Host, &'static str> {
    let name = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
    if let Ok(address) = name.parse::<Ipv4Addr>() {
        return Ok(Host::Address(IpAddr::V4(address)));
    }
    let is_label = |label: &str| {
        (1..=63).contains(&label.len()) && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    if name.len() > 253 || !name.split('.').all(is_label) {
        return Err("is no host name");
    }
    // `2130706433`, `0x7f.1` and `127.1` are addresses to some resolvers; no name ends in a number (RFC 3696, 2).
    let last = name.rsplit('.').next().unwrap_or_default();
    let is_hex = last.strip_prefix("0x").is_some_and(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit()));
    if is_hex || last.bytes().all(|b| b.is_ascii_digit()) {
        return Err("is an address in another form than a.b.c.d");
    }
    Ok(Host::Name(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(method: &str, uri: &str) -> Parts {
        hyper::Request::builder().method(method).uri(uri).body(()).unwrap().into_parts().0
    }

    fn allow(targets: &[&str]) -> Vec<HttpTarget> {
        targets.iter().map(|target| HttpTarget::parse(target).unwrap()).collect()
    }

    #[test]
    fn a_request_goes_where_a_rule_of_the_list_fits() {
        let allow = allow(&["https://api.example.com", "http://*.example.com:8080", "http://[::1]:81"]);
        let ok = |uri| Destination::of(&parts("GET", uri), &allow).map(|d| (d.to_string(), d.host_header()));
        assert_eq!(
            ok("https://API.example.com./x?y").unwrap(),
            ("https://api.example.com".into(), "api.example.com".into())
        );
        assert_eq!(ok("http://a.b.example.com:8080").unwrap().1, "a.b.example.com:8080");
        assert_eq!(ok("http://[::1]:81/").unwrap().1, "[::1]:81");
        for uri in [
            "http://api.example.com",
            "https://api.example.com:8443",
            "https://example.com",
            "http://example.com:8080",
            "https://api.example.com.evil.org",
            "http://[::2]:81",
            "http://127.0.0.1",
        ] {
            assert!(matches!(ok(uri), Err(Fault::NotAllowed(_))), "{uri}");
        }
    }

    #[test]
    fn an_authority_that_could_be_read_in_two_ways_is_refused() {
        for (authority, rule) in [
            ("", "empty"),
            ("a@b", "user name"),
            ("api.example.com@127.0.0.1", "user name"),
            ("[::1", "not closed"),
            ("[v1.x]", "no IPv6"),
            ("[::1]x", "behind its brackets"),
            ("a:", "port"),
            ("a:0", "port"),
            ("a:65536", "port"),
            ("a:+80", "port"),
            ("a:80:80", "port"),
            ("2130706433", "another form"),
            ("127.1", "another form"),
            ("0x7f000001", "another form"),
            ("0x7f.0.0.0x1", "another form"),
            ("0177.0.0.1", "another form"),
            ("1.2.3.4.5", "another form"),
            ("a..b", "no host name"),
            ("a%2eb", "no host name"),
            ("a\u{fe55}b", "no host name"),
            ("a b", "no host name"),
        ] {
            let refused = split(authority).unwrap_err();
            assert!(refused.contains(rule), "{authority}: {refused}");
        }
        assert_eq!(split("10.0.0.7:8080").unwrap(), (Host::Address([10, 0, 0, 7].into()), Some(8080)));
    }

    #[test]
    fn tunnels_absolute_forms_and_a_host_header_are_refused() {
        let allow = allow(&["http://a.test"]);
        for method in ["CONNECT", "connect", "TRACE"] {
            assert!(
                matches!(Destination::of(&parts(method, "http://a.test/"), &allow), Err(Fault::Method(_))),
                "{method}"
            );
        }
        let mut other = parts("GET", "http://a.test/");
        other.headers.insert(header::HOST, header::HeaderValue::from_static("b.test"));
        assert!(matches!(Destination::of(&other, &allow), Err(Fault::NotForThisHost)));
        let star = parts("OPTIONS", "*");
        assert!(matches!(Destination::of(&star, &allow), Err(Fault::NotForThisHost)));
        let long = format!("http://a.test/{}", "x".repeat(PATH_BYTES_MAX));
        assert!(matches!(Destination::of(&parts("GET", &long), &allow), Err(Fault::PathTooLong { .. })));
    }
}
