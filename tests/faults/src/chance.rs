//! Chance that is the same for the same seed, on every machine and with every version of every library.

/// `SplitMix64`, by Guy Steele and others (2014): small, and good enough to choose faults with.
#[derive(Debug, Clone)]
pub(crate) struct Chance(u64);

impl Chance {
    /// All that follows is decided by `seed` and by what is done: two purposes with one seed do not go in step.
    #[must_use]
    pub(crate) fn of(seed: u64, purpose: u64) -> Self {
        let mut chance = Self(seed ^ purpose.wrapping_mul(0xd1b5_4a32_d192_ed03));
        chance.next();
        chance
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number from `from` up to but without `to`.
    ///
    /// # Panics
    /// If there is none.
    pub(crate) fn between(&mut self, from: u64, to: u64) -> u64 {
        assert!(from < to, "{from} is not below {to}");
        from + self.next() % (to - from)
    }

    /// True so many times in a hundred.
    pub(crate) fn percent(&mut self, share: u64) -> bool {
        self.between(0, 100) < share
    }

    /// One of these.
    ///
    /// # Panics
    /// If there are none.
    pub(crate) fn one<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        let at = usize::try_from(self.between(0, of.len() as u64)).expect("an index is small");
        &of[at]
    }

    /// Puts them into another order.
    pub(crate) fn shuffle<T>(&mut self, cards: &mut [T]) {
        for last in (1..cards.len()).rev() {
            let at = usize::try_from(self.between(0, last as u64 + 1)).expect("an index is small");
            cards.swap(at, last);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_the_same_numbers_for_ever() {
        let mut chance = Chance::of(7, 1);
        let numbers: Vec<u64> = (0..4).map(|_| chance.between(0, 1_000)).collect();
        let mut again = Chance::of(7, 1);
        assert_eq!(numbers, (0..4).map(|_| again.between(0, 1_000)).collect::<Vec<_>>());
        let mut other = Chance::of(7, 2);
        assert_ne!(numbers, (0..4).map(|_| other.between(0, 1_000)).collect::<Vec<_>>());
    }

    #[test]
    fn a_shuffle_loses_no_card() {
        let mut cards: Vec<u32> = (0..50).collect();
        Chance::of(1, 1).shuffle(&mut cards);
        assert_ne!(cards, (0..50).collect::<Vec<_>>());
        cards.sort_unstable();
        assert_eq!(cards, (0..50).collect::<Vec<_>>());
    }
}
