//! Levels: which functions have calls of other levels than the normal one, and in which order this host reads those.
//!
//! Most functions have normal calls alone, and one stream each is read. The streams of the other levels are read from when
//! they are known to be there: they are looked for when the groups of a function are made sure of, seen by every sweep, and
//! waited for here.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use baton_broker::{BrokerError, Incoming, Levels, LevelsWatch, Portion, ReadEnd};
use baton_model::{FunctionId, Pace};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::intake::Alarm;

/// How long one wait lasts. It ends sooner for what it waits for, so this only bounds the silence.
const BLOCK: Duration = Duration::from_secs(60);
/// For how long changes are gathered before the wait is begun anew, which takes another connection.
const SETTLE: Duration = Duration::from_secs(1);
/// The longest pause after a failure.
const PAUSE_MAX: Duration = Duration::from_secs(10);
/// How long nothing is waited for while the reader does not take in what was found.
const NEWS_PAUSE: Duration = Duration::from_secs(30);
/// The same when Redis refuses the wait for all. Sweeps go on looking.
const REFUSED_PAUSE: Duration = Duration::from_secs(30);

/// Which call streams each function has that is read, as far as this host knows.
type Known = BTreeMap<FunctionId, Levels>;

/// What the parts of a host tell each other of call streams that came about.
#[derive(Default)]
pub(crate) struct Streams {
    known: watch::Sender<Known>,
    /// Functions of which more is there than is known. A lock and no message: it is held to note a name, and whoever reads
    /// takes all.
    news: Mutex<BTreeSet<FunctionId>>,
    has_news: AtomicBool,
}

impl Streams {
    /// Notes that `function` has these. True if that is news, for which the reader is to be woken.
    pub(crate) fn learn(&self, function: &FunctionId, levels: Levels) -> bool {
        let is_news = self.known.borrow().get(function).is_some_and(|known| levels.others().any(|one| !known.has(one)));
        if is_news {
            self.note([function.clone()]);
        }
        is_news
    }

    /// Which call streams `function` has, as far as this host knows.
    pub(crate) fn of(&self, function: &FunctionId) -> Levels {
        self.known.borrow().get(function).copied().unwrap_or_default()
    }

    fn note(&self, functions: impl IntoIterator<Item = FunctionId>) {
        self.news.lock().unwrap_or_else(PoisonError::into_inner).extend(functions);
        self.has_news.store(true, Ordering::SeqCst);
    }

    /// Whether functions are to be looked at anew.
    pub(crate) fn has_news(&self) -> bool {
        self.has_news.load(Ordering::SeqCst)
    }

    /// Those that are.
    pub(crate) fn take_news(&self) -> BTreeSet<FunctionId> {
        self.has_news.store(false, Ordering::SeqCst);
        std::mem::take(&mut *self.news.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// What is read from now on.
    pub(crate) fn publish(&self, known: Known) {
        self.known.send_if_modified(|have| {
            let is_new = *have != known;
            *have = known;
            is_new
        });
    }
}

/// Waits for call streams that come about.
pub(crate) struct StreamsWatch {
    pub(crate) watch: LevelsWatch,
    pub(crate) streams: Arc<Streams>,
    pub(crate) alarm: Alarm,
}

impl StreamsWatch {
    /// Waits until `stop`.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        tokio::select! {
            () = self.wait() => {}
            () = stop.cancelled() => {}
        }
    }

    async fn wait(&mut self) {
        let mut changes = self.streams.known.subscribe();
        let mut pause = SETTLE;
        loop {
            let known = changes.borrow_and_update().clone();
            let open: Vec<(FunctionId, Levels)> = known.into_iter().filter(|(_, levels)| !levels.is_whole()).collect();
            if open.is_empty() {
                _ = changes.changed().await;
                continue;
            }
            let found = tokio::select! {
                found = self.watch.wait(&open, BLOCK) => found,
                _ = changes.changed() => {
                    tokio::time::sleep(SETTLE).await;
                    continue;
                }
            };
            match found {
                Ok(found) => {
                    pause = SETTLE;
                    if found.is_empty() {
                        continue;
                    }
                    self.streams.note(found);
                    self.alarm.waker.wake().await;
                    // Until it is taken in it would be found again and again; a host whose seats are taken reads nothing.
                    _ = tokio::time::timeout(NEWS_PAUSE, changes.changed()).await;
                }
                Err(BrokerError::Refused(reason)) => {
                    tracing::warn!(
                        reason,
                        "no host waits for the first high or low calls of functions; sweeps find them"
                    );
                    tokio::time::sleep(REFUSED_PAUSE).await;
                }
                Err(error) => {
                    tracing::debug!(%error, "waiting for call streams fails");
                    tokio::time::sleep(pause.mul_f64(0.5 + rand::random::<f64>() / 2.0)).await;
                    pause = (pause * 2).min(PAUSE_MAX);
                }
            }
        }
    }
}

