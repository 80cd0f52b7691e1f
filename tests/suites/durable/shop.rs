//! What these tests share: the sample `order` with the services that it calls, and how executions are asked over HTTP.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use baton_tests::settings::PATIENCE;
use baton_tests::{Host, Http, HttpAnswer, Stage, saga_guest, until};
use serde_json::Value;

/// The functions of the shop.
pub(crate) const SHOP: [&str; 3] = ["order", "echo", "sleep"];

/// A stage with the shop in its folder.
pub(crate) async fn stage() -> Result<Stage> {
    let stage = Stage::with(&SHOP).await?;
    stage.folder.write_manifest("order", "[grants.calls]\nfunctions = [\"echo\", \"sleep\"]\n")?;
    Ok(stage)
}

/// A stage with a function `order` that is the guest of tests/guests/saga.
pub(crate) async fn sagas() -> Result<Stage> {
    let stage = stage().await?;
    stage.folder.install("order", &saga_guest()?)?;
    Ok(stage)
}

/// One host of it, and the way to it over HTTP.
pub(crate) async fn open(stage: &Stage) -> Result<(Host, Http)> {
    let host = stage.host().http().start_ready(&SHOP).await?;
    let http = Http::of(&host).await?;
    Ok((host, http))
}

/// An execution of `order`.
pub(crate) struct Order<'a> {
    pub(crate) http: &'a Http,
    pub(crate) id: String,
}

impl<'a> Order<'a> {
    /// Begins one that is to be paid in so long.
    pub(crate) async fn of(http: &'a Http, price: u64, patience: Duration) -> Result<Self> {
        let input = format!(r#"{{"item":"lamp","price":{price},"patience_ms":{}}}"#, patience.as_millis());
        Self::with(http, &input).await
    }

    /// Begins one with this input.
    pub(crate) async fn with(http: &'a Http, input: &str) -> Result<Self> {
        let begun = http.post("/v1/exec/order", input.to_owned()).await?.expect(202)?.json()?;
        Ok(Self { http, id: begun["id"].as_str().context("it has an id")?.to_owned() })
    }

    fn path(&self, what: &str) -> String {
        format!("/v1/exec/default/order/{}{what}", self.id)
    }

    /// Pays so much, under this event id.
    pub(crate) async fn pay(&self, amount: u64, event: &str) -> Result<Value> {
        let body = format!(r#"{{"amount":{amount}}}"#);
        let path = self.path("/events/payment");
        self.http.post_with(&path, &[("idempotency-key", event)], body).await?.expect(202)?.json()
    }

    /// Sends an event that says nothing more, under this event id.
    pub(crate) async fn tell(&self, name: &str, event: &str) -> Result<HttpAnswer> {
        let path = self.path(&format!("/events/{name}"));
        self.http.post_with(&path, &[("idempotency-key", event)], "").await
    }

    pub(crate) async fn show(&self) -> Result<Value> {
        self.http.get(&self.path("")).await?.expect(200)?.json()
    }

    /// Its log, oldest first. There are no gaps in it.
    pub(crate) async fn history(&self) -> Result<Vec<Value>> {
        let history = self.http.get(&self.path("/history")).await?.expect(200)?.json()?;
        let events = history["events"].as_array().context("a list of events")?.clone();
        for (event, position) in events.iter().zip(1..) {
            ensure!(event["position"] == position, "{events:?}");
        }
        Ok(events)
    }

    /// The words of its log.
    pub(crate) async fn words(&self) -> Result<Vec<String>> {
        let word = |event: &Value| event["event"].as_str().unwrap_or_default().to_owned();
        Ok(self.history().await?.iter().map(word).collect())
    }

    /// Waits until this is the last word of its log.
    pub(crate) async fn until_last(&self, word: &str) -> Result<()> {
        let last = async || Ok(self.words().await?.last().filter(|last| *last == word).map(|_| ()));
        until(&format!("the log of {} ends with {word}", self.id), PATIENCE, last).await
    }

    /// What a call of it is answered with, once it has ended.
    pub(crate) async fn result(&self) -> Result<HttpAnswer> {
        self.http.get(&self.path("/result?wait=30s")).await
    }
}

/// Waits until an execution is stuck; gives why.
pub(crate) async fn stuck(order: &Order<'_>) -> Result<String> {
    until("it is stuck", PATIENCE, async || Ok(order.show().await?["stuck"].as_str().map(str::to_owned))).await
}
