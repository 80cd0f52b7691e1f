//! `baton check`: what a host would say of a component, without a host.

use std::time::Instant;

use baton_engine::{Component, Engine, EngineConfig};
use baton_model::{Grants, Limits};
use serde_json::json;

use crate::args::{Check, Common};
use crate::commands::compile_worker;
use crate::exit::{Exit, UsageError};
use crate::settings::Settings;

pub(crate) async fn run(common: &Common, check: &Check) -> anyhow::Result<Exit> {
    let limits = Settings::read(common)?.limits();
    let file = check.file.display();
    let bytes = std::fs::read(&check.file).map_err(|error| UsageError(format!("cannot read {file}: {error}")))?;
    let began = Instant::now();
    let loaded = load(&bytes, &limits).await;
    let took_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
    let answer = match loaded {
        Ok(component) => component,
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
    let (digest, size, imports) = (answer.digest(), answer.size_bytes(), answer.imports());
    if check.json {
        let facts = json!({
            "file": check.file, "ok": true, "digest": digest, "bytes": size, "imports": imports, "load_ms": took_ms,
        });
        println!("{facts}");
    } else {
        println!("{file} is a function");
        println!("  digest   {digest}");
        println!("  size     {size} bytes");
        println!("  loaded   in {took_ms} ms, one trial instance included");
        println!(
            "  imports  {}",
            if imports.is_empty() { "nothing".to_owned() } else { imports.join("\n           ") }
        );
    }
    Ok(Exit::Ok)
}

async fn load(bytes: &[u8], limits: &Limits) -> anyhow::Result<Component> {
    let engine = Engine::new(EngineConfig {
        instances_max: 1,
        memory_bytes_max: limits.memory_bytes_max,
        compiler: compile_worker::compiler(),
        ..EngineConfig::default()
    })?;
    let component = tokio::task::block_in_place(|| engine.load(bytes, &Grants::default()))?;
    component.trial(limits, None).await?;
    Ok(component)
}
