//! Every sample function, against what its README says.

use std::fs;

use anyhow::{Context, Result, ensure};
use baton_model::Status;
use baton_tests::settings::{TIME_MAX_MS, repository};
use baton_tests::{Shell, Stage, matches, steps};

/// The names of all samples: the folders of `plugins/` that are crates.
fn sample_names() -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(repository().join("plugins"))? {
        let path = entry?.path();
        if path.join("Cargo.toml").is_file() {
            names.push(path.file_name().context("a folder has a name")?.to_string_lossy().into_owned());
        }
    }
    names.sort();
    Ok(names)
}

#[test]
fn every_sample_has_a_test_here() -> Result<()> {
    for name in sample_names()? {
        let test = format!("async fn {}_", name.replace('-', "_"));
        ensure!(include_str!("samples.rs").contains(&test), "no test here is named `{test}…`");
    }
    Ok(())
}

#[tokio::test]
async fn every_sample_answers_as_its_readme_says() -> Result<()> {
    let names = sample_names()?;
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let stage = Stage::with(&names).await?;
    for name in &names {
        if let Ok(manifest) = fs::read_to_string(repository().join("plugins").join(format!("{name}.toml"))) {
            stage.folder.write_manifest(name, &manifest)?;
        }
    }
    let _host = stage.host().start_ready(&names).await?;
    let reader = tempfile::tempdir()?;
    let shell = Shell::within(reader.path())?.on(&stage.redis);
    for name in names {
        let readme = fs::read_to_string(repository().join("plugins").join(name).join("README.md"))
            .with_context(|| format!("the sample {name} has a README.md"))?;
        let steps = steps(&readme, &["console", "sh run", "console run"]);
        ensure!(!steps.is_empty(), "the README of {name} shows no command in a ```console block");
        for step in steps {
            let (_, printed) = shell.run(&step.command).await?;
            ensure!(matches(&step.expected, &printed), "{name}, line {}: {step:#?} printed\n{printed}", step.line);
        }
    }
    Ok(())
}

#[tokio::test]
async fn hello_greets_by_name_or_the_world() -> Result<()> {
    let mut stage = Stage::with(&["hello"]).await?;
    let _host = stage.host().start_ready(&["hello"]).await?;
    for (payload, greeting) in [
        (r#"{"name":"Ada"}"#, r#"{"greeting":"Hello, Ada"}"#),
        (r#"{"name":"Zoë 🦀"}"#, r#"{"greeting":"Hello, Zoë 🦀"}"#),
        ("{}", r#"{"greeting":"Hello, world"}"#),
        ("", r#"{"greeting":"Hello, world"}"#),
    ] {
        let answer = stage.caller.call("hello", payload).await?;
        assert_eq!((answer.status, answer.media_type.as_str()), (Status::Ok, "application/json"));
        assert_eq!(String::from_utf8_lossy(&answer.payload), greeting);
    }
    Ok(())
}

#[tokio::test]
async fn echo_answers_with_what_it_is_given() -> Result<()> {
    let mut stage = Stage::with(&["echo"]).await?;
    let _host = stage.host().start_ready(&["echo"]).await?;
    let answer = stage.caller.call("echo", r#"{"any":"thing"}"#).await?;
    assert_eq!((answer.media_type.as_str(), &answer.payload[..]), ("application/json", &br#"{"any":"thing"}"#[..]));
    Ok(())
}

#[tokio::test]
async fn sleep_answers_after_the_time_asked_for() -> Result<()> {
    let mut stage = Stage::with(&["sleep"]).await?;
    let _host = stage.host().start_ready(&["sleep"]).await?;
    let answer = stage.caller.call("sleep", r#"{"ms":250}"#).await?;
    assert_eq!((answer.media_type.as_str(), &answer.payload[..]), ("text/plain", &b"slept 250"[..]));
    let took = answer.finished_ms - answer.started_ms.context("it was started")?;
    assert!((249..5_000).contains(&took), "it took {took} ms");
    Ok(())
}

#[tokio::test]
async fn order_is_refused_when_nobody_pays() -> Result<()> {
    let mut stage = Stage::with(&["order", "echo", "sleep"]).await?;
    stage.folder.write_manifest("order", &fs::read_to_string(repository().join("plugins/order.toml"))?)?;
    let _host = stage.host().start_ready(&["order", "echo", "sleep"]).await?;
    let answer = stage.caller.call("order", r#"{"item":"lamp","price":1,"patience_ms":50}"#).await?;
    let error = answer.error.context("it was refused")?;
    assert_eq!((answer.status, error.code.as_str()), (Status::Error, "not-paid"));
    Ok(())
}

#[tokio::test]
async fn fail_fails_in_every_way_it_is_asked_to() -> Result<()> {
    let mut stage = Stage::with(&["fail"]).await?;
    let plan = stage.host().setting(TIME_MAX_MS, 400);
    let _host = plan.setting(baton_tests::settings::ATTEMPTS_MAX, 1).start_ready(&["fail"]).await?;
    for (kind, status, code) in [
        ("reject", Status::Error, "as-asked"),
        ("retry", Status::Dead, "retry"),
        ("trap", Status::Dead, "trap"),
        ("loop", Status::Dead, "timeout"),
        ("exit", Status::Dead, "exit"),
        ("explode", Status::Error, "bad-input"),
    ] {
        let answer = stage.caller.call("fail", format!(r#"{{"kind":"{kind}"}}"#)).await?;
        let error = answer.error.with_context(|| format!("{kind} is no success"))?;
        assert_eq!((answer.status, error.code.as_str()), (status, code), "{kind}: {}", error.message);
    }
    Ok(())
}

#[tokio::test]
async fn wordcount_counts_json_and_plain_text() -> Result<()> {
    let mut stage = Stage::with(&["wordcount"]).await?;
    let _host = stage.host().start_ready(&["wordcount"]).await?;
    let counted = r#"{"lines":1,"words":5,"characters":19,"bytes":19,"top":[{"word":"the","count":2}]}"#;
    let answer = stage.caller.call("wordcount", r#"{"text":"The cat and the dog","top":1}"#).await?;
    assert_eq!(String::from_utf8_lossy(&answer.payload), counted);
    let id = stage.caller.add("wordcount", &[("payload", b"one two"), ("type", b"text/plain")]).await?;
    let answer: serde_json::Value = serde_json::from_slice(&stage.caller.result("wordcount", &id).await?.payload)?;
    assert_eq!((&answer["words"], &answer["bytes"]), (&2.into(), &7.into()));
    Ok(())
}
