//! Identifiers: newtypes with private fields and one parser each.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::Digest as _;

use crate::Priority;

/// The longest id that a caller may give a call, in bytes.
const CALL_ID_BYTES_MAX: usize = 128;

/// The longest reply channel suffix, in bytes.
const REPLY_BYTES_MAX: usize = 128;
/// The longest key that orders calls.
const ORDER_KEY_BYTES_MAX: usize = 128;

fn is_printable_without_space(text: &[u8], bytes_max: usize) -> bool {
    (1..=bytes_max).contains(&text.len()) && text.iter().all(u8::is_ascii_graphic)
}

macro_rules! text_id {
    ($(#[$doc:meta])* $name:ident, $bytes_max:expr, $rule:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(Box<str>);

        impl $name {
            #[doc = concat!("Reads it from text. None unless it is ", $rule, ".")]
            #[must_use]
            pub fn parse(text: &str) -> Option<Self> {
                is_printable_without_space(text.as_bytes(), $bytes_max).then(|| Self(text.into()))
            }

            /// As text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl FromStr for $name {
            type Err = String;
            fn from_str(text: &str) -> Result<Self, String> {
                Self::parse(text).ok_or_else(|| format!(concat!("{:?} is not ", $rule), text.chars().take(160).collect::<String>()))
            }
        }

        impl TryFrom<String> for $name {
            type Error = String;
            fn try_from(text: String) -> Result<Self, String> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> Self {
                id.0.into()
            }
        }
    };
}

text_id! {
    /// A call's id: the caller's own, or the id of the call's first stream entry.
    CallId, CALL_ID_BYTES_MAX, "1 to 128 bytes of printable ASCII without spaces"
}

text_id! {
    /// Where a caller listens for notices: the suffix of its reply channel.
    ReplyTo, REPLY_BYTES_MAX, "1 to 128 bytes of printable ASCII without spaces"
}

text_id! {
    /// What calls have in common that run one after another.
    OrderKey, ORDER_KEY_BYTES_MAX, "1 to 128 bytes of printable ASCII without spaces"
}

text_id! {
    /// A host's id: new at every start of the process, so that a dead incarnation is never mistaken for a live one.
    HostId, 64, "1 to 64 bytes of printable ASCII without spaces"
}

/// Which entry of a function's call streams it is: Redis's milliseconds and a sequence number, and the level of the calls in
/// that stream, because Redis numbers each stream by itself. Of the dead letters, and of whatever else is one stream, the
/// level is normal.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(into = "String")]
pub struct EntryId {
    ms: u64,
    sequence: u64,
    level: Priority,
}

impl EntryId {
    /// Reads `milliseconds-sequence`, with `-high` or `-low` behind it if it is of those streams. None if it is anything
    /// else.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (ms, rest) = text.split_once('-')?;
        let (sequence, level) = match rest.split_once('-') {
            None => (rest, Priority::Normal),
            Some((sequence, level)) => (sequence, level.parse().ok().filter(|level: &Priority| !level.is_normal())?),
        };
        Some(Self { ms: ms.parse().ok()?, sequence: sequence.parse().ok()?, level })
    }

    /// Whether no id is smaller.
    #[must_use]
    pub fn is_first(self) -> bool {
        (self.ms, self.sequence) == (0, 0)
    }

    /// When Redis accepted the entry, in Unix milliseconds of Redis's clock.
    #[must_use]
    pub fn ms(self) -> u64 {
        self.ms
    }

    /// In the stream of which level it stands.
    #[must_use]
    pub fn level(self) -> Priority {
        self.level
    }

    /// The same id in the stream of another level, where it is another entry.
    #[must_use]
    pub fn of_level(self, level: Priority) -> Self {
        Self { level, ..self }
    }

    /// What Redis calls it in its stream.
    #[must_use]
    pub fn in_stream(self) -> String {
        format!("{}-{}", self.ms, self.sequence)
    }
}

impl From<EntryId> for String {
    fn from(id: EntryId) -> Self {
        id.to_string()
    }
}

impl fmt::Display for EntryId {
    /// Also the id of a call that has none of its own.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.ms, self.sequence)?;
        match self.level {
            Priority::Normal => Ok(()),
            Priority::High | Priority::Low => write!(f, "-{}", self.level),
        }
    }
}

impl fmt::Debug for EntryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The SHA-256 of a `.wasm` file: which component this is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest([u8; 32]);

impl Digest {
    /// The digest of these bytes.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self(sha2::Sha256::digest(bytes).into())
    }

    /// Reads 64 hexadecimal digits, in either case. None if it is anything else.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let hex = text.as_bytes();
        if hex.len() != 64 {
            return None;
        }
        let nibble = |b: u8| char::from(b).to_digit(16).and_then(|n| u8::try_from(n).ok());
        let mut out = [0; 32];
        for (byte, pair) in out.iter_mut().zip(hex.chunks_exact(2)) {
            *byte = nibble(pair[0])? << 4 | nibble(pair[1])?;
        }
        Some(Self(out))
    }

    /// The 32 bytes themselves.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The first twelve digits, for people.
    #[must_use]
    pub fn short(&self) -> String {
        self.to_string()[..12].to_owned()
    }
}

impl fmt::Display for Digest {
    /// Every result document holds one, so it is written in one go and not digit by digit.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const HEX: &[u8; 16] = b"0123456789abcdef";
        let mut hex = [0; 64];
        for (pair, byte) in hex.chunks_exact_mut(2).zip(self.0) {
            pair[0] = HEX[usize::from(byte >> 4)];
            pair[1] = HEX[usize::from(byte & 15)];
        }
        f.write_str(std::str::from_utf8(&hex).unwrap_or_default())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl TryFrom<String> for Digest {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        Self::parse(&text).ok_or_else(|| "a digest is 64 hexadecimal digits".to_owned())
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> Self {
        digest.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_id_is_printable_ascii_without_spaces() {
        assert!(CallId::parse("order/42#a").is_some());
        assert!(CallId::parse(&"x".repeat(128)).is_some());
        for bad in ["", "a b", "a\n", "ä", "\u{7f}", &"x".repeat(129)] {
            assert!(CallId::parse(bad).is_none(), "{bad:?}");
        }
    }

    #[test]
    fn an_entry_id_keeps_its_two_numbers() {
        let id = EntryId::parse("1795220024366-7").unwrap();
        assert_eq!((id.ms(), id.to_string().as_str()), (1_795_220_024_366, "1795220024366-7"));
        for bad in ["", "1", "1-", "-1", "a-1", "1-1-1", "1-1-", "1-1-normal", "1-1-High", "1-1-high-low"] {
            assert!(EntryId::parse(bad).is_none(), "{bad:?}");
        }
    }

    #[test]
    fn entries_of_two_levels_are_two_whatever_redis_calls_them() {
        let normal = EntryId::parse("5-7").unwrap();
        for (level, text) in [(Priority::High, "5-7-high"), (Priority::Normal, "5-7"), (Priority::Low, "5-7-low")] {
            let id = normal.of_level(level);
            assert_eq!((EntryId::parse(text), id.to_string().as_str()), (Some(id), text));
            assert_eq!((id.in_stream().as_str(), id.level(), id == normal), ("5-7", level, level == Priority::Normal));
        }
    }

    #[test]
    fn a_digest_reads_what_it_writes() {
        let digest = Digest::of(b"");
        assert_eq!(digest.to_string(), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
        assert_eq!(Digest::parse(&digest.to_string().to_uppercase()), Some(digest));
        assert_eq!(Digest::parse("e3b0"), None);
    }
}
