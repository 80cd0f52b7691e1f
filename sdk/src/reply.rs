//! What a function gives: an answer, raw or as a Rust type.

use alloc::borrow::Cow;
use alloc::string::String;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::{Bytes, Failure, Result, Text};

/// Media types of what is no [`Reply`].
const JSON: &str = "application/json";
const TEXT: &str = "text/plain; charset=utf-8";
const BYTES: &str = "application/octet-stream";

/// An answer with its media type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    pub(crate) media_type: String,
    pub(crate) body: Bytes,
}

impl Reply {
    /// An answer of any kind; the caller gets the body byte for byte.
    #[must_use]
    pub fn new(media_type: impl Into<String>, body: impl Into<Bytes>) -> Self {
        Self { media_type: media_type.into(), body: body.into() }
    }

    /// Media type of the body.
    #[must_use]
    pub fn media_type(&self) -> &str {
        &self.media_type
    }

    /// The answer itself.
    #[must_use]
    pub fn body(&self) -> &[u8] {
        &self.body
    }

    /// The body as text, for tests: what is not UTF-8 is shown as U+FFFD.
    #[must_use]
    pub fn text(&self) -> Cow<'_, str> {
        String::from_utf8_lossy(&self.body)
    }

    /// The body read from JSON, for tests.
    ///
    /// # Errors
    /// serde_json's, if the body is not JSON or does not fit the type.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, serde_json::Error> {
        serde_json::from_slice(&self.body)
    }
}

/// A type that a function may answer with.
///
/// Every type that implements serde's `Serialize` is answered as JSON, with the media type `application/json`; `()` is
/// `null`. [`Text`] is answered as `text/plain; charset=utf-8`, [`Bytes`] as `application/octet-stream`, and [`Reply`]
/// as it says.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be the answer of a Baton function",
    label = "cannot be written as a reply",
    note = "add `#[derive(Serialize)]` to `{Self}` to answer with JSON",
    note = "or answer with `Text`, with `Bytes`, or with a `Reply` to name the media type",
    note = "an alias of `Result` must be called `Result` too"
)]
pub trait IntoReply {
    /// Writes the answer.
    ///
    /// # Errors
    /// A rejection with the code `bad-output` if the answer cannot be written, such as a map whose keys are no strings: no
    /// further attempt would change that.
    fn into_reply(self) -> Result<Reply>;
}

#[diagnostic::do_not_recommend]
impl<T: Serialize> IntoReply for T {
    fn into_reply(self) -> Result<Reply> {
        match serde_json::to_vec(&self) {
            Ok(body) => Ok(Reply::new(JSON, body)),
            Err(error) => Err(Failure::reject("bad-output", alloc::format!("the answer cannot be written: {error}"))),
        }
    }
}

impl IntoReply for Reply {
    fn into_reply(self) -> Result<Reply> {
        Ok(self)
    }
}

impl IntoReply for Bytes {
    fn into_reply(self) -> Result<Reply> {
        Ok(Reply::new(BYTES, self))
    }
}

impl IntoReply for Text {
    fn into_reply(self) -> Result<Reply> {
        Ok(Reply::new(TEXT, self))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::collections::BTreeMap;

    #[test]
    fn each_kind_of_answer_has_its_media_type() {
        assert_eq!("Ada".into_reply(), Ok(Reply::new("application/json", "\"Ada\"")));
        assert_eq!(().into_reply(), Ok(Reply::new("application/json", "null")));
        assert_eq!(Text::from("Ada").into_reply(), Ok(Reply::new("text/plain; charset=utf-8", "Ada")));
        assert_eq!(Bytes::from(b"\xff").into_reply(), Ok(Reply::new("application/octet-stream", b"\xff")));
        assert_eq!(Reply::new("image/png", b"\x89").into_reply(), Ok(Reply::new("image/png", b"\x89")));
    }

    #[test]
    fn an_answer_that_is_no_json_is_rejected() {
        let failure = BTreeMap::from([((1, 2), 3)]).into_reply().unwrap_err();
        assert_eq!(failure, Failure::reject("bad-output", "the answer cannot be written: key must be a string"));
    }
}
