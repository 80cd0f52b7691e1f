//! `wrk`, the load generator for HTTP: one run of it, and what it says of that run.

use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use tokio::process::Command;

/// How much longer than asked for it may take.
const GRACE: Duration = Duration::from_secs(30);

/// What comes before its figures in the last line that it prints.
const FIGURES: &str = "figures:";

/// What the calls of one run came to.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Said {
    pub(crate) calls: u64,
    pub(crate) per_second: f64,
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
}

/// Posts `body` to `url` over so many connections, each with one call under way at any time.
///
/// An error if there is no `wrk`, or if any answer was none, or no success, or shorter than the body that it repeats.
pub(crate) async fn run(url: &str, body: &[u8], connections: usize, seconds: u64) -> Result<Said> {
    let script = tempfile::Builder::new().prefix("bw-").suffix(".lua").tempfile_in("/tmp")?;
    std::fs::write(script.path(), lua(std::str::from_utf8(body)?))?;
    let mut command = Command::new("wrk");
    // One thread of its own: the cores belong to those who answer.
    command.args(["--threads", "1", "--latency", "--timeout", "10s"]);
    command.arg("--connections").arg(connections.to_string()).arg("--duration").arg(format!("{seconds}s"));
    command.arg("--script").arg(script.path()).arg(url).stdin(Stdio::null()).kill_on_drop(true);
    let ended = tokio::time::timeout(Duration::from_secs(seconds) + GRACE, command.output()).await;
    let output = ended.context("`wrk` does not end")?;
    let output = output.context("`wrk` does not start: `make bench` installs it, as `apt-get install wrk` does")?;
    let text = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() {
        bail!("`wrk` ended with {}: {text}{}", output.status, String::from_utf8_lossy(&output.stderr));
    }
    figures(&text, body.len() as u64).with_context(|| format!("`wrk` said:\n{text}"))
}

/// Its figures to the microsecond, where the report that it prints for people rounds them.
fn lua(body: &str) -> String {
    format!(
        r#"wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
wrk.body = [==[{body}]==]

function done(summary, latency, requests)
  local e = summary.errors
  local failed = e.connect + e.read + e.write + e.status + e.timeout
  print(string.format("{FIGURES} %d %d %d %d %d %d", summary.requests, summary.duration, summary.bytes, failed,
    latency:percentile(50), latency:percentile(99)))
end
"#
    )
}

fn figures(text: &str, body_bytes: u64) -> Result<Said> {
    let line = text.lines().find_map(|line| line.strip_prefix(FIGURES)).context("there are no figures")?;
    let numbers = line.split_whitespace().map(str::parse).collect::<Result<Vec<u64>, _>>()?;
    let [calls, took_us, bytes, failed, p50_us, p99_us] = numbers[..] else { bail!("these are not six: {line}") };
    ensure!(failed == 0, "{failed} of {calls} calls failed");
    ensure!(calls > 0 && bytes >= calls * body_bytes, "{calls} answers have {bytes} bytes in all");
    let per_second = calls as f64 / Duration::from_micros(took_us).as_secs_f64();
    Ok(Said { calls, per_second, p50_us: p50_us as f64, p99_us: p99_us as f64 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_read_from_their_line_alone() -> Result<()> {
        let text = "Running 2s test\n  Latency  1.00ms\nfigures: 4000 2000000 800000 0 950 2100\n";
        let said = figures(text, 100)?;
        assert_eq!(said, Said { calls: 4_000, per_second: 2_000.0, p50_us: 950.0, p99_us: 2_100.0 });
        assert!(figures(text, 300).is_err(), "answers without their bodies are refused");
        assert!(figures("figures: 4000 2000000 800000 1 950 2100", 100).is_err(), "and so is a call that failed");
        assert!(figures("Running 2s test", 100).is_err());
        Ok(())
    }
}
