//! What a process printed: every line kept, written to a file, and waited for by what it says.

use std::cell::Cell;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;
use tokio::sync::watch;

use crate::settings;

/// How many of the last lines are shown with a failed test; the file has them all.
const SHOWN: usize = 120;

/// The lines of one process, so far.
#[derive(Debug, Clone)]
pub struct Lines {
    /// Written by the reading thread and read by tests; a line has to be found whenever it came, which a channel
    /// that hands each line out once cannot give.
    kept: Arc<Mutex<Vec<String>>>,
    count: watch::Receiver<usize>,
    file: PathBuf,
}

impl Lines {
    /// Reads `source` to its end on a thread of its own.
    ///
    /// # Errors
    /// If the file for them cannot be made.
    pub fn of(source: impl Read + Send + 'static) -> Result<Self> {
        let file = log_file()?;
        let mut copy = File::create(&file).with_context(|| format!("cannot write {}", file.display()))?;
        let kept = Arc::new(Mutex::new(Vec::new()));
        let (told, count) = watch::channel(0);
        let lines = Self { kept: Arc::clone(&kept), count, file };
        std::thread::spawn(move || {
            let mut source = BufReader::new(source);
            let mut line = Vec::new();
            while source.read_until(b'\n', &mut line).is_ok_and(|bytes| bytes > 0) {
                // A full disk must not stop the process that is read: the lines in memory still come.
                let _ = copy.write_all(&line);
                let mut kept = kept.lock().expect("the thread that holds this lock does not panic");
                kept.push(String::from_utf8_lossy(&line).trim_end().to_owned());
                told.send_replace(kept.len());
                line.clear();
            }
        });
        Ok(lines)
    }

    /// Waits until at least `count` lines fit, those that came before included, and gives all that do.
    ///
    /// # Errors
    /// If there are fewer after `limit`.
    pub async fn wait_for_several(
        &self,
        count: usize,
        limit: Duration,
        fits: impl Fn(&str) -> bool,
    ) -> Result<Vec<String>> {
        let mut told = self.count.clone();
        let find = async {
            loop {
                told.borrow_and_update();
                let found = self.that(&fits);
                if found.len() >= count {
                    return Some(found);
                }
                // An error means that the process has ended and all of it was read.
                told.changed().await.ok()?;
            }
        };
        let found = tokio::time::timeout(limit, find).await;
        found.ok().flatten().with_context(|| format!("fewer than {count} such lines were printed within {limit:?}"))
    }

    /// All lines so far that contain `text`.
    #[must_use]
    pub fn containing(&self, text: &str) -> Vec<String> {
        self.that(|line| line.contains(text))
    }

    /// All lines so far that fit.
    #[must_use]
    pub fn that(&self, fits: impl Fn(&str) -> bool) -> Vec<String> {
        self.with_kept(|kept| kept.iter().filter(|line| fits(line)).cloned().collect())
    }

    /// The log lines so far whose message starts with `message`, with all their fields.
    #[must_use]
    pub fn logged(&self, message: &str) -> Vec<Value> {
        self.log().filter(|line| line["message"].as_str().is_some_and(|text| text.starts_with(message))).collect()
    }

    /// The log lines so far that are warnings or worse.
    #[must_use]
    pub fn warnings(&self) -> Vec<Value> {
        self.log().filter(|line| line["level"] == "WARN" || line["level"] == "ERROR").collect()
    }

    /// What of it is the log: a host that is not on a terminal writes one JSON object a line.
    fn log(&self) -> impl Iterator<Item = Value> {
        self.that(|line| line.starts_with('{')).into_iter().filter_map(|line| serde_json::from_str(&line).ok())
    }

    /// Prints the last lines, for the reader of a failed test.
    pub fn print_tail(&self, what: &str) {
        self.with_kept(|kept| {
            let from = kept.len().saturating_sub(SHOWN);
            println!("---- {what} printed {} lines, whole in {}", kept.len(), self.file.display());
            kept[from..].iter().for_each(|line| println!("  {line}"));
        });
    }

    fn with_kept<T>(&self, look: impl FnOnce(&[String]) -> T) -> T {
        look(&self.kept.lock().expect("the thread that holds this lock does not panic"))
    }
}

thread_local! {
    /// How many processes this test has started: each test runs on a thread of its own.
    static STARTED: Cell<u32> = const { Cell::new(0) };
}

/// `target/<profile>/test-logs/<test>-<n>.log`: the same names in every run, so that they do not pile up.
fn log_file() -> Result<PathBuf> {
    let dir = settings::profile_dir()?.join("test-logs");
    std::fs::create_dir_all(&dir)?;
    let thread = std::thread::current();
    let test = thread.name().unwrap_or("test").replace("::", "-");
    let n = STARTED.replace(STARTED.get() + 1);
    Ok(dir.join(format!("{test}-{n}.log")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_line_is_found_before_and_after_it_was_printed() -> Result<()> {
        let (read_end, mut write_end) = std::io::pipe()?;
        let lines = Lines::of(read_end)?;
        writeln!(write_end, "one")?;
        lines.wait_for_several(1, settings::PATIENCE, |line| line == "one").await?;
        let (found, written) =
            tokio::join!(lines.wait_for_several(2, settings::PATIENCE, |line| line.starts_with("one")), async {
                write!(write_end, "two\none more\n")
            });
        written?;
        assert_eq!(found?, ["one", "one more"]);
        drop(write_end);
        let three = lines.wait_for_several(1, settings::PATIENCE, |line| line == "three").await;
        assert!(three.is_err(), "nothing comes after the end");
        Ok(())
    }

    #[tokio::test]
    async fn the_log_is_found_among_what_was_printed() -> Result<()> {
        let (read_end, mut write_end) = std::io::pipe()?;
        let lines = Lines::of(read_end)?;
        writeln!(write_end, r#"{{"level":"INFO","message":"host offline","reason":"crashed"}}"#)?;
        writeln!(write_end, r#"host offline {{"level":"WARN"}}"#)?;
        writeln!(write_end, r#"{{"level":"WARN","message":"Redis: waiting"}}"#)?;
        lines.wait_for_several(3, settings::PATIENCE, |_| true).await?;
        let offline = lines.logged("host offline");
        assert_eq!((offline.len(), &offline[0]["reason"]), (1, &Value::from("crashed")));
        assert_eq!(lines.warnings().len(), 1);
        Ok(())
    }
}
