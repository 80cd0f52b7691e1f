//! Text becomes types: paths and headers of a request are read here, once, or refused with the rule and the mend.

use std::fmt::Write as _;
use std::time::Duration;

use axum::extract::{FromRequestParts, Path};
use axum::http::header::{CONNECTION, CONTENT_TYPE};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName};
use baton_broker::SendOptions;
use baton_model::{
    ATTEMPTS_MAX, BACKOFF_MAX, CallId, DELAY_MAX, FunctionId, Name, OrderKey, Priority, RetryWish, SCHEDULE_HEADERS,
    chosen_id,
};

use crate::event::{self, Attributes};
use crate::gate::{millis, now_ms};
use crate::problem::Problem;

/// The answer's header that names the call.
pub(crate) const CALL_ID: HeaderName = HeaderName::from_static("baton-call-id");

/// The longest value that a field of a call may have, and the most headers; what is above would become a dead letter.
const VALUE_BYTES_MAX: usize = 4096;
const HANDED_ON_MAX: usize = 64;

/// The function that a path names: `{function}`, or `{tenant}/{function}`.
pub(crate) struct Target(pub(crate) FunctionId);

/// The call that a path names: `{tenant}/{function}/{id}`.
pub(crate) struct CallTarget(pub(crate) FunctionId, pub(crate) CallId);

/// The fan-out that a path names: `{tenant}/{id}`.
pub(crate) struct FanoutTarget(pub(crate) Name, pub(crate) CallId);

/// The event for an execution that a path names: `{tenant}/{function}/{id}/events/{event}`.
pub(crate) struct EventTarget(pub(crate) FunctionId, pub(crate) CallId, pub(crate) Name);

type PathParts = Vec<(String, String)>;

async fn path_parts<S: Send + Sync>(parts: &mut Parts, state: &S) -> Result<PathParts, Problem> {
    let path = Path::<PathParts>::from_request_parts(parts, state).await;
    path.map(|Path(found)| found)
        .map_err(|_| Problem::bad("bad-path", "the path is not percent-encoded UTF-8; encode every byte as %XX"))
}

/// The name of a tenant or a function has nothing in it to encode. Encoded all the same it would be one name to us and
/// another to whoever stands before us and decides by paths.
fn names_are_plain(parts: &Parts) -> Result<(), Problem> {
    // Behind `/v1/call/` come nothing but names, at most two; behind the two in `/v1/calls/` comes an id.
    if parts.uri.path().split('/').skip(3).take(2).any(|name| name.contains('%')) {
        return Err(Problem::bad("bad-name", "a name in the path is percent-encoded; write it as it is"));
    }
    Ok(())
}

fn named(parts: &PathParts, wanted: &str) -> Result<Option<Name>, Problem> {
    let found = parts.iter().find(|(name, _)| name == wanted).map(|(_, value)| Name::parse(value));
    found.transpose().map_err(|error| Problem::bad("bad-name", error.to_string()))
}

fn id(parts: &PathParts) -> Result<CallId, Problem> {
    // `/v1/dead/T/F/redrive` is a verb to POST alone; to others it is the letter of the call of that name.
    let id = parts.iter().find(|(name, _)| name == "id").map_or("redrive", |(_, id)| id.as_str());
    id.parse().map_err(|rule: String| Problem::bad("bad-id", rule))
}

fn function(parts: &PathParts) -> Result<FunctionId, Problem> {
    let function = named(parts, "function")?;
    let function = function.ok_or_else(|| Problem::bad("bad-name", "the path names no function"))?;
    Ok(match named(parts, "tenant")? {
        Some(tenant) => FunctionId::new(tenant, function),
        None => FunctionId::of_default_tenant(function),
    })
}

impl<S: Send + Sync> FromRequestParts<S> for Target {
    type Rejection = Problem;
    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let found = path_parts(parts, state).await?;
        names_are_plain(parts)?;
        function(&found).map(Self)
    }
}

impl<S: Send + Sync> FromRequestParts<S> for CallTarget {
    type Rejection = Problem;
    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let found = path_parts(parts, state).await?;
        names_are_plain(parts)?;
        Ok(Self(function(&found)?, id(&found)?))
    }
}

