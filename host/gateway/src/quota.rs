//! Quotas at the door: whether a call may wait in its function's queue. What is refused here was never accepted; what is
//! accepted is run.

use std::sync::Arc;
use std::time::Duration;

use baton_model::{FunctionId, Over, Quota, Quotas};

use crate::gate::Gate;
use crate::problem::Problem;

/// What is said about one function and its tenant.
#[derive(Debug, Clone, Copy, Default)]
pub struct Allowance {
    /// The quotas of the function, as far as the host in whose process the gateway stands has it.
    pub function: Quotas,
    /// The quotas of its tenant, for all its functions together.
    pub tenant: Quotas,
    /// What happens to a call that would wait for a quota.
    pub over: Over,
    /// Which quota a call that came now would wait for at this host, and for how long at least; none if it would begin, or
    /// if the host has no such function.
    pub held: Option<(Quota, Duration)>,
}

/// Looks up what is said about a function. It is asked for every new call, so it has to be quick.
pub type Allowances = Arc<dyn Fn(&FunctionId) -> Allowance + Send + Sync>;

/// Refuses so many calls if a quota leaves no room for them all. Without a limit on queues nobody is asked.
pub(crate) async fn admit(gate: &Gate, function: &FunctionId, calls: u64) -> Result<(), Problem> {
    room_of(gate, function, calls, calls).await.map(drop)
}

/// How many calls there is room for, up to so many. It is refused if there is none for one.
pub(crate) async fn room(gate: &Gate, function: &FunctionId, most: u64) -> Result<u64, Problem> {
    room_of(gate, function, 1, most).await
}

async fn room_of(gate: &Gate, function: &FunctionId, least: u64, most: u64) -> Result<u64, Problem> {
    let Allowance { function: own, tenant, over, held } = (gate.parts.allowance)(function);
    if let (Over::Refuse, Some((quota, wait))) = (over, held) {
        let detail = format!(
            "{function} or its tenant has all that its quota `{}` gives it now; try again later",
            quota.as_str()
        );
        let problem = Problem::new(429, "over-quota").code(word(quota).to_owned()).detail(detail);
        // In whole seconds, and never sooner than it can be.
        return Err(problem.retry_after(wait.saturating_add(Duration::from_millis(999)).max(gate.config.retry_after)));
    }
    let mut room = most;
    if own.queue_calls_max.is_some() || own.queue_bytes_max.is_some() {
        room = check(gate, &own, std::slice::from_ref(function), "the function", least).await?.min(room);
    }
    if tenant.queue_calls_max.is_some() || tenant.queue_bytes_max.is_some() {
        let hosts = gate.directory.hosts().await.map_err(|error| gate.broker_problem(&error))?;
        let is_sibling = |other: &&FunctionId| other.tenant() == function.tenant() && *other != function;
        let mut all: Vec<FunctionId> = hosts.functions().filter(is_sibling).cloned().collect();
        all.push(function.clone());
        room = check(gate, &tenant, &all, "the tenant", least).await?.min(room);
    }
    Ok(room)
}

/// Looks at the queues of these functions together, which so many calls are to join at the least, and says how many may.
async fn check(
    gate: &Gate,
    quotas: &Quotas,
    functions: &[FunctionId],
    whose: &str,
    least: u64,
) -> Result<u64, Problem> {
    let mut room = u64::MAX;
    let trouble = |error| gate.broker_problem(&error);
    let full = |quota: Quota, used: u64, most: u64| {
        let name = quota.as_str();
        let detail =
            format!("the queue of {whose} has {used} of the {most} that its quota `{name}` gives it; try again later");
        let problem = Problem::new(429, "over-quota").code(word(quota).to_owned()).detail(detail);
        Err(problem.retry_after(gate.config.retry_after))
    };
    if let Some(most) = quotas.queue_calls_max {
        let looks = gate.parts.admin.looks(functions).await.map_err(trouble)?;
        let used: u64 = looks.iter().flatten().map(|look| look.depth.queued + look.depth.delayed).sum();
        room = most.saturating_sub(used);
        if room < least {
            return full(Quota::QueueCalls, used, most);
        }
    }
    if let Some(most) = quotas.queue_bytes_max {
        let used = gate.parts.admin.queue_bytes(functions).await.map_err(trouble)?;
        if used >= most {
            return full(Quota::QueueBytes, used, most);
        }
    }
    Ok(room)
}

/// The word for programs.
fn word(quota: Quota) -> &'static str {
    match quota {
        Quota::Concurrency => "quota-concurrency",
        Quota::CallsPerSecond => "quota-calls-per-second",
        Quota::CpuMsPerSecond => "quota-cpu-ms-per-second",
        Quota::QueueCalls => "quota-queue-calls",
        Quota::QueueBytes => "quota-queue-bytes",
    }
}
