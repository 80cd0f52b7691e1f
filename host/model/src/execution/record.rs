//! A fact as it stands in Redis: the names and values of one stream entry, the last of which chains it to those before.

use bytes::Bytes;
use sha1::{Digest as _, Sha1};

use super::event::{Event, Pause, Received, Started, StepCall};
use crate::{CallError, Digest, Reply, ResultDocument};

/// Names and values, in their order.
pub type Record = Vec<(String, Bytes)>;

/// The name of the field by which an entry is chained to the one before it.
const CHAIN: &str = "chain";

/// Why an entry is no fact.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// A field that has to be there is not.
    #[error("its field `{0}` is missing")]
    Missing(&'static str),
    /// A field is not what it should be.
    #[error("its field `{field}` is {value:?}, which is not {rule}")]
    Bad {
        /// The field.
        field: &'static str,
        /// The beginning of what it says.
        value: String,
        /// What it should be.
        rule: &'static str,
    },
    /// There is no such event.
    #[error("{0:?} is no event of a log; a newer host may have written it")]
    Unknown(String),
}

/// The value that chains an entry with these fields to one that was chained by `previous` (empty for the first): the SHA-1,
/// in hex, of that text and then of each name and value with its length before it. `scripts/execution.lua` makes the same.
#[must_use]
pub fn chain<'a>(previous: &str, fields: impl Iterator<Item = (&'a str, &'a [u8])>) -> String {
    let mut sha = Sha1::new();
    sha.update(previous);
    for (name, value) in fields.filter(|(name, _)| *name != CHAIN) {
        for part in [name.as_bytes(), value] {
            let mut text = [0; 21];
            sha.update(length(part.len(), &mut text));
            sha.update(part);
        }
    }
    let mut link = String::with_capacity(40);
    for byte in sha.finalize() {
        link.extend([byte >> 4, byte & 15].map(|half| char::from(HEX[usize::from(half)])));
    }
    link
}

const HEX: &[u8; 16] = b"0123456789abcdef";

/// A length and a colon. Every wake writes some thousands of them, so it is done without `format!`.
fn length(of: usize, text: &mut [u8; 21]) -> &[u8] {
    let (mut at, mut left) = (20, of);
    text[at] = b':';
    loop {
        at -= 1;
        text[at] = b'0' + u8::try_from(left % 10).unwrap_or(0);
        left /= 10;
        if left == 0 {
            return &text[at..];
        }
    }
}

/// The chain of a record as it says itself.
pub(super) fn chain_said(record: &Record) -> Option<&[u8]> {
    record.iter().find(|(name, _)| name == CHAIN).map(|(_, value)| &value[..])
}

impl Event {
    /// Its fields, but for when it was written and the chain, which the script adds that appends it.
    #[must_use]
    pub fn to_record(&self) -> Record {
        let mut out = Fields(vec![("event".to_owned(), Bytes::from_static(self.as_str().as_bytes()))]);
        if let Some(step) = self.asked_in().or(self.answers()) {
            out.text("step", step);
        }
        match self {
            Self::Started(Started { run, seed, input, headers }) => {
                out.text("run", run).text("seed", seed).reply(input);
                for (name, value) in headers {
                    out.text(name, value);
                }
            }
            Self::CallScheduled { call, .. } => {
                out.text("function", &call.function).text("call", &call.id).reply(&call.payload);
            }
            Self::CallCompleted { result, .. } => out.0.push(("result".to_owned(), result.encode().into())),
            Self::TimerSet { pause, due_ms, .. } => {
                match pause {
                    Pause::For(ms) => out.text("for", ms),
                    Pause::Until(ms) => out.text("until", ms),
                };
                out.text("due", due_ms);
            }
            Self::EventAwaited { name, patience_ms, due_ms, .. } => {
                out.text("name", name);
                if let (Some(patience), Some(due)) = (patience_ms, due_ms) {
                    out.text("for", patience).text("due", due);
                }
            }
            Self::EventReceived(Received { id, name, payload }) => {
                out.text("id", id).text("name", name).reply(payload);
            }
            Self::Emitted { name, payload, .. } => {
                out.text("name", name).reply(payload);
            }
            Self::MovedToDigest { digest } => {
                out.text("digest", digest);
            }
            Self::Completed(reply) => {
                out.reply(reply);
            }
            Self::Failed(CallError { code, message }) => {
                out.text("code", code).text("message", message);
            }
            Self::TimerFired { .. } | Self::Cancelled => {}
        }
        out.0
    }

