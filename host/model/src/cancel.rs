//! Taking a call back: what is done next, by what was seen of it.

use std::time::Duration;

use crate::EntryId;

/// How long a host has to stop a call that it was told to stop, before the call is taken from it.
const HOST_HAS: Duration = Duration::from_millis(250);
/// How often in a row a call may be nowhere before there is none: it can move against the direction of a search.
const MISSES_MAX: u32 = 3;
/// After how long taking it back is given up.
const ALL_IN_ALL: Duration = Duration::from_secs(5);

/// What was seen of a call that is to be taken back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Seen {
    /// It has a result: it was taken back, or had ended.
    Ended,
    /// A host has it, and was told.
    Held {
        /// The host, by the name of its consumer.
        host: String,
        /// As which entry.
        entry: EntryId,
    },
    /// It is nowhere.
    Nowhere,
}

/// What is done next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Nothing: it is over.
    Done,
    /// Its result is waited for, so long at the most, and then it is looked again.
    Wait(Duration),
    /// The host does not do as it is told. It is cut off, so that nothing late can come from it, and the call is taken from it.
    TakeFrom(String),
    /// It is looked for once more.
    LookAgain,
    /// There is no such call.
    Unknown,
    /// It goes from hand to hand faster than it can be taken back. Somebody may try again.
    GiveUp,
}

/// How far taking one call back has come.
#[derive(Debug, Default)]
pub struct Cancelling {
    /// Who was told about which entry, and when for the first time.
    told: Option<(String, EntryId, Duration)>,
    misses: u32,
}

impl Cancelling {
    /// What is done after this was seen, so long after the beginning.
    pub fn next(&mut self, seen: Seen, since: Duration) -> Step {
        let (host, entry) = match seen {
            Seen::Ended => return Step::Done,
            Seen::Nowhere => {
                self.misses += 1;
                return if self.misses < MISSES_MAX { Step::LookAgain } else { Step::Unknown };
            }
            Seen::Held { host, entry } => (host, entry),
        };
        self.misses = 0;
        if since >= ALL_IN_ALL {
            return Step::GiveUp;
        }
        match &self.told {
            Some((told, of, at)) if *told == host && *of == entry => match HOST_HAS.checked_sub(since - *at) {
                Some(left) if !left.is_zero() => Step::Wait(left),
                Some(_) | None => Step::TakeFrom(host),
            },
            Some(_) | None => {
                self.told = Some((host, entry, since));
                Step::Wait(HOST_HAS)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_is_taken_from_whoever_does_not_give_it_back() {
        let ms = Duration::from_millis;
        let held = |host: &str, entry: &str| Seen::Held { host: host.into(), entry: EntryId::parse(entry).unwrap() };
        let take = |host: &str| Step::TakeFrom(host.into());
        // What was seen when, and what is done then.
        let table: [&[(Seen, u64, Step)]; 7] = [
            &[(Seen::Ended, 0, Step::Done)],
            &[(held("a", "1-0"), 0, Step::Wait(HOST_HAS)), (Seen::Ended, 2, Step::Done)],
            &[(held("a", "1-0"), 0, Step::Wait(HOST_HAS)), (held("a", "1-0"), 250, take("a"))],
            // Woken early, it goes on to wait.
            &[(held("a", "1-0"), 5, Step::Wait(HOST_HAS)), (held("a", "1-0"), 55, Step::Wait(ms(200)))],
            // Another host has claimed it, or the same one has it as another entry: each has its time.
            &[
                (held("a", "1-0"), 0, Step::Wait(HOST_HAS)),
                (held("b", "1-0"), 250, Step::Wait(HOST_HAS)),
                (held("b", "2-0"), 500, Step::Wait(HOST_HAS)),
                (held("b", "2-0"), 760, take("b")),
            ],
            &[
                (Seen::Nowhere, 0, Step::LookAgain),
                (Seen::Nowhere, 1, Step::LookAgain),
                (Seen::Nowhere, 2, Step::Unknown),
            ],
            &[(held("a", "1-0"), 0, Step::Wait(HOST_HAS)), (held("b", "1-0"), 5_000, Step::GiveUp)],
        ];
        for run in table {
            let mut cancelling = Cancelling::default();
            for (seen, at, step) in run {
                assert_eq!(cancelling.next(seen.clone(), ms(*at)), *step, "{seen:?} at {at} ms in {run:?}");
            }
        }
    }
}
