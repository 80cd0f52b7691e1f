//! A log as JSON, byte for byte: what is shown of it, kept in files, and read again to replay it.

use std::fmt;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use serde::de::{MapAccess, Visitor};
use serde::ser::SerializeMap as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::log::{Log, LogError};
use super::record::Record;
use crate::{CallId, FunctionId};

/// How the name of a field ends whose value is no text, and is written in Base64.
const BASE64: &str = "_base64";

/// An execution's log, and what its state says of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct History {
    /// The execution.
    pub id: CallId,
    /// Its function.
    pub function: FunctionId,
    /// `running`, `stuck`, `completed`, `failed` or `cancelled`.
    pub state: String,
    /// How many entries its log has, as its state says.
    pub length: u64,
    /// The entries, oldest first.
    pub events: Vec<Recorded>,
}

/// One entry: its position, and its fields under their names, as text; those that are no text in Base64, under their names and
/// `_base64`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recorded {
    /// Where it stands. The first is 1.
    pub position: u64,
    /// The fields.
    #[serde(flatten)]
    pub fields: Fields,
}

/// Names and values in the order in which they stand in Redis, which is part of what the chain of a log is made from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fields(Vec<(String, String)>);

impl Serialize for Fields {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (name, value) in &self.0 {
            map.serialize_entry(name, value)?;
        }
        map.end()
    }
}

impl<'de> Deserialize<'de> for Fields {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct InOrder;
        impl<'de> Visitor<'de> for InOrder {
            type Value = Fields;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the fields of an entry, each a text")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields, A::Error> {
                let mut fields = Vec::new();
                while let Some(field) = map.next_entry()? {
                    fields.push(field);
                }
                Ok(Fields(fields))
            }
        }
        deserializer.deserialize_map(InOrder)
    }
}

/// Why a history cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HistoryError {
    /// A field is not what it should be.
    #[error("the field `{field}` at position {position} is not what `baton exec history --json` writes")]
    Field {
        /// Where.
        position: u64,
        /// Which.
        field: String,
    },
    /// Something is wrong with the log itself.
    #[error(transparent)]
    Log(#[from] LogError),
}

impl History {
    /// From the entries as they stand in Redis.
    #[must_use]
    pub fn new(function: &FunctionId, id: &CallId, state: &str, length: u64, log: Vec<(u64, Record)>) -> Self {
        let events = log
            .into_iter()
            .map(|(position, record)| Recorded { position, fields: Fields(record.into_iter().map(written).collect()) })
            .collect();
        Self { id: id.clone(), function: function.clone(), state: state.to_owned(), length, events }
    }

    /// The log, looked through as a host does before it runs it.
    ///
    /// # Errors
    /// [`HistoryError`] names the first position at which something is wrong.
    pub fn log(&self) -> Result<Log, HistoryError> {
        let mut entries = Vec::with_capacity(self.events.len());
        for Recorded { position, fields } in &self.events {
            let mut record = Record::with_capacity(fields.0.len());
            for (name, text) in &fields.0 {
                let wrong = || HistoryError::Field { position: *position, field: name.clone() };
                match name.strip_suffix(BASE64) {
                    Some(name) => {
                        let bytes = BASE64_STANDARD.decode(text).map_err(|_| wrong())?;
                        record.push((name.to_owned(), bytes.into()));
                    }
                    None => record.push((name.clone(), Bytes::copy_from_slice(text.as_bytes()))),
                }
            }
            entries.push((*position, record));
        }
        Ok(Log::read(entries, Some(self.length))?)
    }
}

fn written((name, value): (String, Bytes)) -> (String, String) {
    match std::str::from_utf8(&value) {
        Ok(text) => (name, text.to_owned()),
        Err(_) => (format!("{name}{BASE64}"), BASE64_STANDARD.encode(&value)),
    }
}