    /// Reads the fields of an entry. Those that it does not know it skips. Gives when it was written, too.
    pub(super) fn of_record(record: &Record) -> Result<(Self, u64), RecordError> {
        let at_ms = number(record, "at")?;
        let step = || number(record, "step").and_then(|n| u32::try_from(n).map_err(|_| bad(record, "step", "a step")));
        let event = match text(record, "event")? {
            "started" => Self::Started(started(record)?),
            "call-scheduled" => Self::CallScheduled {
                step: step()?,
                call: StepCall {
                    function: parsed(record, "function", NAME)?,
                    id: parsed(record, "call", ID)?,
                    payload: reply(record)?,
                },
            },
            "call-completed" => {
                let result = ResultDocument::decode(&mut value(record, "result")?.clone());
                let result = result.map_err(|_| bad(record, "result", "a result document"))?;
                Self::CallCompleted { step: step()?, result: Box::new(result) }
            }
            "timer-set" => {
                let pause = match find(record, "until") {
                    Some(_) => Pause::Until(number(record, "until")?),
                    None => Pause::For(number(record, "for")?),
                };
                Self::TimerSet { step: step()?, pause, due_ms: number(record, "due")? }
            }
            "timer-fired" => Self::TimerFired { step: step()? },
            "event-awaited" => {
                let (name, has_end) = (parsed(record, "name", NAME)?, find(record, "for").is_some());
                let optional = |field| has_end.then(|| number(record, field)).transpose();
                Self::EventAwaited { step: step()?, name, patience_ms: optional("for")?, due_ms: optional("due")? }
            }
            "event-received" => Self::EventReceived(Received {
                id: parsed(record, "id", ID)?,
                name: parsed(record, "name", NAME)?,
                payload: reply(record)?,
            }),
            "emitted" => Self::Emitted { step: step()?, name: parsed(record, "name", NAME)?, payload: reply(record)? },
            "moved-to-digest" => Self::MovedToDigest { digest: digest(record)? },
            "completed" => Self::Completed(reply(record)?),
            "failed" => Self::Failed(CallError {
                code: text(record, "code")?.to_owned(),
                message: text(record, "message")?.to_owned(),
            }),
            "cancelled" => Self::Cancelled,
            other => return Err(RecordError::Unknown(other.chars().take(80).collect())),
        };
        Ok((event, at_ms))
    }
}

const NAME: &str = "a name: a-z, 0-9 and -, a letter first, 63 at the most";
const ID: &str = "an id: 1 to 128 bytes of printable ASCII without spaces";

struct Fields(Record);

impl Fields {
    fn text(&mut self, name: &str, value: impl ToString) -> &mut Self {
        self.0.push((name.to_owned(), value.to_string().into()));
        self
    }

    fn reply(&mut self, reply: &Reply) -> &mut Self {
        self.text("type", &reply.media_type).0.push(("payload".to_owned(), reply.body.clone()));
        self
    }
}

fn started(record: &Record) -> Result<Started, RecordError> {
    let run = u32::try_from(number(record, "run")?).map_err(|_| bad(record, "run", "a number"))?;
    let is_header = |name: &str| name.starts_with("x-") || name.starts_with("ce-");
    let headers = record.iter().filter(|(name, _)| is_header(name));
    let headers = headers.map(|(name, value)| (name.clone(), String::from_utf8_lossy(value).into_owned())).collect();
    Ok(Started { run, seed: number(record, "seed")?, input: reply(record)?, headers })
}

fn find<'a>(record: &'a Record, field: &str) -> Option<&'a Bytes> {
    record.iter().find(|(name, _)| name == field).map(|(_, value)| value)
}

fn value<'a>(record: &'a Record, field: &'static str) -> Result<&'a Bytes, RecordError> {
    find(record, field).ok_or(RecordError::Missing(field))
}

fn text<'a>(record: &'a Record, field: &'static str) -> Result<&'a str, RecordError> {
    std::str::from_utf8(value(record, field)?).map_err(|_| bad(record, field, "UTF-8"))
}

fn number(record: &Record, field: &'static str) -> Result<u64, RecordError> {
    text(record, field)?.parse().map_err(|_| bad(record, field, "a whole number"))
}

fn parsed<T: std::str::FromStr>(record: &Record, field: &'static str, rule: &'static str) -> Result<T, RecordError> {
    text(record, field)?.parse().map_err(|_| bad(record, field, rule))
}

fn digest(record: &Record) -> Result<Digest, RecordError> {
    Digest::parse(text(record, "digest")?).ok_or_else(|| bad(record, "digest", "64 hexadecimal digits"))
}

fn reply(record: &Record) -> Result<Reply, RecordError> {
    Ok(Reply { media_type: text(record, "type")?.to_owned(), body: value(record, "payload")?.clone() })
}

fn bad(record: &Record, field: &'static str, rule: &'static str) -> RecordError {
    let value =
        find(record, field).map_or_else(String::new, |value| String::from_utf8_lossy(value).chars().take(80).collect());
    RecordError::Bad { field, value, rule }
}
