//! What manifests ask for, what operators allow, and what becomes of functions when either changes.

use std::path::PathBuf;

use anyhow::{Result, ensure};
use baton_model::{Digest, Status};
use baton_tests::settings::{NO_FUNCTIONS, PATIENCE, RESCAN_MS};
use baton_tests::{Host, Http, Stage, sample, until};
use tempfile::TempDir;

/// A component that answers with its payload, signed by a key that was made for it and forgotten.
const SIGNED: &[u8] = include_bytes!("../../fixtures/signed.wasm");
const SIGNATURE: &str = include_str!("../../fixtures/signed.wasm.minisig");
const KEY: &str = include_str!("../../fixtures/signed.pub");

/// A settings file with this text, and the folder that keeps it.
fn settings(text: &str) -> Result<(TempDir, PathBuf)> {
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("baton.toml");
    std::fs::write(&path, text)?;
    Ok((dir, path))
}

/// Waits until the host has said something with all these words in one line.
async fn said(host: &Host, words: &[&str]) -> Result<()> {
    let fits = |line: &str| words.iter().all(|word| line.contains(word));
    host.lines().wait_for_several(1, PATIENCE, fits).await.map(drop)
}

#[tokio::test]
async fn a_payload_that_is_too_large_for_its_function_is_refused_at_the_door_and_in_the_stream() -> Result<()> {
    let mut stage = Stage::with(&["echo"]).await?;
    stage.folder.write_manifest("echo", "[limits]\npayload_bytes = 10\n")?;
    let mut host = stage.host().http().start_ready(&["echo"]).await?;
    let http = Http::of(&host).await?;
    http.post("/v1/call/echo", "0123456789").await?.expect(200)?;
    http.post("/v1/call/echo", "0123456789x").await?.problem(413, "body-too-large")?;

    let id = stage.caller.send("echo", "0123456789x").await?;
    let letter = &stage.caller.until_dead("echo", 1).await?[0];
    ensure!(letter.text("reason") == "oversize" && letter.text("error").contains("10"), "{letter:?}");
    let result = stage.caller.result("echo", &id).await?;
    ensure!((result.status, result.attempts) == (Status::Dead, 0), "it was never run: {result:?}");

    // Events are told from the start on; the next one is of the next revision.
    stage.folder.write_manifest("echo", "[limits]\npayload_bytes = 20\n")?;
    until("the new manifest holds", PATIENCE, async || {
        Ok(http.post("/v1/call/echo", "0123456789x").await?.expect(200).ok())
    })
    .await?;
    host.stop().await?;
    Ok(())
}

#[tokio::test]
async fn what_an_operator_takes_away_stops_serving_and_what_he_gives_back_serves_again() -> Result<()> {
    let mut stage = Stage::with(&[]).await?;
    stage.folder.install("acme/echo", &sample("echo")?)?;
    stage.folder.write_manifest("acme/echo", "[limits]\npayload_bytes = 100\n")?;
    let mut host = stage.host().setting(RESCAN_MS, 200).start_ready(&["acme/echo"]).await?;
    stage.caller.call("acme/echo", "x").await?;

    let about = stage.folder.path().join("@acme/tenant.toml");
    std::fs::write(&about, "[limits]\npayload_bytes = 50\n")?;
    let echo = "acme/echo".parse()?;
    host.events()?.wait_for("offline", PATIENCE, |event| event.tells("offline", &echo)).await?;
    said(&host, &["acme/echo", "limits.payload_bytes", "its tenant.toml allows 50"]).await?;
    let waits = stage.caller.send("acme/echo", "waits").await?;

    // A mistake in the file gives nothing back.
    std::fs::write(&about, "[limits]\npayload_byte = 500\n")?;
    said(&host, &["@acme/tenant.toml", "did you mean `payload_bytes`?"]).await?;
    ensure!(stage.caller.result_now("acme/echo", &waits).await?.is_none(), "there is nobody to answer it");

    std::fs::write(&about, "[limits]\npayload_bytes = 500\n")?;
    host.ready("acme/echo").await?;
    ensure!(&stage.caller.result("acme/echo", &waits).await?.payload[..] == b"waits");
    Ok(())
}

