//! What was counted and asked becomes OpenMetrics text. Nothing is counted here.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use baton_broker::Role;
use baton_model::FunctionId;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{
    DescriptorEncoder, EncodeCounterValue, EncodeGaugeValue, EncodeLabelSet, EncodeMetric as _, MetricEncoder,
    NoLabelSet, text,
};
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use super::families::{self as of, Family};
use super::function::{Durations, Ended, FunctionMetrics};
use super::scrape::{Answers, Process, STATES};
use super::{Metrics, Reload};
use crate::ledger::Held;

/// What one scrape shows.
pub(super) struct Exposition {
    pub(super) metrics: Arc<Metrics>,
    /// What this host has loaded, sorted.
    pub(super) loaded: Vec<FunctionId>,
    pub(super) in_flight: usize,
    /// What Redis said; none if it did not answer.
    pub(super) answers: Option<Arc<Answers>>,
    pub(super) process: Process,
}

impl fmt::Debug for Exposition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Exposition").finish_non_exhaustive()
    }
}

/// The labels of a function's series.
type OfFunction<'a> = [(&'static str, &'a str); 1];

fn name(function: &str) -> OfFunction<'_> {
    [("faas_name", function)]
}

impl Exposition {
    /// The text, to its `# EOF`.
    pub(super) fn text(self) -> String {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(self));
        let mut text = String::new();
        // Writing into a string does not fail. If it did, the end that is missing would tell the reader.
        _ = text::encode(&mut text, &registry);
        text
    }

    fn functions(&self, out: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let functions = self.metrics.functions.read().unwrap_or_else(std::sync::PoisonError::into_inner).clone();
        let functions: Vec<(String, Arc<FunctionMetrics>)> =
            functions.into_iter().map(|(function, metrics)| (function.to_string(), metrics)).collect();

        let mut family = begin(out, &of::INVOCATIONS)?;
        for (function, metrics) in &functions {
            for ended in Ended::ALL {
                let count = metrics.ended(ended);
                // Of a thousand functions few end in fifteen ways.
                if count > 0 || ended == Ended::Ok {
                    let labels = [("faas_name", function.as_str()), ("outcome", ended.label())];
                    family.encode_family(&labels)?.encode_counter::<NoLabelSet, _, u64>(&count, None)?;
                }
            }
        }
        let sum = |metrics: &FunctionMetrics, is_in: fn(Ended) -> bool| -> u64 {
            Ended::ALL.into_iter().filter(|ended| is_in(*ended)).map(|ended| metrics.ended(ended)).sum()
        };
        let each = || functions.iter().map(|(function, metrics)| (name(function), metrics));
        counters(out, &of::ERRORS, each().map(|(labels, f)| (labels, sum(f, Ended::is_error))))?;
        counters(out, &of::TIMEOUTS, each().map(|(labels, f)| (labels, f.ended(Ended::Timeout))))?;
        counters(out, &of::RETRIES, each().map(|(labels, f)| (labels, f.retries.load(Relaxed))))?;
        counters(out, &of::FENCED, each().map(|(labels, f)| (labels, f.fenced.load(Relaxed))))?;
        counters(out, &of::REFUSED, each().map(|(labels, f)| (labels, f.refused.load(Relaxed))))?;
        counters(out, &of::RECLAIMED, each().map(|(labels, f)| (labels, f.reclaimed.load(Relaxed))))?;
        let dead: Vec<_> = functions.iter().map(|(function, f)| (function, f.dead.all())).collect();
        let dead = dead.iter().flat_map(|(function, reasons)| {
            reasons.iter().map(move |(reason, n)| ([("faas_name", function.as_str()), ("reason", reason)], *n))
        });
        counters(out, &of::DEAD_LETTERS, dead)?;
        let lost = functions.iter().flat_map(|(function, f)| {
            [("taken", &f.leases_taken), ("lapsed", &f.leases_lapsed)]
                .map(|(reason, n)| ([("faas_name", function.as_str()), ("reason", reason)], n.load(Relaxed)))
        });
        counters(out, &of::LEASES_LOST, lost)?;

        let timed: Vec<(&str, &Durations)> =
            functions.iter().filter_map(|(function, f)| Some((function.as_str(), f.durations()?))).collect();
        let each = || timed.iter().map(|(function, durations)| (name(function), *durations));
        histograms(out, &of::INIT, each().map(|(labels, d)| (labels, &d.init)))?;
        histograms(out, &of::INVOKE, each().map(|(labels, d)| (labels, &d.invoke)))?;
        histograms(out, &of::QUEUE, each().map(|(labels, d)| (labels, &d.queue)))?;
        let settle = timed.iter().map(|(function, d)| {
            let system =
                [("messaging_system", "redis"), ("messaging_operation_name", "settle"), ("faas_name", function)];
            (system, &d.settle)
        });
        histograms(out, &of::OPERATION, settle)
    }

    /// What this host holds, and what waits for it.
    fn load(&self, out: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let seats = self.metrics.ledger.seats() as usize;
        gauge(out, &of::IN_FLIGHT, self.in_flight)?;
        gauge(out, &of::SEATS, seats)?;
        // The reader has seats in its hand while it waits; those are free all the same. Each call in flight has one,
        // but for those that a read brought beyond the seats.
        gauge(out, &of::SEATS_FREE, seats.saturating_sub(self.in_flight))?;
        let used = self.metrics.ledger.in_use();
        gauges(out, &of::TENANT_SEATS, used.iter().map(|(tenant, seats)| ([("tenant", tenant.as_str())], *seats)))?;
        let held: Vec<_> = self.metrics.ledger.held_for(std::time::Instant::now());
        let held: Vec<_> = held.into_iter().map(|(function, times)| (function.to_string(), times)).collect();
        let mut family = begin(out, &of::HELD)?;
        for (function, times) in &held {
            for held in Held::ALL {
                let time = times[held as usize].as_secs_f64();
                // Few functions are ever held back, and by few things.
                if time > 0.0 {
                    let labels = [("faas_name", function.as_str()), ("by", held.as_str())];
                    family.encode_family(&labels)?.encode_counter::<NoLabelSet, _, u64>(&time, None)?;
                }
            }
        }
        gauge(out, &of::LOADED, self.loaded.len())?;

        let queues = self.answers.iter().flat_map(|answers| &answers.queues);
        // The answers may be a second old: what was taken out since has no gauges any more.
        let queues: Vec<_> = queues
            .filter(|(function, _)| self.loaded.binary_search(function).is_ok())
            .map(|(function, look)| (function.to_string(), *look))
            .collect();
        let each = || queues.iter().map(|(function, look)| (name(function), look));
        gauges(out, &of::DEPTH, each().map(|(labels, look)| (labels, look.depth.queued)))?;
        let age = |time: Option<std::time::Duration>| time.unwrap_or_default().as_secs_f64();
        gauges(out, &of::OLDEST, each().map(|(labels, look)| (labels, age(look.oldest_waiting))))?;
        gauges(out, &of::PENDING, each().map(|(labels, look)| (labels, look.depth.pending)))?;
        gauges(out, &of::DELAYED, each().map(|(labels, look)| (labels, look.depth.delayed)))?;
        gauges(out, &of::DEAD, each().map(|(labels, look)| (labels, look.depth.dead)))?;
        gauge(out, &of::REDIS_UP, usize::from(self.answers.is_some()))?;
        let hosts = self.answers.as_ref().and_then(|answers| answers.hosts);
        let words = STATES.map(|state| state.to_string());
        let hosts = hosts.iter().flat_map(|counts| words.iter().zip(counts));
        gauges(out, &of::HOSTS, hosts.map(|(state, count)| ([("state", state.as_str())], *count)))
    }

    /// What happened to this host as a whole.
    fn host(&self, out: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let metrics = &self.metrics;
        counters(out, &of::OFFLINE, metrics.offline.all().into_iter().map(|(reason, n)| ([("reason", reason)], n)))?;
        let reloads =
            Reload::ALL.map(|reload| ([("outcome", reload.as_str())], metrics.reloads[reload as usize].load(Relaxed)));
        counters(out, &of::RELOADS, reloads.into_iter())?;
        let reload = [(Reload::Loaded, &metrics.loading), (Reload::Refused, &metrics.refusing)];
        histograms(out, &of::RELOAD, reload.into_iter().map(|(reload, h)| ([("outcome", reload.as_str())], h)))?;
        let drains = metrics.drains.load(Relaxed);
        begin(out, &of::DRAINS)?.encode_counter::<NoLabelSet, _, u64>(&drains, None)?;

        let roles = || Role::ALL.into_iter().map(|role| ([("role", role.as_str())], metrics.meter.counts(role)));
        counters(out, &of::COMMANDS, roles().map(|(labels, counts)| (labels, counts.commands)))?;
        counters(out, &of::REDIS_ERRORS, roles().map(|(labels, counts)| (labels, counts.errors)))?;
        counters(out, &of::RECONNECTS, roles().map(|(labels, counts)| (labels, counts.reconnects)))?;

        let requests: BTreeMap<_, _> = metrics.http.all();
        let mut family = begin(out, &of::HTTP)?;
        for ((route, method, status), histogram) in &requests {
            let status = status.to_string();
            let labels = [
                ("http_route", route.as_str()),
                ("http_request_method", method),
                ("http_response_status_code", status.as_str()),
            ];
            histogram.encode(family.encode_family(&labels)?)?;
        }
        Ok(())
    }

    fn process(&self, out: &mut DescriptorEncoder<'_>) -> fmt::Result {
        begin(out, &of::STARTED)?.encode_gauge(&self.metrics.started_s)?;
        let cpu = self.process.cpu_seconds;
        begin(out, &of::CPU)?.encode_counter::<NoLabelSet, _, u64>(&cpu, None)?;
        let mut family = begin(out, &of::RESIDENT)?;
        self.process.resident_bytes.iter().try_for_each(|bytes| family.encode_gauge(bytes))?;
        let mut family = begin(out, &of::OPEN_FDS)?;
        self.process.open_fds.iter().try_for_each(|count| family.encode_gauge(count))?;
        let build = [("version", env!("CARGO_PKG_VERSION")), ("wasmtime", baton_engine::WASMTIME_VERSION)];
        begin(out, &of::BUILD)?.encode_info(&build)
    }
}

