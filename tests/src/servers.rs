//! Servers for functions to send requests to: one that answers, and some that mean ill.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// How long a server that drips waits before each byte.
const DRIP: Duration = Duration::from_millis(20);

/// What a server does on each connection, once it has heard something.
#[derive(Debug, Clone)]
pub enum Manner {
    /// It sends this, and waits for the client to go.
    Sends(String),
    /// It begins an answer, and sends pieces of it without an end, as fast as they are taken.
    Floods,
    /// It sends one byte after the other, with a pause before each, and the head of its answer has no end.
    Drips,
    /// It says nothing.
    Silent,
}

impl Manner {
    /// An answer with this status, such as `200 OK`, and this body.
    #[must_use]
    pub fn answer(status: &str, headers: &[(&str, &str)], body: &str) -> Self {
        let headers: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        Self::Sends(format!("HTTP/1.1 {status}\r\n{headers}content-length: {}\r\n\r\n{body}", body.len()))
    }

    async fn serve(&self, mut stream: TcpStream) -> std::io::Result<()> {
        let mut heard = [0; 4_096];
        if stream.read(&mut heard).await? == 0 {
            return Ok(());
        }
        match self {
            Self::Sends(text) => stream.write_all(text.as_bytes()).await?,
            Self::Floods => {
                stream.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").await?;
                let piece = [b"4000\r\n", &[b'x'; 0x4000][..], b"\r\n"].concat();
                loop {
                    stream.write_all(&piece).await?;
                }
            }
            Self::Drips => {
                stream.write_all(b"HTTP/1.1 200 OK\r\nx: ").await?;
                loop {
                    tokio::time::sleep(DRIP).await;
                    stream.write_all(b"y").await?;
                }
            }
            Self::Silent => {}
        }
        while stream.read(&mut heard).await? > 0 {}
        Ok(())
    }
}

/// Serves at a free port of this address of the machine, as long as the test's runtime lives. Gives where.
///
/// # Errors
/// If the machine has no such address.
pub async fn serve(at: impl Into<IpAddr>, manner: Manner) -> Result<SocketAddr> {
    let listener = TcpListener::bind((at.into(), 0)).await?;
    let address = listener.local_addr()?;
    let manner = Arc::new(manner);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let manner = Arc::clone(&manner);
            // A client that goes is what these servers end by.
            tokio::spawn(async move { drop(manner.serve(stream).await) });
        }
    });
    Ok(address)
}
