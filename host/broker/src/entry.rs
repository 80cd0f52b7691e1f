//! Text becomes types: a stream entry's fields are read into a [`Call`] here, once, or refused with the reason.

use std::sync::Arc;
use std::time::Duration;

use baton_model::execution::{EventFor, StepRef};
use baton_model::{
    ATTEMPTS_MAX, BACKOFF_MAX, Call, CallId, DELAY_MAX, EntryId, FunctionId, Name, OrderKey, PRIORITY_RULE,
    PastAttempt, Priority, ReplyTo, RetryWish, Tenants, delay_of, is_own_reply,
};
use bytes::Bytes;
use tokio::sync::watch;

use crate::seal::{DEPTH, OF_HOSTS, STEP, Seal};

/// The most headers that one call may carry.
const HEADERS_MAX: usize = 64;
/// A number that no attempt of a call reaches.
const ATTEMPT_MAX: u32 = 1_000_000;
/// The longest value of one field other than the payload, in bytes.
const TEXT_BYTES_MAX: usize = 4096;
/// The longest account of a call's attempts; hosts keep it far below.
const HISTORY_BYTES_MAX: usize = 64 << 10;

/// How the names of the attributes of CloudEvents begin.
const OF_EVENTS: &str = "ce-";

/// Which rule an entry breaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MalformedReason {
    /// A field is missing, doubled, unknown or has a value that it must not have.
    Malformed,
    /// The payload is larger than allowed.
    Oversize,
    /// The notice would go to a channel that is not the tenant's own.
    BadReply,
}

impl MalformedReason {
    /// The word that stands in the dead letter.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::Oversize => "oversize",
            Self::BadReply => "bad-reply",
        }
    }
}

/// An entry that is no call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Malformed {
    /// The entry.
    pub entry: EntryId,
    /// The call's id, as far as it could be read; the entry's otherwise.
    pub id: CallId,
    /// The execution, if it was to be an event for one.
    pub execution: Option<CallId>,
    /// Where the caller listens, as far as it could be read.
    pub reply: Option<ReplyTo>,
    /// Whose step it is, if a host wrote that.
    pub step: Option<Box<StepRef>>,
    /// Which rule it breaks.
    pub reason: MalformedReason,
    /// The field, the rule and the mend, for people.
    pub detail: String,
}

/// What entries are held against, whoever's they are.
#[derive(Debug, Clone)]
pub(crate) struct Rules {
    pub(crate) payload_bytes_max: usize,
    pub(crate) tenants: watch::Receiver<Tenants>,
    pub(crate) seal: Arc<Seal>,
}

/// What the entries of one function are held against.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rule<'a> {
    pub(crate) payload_bytes_max: usize,
    pub(crate) own_replies_only: bool,
    pub(crate) seal: &'a Seal,
}

impl Rules {
    /// As they are now.
    pub(crate) fn of(&self, function: &FunctionId) -> Rule<'_> {
        let own_replies_only = self.tenants.borrow().of(function.tenant()).own_replies_only;
        Rule { payload_bytes_max: self.payload_bytes_max, own_replies_only, seal: &self.seal }
    }
}

/// What a single field may be wrong in.
type FieldResult<T> = Result<T, String>;

#[derive(Default)]
struct Fields {
    payload: Option<Bytes>,
    id: Option<CallId>,
    media_type: Option<String>,
    reply: Option<ReplyTo>,
    deadline_ms: Option<u64>,
    traceparent: Option<String>,
    tracestate: Option<String>,
    version: Option<()>,
    key: Option<OrderKey>,
    priority: Option<Priority>,
    delay: Option<Duration>,
    attempt: Option<u32>,
    spent: Option<u32>,
    history: Option<Vec<PastAttempt>>,
    execution: Option<CallId>,
    event: Option<Name>,
    step: Option<Box<StepRef>>,
    retry: RetryWish,
    accepted_ms: Option<u64>,
    headers: Vec<(String, String)>,
}

