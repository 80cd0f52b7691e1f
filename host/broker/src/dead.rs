//! Dead letters, for people and their tools: looked at, sent again, dropped. Hosts only ever add to them.

use baton_model::{CallId, DeadLetter, Digest, EntryId, FunctionId, LetterFilter, LetterSummary, Redrivable};
use redis::{Value, cmd};
use serde::Serialize;

use crate::BrokerError;
use crate::keys::Keys;
use crate::link::{BrokerConfig, Link};
use crate::script::{Lua, marking};

/// The most letters that one script run reads: their payloads pass through it, and it holds Redis.
const STEP: usize = 25;
/// The most letters that one list looks at.
const LIST_MAX: usize = 10_000;
/// The most letters among which one is searched for of which it is not known whose it is, and after how many bytes of their
/// payloads no further step is made.
const SEARCH_MAX: usize = 1_000;
const SEARCH_BYTES_MAX: u64 = 8 << 20;
/// How much of an error a summary has.
const ERROR_BYTES: usize = 300;

/// Which letters come first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// Those that lie there for the longest.
    OldestFirst,
    /// The latest.
    NewestFirst,
}

/// What became of a letter that was to be sent again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Redriven {
    /// Its call stands in its stream once more.
    SentAgain,
    /// There is no such letter any more.
    Gone,
    /// Its call has ended in another way since, and that result stands.
    Ended,
    /// It does not hold the whole call.
    NotWhole,
    /// Its call is under way again: somebody sent the same id, or another letter of it.
    UnderWay,
}

/// What became of many letters.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct RedriveTally {
    /// How many were sent again.
    pub redriven: u64,
    /// How many were left because they may have ended their hosts, and nobody said that they are meant.
    pub quarantined: u64,
    /// How many were left because their calls have another result by now.
    pub ended: u64,
    /// How many were left because they do not hold a whole call.
    pub not_whole: u64,
    /// How many were left because their calls are under way again.
    pub under_way: u64,
    /// Whether there may be more.
    pub more: bool,
    /// Behind which letter to go on then: those before it that are left will be left again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next: Option<EntryId>,
}

/// How far one request goes through the letters that are meant, from the oldest on.
#[derive(Debug, Clone, Copy)]
pub struct Reach {
    after: Option<EntryId>,
    count_max: u64,
    looks_max: usize,
}

impl Reach {
    /// All of them.
    #[must_use]
    pub fn all() -> Self {
        Self { after: None, count_max: u64::MAX, looks_max: usize::MAX }
    }

    /// Those behind `after`, until about so many were dealt with or 10,000 looked at.
    #[must_use]
    pub fn of_one_request(after: Option<EntryId>, count_max: u64) -> Self {
        Self { after, count_max, looks_max: LIST_MAX }
    }
}

/// A part of the letters of a function.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Letters {
    /// The letters.
    pub letters: Vec<LetterSummary>,
    /// Behind which letter to go on, if there may be more.
    pub next: Option<EntryId>,
}

/// Looks at dead letters, sends them again and drops them.
pub struct DeadLetters {
    link: Link,
    keys: Keys,
    list: Lua,
    redrive: Lua,
    drop: Lua,
}

impl DeadLetters {
    /// With these settings.
    ///
    /// # Errors
    /// [`BrokerError::BadUrl`].
    pub fn new(config: &BrokerConfig) -> Result<Self, BrokerError> {
        Ok(Self {
            link: Link::new(config.client()?),
            keys: config.keys(),
            list: Lua::new(include_str!("scripts/dead_list.lua")),
            redrive: marking!("scripts/redrive.lua"),
            drop: Lua::new(include_str!("scripts/dead_drop.lua")),
        })
    }