#[tokio::test]
async fn a_file_about_a_tenant_that_is_wrong_from_the_start_gives_it_nothing_and_leaves_the_others_alone() -> Result<()>
{
    let mut stage = Stage::with(&["hello"]).await?;
    stage.folder.install("acme/echo", &sample("echo")?)?;
    let about = stage.folder.path().join("@acme/tenant.toml");
    std::fs::write(&about, "wieght = 2\n")?;
    let mut host = stage.host().setting(RESCAN_MS, 200).start_ready(&["hello"]).await?;
    said(&host, &["acme/echo is refused", "tenant.toml is wrong", "did you mean `weight`?"]).await?;
    std::fs::write(&about, "weight = 2\n")?;
    host.ready("acme/echo").await?;
    stage.caller.call("acme/echo", "x").await?;
    Ok(())
}

#[tokio::test]
async fn the_settings_of_a_host_cap_what_tenants_and_manifests_say() -> Result<()> {
    let stage = Stage::with(&["echo", "hello"]).await?;
    let (_dir, file) = settings("[tenants.limits]\nlog_bytes = 1000\n[tenants.grants.http]\nallow = []\n")?;
    std::fs::write(stage.folder.path().join("tenant.toml"), "[limits]\nlog_bytes = 5000\n")?;
    stage.folder.write_manifest("echo", "[limits]\nlog_bytes = 2000\n")?;
    stage.folder.write_manifest("hello", "[grants.http]\nallow = [\"https://example.com\"]\n")?;
    let mut host = stage.host().argument("--config").argument(file).setting(RESCAN_MS, 200).start().await?;
    said(
        &host,
        &["default/echo", "`limits.log_bytes` (line 2) is 2000", "[tenants] in the host's settings allows 1000"],
    )
    .await?;
    said(&host, &["default/hello", "grants.http.allow", "https://example.com"]).await?;
    stage.folder.write_manifest("echo", "[limits]\nlog_bytes = 900\n")?;
    host.ready("echo").await
}

#[tokio::test]
async fn where_a_digest_is_demanded_a_component_without_one_is_refused() -> Result<()> {
    let stage = Stage::with(&["echo"]).await?;
    let (_dir, file) = settings("[security]\nrequire_digest = true\n")?;
    let mut host = stage.host().argument("--config").argument(file).setting(RESCAN_MS, 200).start().await?;
    said(&host, &["default/echo", "has to be pinned here", "sha256sum"]).await?;
    stage.folder.write_beside("echo", ".sha256", &Digest::of(&sample("echo")?).to_string())?;
    host.ready("echo").await
}

#[tokio::test]
async fn where_a_signature_is_demanded_only_what_a_trusted_key_signed_serves() -> Result<()> {
    let mut stage = Stage::with(&[]).await?;
    stage.folder.install("signed", SIGNED)?;
    let (_dir, file) = settings(&format!("[security]\nrequire_signature = true\npublic_keys = [{:?}]\n", KEY.trim()))?;
    let mut host = stage.host().argument("--config").argument(file).setting(RESCAN_MS, 200).start().await?;
    said(&host, &["default/signed", "has to be signed here"]).await?;
    stage.folder.write_beside("signed", ".minisig", SIGNATURE)?;
    host.ready("signed").await?;

    stage.folder.install("signed", &sample("echo")?)?;
    said(&host, &["default/signed", "not of these bytes", "keeps serving"]).await?;
    ensure!(stage.caller.call("signed", "x").await?.digest == Some(Digest::of(SIGNED)), "the signed one serves on");
    Ok(())
}

#[tokio::test]
async fn a_function_named_like_the_file_about_its_tenant_is_refused() -> Result<()> {
    let stage = Stage::with(&["echo"]).await?;
    stage.folder.install("tenant", &sample("echo")?)?;
    let host = stage.host().start_ready(&["echo"]).await?;
    said(&host, &["tenant.wasm is no function", "give it another name"]).await
}

#[tokio::test]
async fn a_front_without_functions_hears_of_tenants_too() -> Result<()> {
    let stage = Stage::with(&["echo"]).await?;
    let _worker = stage.host().start_ready(&["echo"]).await?;
    let front = stage.host().http().argument(NO_FUNCTIONS).setting(RESCAN_MS, 200).start().await?;
    let http = Http::of(&front).await?;
    http.post("/v1/call/echo", "x").await?.expect(200)?;
    let token = Digest::of(b"baton_open-sesame");
    let about = format!("[[tokens]]\nname = \"ci\"\nsha256 = \"{token}\"\n");
    std::fs::write(stage.folder.path().join("tenant.toml"), about)?;
    said(&front, &["tenant.toml taken"]).await?;
    http.post("/v1/call/echo", "x").await?.expect(401)?;
    let bearer = [("authorization", "Bearer baton_open-sesame")];
    http.post_with("/v1/call/echo", &bearer, "x").await?.expect(200)?;
    Ok(())
}
