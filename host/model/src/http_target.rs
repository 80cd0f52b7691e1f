//! Where outgoing requests may go: one rule of an allow-list, and the one parser for it.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

/// One rule: `https://api.example.com`, `https://*.example.com:8443` or `http://10.0.0.7:8080`. A rule without a port
/// means the scheme's own; `*.` stands for one or more labels, and never for none.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct HttpTarget {
    is_tls: bool,
    /// Lower case; an IPv6 address without its brackets.
    host: String,
    is_wildcard: bool,
    port: u16,
}

/// Why a text is no rule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{text:?} is not a target: {rule}; write `https://api.example.com`, `https://*.example.com` or `http://host:8080`"
)]
pub struct HttpTargetError {
    text: String,
    rule: &'static str,
}

impl HttpTarget {
    /// Reads a rule.
    ///
    /// # Errors
    /// [`HttpTargetError`] names the part that is wrong.
    pub fn parse(text: &str) -> Result<Self, HttpTargetError> {
        let refused = |rule| HttpTargetError { text: text.chars().take(200).collect(), rule };
        let (is_tls, rest) = match (text.strip_prefix("https://"), text.strip_prefix("http://")) {
            (Some(rest), _) => (true, rest),
            (None, Some(rest)) => (false, rest),
            (None, None) => return Err(refused("it starts with neither https:// nor http://")),
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let (host, port): (Cow<'_, str>, Option<&str>) = match rest.strip_prefix('[') {
            Some(address) => {
                let (address, rest) = address.split_once(']').ok_or_else(|| refused("its bracket is not closed"))?;
                let address: core::net::Ipv6Addr =
                    address.parse().map_err(|_| refused("no IPv6 address stands in its brackets"))?;
                // As requests have it, however it was written.
                let address = Cow::Owned(address.to_string());
                match rest.strip_prefix(':') {
                    Some(port) => (address, Some(port)),
                    None if rest.is_empty() => (address, None),
                    None => return Err(refused("only a port may follow the host")),
                }
            }
            None => match rest.split_once(':') {
                Some((host, port)) => (host.into(), Some(port)),
                None => (rest.into(), None),
            },
        };
        let port = match port {
            None if is_tls => 443,
            None => 80,
            Some(port) => match port.parse() {
                Ok(port) if port != 0 => port,
                Ok(_) | Err(_) => return Err(refused("its port is not a number from 1 to 65535")),
            },
        };
        // One dot at the end makes no difference in a request either; a second one would end in an empty label.
        let host = host.strip_suffix('.').unwrap_or(&host);
        let (host, is_wildcard) = host.strip_prefix("*.").map_or((host, false), |domain| (domain, true));
        let is_name = |b: u8| b.is_ascii_alphanumeric() || b"-._".contains(&b);
        let is_address = rest.starts_with('[');
        if host.is_empty() || host.ends_with('.') || host.len() > 253 || !(is_address || host.bytes().all(is_name)) {
            return Err(refused("its host is not a name or an address, and a path is no part of a target"));
        }
        Ok(Self { is_tls, host: host.to_ascii_lowercase(), is_wildcard, port })
    }

    /// Whether a request to this authority fits. `host` comes without brackets; its case and one dot at its end are no
    /// difference.
    #[must_use]
    pub fn allows(&self, is_tls: bool, host: &str, port: u16) -> bool {
        let host = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
        let fits = match self.is_wildcard {
            true => host.strip_suffix(&self.host).is_some_and(|labels| labels.len() > 1 && labels.ends_with('.')),
            false => host == self.host,
        };
        fits && self.is_tls == is_tls && self.port == port
    }
}

impl HttpTarget {
    /// Whether everything that fits `other` fits this one too.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        let is_host_covered = match (self.is_wildcard, other.is_wildcard) {
            (false, false) => self.host == other.host,
            (false, true) => false,
            (true, false) => self.allows(self.is_tls, &other.host, self.port),
            // The names below `b.example.com` are all below `example.com`.
            (true, true) => self.host == other.host || self.allows(self.is_tls, &other.host, self.port),
        };
        is_host_covered && self.is_tls == other.is_tls && self.port == other.port
    }
}

impl FromStr for HttpTarget {
    type Err = HttpTargetError;
    fn from_str(text: &str) -> Result<Self, HttpTargetError> {
        Self::parse(text)
    }
}

impl fmt::Display for HttpTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.is_tls { "https" } else { "http" };
        let wildcard = if self.is_wildcard { "*." } else { "" };
        match self.host.contains(':') {
            true => write!(f, "{scheme}://[{}]:{}", self.host, self.port),
            false => write!(f, "{scheme}://{wildcard}{}:{}", self.host, self.port),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_allows_its_scheme_host_and_port_and_nothing_else() {
        let target = HttpTarget::parse("https://API.example.com").unwrap();
        assert!(target.allows(true, "api.Example.com", 443) && target.allows(true, "api.example.com.", 443));
        for (is_tls, host, port) in
            [(false, "api.example.com", 443), (true, "api.example.com", 80), (true, "x.api.example.com", 443)]
        {
            assert!(!target.allows(is_tls, host, port), "{is_tls} {host} {port}");
        }
        let any = HttpTarget::parse("http://*.example.com:8080").unwrap();
        assert!(any.allows(false, "a.b.example.com", 8080));
        for host in ["example.com", ".example.com", "badexample.com", "example.com.evil.org"] {
            assert!(!any.allows(false, host, 8080), "{host}");
        }
        assert!(HttpTarget::parse("http://[::1]:80").unwrap().allows(false, "::1", 80));
        assert!(HttpTarget::parse("http://[0:0:0:0:0:0:0:1]").unwrap().allows(false, "::1", 80), "another spelling");
        assert!(HttpTarget::parse("https://a.example.com.").unwrap().allows(true, "a.example.com", 443));
    }

    #[test]
    fn a_target_covers_what_is_within_it() {
        let covers =
            |one: &str, other: &str| HttpTarget::parse(one).unwrap().covers(&HttpTarget::parse(other).unwrap());
        for (one, other) in [
            ("https://a.example.com", "https://A.example.com:443"),
            ("https://*.example.com", "https://a.example.com"),
            ("https://*.example.com", "https://*.b.example.com"),
            ("https://*.example.com", "https://*.example.com"),
        ] {
            assert!(covers(one, other), "{one} {other}");
        }
        for (one, other) in [
            ("https://a.example.com", "http://a.example.com:443"),
            ("https://*.example.com", "https://example.com"),
            ("https://*.b.example.com", "https://*.example.com"),
            ("https://a.example.com", "https://*.example.com"),
            ("https://*.example.com", "https://a.example.com:8443"),
        ] {
            assert!(!covers(one, other), "{one} {other}");
        }
    }

    #[test]
    fn what_is_no_target_is_refused() {
        for bad in [
            "",
            "example.com",
            "ftp://x",
            "https://a.example.com..",
            "https://",
            "https://*.",
            "https://a/b",
            "https://a:0",
            "https://a:x",
            "https://u@a",
            "https://*",
            "http://[::1",
            "http://[zz]",
            "https://a b",
            "https://*.*.a",
            "https://a..",
            "https://*.a..",
            "http://[::1]x",
        ] {
            assert!(HttpTarget::parse(bad).is_err(), "{bad:?}");
        }
    }
}