impl<S: Send + Sync> FromRequestParts<S> for EventTarget {
    type Rejection = Problem;
    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let found = path_parts(parts, state).await?;
        names_are_plain(parts)?;
        let name = named(&found, "event")?.ok_or_else(|| Problem::bad("bad-name", "the path names no event"))?;
        Ok(Self(function(&found)?, id(&found)?, name))
    }
}

impl<S: Send + Sync> FromRequestParts<S> for FanoutTarget {
    type Rejection = Problem;
    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let found = path_parts(parts, state).await?;
        if parts.uri.path().split('/').nth(3).is_some_and(|tenant| tenant.contains('%')) {
            return Err(Problem::bad("bad-name", "a name in the path is percent-encoded; write it as it is"));
        }
        let tenant = named(&found, "tenant")?.ok_or_else(|| Problem::bad("bad-name", "the path names no tenant"))?;
        Ok(Self(tenant, id(&found)?))
    }
}

/// Where the state of a call is asked.
pub(crate) fn location(function: &FunctionId, id: &CallId) -> String {
    let mut out = format!("/v1/calls/{function}/");
    for byte in id.as_str().bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            _ = write!(out, "%{byte:02X}");
        }
    }
    out
}

/// What the headers of a call say.
#[derive(Debug)]
pub(crate) struct Wishes {
    /// What goes with the payload.
    pub(crate) options: SendOptions,
    /// How long the caller's own deadline is away; none if it has none.
    pub(crate) deadline: Option<Duration>,
    /// Whether the body is an event as a whole, and the payload only a part of it.
    pub(crate) is_event: bool,
}

/// Reads the headers of a call.
///
/// Handed on to the function are the `x-…` headers and the attributes of an event alone, so nothing that concerns the connection or carries
/// credentials is. What proxies say of the client (`x-forwarded-…`, `x-real-ip`) is not either: anybody can write it. Nor
/// is what hosts alone say (`x-baton-…`, and of schedules).
pub(crate) fn wishes(headers: &HeaderMap) -> Result<Wishes, Problem> {
    let time = |name, shown| single(headers, name)?.map(|text| duration(shown, text)).transpose();
    let (deadline, delay) = (time("baton-deadline", "Baton-Deadline")?, time("baton-delay", "Baton-Delay")?);
    if delay.is_some_and(|delay| deadline.is_some_and(|deadline| deadline <= delay)) {
        let detail = "the call would be due when its deadline has passed; make Baton-Delay shorter than Baton-Deadline";
        return Err(Problem::bad("bad-time", detail));
    }
    let traceparent = single(headers, "traceparent").ok().flatten().filter(|text| is_traceparent(text));
    let tracestate = traceparent.and_then(|_| joined(headers, "tracestate"));
    let media_type = media_type(headers)?;
    let is_event = event::is_whole(media_type.as_deref())?;
    // An event that is sent as a whole says everything in the body.
    let attributes = if is_event { Attributes::new() } else { event::in_headers(headers)? };
    let options = SendOptions {
        id: idempotency_key(headers)?,
        media_type,
        key: order_key(headers)?,
        priority: priority(headers)?,
        deadline_ms: deadline.map(|after| now_ms().saturating_add(millis(after))),
        traceparent: traceparent.map(str::to_owned),
        tracestate: tracestate.filter(|text| text.len() <= VALUE_BYTES_MAX),
        retry: retry_wish(headers)?,
        headers: all_of(handed_on(headers)?, attributes)?,
        depth: 0,
        delay,
    };
    Ok(Wishes { options, deadline, is_event })
}

