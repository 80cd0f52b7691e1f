//! Who may take how many seats of a host: a part of them is kept for each tenant by weight, the rest is for whoever has
//! work, and whoever holds the fewest for its weight is served first.

/// A tenant, as far as seats are concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Party {
    /// Its share beside the others' weights; 0 counts as 1.
    pub weight: u32,
    /// The seats that its attempts have now.
    pub in_use: u32,
    /// The most seats that it may have by its own quota.
    pub seats_max: Option<u32>,
    /// How many more it could use now. Only sharing out looks at that.
    pub wants: u32,
}

impl Party {
    fn weight(&self) -> u64 {
        u64::from(self.weight.max(1))
    }

    fn room(&self) -> u32 {
        self.seats_max.map_or(u32::MAX, |max| max.saturating_sub(self.in_use))
    }
}

/// What is free, and for whom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shares {
    /// How many of its guaranteed seats each party does not have yet.
    owed: Vec<u32>,
    /// Free seats that are kept for nobody.
    common: u32,
    free: u32,
}

impl Shares {
    /// Of `seats` seats, of which `free` are free. Half of all seats are kept for the parties by weight, so that a seat
    /// is there at once for whoever comes; a party alone has nobody to keep any for.
    #[must_use]
    pub fn new(seats: u32, free: u32, parties: &[Party]) -> Self {
        let weights: u64 = parties.iter().map(Party::weight).sum();
        let owed = |party: &Party| {
            let kept = u64::from(seats / 2) * party.weight() / weights.max(1);
            let kept = u32::try_from(kept).unwrap_or(seats).min(party.seats_max.unwrap_or(u32::MAX));
            kept.saturating_sub(party.in_use)
        };
        let owed: Vec<u32> = parties.iter().map(owed).collect();
        let all: u64 = owed.iter().copied().map(u64::from).sum();
        let common = u32::try_from(u64::from(free).saturating_sub(all)).unwrap_or(0);
        Self { owed, common, free }
    }

    /// How many more seats this party could take now if no other took any.
    #[must_use]
    pub fn room(&self, index: usize, party: &Party) -> u32 {
        self.owed[index].saturating_add(self.common).min(self.free).min(party.room())
    }

