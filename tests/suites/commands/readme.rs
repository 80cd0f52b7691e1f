//! The README's own commands.

use anyhow::{Context, Result, ensure};
use baton_tests::settings::repository;
use baton_tests::{Folder, HostPlan, Shell, matches, steps};

/// Runs, in their order, the commands of all blocks of the README that are fenced as `sh run` or `console run`, and compares
/// what they print. They run in a folder like the reader's: the host under `target/release`, the samples under
/// `plugins`, and a host that serves them with a Redis of its own in `.baton`. HTTP is on a free port, because the one
/// that the README names may be taken where this runs.
#[tokio::test]
async fn the_readme_keeps_its_promises() -> Result<()> {
    let readme = repository().join("README.md");
    let readme = std::fs::read_to_string(&readme).with_context(|| format!("{} is missing", readme.display()))?;
    let steps = steps(&readme, &["sh run", "console run"]);
    ensure!(!steps.is_empty(), "README.md has no block fenced as ```sh run; mark what a reader can type as such");

    let samples = ["hello", "echo", "sleep", "fail", "wordcount"];
    // A socket will lie in it, whose path must be short.
    let reader = tempfile::Builder::new().prefix("br-").tempdir_in("/tmp")?;
    let shell = Shell::within(reader.path())?;
    let folder = Folder::with(&samples)?;
    std::os::unix::fs::symlink(folder.path(), reader.path().join("plugins"))?;
    let data = reader.path().join(".baton");
    std::fs::create_dir(&data)?;
    let mut host = HostPlan::embedded(&data, &folder).http().start_ready(&samples).await?;
    let http = host.http().await?;
    for step in steps {
        let (code, printed) = shell.run(&step.command.replace("http://127.0.0.1:7070", &http)).await?;
        println!("$ {}\n{printed}", step.command);
        ensure!(code == Some(0), "README.md, line {}: `{}` exits with {code:?}:\n{printed}", step.line, step.command);
        ensure!(matches(&step.expected, &printed), "README.md, line {}: {step:#?} prints\n{printed}", step.line);
    }
    host.stop().await
}
