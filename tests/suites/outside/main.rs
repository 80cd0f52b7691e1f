//! Functions that reach outside of a host: requests over HTTP and scratch files, as a manifest grants them and an operator
//! lets them.

use std::fs;
use std::net::Ipv4Addr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Result, ensure};
use baton_model::Status;
use baton_tests::settings::PATIENCE;
use baton_tests::{Manner, Stage, http_guest, scratch_guest, serve};

/// A server that answers `hello` to whatever it hears. Returns its URL.
async fn server() -> Result<String> {
    let address = serve(Ipv4Addr::LOCALHOST, Manner::answer("200 OK", &[], "hello")).await?;
    Ok(format!("http://{address}"))
}

async fn told(stage: &mut Stage, function: &str, order: &str) -> Result<String> {
    let answer = stage.caller.call(function, order).await?;
    ensure!(answer.status == Status::Ok, "{order}: {:?}", answer.error);
    Ok(String::from_utf8(answer.payload.to_vec())?)
}

#[tokio::test]
async fn a_function_sends_requests_where_its_manifest_and_the_operator_let_it() -> Result<()> {
    let mut stage = Stage::with(&[]).await?;
    let url = server().await?;
    stage.folder.write_manifest("sender", &format!("[grants.http]\nallow = [{url:?}, \"http://10.0.0.1\"]\n"))?;
    stage.folder.install("sender", &http_guest()?)?;
    let plan = stage.host_with("[security]\negress_networks = [\"127.0.0.1/32\"]\n")?;
    let _host = plan.start_ready(&["sender"]).await?;
    for (order, answer) in [
        (format!("get {url}/"), "200 5"),
        ("get http://10.0.0.1/".into(), "ErrorCode::DestinationIpProhibited"),
        ("get http://example.com/".into(), "ErrorCode::HttpRequestDenied"),
    ] {
        assert_eq!(told(&mut stage, "sender", &order).await?, answer, "{order}");
    }
    Ok(())
}

#[tokio::test]
async fn without_the_operators_word_the_loopback_is_closed_and_the_functions_log_says_why() -> Result<()> {
    let mut stage = Stage::with(&[]).await?;
    let url = server().await?;
    stage.folder.write_manifest("sender", &format!("[grants.http]\nallow = [{url:?}]\n"))?;
    stage.folder.install("sender", &http_guest()?)?;
    let mut host = stage.host().start_ready(&["sender"]).await?;
    let answer = told(&mut stage, "sender", &format!("get {url}/")).await?;
    assert_eq!(answer, "ErrorCode::DestinationIpProhibited");
    let said = |line: &str| line.contains("egress_networks") && line.contains("loopback");
    host.lines().wait_for_several(1, PATIENCE, said).await?;
    ensure!(host.runs()?, "the host lives");
    Ok(())
}

#[tokio::test]
async fn without_the_grant_a_component_that_sends_is_refused_with_the_lines_to_add() -> Result<()> {
    let stage = Stage::with(&[]).await?;
    stage.folder.install("sender", &http_guest()?)?;
    let host = stage.host().start().await?;
    let said = |line: &str| line.contains("default/sender") && line.contains("[grants.http]");
    let lines = host.lines().wait_for_several(1, PATIENCE, said).await?.concat();
    ensure!(lines.contains("wasi:http/outgoing-handler@0.2."), "{lines}");
    Ok(())
}

/// How many directories of calls lie below the data folder.
fn left(data: &Path) -> Result<usize> {
    let mut calls = 0;
    for process in fs::read_dir(data.join("scratch"))? {
        let process = process?.path();
        if process.is_dir() {
            calls += fs::read_dir(process)?.count();
        }
    }
    Ok(calls)
}

#[tokio::test]
async fn scratch_files_have_a_quota_and_go_with_the_call_or_after_a_crash_with_the_next_start() -> Result<()> {
    let mut stage = Stage::with(&[]).await?;
    let data = tempfile::tempdir()?;
    stage.folder.write_manifest("files", "[grants.scratch]\nbytes = 100000\nfiles = 10\n")?;
    stage.folder.install("files", &scratch_guest()?)?;
    let mut host = stage.host().data(data.path()).start_ready(&["files"]).await?;
    for (order, answer) in [
        ("round-trip", "hello, file in g of 11 bytes"),
        ("write 100000", "written"),
        ("write 100001", "I/O error (os error 29)"),
        ("files 11", "No space left on device (os error 51)"),
        ("outside", "closed"),
    ] {
        assert_eq!(told(&mut stage, "files", order).await?, answer, "{order}");
    }
    let gone = async {
        while left(data.path()).ok() != Some(0) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, gone).await?;
    // What a crash leaves: the process's folder, with a file that a call was at.
    host.kill9().await?;
    let processes = || fs::read_dir(data.path().join("scratch")).map(|entries| entries.flatten().collect::<Vec<_>>());
    let crashed = processes()?.into_iter().find(|entry| entry.path().is_dir()).expect("the crash left its folder");
    fs::create_dir(crashed.path().join("7"))?;
    fs::write(crashed.path().join("7/f"), "x")?;
    let _next = stage.host().data(data.path()).start_ready(&["files"]).await?;
    ensure!(!crashed.path().exists(), "the next start removes it");
    assert_eq!(told(&mut stage, "files", "left").await?, "0");
    Ok(())
}