impl Collector for Exposition {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        self.functions(&mut encoder)?;
        self.load(&mut encoder)?;
        self.host(&mut encoder)?;
        self.process(&mut encoder)
    }
}

fn begin<'s>(out: &'s mut DescriptorEncoder<'_>, family: &'s Family) -> Result<MetricEncoder<'s>, fmt::Error> {
    out.encode_descriptor(family.name, family.help, family.unit.as_ref(), family.kind)
}

fn gauge(out: &mut DescriptorEncoder<'_>, family: &Family, value: usize) -> fmt::Result {
    begin(out, family)?.encode_gauge(&value)
}

fn gauges<L: EncodeLabelSet, V: EncodeGaugeValue>(
    out: &mut DescriptorEncoder<'_>,
    family: &Family,
    mut series: impl Iterator<Item = (L, V)>,
) -> fmt::Result {
    let mut family = begin(out, family)?;
    series.try_for_each(|(labels, value)| family.encode_family(&labels)?.encode_gauge(&value))
}

fn counters<L: EncodeLabelSet, V: EncodeCounterValue>(
    out: &mut DescriptorEncoder<'_>,
    family: &Family,
    mut series: impl Iterator<Item = (L, V)>,
) -> fmt::Result {
    let mut family = begin(out, family)?;
    series.try_for_each(|(labels, value)| {
        family.encode_family(&labels)?.encode_counter::<NoLabelSet, _, u64>(&value, None)
    })
}

fn histograms<'h, L: EncodeLabelSet>(
    out: &mut DescriptorEncoder<'_>,
    family: &Family,
    mut series: impl Iterator<Item = (L, &'h Histogram)>,
) -> fmt::Result {
    let mut family = begin(out, family)?;
    series.try_for_each(|(labels, histogram)| histogram.encode(family.encode_family(&labels)?))
}
