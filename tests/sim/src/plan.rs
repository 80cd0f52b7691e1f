//! What a seed means: how many hosts and calls there are, and what goes wrong when.

use crate::caller::Order;
use crate::host::{Rules, Settings};
use crate::net::Weather;
use crate::rng::Rng;
use crate::time::{MS, SECOND};

/// Something that goes wrong.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Fault {
    /// A host is killed, and another one started in its place after so long.
    Crash(usize, u64),
    /// A host is told to end, and another one started in its place.
    Drain(usize, u64),
    /// A host is stopped for so long.
    Freeze(usize, u64),
    /// Nothing passes between a host and Redis for so long.
    Cut(usize, u64),
    /// Redis closes one of a host's connections: which, by chance.
    Kill(usize, u64),
    /// Redis is killed and started after so long; what it has acknowledged is kept, or not all of it.
    Restart(u64, bool),
    /// Redis writes to its disk: nothing from before is lost by the next restart.
    Save,
    /// Somebody removes every key.
    Flush,
}

/// One world.
#[derive(Debug, Clone)]
pub struct Plan {
    pub(crate) hosts: usize,
    pub(crate) settings: Settings,
    pub(crate) weather: Weather,
    pub(crate) orders: Vec<Order>,
    pub(crate) faults: Vec<(u64, Fault)>,
    /// How long after the last fault every call has to have its result.
    pub(crate) calls_within: u64,
}

/// What kind of trouble a world has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trouble {
    /// Hosts crash and end. Leases are long, so that only who sees it is quick.
    Crashes,
    /// Hosts are stopped and cut off. Leases are short.
    Stops,
    /// Connections and answers are lost.
    Network,
    /// Redis is restarted and keeps what it has.
    Restarts,
    /// Redis loses what it had.
    Losses,
    /// All of it but losses.
    All,
}

const TROUBLES: [Trouble; 6] =
    [Trouble::Crashes, Trouble::Stops, Trouble::Network, Trouble::Restarts, Trouble::Losses, Trouble::All];

impl Plan {
    /// The world of a seed.
    #[must_use]
    pub fn of(seed: u64, rules: Rules) -> Self {
        let mut rng = Rng::new(seed ^ 0x5eed);
        let trouble = TROUBLES[usize::try_from(seed % 6).expect("an index")];
        let lease = match trouble {
            Trouble::Crashes => 30 * SECOND,
            Trouble::Stops | Trouble::All => rng.between(1, 4) * SECOND,
            Trouble::Network | Trouble::Restarts | Trouble::Losses => rng.between(2, 12) * SECOND,
        };
        let hosts = usize::try_from(if trouble == Trouble::Crashes { rng.between(2, 4) } else { rng.between(1, 3) });
        let hosts = hosts.expect("a count");
        let functions = if rng.chance(30) { 2 } else { 1 };
        let seats = usize::try_from(rng.between(1, 6)).expect("a count");
        let settings = Settings { functions, lease, seats, rules };
        let span = rng.between(2, 6) * SECOND;
        let late_by = (lease / 4).min(3 * SECOND);
        let weather = match trouble {
            Trouble::Network | Trouble::All => Weather { lost: rng.below(30), late: rng.below(20), late_by },
            Trouble::Stops => Weather { lost: 0, late: 3, late_by },
            Trouble::Crashes | Trouble::Restarts | Trouble::Losses => Weather::default(),
        };
        let orders = orders(&mut rng, functions, span, lease, trouble);
        let count = rng.between(1, 5);
        let mut faults: Vec<(u64, Fault)> = (0..count)
            .map(|_| (rng.between(200 * MS, span + SECOND), fault(&mut rng, trouble, hosts, lease)))
            .collect();
        if trouble == Trouble::Losses {
            faults.push((rng.between(100 * MS, span), Fault::Save));
        }
        faults.sort_by_key(|(at, _)| *at);
        // Each attempt once more, for it may have been lost, one after the other.
        let work = 2 * orders.iter().map(Order::work).sum::<u64>();
        let calls_within = match trouble {
            // Less than a lease: whoever waits for that is late.
            Trouble::Crashes => (8 * SECOND + work).min(25 * SECOND),
            _other => 3 * lease + 25 * SECOND + work,
        };
        Self { hosts, settings, weather, orders, faults, calls_within }
    }
}

fn orders(rng: &mut Rng, functions: usize, span: u64, lease: u64, trouble: Trouble) -> Vec<Order> {
    let mut orders: Vec<Order> = Vec::new();
    for number in 0..rng.between(5, 30) {
        let at = rng.below(span);
        let twin = if orders.is_empty() { None } else { Some(rng.pick(&orders).clone()) };
        if let Some(twin) = twin.filter(|twin| twin.id.is_some() && rng.chance(40)) {
            // The same call again: at the same time, or later.
            let at = if rng.chance(50) { twin.at + rng.below(3 * MS) } else { at };
            orders.push(Order { at, ..twin });
            continue;
        }
        let wish = *rng.pick(&["ok", "ok", "ok", "ok", "retry", "trap"]);
        let ms = match rng.below(10) {
            0..6 => rng.below(30),
            6..9 => rng.between(50, 800),
            // Longer than a lease, where those are short.
            _long if trouble != Trouble::Crashes => lease / MS + rng.between(0, 2_000),
            _long => rng.between(500, 1_500),
        };
        orders.push(Order {
            at,
            function: usize::try_from(rng.below(functions as u64)).expect("a number"),
            payload: format!("{wish}:{ms}:{number}"),
            id: rng.chance(50).then(|| format!("own-{number}")),
            has_notice: rng.chance(50),
            deadline_ms: rng.chance(8).then(|| rng.between(100, 5_000)),
        });
    }
    orders
}

fn fault(rng: &mut Rng, trouble: Trouble, hosts: usize, lease: u64) -> Fault {
    let host = usize::try_from(rng.below(hosts as u64)).expect("a number");
    let again = rng.between(200 * MS, 2 * SECOND);
    let long = match rng.below(3) {
        0 => rng.between(10 * MS, lease / 2),
        1 => rng.between(lease / 2, lease + lease / 2),
        _longest => rng.between(lease, 3 * lease),
    };
    let kind = match trouble {
        Trouble::Crashes => rng.below(2),
        Trouble::Stops => rng.between(2, 5),
        Trouble::Network => rng.between(5, 6),
        Trouble::Restarts => *rng.pick(&[0, 5, 7]),
        Trouble::Losses => *rng.pick(&[0, 7, 8, 9]),
        Trouble::All => rng.below(8),
    };
    match kind {
        0 => Fault::Crash(host, again),
        1 => Fault::Drain(host, again),
        2 | 3 => Fault::Freeze(host, long),
        4 => Fault::Cut(host, long),
        5 | 6 => Fault::Kill(host, rng.number()),
        7 => Fault::Restart(again, false),
        8 => Fault::Restart(again, true),
        _flush => Fault::Flush,
    }
}
