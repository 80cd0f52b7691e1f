//! Files that must never replace a good one.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use baton_model::{Digest, Status};
use baton_tests::settings::{PATIENCE, RESCAN_MS};
use baton_tests::{CORE_MODULE, Host, Stage, patched, sample, truncations, variant, wrong_world};

/// Whether a line of the log is a warning or an error about this function of the default tenant, or its file.
fn complains_of(function: &str) -> impl Fn(&str) -> bool {
    let (file, name) = (format!("{function}.wasm"), format!("default/{function}"));
    move |line| (line.contains("WARN") || line.contains("ERROR")) && (line.contains(&file) || line.contains(&name))
}

/// Waits until the folder has been looked at several times more: each replacement of a bystander takes a look or two.
async fn several_looks(stage: &Stage, host: &mut Host) -> Result<()> {
    let bystander = sample("hello")?;
    for n in 1..=3 {
        let next = variant(&bystander, n);
        stage.folder.install("hello", &next)?;
        host.ready_with("hello", &next).await?;
    }
    Ok(())
}

/// Puts each bad file in the place of a good `echo`, and expects the good one to serve on and one complaint each.
pub(crate) async fn never_replace(bad: Vec<(String, Vec<u8>)>) -> Result<()> {
    let mut stage = Stage::with(&["echo", "hello"]).await?;
    let mut host = stage.host().setting(RESCAN_MS, 200).start_ready(&["echo", "hello"]).await?;
    let good = sample("echo")?;
    for (n, (what, bytes)) in bad.iter().enumerate() {
        stage.folder.install("echo", bytes)?;
        let said = host.lines().wait_for_several(n + 1, PATIENCE, complains_of("echo")).await;
        println!("{what}: {}", said.with_context(|| format!("nobody complained of {what}"))?[n]);
        let answer = stage.caller.call("echo", what).await?;
        ensure!(answer.status == Status::Ok && answer.digest == Some(Digest::of(&good)), "{what}: {answer:?}");
    }
    several_looks(&stage, &mut host).await?;
    let said = host.lines().that(complains_of("echo"));
    ensure!(said.len() == bad.len(), "{} complaints of {} files: {said:#?}", said.len(), bad.len());

    let mended = variant(&good, 1);
    stage.folder.install("echo", &mended)?;
    host.ready_with("echo", &mended).await?;
    ensure!(stage.caller.call("echo", "x").await?.digest == Some(Digest::of(&mended)), "the mended one serves");
    ensure!(stage.caller.dead("echo").await?.is_empty(), "no caller noticed");
    Ok(())
}

#[tokio::test]
async fn a_truncated_file_never_replaces_a_good_one() -> Result<()> {
    let next = variant(&sample("echo")?, 9);
    let bad = truncations(&next).into_iter().map(|cut| (format!("cut to {} bytes", cut.len()), cut.to_vec()));
    never_replace(bad.collect()).await
}

#[tokio::test]
async fn a_component_of_another_world_never_replaces_a_good_one() -> Result<()> {
    never_replace(wrong_world()?.into_iter().map(|(what, bytes)| (what.to_owned(), bytes)).collect()).await
}

