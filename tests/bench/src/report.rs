//! What comes out of a run: tables, goals, JSON, and the generated section of docs/performance.md.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Instant, SystemTime};

use anyhow::{Context, Result, ensure};
use serde_json::{Map, Value, json};

use crate::machine;
use crate::plots::{self, Course, Line};
use crate::table::Table;

/// A kind of run, with its own place in performance.md.
#[derive(Debug)]
pub(crate) struct Kind {
    /// What its markers and its plots are called by.
    pub(crate) name: &'static str,
    /// What its JSON is called by besides the time.
    pub(crate) json: &'static str,
    /// What its redis-servers keep on disk.
    pub(crate) persistence: &'static str,
    /// The load average that it reaches on a machine of its own.
    pub(crate) load_max: f64,
}

/// Baton alone.
pub(crate) const ALONE: Kind = Kind { name: "bench", json: "", persistence: "off", load_max: 3.0 };
/// Baton beside its peers, whose callers are processes of their own.
pub(crate) const PEERS: Kind =
    Kind { name: "peers", json: "peers-", persistence: "AOF with `appendfsync everysec`", load_max: 4.5 };

/// One line of what was aimed at, and what came of it.
#[derive(Debug)]
pub(crate) struct Goal {
    number: &'static str,
    what: String,
    figure: String,
    goal: String,
    met: bool,
}

impl Goal {
    /// `value` should be at most `limit`.
    pub(crate) fn at_most(
        number: &'static str,
        what: impl Into<String>,
        value: f64,
        limit: f64,
        figure: String,
        unit: &str,
    ) -> Self {
        Self { number, what: what.into(), figure, goal: format!("<= {} {unit}", brief(limit)), met: value <= limit }
    }

    /// `value` should be at least `limit`.
    pub(crate) fn at_least(
        number: &'static str,
        what: impl Into<String>,
        value: f64,
        limit: f64,
        figure: String,
        unit: &str,
    ) -> Self {
        Self { number, what: what.into(), figure, goal: format!(">= {} {unit}", brief(limit)), met: value >= limit }
    }

    /// What is told and has no limit.
    pub(crate) fn reported(number: &'static str, what: impl Into<String>, figure: String) -> Self {
        Self { number, what: what.into(), figure, goal: "reported".to_owned(), met: true }
    }

    fn json(&self) -> Value {
        json!({"number": self.number, "what": self.what, "figure": self.figure, "goal": self.goal, "met": self.met})
    }
}

