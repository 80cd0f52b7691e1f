//! TLS: the handshake, its limits, and certificates that are replaced while the gateway runs.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use baton_gateway::TlsFiles;
use rustls::crypto::ring;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::stage::{PATIENCE, Stage};

/// A new key and a certificate that it signed itself, written into this folder.
fn write_pair(dir: &Path) -> Result<CertificateDer<'static>> {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()])?;
    std::fs::write(dir.join("cert.pem"), made.cert.pem())?;
    std::fs::write(dir.join("key.pem"), made.signing_key.serialize_pem())?;
    Ok(made.cert.der().clone())
}

async fn stage(dir: &TempDir, connections_max: usize) -> Result<Stage> {
    let files = TlsFiles { cert: dir.path().join("cert.pem"), key: dir.path().join("key.pem") };
    Stage::with(|config| {
        config.tls = Some(files);
        config.tls_look = Duration::from_millis(10);
        config.header_time_max = Duration::from_millis(500);
        config.connections_max = connections_max;
    })
    .await
}

/// Asks for `/livez` as somebody who trusts these certificates; says what came back, and which certificate was shown.
async fn ask(stage: &Stage, trusted: &[&CertificateDer<'static>]) -> Result<(String, CertificateDer<'static>)> {
    let mut roots = RootCertStore::empty();
    for cert in trusted {
        roots.add((*cert).clone())?;
    }
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let stream = TcpStream::connect(stage.address).await?;
    let connect = TlsConnector::from(Arc::new(config)).connect(ServerName::try_from("localhost")?, stream);
    let mut stream = tokio::time::timeout(PATIENCE, connect).await??;
    stream.write_all(b"GET /livez HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").await?;
    let shown = stream.get_ref().1.peer_certificates().and_then(<[_]>::first).context("a certificate")?.clone();
    let mut said = Vec::new();
    tokio::time::timeout(PATIENCE, stream.read_to_end(&mut said)).await??;
    Ok((String::from_utf8_lossy(&said).into_owned(), shown.into_owned()))
}

#[tokio::test]
async fn with_a_certificate_it_speaks_tls_and_nothing_else() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let cert = write_pair(dir.path())?;
    let stage = stage(&dir, 100).await?;
    let (said, _) = ask(&stage, &[&cert]).await?;
    assert!(said.starts_with("HTTP/1.1 200 ") && said.contains("live"), "{said}");
    let other = write_pair(tempfile::tempdir()?.path())?;
    assert!(ask(&stage, &[&other]).await.is_err(), "whoever trusts somebody else hears nothing");
    let mut plain = TcpStream::connect(stage.address).await?;
    plain.write_all(b"GET /livez HTTP/1.1\r\nhost: localhost\r\n\r\n").await?;
    let mut said = Vec::new();
    // It may be closed or reset; whatever came before is no HTTP.
    _ = tokio::time::timeout(PATIENCE, plain.read_to_end(&mut said)).await?;
    assert!(!said.starts_with(b"HTTP"), "{said:?}");
    Ok(())
}

#[tokio::test]
async fn a_handshake_that_does_not_come_about_gives_its_place_free() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let cert = write_pair(dir.path())?;
    let stage = stage(&dir, 1).await?;
    let mut silent = TcpStream::connect(stage.address).await?;
    let mut said = Vec::new();
    tokio::time::timeout(PATIENCE, silent.read_to_end(&mut said)).await??;
    assert!(said.is_empty(), "{said:?}");
    // There is one place for a connection, and the silent one had it until a moment ago.
    let answered = async {
        while !ask(&stage, &[&cert]).await.is_ok_and(|(said, _)| said.starts_with("HTTP/1.1 200 ")) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, answered).await?;
    Ok(())
}

#[tokio::test]
async fn a_new_certificate_is_taken_while_it_runs() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let first = write_pair(dir.path())?;
    let stage = stage(&dir, 100).await?;
    assert_eq!(ask(&stage, &[&first]).await?.1, first);
    let second = write_pair(dir.path())?;
    let replaced = async {
        while ask(&stage, &[&first, &second]).await?.1 != second {}
        anyhow::Ok(())
    };
    tokio::time::timeout(PATIENCE, replaced).await??;
    Ok(())
}

#[tokio::test]
async fn a_certificate_without_its_key_is_told_at_the_start() -> Result<()> {
    let (one, other) = (tempfile::tempdir()?, tempfile::tempdir()?);
    write_pair(one.path())?;
    write_pair(other.path())?;
    let files = TlsFiles { cert: one.path().join("cert.pem"), key: other.path().join("key.pem") };
    let Err(error) = Stage::with(|config| config.tls = Some(files)).await else { panic!("they do not fit") };
    assert!(error.to_string().contains("cert.pem") && error.to_string().contains("key.pem"), "{error}");
    let Err(error) = stage(&tempfile::tempdir()?, 100).await else { panic!("there is none") };
    assert!(error.to_string().contains("cannot be read"), "{error}");
    Ok(())
}
