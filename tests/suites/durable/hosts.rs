//! Hosts that do not last, and the executions that they leave.

use std::time::Duration;

use anyhow::{Result, ensure};
use baton_tests::{Fleet, Http};

use super::shop::{Order, SHOP, stage};

const HOUR: Duration = Duration::from_secs(3600);

#[tokio::test]
async fn executions_go_on_whatever_becomes_of_hosts() -> Result<()> {
    let stage = stage().await?;
    let front = stage.host().http().argument(baton_tests::settings::NO_FUNCTIONS).start().await?;
    let http = Http::of(&front).await?;
    let mut fleet = Fleet::of(3, &stage.host(), &SHOP).await?;
    let mut orders = Vec::new();
    for _ in 0..40 {
        orders.push(Order::of(&http, 200, HOUR).await?);
    }
    for (round, order) in orders.iter().enumerate() {
        order.pay(100, "p1").await?;
        if round % 10 == 5 {
            fleet.kill(round / 10).await?;
            fleet.add(stage.host()).await?;
        }
    }
    for order in &orders {
        order.pay(100, "p2").await?;
    }
    for order in &orders {
        let receipt = order.result().await?.expect(200)?.json()?;
        ensure!(receipt["paid"] == 200, "{receipt}");
        let words = order.words().await?;
        let calls = words.iter().filter(|word| *word == "call-scheduled").count();
        let ends = words.iter().filter(|word| *word == "call-completed").count();
        ensure!((calls, ends) == (2, 2), "{words:?}");
    }
    Ok(())
}
