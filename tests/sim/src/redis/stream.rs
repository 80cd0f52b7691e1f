//! Streams, their consumer groups, and who has what in hand.

use std::collections::BTreeMap;
use std::fmt;

use super::{Answer, Reply, Store, Value, WRONG_TYPE, is, number};

/// The id of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Id(pub u64, pub u64);

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.0, self.1)
    }
}

impl Id {
    const MAX: Self = Self(u64::MAX, u64::MAX);

    fn parse(text: &[u8], missing: u64) -> Result<Self, String> {
        let bad = || "ERR Invalid stream ID specified as stream command argument".to_owned();
        let text = std::str::from_utf8(text).map_err(|_| bad())?;
        let (ms, seq) = text.split_once('-').map_or((text, None), |(ms, seq)| (ms, Some(seq)));
        let seq = seq.map_or(Ok(missing), str::parse);
        Ok(Self(ms.parse().map_err(|_| bad())?, seq.map_err(|_| bad())?))
    }

    fn next(self) -> Self {
        self.1.checked_add(1).map_or(Self(self.0 + 1, 0), |seq| Self(self.0, seq))
    }

    fn start(text: &[u8]) -> Result<Self, String> {
        match text {
            b"-" => Ok(Self::default()),
            [b'(', rest @ ..] => Ok(Self::parse(rest, 0)?.next()),
            other => Self::parse(other, 0),
        }
    }

    fn end(text: &[u8]) -> Result<Self, String> {
        match text {
            b"+" => Ok(Self::MAX),
            other => Self::parse(other, u64::MAX),
        }
    }
}

/// One entry in somebody's hands.
#[derive(Debug, Clone)]
pub struct Pending {
    /// In whose.
    pub consumer: Vec<u8>,
    /// When it was handed over, or last renewed.
    pub since_ms: u64,
    /// How often.
    pub deliveries: i64,
}

#[derive(Debug, Clone, Default)]
pub(crate) struct Group {
    last: Id,
    /// Each with when it was last seen.
    pub(crate) consumers: BTreeMap<Vec<u8>, u64>,
    pub(crate) pending: BTreeMap<Id, Pending>,
}

/// A stream.
#[derive(Debug, Clone, Default)]
pub struct Stream {
    /// What is in it: names and values in turn.
    pub entries: BTreeMap<Id, Vec<Vec<u8>>>,
    last: Id,
    pub(crate) groups: BTreeMap<Vec<u8>, Group>,
}

impl Stream {
    pub(super) fn reload(&mut self, now: u64) {
        self.groups.values_mut().for_each(|group| group.consumers.values_mut().for_each(|seen| *seen = now));
    }

    /// Who has an entry, of any group.
    #[must_use]
    pub fn pending(&self, id: Id) -> Option<&Pending> {
        self.groups.values().find_map(|group| group.pending.get(&id))
    }

    /// How many entries anybody has.
    #[must_use]
    pub fn pending_count(&self) -> usize {
        self.groups.values().map(|group| group.pending.len()).sum()
    }

    /// The names of all consumers.
    pub fn consumers(&self) -> impl Iterator<Item = String> {
        self.groups.values().flat_map(|group| group.consumers.keys()).map(|n| String::from_utf8_lossy(n).into_owned())
    }
}

fn entry(id: Id, fields: &[Vec<u8>]) -> Reply {
    Reply::Array(vec![Reply::text(id), Reply::Array(fields.iter().cloned().map(Reply::Bulk).collect())])
}

fn no_group(key: &[u8], group: &[u8], within: &str) -> String {
    let (key, group) = (String::from_utf8_lossy(key), String::from_utf8_lossy(group));
    format!("NOGROUP No such key '{key}' or consumer group '{group}'{within}")
}

const SYNTAX: &str = "ERR syntax error";

