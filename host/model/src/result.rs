//! The result document: one line of JSON, a line feed, then the payload. Written once, read by clients in any language.

use std::fmt;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::{CallId, Digest, HostId, Timings};

/// How a call ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// The function answered.
    Ok,
    /// The function refused the call.
    Error,
    /// The call was given up and lies among the dead letters.
    Dead,
    /// Somebody took the call back.
    Cancelled,
    /// The call's deadline passed first.
    Expired,
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ok => "ok",
            Self::Error => "error",
            Self::Dead => "dead",
            Self::Cancelled => "cancelled",
            Self::Expired => "expired",
        })
    }
}

/// Why a call has no answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CallError {
    /// For programs: one word.
    pub code: String,
    /// For people.
    pub message: String,
}

/// A call's terminal result, as it stands under its key and comes in notices.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResultDocument {
    /// How the call ended.
    pub status: Status,
    /// The call.
    pub id: CallId,
    /// Media type of the payload.
    #[serde(rename = "type")]
    pub media_type: String,
    /// The payload's size in bytes. [`ResultDocument::encode`] sets it.
    length: usize,
    /// Why there is no answer; none if and only if the status is `ok`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<CallError>,
    /// How many attempts the call had.
    #[serde(default)]
    pub attempts: u32,
    /// The component that gave the result; none if no attempt was made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<Digest>,
    /// The host that settled the call.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<HostId>,
    /// When Redis accepted the call, in Unix milliseconds.
    #[serde(default)]
    pub accepted_ms: u64,
    /// When the attempt that gave the result started, in Unix milliseconds; none if none was made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_ms: Option<u64>,
    /// When the result was made, in Unix milliseconds.
    #[serde(default)]
    pub finished_ms: u64,
    /// Where the time of the attempt that gave the result went; none if it was not worth the room, or if none was made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timings: Option<Timings>,
    /// The answer, byte for byte.
    #[serde(skip)]
    pub payload: Bytes,
}

/// Why bytes are no result document.
#[derive(Debug, thiserror::Error)]
pub enum DocumentError {
    /// There is no line feed after the first line.
    #[error("a result document starts with a line of JSON and a line feed; there is none")]
    NoLine,
    /// The first line is no valid JSON of the kind.
    #[error("the first line of a result document is not what it should be: {0}")]
    BadLine(#[from] serde_json::Error),
    /// Fewer bytes follow than the line says.
    #[error("a result document says that {length} bytes follow, there are {have}")]
    Short {
        /// What the line says.
        length: usize,
        /// What there is.
        have: usize,
    },
}

impl ResultDocument {
    /// A document with no attempt recorded yet; the caller fills in what it knows.
    #[must_use]
    pub fn new(status: Status, id: CallId, media_type: String, payload: Bytes) -> Self {
        Self {
            status,
            id,
            media_type,
            length: payload.len(),
            error: None,
            attempts: 0,
            digest: None,
            host: None,
            accepted_ms: 0,
            started_ms: None,
            finished_ms: 0,
            timings: None,
            payload,
        }
    }

    /// The document of a call that was taken back.
    #[must_use]
    pub fn cancelled(id: CallId, finished_ms: u64) -> Self {
        let error = CallError { code: "cancelled".to_owned(), message: "the call was taken back".to_owned() };
        Self {
            error: Some(error),
            finished_ms,
            ..Self::new(Status::Cancelled, id, "application/json".to_owned(), Bytes::new())
        }
    }

    /// The document as bytes.
    ///
    /// # Panics
    /// Never: every field can be written as JSON.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(384 + self.payload.len());
        serde_json::to_writer(&mut out, self).expect("a result document has only fields that JSON can hold");
        out.push(b'\n');
        out.extend_from_slice(&self.payload);
        out
    }

    /// Reads one document from the front of `bytes` and leaves the rest there. A notice may hold several.
    ///
    /// # Errors
    /// [`DocumentError`] if the front is no whole document; `bytes` is then left as it was.
    pub fn decode(bytes: &mut Bytes) -> Result<Self, DocumentError> {
        let line_end = memchr::memchr(b'\n', bytes).ok_or(DocumentError::NoLine)?;
        let mut document: Self = serde_json::from_slice(&bytes[..line_end])?;
        let rest = &bytes[line_end + 1..];
        if rest.len() < document.length {
            return Err(DocumentError::Short { length: document.length, have: rest.len() });
        }
        let start = line_end + 1;
        let end = start + document.length;
        document.payload = bytes.slice(start..end);
        *bytes = bytes.slice(end..);
        Ok(document)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn document(payload: &'static [u8]) -> ResultDocument {
        let id = CallId::parse("1-0").unwrap();
        ResultDocument {
            attempts: 1,
            digest: Some(Digest::of(b"x")),
            host: HostId::parse("h"),
            accepted_ms: 5,
            started_ms: Some(6),
            finished_ms: 7,
            ..ResultDocument::new(Status::Ok, id, "application/json".into(), Bytes::from_static(payload))
        }
    }

    #[test]
    fn the_line_has_the_fields_of_the_protocol_in_their_order() {
        let encoded = document(b"{}").encode();
        let line = String::from_utf8(encoded).unwrap();
        assert!(
            line.starts_with(
                r#"{"status":"ok","id":"1-0","type":"application/json","length":2,"attempts":1,"digest":""#
            ),
            "{line}"
        );
        assert!(line.ends_with("\"host\":\"h\",\"accepted_ms\":5,\"started_ms\":6,\"finished_ms\":7}\n{}"), "{line}");
    }

    #[test]
    fn documents_back_to_back_are_read_one_by_one() {
        let mut bytes: Bytes = [document(b"a\nb").encode(), document(b"").encode()].concat().into();
        assert_eq!(ResultDocument::decode(&mut bytes).unwrap(), document(b"a\nb"));
        assert_eq!(ResultDocument::decode(&mut bytes).unwrap(), document(b""));
        assert!(bytes.is_empty());
    }

    #[test]
    fn a_cut_document_is_an_error_at_every_byte() {
        let whole = document(b"payload").encode();
        for end in 0..whole.len() {
            let mut cut = Bytes::copy_from_slice(&whole[..end]);
            assert!(ResultDocument::decode(&mut cut).is_err(), "cut at {end}");
            assert_eq!(cut.len(), end, "a failed read takes nothing");
        }
    }
}
