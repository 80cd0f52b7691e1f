//! The witness: guests tell it over HTTP when an attempt begins and ends, and it sees their connections close.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use anyhow::Result;
use serde_json::{Map, Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use crate::history::{Book, History};

/// The longest head of a request.
const HEAD_BYTES_MAX: usize = 8 * 1024;

/// Listens until it is dropped.
#[derive(Debug)]
pub(crate) struct Collector {
    authority: String,
    task: JoinHandle<()>,
}

impl Collector {
    /// On a free port of this machine.
    ///
    /// # Errors
    /// If there is none.
    pub(crate) async fn start(history: Arc<History>) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let authority = listener.local_addr()?.to_string();
        let number = Arc::new(AtomicU64::new(1));
        let task = tokio::spawn(async move {
            loop {
                // What a guest gave up before it was accepted began nothing.
                let Ok((stream, _)) = listener.accept().await else { continue };
                let (history, number) = (Arc::clone(&history), Arc::clone(&number));
                tokio::spawn(async move {
                    // A guest that dies in the middle of a request has begun, or ended, nothing.
                    _ = hear(stream, &history, &number).await;
                });
            }
        });
        Ok(Self { authority, task })
    }

    /// Address and port, as a manifest has them.
    #[must_use]
    pub(crate) fn authority(&self) -> &str {
        &self.authority
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn hear(mut stream: TcpStream, history: &History, number: &AtomicU64) -> Result<()> {
    let mut head = Vec::new();
    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
        if head.len() > HEAD_BYTES_MAX || stream.read_buf(&mut head).await? == 0 {
            return Ok(());
        }
    }
    let text = String::from_utf8_lossy(&head);
    let Some((path, query)) = text.split(' ').nth(1).and_then(|target| target.split_once('?')) else { return Ok(()) };
    let mut line = words(query);
    match path {
        "/begin" => {
            let execution = number.fetch_add(1, Relaxed);
            line.insert("ev".into(), "begin".into());
            line.insert("x".into(), execution.to_string().into());
            history.write(Book::Guests, line.into());
            // No length: the answer ends with the connection, and the connection with the attempt.
            let answer = format!("HTTP/1.1 200 OK\r\nx-execution: {execution}\r\n\r\n");
            _ = stream.write_all(answer.as_bytes()).await;
            while stream.read_buf(&mut head).await.is_ok_and(|bytes| bytes > 0) {
                head.clear();
            }
            history.write(Book::Guests, json!({"ev": "gone", "x": execution.to_string()}));
        }
        "/end" => {
            line.insert("ev".into(), "end".into());
            history.write(Book::Guests, line.into());
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").await?;
        }
        _other => {}
    }
    Ok(())
}

/// The words of a query; guests send none that need an escape.
fn words(query: &str) -> Map<String, Value> {
    let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    pairs.map(|(name, value)| (name.to_owned(), Value::from(value))).collect()
}
