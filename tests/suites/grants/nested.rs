//! What the tests of functions share that call functions.

use anyhow::{Result, ensure};
use baton_model::Status;
use baton_tests::{Stage, nested_guest};
use serde_json::Value;

/// The grant of a function that may call all of its tenant's.
pub(crate) const ALL: &str = "grants.calls.functions = \"all\"\n";

/// These functions, each with its manifest.
pub(crate) async fn stage(functions: &[(&str, &str)]) -> Result<Stage> {
    let stage = Stage::with(&[]).await?;
    for (function, manifest) in functions {
        stage.folder.write_manifest(function, manifest)?;
        stage.folder.install(function, &nested_guest()?)?;
    }
    Ok(stage)
}

/// What a function answers to an order.
pub(crate) async fn told(stage: &mut Stage, function: &str, order: &Value) -> Result<Value> {
    let answer = stage.caller.call(function, order.to_string()).await?;
    ensure!(answer.status == Status::Ok, "{order}: {:?}", answer.error);
    Ok(serde_json::from_slice(&answer.payload)?)
}