/// Without digits that say nothing.
fn brief(number: f64) -> String {
    let text = format!("{number:.2}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// What one section found.
#[derive(Debug, Default)]
pub(crate) struct Part {
    pub(crate) tables: Vec<Table>,
    /// Calls a second by calls in flight.
    pub(crate) throughput: Vec<Line>,
    /// p50 and p99 in microseconds by calls in flight.
    pub(crate) latency: Vec<(Line, Line)>,
    /// Latency over time while hosts come and go.
    pub(crate) course: Vec<Course>,
    /// Calls without an answer by seconds since a kill.
    pub(crate) unanswered: Vec<Line>,
    /// What follows the goals: a title and its lines.
    pub(crate) remarks: Vec<(String, Vec<String>)>,
    /// Latency of one tenant before and while another has a backlog.
    pub(crate) beside: Vec<Course>,
    goals: Vec<Goal>,
    json: Map<String, Value>,
    broken: Vec<String>,
}

impl Part {
    /// Says what must never be, whatever the machine: the figures are shown, and the run fails.
    pub(crate) fn broken(&mut self, what: String) {
        self.broken.push(what);
    }

    pub(crate) fn goal(&mut self, goal: Goal) {
        self.goals.push(goal);
    }

    pub(crate) fn json(&mut self, key: &str, value: Value) {
        self.json.insert(key.to_owned(), value);
    }
}

/// A section under way.
pub(crate) struct Started {
    section: &'static str,
    at: Instant,
    load: f64,
}

/// Everything that a run found.
#[derive(Debug)]
pub(crate) struct Report {
    kind: &'static Kind,
    at: SystemTime,
    plan: &'static str,
    machine: Value,
    sections: Vec<(&'static str, Value)>,
    parts: Vec<Part>,
    broken: Vec<String>,
}

impl Report {
    pub(crate) fn new(kind: &'static Kind, plan: &'static str) -> Result<Self> {
        // Before anything is measured, so that nothing is measured in vain.
        crate::folders::baton()?;
        Ok(Self {
            kind,
            at: SystemTime::now(),
            plan,
            machine: machine::describe(),
            sections: Vec::new(),
            parts: Vec::new(),
            broken: Vec::new(),
        })
    }

    pub(crate) fn begin(&self, section: &'static str) -> Started {
        Started { section, at: Instant::now(), load: machine::load() }
    }

    pub(crate) fn end(&mut self, started: Started, part: Result<Part>) {
        let mut part = part.unwrap_or_else(|error| {
            self.broken.push(format!("{}: {error:#}", started.section));
            Part::default()
        });
        let broken = std::mem::take(&mut part.broken);
        self.broken.extend(broken.into_iter().map(|what| format!("{}: {what}", started.section)));
        let section = json!({
            "load_before": started.load,
            "load_after": machine::load(),
            "seconds": started.at.elapsed().as_secs_f64(),
            "figures": std::mem::take(&mut part.json),
        });
        self.sections.push((started.section, section));
        self.parts.push(part);
    }

    /// An error if a section could not be measured, or a call was lost or answered wrongly. That a goal is missed is none.
    pub(crate) fn broken(&self) -> Result<()> {
        ensure!(self.broken.is_empty(), "this must not be: {}", self.broken.join("; "));
        Ok(())
    }

    /// Whether more wanted to run than the benchmark itself brings: it keeps about two processors busy.
    fn was_disturbed(&self) -> bool {
        let load = |section: &Value, key: &str| section[key].as_f64().unwrap_or(0.0);
        self.sections.first().is_some_and(|(_, first)| load(first, "load_before") > 1.0)
            || self.sections.iter().any(|(_, section)| load(section, "load_after") > self.kind.load_max)
    }

    fn goals(&self) -> impl Iterator<Item = &Goal> {
        self.parts.iter().flat_map(|part| &part.goals)
    }

    fn text(&self) -> String {
        let machine = |key: &str| self.machine[key].as_str().unwrap_or("unknown").to_owned();
        let mut text = format!(
            "{} run of {}: {}, {} cores, {} MiB, kernel {}, redis {}, persistence {}.\n",
            self.plan,
            humantime::format_rfc3339_seconds(self.at),
            machine("cpu"),
            self.machine["cores"],
            self.machine["memory_mib"],
            machine("kernel"),
            machine("redis"),
            self.kind.persistence,
        );
        let loads = self.sections.iter().map(|(name, section)| {
            let load = |key: &str| section[key].as_f64().unwrap_or(f64::NAN);
            format!("{name} {:.1} to {:.1}", load("load_before"), load("load_after"))
        });
        text += &format!("Load average before and after each part: {}.\n", loads.collect::<Vec<_>>().join(", "));
        if self.was_disturbed() {
            text +=
                "Other work ran on this machine meanwhile: run it again on a quiet one before believing a figure.\n";
        }
        for table in self.parts.iter().flat_map(|part| &part.tables) {
            text += &format!("\n{}:\n\n{table}", table.title);
            if !table.note.is_empty() {
                text += &format!("\n{}\n", table.note);
            }
        }
        let mut goals = Table::new("Goals", &["goal", "figure", "aim", "met"]);
        for goal in self.goals() {
            let met = if goal.met { "yes" } else { "no" };
            let name = format!("{} {}", goal.number, goal.what);
            goals.row(vec![name, goal.figure.clone(), goal.goal.clone(), met.to_owned()]);
        }
        text += &format!("\n{}:\n\n{goals}", goals.title);
        for (title, lines) in self.parts.iter().flat_map(|part| &part.remarks) {
            text += &format!("\n{title}:\n\n");
            lines.iter().for_each(|line| text += &format!("- {line}\n"));
        }
        text
    }

    pub(crate) fn print(&self) {
        println!("\n{}", self.text());
        let (met, all) = (self.goals().filter(|goal| goal.met).count(), self.goals().count());
        println!("{met} of {all} goals met");
    }

    /// Writes the figures under the time of the run and as `latest.json`; gives the first path.
    pub(crate) fn write_json(&self, dir: &Path) -> Result<PathBuf> {
        let at = humantime::format_rfc3339_seconds(self.at).to_string();
        let json = json!({
            "at": at,
            "plan": self.plan,
            "machine": self.machine,
            "persistence": self.kind.persistence,
            "disturbed": self.was_disturbed(),
            "sections": self.sections.iter().map(|(name, section)| ((*name).to_owned(), section.clone())).collect::<Map<_, _>>(),
            "goals": self.goals().map(Goal::json).collect::<Vec<_>>(),
        });
        let text = serde_json::to_string_pretty(&json)? + "\n";
        let path = dir.join(format!("{}{}.json", self.kind.json, at.replace(':', "-")));
        let write = || {
            fs::create_dir_all(dir)?;
            fs::write(&path, &text)?;
            fs::write(dir.join(format!("{}latest.json", self.kind.json)), &text)
        };
        write().with_context(|| format!("cannot write into {}", dir.display()))?;
        Ok(path)
    }

    /// Puts the text between the markers of performance.md and draws the plots beside it. Gives what was written.
    pub(crate) fn write_docs(&self, dir: &Path) -> Result<Vec<PathBuf>> {
        let path = dir.join("performance.md");
        let old = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let kind = self.kind.name;
        let (begin, end) = (format!("<!-- {kind}:begin -->"), format!("<!-- {kind}:end -->"));
        let (head, rest) = old.split_once(&begin).with_context(|| format!("{} has no {begin}", path.display()))?;
        let (_, tail) = rest.split_once(&end).with_context(|| format!("{} has no {end}", path.display()))?;
        let mut written = Vec::new();
        let mut pictures = String::new();
        let lines = |of: fn(&Part) -> Vec<Line>| self.parts.iter().flat_map(of).collect::<Vec<_>>();
        let throughput = lines(|part| part.throughput.clone());
        if !throughput.is_empty() {
            let (name, file) = ("Throughput by calls in flight", format!("{kind}-throughput.svg"));
            plots::throughput(&dir.join(&file), name, &throughput)?;
            pictures += &format!("\n![{name}]({file})\n");
            written.push(dir.join(file));
            let (name, file) = ("Latency by calls in flight", format!("{kind}-latency.svg"));
            let p50 = lines(|part| part.latency.iter().map(|(p50, _)| p50.clone()).collect());
            let p99 = lines(|part| part.latency.iter().map(|(_, p99)| p99.clone()).collect());
            plots::latency(&dir.join(&file), name, &p50, &p99)?;
            pictures += &format!("\n![{name}]({file})\n");
            written.push(dir.join(file));
        }
        let course: Vec<Course> = self.parts.iter().flat_map(|part| part.course.clone()).collect();
        if !course.is_empty() {
            let (name, file) =
                ("Latency while hosts are killed, and while they are replaced", format!("{kind}-fleet.svg"));
            plots::course(&dir.join(&file), "p99, ms", &course)?;
            pictures += &format!("\n![{name}]({file})\n");
            written.push(dir.join(&file));
        }
        let beside: Vec<Course> = self.parts.iter().flat_map(|part| part.beside.clone()).collect();
        if !beside.is_empty() {
            let (name, file) =
                ("Latency of one tenant before and while another has a backlog", format!("{kind}-fair.svg"));
            plots::course(&dir.join(&file), "each call, ms", &beside)?;
            pictures += &format!("\n![{name}]({file})\n");
            written.push(dir.join(file));
        }
        let unanswered = lines(|part| part.unanswered.clone());
        if !unanswered.is_empty() {
            let (name, file) = ("Calls without an answer after the kill of a worker", format!("{kind}-kill.svg"));
            plots::unanswered(&dir.join(&file), name, &unanswered)?;
            pictures += &format!("\n![{name}]({file})\n");
            written.push(dir.join(file));
        }
        fs::write(&path, format!("{head}{begin}\n{}{pictures}{end}{tail}", self.text()))?;
        written.insert(0, path);
        Ok(written)
    }
}