impl Store {
    pub(super) fn stream_command(&mut self, name: &str, args: &[Vec<u8>]) -> Answer {
        match (name, args) {
            ("XADD", [key, id, fields @ ..]) => self.add(key, id, fields),
            ("XLEN", [key]) => Ok(Reply::count(self.stream_at(key)?.map_or(0, |stream| stream.entries.len()))),
            ("XRANGE", [key, from, to, options @ ..]) => self.range(key, from, to, options),
            ("XDEL", [key, ids @ ..]) => {
                let Some(stream) = self.stream_at(key)? else { return Ok(Reply::Int(0)) };
                let ids = ids.iter().map(|id| Id::parse(id, 0)).collect::<Result<Vec<_>, _>>()?;
                Ok(Reply::count(ids.iter().filter(|id| stream.entries.remove(id).is_some()).count()))
            }
            ("XACK", [key, group, ids @ ..]) => {
                let ids = ids.iter().map(|id| Id::parse(id, 0)).collect::<Result<Vec<_>, _>>()?;
                let Some(group) = self.stream_at(key)?.and_then(|stream| stream.groups.get_mut(group)) else {
                    return Ok(Reply::Int(0));
                };
                Ok(Reply::count(ids.iter().filter(|id| group.pending.remove(id).is_some()).count()))
            }
            ("XGROUP", [what, key, group, rest @ ..]) => self.group_command(what, key, group, rest),
            ("XINFO", [what, key, group]) if is(what, "CONSUMERS") => self.consumers(key, group),
            ("XPENDING", [key, group]) => self.summary(key, group),
            ("XPENDING", [key, group, rest @ ..]) => self.pending(key, group, rest),
            ("XCLAIM", [key, group, consumer, idle, rest @ ..]) => self.claim(key, group, consumer, idle, rest),
            ("XREADGROUP", args) => self.read_group(args),
            _other => Err(format!("ERR the model has no {name} with {} arguments", args.len())),
        }
    }