/// The order in which this host reads the calls of functions that have several levels.
#[derive(Default)]
pub(crate) struct Order {
    levels: Known,
    paces: HashMap<FunctionId, Pace>,
    /// Those that may have more calls than the last read brought. They are read level by level; the others as they come,
    /// for nothing waits behind anything.
    crowded: BTreeSet<FunctionId>,
}

impl Order {
    /// Takes in which streams the functions have that are read.
    pub(crate) fn renew(&mut self, levels: &Known) {
        self.levels = levels.iter().filter(|(_, levels)| !levels.is_plain()).map(|(f, l)| (f.clone(), *l)).collect();
        self.paces.retain(|function, _| self.levels.contains_key(function));
        // Nobody knows what waits there.
        self.crowded = self.levels.keys().cloned().collect();
    }

    /// These functions with their streams.
    pub(crate) fn with_levels(&self, functions: impl IntoIterator<Item = FunctionId>) -> Vec<(FunctionId, Levels)> {
        let with_levels = |function: FunctionId| {
            let levels = self.levels.get(&function).copied().unwrap_or_default();
            (function, levels)
        };
        functions.into_iter().map(with_levels).collect()
    }

    /// Whether all can be read as they come.
    pub(crate) fn is_plain(&self) -> bool {
        self.crowded.is_empty()
    }

    /// Whether calls of `function` are to be read level by level.
    pub(crate) fn is_crowded(&self, function: &FunctionId) -> bool {
        self.crowded.contains(function)
    }

    /// The same portions, but that those which are crowded are read level by level, and of each stream of the others with
    /// levels so much less is asked for that all of a function bring no more than their portion. One portion stays one if
    /// nobody is crowded, for then it may wait.
    pub(crate) fn by_level(&self, from: &ReadEnd, mut portions: Vec<Portion>) -> Vec<Portion> {
        if self.levels.is_empty() {
            return portions;
        }
        if let [one] = &mut portions[..]
            && self.is_plain()
        {
            one.count = share(from, &one.functions, one.count);
            return portions;
        }
        let mut all = Vec::with_capacity(portions.len() + self.crowded.len());
        for Portion { functions, count, .. } in portions {
            let is_crowded = |place: &usize| self.crowded.contains(&from.functions()[*place]);
            let (crowded, others): (Vec<usize>, Vec<usize>) = functions.into_iter().partition(is_crowded);
            all.extend(crowded.into_iter().map(|place| {
                let claims = self.pace(&from.functions()[place]).claims(count);
                Portion { functions: vec![place], count, claims: Some(claims) }
            }));
            let has_levels = |place: &usize| self.levels.contains_key(&from.functions()[*place]);
            let (with_levels, plain): (Vec<usize>, Vec<usize>) = others.into_iter().partition(has_levels);
            for functions in [with_levels, plain].into_iter().filter(|functions| !functions.is_empty()) {
                let count = share(from, &functions, count);
                all.push(Portion::new(functions, count));
            }
        }
        all
    }

    fn pace(&self, function: &FunctionId) -> Pace {
        self.paces.get(function).copied().unwrap_or_default()
    }

    /// Notes what these portions have brought.
    pub(crate) fn note(&mut self, from: &ReadEnd, portions: &[Portion], incoming: &[Incoming]) {
        if self.levels.is_empty() {
            return;
        }
        let mut brought: HashMap<&FunctionId, usize> = HashMap::new();
        for calls in incoming.chunk_by(|a, b| a.function() == b.function()) {
            *brought.entry(calls[0].function()).or_default() += calls.len();
        }
        for portion in portions {
            for function in portion.functions.iter().map(|place| &from.functions()[*place]) {
                if self.levels.contains_key(function) {
                    let brought = brought.get(function).copied().unwrap_or(0);
                    self.note_one(function, brought, portion);
                }
            }
        }
    }

    /// Notes what a read of so many of each stream has brought, while nobody was crowded.
    pub(crate) fn note_plain(&mut self, count: usize, incoming: &[Incoming]) {
        if self.levels.is_empty() {
            return;
        }
        for calls in incoming.chunk_by(|a, b| a.function() == b.function()).filter(|calls| calls.len() >= count) {
            if self.levels.contains_key(calls[0].function()) {
                self.crowded.insert(calls[0].function().clone());
            }
        }
    }

