//! One Redis server, what is connected to it, and the network between: late, cut, or gone.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use crate::history::{Claim, History};
use crate::redis::{Reply, Script, Scripts, Store};
use crate::time::{MS, Process, Queue, SECOND, Sim, first};

/// When the world begins, in Unix ms.
pub(crate) const EPOCH_MS: u64 = 1_700_000_000_000;
/// How long a command may take, as in the broker.
const COMMAND_TIMEOUT: u64 = 5 * SECOND;
const CONNECT_TIMEOUT: u64 = 3 * SECOND;

/// A command from its words.
pub(crate) type Command = Vec<Vec<u8>>;

/// What is asked of the server in one go.
#[derive(Debug, Clone)]
pub(crate) enum Ask {
    /// A command.
    Do(Command),
    /// A read that waits for the first entry, for so many microseconds.
    Block(Command, u64),
    /// A script, with its keys and arguments.
    Run(Script, Command, Command),
    /// Gives this connection a name.
    Name(String),
    /// Whose connections there are: numbers and names.
    Clients,
    /// Closes a connection.
    Kill(u64),
    /// Wakes a connection from a read that waits.
    Unblock(u64),
    /// Listens to channels.
    Subscribe(Vec<String>),
    /// How many listen to each.
    Listeners(Vec<String>),
    /// For how many ms the server has run.
    Uptime,
}

/// The connection failed: whether what was asked for was done is not known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Lost;

type Answers = Queue<Result<Vec<Reply>, Lost>>;

struct Conn {
    process: Process,
    name: String,
    channels: BTreeSet<Vec<u8>>,
    pushes: Queue<Vec<u8>>,
    /// What its client waits for.
    waiting: Vec<Answers>,
    /// When the last packet in each direction arrives: none overtakes another.
    last_there: u64,
    last_back: u64,
    /// Nothing that the server says is heard any more.
    is_given_up: Rc<Cell<bool>>,
}

impl Conn {
    /// Tells whoever waits that it is broken.
    fn fail(&mut self) {
        self.waiting.drain(..).for_each(|answers| answers.push(Err(Lost)));
        // Whoever listens wakes up and sees that it is closed.
        self.pushes.push(Vec::new());
    }
}

struct Blocked {
    conn: u64,
    number: u64,
    read: Command,
    answers: Answers,
}

/// How reliable the network is.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Weather {
    /// Of 1000 answers, how many are lost with their connection.
    pub(crate) lost: u64,
    /// Of 1000 packets, how many are late, and by how much at the most.
    pub(crate) late: u64,
    pub(crate) late_by: u64,
}

/// The server.
pub(crate) struct Server {
    sim: Sim,
    scripts: Rc<Scripts>,
    /// What is watched from outside.
    pub(crate) history: RefCell<History>,
    weather: Cell<Weather>,
    conns: RefCell<BTreeMap<u64, Conn>>,
    blocked: RefCell<Vec<Blocked>>,
    count: Cell<u64>,
    up_since: Cell<Option<u64>>,
    /// Which of its ends was the last.
    down: Cell<u64>,
    /// Every connection of each process, and whether its system has given it up.
    ends: RefCell<BTreeMap<Process, Vec<Rc<Cell<bool>>>>>,
    /// Until when each process's packets go nowhere.
    cut: RefCell<BTreeMap<Process, u64>>,
    /// What would be there after a crash that loses the last writes.
    saved: RefCell<Store>,
}

impl Server {
    /// A server that has run for an hour, with nothing in it.
    #[must_use]
    pub(crate) fn new(sim: &Sim, scripts: &Rc<Scripts>, weather: Weather) -> Rc<Self> {
        *scripts.store.borrow_mut() = Store::default();
        Rc::new(Self {
            sim: sim.clone(),
            scripts: scripts.clone(),
            history: RefCell::new(History::new(sim)),
            weather: Cell::new(weather),
            conns: RefCell::default(),
            blocked: RefCell::default(),
            count: Cell::new(0),
            up_since: Cell::new(Some(0)),
            down: Cell::new(0),
            ends: RefCell::default(),
            cut: RefCell::default(),
            saved: RefCell::default(),
        })
    }

    /// Now by its clock, in Unix ms.
    #[must_use]
    pub(crate) fn now_ms(&self) -> u64 {
        EPOCH_MS + self.sim.now() / MS
    }

