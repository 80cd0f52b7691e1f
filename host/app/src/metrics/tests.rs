//! The text is what OpenMetrics asks for, its labels are bounded, and docs/metrics.md says the same as the code.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use baton_broker::{BrokerConfig, QueueDepth, QueueLook, Verdict};
use baton_engine::Timings;
use baton_model::{FunctionId, Quotas, Tenants};

use super::exposition::Exposition;
use super::function::{Ended, Fate, LeaseLoss};
use super::scrape::{Answers, Process};
use super::{Metrics, Reload};
use crate::ledger::Held;

const MS: Duration = Duration::from_millis(1);

/// Metrics that ask nobody: nothing listens on the discard port.
fn metrics() -> Arc<Metrics> {
    Metrics::alone(&BrokerConfig::new("redis://127.0.0.1:9")).unwrap()
}

fn id(name: &str) -> FunctionId {
    name.parse().unwrap()
}

fn text(metrics: &Arc<Metrics>, loaded: &[&str], asked: &[&str]) -> String {
    let look = QueueLook {
        depth: QueueDepth { queued: 1, pending: 2, delayed: 3, dead: 4 },
        oldest_waiting: Some(Duration::from_millis(1_500)),
    };
    let queues = asked.iter().map(|name| (id(name), look)).collect();
    let process = Process { cpu_seconds: 0.5, resident_bytes: Some(4096), open_fds: Some(9) };
    let answers = Some(Arc::new(Answers { queues, hosts: Some([0, 2, 1, 0]) }));
    let loaded = loaded.iter().map(|name| id(name)).collect();
    Exposition { metrics: metrics.clone(), loaded, in_flight: 3, answers, process }.text()
}

/// Metrics in which everything has happened, and their text.
fn full() -> String {
    let metrics = metrics();
    for name in ["acme/resize", "hello"] {
        let function = metrics.function(&id(name));
        function.waited(3 * MS);
        function.ran(Timings { instantiate: Some(Duration::from_micros(6)), run: Some(2 * MS), ..Timings::default() });
        for ended in Ended::ALL {
            function.settled(ended, Fate::Plain, Verdict::Done, MS);
        }
        function.settled(Ended::Retry, Fate::Retry, Verdict::Done, MS);
        function.settled(Ended::Trap, Fate::Dead("trap"), Verdict::Done, MS);
        function.settled(Ended::Ok, Fate::Plain, Verdict::Fenced, MS);
        function.settled(Ended::Ok, Fate::Plain, Verdict::Refused, MS);
        function.reclaimed(2);
        function.lost_lease(LeaseLoss::Taken);
    }
    Reload::ALL.into_iter().for_each(|reload| metrics.reloaded(reload, Some(90 * MS)));
    metrics.drain_began();
    metrics.host_offline("crashed");
    metrics.http_meter()("/v1/call/{function}", "POST", 200, 4 * MS);
    let now = Instant::now();
    let functions = ["acme/resize", "hello"].map(|name| (id(name), Quotas::default()));
    let places = metrics.ledger.open(&functions, &Tenants::default(), now);
    for held in Held::ALL {
        metrics.ledger.note_held([(places[0], Some(held))].into_iter(), now);
        metrics.ledger.note_held([(places[0], None)].into_iter(), now + MS);
    }
    text(&metrics, &["acme/resize", "hello"], &["acme/resize", "hello"])
}

/// One metric as it was told.
#[derive(Debug, Default, PartialEq, Eq)]
struct Told {
    kind: String,
    unit: String,
    labels: BTreeSet<String>,
}

type Labels = BTreeMap<String, String>;

/// Name, labels and value of each sample.
type Samples = Vec<(String, Labels, f64)>;

fn parse_labels(text: &str) -> Labels {
    let pairs = text.strip_suffix('"').unwrap_or_else(|| panic!("{text}")).split("\",");
    let pairs: Vec<(String, String)> = pairs
        .map(|pair| pair.split_once("=\"").unwrap_or_else(|| panic!("{text}")))
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect();
    let count = pairs.len();
    let labels: BTreeMap<_, _> = pairs.into_iter().collect();
    assert_eq!(labels.len(), count, "a label stands twice: {text}");
    for (key, value) in &labels {
        assert!(key.chars().all(|c| c.is_ascii_lowercase() || c == '_'), "{key}");
        assert!(!value.contains(['"', '\\', '\n']), "{value}");
    }
    labels
}