    fn note_one(&mut self, function: &FunctionId, brought: usize, portion: &Portion) {
        if portion.claims.is_some() {
            let pace = self.pace(function).after(brought);
            self.paces.insert(function.clone(), pace);
        }
        if brought >= portion.count {
            self.crowded.insert(function.clone());
        } else {
            self.crowded.remove(function);
        }
    }
}

/// How much of each stream of these functions comes to no more than so much of any function; one in any case.
fn share(from: &ReadEnd, functions: &[usize], count: usize) -> usize {
    let streams = functions.iter().map(|place| from.levels(*place).all().count()).max();
    (count / streams.unwrap_or(1).max(1)).max(1)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use baton_broker::{Delivery, Keys};
    use baton_model::{Call, CallId, EntryId, Lease};

    use super::*;

    fn function(name: &str) -> FunctionId {
        name.parse().unwrap()
    }

    fn calls(name: &str, count: usize) -> Vec<Incoming> {
        let one = |number: usize| {
            let entry = EntryId::parse(&format!("{number}-0")).unwrap();
            let call = Call::plain(function(name), CallId::parse(&entry.to_string()).unwrap(), "");
            Incoming::Call(Delivery { call: Arc::new(call), lease: Lease { entry, claims: 0 }, read: None })
        };
        (0..count).map(one).collect()
    }

    /// `b` has high calls too; the others have normal ones alone.
    fn order() -> (Order, ReadEnd) {
        let levels = |name| if name == "b" { Levels::of([baton_model::Priority::High]) } else { Levels::default() };
        let known: Known = ["a", "b", "c"].map(|name| (function(name), levels(name))).into();
        let mut order = Order::default();
        order.renew(&known);
        (order, ReadEnd::of_levels(&Keys::new("baton"), known.into_iter().collect()))
    }

    #[test]
    fn only_those_with_levels_and_a_crowd_are_read_by_level_each_by_itself() {
        let (mut order, from) = order();
        let portions = order.by_level(&from, vec![Portion::new(vec![0, 1, 2], 16)]);
        let crowded = Portion { functions: vec![1], count: 16, claims: Some([11, 4, 1]) };
        assert_eq!(portions, [crowded, Portion::new(vec![0, 2], 16)], "nobody knows yet what waits there");
        let brought: Vec<Incoming> = calls("a", 16).into_iter().chain(calls("b", 15)).collect();
        order.note(&from, &portions, &brought);
        assert!(order.is_plain(), "less came than was asked for, so nothing waits behind it; `a` has no levels");
        assert_eq!(order.by_level(&from, vec![Portion::new(vec![1], 1)]), [Portion::new(vec![1], 1)]);
        order.note_plain(4, &calls("b", 4));
        assert!(order.is_crowded(&function("b")) && !order.is_crowded(&function("a")));
    }

    #[test]
    fn a_function_with_several_streams_brings_no_more_than_its_portion() {
        let (mut order, from) = order();
        assert_eq!([from.share_of(128), from.share_of(3)], [32, 1], "four streams");
        let portions = [Portion { claims: Some([0; 3]), ..Portion::new(vec![1], 16) }];
        order.note(&from, &portions, &[]);
        assert!(order.is_plain());
        let read = |portions: &[Portion]| order.by_level(&from, portions.to_vec());
        assert_eq!(
            read(&[Portion::new(vec![0, 1, 2], 16)]),
            [Portion::new(vec![0, 1, 2], 8)],
            "one read, which may wait"
        );
        let several = [Portion::new(vec![0, 1], 16), Portion::new(vec![2], 1)];
        assert_eq!(
            read(&several),
            [Portion::new(vec![1], 8), Portion::new(vec![0], 16), Portion::new(vec![2], 1)],
            "those without levels have all of theirs"
        );
    }

    #[test]
    fn each_function_goes_on_where_it_stood() {
        let (mut order, from) = order();
        let mut claims = [0; 3];
        for _ in 0..16 {
            let portions = order.by_level(&from, vec![Portion::new(vec![1], 1)]);
            let of_one = portions[0].claims.unwrap();
            (0..3).for_each(|level| claims[level] += of_one[level]);
            order.note(&from, &portions, &calls("b", 1));
        }
        assert_eq!(claims, [11, 4, 1], "one at a time comes to the same as sixteen at once");
    }
}