    /// Looks at what it holds.
    pub(crate) fn look<T>(&self, look: impl FnOnce(&Store) -> T) -> T {
        look(&self.scripts.store.borrow())
    }

    /// The network is as it should be from now on.
    pub(crate) fn calm(&self) {
        self.weather.set(Weather::default());
    }

    /// When a packet that leaves now arrives.
    fn arrival(&self, process: Process, last: u64) -> u64 {
        let Weather { late, late_by, .. } = self.weather.get();
        let travel = self.sim.roll(|rng| match rng.below(1000) {
            chance if chance < late => rng.between(5 * MS, late_by),
            _fine => rng.between(20, 400),
        });
        let at = (self.sim.now() + travel).max(last + 1);
        // What is on its way into a cut is sent again when that has ended.
        let until = self.cut.borrow().get(&process).copied().unwrap_or(0);
        if until > self.sim.now() { at.max(until + travel) } else { at }
    }

    /// Cuts the network between a process and the server. Connections stand: at the server for as long as that lasts, and
    /// at the process until its system gives them up, after `patience` (15 s of a lease of 30 s).
    pub(crate) fn cut(self: &Rc<Self>, process: Process, us: u64, patience: u64) {
        self.cut.borrow_mut().insert(process, self.sim.now() + us);
        if us > patience {
            let server = self.clone();
            self.sim.after(patience, move || server.give_up(process));
        }
    }

    /// The system of a process gives its connections up. The server hears of it when the cut has ended.
    fn give_up(self: &Rc<Self>, process: Process) {
        // Those too that the server has closed: what it said before is still on its way.
        let ends = self.ends.borrow_mut().remove(&process).unwrap_or_default();
        ends.iter().for_each(|is_given_up| is_given_up.set(true));
        for id in self.of(|conn| conn.process == process) {
            self.close_from_client(id);
            if let Some(conn) = self.conns.borrow_mut().get_mut(&id) {
                conn.fail();
            }
        }
    }

    /// Closes every connection of a process, as its end does.
    pub(crate) fn hang_up(self: &Rc<Self>, process: Process) {
        let own: Vec<u64> = self.of(|conn| conn.process == process);
        for id in own {
            self.close_from_client(id);
        }
    }

    /// The connections that are like this.
    pub(crate) fn connections(&self, is_wanted: impl Fn(Process, &str) -> bool) -> Vec<u64> {
        self.of(|conn| is_wanted(conn.process, &conn.name))
    }

    fn of(&self, is_wanted: impl Fn(&Conn) -> bool) -> Vec<u64> {
        self.conns.borrow().iter().filter(|(_, conn)| is_wanted(conn)).map(|(id, _)| *id).collect()
    }

    fn close_from_client(self: &Rc<Self>, id: u64) {
        let Some((process, last)) = self.conns.borrow().get(&id).map(|conn| (conn.process, conn.last_there)) else {
            return;
        };
        let (server, at) = (self.clone(), self.arrival(process, last));
        self.sim.after(at - self.sim.now(), move || server.close(id));
    }

    /// Closes a connection at the server: what was on its way to it is never done.
    pub(crate) fn close(&self, id: u64) {
        let Some(mut conn) = self.conns.borrow_mut().remove(&id) else { return };
        self.blocked.borrow_mut().retain(|blocked| blocked.conn != id);
        // For the others it is as good as gone, whatever it runs: presence is no lease.
        if self.of(|other| other.process == conn.process && !other.name.is_empty()).is_empty() {
            self.history.borrow_mut().excuse(conn.process);
        }
        let at = self.arrival(conn.process, conn.last_back);
        self.sim.after(at - self.sim.now(), move || conn.fail());
    }

    /// Ends the server. What it holds is kept, or falls back to what was saved last.
    pub(crate) fn go_down(&self, is_lossy: bool) -> u64 {
        self.up_since.set(None);
        self.count.set(self.count.get() + 1);
        self.down.set(self.count.get());
        let all: Vec<u64> = self.conns.borrow().keys().copied().collect();
        all.into_iter().for_each(|id| self.close(id));
        if is_lossy {
            *self.scripts.store.borrow_mut() = self.saved.borrow().clone();
            self.history.borrow_mut().something_was_lost();
        }
        self.down.get()
    }

    /// Starts it again, unless it went down once more since.
    pub(crate) fn come_up(&self, down: u64) {
        if self.down.get() != down {
            return;
        }
        self.up_since.set(Some(self.sim.now()));
        let mut store = self.scripts.store.borrow_mut();
        store.now_ms = self.now_ms();
        store.reload();
    }

