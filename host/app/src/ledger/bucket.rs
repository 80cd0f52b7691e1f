//! A budget that fills with time: so much a second, and never more than one second's worth. It may be overdrawn; what
//! is missing is then waited for.

use std::time::{Duration, Instant};

/// What a whole unit is counted in.
const PARTS: i64 = 1_000_000;

/// The budget. Time comes in as an argument; one that goes backwards fills nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Bucket {
    per_second: u32,
    /// In millionths of a unit, so that each microsecond adds a whole number of them.
    level: i64,
    filled: Instant,
}

impl Bucket {
    /// A full budget.
    pub(super) fn new(per_second: u32, now: Instant) -> Self {
        Self { per_second, level: i64::from(per_second) * PARTS, filled: now }
    }

    /// From now on it gets so many units in a second. What it has, or is in debt, it keeps, up to a second's worth.
    pub(super) fn set(&mut self, per_second: u32, now: Instant) {
        self.fill(now);
        self.per_second = per_second;
        self.level = self.level.min(i64::from(per_second) * PARTS);
    }

    /// How many whole units can be taken now; 0 in debt.
    pub(super) fn whole(&mut self, now: Instant) -> u32 {
        self.fill(now);
        u32::try_from(self.level.max(0) / PARTS).unwrap_or(u32::MAX)
    }

    /// Takes units, even those that are not there.
    pub(super) fn charge(&mut self, units: u32, now: Instant) {
        self.fill(now);
        self.level = self.level.saturating_sub(i64::from(units) * PARTS);
    }

    /// Gives units back that were taken and not used.
    pub(super) fn give_back(&mut self, units: u32, now: Instant) {
        self.fill(now);
        let full = i64::from(self.per_second) * PARTS;
        self.level = self.level.saturating_add(i64::from(units) * PARTS).min(full);
    }

    /// How long it is until a whole unit is there; zero if one is. One that never fills is looked at again after an hour.
    pub(super) fn wait(&mut self, now: Instant) -> Duration {
        self.fill(now);
        let missing = (PARTS - self.level).max(0);
        if missing == 0 {
            return Duration::ZERO;
        }
        let hour = 3_600_000_000;
        match i64::from(self.per_second) {
            0 => Duration::from_micros(hour),
            rate => Duration::from_micros(u64::try_from((missing + rate - 1) / rate).unwrap_or(hour).min(hour)),
        }
    }

    fn fill(&mut self, now: Instant) {
        let elapsed = now.saturating_duration_since(self.filled);
        let micros = i64::try_from(elapsed.as_micros()).unwrap_or(i64::MAX);
        // Only what was counted is over: less than a microsecond stays for the next time.
        self.filled += Duration::from_micros(micros.unsigned_abs());
        let full = i64::from(self.per_second) * PARTS;
        self.level = self.level.saturating_add(micros.saturating_mul(i64::from(self.per_second))).min(full);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_second_s_worth_is_there_at_the_start_and_the_rest_comes_evenly() {
        let start = Instant::now();
        let mut bucket = Bucket::new(10, start);
        assert_eq!(bucket.whole(start), 10);
        bucket.charge(10, start);
        assert_eq!(bucket.whole(start), 0);
        assert_eq!(bucket.wait(start), Duration::from_millis(100));
        assert_eq!(bucket.whole(start + Duration::from_millis(99)), 0);
        assert_eq!(bucket.whole(start + Duration::from_millis(100)), 1);
        assert_eq!(bucket.whole(start + Duration::from_secs(60)), 10);
    }

    #[test]
    fn a_debt_is_waited_for() {
        let start = Instant::now();
        let mut bucket = Bucket::new(100, start);
        bucket.charge(300, start);
        // Two hundred of debt, and one to take.
        assert_eq!(bucket.wait(start), Duration::from_millis(2010));
        assert_eq!(bucket.whole(start + Duration::from_millis(2010)), 1);
    }

    #[test]
    fn a_budget_of_nothing_is_never_there_and_asks_for_no_overflow() {
        let start = Instant::now();
        let mut bucket = Bucket::new(0, start);
        assert_eq!((bucket.whole(start), bucket.wait(start)), (0, Duration::from_secs(3600)));
        bucket.set(u32::MAX, start);
        assert!(bucket.whole(start + Duration::from_secs(1 << 40)) > 0);
    }

    proptest! {
        /// Whoever asks before each unit never gets more than the burst and what time has brought, and never much less.
        #[test]
        fn nobody_gets_more_than_the_rate(
            rate in 1_u32..10_000,
            steps in prop::collection::vec((0_u64..200_000, 1_u32..50), 1..200),
        ) {
            let start = Instant::now();
            let (mut bucket, mut now, mut got) = (Bucket::new(rate, start), start, 0_u64);
            for (micros, wanted) in steps {
                now += Duration::from_micros(micros);
                let units = wanted.min(bucket.whole(now));
                bucket.charge(units, now);
                got += u64::from(units);
                let most = u128::from(rate) * (1_000_000 + (now - start).as_micros()) / 1_000_000;
                prop_assert!(u128::from(got) <= most, "{got} of {most}");
            }
        }

        /// The wait that it names is exact: a moment before there is nothing, and then there is one.
        #[test]
        fn the_wait_is_exact(rate in 1_u32..100_000, debt in 0_u32..1_000_000) {
            let start = Instant::now();
            let mut bucket = Bucket::new(rate, start);
            bucket.charge(rate, start);
            bucket.charge(debt, start);
            let wait = bucket.wait(start);
            prop_assume!(wait < Duration::from_secs(3600));
            prop_assert_eq!(bucket.whole(start + wait - Duration::from_micros(1)), 0);
            prop_assert!(bucket.whole(start + wait) >= 1);
        }
    }
}
