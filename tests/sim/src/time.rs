//! Virtual time, and tasks that run on it one after the other: which of those that could run is the seed's choice.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use crate::rng::Rng;

/// Microseconds of a millisecond, and of a second.
pub(crate) const MS: u64 = 1_000;
/// Microseconds of a second.
pub(crate) const SECOND: u64 = 1_000_000;

/// Who a task belongs to: a process, which may crash or freeze with all its tasks.
pub(crate) type Process = usize;

type Job = Pin<Box<dyn Future<Output = ()>>>;

struct Task {
    process: Process,
    /// None while it runs.
    job: Option<Job>,
}

enum Due {
    Wake(usize),
    Do(Box<dyn FnOnce()>),
}

struct Inner {
    now: Cell<u64>,
    rng: RefCell<Rng>,
    count: Cell<u64>,
    due: RefCell<BTreeMap<(u64, u64), Due>>,
    tasks: RefCell<BTreeMap<usize, Task>>,
    ready: RefCell<Vec<usize>>,
    current: Cell<usize>,
    frozen: RefCell<BTreeSet<Process>>,
    log: RefCell<Option<Vec<String>>>,
}

/// The world's clock and its tasks.
#[derive(Clone)]
pub(crate) struct Sim(Rc<Inner>);

impl Sim {
    /// A world in which nothing happens yet; with a log of what happens if one is wanted.
    #[must_use]
    pub(crate) fn new(seed: u64, is_logged: bool) -> Self {
        Self(Rc::new(Inner {
            now: Cell::new(0),
            rng: RefCell::new(Rng::new(seed)),
            count: Cell::new(0),
            due: RefCell::default(),
            tasks: RefCell::default(),
            ready: RefCell::default(),
            current: Cell::new(0),
            frozen: RefCell::default(),
            log: RefCell::new(is_logged.then(Vec::new)),
        }))
    }

    /// Now, in microseconds since the world began.
    #[must_use]
    pub(crate) fn now(&self) -> u64 {
        self.0.now.get()
    }

    /// Asks chance.
    pub(crate) fn roll<T>(&self, ask: impl FnOnce(&mut Rng) -> T) -> T {
        ask(&mut self.0.rng.borrow_mut())
    }

    /// Notes what happens, for people.
    pub(crate) fn log(&self, what: impl FnOnce() -> String) {
        if let Some(log) = self.0.log.borrow_mut().as_mut() {
            let now = self.now();
            log.push(format!("{:>7}.{:03} ms  {}", now / MS, now % MS, what()));
        }
    }

    /// What was noted.
    #[must_use]
    pub(crate) fn take_log(&self) -> Vec<String> {
        self.0.log.borrow_mut().as_mut().map(std::mem::take).unwrap_or_default()
    }

    fn number(&self) -> u64 {
        self.0.count.set(self.0.count.get() + 1);
        self.0.count.get()
    }

    fn at(&self, at: u64, due: Due) {
        self.0.due.borrow_mut().insert((at.max(self.now()), self.number()), due);
    }

    /// Does something after so many microseconds.
    pub(crate) fn after(&self, us: u64, what: impl FnOnce() + 'static) {
        self.at(self.now() + us, Due::Do(Box::new(what)));
    }

    /// Starts a task of a process.
    pub(crate) fn spawn(&self, process: Process, job: impl Future<Output = ()> + 'static) -> usize {
        let id = usize::try_from(self.number()).expect("a number");
        self.0.tasks.borrow_mut().insert(id, Task { process, job: Some(Box::pin(job)) });
        self.0.ready.borrow_mut().push(id);
        id
    }

    /// Ends a task where it stands.
    pub(crate) fn abort(&self, task: usize) {
        let gone = self.0.tasks.borrow_mut().remove(&task);
        drop(gone);
    }

    /// Ends a process where it stands.
    pub(crate) fn crash(&self, process: Process) {
        let tasks: Vec<usize> =
            self.0.tasks.borrow().iter().filter(|(_, task)| task.process == process).map(|(id, _)| *id).collect();
        tasks.into_iter().for_each(|task| self.abort(task));
        self.0.frozen.borrow_mut().remove(&process);
    }

    /// Stops a process, which goes on when it is thawed.
    pub(crate) fn freeze(&self, process: Process) {
        self.0.frozen.borrow_mut().insert(process);
    }

    /// Lets a frozen process go on.
    pub(crate) fn thaw(&self, process: Process) {
        if self.0.frozen.borrow_mut().remove(&process) {
            let tasks = self.0.tasks.borrow();
            let own = tasks.iter().filter(|(_, task)| task.process == process).map(|(id, _)| *id);
            self.0.ready.borrow_mut().extend(own);
        }
    }

    fn wake(&self, task: usize) {
        let mut ready = self.0.ready.borrow_mut();
        if !ready.contains(&task) {
            ready.push(task);
        }
    }