    /// Writes what it holds to its disk.
    pub(crate) fn save(&self) {
        *self.saved.borrow_mut() = self.scripts.store.borrow().clone();
        self.history.borrow_mut().saved();
    }

    /// Somebody removes every key.
    pub(crate) fn flush(&self) {
        let mut store = self.scripts.store.borrow_mut();
        store.execute(&[crate::redis::word("FLUSHALL")]);
        self.history.borrow_mut().all_was_lost();
        drop(store);
        let blocked = std::mem::take(&mut *self.blocked.borrow_mut());
        for blocked in blocked {
            self.answer(
                blocked.conn,
                &blocked.answers,
                vec![Reply::Error("UNBLOCKED the stream key no longer exists".to_owned())],
            );
        }
    }

    /// Opens a connection.
    pub(crate) async fn connect(self: &Rc<Self>, process: Process) -> Result<Connection, Lost> {
        let there = self.arrival(process, 0) - self.sim.now();
        self.sim.sleep(there.min(CONNECT_TIMEOUT)).await;
        if self.up_since.get().is_none() || there > CONNECT_TIMEOUT {
            return Err(Lost);
        }
        self.count.set(self.count.get() + 1);
        let (id, now) = (self.count.get(), self.sim.now());
        let pushes = Queue::new(&self.sim);
        let is_given_up = Rc::new(Cell::new(false));
        self.ends.borrow_mut().entry(process).or_default().push(is_given_up.clone());
        let conn = Conn {
            process,
            name: String::new(),
            channels: BTreeSet::new(),
            pushes: pushes.clone(),
            waiting: Vec::new(),
            last_there: now,
            last_back: now,
            is_given_up,
        };
        self.conns.borrow_mut().insert(id, conn);
        Ok(Connection { server: self.clone(), id, pushes })
    }

    fn arrive(self: &Rc<Self>, id: u64, asks: Vec<Ask>, claims: &[Claim], answers: &Answers) {
        // One that was closed has told its client so.
        if !self.conns.borrow().contains_key(&id) {
            return;
        }
        self.scripts.store.borrow_mut().now_ms = self.now_ms();
        let mut replies = Vec::new();
        self.history.borrow_mut().before(&self.scripts.store.borrow(), claims);
        for ask in asks {
            match self.carry_out(id, ask, answers) {
                Some(reply) => replies.push(reply),
                None => return,
            }
        }
        self.history.borrow_mut().after(&self.scripts.store.borrow(), claims, &replies);
        self.publish();
        let lost = self.weather.get().lost;
        if self.sim.roll(|rng| rng.below(1000)) < lost {
            self.sim.log(|| format!("the answer on connection {id} is lost"));
            self.close(id);
        } else {
            self.answer(id, answers, replies);
        }
        self.serve_blocked();
    }

    fn answer(&self, id: u64, answers: &Answers, replies: Vec<Reply>) {
        let mut conns = self.conns.borrow_mut();
        let Some(conn) = conns.get_mut(&id) else { return };
        let at = self.arrival(conn.process, conn.last_back);
        conn.last_back = at;
        let (answers, is_given_up) = (answers.clone(), conn.is_given_up.clone());
        self.sim.after(at - self.sim.now(), move || {
            if !is_given_up.get() {
                answers.push(Ok(replies));
            }
        });
    }

