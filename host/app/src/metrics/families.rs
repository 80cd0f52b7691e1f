//! Every metric by name. What stands here stands in docs/metrics.md, and the other way round; a test holds them together.
//!
//! Names follow OpenTelemetry's conventions for functions, messaging and HTTP, written as Prometheus writes them; what
//! has no conventional name starts with `baton_`.

use prometheus_client::metrics::MetricType::{self, Counter, Gauge, Histogram, Info};
use prometheus_client::registry::Unit::{self, Bytes, Seconds};

/// One metric, without its unit and the suffix of its type.
#[derive(Debug)]
pub(super) struct Family {
    pub(super) name: &'static str,
    pub(super) unit: Option<Unit>,
    pub(super) kind: MetricType,
    pub(super) help: &'static str,
}

const fn plain(kind: MetricType, name: &'static str, help: &'static str) -> Family {
    Family { name, unit: None, kind, help }
}

const fn seconds(kind: MetricType, name: &'static str, help: &'static str) -> Family {
    Family { name, unit: Some(Seconds), kind, help }
}

pub(super) static INVOCATIONS: Family = plain(Counter, "faas_invocations", "Calls whose end Redis took, by outcome");
pub(super) static ERRORS: Family = plain(Counter, "faas_errors", "Calls in which the function or the host failed");
pub(super) static TIMEOUTS: Family = plain(Counter, "faas_timeouts", "Calls that took longer than their limit");
pub(super) static INIT: Family = seconds(Histogram, "faas_init_duration", "Making an instance");
pub(super) static INVOKE: Family = seconds(Histogram, "faas_invoke_duration", "Running a call in its instance");
pub(super) static QUEUE: Family =
    seconds(Histogram, "baton_queue_duration", "From a call's acceptance at Redis to its first read");
pub(super) static OPERATION: Family = seconds(
    Histogram,
    "messaging_client_operation_duration",
    "From handing a settlement to the settler to the answer of Redis",
);
pub(super) static RETRIES: Family = plain(Counter, "baton_retries", "Calls that were given another attempt");
pub(super) static DEAD_LETTERS: Family = plain(Counter, "baton_dead_letters", "Calls that were given up, by reason");
pub(super) static FENCED: Family =
    plain(Counter, "baton_results_fenced", "Late results that were refused because the call was not this host's");
pub(super) static REFUSED: Family = plain(Counter, "baton_results_refused", "Results that Redis refused for good");
pub(super) static RECLAIMED: Family = plain(Counter, "baton_calls_reclaimed", "Calls that were taken over from others");
pub(super) static LEASES_LOST: Family =
    plain(Counter, "baton_leases_lost", "Attempts that were stopped because their lease was lost, by reason");
pub(super) static IN_FLIGHT: Family = plain(Gauge, "baton_calls_in_flight", "Calls that this host holds");
pub(super) static SEATS: Family = plain(Gauge, "baton_seats", "How many attempts may run here at once");
pub(super) static SEATS_FREE: Family = plain(Gauge, "baton_seats_free", "Seats that no call has");
pub(super) static TENANT_SEATS: Family =
    plain(Gauge, "baton_tenant_seats_in_use", "Seats that the attempts of a tenant have, where seats are shared");
pub(super) static HELD: Family =
    seconds(Counter, "baton_calls_held", "For how long calls were held back by a quota or a share, by which");
pub(super) static LOADED: Family = plain(Gauge, "baton_functions_loaded", "Functions that this host has loaded");
pub(super) static DEPTH: Family = plain(Gauge, "baton_queue_depth", "Calls that no host has taken yet");
pub(super) static OLDEST: Family =
    seconds(Gauge, "baton_queue_oldest_waiting", "Age of the oldest call that no host has taken yet");
pub(super) static PENDING: Family = plain(Gauge, "baton_queue_pending", "Calls that a host holds");
pub(super) static DELAYED: Family = plain(Gauge, "baton_queue_delayed", "Calls that wait for their time");
pub(super) static DEAD: Family = plain(Gauge, "baton_queue_dead_letters", "Dead letters that are kept");
pub(super) static REDIS_UP: Family = plain(Gauge, "baton_redis_up", "1 if Redis answered this scrape, 0 if not");
pub(super) static HOSTS: Family = plain(Gauge, "baton_hosts", "Hosts that have a record, by state");
pub(super) static OFFLINE: Family =
    plain(Counter, "baton_hosts_offline", "Hosts that this one found to be gone, by reason");
pub(super) static RELOADS: Family = plain(Counter, "baton_reloads", "Files of functions that were dealt with");
pub(super) static RELOAD: Family = seconds(Histogram, "baton_reload_duration", "From a stable file to its end");
pub(super) static DRAINS: Family = plain(Counter, "baton_drains", "Drains that were begun");
pub(super) static COMMANDS: Family = plain(Counter, "baton_redis_commands", "Commands sent to Redis, by role");
pub(super) static REDIS_ERRORS: Family =
    plain(Counter, "baton_redis_errors", "Round trips to Redis and connection attempts that failed, by role");
pub(super) static RECONNECTS: Family =
    plain(Counter, "baton_redis_reconnects", "Connections to Redis that took the place of another, by role");
pub(super) static HTTP: Family =
    seconds(Histogram, "http_server_request_duration", "Requests to the gateway, by route and status");
pub(super) static STARTED: Family = seconds(Gauge, "process_start_time", "When the host started, in Unix seconds");
pub(super) static CPU: Family = seconds(Counter, "process_cpu", "CPU time of the process, user and system");
pub(super) static RESIDENT: Family = Family {
    name: "process_resident_memory",
    unit: Some(Bytes),
    kind: Gauge,
    help: "Memory of the process that is in RAM",
};
pub(super) static OPEN_FDS: Family = plain(Gauge, "process_open_fds", "Open file descriptors of the process");
pub(super) static BUILD: Family = plain(Info, "baton_build", "What this host was built from");
