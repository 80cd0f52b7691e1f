//! Several hosts as real processes on one Redis.

use std::process::ExitStatus;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use baton_model::{FunctionId, HostId};
use rustix::process::Signal;
use serde_json::Value;

use crate::host::{Host, HostPlan};
use crate::listing::Listing;
use crate::settings::PATIENCE;
use crate::wait::until;

/// One of the hosts.
struct Member {
    host: Host,
    id: HostId,
}

/// Hosts by their place; a host that has died keeps its place until another is started there.
pub struct Fleet {
    plan: HostPlan,
    functions: Vec<FunctionId>,
    members: Vec<Member>,
}

impl Fleet {
    /// Starts `count` hosts by one plan, and waits until each of them takes calls for these functions.
    ///
    /// # Errors
    /// If one does not start, or is not ready in time.
    pub async fn of(count: usize, plan: &HostPlan, functions: &[&str]) -> Result<Self> {
        let functions = functions.iter().map(|name| Ok(name.parse()?)).collect::<Result<_>>()?;
        let mut fleet = Self { plan: plan.clone(), functions, members: Vec::new() };
        // All processes first, so that they load their functions at the same time.
        let mut starting = Vec::new();
        for _ in 0..count {
            starting.push(plan.clone().start().await?);
        }
        for host in starting {
            let member = fleet.member(host).await?;
            fleet.members.push(member);
        }
        Ok(fleet)
    }

    /// Starts one more, by a plan of its own; gives its place.
    ///
    /// # Errors
    /// As [`Fleet::of`].
    pub async fn add(&mut self, plan: HostPlan) -> Result<usize> {
        let member = self.member(plan.start().await?).await?;
        self.members.push(member);
        Ok(self.members.len() - 1)
    }

    /// Kills one as a crash would. It keeps its place, so that what it printed can be looked at.
    ///
    /// # Errors
    /// If it has ended already.
    pub async fn kill(&mut self, at: usize) -> Result<()> {
        self.members[at].host.kill9().await
    }

    /// Sends a signal to one.
    ///
    /// # Errors
    /// If it has ended already.
    pub fn signal(&self, at: usize, signal: Signal) -> Result<()> {
        self.members[at].host.signal(signal)
    }

    /// Waits for the end of one.
    ///
    /// # Errors
    /// If it still runs after `limit`.
    pub async fn exit_within(&mut self, at: usize, limit: Duration) -> Result<ExitStatus> {
        self.members[at].host.exit_within(limit).await
    }

    /// Sends one SIGTERM and waits until it has ended with 0.
    ///
    /// # Errors
    /// If it ends otherwise, or not in time.
    pub async fn stop(&mut self, at: usize) -> Result<()> {
        self.members[at].host.stop().await
    }

    /// Starts another in the place of one that has ended, and waits until it takes calls.
    ///
    /// # Errors
    /// As [`Fleet::of`], or if the former one still runs.
    pub async fn replace(&mut self, at: usize) -> Result<()> {
        ensure!(!self.members[at].host.runs()?, "host {at} still runs and is not to be replaced");
        self.members[at] = self.member(self.plan.clone().start().await?).await?;
        Ok(())
    }

    /// Waits until each host takes calls for a function that was put into its folder meanwhile.
    ///
    /// # Errors
    /// If one is not ready in time.
    pub async fn until_ready(&mut self, function: &str) -> Result<()> {
        let function = function.parse()?;
        for member in &mut self.members {
            member.ready(&function).await?;
        }
        Ok(())
    }

    /// The id of one.
    #[must_use]
    pub fn id(&self, at: usize) -> &HostId {
        &self.members[at].id
    }

    /// The ids of all, by place.
    #[must_use]
    pub fn ids(&self) -> Vec<&HostId> {
        self.members.iter().map(|member| &member.id).collect()
    }

    /// The place of the host with this id.
    ///
    /// # Errors
    /// If there is none.
    pub fn place_of(&self, id: &str) -> Result<usize> {
        let place = self.members.iter().position(|member| member.id.as_str() == id);
        place.with_context(|| format!("{id} is no host of {:?}", self.ids()))
    }

    /// One of the hosts.
    #[must_use]
    pub fn host(&self, at: usize) -> &Host {
        &self.members[at].host
    }

    /// One of the hosts, to wait for what it tells.
    pub fn host_mut(&mut self, at: usize) -> &mut Host {
        &mut self.members[at].host
    }

    /// What `baton ps --json` says now.
    ///
    /// # Errors
    /// If it fails.
    pub async fn listing(&self) -> Result<Listing> {
        self.members.first().context("a fleet has a host")?.host.commands().listing().await
    }

    /// Waits until `baton ps` lists one in this state, such as `online` or `offline (crashed)`.
    ///
    /// # Errors
    /// If it does not within `limit`; the message says which state it has instead.
    pub async fn until_state(&self, at: usize, state: &str, limit: Duration) -> Result<()> {
        self.members[at].host.commands().until_state(self.id(at), state, limit).await
    }

    /// What the hosts that have a place now have logged under this message, with its fields.
    #[must_use]
    pub fn logged(&self, message: &str) -> Vec<Value> {
        self.members.iter().flat_map(|member| member.host.lines().logged(message)).collect()
    }

    /// Whether every host runs.
    ///
    /// # Errors
    /// If the system does not say.
    pub fn all_run(&mut self) -> Result<bool> {
        for member in &mut self.members {
            if !member.host.runs()? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    async fn member(&self, mut host: Host) -> Result<Member> {
        // Every host hears of every other's functions, so its id has to be known before its own news can be told.
        let id = until("`baton ps` lists the new host", PATIENCE, async || {
            ensure!(host.runs()?, "the host ended before it was listed");
            Ok(host.id().await.ok())
        });
        let mut member = Member { id: id.await?, host };
        for function in &self.functions {
            member.ready(function).await?;
        }
        Ok(member)
    }
}

impl Member {
    async fn ready(&mut self, function: &FunctionId) -> Result<()> {
        let what = format!("`ready` of {function} at {}", self.id);
        let id = &self.id;
        let is_own = |event: &crate::Event| event.tells("ready", function) && event.is_of(id);
        self.host.events()?.wait_for(&what, PATIENCE, is_own).await?;
        Ok(())
    }
}
