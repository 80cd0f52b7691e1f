//! Strings, hashes, sets, sorted sets, and what is said on channels.

use std::collections::{BTreeMap, BTreeSet};

use super::{Answer, Reply, Store, Value, WRONG_TYPE, is, number};

type Sorted = BTreeSet<(i64, Vec<u8>)>;

impl Store {
    pub(super) fn key_command(&mut self, name: &str, args: &[Vec<u8>]) -> Answer {
        match (name, args) {
            ("TIME", []) => {
                let (seconds, micros) = (self.now_ms / 1000, self.now_ms % 1000 * 1000);
                Ok(Reply::Array(vec![Reply::text(seconds), Reply::text(micros)]))
            }
            ("FLUSHALL", []) => {
                self.held.clear();
                Ok(Reply::ok())
            }
            ("PUBLISH", [channel, message]) => {
                self.published.push((channel.clone(), message.clone()));
                Ok(Reply::Int(0))
            }
            ("TYPE", [key]) => Ok(Reply::Status(self.get(key).map_or("none", |value| value.kind()).to_owned())),
            ("EXISTS", [key]) => Ok(Reply::bool(self.get(key).is_some())),
            ("DEL", [key]) => {
                let was_there = self.get(key).is_some();
                self.held.remove(key);
                Ok(Reply::bool(was_there))
            }
            ("GET", [key]) => match self.get(key) {
                None => Ok(Reply::Nil),
                Some(Value::Text(text)) => Ok(Reply::Bulk(text.clone())),
                Some(_other) => Err(WRONG_TYPE.to_owned()),
            },
            ("SET", [key, text, options @ ..]) => self.set(key, text, options),
            ("PTTL", [key]) => {
                let now = self.now_ms;
                Ok(Reply::Int(match self.live(key).map(|held| held.until) {
                    None => -2,
                    Some(None) => -1,
                    Some(Some(until)) => i64::try_from(until - now).expect("a time"),
                }))
            }
            ("PEXPIRE", [key, ms]) => {
                let until = self.now_ms + u64::try_from(number(ms)?).unwrap_or(0);
                Ok(Reply::bool(self.live(key).map(|held| held.until = Some(until)).is_some()))
            }
            ("HGET" | "HSET" | "HDEL" | "HINCRBY" | "HEXISTS", [key, fields @ ..]) => self.hash(name, key, fields),
            ("SADD" | "SREM" | "SMEMBERS", [key, members @ ..]) => self.set_command(name, key, members),
            ("ZADD" | "ZREM" | "ZCARD" | "ZRANGE" | "ZREMRANGEBYSCORE" | "ZREMRANGEBYRANK", [key, rest @ ..]) => {
                self.sorted_command(name, key, rest)
            }
            _other => Err(format!("ERR the model has no {name} with {} arguments", args.len())),
        }
    }

    fn set(&mut self, key: &[u8], text: &[u8], options: &[Vec<u8>]) -> Answer {
        let (mut only_new, mut only_old, mut until) = (false, false, None);
        let mut options = options.iter();
        while let Some(option) = options.next() {
            if is(option, "NX") {
                only_new = true;
            } else if is(option, "XX") {
                only_old = true;
            } else if is(option, "PX") {
                let ms = number(options.next().ok_or("ERR syntax error")?)?;
                until = Some(self.now_ms + u64::try_from(ms).map_err(|_| "ERR invalid expire time in 'set' command")?);
            } else {
                return Err("ERR syntax error".to_owned());
            }
        }
        let is_there = self.get(key).is_some();
        if only_new && is_there || only_old && !is_there {
            return Ok(Reply::Nil);
        }
        self.put(key, Value::Text(text.to_vec()), until);
        Ok(Reply::ok())
    }

    fn hash(&mut self, name: &str, key: &[u8], fields: &[Vec<u8>]) -> Answer {
        if self.get(key).is_none() {
            match name {
                "HSET" | "HINCRBY" => self.put(key, Value::Hash(BTreeMap::new()), None),
                "HGET" => return Ok(Reply::Nil),
                _other => return Ok(Reply::Int(0)),
            }
        }
        let Some(Value::Hash(hash)) = self.get(key) else { return Err(WRONG_TYPE.to_owned()) };
        let reply = match (name, fields) {
            ("HGET", [field]) => hash.get(field).map_or(Reply::Nil, |value| Reply::Bulk(value.clone())),
            ("HEXISTS", [field]) => Reply::bool(hash.contains_key(field)),
            ("HSET", [field, value]) => Reply::bool(hash.insert(field.clone(), value.clone()).is_none()),
            ("HDEL", fields) => Reply::count(fields.iter().filter(|field| hash.remove(*field).is_some()).count()),
            ("HINCRBY", [field, by]) => {
                let old = hash.get(field).map_or(Ok(0), |old| number(old));
                let sum = old.map_err(|_| "ERR hash value is not an integer")? + number(by)?;
                hash.insert(field.clone(), sum.to_string().into_bytes());
                Reply::Int(sum)
            }
            _other => return Err(format!("ERR wrong number of arguments for '{}' command", name.to_lowercase())),
        };
        self.drop_if_empty(key);
        Ok(reply)
    }