/// Reads one entry of `function`'s stream. `fields` are names and values in turn.
pub(crate) fn read(
    function: &FunctionId,
    entry: EntryId,
    fields: Vec<Vec<u8>>,
    rule: Rule<'_>,
) -> Result<Call, Malformed> {
    let Rule { payload_bytes_max, own_replies_only, seal } = rule;
    let mut read = Fields::default();
    let mut fault: Option<(MalformedReason, String)> = None;
    let mut rest = fields.into_iter();
    // A fault does not end the loop: the id and the reply channel may stand behind it, and the caller wants to know.
    while let (Some(name), Some(value)) = (rest.next(), rest.next()) {
        if name == b"payload" && value.len() > payload_bytes_max {
            let bytes = value.len();
            let detail =
                format!("the payload has {bytes} bytes, the limit is {payload_bytes_max}; send a reference instead");
            fault = Some((MalformedReason::Oversize, detail));
        } else if let Err(detail) = read.take(&name, value)
            && fault.is_none()
        {
            fault = Some((MalformedReason::Malformed, detail));
        }
    }
    // Whatever else is wrong, the execution whose step it is learns of it.
    if let Err(detail) = read.unseal(function, seal)
        && fault.is_none()
    {
        fault = Some((MalformedReason::Malformed, detail));
    }
    if fault.is_none() && read.spent.unwrap_or(0) >= read.attempt.unwrap_or(1) {
        let detail = "the field `spent` is not below `attempt`; hosts write it, callers leave it out".to_owned();
        fault = Some((MalformedReason::Malformed, detail));
    }
    let is_wake = read.event.is_none() && read.execution.is_some();
    if fault.is_none()
        && let Err(rule) = read.for_an_execution()
    {
        fault = Some((MalformedReason::Malformed, rule.to_owned()));
    }
    if fault.is_none() && read.payload.is_none() {
        let detail = "the field `payload` is missing; it holds the input, and may be empty".to_owned();
        fault = Some((MalformedReason::Malformed, detail));
    }
    if own_replies_only && let Some(reply) = read.reply.take_if(|reply| !is_own_reply(function.tenant(), reply)) {
        let tenant = function.tenant();
        let detail = format!(
            "the field `reply` is {:?}; notices of the tenant {tenant} go to channels that start with `{tenant}.` alone",
            shortened(reply.as_str())
        );
        // Nobody is told: whose channel it is, is in doubt.
        fault = Some((MalformedReason::BadReply, detail));
    }
    // A host that puts a call back writes its id down, whosever it is; only one that Redis gave has that form.
    let is_own = |id: &CallId| read.accepted_ms.is_none() || EntryId::parse(id.as_str()).is_none();
    let id_is_own = read.id.as_ref().is_some_and(is_own);
    let id = read.id.unwrap_or_else(|| entry_as_call_id(entry));
    if let Some((reason, detail)) = fault {
        let execution = read.execution.filter(|_| read.event.is_some());
        return Err(Malformed { entry, id, execution, reply: read.reply, step: read.step, reason, detail });
    }
    let accepted_ms = read.accepted_ms.unwrap_or_else(|| entry.ms());
    let left = |deadline: u64| Duration::from_millis(deadline.saturating_sub(accepted_ms));
    Ok(Call {
        function: function.clone(),
        id,
        id_is_own,
        payload: read.payload.unwrap_or_default(),
        media_type: read.media_type.unwrap_or_else(|| "application/json".to_owned()),
        reply: read.reply,
        deadline_ms: read.deadline_ms,
        traceparent: read.traceparent,
        tracestate: read.tracestate,
        headers: read.headers,
        key: read.key,
        // The stream says it of a call that does not say it itself.
        priority: read.priority.unwrap_or(entry.level()),
        delay: delay_of(read.delay, read.accepted_ms.is_some(), read.deadline_ms.map(left)),
        attempt: read.attempt.unwrap_or(1),
        spent: read.spent.unwrap_or(0),
        history: read.history.unwrap_or_default(),
        step: read.step,
        event: read.event.zip(read.execution.clone()).map(|(name, execution)| Box::new(EventFor { execution, name })),
        is_wake,
        retry: read.retry,
        accepted_ms,
    })
}

