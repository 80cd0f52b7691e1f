//! What a function takes: the payload of a call, raw or as a Rust type.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::ops::Deref;

use serde::de::DeserializeOwned;

use crate::{Failure, Result};

/// A type that a function may take as its input.
///
/// Every type that implements serde's `Deserialize` is read from JSON, whatever the payload's media type. An empty payload
/// stands for `null`, or for `{}` where the type takes no `null`. [`Bytes`] is the payload as it is, and [`Text`] the
/// payload as UTF-8.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be the input of a Baton function",
    label = "cannot be read from the payload of a call",
    note = "add `#[derive(Deserialize)]` to `{Self}` to read it from JSON, without borrowed fields",
    note = "or take `Bytes` for the payload as it is, or `Text` for plain text"
)]
pub trait FromPayload: Sized {
    /// Reads the payload.
    ///
    /// # Errors
    /// A rejection with the code `bad-input` if the payload does not fit.
    fn from_payload(payload: Bytes) -> Result<Self>;
}

#[diagnostic::do_not_recommend]
impl<T: DeserializeOwned> FromPayload for T {
    fn from_payload(payload: Bytes) -> Result<Self> {
        payload.json()
    }
}

impl FromPayload for Bytes {
    fn from_payload(payload: Bytes) -> Result<Self> {
        Ok(payload)
    }
}

impl FromPayload for Text {
    fn from_payload(payload: Bytes) -> Result<Self> {
        match String::from_utf8(payload.0) {
            Ok(text) => Ok(Self(text)),
            Err(error) => Err(not_text(error.utf8_error())),
        }
    }
}

/// Bytes as they are: the payload of a call, or an answer with the media type `application/octet-stream`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Bytes(Vec<u8>);

impl Bytes {
    /// Reads the bytes as JSON. No bytes stand for `null`, or for `{}` where the type takes no `null`.
    ///
    /// # Errors
    /// A rejection with the code `bad-input`, whose message names the field, the line and the column.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T> {
        let read = if self.0.is_empty() {
            serde_json::from_slice(b"null").or_else(|_| serde_json::from_slice(b"{}"))
        } else {
            serde_json::from_slice(&self.0)
        };
        read.map_err(|error| {
            let what =
                if self.0.is_empty() { "the payload is empty" } else { "the payload is not what this function takes" };
            Failure::bad_input(format!("{what}: {error}"))
        })
    }

    /// The bytes as text.
    ///
    /// # Errors
    /// A rejection with the code `bad-input` if they are not UTF-8.
    pub fn text(&self) -> Result<&str> {
        core::str::from_utf8(&self.0).map_err(not_text)
    }

    /// The bytes themselves.
    #[must_use]
    pub fn into_vec(self) -> Vec<u8> {
        self.0
    }
}

fn not_text(error: core::str::Utf8Error) -> Failure {
    Failure::bad_input(format!("the payload is not text in UTF-8: wrong from byte {} on", error.valid_up_to()))
}

impl Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl AsRef<[u8]> for Bytes {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl From<Bytes> for Vec<u8> {
    fn from(bytes: Bytes) -> Self {
        bytes.0
    }
}

impl From<Vec<u8>> for Bytes {
    fn from(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }
}

impl From<&[u8]> for Bytes {
    fn from(bytes: &[u8]) -> Self {
        Self(bytes.into())
    }
}

impl<const N: usize> From<&[u8; N]> for Bytes {
    fn from(bytes: &[u8; N]) -> Self {
        Self(bytes.into())
    }
}

impl From<String> for Bytes {
    fn from(text: String) -> Self {
        Self(text.into_bytes())
    }
}

impl From<&str> for Bytes {
    fn from(text: &str) -> Self {
        Self(text.into())
    }
}

impl From<Text> for Bytes {
    fn from(text: Text) -> Self {
        Self(text.0.into_bytes())
    }
}

/// Plain text: the payload of a call as UTF-8, or an answer with the media type `text/plain; charset=utf-8`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Text(String);

impl Text {
    /// The text itself.
    #[must_use]
    pub fn into_string(self) -> String {
        self.0
    }
}

impl Deref for Text {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl<S: Into<String>> From<S> for Text {
    fn from(text: S) -> Self {
        Self(text.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;
    use serde::Deserialize;

    #[derive(Debug, PartialEq, Deserialize)]
    struct Input {
        name: String,
    }

    #[derive(Debug, PartialEq, Deserialize)]
    struct Lenient {
        #[serde(default)]
        name: String,
    }

    fn read<T: FromPayload>(payload: impl Into<Bytes>) -> Result<T> {
        T::from_payload(payload.into())
    }

    #[test]
    fn json_is_read_into_any_type() {
        assert_eq!(read(r#"{"name":"Ada"}"#), Ok(Input { name: "Ada".into() }));
        assert_eq!(read(r#""Ada""#), Ok("Ada".to_string()));
    }

    #[test]
    fn an_empty_payload_is_null_or_an_empty_object() {
        assert_eq!(read(""), Ok(None::<Input>));
        assert_eq!(read(""), Ok(()));
        assert_eq!(read(""), Ok(Lenient { name: String::new() }));
        let message = "the payload is empty: missing field `name` at line 1 column 2";
        assert_eq!(read::<Input>(""), Err(Failure::reject("bad-input", message)));
    }

    #[test]
    fn input_that_does_not_fit_is_rejected_by_field_and_place() {
        let message = "the payload is not what this function takes: missing field `name` at line 1 column 2";
        assert_eq!(read::<Input>("{}"), Err(Failure::reject("bad-input", message)));
    }

    #[test]
    fn bytes_and_text_are_the_payload_as_it_is() {
        assert_eq!(read(b"\xff\x00"), Ok(Bytes::from(b"\xff\x00")));
        assert_eq!(read("\"Ada\""), Ok(Text::from("\"Ada\"")));
        let message = "the payload is not text in UTF-8: wrong from byte 1 on";
        assert_eq!(read::<Text>(b"a\xff"), Err(Failure::reject("bad-input", message)));
    }
}
