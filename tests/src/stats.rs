//! What the system and Redis count.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use anyhow::{Context, Result};
use redis::aio::MultiplexedConnection;

/// How many commands Redis has processed, in all and by name, since it started.
#[derive(Debug, Clone, Default)]
pub struct CommandStats {
    /// In all.
    pub total: u64,
    /// How many more it refused to begin, as those that write to a replica. They are in no other count.
    pub rejected: u64,
    /// By name.
    pub by_name: BTreeMap<String, u64>,
}

impl CommandStats {
    /// As it is now. The reading itself is one command, counted in the next.
    ///
    /// # Errors
    /// If Redis does not answer.
    pub async fn read(connection: &mut MultiplexedConnection) -> Result<Self> {
        let text: String = redis::cmd("INFO").arg("stats").arg("commandstats").query_async(connection).await?;
        let mut stats = Self::default();
        for line in text.lines() {
            if let Some(total) = line.strip_prefix("total_commands_processed:") {
                stats.total = total.trim().parse()?;
            } else if let Some((name, facts)) = line.strip_prefix("cmdstat_").and_then(|rest| rest.split_once(':')) {
                let fact = |key: &str| facts.split(',').find_map(|fact| fact.strip_prefix(key));
                let calls = fact("calls=").context("calls are counted")?.parse()?;
                stats.by_name.insert(name.to_owned(), calls);
                stats.rejected +=
                    fact("rejected_calls=").context("rejected calls are counted")?.trim().parse::<u64>()?;
            }
        }
        Ok(stats)
    }

    /// What was added since `earlier`.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let before = |name: &str| earlier.by_name.get(name).copied().unwrap_or(0);
        let by_name = self.by_name.iter().map(|(name, calls)| (name.clone(), calls - before(name)));
        Self {
            total: self.total - earlier.total,
            rejected: self.rejected - earlier.rejected,
            by_name: by_name.filter(|(_, calls)| *calls > 0).collect(),
        }
    }
}

impl fmt::Display for CommandStats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} commands, {} rejected: {:?}", self.total, self.rejected, self.by_name)
    }
}

/// The CPU time that a process has used, its own and the kernel's for it.
///
/// # Errors
/// If there is no such process.
pub fn cpu_time(pid: u32) -> Result<Duration> {
    let fields = stat_after_name(pid)?.1;
    // utime and stime: fields 14 and 15 of proc_pid_stat(5), which counts pid and name as the first two.
    let ticks: u64 = [11, 12].iter().map(|at| fields.get(*at).and_then(|text| text.parse().ok()).unwrap_or(0)).sum();
    Ok(Duration::from_millis(ticks * 1000 / rustix::param::clock_ticks_per_second()))
}

/// How much memory a process has in use, in bytes: what of it is resident, shared pages among it.
///
/// # Errors
/// If there is no such process.
pub fn resident_bytes(pid: u32) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("a process has memory")?;
    Ok(line.trim().trim_end_matches(" kB").parse::<u64>()? * 1024)
}

/// The children of a process: their ids and names.
///
/// # Errors
/// If the system keeps no `/proc`.
pub fn children_of(pid: u32) -> Result<Vec<(u32, String)>> {
    let mut children = Vec::new();
    for entry in std::fs::read_dir("/proc").context("the process list is read from /proc")? {
        let Some(child) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        // A process may end between the two looks.
        let Ok((name, fields)) = stat_after_name(child) else { continue };
        if fields.get(1).is_some_and(|parent| *parent == pid.to_string()) {
            children.push((child, name));
        }
    }
    Ok(children)
}

/// Whether a process runs. One that has ended and was not reaped does not.
#[must_use]
pub fn is_alive(pid: u32) -> bool {
    stat_after_name(pid).is_ok_and(|(_, fields)| fields.first().is_some_and(|state| state != "Z"))
}

/// The name of a process, and what `/proc/<pid>/stat` has behind it: state, parent and so on.
fn stat_after_name(pid: u32) -> Result<(String, Vec<String>)> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let (head, tail) = text.rsplit_once(')').context("a process has a name in brackets")?;
    let name = head.split_once('(').map_or(head, |(_, name)| name);
    Ok((name.to_owned(), tail.split_whitespace().map(str::to_owned).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Redis;

    #[tokio::test]
    async fn commands_are_counted_by_name() -> Result<()> {
        let redis = Redis::start().await?;
        let mut connection = redis.connect().await?;
        let before = CommandStats::read(&mut connection).await?;
        for _ in 0..3 {
            redis::cmd("PING").exec_async(&mut connection).await?;
        }
        let used = CommandStats::read(&mut connection).await?.since(&before);
        assert_eq!((used.total, used.by_name.get("ping")), (4, Some(&3)), "{used}");

        redis::cmd("REPLICAOF").arg(&["127.0.0.1", "1"]).exec_async(&mut connection).await?;
        let before = CommandStats::read(&mut connection).await?;
        let refused: redis::RedisResult<()> = redis::cmd("DEL").arg("key").exec_async(&mut connection).await;
        let used = CommandStats::read(&mut connection).await?.since(&before);
        assert_eq!((refused.is_err(), used.total, used.rejected), (true, 1, 1), "{used}");
        Ok(())
    }

    #[tokio::test]
    async fn a_process_has_its_children() -> Result<()> {
        let redis = Redis::start().await?;
        let server = redis.pid().context("it runs")?;
        let children = children_of(std::process::id())?;
        assert!(children.iter().any(|(pid, name)| *pid == server && name.starts_with("redis-server")), "{children:?}");
        assert!(is_alive(server) && cpu_time(server)? < Duration::from_secs(60));
        assert!((100_000..1 << 30).contains(&resident_bytes(server)?), "a fresh server holds some megabytes");
        drop(redis);
        assert!(!is_alive(server), "it is gone with its owner");
        Ok(())
    }
}