pub(crate) fn entry_as_call_id(entry: EntryId) -> CallId {
    CallId::parse(&entry.to_string()).expect("an entry id is digits and a dash")
}

impl Fields {
    fn take(&mut self, name: &[u8], value: Vec<u8>) -> FieldResult<()> {
        if name == b"payload" {
            return once("payload", &mut self.payload, Bytes::from(value));
        }
        if name == b"history" {
            let read = if value.len() > HISTORY_BYTES_MAX { None } else { serde_json::from_slice(&value).ok() };
            let read = read.filter(|all: &Vec<PastAttempt>| all.iter().all(PastAttempt::is_plain));
            let rule = "an account of attempts; hosts write it, callers leave it out";
            return once("history", &mut self.history, parsed("history", read, rule)?);
        }
        let name = std::str::from_utf8(name).map_err(|_| "the name of a field is not UTF-8".to_owned())?;
        let value = text(name, value)?;
        match name {
            "id" => once(name, &mut self.id, parsed(name, CallId::parse(&value), ID_RULE)?),
            "reply" => once(name, &mut self.reply, parsed(name, ReplyTo::parse(&value), ID_RULE)?),
            "type" => {
                once(name, &mut self.media_type, parsed(name, media_type(&value), "a media type such as text/plain")?)
            }
            "deadline" => {
                once(name, &mut self.deadline_ms, parsed(name, value.parse().ok(), "a time in Unix milliseconds")?)
            }
            "traceparent" => once(
                name,
                &mut self.traceparent,
                parsed(name, traceparent(&value), "a W3C traceparent: 00-<32 hex>-<16 hex>-<2 hex>")?,
            ),
            "tracestate" => once(name, &mut self.tracestate, value),
            "key" => once(name, &mut self.key, parsed(name, OrderKey::parse(&value), ID_RULE)?),
            "priority" => once(name, &mut self.priority, parsed(name, value.parse().ok(), PRIORITY_RULE)?),
            "delay" => once(name, &mut self.delay, parsed(name, delay(&value), DELAY_RULE)?),
            "v" => once(name, &mut self.version, parsed(name, (value == "1").then_some(()), "`1`")?),
            "attempt" => {
                let attempt = value.parse().ok().filter(|n| (1..=ATTEMPT_MAX).contains(n));
                once(
                    name,
                    &mut self.attempt,
                    parsed(name, attempt, "a number from 1 on; hosts write it, callers leave it out")?,
                )
            }
            "spent" => {
                let rule = "a number of attempts; hosts write it, callers leave it out";
                once(name, &mut self.spent, parsed(name, value.parse().ok().filter(|n| *n < ATTEMPT_MAX), rule)?)
            }
            "accepted" => {
                let rule = "a time in Unix milliseconds; hosts write it, callers leave it out";
                once(name, &mut self.accepted_ms, parsed(name, value.parse().ok(), rule)?)
            }
            "execution" => once(name, &mut self.execution, parsed(name, CallId::parse(&value), ID_RULE)?),
            "event" => {
                let event = Name::parse(&value)
                    .map_err(|rule| format!("the field `{name}` must be an event's name: {rule}"))?;
                once(name, &mut self.event, event)
            }
            "attempts_max" => {
                let count = value.parse().ok().filter(|n| (1..=ATTEMPTS_MAX).contains(n));
                once(name, &mut self.retry.attempts_max, parsed(name, count, "a number of attempts from 1 to 1000")?)
            }
            "backoff_base_ms" => once(name, &mut self.retry.backoff_base, parsed(name, backoff(&value), BACKOFF_RULE)?),
            "backoff_max_ms" => once(name, &mut self.retry.backoff_max, parsed(name, backoff(&value), BACKOFF_RULE)?),
            "retry_on" => {
                let failures = value.parse().map_err(|rule: String| format!("the field `{name}` must be {rule}"))?;
                once(name, &mut self.retry.on, failures)
            }
            header if header.starts_with("x-") || header.starts_with(OF_EVENTS) => self.take_header(header, value),
            unknown => Err(format!(
                "the field {:?} is unknown; a call has payload, id, type, reply, deadline, delay, key, priority, traceparent, tracestate, \
                 attempts_max, backoff_base_ms, backoff_max_ms, retry_on, execution, event, v, x-… and ce-… fields",
                shortened(unknown)
            )),
        }
    }