    /// Letters of `function` that `filter` means, at most `count_max` of them, behind `after` if that is said. It looks at
    /// no more than 10,000 in one go, so that there may be more although few are given.
    ///
    /// # Errors
    /// Any [`BrokerError`].
    pub async fn list(
        &self,
        function: &FunctionId,
        filter: &LetterFilter,
        order: Order,
        after: Option<EntryId>,
        count_max: usize,
    ) -> Result<Letters, BrokerError> {
        let mut walk = Walk::new(filter, order, after);
        let mut letters = Vec::new();
        for _ in 0..LIST_MAX / STEP {
            if walk.is_over {
                return Ok(Letters { letters, next: None });
            }
            for letter in self.step(function, &mut walk).await? {
                if letters.len() == count_max {
                    return Ok(Letters { next: letters.last().map(|last: &LetterSummary| last.letter), letters });
                }
                if filter.means(&letter) {
                    letters.push(letter);
                }
            }
        }
        Ok(Letters { letters, next: walk.next() })
    }

    /// The letter of this id, or the latest of the call of this id. None if there is none. A letter of which no host wrote down
    /// whose it is, is found among the latest 1,000 alone.
    ///
    /// # Errors
    /// Any [`BrokerError`].
    pub async fn find(&self, function: &FunctionId, id: &str) -> Result<Option<LetterSummary>, BrokerError> {
        let all = LetterFilter::default();
        let is_its = |letter: &LetterSummary| letter.id.as_ref().is_some_and(|call| call.as_str() == id);
        // A letter has no level; the id of a call may have.
        if let Some(letter) = EntryId::parse(id).filter(|letter| letter.level().is_normal())
            && let Some(found) = self.one(function, letter).await?
        {
            return Ok(Some(found));
        }
        let latest = self.link.run(cmd("HGET").arg(self.keys.letters(function)).arg(id)).await?;
        let latest: Option<String> = redis::from_redis_value(latest).unwrap_or_default();
        if let Some(letter) = latest.as_deref().and_then(EntryId::parse)
            && let Some(found) = self.one(function, letter).await?.filter(is_its)
        {
            return Ok(Some(found));
        }
        let mut walk = Walk::new(&all, Order::NewestFirst, None);
        let mut bytes = 0;
        for _ in 0..SEARCH_MAX / STEP {
            if walk.is_over || bytes >= SEARCH_BYTES_MAX {
                break;
            }
            let page = self.step(function, &mut walk).await?;
            bytes += page.iter().map(|letter| letter.payload_bytes).sum::<u64>();
            if let Some(found) = page.into_iter().find(is_its) {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    async fn one(&self, function: &FunctionId, letter: EntryId) -> Result<Option<LetterSummary>, BrokerError> {
        let mut walk = Walk::new(&LetterFilter::default(), Order::OldestFirst, None).only(letter);
        Ok(self.step(function, &mut walk).await?.pop())
    }

    /// All that a letter holds. None if it is not there any more.
    ///
    /// # Errors
    /// Any [`BrokerError`].
    pub async fn read(&self, function: &FunctionId, letter: EntryId) -> Result<Option<DeadLetter>, BrokerError> {
        let id = letter.to_string();
        let answer = self.link.run(cmd("XRANGE").arg(self.keys.dead(function)).arg(&id).arg(&id)).await?;
        type Entry = (String, Vec<(Vec<u8>, Vec<u8>)>);
        let found: Vec<Entry> =
            redis::from_redis_value(answer).map_err(|e| BrokerError::shape("XRANGE", &e.to_string()))?;
        Ok(found.into_iter().next().map(|(_, fields)| DeadLetter::read(function.clone(), letter, fields)))
    }

    /// Sends these letters again, and says of each what became of it. Doing it twice does no more than once.
    ///
    /// # Errors
    /// Any [`BrokerError`]; some may have been sent again.
    pub async fn redrive(
        &self,
        function: &FunctionId,
        letters: &[LetterSummary],
    ) -> Result<Vec<Redriven>, BrokerError> {
        let mut all = Vec::with_capacity(letters.len());
        for page in letters.chunks(STEP) {
            let whole: Vec<(EntryId, &CallId)> =
                page.iter().filter_map(|letter| Some((letter.letter, letter.id.as_ref()?))).collect();
            let mut call = self.redrive.call(2 + whole.len());
            call.arg(self.keys.calls(function)).arg(self.keys.dead(function));
            for (_, id) in &whole {
                call.arg(self.keys.result(function, id));
            }
            for (letter, id) in &whole {
                call.arg(letter.to_string()).arg(id.as_str());
            }
            let answer =
                if whole.is_empty() { Value::Array(Vec::new()) } else { self.redrive.run(&self.link, &call).await? };
            let mut answers = match answer {
                Value::Array(answers) if answers.len() == whole.len() => answers.into_iter(),
                other => return Err(BrokerError::shape("redrive.lua", &other)),
            };
            for letter in page {
                let answer = letter.id.as_ref().and_then(|_| answers.next());
                all.push(match answer {
                    None | Some(Value::Int(3)) => Redriven::NotWhole,
                    Some(Value::Int(1)) => Redriven::SentAgain,
                    Some(Value::Int(0)) => Redriven::Gone,
                    Some(Value::Int(2)) => Redriven::Ended,
                    Some(Value::Int(4)) => Redriven::UnderWay,
                    Some(other) => return Err(BrokerError::shape("redrive.lua", &other)),
                });
            }
        }
        Ok(all)
    }

    /// Sends the letters of `function` again that `filter` means, the oldest first, as far as `reach` says. Those that
    /// come about meanwhile are not among them, so that it ends although calls die again.
    ///
    /// # Errors
    /// Any [`BrokerError`]; some may have been sent again.
    pub async fn redrive_meant(
        &self,
        function: &FunctionId,
        filter: &LetterFilter,
        reach: Reach,
    ) -> Result<RedriveTally, BrokerError> {
        let mut tally = RedriveTally::default();
        let Some(mut walk) = self.walk_of_now(function, filter, reach).await? else { return Ok(tally) };
        while !walk.is_over && tally.redriven < reach.count_max && walk.looked_at < reach.looks_max {
            walk.step = STEP.min(usize::try_from(reach.count_max - tally.redriven).unwrap_or(STEP));
            let mut page = self.step(function, &mut walk).await?;
            page.retain(|letter| filter.means(letter));
            page.retain(|letter| match filter.redrives(letter) {
                Redrivable::Yes => true,
                Redrivable::Quarantined => {
                    tally.quarantined += 1;
                    false
                }
                Redrivable::NotWhole => {
                    tally.not_whole += 1;
                    false
                }
            });
            for end in self.redrive(function, &page).await? {
                match end {
                    Redriven::SentAgain => tally.redriven += 1,
                    Redriven::Ended => tally.ended += 1,
                    Redriven::NotWhole => tally.not_whole += 1,
                    Redriven::UnderWay => tally.under_way += 1,
                    Redriven::Gone => {}
                }
            }
        }
        tally.more = !walk.is_over;
        tally.next = walk.next();
        Ok(tally)
    }

    /// Drops these letters, and says how many were there. The results of their calls stay.
    ///
    /// # Errors
    /// Any [`BrokerError`]; some may have been dropped.
    pub async fn drop_letters(&self, function: &FunctionId, letters: &[LetterSummary]) -> Result<u64, BrokerError> {
        let mut dropped = 0;
        for page in letters.chunks(1000) {
            let mut drop = self.drop.call(2);
            drop.arg(self.keys.dead(function)).arg(self.keys.letters(function));
            for letter in page {
                drop.arg(letter.letter.to_string()).arg(letter.id.as_ref().map_or("", |call| call.as_str()));
            }
            match self.drop.run(&self.link, &drop).await? {
                Value::Int(count) => dropped += u64::try_from(count).unwrap_or(0),
                other => return Err(BrokerError::shape("dead_drop.lua", &other)),
            }
        }
        Ok(dropped)
    }

    /// Drops the letters of `function` that `filter` means, as far as `reach` says. Says how many, and behind which letter to
    /// go on if there may be more.
    ///
    /// # Errors
    /// Any [`BrokerError`]; some may have been dropped.
    pub async fn drop_meant(
        &self,
        function: &FunctionId,
        filter: &LetterFilter,
        reach: Reach,
    ) -> Result<(u64, Option<EntryId>), BrokerError> {
        let mut dropped = 0;
        let Some(mut walk) = self.walk_of_now(function, filter, reach).await? else { return Ok((0, None)) };
        while !walk.is_over && dropped < reach.count_max && walk.looked_at < reach.looks_max {
            let mut page = self.step(function, &mut walk).await?;
            page.retain(|letter| filter.means(letter));
            dropped += self.drop_letters(function, &page).await?;
        }
        Ok((dropped, walk.next()))
    }

    /// From where `reach` begins to the letter that is the latest now; none if there is no letter.
    async fn walk_of_now(
        &self,
        function: &FunctionId,
        filter: &LetterFilter,
        reach: Reach,
    ) -> Result<Option<Walk>, BrokerError> {
        let mut last = Walk { step: 1, ..Walk::new(filter, Order::NewestFirst, None) };
        let Some(latest) = self.step(function, &mut last).await?.pop() else { return Ok(None) };
        Ok(Some(Walk { to: latest.letter.to_string(), ..Walk::new(filter, Order::OldestFirst, reach.after) }))
    }

    /// The next letters of a walk.
    async fn step(&self, function: &FunctionId, walk: &mut Walk) -> Result<Vec<LetterSummary>, BrokerError> {
        let order = match walk.order {
            Order::OldestFirst => "oldest",
            Order::NewestFirst => "newest",
        };
        let mut call = self.list.call(1);
        call.arg(self.keys.dead(function)).arg(&walk.from).arg(&walk.to).arg(walk.step).arg(order).arg(ERROR_BYTES);
        let rows = match self.list.run(&self.link, &call).await? {
            Value::Array(rows) => rows,
            other => return Err(BrokerError::shape("dead_list.lua", &other)),
        };
        walk.is_over = rows.len() < walk.step;
        walk.looked_at += rows.len();
        let page = rows.into_iter().map(|row| summary(function, row)).collect::<Result<Vec<_>, _>>()?;
        if let Some(last) = page.last() {
            walk.last = Some(last.letter);
            walk.from = format!("({}", last.letter);
        }
        Ok(page)
    }
}

/// A way through the letters of a function, in steps.
struct Walk {
    order: Order,
    from: String,
    to: String,
    step: usize,
    last: Option<EntryId>,
    looked_at: usize,
    is_over: bool,
}

impl Walk {
    fn new(filter: &LetterFilter, order: Order, after: Option<EntryId>) -> Self {
        let earliest = filter.from_ms.map_or_else(|| "-".to_owned(), |ms| ms.to_string());
        let latest = filter.until_ms.map_or_else(|| "+".to_owned(), |ms| ms.to_string());
        let (from, to) = match order {
            Order::OldestFirst => (earliest, latest),
            Order::NewestFirst => (latest, earliest),
        };
        // Redis knows nothing before the first id, and has no word for it.
        let is_over = order == Order::NewestFirst && after.is_some_and(|after| after.is_first());
        let from = after.map_or(from, |after| format!("({after}"));
        Self { order, from, to, step: STEP, last: None, looked_at: 0, is_over }
    }

    /// Behind which letter to go on, if it is not over.
    fn next(&self) -> Option<EntryId> {
        self.last.filter(|_| !self.is_over)
    }

    fn only(self, letter: EntryId) -> Self {
        Self { from: letter.to_string(), to: letter.to_string(), step: 1, ..self }
    }
}

fn summary(function: &FunctionId, row: Value) -> Result<LetterSummary, BrokerError> {
    type Row = (String, Vec<u8>, Vec<u8>, Vec<u8>, String, String, String, u64, u8);
    let row: Row =
        redis::from_redis_value(row).map_err(|e| BrokerError::shape("a dead letter's description", &e.to_string()))?;
    let (letter, id, reason, error, attempts, digest, died_ms, payload_bytes, is_whole) = row;
    let letter = EntryId::parse(&letter).ok_or_else(|| BrokerError::shape("a dead letter's description", &letter))?;
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Ok(LetterSummary {
        letter,
        function: function.clone(),
        id: CallId::parse(&text(id)),
        reason: text(reason),
        // It may have been cut within a character.
        error: text(error).trim_end_matches(char::REPLACEMENT_CHARACTER).to_owned(),
        attempts: attempts.parse().unwrap_or(0),
        digest: Digest::parse(&digest),
        died_ms: died_ms.parse().unwrap_or_else(|_| letter.ms()),
        payload_bytes,
        is_whole: is_whole == 1,
    })
}