/// Reads the text back, and panics where OpenMetrics 1.0 has a rule that it breaks.
fn parse(text: &str) -> (BTreeMap<String, Told>, Samples) {
    let body = text.strip_suffix("# EOF\n").expect("the text ends with its end");
    assert!(!body.contains("# EOF"));
    let mut families: BTreeMap<String, Told> = BTreeMap::new();
    let mut samples = Samples::new();
    let mut seen = BTreeSet::new();
    let mut current = String::new();
    for line in body.lines() {
        if let Some(meta) = line.strip_prefix("# ") {
            let mut words = meta.splitn(3, ' ');
            let (what, name, rest) = (words.next().unwrap(), words.next().unwrap(), words.next().unwrap());
            if what == "HELP" {
                assert!(families.insert(name.to_owned(), Told::default()).is_none(), "{name} is told twice");
                name.clone_into(&mut current);
            }
            assert_eq!(name, current, "what is said of a metric stands together");
            let told = families.get_mut(name).unwrap();
            match what {
                "HELP" => assert!(!rest.is_empty()),
                "TYPE" => rest.clone_into(&mut told.kind),
                "UNIT" => {
                    assert!(name.ends_with(&format!("_{rest}")), "{name} does not end with its unit");
                    rest.clone_into(&mut told.unit);
                }
                other => panic!("{other} is no keyword of OpenMetrics"),
            }
            continue;
        }
        assert!(seen.insert(line.rsplit_once(' ').unwrap().0.to_owned()), "a series stands twice: {line}");
        let (series, value) = line.rsplit_once(' ').unwrap();
        let (name, labels) = match series.split_once('{') {
            Some((name, labels)) => (name, parse_labels(labels.strip_suffix('}').unwrap())),
            None => (series, BTreeMap::new()),
        };
        let told = families.get_mut(&current).unwrap();
        let suffix = name.strip_prefix(current.as_str()).unwrap_or_else(|| panic!("{name} stands under {current}"));
        let is_allowed = match told.kind.as_str() {
            "counter" => suffix == "_total",
            "gauge" => suffix.is_empty(),
            "info" => suffix == "_info",
            "histogram" => ["_sum", "_count", "_bucket"].contains(&suffix),
            other => panic!("{current} has the type {other:?}"),
        };
        assert!(is_allowed, "{name} is no sample of a {}", told.kind);
        told.labels.extend(labels.keys().filter(|key| *key != "le").cloned());
        let value: f64 = value.parse().unwrap_or_else(|_| panic!("{line}"));
        assert!(value >= 0.0, "{line}");
        samples.push((name.to_owned(), labels, value));
    }
    check_buckets(&samples);
    (families, samples)
}

/// Buckets grow, and the last is the count.
fn check_buckets(samples: &Samples) {
    let mut buckets: BTreeMap<(String, Labels), Vec<(f64, f64)>> = BTreeMap::new();
    for (name, labels, value) in samples {
        let Some(family) = name.strip_suffix("_bucket") else { continue };
        let mut labels = labels.clone();
        let bound = labels.remove("le").expect("a bucket has a bound");
        let bound = if bound == "+Inf" { f64::INFINITY } else { bound.parse().unwrap() };
        buckets.entry((family.to_owned(), labels)).or_default().push((bound, *value));
    }
    assert!(!buckets.is_empty());
    for ((family, labels), buckets) in buckets {
        assert!(buckets.is_sorted_by(|a, b| a.0 < b.0 && a.1 <= b.1), "{family}: {buckets:?}");
        let last = buckets.last().unwrap();
        assert!(last.0.is_infinite());
        assert_eq!(value(samples, &format!("{family}_count"), &labels), Some(last.1), "{family}");
    }
}

fn value(samples: &Samples, name: &str, labels: &Labels) -> Option<f64> {
    samples.iter().find(|(other, of, _)| other == name && of == labels).map(|(.., value)| *value)
}

fn of(samples: &Samples, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
    value(samples, name, &labels.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect())
}

#[test]
fn the_text_is_openmetrics() {
    let (families, samples) = parse(&full());
    assert_eq!(families["faas_invocations"].kind, "counter");
    assert_eq!(of(&samples, "faas_init_duration_seconds_count", &[("faas_name", "default/hello")]), Some(1.0));
    assert_eq!(of(&samples, "baton_hosts", &[("state", "online")]), Some(2.0));
    assert_eq!(of(&samples, "baton_queue_oldest_waiting_seconds", &[("faas_name", "acme/resize")]), Some(1.5));
}

#[test]
fn every_metric_stands_in_the_page_and_every_one_of_the_page_in_the_code() {
    let (families, _) = parse(&full());
    let told: BTreeMap<String, Told> = families
        .into_iter()
        .map(|(name, told)| {
            let suffix = match told.kind.as_str() {
                "counter" => "_total",
                "info" => "_info",
                _ => "",
            };
            (name + suffix, told)
        })
        .collect();
    let page = include_str!("../../../../docs/metrics.md");
    let rows = page.lines().filter(|line| line.starts_with("| `")).map(|line| {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let unquoted = |text: &str| text.trim_matches('`').to_owned();
        let labels = cells[3].split(", ").map(unquoted).filter(|label| !label.is_empty()).collect();
        let unit = if ["seconds", "bytes"].contains(&cells[4]) { cells[4].to_owned() } else { String::new() };
        (unquoted(cells[1]), Told { kind: cells[2].to_owned(), unit, labels })
    });
    assert_eq!(told, rows.collect());
}