    /// Opens what hosts wrote. A function sees a depth as a plain number, and nothing by which it could be said again.
    fn unseal(&mut self, function: &FunctionId, seal: &Seal) -> FieldResult<()> {
        if let Some(at) = self.headers.iter().position(|(name, _)| name == STEP) {
            let (name, value) = self.headers.swap_remove(at);
            let step = seal.open_text(function, STEP, &value).and_then(StepRef::parse);
            self.step =
                Some(Box::new(step.ok_or_else(|| format!("the field `{name}` is for hosts alone; leave it out"))?));
        }
        for (name, value) in self.headers.iter_mut().filter(|(name, _)| name.starts_with(OF_HOSTS)) {
            let depth = seal.open(function, value).filter(|_| name == DEPTH);
            *value = depth.ok_or_else(|| format!("the field `{name}` is for hosts alone; leave it out"))?.to_string();
        }
        Ok(())
    }

    /// Whether what it says of an execution is an event for it, or the wake that hosts write, or nothing.
    fn for_an_execution(&self) -> Result<(), &'static str> {
        if self.execution.is_some() && self.key.is_some() {
            return Err(
                "the field `key` is for calls; events stand in the log in the order in which they came, so leave it out",
            );
        }
        match (&self.event, &self.execution) {
            (None, None) | (Some(_), Some(_)) => Ok(()),
            (Some(_), None) => Err("the field `execution` is missing; it says which execution the `event` is for"),
            (None, Some(wake)) if wake.as_str() == "1" => Ok(()),
            (None, Some(_)) => Err("the field `event` is missing; it is the name of the event for the `execution`"),
        }
    }

    fn take_header(&mut self, name: &str, value: String) -> FieldResult<()> {
        let (own, marks) = match name.strip_prefix(OF_EVENTS) {
            Some(attribute) => (attribute, false),
            None => (&name[2..], true),
        };
        let is_allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || (marks && (b == b'-' || b == b'_'));
        if own.is_empty() || name.len() > 64 || !own.bytes().all(is_allowed) {
            let name = shortened(name);
            return Err(format!(
                "the field {name:?} is no header: its name is x- and 1 to 62 of a-z, 0-9, - and _, or ce- and 1 to 61 of a-z and 0-9"
            ));
        }
        if self.headers.len() == HEADERS_MAX {
            return Err(format!("there are more than {HEADERS_MAX} x-… and ce-… fields"));
        }
        if self.headers.iter().any(|(have, _)| have == name) {
            return Err(format!("the field `{name}` is there twice"));
        }
        self.headers.push((name.to_owned(), value));
        Ok(())
    }
}

const BACKOFF_RULE: &str = "a time in milliseconds, a day at the most";

fn backoff(value: &str) -> Option<Duration> {
    value.parse().ok().map(Duration::from_millis).filter(|time| *time <= BACKOFF_MAX)
}

const ID_RULE: &str = "1 to 128 bytes of printable ASCII without spaces";

const DELAY_RULE: &str = "a number of milliseconds, at most 31622400000 (366 days)";

fn delay(value: &str) -> Option<Duration> {
    value.parse().ok().map(Duration::from_millis).filter(|delay| *delay <= DELAY_MAX)
}

