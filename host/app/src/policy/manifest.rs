//! The manifest beside a component.

use std::sync::Arc;
use std::time::Duration;

use baton_model::{ATTEMPTS_MAX, Failure, Grants, Limits, Quotas, RetryPolicy, Schedule};
use schemars::JsonSchema;
use serde::Deserialize;

use super::caps::Caps;
use super::grants::GrantsTable;
use super::limits::LimitsTable;
use super::quotas::QuotasTable;
use super::schedules::{ScheduleTable, schedules};
use super::secrets::Secrets;
use super::text::{self, Wrong};

/// The most lost hosts that a manifest may ask for.
const HOSTS_LOST_MAX: u32 = 100;

/// What stands beside a component about it. What it leaves out is the host's default.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(title = "A function's manifest")]
pub(crate) struct Manifest {
    limits: LimitsTable,
    retry: RetryTable,
    quotas: QuotasTable,
    grants: GrantsTable,
    executions: ExecutionsTable,
    /// When it is called by itself.
    #[schemars(length(max = 32))]
    schedule: Vec<ScheduleTable>,
}

/// When and how often a failed call is tried again. What is left out is as the host's settings say.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
struct RetryTable {
    /// The most attempts that a call gets, the first included.
    #[schemars(range(min = 1, max = ATTEMPTS_MAX))]
    attempts_max: Option<u32>,
    /// The longest wait before the second attempt, in milliseconds; it doubles with each further one.
    backoff_base_ms: Option<u64>,
    /// The longest wait before any attempt, in milliseconds.
    backoff_max_ms: Option<u64>,
    /// How many hosts a call may lose, one after the other, before it is given up.
    #[schemars(range(max = HOSTS_LOST_MAX))]
    hosts_lost_max: Option<u32>,
    /// After which failures a call is tried again; none of them is an empty list.
    on: Option<Vec<FailureWord>>,
}

/// What becomes of executions of a durable function.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
struct ExecutionsTable {
    /// What those do that began on another build.
    on_new_build: OnNewBuild,
}

/// What an execution does when the function has another build than the one that it began on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
enum OnNewBuild {
    /// It stays on its build until it has ended, or `baton exec move` moves it.
    #[default]
    Stay,
    /// It goes on with the new one when it runs next, if that asks for the same steps as its log has; else it stays.
    Move,
}

/// How an attempt can fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
enum FailureWord {
    /// The function asks for another attempt.
    Retry,
    /// The host cannot run the call, through no fault of the function.
    HostFault,
    /// The function traps, or panics.
    Trap,
    /// The function ends itself with an exit code.
    Exit,
    /// The attempt takes longer than its time limit.
    Timeout,
    /// The function needs more memory than its limit.
    Memory,
    /// The answer is larger than its limit.
    ResultTooLarge,
}

impl FailureWord {
    fn failure(self) -> Failure {
        match self {
            Self::Retry => Failure::Retry,
            Self::HostFault => Failure::HostFault,
            Self::Trap => Failure::Trap,
            Self::Exit => Failure::Exit,
            Self::Timeout => Failure::Timeout,
            Self::Memory => Failure::Memory,
            Self::ResultTooLarge => Failure::ResultTooLarge,
        }
    }
}

/// On which terms a function runs: what its manifest asks for, where the operator allows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Terms {
    /// What its attempts may use.
    pub limits: Limits,
    /// When its failed calls are tried again.
    pub retry: RetryPolicy,
    /// What it may reach.
    pub grants: Arc<Grants>,
    /// How much of a host it may take; its tenant's quotas bind as well.
    pub quotas: Quotas,
    /// Whether executions that began on another build go on with this one, where their logs allow it.
    pub executions_move: bool,
    /// When it is called by itself.
    pub schedules: Arc<[Schedule]>,
}

impl Manifest {
    /// Reads a manifest's text.
    ///
    /// # Errors
    /// [`Wrong`] names the key.
    pub(crate) fn parse(text: &str) -> Result<Self, Wrong> {
        text::read(text)
    }