    fn next_ready(&self) -> Option<usize> {
        let mut ready = self.0.ready.borrow_mut();
        let (tasks, frozen) = (self.0.tasks.borrow(), self.0.frozen.borrow());
        // Whoever is frozen is woken when it is thawed.
        ready.retain(|id| tasks.get(id).is_some_and(|task| !frozen.contains(&task.process)));
        if ready.is_empty() {
            return None;
        }
        let at = match ready.len() {
            1 => 0,
            many => usize::try_from(self.0.rng.borrow_mut().below(many as u64)).expect("an index"),
        };
        Some(ready.swap_remove(at))
    }

    /// Does the next thing, unless it is later than `end`. False if there is none.
    pub(crate) fn step(&self, end: u64) -> bool {
        if let Some(id) = self.next_ready() {
            let Some(mut job) = self.0.tasks.borrow_mut().get_mut(&id).and_then(|task| task.job.take()) else {
                return true;
            };
            self.0.current.set(id);
            let is_through = job.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_ready();
            let mut tasks = self.0.tasks.borrow_mut();
            if is_through {
                tasks.remove(&id);
            } else if let Some(task) = tasks.get_mut(&id) {
                task.job = Some(job);
                return true;
            }
            drop(tasks);
            drop(job);
            return true;
        }
        let first = self.0.due.borrow().first_key_value().map(|(key, _)| *key);
        let Some(key) = first.filter(|(at, _)| *at <= end) else {
            self.0.now.set(end.max(self.now()));
            return false;
        };
        self.0.now.set(key.0);
        let due = self.0.due.borrow_mut().remove(&key);
        match due {
            Some(Due::Wake(task)) => self.wake(task),
            Some(Due::Do(what)) => what(),
            None => {}
        }
        true
    }

    /// Ends everything, so that nothing keeps anything else alive.
    pub(crate) fn end(&self) {
        let tasks = std::mem::take(&mut *self.0.tasks.borrow_mut());
        drop(tasks);
        let due = std::mem::take(&mut *self.0.due.borrow_mut());
        drop(due);
    }

    /// Waits so many microseconds.
    #[must_use]
    pub(crate) fn sleep(&self, us: u64) -> Sleep {
        Sleep { sim: self.clone(), at: self.now() + us, is_set: false }
    }
}

/// A wait.
pub(crate) struct Sleep {
    sim: Sim,
    at: u64,
    is_set: bool,
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<()> {
        if self.sim.now() >= self.at {
            return Poll::Ready(());
        }
        if !self.is_set {
            self.is_set = true;
            self.sim.at(self.at, Due::Wake(self.sim.0.current.get()));
        }
        Poll::Pending
    }
}

/// What one task puts in and another takes out, in order. Shared by cloning.
pub(crate) struct Queue<T>(pub(crate) Rc<Shared<T>>);

pub(crate) struct Shared<T> {
    sim: Sim,
    items: RefCell<VecDeque<T>>,
    /// The tasks that wait.
    waiting: RefCell<Vec<usize>>,
}

impl<T> Clone for Queue<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T> Queue<T> {
    /// One with nothing in it.
    #[must_use]
    pub(crate) fn new(sim: &Sim) -> Self {
        Self(Rc::new(Shared { sim: sim.clone(), items: RefCell::default(), waiting: RefCell::default() }))
    }

    /// Puts something in.
    pub(crate) fn push(&self, item: T) {
        self.0.items.borrow_mut().push_back(item);
        let waiting = std::mem::take(&mut *self.0.waiting.borrow_mut());
        waiting.into_iter().for_each(|task| self.0.sim.wake(task));
    }

    /// Takes the next out, if there is one.
    #[must_use]
    pub(crate) fn take(&self) -> Option<T> {
        self.0.items.borrow_mut().pop_front()
    }

    /// Takes the next out, and waits for it. Dropping the future loses nothing.
    #[must_use]
    pub(crate) fn pop(&self) -> Pop<T> {
        Pop(self.clone())
    }
}

/// A wait for what comes next in a queue.
pub(crate) struct Pop<T>(Queue<T>);

impl<T> Future for Pop<T> {
    type Output = T;

    fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<T> {
        if let Some(item) = self.0.take() {
            return Poll::Ready(item);
        }
        let shared = &self.0.0;
        shared.waiting.borrow_mut().push(shared.sim.0.current.get());
        Poll::Pending
    }
}

/// Waits for the first of two; if both are there, it is the former.
pub(crate) async fn first<A, B>(a: impl Future<Output = A>, b: impl Future<Output = B>) -> Result<A, B> {
    use futures_util::future::{Either, select};
    let (a, b) = (std::pin::pin!(a), std::pin::pin!(b));
    match select(a, b).await {
        Either::Left((a, _)) => Ok(a),
        Either::Right((b, _)) => Err(b),
    }
}