/// What is asked for if the call fails.
fn retry_wish(headers: &HeaderMap) -> Result<RetryWish, Problem> {
    let wrong = |name: &str, rule: &str| Problem::bad("bad-header", format!("the header {name} must be {rule}"));
    let attempts_max = single(headers, "baton-attempts")?.map(|text| {
        let count = text.parse().ok().filter(|count| (1..=ATTEMPTS_MAX).contains(count));
        count.ok_or_else(|| wrong("Baton-Attempts", "a number of attempts from 1 to 1000"))
    });
    let backoff = |name: &'static str, title: &str| {
        let Some(text) = single(headers, name)? else { return Ok(None) };
        let time = duration(title, text)?;
        if time > BACKOFF_MAX { Err(wrong(title, "a day at the most")) } else { Ok(Some(time)) }
    };
    let on = single(headers, "baton-retry-on")?
        .map(|text| text.parse().map_err(|rule: String| wrong("Baton-Retry-On", &rule)));
    Ok(RetryWish {
        attempts_max: attempts_max.transpose()?,
        backoff_base: backoff("baton-backoff", "Baton-Backoff")?,
        backoff_max: backoff("baton-backoff-max", "Baton-Backoff-Max")?,
        on: on.transpose()?,
    })
}

/// A time such as `5s` or `500ms`, longer than nothing and at most 366 days.
pub(crate) fn duration(name: &str, text: &str) -> Result<Duration, Problem> {
    let wrong = |rule: &str| {
        let text: String = text.chars().take(80).collect();
        Err(Problem::bad("bad-time", format!("{name} is {text:?}; {rule}")))
    };
    match humantime::parse_duration(text) {
        Err(_) => wrong("it must be a number with a unit, such as 500ms, 5s, 2m, 1h or 30d"),
        Ok(time) if time.is_zero() => wrong("it must be longer than nothing"),
        Ok(time) if time > DELAY_MAX => wrong("366d is the most; make it shorter"),
        Ok(time) => Ok(time),
    }
}

fn single<'a>(headers: &'a HeaderMap, name: &str) -> Result<Option<&'a str>, Problem> {
    let mut values = headers.get_all(name).iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(Problem::bad("bad-header", format!("the header {name} is there twice; send it once")));
    }
    value
        .to_str()
        .map(Some)
        .map_err(|_| Problem::bad("bad-header", format!("the header {name} has bytes that are not printable ASCII")))
}

/// The values of a header that may come several times, as one list; none if one cannot be read.
fn joined(headers: &HeaderMap, name: &str) -> Option<String> {
    let values: Option<Vec<&str>> = headers.get_all(name).iter().map(|value| value.to_str().ok()).collect();
    values.filter(|values| !values.is_empty()).map(|values| values.join(","))
}

/// The key may stand in quotes, as the IETF draft has it, or bare, as most clients send it.
fn idempotency_key(headers: &HeaderMap) -> Result<Option<CallId>, Problem> {
    let Some(text) = single(headers, "idempotency-key")? else { return Ok(None) };
    let bare = text.strip_prefix('"').and_then(|text| text.strip_suffix('"')).unwrap_or(text);
    let id = chosen_id(bare).map_err(|rule| Problem::bad("bad-idempotency-key", format!("Idempotency-Key: {rule}")))?;
    Ok(Some(id))
}

/// What orders this call and others.
fn order_key(headers: &HeaderMap) -> Result<Option<OrderKey>, Problem> {
    let key = single(headers, "baton-key")?.map(str::parse).transpose();
    key.map_err(|rule: String| Problem::bad("bad-key", format!("Baton-Key: {rule}")))
}

/// How urgent this call is beside others of its function.
fn priority(headers: &HeaderMap) -> Result<Priority, Problem> {
    let level = single(headers, "baton-priority")?.map(|text| priority_of("Baton-Priority", text)).transpose()?;
    Ok(level.unwrap_or_default())
}

/// A level, as `name` says it.
pub(crate) fn priority_of(name: &str, text: &str) -> Result<Priority, Problem> {
    text.parse().map_err(|rule: String| {
        let text: String = text.chars().take(80).collect();
        Problem::bad("bad-priority", format!("{name} is {text:?}; {rule}"))
    })
}

/// The rule is that of the call's field `type`: an entry that breaks it would become a dead letter.
fn media_type(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    single(headers, CONTENT_TYPE.as_str())?.map(media_type_of).transpose()
}

