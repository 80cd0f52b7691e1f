//! Which functions the next read asks for how much, where several tenants share the seats or somebody has a quota.
//! Nothing is read here.

use std::time::Duration;

use baton_broker::Portion;

use crate::ledger::{Held, Look};

/// The most streams that every read looks at beside those that are known to have calls: an empty one costs Redis less
/// than a microsecond. When there are more, they are looked at from time to time.
const QUIET_MAX: usize = 64;

/// What is known of one function beside its accounts.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Hint {
    /// It filled its share the last time, and probably has more.
    pub(crate) is_busy: bool,
    /// Calls of it are here that wait to begin.
    pub(crate) has_waiting: bool,
}

/// What is to be read.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    pub(crate) portions: Vec<Portion>,
    /// How long the read may wait for a call; none does not wait.
    pub(crate) block: Option<Duration>,
    /// A function is left out until an attempt ends.
    pub(crate) waits_for_an_end: bool,
    /// Why calls are held back that are known of, by function.
    pub(crate) held: Vec<Option<Held>>,
}

/// The plan for `seats` seats. Whoever is known to have calls is read without waiting, each tenant as much as its share
/// of the seats; when nobody is who may begin, all are waited for who may. The quiet ones are left out of a read that
/// does not wait if they are many and `all` is not asked for. `turn` says who comes first where not all fit.
pub(crate) fn plan(look: Look, hints: &[Hint], seats: u32, all: bool, turn: usize, block: Duration) -> Plan {
    let Look { functions, mut parties, rooms, shares, .. } = look;
    let mut busy: Vec<Vec<usize>> = vec![Vec::new(); parties.len()];
    let mut open = Vec::new();
    let mut held = vec![None; functions.len()];
    let (mut waits_for_an_end, mut block) = (false, block);
    let share_rooms: Vec<u32> = parties.iter().enumerate().map(|(i, party)| shares.room(i, party)).collect();
    for (place, (standing, hint)) in functions.iter().zip(hints).enumerate() {
        let reason = standing.room.held.or((share_rooms[standing.party] == 0).then_some(Held::Seats));
        held[place] = reason.filter(|_| hint.is_busy || hint.has_waiting);
        match (reason, standing.room.wait) {
            (Some(_), Some(wait)) => block = block.min(wait),
            (Some(_), None) => waits_for_an_end = true,
            // Those that wait here come first; they begin when a seat is theirs.
            (None, _) if hint.has_waiting => waits_for_an_end = true,
            (None, _) if hint.is_busy => {
                busy[standing.party].push(place);
                let party = &mut parties[standing.party];
                party.wants = party.wants.saturating_add(standing.room.calls).min(rooms[standing.party]);
                open.push(place);
            }
            (None, _) => open.push(place),
        }
    }
    let quiet: Vec<usize> = open.iter().copied().filter(|place| !hints[*place].is_busy).collect();
    // Somebody who comes newly finds a seat beside those who fill all that they get.
    let kept = u32::try_from(quiet.len()).unwrap_or(u32::MAX).min(seats / 8);
    let given = shares.share_out(seats - kept, &parties);
    let mut portions: Vec<Portion> = Vec::new();
    for (functions_of, given) in busy.iter().zip(given) {
        let given = given as usize;
        if functions_of.is_empty() || given == 0 {
            continue;
        }
        // Where there are fewer seats than functions, each has its turn.
        let first = if given < functions_of.len() { turn % functions_of.len() } else { 0 };
        let chosen: Vec<usize> =
            functions_of.iter().copied().cycle().skip(first).take(given.min(functions_of.len())).collect();
        let share = given / chosen.len();
        let (tight, roomy): (Vec<usize>, Vec<usize>) =
            chosen.into_iter().partition(|place| (functions[*place].room.calls as usize) < share);
        let of_its_own = |place: usize| Portion::new(vec![place], functions[place].room.calls as usize);
        portions.extend(tight.into_iter().map(of_its_own));
        if !roomy.is_empty() {
            portions.push(Portion::new(roomy, share));
        }
    }
    if !portions.is_empty() {
        if !quiet.is_empty() && (all || quiet.len() <= QUIET_MAX) {
            portions.push(Portion::new(quiet, 1));
        }
        return Plan { portions, block: None, waits_for_an_end, held };
    }
    // One count stands for all, so whoever may begin the fewest sets it.
    let mut count = (seats as usize / open.len().max(1)).max(1);
    let mut of_party = vec![0; parties.len()];
    for place in &open {
        let standing = &functions[*place];
        of_party[standing.party] += 1;
        count = count.min(standing.room.calls as usize);
    }
    for (party, functions) in of_party.iter().enumerate().filter(|(_, functions)| **functions > 0) {
        count = count.min((rooms[party].min(share_rooms[party]) as usize / functions).max(1));
    }
    let portions = if open.is_empty() { Vec::new() } else { vec![Portion::new(open, count)] };
    Plan { portions, block: Some(block), waits_for_an_end, held }
}

#[cfg(test)]
mod tests {
    use baton_model::{Party, Shares};

    use super::*;
    use crate::ledger::{Room, Standing};

