//! The caller of the message path: speaks the protocol of Redis itself, so that a caller's cost is small and the same
//! for everything that is measured.
//!
//! Calls go out in one write for as many as are due, on one connection; notices come in on another. A call is known by
//! the number in its payload, which every function that is measured gives back.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use baton_model::ResultDocument;
use baton_tests::cpu_time;
use baton_tests::settings::PREFIX;
use bytes::Bytes;
use hdrhistogram::Histogram;
use memchr::memmem;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

/// The size of every payload.
const PAYLOAD_BYTES: usize = 100;
/// What stands before the number in a payload.
const BEFORE: &str = r#"{"name":""#;
/// Digits of the number.
const DIGITS: usize = 8;
/// How many calls may lie between the oldest one in flight and the newest.
const RING: usize = 1 << 16;
/// How long nobody answers before it is given up.
const SILENCE_MAX: Duration = Duration::from_secs(10);

/// A payload that `echo` gives back and `hello` greets, with a number in it.
pub(crate) fn payload(number: u32) -> Vec<u8> {
    let fill = "x".repeat(PAYLOAD_BYTES - BEFORE.len() - DIGITS - 2);
    format!("{BEFORE}{number:0DIGITS$}{fill}\"}}").into_bytes()
}

/// What one window measured.
#[derive(Debug)]
pub(crate) struct Window {
    pub(crate) calls: u64,
    pub(crate) lasted: Duration,
    /// In microseconds.
    pub(crate) latency: Histogram<u64>,
    /// The CPU time that each of the watched processes used.
    pub(crate) cpu: Vec<Duration>,
}

/// A caller of one function.
pub(crate) struct Flood {
    commands: UnixStream,
    notices: UnixStream,
    before: Vec<u8>,
    after: Vec<u8>,
    batch: Vec<u8>,
    heard: Vec<u8>,
    in_flight: usize,
    next: u32,
    sent: Vec<Option<Instant>>,
}

impl Flood {
    /// Connects and subscribes.
    pub(crate) async fn start(socket: &Path, function: &str) -> Result<Self> {
        // A channel for each function: callers of several number their calls alike.
        let reply = format!("flood-{}-{}", std::process::id(), function.replace('/', "-"));
        let channel = format!("{PREFIX}:reply:{reply}");
        let mut notices = UnixStream::connect(socket).await?;
        notices.write_all(&command(&[b"SUBSCRIBE", channel.as_bytes()])).await?;
        let confirmed = format!("*3\r\n$9\r\nsubscribe\r\n${}\r\n{channel}\r\n:1\r\n", channel.len());
        let mut answer = vec![0; confirmed.len()];
        notices.read_exact(&mut answer).await?;
        ensure!(answer == confirmed.as_bytes(), "Redis answers SUBSCRIBE with {:?}", String::from_utf8_lossy(&answer));
        let calls = format!("{PREFIX}:{{{function}}}:calls");
        let whole = command(&[b"XADD", calls.as_bytes(), b"*", b"payload", &payload(0), b"reply", reply.as_bytes()]);
        let at = memmem::find(&whole, BEFORE.as_bytes()).context("the payload is in the command")? + BEFORE.len();
        Ok(Self {
            commands: UnixStream::connect(socket).await?,
            notices,
            before: whole[..at].to_vec(),
            after: whole[at + DIGITS..].to_vec(),
            batch: Vec::new(),
            heard: Vec::new(),
            in_flight: 0,
            next: 0,
            sent: vec![None; RING],
        })
    }

