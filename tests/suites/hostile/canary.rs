//! Nothing that one call leaves in memory is found by another, of whichever tenant.

use anyhow::{Result, ensure};
use baton_model::Status;
use baton_tests::settings::{ATTEMPTS_MAX, PATIENCE, SEATS};
use baton_tests::{Stage, variant};

use crate::odd;

/// More than a host with one seat has places for in its pool, so that each call gets a place which another function
/// left: (1 seat + 16 spare instances) x 4 memories.
const FUNCTIONS: u32 = 72;

const ALTERNATIONS: usize = 10_000;

/// How many calls are sent in one go.
const BATCH: usize = 18;

#[tokio::test]
async fn ten_thousand_alternations_of_two_tenants_find_nothing_of_each_other() -> Result<()> {
    let mut stage = Stage::with(&[]).await?;
    let component = odd::component("canary")?;
    let names: Vec<String> =
        (0..FUNCTIONS).map(|n| format!("{}/canary-{n}", ["left", "right"][n as usize % 2])).collect();
    for (name, n) in names.iter().zip(0..) {
        stage.folder.install(name, &variant(&component, n))?;
    }
    stage.folder.install("both/large", &odd::component("canary-large")?)?;
    let all: Vec<&str> = names.iter().map(String::as_str).chain(["both/large"]).collect();
    let _host = stage.host().setting(SEATS, 1).setting(ATTEMPTS_MAX, 1).start_ready(&all).await?;

    let own = stage.caller.call(all[0], "search again").await?;
    ensure!(own.status == Status::Dead, "a canary that does not find its own finds nothing: {own:?}");
    for round in 0..ALTERNATIONS / (FUNCTIONS as usize) {
        for some in names.chunks(BATCH) {
            let mut sent = Vec::with_capacity(BATCH);
            for name in some {
                sent.push((name, stage.caller.send(name, "").await?));
            }
            if round % 20 == 0 {
                ensure!(stage.caller.call("both/large", "").await?.status == Status::Ok, "round {round}");
            }
            for (name, id) in sent {
                let answer = stage.caller.result_within(name, &id, PATIENCE).await?;
                ensure!(answer.status == Status::Ok, "{name} found something in round {round}: {answer:?}");
            }
        }
    }
    Ok(())
}