    /// What it asks for, if `caps` allow it.
    ///
    /// # Errors
    /// [`Wrong`] names the first key that asks for too much or cannot be had.
    pub(crate) fn terms(&self, caps: &Caps, retry: &RetryPolicy, secrets: &Secrets) -> Result<Terms, Wrong> {
        let limits = caps.limits.grant(&self.limits)?;
        Ok(Terms {
            limits,
            retry: self.retry.policy(retry)?,
            grants: Arc::new(self.grants.grant(&caps.grants, caps.stored_bytes_max, secrets)?),
            quotas: self.quotas.quotas(),
            executions_move: self.executions.on_new_build == OnNewBuild::Move,
            schedules: schedules(&self.schedule, limits.payload_bytes_max)?,
        })
    }
}

impl RetryTable {
    fn policy(&self, host: &RetryPolicy) -> Result<RetryPolicy, Wrong> {
        let within = |key, asked: Option<u32>, least: u32, most: u32| match asked {
            Some(asked) if asked < least || asked > most => {
                Err(Wrong::new(&["retry", key], format!("is {asked}; it takes {least} to {most}")))
            }
            Some(_) | None => Ok(asked),
        };
        let attempts_max = within("attempts_max", self.attempts_max, 1, ATTEMPTS_MAX)?;
        let hosts_lost_max = within("hosts_lost_max", self.hosts_lost_max, 0, HOSTS_LOST_MAX)?;
        Ok(RetryPolicy {
            attempts_max: attempts_max.unwrap_or(host.attempts_max),
            backoff_base: self.backoff_base_ms.map_or(host.backoff_base, Duration::from_millis),
            backoff_max: self.backoff_max_ms.map_or(host.backoff_max, Duration::from_millis),
            hosts_lost_max: hosts_lost_max.unwrap_or(host.hosts_lost_max),
            on: self.on.as_ref().map_or(host.on, |words| words.iter().map(|word| word.failure()).collect()),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use baton_model::{BucketScope, CallsGrant, Missed, Name, Setting};

    use super::*;
    use crate::policy::{CapsTable, Rules, SecurityTable, TenantFile};

    /// The terms of a manifest under `[tenants]` and a `tenant.toml`, or the sentence of its refusal.
    fn terms(manifest: &str, tenants: &str, tenant: &str) -> Result<Terms, String> {
        let tenants: CapsTable = toml::from_str(tenants).unwrap();
        let rules = Rules::new(&Limits::default(), &tenants, &SecurityTable::default()).unwrap();
        let caps = rules.caps(Some(&TenantFile::parse(tenant).unwrap())).unwrap();
        let secrets = Secrets { variable: |name| (name == "TOKEN").then(|| "s3cret".to_owned()) };
        let manifest = Manifest::parse(manifest).map_err(|wrong| wrong.to_string())?;
        manifest.terms(&caps, &RetryPolicy::default(), &secrets).map_err(|wrong| wrong.to_string())
    }

    fn refused(manifest: &str, tenants: &str, tenant: &str) -> String {
        terms(manifest, tenants, tenant).unwrap_err()
    }

    #[test]
    fn what_a_manifest_leaves_out_is_the_hosts() {
        let terms = terms("[limits]\ntime_ms = 500\n", "", "").unwrap();
        assert_eq!(terms.limits, Limits { time_max: Duration::from_millis(500), ..Limits::default() });
        assert_eq!((terms.retry, terms.quotas), (RetryPolicy::default(), Quotas::default()));
        assert_eq!(*terms.grants, Grants::default());
    }

    #[test]
    fn a_manifest_names_the_failures_after_which_a_call_is_tried_again() {
        for failure in Failure::ALL {
            let terms = terms(&format!("retry.on = [{:?}]", failure.as_str()), "", "").unwrap();
            assert_eq!(terms.retry.on.to_string(), failure.as_str());
        }
        assert_eq!(terms("retry.on = []", "", "").unwrap().retry.on.to_string(), "");
        assert_eq!(terms("", "", "").unwrap().retry.on.to_string(), "retry,host-fault");
    }

    #[test]
    fn all_that_a_manifest_may_ask_for_becomes_what_it_is_given() {
        let manifest = r#"
            [quotas]
            concurrency = 4
            [grants]
            random = false
            [grants.config]
            greeting = "hi"
            token = { env = "TOKEN" }
            [grants.keyvalue]
            default = "function"
            shared = "tenant"
            [grants.http]
            allow = ["https://api.example.com"]
            requests = 3
            [grants.scratch]
            [grants.calls]
            functions = ["resize"]
        "#;
        let terms = terms(manifest, "", "grants.config.env = [\"TOKEN\"]\nquotas.stored_bytes = 1000").unwrap();
        let Grants { logging, clock, random, config, keyvalue, http, scratch, calls } = (*terms.grants).clone();
        assert_eq!((logging, clock, random), (true, true, false));
        let (greeting, token) = (Setting::Plain("hi".into()), Setting::Secret("s3cret".into()));
        assert_eq!(config.unwrap(), BTreeMap::from([("greeting".into(), greeting), ("token".into(), token)]));
        let keyvalue = keyvalue.unwrap();
        assert_eq!((keyvalue.buckets["shared"], keyvalue.tenant_bytes_max), (BucketScope::Tenant, 1000));
        let http = http.unwrap();
        assert_eq!((http.allow[0].to_string().as_str(), http.requests_max), ("https://api.example.com:443", 3));
        assert_eq!(scratch.unwrap().files_max, 100);
        assert_eq!(calls.unwrap(), CallsGrant::Only([Name::parse("resize").unwrap()].into()));
        assert_eq!(terms.quotas.concurrency_max, Some(4));
    }

    #[test]
    fn a_schedule_needs_nothing_but_its_times() {
        let manifest = "[[schedule]]\ncron = \"*/5 * * * *\"\n[[schedule]]\nname = \"nightly\"\ncron = \"0 3 * * *\"\n\
            timezone = \"Europe/Berlin\"\npayload = '{\"all\":true}'\nmissed = \"run-once\"";
        let terms = terms(manifest, "", "").unwrap();
        let said: Vec<_> =
            terms.schedules.iter().map(|s| (s.name.as_str(), s.timetable.zone(), s.missed, &*s.payload)).collect();
        assert_eq!(
            said,
            [("default", "UTC", Missed::Skip, ""), ("nightly", "Europe/Berlin", Missed::RunOnce, r#"{"all":true}"#)]
        );
    }

    #[test]
    fn of_two_caps_the_lower_binds_and_is_named() {
        let asks = "limits.log_bytes = 5000";
        assert!(refused("limits.log_bytes = 99999999", "", "").contains("this host allows 65536"));
        assert!(refused(asks, "limits.log_bytes = 4000", "").contains("[tenants] in the host's settings allows 4000"));
        assert!(
            refused(asks, "limits.log_bytes = 4000", "limits.log_bytes = 3000").contains("its tenant.toml allows 3000")
        );
        assert!(refused(asks, "limits.log_bytes = 3000", "limits.log_bytes = 4000").contains("[tenants]"));
        assert_eq!(terms("", "limits.log_bytes = 4000", "").unwrap().limits.log_bytes_max, 4000);
    }

    #[test]
    fn what_the_operator_takes_away_cannot_be_asked_for() {
        let http = "[grants.http]\nallow = [\"https://a.example.com\"]";
        let allow = |target: &str| format!("[grants.http]\nallow = [{target:?}]");
        assert!(terms(http, &allow("https://*.example.com"), &allow("https://a.example.com")).is_ok());
        assert!(refused(http, &allow("https://b.example.com"), "").contains("https://a.example.com"));
        assert!(refused(http, &allow("https://*.example.com"), "grants.http.allow = []").contains("its tenant.toml"));
        for grant in ["keyvalue = {}", "calls = { functions = \"all\" }", "logging = true"] {
            let (name, asks) = (grant.split(' ').next().unwrap(), format!("[grants]\n{grant}"));
            assert!(terms(&asks, "", "").is_ok(), "{grant}");
            for (tenants, tenant) in
                [("", format!("grants.{name} = false")), (&*format!("grants.{name} = false"), String::new())]
            {
                assert!(refused(&asks, tenants, &tenant).contains("takes it away"), "{grant}");
            }
        }
        assert!(!terms("", "", "grants.random = false").unwrap().grants.random, "a default goes without a word");
        assert!(refused("[grants.scratch]", "grants.scratch.bytes = 0", "").contains("takes it away"));
        assert!(refused("[grants.scratch]\nbytes = 20", "", "grants.scratch.bytes = 10").contains("allows 10"));
    }

    #[test]
    fn a_secret_comes_only_from_where_the_operator_lets_the_tenant_have_it() {
        let asks = "grants.config.key = { env = \"TOKEN\" }";
        let env = |name: &str| format!("grants.config.env = [{name:?}]");
        assert!(terms(asks, "", &env("TOKEN")).is_ok());
        assert!(terms(asks, &env("TOKEN"), &env("TOKEN")).is_ok());
        assert!(refused(asks, "", "").contains("grants.config.env = [\"TOKEN\"]"), "it says how to mend it");
        assert!(refused(asks, &env("TOKEN"), "").contains("may not have"), "a cap alone gives nothing");
        assert!(refused(asks, &env("OTHER"), &env("TOKEN")).contains("may not have"));
        assert!(refused("grants.config.key = { env = \"NONE\" }", "", &env("NONE")).contains("does not have"));
    }

    #[test]
    fn a_secret_file_is_reached_by_no_way_around_its_directory() {
        let home = tempfile::tempdir().unwrap();
        let (allowed, outside) = (home.path().join("allowed"), home.path().join("outside"));
        std::fs::create_dir(&allowed).unwrap();
        std::fs::write(&outside, "of another").unwrap();
        std::fs::write(allowed.join("mine"), "of mine\n").unwrap();
        std::os::unix::fs::symlink(&outside, allowed.join("link")).unwrap();
        let tenant = format!("grants.config.files = [{:?}]", allowed.display().to_string());
        let asks = |path: &str| terms(&format!("grants.config.key = {{ file = {path:?} }}"), "", &tenant);
        let in_allowed = |name: &str| allowed.join(name).display().to_string();
        let config = asks(&in_allowed("mine")).unwrap().grants.config.clone().unwrap();
        assert_eq!(config["key"].reveal(), "of mine", "the line end is no part of it");
        let none = asks(&in_allowed("none")).unwrap_err();
        for name in ["link", "../outside"] {
            let said = asks(&in_allowed(name)).unwrap_err();
            assert_eq!(said, none.replace("none", name), "it does not tell what is there");
        }
    }

    #[test]
    fn a_wrong_value_is_named_with_its_rule() {
        for (manifest, expected) in [
            ("limits.memory_bytes = 5", "65536 at the least"),
            ("limits.time_ms = 0", "`limits.time_ms`"),
            ("retry.attempts_max = 0", "it takes 1 to 1000"),
            ("retry.on = [\"poison\"]", "expected one of `retry`, `host-fault`, `trap`"),
            ("quotas.concurrency = 0", "`quotas.concurrency`"),
            ("grants.config.a = 5", "a setting is a text"),
            ("grants.config.a = { file = \"/x\", env = \"Y\" }", "a setting is a text"),
            ("grants.keyvalue.\"a b\" = \"tenant\"", "no name of a bucket"),
            ("grants.keyvalue.a = \"everybody\"", "`function` or `tenant`"),
            ("grants.http.allow = [\"ftp://x\"]", "https://api.example.com"),
            ("grants.calls.functions = \"some\"", "\"all\" or a list of names"),
            ("grants.calls.functions = [\"Bad Name\"]", "is not a name"),
            ("[[schedule]]\ncron = \"61 * * * *\"", "`schedule.cron`"),
            ("[[schedule]]\ncron = \"* * * * *\"\ntimezone = \"Mars\"", "Europe/Berlin"),
            ("[[schedule]]\ncron = \"* * * * *\"\nmissed = \"all\"", "run-once"),
            ("[[schedule]]\ncron = \"* * * * *\"\npayload = \"{\"", "is no JSON"),
            ("[[schedule]]\ncron = \"* * * * *\"\nname = \"A\"", "is no name"),
            ("[[schedule]]\ncron = \"* * * * *\"\n[[schedule]]\ncron = \"1 * * * *\"", "a name of its own"),
            ("[[schedule]]\ntimezone = \"UTC\"", "cron"),
        ] {
            let said = refused(manifest, "", "");
            assert!(said.contains(expected), "{manifest}: {said}");
        }
    }
}
