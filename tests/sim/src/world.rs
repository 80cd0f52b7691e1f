//! One world, from its seed to its end: hosts and callers are started, things go wrong, and then all has to become right.

use std::cell::RefCell;
use std::rc::Rc;

use crate::caller::{self, CALLERS};
use crate::history::left_over;
use crate::host::Host;
use crate::net::{Link, Server};
use crate::plan::{Fault, Plan};
use crate::redis::Scripts;
use crate::time::{MS, Process, SECOND, Sim};

/// How often it is looked whether all is quiet.
const LOOK_EVERY: u64 = 100 * MS;
/// The most steps of one world: more is a loop that does not wait.
const STEPS_MAX: u64 = 20_000_000;

/// How a world ended.
#[derive(Debug)]
pub struct Ended {
    /// The promise that was broken first, and how.
    pub broken: Option<(&'static str, String)>,
    /// What happened, if that was wanted.
    pub log: Vec<String>,
    /// How many calls were accepted.
    pub calls: usize,
    /// How many attempts there were.
    pub executions: usize,
    /// How long it took, in virtual ms.
    pub took_ms: u64,
}

struct Slot {
    host: Rc<Host>,
    starts: usize,
}

struct World {
    sim: Sim,
    server: Rc<Server>,
    plan: Plan,
    slots: RefCell<Vec<Option<Slot>>>,
    /// Those that are being ended in order, or started anew.
    ending: RefCell<Vec<Rc<Host>>>,
    processes: RefCell<Process>,
}

/// Runs the world of a seed to its end.
#[must_use]
pub fn run(seed: u64, plan: Plan, scripts: &Rc<Scripts>, is_logged: bool) -> Ended {
    let sim = Sim::new(seed, is_logged);
    let server = Server::new(&sim, scripts, plan.weather);
    let hosts = plan.hosts;
    let world = Rc::new(World {
        sim: sim.clone(),
        server: server.clone(),
        plan,
        slots: RefCell::new((0..hosts).map(|_| None).collect()),
        ending: RefCell::default(),
        processes: RefCell::new(CALLERS),
    });
    sim.log(|| format!("seed {seed}: {:?}, {:?}", world.plan.settings, world.plan.weather));
    (0..hosts).for_each(|slot| world.start(slot, 0));
    let link = Rc::new(Link::new(&server, CALLERS, None));
    for order in world.plan.orders.clone() {
        sim.spawn(CALLERS, caller::call(sim.clone(), server.clone(), link.clone(), order));
    }
    for (at, fault) in world.plan.faults.clone() {
        let inner = world.clone();
        sim.after(at, move || inner.goes_wrong(fault));
    }
    let ended = world.to_the_end();
    // Tasks hold the world and the world holds tasks.
    sim.end();
    world.slots.borrow_mut().clear();
    world.ending.borrow_mut().clear();
    ended
}

impl World {
    fn start(self: &Rc<Self>, slot: usize, starts: usize) {
        *self.processes.borrow_mut() += 1;
        let process = *self.processes.borrow();
        let name = format!("h{slot}-{starts}");
        let host = Host::start(&self.sim, &self.server, process, name, self.plan.settings);
        self.slots.borrow_mut()[slot] = Some(Slot { host, starts });
    }

    fn start_later(self: &Rc<Self>, slot: usize, starts: usize, us: u64) {
        let world = self.clone();
        self.sim.after(us, move || world.start(slot, starts));
    }

    fn kill(&self, host: &Host) {
        self.sim.crash(host.process);
        self.server.hang_up(host.process);
    }

    fn process(&self, slot: usize) -> Option<Process> {
        self.slots.borrow()[slot].as_ref().map(|slot| slot.host.process)
    }