    fn stream_at(&mut self, key: &[u8]) -> Result<Option<&mut Stream>, String> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Stream(stream)) => Ok(Some(stream)),
            Some(_other) => Err(WRONG_TYPE.to_owned()),
        }
    }

    fn group_at(&mut self, key: &[u8], group: &[u8], within: &str) -> Result<&mut Group, String> {
        let found = self.stream_at(key)?.and_then(|stream| stream.groups.get_mut(group));
        found.ok_or_else(|| no_group(key, group, within))
    }

    fn add(&mut self, key: &[u8], id: &[u8], fields: &[Vec<u8>]) -> Answer {
        if fields.is_empty() || fields.len() % 2 == 1 {
            return Err("ERR wrong number of arguments for 'xadd' command".to_owned());
        }
        let now = self.now_ms;
        if self.stream_at(key)?.is_none() {
            self.put(key, Value::Stream(Stream::default()), None);
        }
        let Some(stream) = self.stream_at(key)? else { return Err(SYNTAX.to_owned()) };
        let id = match id {
            b"*" if now > stream.last.0 => Id(now, 0),
            b"*" => stream.last.next(),
            given => Id::parse(given, 0)?,
        };
        if id <= stream.last {
            let why = "ERR The ID specified in XADD is equal or smaller than the target stream top item";
            return Err(why.to_owned());
        }
        stream.entries.insert(id, fields.to_vec());
        stream.last = id;
        self.grown.push(key.to_vec());
        Ok(Reply::text(id))
    }

    fn range(&mut self, key: &[u8], from: &[u8], to: &[u8], options: &[Vec<u8>]) -> Answer {
        let (from, to) = (Id::start(from)?, Id::end(to)?);
        let count = match options {
            [] => usize::MAX,
            [word, count] if is(word, "COUNT") => usize::try_from(number(count)?).unwrap_or(0),
            _other => return Err(SYNTAX.to_owned()),
        };
        let Some(stream) = self.stream_at(key)? else { return Ok(Reply::Array(Vec::new())) };
        if from > to {
            return Ok(Reply::Array(Vec::new()));
        }
        let found = stream.entries.range(from..=to).take(count);
        Ok(Reply::Array(found.map(|(id, fields)| entry(*id, fields)).collect()))
    }

    fn group_command(&mut self, what: &[u8], key: &[u8], name: &[u8], rest: &[Vec<u8>]) -> Answer {
        if is(what, "CREATE") {
            let (start, is_made) = match rest {
                [start] => (start, false),
                [start, word] if is(word, "MKSTREAM") => (start, true),
                _other => return Err(SYNTAX.to_owned()),
            };
            if self.stream_at(key)?.is_none() && is_made {
                self.put(key, Value::Stream(Stream::default()), None);
            }
            let missing = "ERR The XGROUP subcommand requires the key to exist. Note that for CREATE you may want to use \
                           the MKSTREAM option to create an empty stream automatically.";
            let stream = self.stream_at(key)?.ok_or(missing)?;
            let last = if start == b"$" { stream.last } else { Id::parse(start, 0)? };
            if stream.groups.contains_key(name) {
                return Err("BUSYGROUP Consumer Group name already exists".to_owned());
            }
            stream.groups.insert(name.to_vec(), Group { last, ..Group::default() });
            return Ok(Reply::ok());
        }
        let [consumer] = rest else { return Err(SYNTAX.to_owned()) };
        if !is(what, "DELCONSUMER") {
            return Err(SYNTAX.to_owned());
        }
        let missing = "ERR The XGROUP subcommand requires the key to exist. Note that for CREATE you may want to use \
                       the MKSTREAM option to create an empty stream automatically.";
        let stream = self.stream_at(key)?.ok_or(missing)?;
        let named = String::from_utf8_lossy(name).into_owned();
        let missing =
            || format!("NOGROUP No such consumer group '{named}' for key name '{}'", String::from_utf8_lossy(key));
        let group = stream.groups.get_mut(name).ok_or_else(missing)?;
        let before = group.pending.len();
        group.pending.retain(|_, pending| pending.consumer != *consumer);
        let dropped = before - group.pending.len();
        group.consumers.remove(consumer);
        Ok(Reply::count(dropped))
    }

    fn consumers(&mut self, key: &[u8], group: &[u8]) -> Answer {
        let now = self.now_ms;
        let stream = self.stream_at(key)?.ok_or("ERR no such key")?;
        let missing = || {
            let (group, key) = (String::from_utf8_lossy(group), String::from_utf8_lossy(key));
            format!("NOGROUP No such consumer group '{group}' for key name '{key}'")
        };
        let group = stream.groups.get(group).ok_or_else(missing)?;
        let told = |(name, seen): (&Vec<u8>, &u64)| {
            let pending = group.pending.values().filter(|pending| pending.consumer == *name).count();
            Reply::Array(vec![
                Reply::text("name"),
                Reply::Bulk(name.clone()),
                Reply::text("pending"),
                Reply::count(pending),
                Reply::text("idle"),
                Reply::Int(i64::try_from(now.saturating_sub(*seen)).expect("a time")),
            ])
        };
        Ok(Reply::Array(group.consumers.iter().map(told).collect()))
    }

    fn summary(&mut self, key: &[u8], group: &[u8]) -> Answer {
        let group = self.group_at(key, group, "")?;
        let (Some(first), Some(last)) = (group.pending.keys().next(), group.pending.keys().last()) else {
            return Ok(Reply::Array(vec![Reply::Int(0), Reply::Nil, Reply::Nil, Reply::Nil]));
        };
        let mut by_consumer: BTreeMap<&[u8], usize> = BTreeMap::new();
        group.pending.values().for_each(|pending| *by_consumer.entry(&pending.consumer).or_default() += 1);
        let holders = by_consumer.iter();
        let holders = holders.map(|(name, n)| Reply::Array(vec![Reply::Bulk(name.to_vec()), Reply::text(n)])).collect();
        let total = Reply::count(group.pending.len());
        Ok(Reply::Array(vec![total, Reply::text(first), Reply::text(last), Reply::Array(holders)]))
    }

    fn pending(&mut self, key: &[u8], group: &[u8], rest: &[Vec<u8>]) -> Answer {
        let now = self.now_ms;
        let (idle, rest) = match rest {
            [word, idle, rest @ ..] if is(word, "IDLE") => (u64::try_from(number(idle)?).unwrap_or(0), rest),
            other => (0, other),
        };
        let (from, to, count, consumer) = match rest {
            [from, to, count] => (from, to, count, None),
            [from, to, count, consumer] => (from, to, count, Some(consumer)),
            _other => return Err(SYNTAX.to_owned()),
        };
        let (from, to, count) = (Id::start(from)?, Id::end(to)?, usize::try_from(number(count)?).unwrap_or(0));
        let group = self.group_at(key, group, "")?;
        if from > to {
            return Ok(Reply::Array(Vec::new()));
        }
        let is_wanted = |pending: &Pending| {
            consumer.is_none_or(|consumer| pending.consumer == *consumer)
                && now.saturating_sub(pending.since_ms) >= idle
        };
        let found = group.pending.range(from..=to).filter(|(_, pending)| is_wanted(pending)).take(count);
        let told = found.map(|(id, pending)| {
            let idle = i64::try_from(now.saturating_sub(pending.since_ms)).expect("a time");
            let holder = Reply::Bulk(pending.consumer.clone());
            Reply::Array(vec![Reply::text(id), holder, Reply::Int(idle), Reply::Int(pending.deliveries)])
        });
        Ok(Reply::Array(told.collect()))
    }

    fn claim(&mut self, key: &[u8], group: &[u8], consumer: &[u8], idle: &[u8], rest: &[Vec<u8>]) -> Answer {
        let now = self.now_ms;
        let least = u64::try_from(number(idle)?).unwrap_or(0);
        let options = rest.iter().position(|arg| is(arg, "IDLE") || is(arg, "JUSTID")).unwrap_or(rest.len());
        let (ids, options) = rest.split_at(options);
        let ids = ids.iter().map(|id| Id::parse(id, 0)).collect::<Result<Vec<_>, _>>()?;
        let (mut since, mut only_id) = (now, false);
        let mut options = options.iter();
        while let Some(option) = options.next() {
            if is(option, "JUSTID") {
                only_id = true;
            } else if is(option, "IDLE") {
                since = now - u64::try_from(number(options.next().ok_or(SYNTAX)?)?).unwrap_or(0);
            } else {
                return Err(SYNTAX.to_owned());
            }
        }
        self.group_at(key, group, "")?;
        let Some(stream) = self.stream_at(key)? else { return Err(SYNTAX.to_owned()) };
        let Some(group) = stream.groups.get_mut(group) else { return Err(SYNTAX.to_owned()) };
        if let Some(seen) = group.consumers.get_mut(consumer) {
            *seen = now;
        }
        let mut told = Vec::new();
        for id in ids {
            let Some(fields) = stream.entries.get(&id) else {
                group.pending.remove(&id);
                continue;
            };
            let Some(pending) = group.pending.get_mut(&id) else { continue };
            if now.saturating_sub(pending.since_ms) < least {
                continue;
            }
            group.consumers.entry(consumer.to_vec()).or_insert(now);
            pending.consumer = consumer.to_vec();
            pending.since_ms = since;
            pending.deliveries += i64::from(!only_id);
            told.push(if only_id { Reply::text(id) } else { entry(id, fields) });
        }
        Ok(Reply::Array(told))
    }

    /// Reads new entries; nothing if there are none. Waiting is the server's, not the store's.
    fn read_group(&mut self, args: &[Vec<u8>]) -> Answer {
        let now = self.now_ms;
        let [group_word, group, consumer, rest @ ..] = args else { return Err(SYNTAX.to_owned()) };
        let streams = rest.iter().position(|arg| is(arg, "STREAMS")).ok_or(SYNTAX)?;
        if !is(group_word, "GROUP") {
            return Err(SYNTAX.to_owned());
        }
        let count = rest[..streams].iter().position(|arg| is(arg, "COUNT")).and_then(|at| rest.get(at + 1));
        let count = count.map_or(Ok(i64::MAX), |count| number(count))?;
        let count = usize::try_from(count).unwrap_or(usize::MAX);
        let (keys, from) = rest[streams + 1..].split_at((rest.len() - streams - 1) / 2);
        if from.iter().any(|from| from != b">") {
            return Err("ERR the model reads new entries only".to_owned());
        }
        for key in keys {
            self.group_at(key, group, " in XREADGROUP with GROUP option")?;
        }
        let mut told = Vec::new();
        for key in keys {
            let Some(stream) = self.stream_at(key)? else { continue };
            let Some(group) = stream.groups.get_mut(group) else { continue };
            let new: Vec<Id> = stream.entries.range(group.last.next()..).take(count).map(|(id, _)| *id).collect();
            let Some(last) = new.last() else { continue };
            group.last = *last;
            group.consumers.insert(consumer.clone(), now);
            let deliver = |id: &Id| {
                let pending = Pending { consumer: consumer.clone(), since_ms: now, deliveries: 1 };
                group.pending.insert(*id, pending);
                entry(*id, &stream.entries[id])
            };
            let entries = new.iter().map(deliver).collect();
            told.push(Reply::Array(vec![Reply::Bulk(key.clone()), Reply::Array(entries)]));
        }
        Ok(if told.is_empty() { Reply::Nil } else { Reply::Array(told) })
    }
}