fn once<T>(name: &str, slot: &mut Option<T>, value: T) -> FieldResult<()> {
    if slot.is_some() {
        return Err(format!("the field `{name}` is there twice"));
    }
    *slot = Some(value);
    Ok(())
}

fn parsed<T>(name: &str, value: Option<T>, rule: &str) -> FieldResult<T> {
    value.ok_or_else(|| format!("the field `{name}` must be {rule}"))
}

fn text(name: &str, value: Vec<u8>) -> FieldResult<String> {
    let name = shortened(name);
    if value.len() > TEXT_BYTES_MAX {
        return Err(format!("the field `{name}` has {} bytes, the limit is {TEXT_BYTES_MAX}", value.len()));
    }
    let value = String::from_utf8(value).map_err(|_| format!("the field `{name}` is not UTF-8"))?;
    if value.chars().any(char::is_control) {
        return Err(format!("the field `{name}` has control characters in it"));
    }
    Ok(value)
}

fn media_type(value: &str) -> Option<String> {
    let plain = value.is_ascii() && value.len() <= 255;
    let (kind, rest) = value.split_once('/')?;
    let token = |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$&^_.+-*".contains(&b));
    (plain && token(kind) && token(rest.split(';').next()?.trim_end())).then(|| value.to_owned())
}

/// The form of version 00; later versions may append to it.
fn traceparent(value: &str) -> Option<String> {
    let mut parts = value.split('-');
    let mut hex = |len: usize| {
        let part = parts.next()?;
        let lower_hex = part.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        (part.len() == len && lower_hex).then_some(part)
    };
    let version = hex(2)?;
    hex(32)?;
    hex(16)?;
    hex(2)?;
    (version != "ff" && (version != "00" || parts.next().is_none())).then(|| value.to_owned())
}

