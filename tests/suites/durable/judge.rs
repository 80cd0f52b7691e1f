//! The judge: a program of its own, which shares no code with the host.

use anyhow::{Context, Result, ensure};
use baton_tests::Stage;
use baton_tests::settings::repository;
use serde_json::{Value, json};
use tokio::process::Command;

use super::plans::Plan;
use super::shop::Order;

/// Has these orders judged: logs, states, results, and what their services saw. Gives figures.
pub(crate) async fn judged(stage: &Stage, plans: &[Plan]) -> Result<Value> {
    let told: Vec<Value> = plans.iter().map(Plan::told).collect();
    judge(stage, json!({ "executions": told })).await
}

/// Has the logs of these executions judged, whatever function they are of, and the states beside them.
pub(crate) async fn logs_are_sound(stage: &Stage, executions: &[Order<'_>]) -> Result<()> {
    let ids: Vec<&str> = executions.iter().map(|execution| execution.id.as_str()).collect();
    judge(stage, json!({ "logs": ids })).await.map(drop)
}

async fn judge(stage: &Stage, mut told: Value) -> Result<Value> {
    told["redis"] = json!(stage.redis.socket());
    let file = tempfile::NamedTempFile::new()?;
    std::fs::write(&file, told.to_string())?;
    let judge = repository().join("tests/faults/executions.py");
    let output = Command::new("python3").arg(judge).arg(file.path()).output().await.context("python3 judges this")?;
    let (said, error) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    ensure!(output.status.success(), "{said}{error}");
    Ok(serde_json::from_str(&said)?)
}