    /// None if the answer comes later.
    fn carry_out(self: &Rc<Self>, id: u64, ask: Ask, answers: &Answers) -> Option<Reply> {
        let mut conns = self.conns.borrow_mut();
        Some(match ask {
            Ask::Do(command) => self.scripts.store.borrow_mut().execute(&command),
            Ask::Run(script, keys, args) => self.scripts.run(script, &keys, &args),
            Ask::Block(read, us) => {
                let reply = self.scripts.store.borrow_mut().execute(&read);
                if reply != Reply::Nil {
                    return Some(reply);
                }
                self.count.set(self.count.get() + 1);
                let number = self.count.get();
                self.blocked.borrow_mut().push(Blocked { conn: id, number, read, answers: answers.clone() });
                let server = self.clone();
                self.sim.after(us, move || _ = server.release(|blocked| blocked.number == number));
                return None;
            }
            Ask::Name(name) => {
                conns.get_mut(&id)?.name = name;
                Reply::Status("OK".to_owned())
            }
            Ask::Clients => {
                let told = conns.iter().map(|(id, conn)| Reply::Array(vec![Reply::text(id), Reply::text(&conn.name)]));
                Reply::Array(told.collect())
            }
            Ask::Kill(other) => {
                drop(conns);
                self.close(other);
                Reply::Int(1)
            }
            Ask::Unblock(other) => {
                drop(conns);
                Reply::Int(i64::from(self.release(|blocked| blocked.conn == other)))
            }
            Ask::Subscribe(channels) => {
                conns.get_mut(&id)?.channels.extend(channels.into_iter().map(String::into_bytes));
                Reply::Nil
            }
            Ask::Listeners(channels) => {
                let count =
                    |channel: &String| conns.values().filter(|c| c.channels.contains(channel.as_bytes())).count();
                Reply::Array(
                    channels.iter().map(|channel| Reply::Int(i64::try_from(count(channel)).unwrap_or(0))).collect(),
                )
            }
            Ask::Uptime => {
                let since = self.up_since.get().unwrap_or(0);
                let before = if since == 0 { 3_600_000 } else { 0 };
                Reply::Int(i64::try_from((self.sim.now() - since) / MS + before).unwrap_or(0))
            }
        })
    }

    /// Ends reads that wait. True if there was one.
    fn release(&self, is_wanted: impl Fn(&Blocked) -> bool) -> bool {
        let released: Vec<Blocked> = self.blocked.borrow_mut().extract_if(.., |blocked| is_wanted(blocked)).collect();
        for blocked in &released {
            self.answer(blocked.conn, &blocked.answers, vec![Reply::Nil]);
        }
        !released.is_empty()
    }

    fn serve_blocked(&self) {
        if std::mem::take(&mut self.scripts.store.borrow_mut().grown).is_empty() {
            return;
        }
        let mut at = 0;
        loop {
            let read = match self.blocked.borrow().get(at) {
                Some(blocked) => blocked.read.clone(),
                None => return,
            };
            match self.scripts.store.borrow_mut().execute(&read) {
                Reply::Nil => at += 1,
                reply => {
                    let served = self.blocked.borrow_mut().remove(at);
                    self.answer(served.conn, &served.answers, vec![reply]);
                }
            }
        }
    }

    fn publish(&self) {
        let published = std::mem::take(&mut self.scripts.store.borrow_mut().published);
        for (channel, message) in published {
            self.history.borrow_mut().heard(&channel, &message);
            for conn in self.conns.borrow_mut().values_mut().filter(|conn| conn.channels.contains(&channel)) {
                let at = self.arrival(conn.process, conn.last_back);
                conn.last_back = at;
                let (pushes, message) = (conn.pushes.clone(), message.clone());
                self.sim.after(at - self.sim.now(), move || pushes.push(message));
            }
        }
    }
}

/// A client's end of a connection. Dropping it closes it.
pub(crate) struct Connection {
    server: Rc<Server>,
    /// Its number at the server.
    pub(crate) id: u64,
    /// What comes on its channels; an empty one when it is closed.
    pub(crate) pushes: Queue<Vec<u8>>,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.server.close_from_client(self.id);
    }
}

impl Connection {
    /// Sends something; its answers come through what is returned.
    #[must_use]
    pub(crate) fn send(&self, asks: Vec<Ask>, claims: Vec<Claim>) -> Answers {
        let answers = Queue::new(&self.server.sim);
        let mut conns = self.server.conns.borrow_mut();
        match conns.get_mut(&self.id).filter(|conn| !conn.is_given_up.get()) {
            // It was closed; who sends finds out.
            None => {
                let answers: Answers = answers.clone();
                self.server.sim.after(300, move || answers.push(Err(Lost)));
            }
            Some(conn) => {
                // Those that nobody else knows have been answered.
                conn.waiting.retain(|waiting| Rc::strong_count(&waiting.0) > 1);
                conn.waiting.push(answers.clone());
                let at = self.server.arrival(conn.process, conn.last_there);
                conn.last_there = at;
                let (server, id, answers) = (self.server.clone(), self.id, answers.clone());
                self.server.sim.after(at - self.server.sim.now(), move || server.arrive(id, asks, &claims, &answers));
            }
        }
        answers
    }