    const BLOCK: Duration = Duration::from_secs(30);
    const OPEN: Room = Room { calls: u32::MAX, held: None, wait: None };

    /// Functions by tenant and room; each tenant with its weight and how many seats it has of a hundred.
    fn look(functions: &[(usize, Room)], parties: &[(u32, u32)]) -> Look {
        let parties: Vec<Party> = parties
            .iter()
            .map(|(weight, in_use)| Party { weight: *weight, in_use: *in_use, seats_max: None, wants: 0 })
            .collect();
        let in_use = parties.iter().map(|party| party.in_use).sum();
        Look {
            functions: functions.iter().map(|(party, room)| Standing { party: *party, room: *room }).collect(),
            rooms: vec![u32::MAX; parties.len()],
            shares: Shares::new(100, 100 - in_use, &parties),
            parties,
            in_use,
        }
    }

    fn hints(busy: &[usize], waiting: &[usize], count: usize) -> Vec<Hint> {
        let hint = |i| Hint { is_busy: busy.contains(&i), has_waiting: waiting.contains(&i) };
        (0..count).map(hint).collect()
    }

    fn portion(functions: &[usize], count: usize) -> Portion {
        Portion::new(functions.to_vec(), count)
    }

    #[test]
    fn all_are_waited_for_while_nobody_is_busy() {
        let plan = plan(look(&[(0, OPEN), (1, OPEN)], &[(1, 0), (1, 0)]), &hints(&[], &[], 2), 100, false, 0, BLOCK);
        assert_eq!((plan.portions, plan.block), (vec![portion(&[0, 1], 50)], Some(BLOCK)));
        assert!(!plan.waits_for_an_end);
    }

    #[test]
    fn two_that_are_busy_are_read_by_weight_and_the_quiet_one_is_looked_at() {
        let look = look(&[(0, OPEN), (1, OPEN), (2, OPEN)], &[(1, 0), (2, 0), (1, 0)]);
        let plan = plan(look, &hints(&[0, 1], &[], 3), 61, false, 0, BLOCK);
        assert_eq!(plan.portions, [portion(&[0], 20), portion(&[1], 40), portion(&[2], 1)]);
        assert_eq!(plan.block, None);
    }

    #[test]
    fn a_backlog_that_has_its_seats_is_left_out_and_the_other_is_waited_for() {
        let look = look(&[(0, OPEN), (1, OPEN)], &[(1, 75), (1, 0)]);
        let plan = plan(look, &hints(&[0], &[], 2), 25, false, 0, BLOCK);
        assert_eq!((plan.portions, plan.block), (vec![portion(&[1], 25)], Some(BLOCK)));
        assert!(plan.waits_for_an_end);
        assert_eq!(plan.held, [Some(Held::Seats), None]);
    }

    #[test]
    fn a_rate_is_waited_for_with_the_read_itself() {
        let soon = Duration::from_millis(40);
        let limited = Room { calls: 0, held: Some(Held::Rate), wait: Some(soon) };
        let plan = plan(look(&[(0, limited), (0, OPEN)], &[(1, 0)]), &hints(&[0], &[], 2), 100, false, 0, BLOCK);
        assert_eq!((plan.portions, plan.block), (vec![portion(&[1], 100)], Some(soon)));
        assert_eq!((plan.waits_for_an_end, plan.held[0]), (false, Some(Held::Rate)));
    }

    #[test]
    fn what_waits_here_is_not_read_on() {
        let look = look(&[(0, OPEN), (0, OPEN)], &[(1, 10)]);
        let plan = plan(look, &hints(&[0], &[0], 2), 90, false, 0, BLOCK);
        assert_eq!(plan.portions, [portion(&[1], 90)]);
        assert!(plan.waits_for_an_end);
    }

    #[test]
    fn a_quota_sets_its_own_count_and_not_that_of_others() {
        let two = Room { calls: 2, ..OPEN };
        let plan = plan(look(&[(0, two), (0, OPEN)], &[(1, 0)]), &hints(&[0, 1], &[], 2), 100, false, 0, BLOCK);
        assert_eq!(plan.portions, [portion(&[0], 2), portion(&[1], 50)]);
    }

    #[test]
    fn with_fewer_seats_than_functions_each_has_its_turn() {
        let functions = [(0, OPEN), (0, OPEN), (0, OPEN)];
        let chosen =
            |turn| plan(look(&functions, &[(1, 98)]), &hints(&[0, 1, 2], &[], 3), 2, false, turn, BLOCK).portions;
        assert_eq!(chosen(0), [portion(&[0, 1], 1)]);
        assert_eq!(chosen(2), [portion(&[2, 0], 1)]);
    }

    #[test]
    fn when_all_are_held_back_nothing_is_read() {
        let full = Room { calls: 0, held: Some(Held::Concurrency), wait: None };
        let plan = plan(look(&[(0, full)], &[(1, 1)]), &hints(&[], &[], 1), 99, false, 0, BLOCK);
        assert!(plan.portions.is_empty() && plan.waits_for_an_end);
        assert_eq!(plan.held, [None], "nobody knows of a call that is held back");
    }
}
