//! A model of the commands of Redis that hosts and scripts use, on a clock that is handed in.
//!
//! What it says is held against a real redis-server by `tests/differential.rs`. What is not used is not there: an unknown
//! command is a fault of the simulation and says so.

mod keys;
mod lua;
mod stream;

use std::collections::{BTreeMap, BTreeSet};

pub use lua::{Patch, Script, Scripts};
pub use stream::{Id, Stream};

/// What Redis answers.
#[derive(Debug, Clone, PartialEq)]
pub enum Reply {
    /// Nothing.
    Nil,
    /// A number.
    Int(i64),
    /// Bytes.
    Bulk(Vec<u8>),
    /// A status, such as `OK`.
    Status(String),
    /// Several.
    Array(Vec<Reply>),
    /// What it refused, with the word in front.
    Error(String),
}

impl Reply {
    pub(crate) fn ok() -> Self {
        Self::Status("OK".to_owned())
    }

    pub(crate) fn text(text: impl ToString) -> Self {
        Self::Bulk(text.to_string().into_bytes())
    }

    pub(crate) fn bool(is: bool) -> Self {
        Self::Int(i64::from(is))
    }

    pub(crate) fn count(count: usize) -> Self {
        Self::Int(i64::try_from(count).expect("a count"))
    }

    /// As text; empty if it is none.
    #[must_use]
    pub fn to_text(&self) -> String {
        match self {
            Self::Bulk(bytes) => String::from_utf8_lossy(bytes).into_owned(),
            Self::Status(text) | Self::Error(text) => text.clone(),
            Self::Int(number) => number.to_string(),
            Self::Nil | Self::Array(_) => String::new(),
        }
    }

    /// As a number; 0 if it is none.
    #[must_use]
    pub fn to_int(&self) -> i64 {
        match self {
            Self::Int(number) => *number,
            Self::Bulk(_) => self.to_text().parse().unwrap_or(0),
            Self::Nil | Self::Status(_) | Self::Array(_) | Self::Error(_) => 0,
        }
    }

    /// Its parts; none if it has none.
    #[must_use]
    pub fn parts(&self) -> &[Reply] {
        match self {
            Self::Array(parts) => parts,
            Self::Nil | Self::Int(_) | Self::Bulk(_) | Self::Status(_) | Self::Error(_) => &[],
        }
    }
}

/// A refusal, which becomes [`Reply::Error`].
pub(crate) type Answer = Result<Reply, String>;

/// What a key holds.
#[derive(Debug, Clone)]
pub(crate) enum Value {
    Text(Vec<u8>),
    Hash(BTreeMap<Vec<u8>, Vec<u8>>),
    Set(BTreeSet<Vec<u8>>),
    /// By score, then by member; scores are whole milliseconds here.
    Sorted(BTreeSet<(i64, Vec<u8>)>),
    Stream(Stream),
}

impl Value {
    /// What `TYPE` calls it.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Text(_) => "string",
            Self::Hash(_) => "hash",
            Self::Set(_) => "set",
            Self::Sorted(_) => "zset",
            Self::Stream(_) => "stream",
        }
    }
}

#[derive(Debug, Clone)]
struct Held {
    value: Value,
    /// When it expires, Unix ms.
    until: Option<u64>,
}

/// The keys of one server.
#[derive(Debug, Clone, Default)]
pub struct Store {
    held: BTreeMap<Vec<u8>, Held>,
    /// Now, in Unix ms.
    pub now_ms: u64,
    /// What was published since it was last taken: channel and message.
    pub published: Vec<(Vec<u8>, Vec<u8>)>,
    /// The streams that got entries since it was last taken.
    pub grown: Vec<Vec<u8>>,
}

pub(crate) const WRONG_TYPE: &str = "WRONGTYPE Operation against a key holding the wrong kind of value";

impl Store {
    /// Carries one command out.
    pub fn execute(&mut self, command: &[Vec<u8>]) -> Reply {
        let Some((name, args)) = command.split_first() else { return Reply::Error("ERR empty command".to_owned()) };
        let name = String::from_utf8_lossy(name).to_ascii_uppercase();
        let answer = match name.split_at_checked(1) {
            Some(("X", _)) => self.stream_command(&name, args),
            Some(_) | None => self.key_command(&name, args),
        };
        answer.unwrap_or_else(Reply::Error)
    }

    fn live(&mut self, key: &[u8]) -> Option<&mut Held> {
        if self.held.get(key)?.until.is_some_and(|until| until <= self.now_ms) {
            self.held.remove(key);
        }
        self.held.get_mut(key)
    }

    pub(crate) fn get(&mut self, key: &[u8]) -> Option<&mut Value> {
        self.live(key).map(|held| &mut held.value)
    }

    pub(crate) fn put(&mut self, key: &[u8], value: Value, until: Option<u64>) {
        self.held.insert(key.to_vec(), Held { value, until });
    }

    /// Removes a hash, a set or a sorted set that has nothing in it. A stream stays.
    pub(crate) fn drop_if_empty(&mut self, key: &[u8]) {
        let is_empty = match self.get(key) {
            Some(Value::Hash(hash)) => hash.is_empty(),
            Some(Value::Set(set)) => set.is_empty(),
            Some(Value::Sorted(sorted)) => sorted.is_empty(),
            Some(Value::Text(_) | Value::Stream(_)) | None => false,
        };
        if is_empty {
            self.held.remove(key);
        }
    }

    /// The stream under a key.
    #[must_use]
    pub fn stream(&self, key: &str) -> Option<&Stream> {
        match &self.held.get(key.as_bytes())?.value {
            Value::Stream(stream) => Some(stream),
            Value::Text(_) | Value::Hash(_) | Value::Set(_) | Value::Sorted(_) => None,
        }
    }

    /// The text under a key, whether it has expired or not.
    #[must_use]
    pub fn text(&self, key: &str) -> Option<&[u8]> {
        match &self.held.get(key.as_bytes())?.value {
            Value::Text(text) => Some(text),
            Value::Stream(_) | Value::Hash(_) | Value::Set(_) | Value::Sorted(_) => None,
        }
    }

    /// Every key.
    pub fn keys(&self) -> impl Iterator<Item = &[u8]> {
        self.held.keys().map(Vec::as_slice)
    }

    /// What a restart does to what is kept: consumers were last seen when it was read in.
    pub fn reload(&mut self) {
        let now = self.now_ms;
        for held in self.held.values_mut() {
            if let Value::Stream(stream) = &mut held.value {
                stream.reload(now);
            }
        }
        self.published.clear();
        self.grown.clear();
    }
}

pub(crate) fn number(arg: &[u8]) -> Result<i64, String> {
    std::str::from_utf8(arg)
        .ok()
        .and_then(|text| text.parse().ok())
        .ok_or_else(|| "ERR value is not an integer or out of range".to_owned())
}

pub(crate) fn is(arg: &[u8], word: &str) -> bool {
    arg.eq_ignore_ascii_case(word.as_bytes())
}

/// A command from its words.
#[macro_export]
macro_rules! command {
    ($($word:expr),+ $(,)?) => { vec![$($crate::redis::word(&$word)),+] };
}

/// One word of a command.
pub fn word(text: &(impl ToString + ?Sized)) -> Vec<u8> {
    text.to_string().into_bytes()
}
