//! Orders by chance: what is ordered, what is paid when, and what came of it, as the judge in tests/faults reads it.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use baton_tests::{Http, HttpAnswer};
use fastrand::Rng;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep, sleep_until};

/// How long a caller goes on asking for a result.
const ENDS_WITHIN: Duration = Duration::from_secs(120);
const FOR_EVER_MS: u64 = 3_600_000;
/// What is ordered, and how many of a hundred orders are for it. The clerk of tests/guests says what becomes of each.
const ITEMS: [(&str, u8); 6] =
    [("lamp", 62), ("sold-out", 8), ("fragile", 10), ("flaky", 12), ("lost", 5), ("cursed", 3)];

/// One payment.
#[derive(Debug, Clone)]
struct Payment {
    id: String,
    amount: u64,
    /// After the order was begun.
    after: Duration,
    /// How often it is sent; the same event all the same.
    copies: u8,
    /// Where its sender was told that it stands.
    position: Option<u64>,
}

/// One order.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    id: String,
    begins: Duration,
    item: &'static str,
    price: u64,
    patience_ms: u64,
    /// Whether the payments race against the patience.
    races: bool,
    payments: Vec<Payment>,
    cancels: Option<Duration>,
    is_cancelled: bool,
    answer: Value,
}

impl Plan {
    /// One that begins within `window`, and whose payments are at most `slow` apart.
    pub(crate) fn by_chance(chance: &mut Rng, n: usize, window: Duration, slow: Duration) -> Self {
        let within = |chance: &mut Rng, most: Duration| most.mul_f64(chance.f64());
        let id = format!("order-{n}");
        let mut share = chance.u8(0..100);
        let item = ITEMS
            .iter()
            .find(|(_, of)| {
                share < *of || {
                    share -= of;
                    false
                }
            })
            .map_or("lamp", |(item, _)| item);
        let price = chance.u64(1..1_000);
        let (mut payments, mut paid, mut after) = (Vec::new(), 0, Duration::ZERO);
        // A third of all is paid at once, before anybody waits for it.
        let is_prompt = chance.u8(0..3) == 0;
        for part in 0..chance.usize(2..5) {
            let amount = if part == 2 { price } else { chance.u64(1..=price) };
            if !is_prompt {
                after += within(chance, slow);
            }
            let copies = if chance.u8(0..4) == 0 { 2 } else { 1 };
            payments.push(Payment { id: format!("{id}-{part}"), amount, after, copies, position: None });
            paid += amount;
        }
        let kind = chance.u8(0..100);
        // Those that are never paid in full, those that may be paid too late, and those with all the time that they need.
        let (mut patience_ms, mut races) = (FOR_EVER_MS, false);
        if paid < price || kind < 15 {
            patience_ms = chance.u64(100..1 + 100 + u64::try_from(slow.as_millis()).unwrap_or(1_000));
            races = paid >= price;
        }
        let cancels = (kind >= 92).then(|| within(chance, slow * 2));
        let begins = within(chance, window);
        let (is_cancelled, answer) = (false, Value::Null);
        Self { id, begins, item, price, patience_ms, races, payments, cancels, is_cancelled, answer }
    }

    /// Begins it when its time has come, pays, and waits for its end.
    pub(crate) async fn run(mut self, http: &Http, start: Instant) -> Result<Self> {
        sleep_until(start + self.begins).await;
        let id = self.id.clone();
        self.live(http).await.with_context(|| format!("{id}: {self:?}"))?;
        Ok(self)
    }

    async fn live(&mut self, http: &Http) -> Result<()> {
        let key = [("idempotency-key", self.id.as_str()), ("content-type", "application/json")];
        let begun = http.post_with("/v1/exec/order", &key, self.input().to_string()).await?.expect(202)?.json()?;
        ensure!(begun["id"] == self.id.as_str(), "{begun}");
        let began = Instant::now();
        let place = format!("/v1/exec/default/order/{}", self.id);
        for payment in &mut self.payments {
            match self.cancels {
                Some(cancels) if cancels < payment.after => break,
                _ => sleep_until(began + payment.after).await,
            }
            let path = format!("{place}/events/payment");
            for _ in 0..payment.copies {
                payment.send(http, &path).await?;
            }
        }
        if let Some(cancels) = self.cancels {
            sleep_until(began + cancels).await;
            self.is_cancelled = match http.delete_with(&place, &[]).await? {
                HttpAnswer { status: 200, .. } => true,
                answer => answer.problem(409, "ended").map(|_| false)?,
            };
        }
        loop {
            let answer = http.get(&format!("{place}/result?wait=5s")).await?;
            match answer.status {
                200 | 409 | 422 => {
                    self.answer = json!({ "status": answer.status, "body": answer.json()? });
                    return Ok(());
                }
                404 | 503 if began.elapsed() < ENDS_WITHIN => sleep(Duration::from_millis(50)).await,
                _ => bail!("it has no end: {answer:?}"),
            }
        }
    }

    fn input(&self) -> Value {
        json!({ "item": self.item, "price": self.price, "patience_ms": self.patience_ms })
    }

    /// As the judge reads it.
    pub(crate) fn told(&self) -> Value {
        let payment = |payment: &Payment| {
            let Payment { id, amount, position, .. } = payment;
            json!({ "id": id, "amount": amount, "position": position })
        };
        json!({
            "id": self.id,
            "input": self.input(),
            "payments": self.payments.iter().map(payment).collect::<Vec<_>>(),
            "races": self.races,
            "cancelled": self.is_cancelled,
            "answer": self.answer,
        })
    }
}

impl Payment {
    /// Whoever pays for what has ended is told so.
    async fn send(&mut self, http: &Http, path: &str) -> Result<()> {
        let key = [("idempotency-key", self.id.as_str()), ("content-type", "application/json")];
        let answer = http.post_with(path, &key, format!(r#"{{"amount":{}}}"#, self.amount)).await?;
        if answer.status == 202 {
            let position = answer.json()?["position"].as_u64();
            ensure!(self.position.is_none() || self.position == position, "the same event stands at {position:?} too");
            self.position = position;
            return Ok(());
        }
        ensure!(self.position.is_none(), "what was taken once is taken again: {answer:?}");
        answer.problem(409, "ended").map(drop)
    }
}