    /// Gives seats to those that want some, `most` in all: one after the other to whoever then holds the fewest for its
    /// weight. Says how many each gets.
    #[must_use]
    pub fn share_out(mut self, most: u32, parties: &[Party]) -> Vec<u32> {
        let mut given = vec![0; parties.len()];
        let mut left = most.min(self.free);
        let mut asking: Vec<usize> = (0..parties.len()).filter(|i| parties[*i].wants > 0).collect();
        while left > 0 {
            let may = |i: &usize| {
                given[*i] < parties[*i].wants.min(parties[*i].room()) && (self.owed[*i] > 0 || self.common > 0)
            };
            asking.retain(may);
            // What it would hold with one more, for its weight, without fractions.
            let first = asking.iter().copied().min_by(|a, b| {
                let held = |i: usize| u64::from(parties[i].in_use) + u64::from(given[i]) + 1;
                (held(*a) * parties[*b].weight()).cmp(&(held(*b) * parties[*a].weight()))
            });
            let Some(first) = first else { break };
            // Alone, it need not be asked for each seat.
            let rest = parties[first].wants.min(parties[first].room()) - given[first];
            let step = if asking.len() == 1 { rest.min(left) } else { 1 };
            let from_owed = step.min(self.owed[first]);
            let from_common = (step - from_owed).min(self.common);
            self.owed[first] -= from_owed;
            self.common -= from_common;
            given[first] += from_owed + from_common;
            left -= from_owed + from_common;
        }
        given
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn party(weight: u32, in_use: u32, wants: u32) -> Party {
        Party { weight, in_use, seats_max: None, wants }
    }

    fn share_out(seats: u32, free: u32, most: u32, parties: &[Party]) -> Vec<u32> {
        Shares::new(seats, free, parties).share_out(most, parties)
    }

    #[test]
    fn a_tenant_alone_takes_all() {
        assert_eq!(share_out(512, 512, 512, &[party(1, 0, 9999)]), [512]);
    }

    #[test]
    fn a_backlog_leaves_the_seats_that_are_kept_for_the_others() {
        assert_eq!(share_out(100, 100, 100, &[party(1, 0, 9999), party(1, 0, 0)]), [75, 0]);
        assert_eq!(share_out(100, 100, 100, &[party(1, 0, 9999), party(3, 0, 0)]), [63, 0]);
    }

    #[test]
    fn two_backlogs_share_by_weight_whatever_they_hold() {
        assert_eq!(share_out(90, 90, 90, &[party(1, 0, 9999), party(2, 0, 9999)]), [30, 60]);
        assert_eq!(share_out(90, 50, 50, &[party(1, 40, 9999), party(2, 0, 9999)]), [0, 50]);
    }

    #[test]
    fn a_quota_is_not_kept_beyond_itself_and_not_exceeded() {
        let capped = Party { seats_max: Some(3), ..party(1, 1, 9999) };
        assert_eq!(share_out(100, 99, 99, &[capped, party(1, 0, 9999)]), [2, 97]);
    }

    #[test]
    fn a_host_with_one_seat_gives_it_to_whoever_comes() {
        assert_eq!(share_out(1, 1, 1, &[party(1, 0, 5), party(9, 0, 0)]), [1, 0]);
        assert_eq!(share_out(1, 1, 1, &[party(1, 0, 5), party(9, 0, 5)]), [0, 1]);
    }

    fn parties() -> impl Strategy<Value = (u32, Vec<Party>)> {
        let one = (1_u32..20, 0_u32..40, prop::option::of(0_u32..60), prop_oneof![Just(0), 0_u32..300]);
        let one = one.prop_map(|(weight, in_use, seats_max, wants)| Party { weight, in_use, seats_max, wants });
        (1_u32..400, prop::collection::vec(one, 1..8))
    }

    proptest! {
        #[test]
        fn nothing_is_given_that_is_not_there_wanted_or_allowed((spare, parties) in parties(), most in 0_u32..500) {
            let used: u32 = parties.iter().map(|p| p.in_use).sum();
            let seats = used + spare;
            let shares = Shares::new(seats, spare, &parties);
            let given = shares.clone().share_out(most, &parties);
            prop_assert!(given.iter().sum::<u32>() <= most.min(spare));
            for (i, party) in parties.iter().enumerate() {
                prop_assert!(given[i] <= party.wants && given[i] <= party.room());
                prop_assert!(given[i] <= shares.room(i, party));
            }
        }

        #[test]
        fn what_is_kept_for_a_tenant_is_there_when_it_comes((spare, mut parties) in parties()) {
            // A host that has filled up from nothing, by these rules.
            parties.iter_mut().for_each(|p| p.in_use = 0);
            let given = share_out(spare, spare, spare, &parties);
            let free = spare - given.iter().sum::<u32>();
            let weights: u64 = parties.iter().map(Party::weight).sum();
            let after: Vec<Party> = parties.iter().zip(&given).map(|(p, n)| Party { in_use: *n, ..*p }).collect();
            let shares = Shares::new(spare, free, &after);
            for (i, party) in after.iter().enumerate() {
                let kept = u32::try_from(u64::from(spare / 2) * party.weight() / weights).unwrap();
                let kept = kept.min(party.seats_max.unwrap_or(u32::MAX));
                prop_assert!(party.in_use + shares.room(i, party) >= kept, "{party:?} has fewer than {kept}");
            }
        }

        #[test]
        fn two_that_want_more_hold_the_same_for_their_weight(
            seats in 2_u32..1000, a in 1_u32..20, b in 1_u32..20,
        ) {
            let given = share_out(seats, seats, seats, &[party(a, 0, u32::MAX), party(b, 0, u32::MAX)]);
            prop_assert_eq!(given[0] + given[1], seats, "nothing stays empty while somebody waits");
            let exact = f64::from(seats) * f64::from(a) / f64::from(a + b);
            prop_assert!((f64::from(given[0]) - exact).abs() <= 1.0, "{} of {exact}", given[0]);
        }
    }
}