/// A media type as a call may have it.
pub(crate) fn media_type_of(text: &str) -> Result<String, Problem> {
    let is_token =
        |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$&^_.+-*".contains(&b));
    let essence = text.split(';').next().unwrap_or_default().trim_end();
    let is_good = essence.split_once('/').is_some_and(|(kind, rest)| is_token(kind) && is_token(rest));
    if is_good && text.len() <= 255 && text.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic()) {
        Ok(text.to_owned())
    } else {
        Err(Problem::bad("bad-content-type", "the type is no media type such as application/json or text/plain"))
    }
}

/// The form of version 00, later ones may append. W3C Trace Context: what is wrong is ignored, not refused.
fn is_traceparent(text: &str) -> bool {
    let mut parts = text.split('-');
    let mut hex = |len: usize| {
        let part = parts.next().filter(|part| part.len() == len)?;
        part.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)).then_some(part)
    };
    let version = hex(2);
    let is_whole = version.is_some() && hex(32).is_some() && hex(16).is_some() && hex(2).is_some();
    is_whole && version != Some("ff") && (version != Some("00") || parts.next().is_none()) && text.len() <= 512
}

fn handed_on(headers: &HeaderMap) -> Result<Vec<(String, String)>, Problem> {
    let mut out: Vec<(String, String)> = Vec::new();
    for name in headers.keys().filter(|name| is_handed_on(name.as_str()) && !is_of_connection(headers, name.as_str())) {
        let text = name.as_str();
        if text.len() > 64 || !text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-_".contains(&b))
        {
            let detail =
                format!("the header {text} cannot be handed on: its name must be x- and 1 to 62 of a-z, 0-9, - and _");
            return Err(Problem::bad("bad-header", detail));
        }
        let mut value = String::new();
        for part in headers.get_all(name) {
            let part = std::str::from_utf8(part.as_bytes()).ok().filter(|part| !part.chars().any(char::is_control));
            let part = part.ok_or_else(|| {
                Problem::bad("bad-header", format!("the header {text} must be UTF-8 without control characters"))
            })?;
            if !value.is_empty() {
                value.push_str(", ");
            }
            value.push_str(part);
        }
        if value.len() > VALUE_BYTES_MAX || out.len() == HANDED_ON_MAX {
            let detail = format!("a call has at most {HANDED_ON_MAX} x-… headers of {VALUE_BYTES_MAX} bytes each");
            return Err(Problem::new(431, "headers-too-large").detail(detail));
        }
        out.push((text.to_owned(), value));
    }
    Ok(out)
}

/// The headers of a call, with what an event says of itself.
pub(crate) fn all_of(mut headers: Vec<(String, String)>, event: Attributes) -> Result<Vec<(String, String)>, Problem> {
    if headers.len() + event.len() > HANDED_ON_MAX || event.iter().any(|(_, value)| value.len() > VALUE_BYTES_MAX) {
        let detail = format!("a call has at most {HANDED_ON_MAX} x-… and ce-… headers of {VALUE_BYTES_MAX} bytes each");
        return Err(Problem::new(431, "headers-too-large").detail(detail));
    }
    headers.extend(event);
    Ok(headers)
}

fn is_handed_on(name: &str) -> bool {
    let is_anothers = name.starts_with("x-forwarded-") || name == "x-real-ip" || name.starts_with("x-baton-");
    let is_anothers = is_anothers || SCHEDULE_HEADERS.contains(&name);
    name.len() > 2 && name.starts_with("x-") && !is_anothers
}

