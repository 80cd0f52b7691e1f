//! TLS to Redis: whom we trust, and who we are.

use std::path::Path;
use std::sync::Arc;

use anyhow::Result;
use baton_tests::{Commands, Stage};
use rcgen::{CertifiedKey, KeyPair};
use rustls::RootCertStore;
use rustls::crypto::ring;
use rustls::pki_types::PrivateKeyDer;
use rustls::server::{ServerConfig, WebPkiClientVerifier};
use tokio::net::{TcpListener, UnixStream};
use tokio_rustls::TlsAcceptor;

type Made = CertifiedKey<KeyPair>;

fn made(dir: &Path, name: &str) -> Result<Made> {
    let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()])?;
    std::fs::write(dir.join(format!("{name}.pem")), made.cert.pem())?;
    std::fs::write(dir.join(format!("{name}.key")), made.signing_key.serialize_pem())?;
    Ok(made)
}

/// Speaks TLS before the Redis on `socket`, to clients that show the certificate of `client`; gives its URL.
async fn tls_before(socket: &Path, server: &Made, client: &Made) -> Result<String> {
    let provider = Arc::new(ring::default_provider());
    let mut roots = RootCertStore::empty();
    roots.add(client.cert.der().clone())?;
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone()).build()?;
    let key = PrivateKeyDer::try_from(server.signing_key.serialize_der()).map_err(anyhow::Error::msg)?;
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_client_cert_verifier(verifier)
        .with_single_cert(vec![server.cert.der().clone()], key)?;
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("rediss://{}", listener.local_addr()?);
    let socket = socket.to_owned();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (acceptor, socket) = (acceptor.clone(), socket.clone());
            tokio::spawn(async move {
                let mut client = acceptor.accept(stream).await?;
                let mut redis = UnixStream::connect(socket).await?;
                tokio::io::copy_bidirectional(&mut client, &mut redis).await
            });
        }
    });
    Ok(url)
}

#[tokio::test]
async fn redis_is_reached_over_tls_by_those_who_trust_it_and_are_trusted() -> Result<()> {
    let stage = Stage::with(&["hello"]).await?;
    let _host = stage.host().start_ready(&["hello"]).await?;
    let dir = tempfile::tempdir()?;
    let (server, client) = (made(dir.path(), "server")?, made(dir.path(), "client")?);
    let url = tls_before(&stage.redis.socket(), &server, &client).await?;
    let call = async |tls: &str| {
        std::fs::write(dir.path().join("baton.toml"), format!("[redis]\nurl = {url:?}\n{tls}"))?;
        Commands::alone().within(dir.path()).run(&["call", "hello", "--data", r#"{"name":"Ada"}"#]).await
    };
    let whole = "tls_ca = \"server.pem\"\ntls_cert = \"client.pem\"\ntls_key = \"client.key\"\n";
    let answered = call(whole).await?.expect(0)?;
    assert_eq!(answered.stdout.trim_end(), r#"{"greeting":"Hello, Ada"}"#);
    for (tls, why) in [
        ("tls_cert = \"client.pem\"\ntls_key = \"client.key\"\n", "nobody whom this machine trusts vouches for it"),
        ("tls_ca = \"client.pem\"\n", "somebody else is trusted"),
        ("tls_ca = \"server.pem\"\n", "it asks who we are"),
        ("tls_ca = \"server.pem\"\ntls_cert = \"server.pem\"\ntls_key = \"server.key\"\n", "it does not know us"),
    ] {
        let refused = call(tls).await?.expect(4)?;
        assert!(refused.stderr.contains("cannot reach Redis"), "{why}: {refused:?}");
    }
    Ok(())
}

#[tokio::test]
async fn settings_for_tls_that_cannot_work_are_told_with_the_mend() -> Result<()> {
    let dir = tempfile::tempdir()?;
    made(dir.path(), "server")?;
    for (settings, expected) in [
        ("[redis]\nurl = \"redis://127.0.0.1:1\"\ntls_ca = \"server.pem\"", "rediss://"),
        ("[redis]\nurl = \"rediss://127.0.0.1:1\"\ntls_ca = \"nobody.pem\"", "nobody.pem"),
        ("[redis]\nurl = \"rediss://127.0.0.1:1\"\ntls_ca = \"server.key\"", "server.key"),
        ("[redis]\nurl = \"rediss://127.0.0.1:1\"\ntls_cert = \"server.pem\"", "redis.tls_key"),
        ("[http]\ntls_cert = \"server.pem\"", "http.tls_key"),
    ] {
        std::fs::write(dir.path().join("baton.toml"), settings)?;
        let refused = Commands::alone().within(dir.path()).run(&["serve", "--data", "."]).await?.expect(2)?;
        assert!(refused.stderr.contains(expected), "{settings}: {refused:?}");
    }
    Ok(())
}