    /// Keeps `in_flight` calls under way, first to warm up, then for the measured window, and waits for the last
    /// answers. `watched` are processes whose CPU time is read at both ends of the window.
    pub(crate) async fn run(
        &mut self,
        in_flight: usize,
        warm_up: Duration,
        lasts: Duration,
        watched: &[u32],
    ) -> Result<Window> {
        let mut latency = Histogram::new(3)?;
        let cpu = || watched.iter().map(|pid| cpu_time(*pid)).collect::<Result<Vec<_>>>();
        self.send(in_flight).await?;
        let start = Instant::now();
        while start.elapsed() < warm_up {
            let answered = self.listen(|_, _| Ok(())).await?;
            self.send(answered).await?;
        }
        let (begin, before) = (Instant::now(), cpu()?);
        let mut calls = 0;
        while begin.elapsed() < lasts {
            let answered =
                self.listen(|took, _| Ok(latency.record(u64::try_from(took.as_micros()).unwrap_or(u64::MAX))?)).await?;
            calls += answered as u64;
            self.send(answered).await?;
        }
        let (lasted, after) = (begin.elapsed(), cpu()?);
        while self.in_flight > 0 {
            self.listen(|_, _| Ok(())).await?;
        }
        let cpu = after.into_iter().zip(before).map(|(after, before)| after.saturating_sub(before)).collect();
        Ok(Window { calls, lasted, latency, cpu })
    }

    /// Makes one call and gives its result.
    pub(crate) async fn call(&mut self) -> Result<ResultDocument> {
        self.send(1).await?;
        let mut result = None;
        while result.is_none() {
            self.listen(|_, document| {
                result = Some(ResultDocument::decode(&mut Bytes::copy_from_slice(document))?);
                Ok(())
            })
            .await?;
        }
        result.context("a result came")
    }

    /// Adds so many calls in one write. What Redis answers to earlier ones is read meanwhile.
    async fn send(&mut self, count: usize) -> Result<()> {
        if count == 0 {
            return Ok(());
        }
        self.batch.clear();
        let now = Instant::now();
        for _ in 0..count {
            let slot = &mut self.sent[self.next as usize % RING];
            ensure!(slot.is_none(), "a call was overtaken by {RING} others");
            *slot = Some(now);
            self.batch.extend_from_slice(&self.before);
            self.batch.extend_from_slice(format!("{:0DIGITS$}", self.next).as_bytes());
            self.batch.extend_from_slice(&self.after);
            self.next += 1;
        }
        self.in_flight += count;
        self.commands.write_all(&self.batch).await?;
        self.read_answers()
    }

