//! Which calls of one function go first, and how much those get that do not.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// How urgent a call is beside the other calls of its function. Those of a higher level go first.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Priority {
    /// Before all others.
    High,
    /// What a call is whose caller says nothing.
    #[default]
    Normal,
    /// When nothing else waits, and a little beside it.
    Low,
}

/// What is said to whoever names another level.
pub const PRIORITY_RULE: &str = "`high`, `normal` or `low`";

impl Priority {
    /// All of them; the first goes first.
    pub const ALL: [Self; 3] = [Self::High, Self::Normal, Self::Low];

    /// The word for it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::High => "high",
            Self::Normal => "normal",
            Self::Low => "low",
        }
    }

    /// Its place in [`Priority::ALL`].
    #[must_use]
    pub fn place(self) -> usize {
        match self {
            Self::High => 0,
            Self::Normal => 1,
            Self::Low => 2,
        }
    }

    /// Whether a call of this level has to go to a stream of its own level before it runs: it stands in one of a higher
    /// level. One that stands in a lower one has waited longer than it had to, and runs when it is read.
    #[must_use]
    pub fn is_below(self, stream: Self) -> bool {
        self > stream
    }

    /// Whether it is what a call has whose caller says nothing.
    #[must_use]
    pub fn is_normal(&self) -> bool {
        *self == Self::Normal
    }
}

impl FromStr for Priority {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|level| level.as_str() == text)
            .ok_or_else(|| format!("the levels are {PRIORITY_RULE}"))
    }
}

impl fmt::Display for Priority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Who has the first claim on each of sixteen calls that are read one after the other. Of any sixteen in a row four are a
/// normal call's and one is a low one's: each level leaves about a quarter to those below it. Sixteen, so that a host with
/// a single seat comes round soon; spread out, so that a share does not come in one go.
const CYCLE: [Priority; 16] = {
    use Priority::{High as H, Low as L, Normal as N};
    [H, H, H, N, H, H, H, N, H, H, H, N, H, L, H, N]
};

/// Where the reading of one function's calls stands among the levels.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Pace(usize);

impl Pace {
    /// How many of the next `count` calls each level has the first claim on, by its [`Priority::place`]. What a level does
    /// not use goes to the others, the highest first.
    #[must_use]
    pub fn claims(self, count: usize) -> [usize; 3] {
        let mut claims = [0; 3];
        for level in CYCLE.iter().cycle().skip(self.0).take(count) {
            claims[level.place()] += 1;
        }
        claims
    }

    /// So many calls were read.
    #[must_use]
    pub fn after(self, read: usize) -> Self {
        Self((self.0 + read) % CYCLE.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_is_read_as_it_is_written_and_nothing_else_is_one() {
        for level in Priority::ALL {
            assert_eq!((level.to_string().parse(), Priority::ALL[level.place()]), (Ok(level), level));
        }
        for bad in ["", "High", "urgent", "1", "normal "] {
            assert!(bad.parse::<Priority>().unwrap_err().contains("`high`, `normal` or `low`"), "{bad:?}");
        }
    }

    #[test]
    fn a_call_in_a_stream_above_its_level_is_moved_and_no_other() {
        use Priority::{High, Low, Normal};
        for (said, stream, is_moved) in [
            (High, High, false),
            (High, Normal, false),
            (High, Low, false),
            (Normal, High, true),
            (Normal, Normal, false),
            (Normal, Low, false),
            (Low, High, true),
            (Low, Normal, true),
            (Low, Low, false),
        ] {
            assert_eq!(said.is_below(stream), is_moved, "{said} in the stream of {stream} calls");
        }
    }

    /// Reads `count` calls at a time, `reads` times, from so many that wait; gives how many of each level were read.
    fn read(mut waiting: [usize; 3], count: usize, reads: usize) -> [usize; 3] {
        let (mut pace, mut all) = (Pace::default(), [0; 3]);
        for _ in 0..reads {
            let mut left = count;
            let claims = pace.claims(count);
            for most in [claims, [count; 3]] {
                for level in 0..3 {
                    let take = most[level].min(waiting[level]).min(left);
                    (waiting[level], all[level], left) = (waiting[level] - take, all[level] + take, left - take);
                }
            }
            pace = pace.after(count - left);
        }
        all
    }

    #[test]
    fn what_waits_is_read_by_level_and_no_level_starves() {
        const MANY: usize = 100_000;
        // What waits of each level, how many a read takes, how many reads, and what has been read then.
        let table = [
            ([MANY, MANY, MANY], 1, 16, [11, 4, 1]),
            ([MANY, MANY, MANY], 16, 1, [11, 4, 1]),
            ([MANY, MANY, MANY], 128, 1, [88, 32, 8]),
            ([MANY, MANY, MANY], 5, 16, [55, 20, 5]),
            ([MANY, MANY, 0], 1, 16, [12, 4, 0]),
            ([MANY, 0, MANY], 1, 16, [15, 0, 1]),
            ([0, MANY, MANY], 1, 16, [0, 15, 1]),
            ([0, MANY, 0], 7, 3, [0, 21, 0]),
            ([3, MANY, MANY], 1, 3, [3, 0, 0]),
            ([3, MANY, MANY], 64, 1, [3, 57, 4]),
            ([0, 0, 5], 64, 1, [0, 0, 5]),
            ([0, 0, 0], 64, 2, [0, 0, 0]),
        ];
        for (waiting, count, reads, expected) in table {
            assert_eq!(read(waiting, count, reads), expected, "{waiting:?}, {count} at a time, {reads} times");
        }
    }

    #[test]
    fn any_sixteen_in_a_row_have_the_same_shares() {
        for start in 0..40 {
            assert_eq!(Pace::default().after(start).claims(16), [11, 4, 1], "from {start} on");
        }
    }
}
