//! What callers, guests and whoever plays the faults saw, as JSON lines with one clock. Nothing here comes from a host.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Instant;

use anyhow::{Context, Result};
use baton_tests::now_ms;
use serde_json::Value;

/// Who saw it.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Book {
    /// What was sent, what was accepted, what came back.
    Callers,
    /// When attempts began and ended, as the collector saw it.
    Guests,
    /// What was done to the world, and when it was whole again.
    Faults,
}

/// The three books of one run.
#[derive(Debug)]
pub(crate) struct History {
    dir: PathBuf,
    start: Instant,
    start_ms: f64,
    /// Written by every task, a line at a time; a message would give the lines a later time than they had.
    books: [Mutex<BufWriter<File>>; 3],
}

impl History {
    /// Empty books in `dir`.
    ///
    /// # Errors
    /// If they cannot be made.
    pub(crate) fn new(dir: &Path) -> Result<Self> {
        let book = |name: &str| -> Result<_> {
            let path = dir.join(name);
            let file = File::create(&path).with_context(|| format!("cannot write {}", path.display()))?;
            Ok(Mutex::new(BufWriter::new(file)))
        };
        let books = [book("callers.jsonl")?, book("guests.jsonl")?, book("faults.jsonl")?];
        Ok(Self { dir: dir.to_owned(), start: Instant::now(), start_ms: now_ms() as f64, books })
    }

    /// Where they lie.
    #[must_use]
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Unix milliseconds, by a clock that never jumps.
    #[must_use]
    pub(crate) fn now(&self) -> f64 {
        self.start_ms + self.start.elapsed().as_secs_f64() * 1e3
    }

    /// Adds a line, with the time under `t`.
    ///
    /// # Panics
    /// If it is no object, or the disk is full: a history with gaps proves nothing.
    pub(crate) fn write(&self, book: Book, mut line: Value) {
        let mut file = self.books[book as usize].lock().expect("nobody panics with a book in hand");
        line["t"] = ((self.now() * 1e3).round() / 1e3).into();
        writeln!(file, "{line}").expect("the history can be written");
    }

    /// Puts everything on the disk.
    ///
    /// # Errors
    /// If it cannot be written.
    pub(crate) fn flush(&self) -> Result<()> {
        for book in &self.books {
            book.lock().expect("nobody panics with a book in hand").flush()?;
        }
        Ok(())
    }
}