/// A stranger's text, fit for a message: short, and nothing in it that acts on a terminal or begins a line.
fn shortened(text: &str) -> String {
    text.chars().take(80).map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    type RawFields<'a> = &'a [(&'a str, &'a [u8])];

    fn read_fields(fields: RawFields<'_>) -> Result<Call, Malformed> {
        read_under(Rule { payload_bytes_max: 16, own_replies_only: false, seal: &Seal::default() }, fields)
    }

    fn read_under(rule: Rule<'_>, fields: RawFields<'_>) -> Result<Call, Malformed> {
        let flat = fields.iter().flat_map(|(name, value)| [name.as_bytes().to_vec(), value.to_vec()]).collect();
        read(&"default/echo".parse().unwrap(), EntryId::parse("1700000000000-3").unwrap(), flat, rule)
    }

    #[test]
    fn a_payload_alone_is_a_call() {
        let call = read_fields(&[("payload", b"\xff\0")]).unwrap();
        assert_eq!(call.id.as_str(), "1700000000000-3");
        assert_eq!(
            (call.media_type.as_str(), call.attempt, call.accepted_ms),
            ("application/json", 1, 1_700_000_000_000)
        );
        assert_eq!(&call.payload[..], b"\xff\0");
        assert!(!call.id_is_own);
    }

    #[test]
    fn every_optional_field_is_read() {
        let trace = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let call = read_fields(&[
            ("id", b"order-1"),
            ("payload", b""),
            ("type", b"text/plain; charset=utf-8"),
            ("reply", b"me"),
            ("deadline", b"1800000000000"),
            ("traceparent", trace),
            ("tracestate", b"a=b"),
            ("x-tenant-hint", b"blue"),
            ("ce-type", b"order.placed"),
            ("v", b"1"),
        ])
        .unwrap();
        assert!(call.id_is_own);
        assert_eq!(call.deadline_ms, Some(1_800_000_000_000));
        let headers: Vec<(&str, &str)> = call.headers.iter().map(|(name, value)| (&**name, &**value)).collect();
        assert_eq!(headers, [("x-tenant-hint", "blue"), ("ce-type", "order.placed")]);
    }

    #[test]
    fn what_a_caller_asks_for_if_its_call_fails_is_read() {
        let call = read_fields(&[
            ("payload", b""),
            ("attempts_max", b"7"),
            ("backoff_base_ms", b"50"),
            ("backoff_max_ms", b"0"),
            ("retry_on", b"trap,timeout"),
            ("attempt", b"3"),
            ("spent", b"2"),
            ("history", br#"[{"attempt":1,"end":"retry","error":"busy"}]"#),
        ])
        .unwrap();
        let RetryWish { attempts_max, backoff_base, backoff_max, on } = call.retry;
        assert_eq!((attempts_max, on.unwrap().to_string().as_str()), (Some(7), "trap,timeout"));
        assert_eq!((backoff_base, backoff_max), (Some(Duration::from_millis(50)), Some(Duration::ZERO)));
        assert_eq!((call.spent, call.history[0].error.as_str()), (2, "busy"));
        let endless = read_fields(&[("payload", b""), ("attempt", b"2"), ("spent", b"2")]).unwrap_err();
        assert!(endless.detail.contains("`spent`"), "it would be tried for ever: {}", endless.detail);
    }

    #[test]
    fn a_call_that_was_put_back_keeps_whose_id_it_has() {
        let put_back =
            |id: &[u8]| read_fields(&[("payload", b""), ("id", id), ("accepted", b"5"), ("attempt", b"2")]).unwrap();
        assert!(put_back(b"order-1").id_is_own);
        assert!(!put_back(b"1700000000000-1").id_is_own);
        assert_eq!((put_back(b"order-1").attempt, put_back(b"order-1").accepted_ms), (2, 5));
    }

    #[test]
    fn a_call_has_the_level_that_it_says_or_else_that_of_its_stream() {
        let level_in = |stream: Priority, fields: RawFields<'_>| {
            let entry = EntryId::parse("5-0").unwrap().of_level(stream);
            let flat = fields.iter().flat_map(|(name, value)| [name.as_bytes().to_vec(), value.to_vec()]).collect();
            let rule = Rule { payload_bytes_max: 16, own_replies_only: false, seal: &Seal::default() };
            let call = read(&"default/echo".parse().unwrap(), entry, flat, rule).unwrap();
            (call.priority, call.id.to_string())
        };
        let plain: RawFields<'_> = &[("payload", b"")];
        assert_eq!(level_in(Priority::Normal, plain), (Priority::Normal, "5-0".to_owned()));
        assert_eq!(level_in(Priority::High, plain), (Priority::High, "5-0-high".to_owned()), "another call than 5-0");
        let low: RawFields<'_> = &[("payload", b""), ("priority", b"low"), ("id", b"mine")];
        assert_eq!(level_in(Priority::Normal, low), (Priority::Low, "mine".to_owned()));
        assert_eq!(level_in(Priority::High, low).0, Priority::Low);
    }

    #[test]
    fn a_call_waits_until_a_host_has_put_it_back() {
        let delay = |more: (&'static str, &'static [u8])| {
            read_fields(&[("payload", b""), ("delay", b"1500"), more]).unwrap().delay
        };
        assert_eq!(delay(("v", b"1")), Some(Duration::from_millis(1500)));
        assert_eq!(delay(("deadline", b"1700000000700")), Some(Duration::from_millis(700)), "the entry is of …000");
        assert_eq!(delay(("accepted", b"1700000000000")), None);
    }

    #[test]
    fn what_breaks_a_rule_is_named_with_its_field() {
        let long = vec![b'a'; 129];
        let table: &[(RawFields<'_>, &str)] = &[
            (&[("id", b"a")], "`payload` is missing"),
            (&[("payload", b""), ("payload", b"")], "`payload` is there twice"),
            (&[("payload", b""), ("colour", b"red")], "\"colour\" is unknown"),
            (&[("payload", b""), ("id", b"a b")], "`id` must be"),
            (&[("payload", b""), ("id", &long)], "`id` must be"),
            (&[("payload", b""), ("id", b"\xff")], "`id` is not UTF-8"),
            (&[("payload", b""), ("deadline", b"soon")], "`deadline` must be"),
            (&[("payload", b""), ("delay", b"5s")], "`delay` must be"),
            (&[("payload", b""), ("delay", b"99999999999")], "`delay` must be"),
            (&[("payload", b""), ("priority", b"urgent")], "`priority` must be `high`, `normal` or `low`"),
            (&[("payload", b""), ("priority", b"low"), ("priority", b"low")], "`priority` is there twice"),
            (&[("payload", b""), ("v", b"2")], "`v` must be `1`"),
            (&[("payload", b""), ("type", b"json")], "`type` must be"),
            (&[("payload", b""), ("traceparent", b"00-xyz")], "`traceparent` must be"),
            (&[("payload", b""), ("attempt", b"0")], "`attempt` must be"),
            (&[("payload", b""), ("spent", b"-1")], "`spent` must be"),
            (&[("payload", b""), ("history", b"[{}]")], "`history` must be"),
            (&[("payload", b""), ("history", br#"[{"attempt":1,"end":"\u001b[31m"}]"#)], "`history` must be"),
            (&[("payload", b""), ("attempts_max", b"0")], "`attempts_max` must be"),
            (&[("payload", b""), ("attempts_max", b"1001")], "`attempts_max` must be"),
            (&[("payload", b""), ("backoff_base_ms", b"86400001")], "`backoff_base_ms` must be"),
            (&[("payload", b""), ("backoff_max_ms", b"soon")], "`backoff_max_ms` must be"),
            (&[("payload", b""), ("retry_on", b"poison")], "`retry_on` must be some of retry,host-fault,trap"),
            (&[("payload", b""), ("x-", b"1")], "is no header"),
            (&[("payload", b""), ("ce-", b"1")], "is no header"),
            (&[("payload", b""), ("ce-a_b", b"1")], "is no header"),
            (&[("payload", b""), ("x-a", b"1"), ("x-a", b"2")], "`x-a` is there twice"),
            (&[("payload", b""), ("x-a", b"1\n2")], "control characters"),
            (&[("payload", b""), ("x-baton-depth", b"7")], "`x-baton-depth` is for hosts alone"),
            (&[("payload", b""), ("x-baton-colour", b"red")], "`x-baton-colour` is for hosts alone"),
        ];
        for (fields, expected) in table {
            let fault = read_fields(fields).unwrap_err();
            assert_eq!(fault.reason, MalformedReason::Malformed);
            assert!(fault.detail.contains(expected), "{fields:?}: {}", fault.detail);
        }
    }

    #[test]
    fn a_tenant_may_be_held_to_reply_channels_of_its_own() {
        let seal = Seal::default();
        let rule = Rule { payload_bytes_max: 16, own_replies_only: true, seal: &seal };
        let read = |reply: &[u8]| read_under(rule, &[("payload", b""), ("reply", reply)]);
        assert_eq!(read(b"default.me").unwrap().reply.unwrap().as_str(), "default.me");
        assert!(read_under(rule, &[("payload", b"")]).is_ok(), "no notice is wanted");
        let oversize = read_under(rule, &[("payload", &[0; 17]), ("reply", b"other.me")]).unwrap_err();
        for fault in [read(b"other.me").unwrap_err(), read(b"defaults").unwrap_err(), oversize] {
            assert_eq!((fault.reason, fault.reply), (MalformedReason::BadReply, None), "{}", fault.detail);
            assert!(fault.detail.contains("start with `default.` alone"), "{}", fault.detail);
        }
    }

    #[test]
    fn an_oversize_call_still_knows_whom_to_tell() {
        let fault = read_fields(&[("payload", &[0; 17]), ("id", b"mine"), ("reply", b"me")]).unwrap_err();
        assert_eq!((fault.reason, fault.id.as_str()), (MalformedReason::Oversize, "mine"));
        assert_eq!(fault.reply.unwrap().as_str(), "me");
    }
}
