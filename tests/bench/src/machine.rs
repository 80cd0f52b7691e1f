//! What is needed to judge figures: the machine, and how busy it was.

use std::fs;
use std::process::Command;

use serde_json::{Value, json};

/// What it is, in a few words each. What cannot be read is `unknown`.
pub(crate) fn describe() -> Value {
    json!({
        "kernel": read("/proc/sys/kernel/osrelease"),
        "cpu": cpu_model(),
        "cores": std::thread::available_parallelism().map_or(0, usize::from),
        "memory_mib": memory_mib(),
        "redis": redis_version(),
        "baton": env!("CARGO_PKG_VERSION"),
    })
}

/// The load average over one minute.
pub(crate) fn load() -> f64 {
    read("/proc/loadavg").split(' ').next().and_then(|text| text.parse().ok()).unwrap_or(f64::NAN)
}

fn read(path: &str) -> String {
    fs::read_to_string(path).map_or_else(|_| "unknown".to_owned(), |text| text.trim().to_owned())
}

fn cpu_model() -> String {
    let text = read("/proc/cpuinfo");
    let model = text.lines().find_map(|line| line.strip_prefix("model name"));
    model.and_then(|rest| rest.split_once(": ")).map_or("unknown", |(_, name)| name).to_owned()
}

fn memory_mib() -> u64 {
    let text = read("/proc/meminfo");
    let total = text.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    total.and_then(|rest| rest.trim().trim_end_matches(" kB").parse::<u64>().ok()).unwrap_or(0) / 1024
}

fn redis_version() -> String {
    let said = Command::new("redis-server").arg("--version").output();
    let said = said.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    said.split(' ').find_map(|word| word.strip_prefix("v=")).unwrap_or("unknown").to_owned()
}