#[test]
fn labels_come_from_closed_sets_and_the_names_of_functions() {
    let (_, samples) = parse(&full());
    let mut values: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for (key, value) in samples.iter().flat_map(|(_, labels, _)| labels) {
        values.entry(key).or_default().insert(value);
    }
    values.remove("le");
    assert_eq!(values.remove("faas_name"), Some(["acme/resize", "default/hello"].into()));
    let outcomes: BTreeSet<&str> = Ended::ALL.iter().map(|ended| ended.label()).collect();
    assert_eq!(outcomes.len(), Ended::ALL.len());
    let known = outcomes.iter().copied().chain(["loaded", "refused", "removed"]).collect();
    assert_eq!(values.remove("outcome"), Some(known));
    assert_eq!(values.remove("reason"), Some(["crashed", "lapsed", "shutdown", "silent", "taken", "trap"].into()));
    assert_eq!(values.remove("by"), Some(Held::ALL.map(Held::as_str).into()));
    assert_eq!(values.remove("tenant"), Some(["acme", "default"].into()));
    let rest: Vec<&str> = values.into_keys().collect();
    let expected = [
        "http_request_method",
        "http_response_status_code",
        "http_route",
        "messaging_operation_name",
        "messaging_system",
        "role",
        "state",
        "version",
        "wasmtime",
    ];
    assert_eq!(rest, expected);
}

#[test]
fn a_settlement_is_counted_in_one_place() {
    let metrics = metrics();
    let function = metrics.function(&id("hello"));
    function.settled(Ended::Ok, Fate::Plain, Verdict::Done, MS);
    function.settled(Ended::Ok, Fate::Plain, Verdict::Duplicate, MS);
    function.settled(Ended::Ok, Fate::Plain, Verdict::Fenced, MS);
    function.settled(Ended::Timeout, Fate::Dead("timeout"), Verdict::Done, MS);
    function.settled(Ended::Timeout, Fate::Dead("timeout"), Verdict::Fenced, MS);
    function.settled(Ended::Timeout, Fate::Dead("timeout"), Verdict::Refused, MS);
    function.settled(Ended::HandedBack, Fate::Plain, Verdict::Done, MS);
    function.settled(Ended::Retry, Fate::Retry, Verdict::Done, MS);
    metrics.function(&id("other")).settled(Ended::SentTwice, Fate::Plain, Verdict::Done, MS);
    assert_eq!(metrics.summary(), "ok 2, fenced 2, handed back 1, refused 1, retry 1, sent twice 1, timeout 1");

    let (_, samples) = parse(&text(&metrics, &["hello"], &[]));
    let hello = ("faas_name", "default/hello");
    let count = |name, more: &[(&str, &str)]| of(&samples, name, &[&[hello], more].concat());
    assert_eq!(count("faas_invocations_total", &[("outcome", "ok")]), Some(2.0));
    assert_eq!(count("faas_invocations_total", &[("outcome", "trap")]), None);
    assert_eq!(count("baton_results_fenced_total", &[]), Some(2.0));
    assert_eq!(count("baton_results_refused_total", &[]), Some(1.0));
    assert_eq!(count("baton_dead_letters_total", &[("reason", "timeout")]), Some(1.0));
    assert_eq!(count("faas_timeouts_total", &[]), Some(1.0));
    assert_eq!(count("faas_errors_total", &[]), Some(1.0), "the retry");
    assert_eq!(count("baton_retries_total", &[]), Some(1.0));
}

#[test]
fn a_function_that_was_taken_out_keeps_its_counters_and_loses_its_gauges() {
    let metrics = metrics();
    for name in ["gone", "hello"] {
        metrics.function(&id(name)).settled(Ended::Ok, Fate::Plain, Verdict::Done, MS);
    }
    // The answer is from a second ago.
    let (_, samples) = parse(&text(&metrics, &["hello"], &["gone", "hello"]));
    let gone = ("faas_name", "default/gone");
    assert_eq!(of(&samples, "faas_invocations_total", &[gone, ("outcome", "ok")]), Some(1.0));
    assert_eq!(of(&samples, "baton_queue_depth", &[gone]), None);
    assert_eq!(of(&samples, "baton_queue_depth", &[("faas_name", "default/hello")]), Some(1.0));
}

#[tokio::test]
async fn without_redis_the_text_is_whole_and_says_so() {
    let metrics = metrics();
    metrics.function(&id("hello")).settled(Ended::Ok, Fate::Plain, Verdict::Done, MS);
    let began = std::time::Instant::now();
    let (_, samples) = parse(&metrics.render().await);
    assert!(began.elapsed() < Duration::from_secs(3));
    assert_eq!(of(&samples, "baton_redis_up", &[]), Some(0.0));
    assert_eq!(of(&samples, "faas_invocations_total", &[("faas_name", "default/hello"), ("outcome", "ok")]), Some(1.0));
    assert!(of(&samples, "baton_redis_errors_total", &[("role", "admin")]).unwrap() > 0.0);
}
