//! The README's own commands.

use anyhow::{Context, Result, ensure};
use baton_tests::settings::repository;
use baton_tests::{Shell, Stage, matches, steps};

/// Runs, in their order, the commands of all blocks of the README that are fenced as `sh run` or `console run`, in a folder
/// with the samples under `plugins/` and a host that serves them, and compares what they print.
#[tokio::test]
async fn the_readme_keeps_its_promises() -> Result<()> {
    let readme = repository().join("README.md");
    let readme = std::fs::read_to_string(&readme).with_context(|| format!("{} is missing", readme.display()))?;
    let steps = steps(&readme, &["sh run", "console run"]);
    ensure!(!steps.is_empty(), "README.md has no block fenced as ```sh run; mark what a reader can type as such");

    let samples = ["hello", "echo", "sleep", "fail", "wordcount"];
    let stage = Stage::with(&samples).await?;
    let reader = tempfile::tempdir()?;
    std::os::unix::fs::symlink(stage.folder.path(), reader.path().join("plugins"))?;
    let _host = stage.host().start_ready(&samples).await?;
    let shell = Shell::beside(&stage.redis, reader.path())?;
    for step in steps {
        let (code, printed) = shell.run(&step.command).await?;
        println!("$ {}\n{printed}", step.command);
        ensure!(code == Some(0), "README.md, line {}: `{}` exits with {code:?}:\n{printed}", step.line, step.command);
        ensure!(matches(&step.expected, &printed), "README.md, line {}: {step:#?} prints\n{printed}", step.line);
    }
    Ok(())
}
