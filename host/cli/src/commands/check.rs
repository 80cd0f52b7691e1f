//! `baton check`: what a host would say of a component, without a host.

use std::sync::Arc;
use std::time::Instant;

use baton_app::{Examined, Terms};
use baton_engine::{Component, Engine, EngineConfig, Services};
use baton_model::{BucketScope, CallsGrant, Grants, Quotas, Setting};
use serde_json::{Value, json};

use crate::args::{Check, Common};
use crate::commands::compile_worker;
use crate::exit::{Exit, UsageError};
use crate::settings::Settings;

pub(crate) async fn run(common: &Common, check: &Check) -> anyhow::Result<Exit> {
    let examiner = Settings::read(common)?.examiner();
    let file = check.file.display();
    std::fs::metadata(&check.file).map_err(|error| UsageError(format!("cannot read {file}: {error}")))?;
    let began = Instant::now();
    let loaded = match examiner.examine(&check.file) {
        Ok(Examined { component, terms, services }) => {
            load(&component, &terms, services).await.map(|component| (component, terms))
        }
        Err(reason) => Err(anyhow::Error::msg(reason)),
    };
    let took_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
    let (component, terms) = match loaded {
        Ok(loaded) => loaded,
        Err(reason) => {
            let reason = format!("{reason:#}");
            if check.json {
                println!("{}", json!({ "file": check.file, "ok": false, "reason": reason }));
            } else {
                println!("{file} is refused: {reason}");
            }
            return Ok(Exit::Failed);
        }
    };
    let (digest, size, imports) = (component.digest(), component.size_bytes(), component.imports());
    if check.json {
        let facts = json!({
            "file": check.file, "ok": true, "digest": digest, "bytes": size, "imports": imports, "load_ms": took_ms,
            "limits": limits(&terms), "quotas": quotas(&terms.quotas), "grants": grants(&terms.grants),
        });
        println!("{facts}");
    } else {
        let several =
            |lines: Vec<String>| if lines.is_empty() { "nothing".to_owned() } else { lines.join("\n           ") };
        println!("{file} is a function");
        println!("  digest   {digest}");
        println!("  size     {size} bytes");
        println!("  loaded   in {took_ms} ms, one trial instance included");
        println!("  imports  {}", several(imports.to_vec()));
        println!("  limits   {}", several(lines(&limits(&terms))));
        println!("  quotas   {}", several(lines(&quotas(&terms.quotas))));
        println!("  grants   {}", several(lines(&grants(&terms.grants))));
    }
    Ok(Exit::Ok)
}

pub(crate) async fn load(bytes: &[u8], terms: &Terms, services: Option<Arc<Services>>) -> anyhow::Result<Component> {
    let engine = Engine::new(EngineConfig {
        instances_max: 1,
        memory_bytes_max: terms.limits.memory_bytes_max,
        compiler: compile_worker::compiler(),
        ..EngineConfig::default()
    })?;
    let component = tokio::task::block_in_place(|| engine.load(bytes, &terms.grants))?;
    component.trial(&terms.limits, services).await?;
    Ok(component)
}

/// The limits under the keys of a manifest.
fn limits(terms: &Terms) -> Value {
    let limits = &terms.limits;
    json!({
        "time_ms": u64::try_from(limits.time_max.as_millis()).unwrap_or(u64::MAX),
        "memory_bytes": limits.memory_bytes_max, "payload_bytes": limits.payload_bytes_max,
        "result_bytes": limits.result_bytes_max, "log_bytes": limits.log_bytes_max,
    })
}

/// The quotas under the keys of a manifest; those that do not bind are null.
fn quotas(quotas: &Quotas) -> Value {
    json!({
        "concurrency": quotas.concurrency_max, "calls_per_second": quotas.calls_per_second,
        "cpu_ms_per_second": quotas.cpu_ms_per_second, "queue_calls": quotas.queue_calls_max,
        "queue_bytes": quotas.queue_bytes_max,
    })
}

/// The grants under the keys of a manifest; those that are denied are false or null. Secrets are no more than that.
fn grants(grants: &Grants) -> Value {
    let setting = |setting: &Setting| match setting {
        Setting::Plain(text) => Value::from(text.as_str()),
        Setting::Secret(_) => json!({ "secret": true }),
    };
    let scope = |scope: &BucketScope| match scope {
        BucketScope::Function => "function",
        BucketScope::Tenant => "tenant",
    };
    let config = grants.config.as_ref().map(|all| all.iter().map(|(k, v)| (k.clone(), setting(v))).collect::<Value>());
    let keyvalue = grants.keyvalue.as_ref();
    let buckets =
        keyvalue.map(|kv| kv.buckets.iter().map(|(k, v)| (k.clone(), Value::from(scope(v)))).collect::<Value>());
    let http = grants.http.as_ref().map(|http| {
        json!({
            "allow": http.allow.iter().map(ToString::to_string).collect::<Vec<_>>(), "requests": http.requests_max,
            "request_bytes": http.request_bytes_max, "response_bytes": http.response_bytes_max,
        })
    });
    let scratch = grants.scratch.as_ref().map(|s| json!({ "bytes": s.bytes_max, "files": s.files_max }));
    let calls = grants.calls.as_ref().map(|calls| match calls {
        CallsGrant::All => json!({ "functions": "all" }),
        CallsGrant::Only(names) => json!({ "functions": names }),
    });
    json!({
        "logging": grants.logging, "clock": grants.clock, "random": grants.random, "config": config,
        "keyvalue": buckets, "http": http, "scratch": scratch, "calls": calls,
    })
}

/// One line for each key that says something.
fn lines(table: &Value) -> Vec<String> {
    let said = table.as_object().into_iter().flatten().filter(|(_, value)| !value.is_null());
    said.map(|(key, value)| format!("{key} = {value}")).collect()
}
