//! What is read: which call streams of which functions, and how much of each.

use std::collections::HashMap;

use baton_model::{FunctionId, Priority};

use crate::keys::Keys;
use crate::levels::Levels;

/// The streams that are read, prepared once and used for many reads.
#[derive(Debug, Default)]
pub struct ReadEnd {
    pub(super) functions: Vec<FunctionId>,
    levels: Vec<Levels>,
    /// Those of each function stand together, the highest level first.
    pub(super) streams: Vec<String>,
    /// Where those of each function begin.
    first: Vec<usize>,
    pub(super) by_stream: HashMap<Vec<u8>, (usize, Priority)>,
}

impl ReadEnd {
    /// The streams of normal calls of these functions.
    #[must_use]
    pub fn new(keys: &Keys, functions: Vec<FunctionId>) -> Self {
        Self::of_levels(keys, functions.into_iter().map(|function| (function, Levels::default())).collect())
    }

    /// The call streams that these functions have.
    #[must_use]
    pub fn of_levels(keys: &Keys, functions: Vec<(FunctionId, Levels)>) -> Self {
        let mut end = Self::default();
        for (place, (function, levels)) in functions.into_iter().enumerate() {
            end.first.push(end.streams.len());
            for level in levels.all() {
                let key = keys.calls_at(&function, level);
                end.by_stream.insert(key.clone().into_bytes(), (place, level));
                end.streams.push(key);
            }
            end.functions.push(function);
            end.levels.push(levels);
        }
        end
    }

    /// Which streams the function at this place has.
    #[must_use]
    pub fn levels(&self, place: usize) -> Levels {
        self.levels[place]
    }

    /// How many entries of each stream may be asked for, so that they come to no more than so many in all; one in any case.
    #[must_use]
    pub fn share_of(&self, count: usize) -> usize {
        (count / self.streams.len().max(1)).max(1)
    }

    /// Those of one function, the highest level first.
    pub(super) fn streams_of(&self, place: usize) -> &[String] {
        let end = self.first.get(place + 1).copied().unwrap_or(self.streams.len());
        &self.streams[self.first[place]..end]
    }

    /// The functions, in the order in which they were given.
    #[must_use]
    pub fn functions(&self) -> &[FunctionId] {
        &self.functions
    }
}

/// What one of several reads asks for that are made in one go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Portion {
    /// The functions, by their places in the [`ReadEnd`].
    pub functions: Vec<usize>,
    /// The most new entries of each: of each stream, unless there are claims.
    pub count: usize,
    /// On how many entries calls of each level have the first claim, as [`baton_model::Pace`] says it; none reads them as
    /// they come. With claims it is a portion of one function, and never waits.
    pub claims: Option<[usize; 3]>,
}

impl Portion {
    /// So many of each of these functions, as they come.
    #[must_use]
    pub fn new(functions: Vec<usize>, count: usize) -> Self {
        Self { functions, count, claims: None }
    }
}