#[tokio::test]
async fn a_file_that_is_no_component_never_replaces_a_good_one() -> Result<()> {
    let elf = std::fs::read(std::env::current_exe()?)?;
    never_replace(vec![
        ("an empty file".into(), Vec::new()),
        ("an empty core module".into(), CORE_MODULE.to_vec()),
        ("a core module that exports `handle`".into(), wat::parse_str(r#"(module (func (export "handle")))"#)?),
        ("text".into(), b"not WebAssembly\n".to_vec()),
        ("a native program".into(), elf[..65536].to_vec()),
        ("a component with rubbish behind it".into(), [&sample("echo")?[..], b"rubbish"].concat()),
    ])
    .await
}

#[tokio::test]
async fn a_bad_first_file_is_no_function_until_it_is_mended() -> Result<()> {
    let mut stage = Stage::with(&["hello"]).await?;
    stage.folder.copy("echo", CORE_MODULE)?;
    let mut host = stage.host().start_ready(&["hello"]).await?;
    host.lines().wait_for_several(1, PATIENCE, complains_of("echo")).await?;
    let id = stage.caller.send("echo", "waits").await?;
    stage.caller.call("hello", "{}").await?;
    assert!(stage.caller.result_now("echo", &id).await?.is_none(), "there is nobody to answer it");
    stage.folder.install("echo", &sample("echo")?)?;
    host.ready("echo").await?;
    assert_eq!(&stage.caller.result("echo", &id).await?.payload[..], b"waits");
    Ok(())
}

#[tokio::test]
async fn a_link_never_replaces_a_good_file() -> Result<()> {
    let mut stage = Stage::with(&["echo", "hello"]).await?;
    let mut host = stage.host().setting(RESCAN_MS, 200).start_ready(&["echo", "hello"]).await?;
    let elsewhere = tempfile::tempdir()?;
    let target = elsewhere.path().join("other.wasm");
    std::fs::write(&target, variant(&sample("echo")?, 5))?;
    stage.folder.link("echo", &target)?;
    host.lines().wait_for_several(1, PATIENCE, complains_of("echo")).await?;
    several_looks(&stage, &mut host).await?;
    // A file that is gone is a function no more after a while. When that has come over the bystander, whose file went
    // later, the link had its chance to count as such.
    stage.folder.delete("hello")?;
    let hello = "hello".parse()?;
    host.events()?.wait_for("offline", PATIENCE, |event| event.tells("offline", &hello)).await?;
    assert_eq!(host.lines().that(complains_of("echo")).len(), 1, "it is said once");
    assert_eq!(stage.caller.call("echo", "x").await?.digest, Some(Digest::of(&sample("echo")?)));
    Ok(())
}

#[tokio::test]
async fn a_half_written_file_waits_for_its_other_half() -> Result<()> {
    let mut stage = Stage::with(&["hello"]).await?;
    let mut host = stage.host().start_ready(&["hello"]).await?;
    let next = patched(&sample("hello")?, "Hello", "Howdy")?;
    // Longer than any look at the folder takes, so that the half is seen and refused.
    stage.folder.copy_slowly("hello", &next, Duration::from_millis(1_500)).await?;
    host.ready_with("hello", &next).await?;
    let answer = stage.caller.call("hello", r#"{"name":"Ada"}"#).await?;
    assert_eq!(String::from_utf8_lossy(&answer.payload), r#"{"greeting":"Howdy, Ada"}"#);
    Ok(())
}

#[tokio::test]
async fn a_file_with_another_checksum_beside_it_is_refused() -> Result<()> {
    let mut stage = Stage::with(&["echo", "hello"]).await?;
    let good = sample("echo")?;
    stage.folder.write_beside("echo", ".sha256", &format!("{}  echo.wasm\n", Digest::of(&good)))?;
    let mut host = stage.host().setting(RESCAN_MS, 200).start_ready(&["echo", "hello"]).await?;

    let next = variant(&good, 1);
    stage.folder.install("echo", &next)?;
    let said = host.lines().wait_for_several(1, PATIENCE, complains_of("echo")).await?;
    ensure!(said[0].contains("sha256") || said[0].contains("SHA-256"), "it says what is wrong: {said:?}");
    several_looks(&stage, &mut host).await?;
    ensure!(host.lines().that(complains_of("echo")).len() == 1, "it is said once");
    ensure!(stage.caller.call("echo", "x").await?.digest == Some(Digest::of(&good)), "the old one serves on");

    stage.folder.write_beside("echo", ".sha256", &Digest::of(&next).to_string())?;
    host.ready_with("echo", &next).await?;
    ensure!(stage.caller.call("echo", "x").await?.digest == Some(Digest::of(&next)), "the new one serves");
    Ok(())
}

#[tokio::test]
async fn a_manifest_with_an_unknown_key_changes_nothing_until_it_is_mended() -> Result<()> {
    let mut stage = Stage::with(&["echo", "hello"]).await?;
    let good = sample("echo")?;
    let mut host = stage.host().setting(RESCAN_MS, 200).start_ready(&["echo", "hello"]).await?;
    stage.folder.write_manifest("echo", "colour = \"red\"\n")?;
    stage.folder.install("echo", &variant(&good, 1))?;
    let said = host.lines().wait_for_several(1, PATIENCE, complains_of("echo")).await?;
    ensure!(said.iter().any(|line| line.contains("colour")), "it names the key: {said:?}");
    several_looks(&stage, &mut host).await?;
    ensure!(stage.caller.call("echo", "x").await?.digest == Some(Digest::of(&good)), "the old one serves on");
    stage.folder.write_manifest("echo", "")?;
    host.ready_with("echo", &variant(&good, 1)).await?;
    Ok(())
}
