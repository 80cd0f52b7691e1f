//! A client of a host's HTTP that says what came back and judges nothing.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use reqwest::{Client, Method};
use serde_json::Value;

use crate::host::Host;
use crate::settings::PATIENCE;

/// Asks one host.
#[derive(Debug, Clone)]
pub struct Http {
    client: Client,
    base: String,
}

/// An answer, read to its end.
#[derive(Debug)]
pub struct HttpAnswer {
    /// Its status.
    pub status: u16,
    /// Its body.
    pub body: Bytes,
    headers: Vec<(String, String)>,
}

impl HttpAnswer {
    /// A header as text; empty if it is not there.
    #[must_use]
    pub fn header(&self, name: &str) -> &str {
        self.headers.iter().find(|(have, _)| have == name).map_or("", |(_, value)| value)
    }

    /// Its body as JSON.
    ///
    /// # Errors
    /// If it is none.
    pub fn json(&self) -> Result<Value> {
        serde_json::from_slice(&self.body).with_context(|| format!("this is no JSON: {self:?}"))
    }

    /// Whether it has this status.
    ///
    /// # Errors
    /// If not; the message has all of it.
    pub fn expect(self, status: u16) -> Result<Self> {
        ensure!(self.status == status, "status {status} was expected: {self:?}");
        Ok(self)
    }

    /// Whether it is a problem with this status and word, and says what is wrong; such with 503 say when to come back.
    ///
    /// # Errors
    /// If not; the message has all of it.
    pub fn problem(self, status: u16, code: &str) -> Result<Self> {
        let answer = self.expect(status)?;
        ensure!(answer.header("content-type") == "application/problem+json", "{answer:?}");
        let problem = answer.json()?;
        ensure!(problem["code"] == code && problem["status"] == status, "{code} was expected: {answer:?}");
        ensure!(problem["detail"].as_str().is_some_and(|detail| !detail.is_empty()), "it explains nothing: {answer:?}");
        ensure!(status != 503 || answer.header("retry-after").parse::<u64>().is_ok(), "come back when? {answer:?}");
        Ok(answer)
    }
}

impl Http {
    /// Of this host, once it listens.
    ///
    /// # Errors
    /// If it serves no HTTP.
    pub async fn of(host: &Host) -> Result<Self> {
        Self::at(&host.http().await?)
    }

    /// Of whoever listens at this base URL, such as `http://127.0.0.1:40001`.
    ///
    /// # Errors
    /// If the system gives no client.
    pub fn at(base: &str) -> Result<Self> {
        let client = Client::builder().no_proxy().timeout(PATIENCE + Duration::from_secs(1)).build()?;
        Ok(Self { client, base: base.to_owned() })
    }

    /// `GET`.
    ///
    /// # Errors
    /// If there is no answer.
    pub async fn get(&self, path: &str) -> Result<HttpAnswer> {
        self.ask(Method::GET, path, &[], "").await
    }

    /// `GET` with these headers.
    ///
    /// # Errors
    /// If there is no answer.
    pub async fn get_with(&self, path: &str, headers: &[(&str, &str)]) -> Result<HttpAnswer> {
        self.ask(Method::GET, path, headers, "").await
    }

    /// `POST` with a body of JSON.
    ///
    /// # Errors
    /// If there is no answer.
    pub async fn post(&self, path: &str, body: impl Into<Bytes>) -> Result<HttpAnswer> {
        self.post_with(path, &[("content-type", "application/json")], body).await
    }

    /// `POST` with these headers.
    ///
    /// # Errors
    /// If there is no answer.
    pub async fn post_with(&self, path: &str, headers: &[(&str, &str)], body: impl Into<Bytes>) -> Result<HttpAnswer> {
        self.ask(Method::POST, path, headers, body).await
    }

    /// `DELETE` with these headers.
    ///
    /// # Errors
    /// If there is no answer.
    pub async fn delete_with(&self, path: &str, headers: &[(&str, &str)]) -> Result<HttpAnswer> {
        self.ask(Method::DELETE, path, headers, "").await
    }

    async fn ask(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> Result<HttpAnswer> {
        let mut request = self.client.request(method, format!("{}{path}", self.base));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let answer = request.body(body.into()).send().await.with_context(|| format!("{path} is not answered"))?;
        let text = |value: &reqwest::header::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
        let headers = answer.headers().iter().map(|(name, value)| (name.to_string(), text(value))).collect();
        Ok(HttpAnswer { status: answer.status().as_u16(), headers, body: answer.bytes().await? })
    }
}