    /// Asks, and waits for as long as a command may take. `Ok(None)` if it took longer.
    pub(crate) async fn ask_in_time(&self, asks: Vec<Ask>, claims: Vec<Claim>) -> Result<Option<Vec<Reply>>, Lost> {
        let answers = self.send(asks, claims);
        match first(answers.pop(), self.server.sim.sleep(COMMAND_TIMEOUT)).await {
            Ok(answer) => answer.map(Some),
            Err(()) => Ok(None),
        }
    }
}

/// Timeouts in a row after which a connection is held for dead, as in the broker.
const TIMEOUTS_MAX: u32 = 2;

/// A connection that is opened on first use and anew when it is broken.
pub(crate) struct Link {
    server: Rc<Server>,
    process: Process,
    /// Under which others can have it closed.
    name: Option<String>,
    open: RefCell<Option<(Rc<Connection>, u64)>>,
    timeouts: Cell<u32>,
    /// Held while one task connects for all.
    is_opening: Rc<Cell<bool>>,
}

/// Lets the next one open a connection, even if whoever was at it was stopped.
struct Opening(Rc<Cell<bool>>);

impl Drop for Opening {
    fn drop(&mut self) {
        self.0.set(false);
    }
}

impl Link {
    /// One that is not open yet.
    #[must_use]
    pub(crate) fn new(server: &Rc<Server>, process: Process, name: Option<String>) -> Self {
        let (open, timeouts, is_opening) = (RefCell::default(), Cell::new(0), Rc::default());
        Self { server: server.clone(), process, name, open, timeouts, is_opening }
    }

    /// The open connection, and since when it is the only one of its name.
    pub(crate) async fn connection(&self) -> Result<(Rc<Connection>, u64), Lost> {
        while self.is_opening.get() {
            self.server.sim.sleep(100).await;
        }
        if let Some(open) = self.open.borrow().clone() {
            return Ok(open);
        }
        self.is_opening.set(true);
        let opening = Opening(self.is_opening.clone());
        let opened = self.open_anew().await?;
        drop(opening);
        self.timeouts.set(0);
        *self.open.borrow_mut() = Some(opened.clone());
        Ok(opened)
    }

    async fn open_anew(&self) -> Result<(Rc<Connection>, u64), Lost> {
        let fresh = Rc::new(self.server.connect(self.process).await?);
        if let Some(name) = &self.name {
            let asked =
                fresh.ask_in_time(vec![Ask::Name(name.clone()), Ask::Clients], Vec::new()).await?.ok_or(Lost)?;
            for other in clients(&asked[1]).filter(|(id, other)| *other == *name && *id != fresh.id) {
                fresh.ask_in_time(vec![Ask::Kill(other.0)], Vec::new()).await?.ok_or(Lost)?;
            }
        }
        Ok((fresh, self.server.sim.now()))
    }

    /// Asks for several things in one go.
    pub(crate) async fn ask_all(&self, asks: Vec<Ask>, claims: Vec<Claim>) -> Result<Vec<Reply>, Lost> {
        let (open, _) = self.connection().await?;
        self.ask_on(&open, asks, claims).await
    }

    /// Asks on this very connection.
    pub(crate) async fn ask_on(
        &self,
        open: &Rc<Connection>,
        asks: Vec<Ask>,
        claims: Vec<Claim>,
    ) -> Result<Vec<Reply>, Lost> {
        let is_broken = match open.ask_in_time(asks, claims).await {
            Ok(Some(replies)) => {
                self.timeouts.set(0);
                return Ok(replies);
            }
            Ok(None) => {
                self.timeouts.set(self.timeouts.get() + 1);
                self.timeouts.get() >= TIMEOUTS_MAX
            }
            Err(Lost) => true,
        };
        let mut slot = self.open.borrow_mut();
        if is_broken && slot.as_ref().is_some_and(|(current, _)| Rc::ptr_eq(current, open)) {
            *slot = None;
        }
        Err(Lost)
    }

    /// Asks for one thing.
    pub(crate) async fn ask(&self, ask: Ask) -> Result<Reply, Lost> {
        let mut replies = self.ask_all(vec![ask], Vec::new()).await?;
        Ok(replies.remove(0))
    }
}

/// The numbers and names in an answer to [`Ask::Clients`].
pub(crate) fn clients(reply: &Reply) -> impl Iterator<Item = (u64, String)> {
    reply.parts().iter().map(|row| (row.parts()[0].to_text().parse().expect("a number"), row.parts()[1].to_text()))
}