    /// Reads the ids of accepted calls, as far as they are there.
    fn read_answers(&self) -> Result<()> {
        let mut answers = [0; 16 << 10];
        loop {
            match self.commands.try_read(&mut answers) {
                Ok(0) => bail!("Redis hung up"),
                Ok(n) => {
                    let said = &answers[..n];
                    if said[0] == b'-' || memmem::find(said, b"\n-").is_some() {
                        bail!("Redis refuses a call: {}", String::from_utf8_lossy(said));
                    }
                }
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Waits for notices. `each` gets how long a call took and its document. Gives the number of answered calls.
    async fn listen(&mut self, mut each: impl FnMut(Duration, &[u8]) -> Result<()>) -> Result<usize> {
        self.heard.reserve(64 << 10);
        let read = tokio::time::timeout(SILENCE_MAX, self.notices.read_buf(&mut self.heard)).await;
        let read = read.with_context(|| format!("{} calls were not answered for {SILENCE_MAX:?}", self.in_flight))?;
        ensure!(read? > 0, "Redis hung up");
        let now = Instant::now();
        let mut answered = 0;
        let mut at = 0;
        while let Some((message, end)) = message(&self.heard, at)? {
            let mut documents = &self.heard[message..end];
            while !documents.is_empty() {
                let (number, length) = document(documents)?;
                let sent = self.sent[number as usize % RING].take().context("an answer that nobody waits for")?;
                each(now.saturating_duration_since(sent), &documents[..length])?;
                documents = &documents[length..];
                answered += 1;
            }
            at = end + 2;
        }
        self.heard.drain(..at);
        self.in_flight -= answered;
        Ok(answered)
    }
}

/// A command as Redis reads it.
fn command(parts: &[&[u8]]) -> Vec<u8> {
    let mut out = format!("*{}\r\n", parts.len()).into_bytes();
    for part in parts {
        out.extend_from_slice(format!("${}\r\n", part.len()).as_bytes());
        out.extend_from_slice(part);
        out.extend_from_slice(b"\r\n");
    }
    out
}

/// Where the text of the message that starts at `at` begins and ends. None if it is not whole yet.
fn message(heard: &[u8], at: usize) -> Result<Option<(usize, usize)>> {
    let mut at = at;
    let Some(parts) = number_after(heard, &mut at, b'*')? else { return Ok(None) };
    ensure!(parts == 3, "a message has three parts, not {parts}");
    for part in 0..3 {
        let Some(length) = number_after(heard, &mut at, b'$')? else { return Ok(None) };
        let end = at + length;
        if heard.len() < end + 2 {
            return Ok(None);
        }
        if part == 2 {
            return Ok(Some((at, end)));
        }
        at = end + 2;
    }
    Ok(None)
}

/// The number in a line such as `$12`, which starts with `sign` at `at`; moves `at` behind it.
fn number_after(heard: &[u8], at: &mut usize, sign: u8) -> Result<Option<usize>> {
    let Some(line) = heard.get(*at..).filter(|rest| !rest.is_empty()) else { return Ok(None) };
    ensure!(line[0] == sign, "Redis says {:?}", String::from_utf8_lossy(&line[..line.len().min(80)]));
    let Some(end) = memchr::memchr(b'\n', line) else { return Ok(None) };
    *at += end + 1;
    Ok(Some(std::str::from_utf8(&line[1..end - 1])?.parse()?))
}

/// The number of the call whose document stands at the front, and the document's length.
fn document(text: &[u8]) -> Result<(u32, usize)> {
    let say = || String::from_utf8_lossy(&text[..text.len().min(300)]).into_owned();
    let line = memchr::memchr(b'\n', text).with_context(|| format!("no line in {}", say()))?;
    ensure!(text.starts_with(br#"{"status":"ok""#), "a call failed: {}", say());
    const LENGTH: &[u8] = br#""length":"#;
    let at = memmem::find(&text[..line], LENGTH).with_context(|| format!("no length in {}", say()))? + LENGTH.len();
    let digits = |text: &[u8]| text.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let length: usize = std::str::from_utf8(&text[at..at + digits(&text[at..])])?.parse()?;
    let end = line + 1 + length;
    let body = text.get(line + 1..end).with_context(|| format!("a short document: {}", say()))?;
    let first = body.iter().position(u8::is_ascii_digit).with_context(|| format!("no number in {}", say()))?;
    let number = std::str::from_utf8(&body[first..first + DIGITS])?.parse()?;
    Ok((number, end))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_are_taken_apart_by_their_lengths() -> Result<()> {
        let one = b"{\"status\":\"ok\",\"id\":\"1-0\",\"length\":9}\n\"00000042";
        let two = [&one[..], one].concat();
        assert_eq!(document(&two)?, (42, one.len()));
        assert!(document(&one[..one.len() - 1]).is_err(), "a cut one is refused");
        Ok(())
    }

    #[test]
    fn a_message_is_read_when_it_is_whole() -> Result<()> {
        let text = command(&[b"message", b"channel", b"text"]);
        assert_eq!(message(&text, 0)?.map(|(start, end)| &text[start..end]), Some(&b"text"[..]));
        for cut in 0..text.len() {
            assert_eq!(message(&text[..cut], 0)?, None, "cut at {cut}");
        }
        Ok(())
    }

    #[test]
    fn every_payload_has_the_same_size() {
        assert_eq!(payload(0).len(), PAYLOAD_BYTES);
        assert_eq!(payload(99_999_999).len(), PAYLOAD_BYTES);
    }
}