    fn set_command(&mut self, name: &str, key: &[u8], members: &[Vec<u8>]) -> Answer {
        if self.get(key).is_none() {
            match name {
                "SADD" => self.put(key, Value::Set(BTreeSet::new()), None),
                "SMEMBERS" => return Ok(Reply::Array(Vec::new())),
                _other => return Ok(Reply::Int(0)),
            }
        }
        let Some(Value::Set(set)) = self.get(key) else { return Err(WRONG_TYPE.to_owned()) };
        let reply = match name {
            "SADD" => Reply::count(members.iter().filter(|member| set.insert((*member).clone())).count()),
            "SREM" => Reply::count(members.iter().filter(|member| set.remove(*member)).count()),
            _smembers => Reply::Array(set.iter().cloned().map(Reply::Bulk).collect()),
        };
        self.drop_if_empty(key);
        Ok(reply)
    }

    fn sorted_command(&mut self, name: &str, key: &[u8], args: &[Vec<u8>]) -> Answer {
        if self.get(key).is_none() {
            match name {
                "ZADD" => self.put(key, Value::Sorted(Sorted::new()), None),
                "ZRANGE" => return Ok(Reply::Array(Vec::new())),
                _other => return Ok(Reply::Int(0)),
            }
        }
        let Some(Value::Sorted(sorted)) = self.get(key) else { return Err(WRONG_TYPE.to_owned()) };
        let reply = match (name, args) {
            ("ZADD", [score, member]) => {
                let score = number(score)?;
                let old = sorted.iter().find(|(_, old)| old == member).cloned();
                let is_new = old.is_none();
                old.iter().for_each(|old| _ = sorted.remove(old));
                sorted.insert((score, member.clone()));
                Reply::bool(is_new)
            }
            ("ZREM", [member]) => {
                let old = sorted.iter().find(|(_, old)| old == member).cloned();
                Reply::bool(old.is_some_and(|old| sorted.remove(&old)))
            }
            ("ZCARD", []) => Reply::count(sorted.len()),
            ("ZRANGE", [from, to, options @ ..]) => range(sorted, from, to, options)?,
            ("ZREMRANGEBYSCORE", [from, to]) => {
                let gone: Vec<_> = by_score(sorted, from, to)?.cloned().collect();
                gone.iter().for_each(|old| _ = sorted.remove(old));
                Reply::count(gone.len())
            }
            ("ZREMRANGEBYRANK", [from, to]) => {
                let (from, count) = ranks(sorted.len(), from, to)?;
                let gone: Vec<_> = sorted.iter().skip(from).take(count).cloned().collect();
                gone.iter().for_each(|old| _ = sorted.remove(old));
                Reply::count(gone.len())
            }
            _other => return Err("ERR syntax error".to_owned()),
        };
        self.drop_if_empty(key);
        Ok(reply)
    }
}

fn range(sorted: &Sorted, from: &[u8], to: &[u8], options: &[Vec<u8>]) -> Answer {
    let has = |word: &str| options.iter().any(|option| is(option, word));
    let found: Vec<&(i64, Vec<u8>)> = if has("BYSCORE") {
        let limit = options.iter().position(|option| is(option, "LIMIT"));
        let of = |at: usize| number(options.get(at).ok_or("ERR syntax error")?);
        let (skip, take) = limit.map_or(Ok((0, i64::MAX)), |at| Ok::<_, String>((of(at + 1)?, of(at + 2)?)))?;
        let (skip, take) = (usize::try_from(skip).unwrap_or(0), usize::try_from(take).unwrap_or(usize::MAX));
        by_score(sorted, from, to)?.skip(skip).take(take).collect()
    } else {
        let (skip, count) = ranks(sorted.len(), from, to)?;
        match has("REV") {
            true => sorted.iter().rev().skip(skip).take(count).collect(),
            false => sorted.iter().skip(skip).take(count).collect(),
        }
    };
    let mut reply = Vec::new();
    for (score, member) in found {
        reply.push(Reply::Bulk(member.clone()));
        if has("WITHSCORES") {
            reply.push(Reply::text(score));
        }
    }
    Ok(Reply::Array(reply))
}

fn by_score<'a>(
    sorted: &'a Sorted,
    from: &[u8],
    to: &[u8],
) -> Result<impl Iterator<Item = &'a (i64, Vec<u8>)>, String> {
    let end = |text: &[u8]| match text {
        b"-inf" => Ok(i64::MIN),
        b"+inf" => Ok(i64::MAX),
        other => number(other),
    };
    let (from, to) = (end(from)?, end(to)?);
    Ok(sorted.iter().filter(move |(score, _)| (from..=to).contains(score)))
}

/// How many are skipped, and how many are taken then.
fn ranks(len: usize, from: &[u8], to: &[u8]) -> Result<(usize, usize), String> {
    let len = i64::try_from(len).expect("a length");
    let at = |rank: i64| if rank < 0 { rank + len } else { rank };
    let (from, to) = (at(number(from)?).max(0), at(number(to)?).min(len - 1));
    Ok((usize::try_from(from).expect("a rank"), usize::try_from(to - from + 1).unwrap_or(0)))
}