/// Whether `Connection` names this header, which is then for the next hop alone (RFC 9110, 7.6.1).
fn is_of_connection(headers: &HeaderMap, name: &str) -> bool {
    let values = headers.get_all(CONNECTION).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|option| option.trim().eq_ignore_ascii_case(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in pairs {
            map.append(*name, value.parse().unwrap());
        }
        map
    }

    #[test]
    fn x_headers_are_handed_on_but_those_of_hops_are_not() {
        let read = wishes(&headers(&[
            ("x-colour", "blue"),
            ("x-colour", "red"),
            ("x-forwarded-for", "10.0.0.1"),
            ("x-real-ip", "10.0.0.1"),
            ("x-baton-depth", "7"),
            ("x-schedule", "nightly"),
            ("x-schedule-tick", "1795220000000"),
            ("x-hop", "1"),
            ("connection", "keep-alive, X-Hop"),
            ("authorization", "Bearer secret"),
            ("cookie", "a=b"),
        ]));
        assert_eq!(read.unwrap().options.headers, [("x-colour".to_owned(), "blue, red".to_owned())]);
    }

    #[test]
    fn what_is_asked_for_if_a_call_fails_is_read() {
        let read = wishes(&headers(&[
            ("baton-attempts", "7"),
            ("baton-backoff", "250ms"),
            ("baton-backoff-max", "1m"),
            ("baton-retry-on", "trap, timeout"),
        ]));
        let RetryWish { attempts_max, backoff_base, backoff_max, on } = read.unwrap().options.retry;
        assert_eq!((attempts_max, on.unwrap().to_string().as_str()), (Some(7), "trap,timeout"));
        assert_eq!((backoff_base, backoff_max), (Some(Duration::from_millis(250)), Some(Duration::from_secs(60))));
        assert_eq!(wishes(&headers(&[])).unwrap().options.retry, RetryWish::default());
    }

    #[test]
    fn an_idempotency_key_may_stand_in_quotes() {
        for text in ["order-1", "\"order-1\""] {
            let read = wishes(&headers(&[("idempotency-key", text)])).unwrap();
            assert_eq!(read.options.id.unwrap().as_str(), "order-1");
        }
        assert!(wishes(&headers(&[("idempotency-key", "a b")])).is_err());
        assert!(wishes(&headers(&[("idempotency-key", "tick.nightly.1795220000000")])).is_err(), "a schedule's");
        assert!(wishes(&headers(&[("idempotency-key", "\"\"")])).is_err());
    }

    #[test]
    fn what_would_become_a_dead_letter_is_refused_at_the_door() {
        for bad in [
            ("content-type", "json"),
            ("content-type", "a/"),
            ("x-a.b", "1"),
            ("x-tab", "a\tb"),
            ("baton-deadline", "5"),
            ("baton-deadline", "0s"),
            ("baton-deadline", "99999y"),
            ("baton-delay", "30"),
            ("baton-delay", "2y"),
            ("baton-attempts", "0"),
            ("baton-backoff", "2"),
            ("baton-backoff-max", "25h"),
            ("baton-retry-on", "poison"),
        ] {
            assert!(wishes(&headers(&[bad])).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_time_is_refused_with_the_rule_that_it_breaks() {
        assert_eq!(duration("Baton-Delay", "1y").map_err(|_| ()), Ok(Duration::from_secs(31_557_600)));
        for (text, rule) in [("30", "a unit"), ("0s", "longer than nothing"), ("2y", "366d is the most")] {
            let said = duration("Baton-Delay", text).unwrap_err().of_one().to_string();
            assert!(said.contains(rule) && said.contains("Baton-Delay") && said.contains(text), "{said}");
        }
    }

    #[test]
    fn a_call_may_not_wait_beyond_its_deadline() {
        let read = |deadline: &str| wishes(&headers(&[("baton-delay", "30s"), ("baton-deadline", deadline)]));
        assert_eq!(read("31s").unwrap().options.delay, Some(Duration::from_secs(30)));
        assert!(read("30s").is_err());
    }

    #[test]
    fn a_trace_context_that_is_wrong_is_left_out() {
        let good = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let read = wishes(&headers(&[("traceparent", good), ("tracestate", "a=1"), ("tracestate", "b=2")])).unwrap();
        assert_eq!(
            (read.options.traceparent.as_deref(), read.options.tracestate.as_deref()),
            (Some(good), Some("a=1,b=2"))
        );
        for bad in ["", "00-xyz", "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"] {
            let read = wishes(&headers(&[("traceparent", bad), ("tracestate", "a=1")])).unwrap();
            assert_eq!((read.options.traceparent, read.options.tracestate), (None, None), "{bad:?}");
        }
    }

    #[test]
    fn a_location_holds_any_id() {
        let function = "acme/resize".parse().unwrap();
        let id = CallId::parse("order/42#a%").unwrap();
        assert_eq!(location(&function, &id), "/v1/calls/acme/resize/order%2F42%23a%25");
    }
}
