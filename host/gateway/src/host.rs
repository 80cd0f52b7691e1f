//! Under which name the gateway is asked for. Where no token is asked for, a page of the web could have its own name lead to
//! this machine (DNS rebinding), and the browser would take the gateway for a part of that page's site.

use axum::extract::Request;
use axum::http::HeaderValue;
use axum::http::header::HOST;
use axum::http::uri::Authority;

use crate::problem::Problem;

/// Lets through what asks for this machine by its address, as `localhost`, or by a name that the operator gave.
pub(crate) fn known(request: &Request, names: &[String]) -> Result<(), Problem> {
    let in_header = || request.headers().get(HOST).map(HeaderValue::as_bytes).and_then(|host| host.try_into().ok());
    let authority: Option<Authority> = request.uri().authority().cloned().or_else(in_header);
    // HTTP/1.0 has no such header, and browsers do not speak it.
    let Some(authority) = authority else { return Ok(()) };
    let host = authority.host();
    let host = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
    let is_address = host.starts_with('[') || host.parse::<std::net::Ipv4Addr>().is_ok();
    let is_localhost = host == "localhost" || host.ends_with(".localhost");
    if is_address || is_localhost || names.iter().any(|name| name.eq_ignore_ascii_case(&host)) {
        return Ok(());
    }
    let shown: String = host.chars().take(80).collect();
    let detail = format!(
        "this gateway asks for no token and is not known as {shown:?}; ask for localhost or an address, add the name to \
         `http.hosts`, or give out tokens"
    );
    Err(Problem::new(403, "unknown-host").detail(detail))
}

#[cfg(test)]
mod tests {
    use axum::body::Body;

    use super::*;

    #[test]
    fn a_name_of_the_web_is_not_this_machine() {
        let names = ["baton.internal".to_owned()];
        let is_known = |host: &str| {
            let request = Request::builder().uri("/v1/functions").header(HOST, host).body(Body::empty()).unwrap();
            known(&request, &names).is_ok()
        };
        for host in ["localhost", "LOCALHOST:7070", "a.localhost", "127.0.0.1:7070", "[::1]:7070", "Baton.Internal:80"]
        {
            assert!(is_known(host), "{host}");
        }
        for host in ["evil.example", "evil.example:7070", "127.0.0.1.evil.example", "xlocalhost", "internal"] {
            assert!(!is_known(host), "{host}");
        }
        assert!(known(&Request::new(Body::empty()), &names).is_ok());
    }
}