    fn goes_wrong(self: &Rc<Self>, fault: Fault) {
        self.sim.log(|| format!("FAULT {fault:?}"));
        match fault {
            Fault::Crash(slot, again) => {
                let Some(Slot { host, starts }) = self.slots.borrow_mut()[slot].take() else { return };
                self.kill(&host);
                self.start_later(slot, starts + 1, again);
            }
            Fault::Drain(slot, again) => {
                let Some(Slot { host, starts }) = self.slots.borrow_mut()[slot].take() else { return };
                self.sim.spawn(host.process, host.clone().drain());
                self.ending.borrow_mut().push(host.clone());
                self.start_later(slot, starts + 1, again);
            }
            Fault::Freeze(slot, us) => {
                let Some(process) = self.process(slot) else { return };
                self.sim.freeze(process);
                self.server.history.borrow_mut().excuse(process);
                let (sim, server) = (self.sim.clone(), self.server.clone());
                self.sim.after(us, move || {
                    server.history.borrow_mut().thaws(process);
                    sim.thaw(process);
                });
            }
            Fault::Cut(slot, us) => {
                if let Some(process) = self.process(slot) {
                    self.server.cut(process, us, self.plan.settings.lease / 2);
                }
            }
            Fault::Kill(slot, chance) => {
                let Some(process) = self.process(slot) else { return };
                let own = self.server.connections(|other, _| other == process);
                if let Some(at) = usize::try_from(chance).unwrap_or(0).checked_rem(own.len()) {
                    self.server.close(own[at]);
                }
            }
            Fault::Restart(us, is_lossy) => {
                let down = self.server.go_down(is_lossy);
                let server = self.server.clone();
                self.sim.after(us, move || server.come_up(down));
            }
            Fault::Save => self.server.save(),
            Fault::Flush => self.server.flush(),
        }
    }

    /// Ends the processes of hosts that have ended in order.
    fn bury_the_ended(&self) {
        let ended: Vec<Rc<Host>> = self.ending.borrow_mut().extract_if(.., |host| host.is_through()).collect();
        ended.iter().for_each(|host| self.kill(host));
    }

    fn to_the_end(self: &Rc<Self>) -> Ended {
        let last_fault = self.plan.faults.last().map_or(0, |(at, _)| *at);
        let over = |fault: &Fault| match fault {
            Fault::Crash(_, us)
            | Fault::Drain(_, us)
            | Fault::Freeze(_, us)
            | Fault::Cut(_, us)
            | Fault::Restart(us, _) => *us,
            Fault::Kill(..) | Fault::Save | Fault::Flush => 0,
        };
        let faults_over = self.plan.faults.iter().map(|(at, fault)| at + over(fault)).max().unwrap_or(0);
        let orders_over = self.plan.orders.iter().map(|order| order.at).max().unwrap_or(0);
        let calm = faults_over.max(orders_over).max(last_fault) + SECOND;
        let longest = self.plan.settings.lease + 15 * SECOND;
        let calls_end = calm + self.plan.calls_within;
        let all_end = calls_end + 10 * self.plan.settings.lease + longest;
        let (mut now, mut steps) = (0, 0);
        loop {
            now += LOOK_EVERY;
            while self.sim.step(now) {
                steps += 1;
                assert!(steps < STEPS_MAX, "a world that does not end");
            }
            self.bury_the_ended();
            if now < calm {
                continue;
            }
            self.server.calm();
            let live = self.live();
            let left = self.server.look(|store| left_over(store, self.plan.settings.functions, &live));
            let is_late = |promise: &str| promise == "I8" && now > calls_end || now > all_end;
            let late = left.iter().find(|(promise, _)| is_late(promise));
            if let Some((promise, what)) = late {
                self.server.history.borrow_mut().broke(promise, what.clone());
            }
            if left.is_empty() && self.ending.borrow().is_empty() || late.is_some() {
                self.server.look(|store| {
                    self.server.history.borrow_mut().check_end(store, self.plan.settings.functions, &live);
                });
                break;
            }
            if self.server.history.borrow().broken.is_some() || now > all_end {
                break;
            }
        }
        let history = self.server.history.borrow();
        let (executions, calls) = history.counts();
        Ended { broken: history.broken.clone(), log: self.sim.take_log(), calls, executions, took_ms: now / MS }
    }

    fn live(&self) -> Vec<String> {
        self.slots.borrow().iter().flatten().map(|slot| slot.host.name.clone()).collect()
    }
}
