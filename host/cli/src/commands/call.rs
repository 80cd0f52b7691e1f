//! `baton call`: one call, and its answer.

use std::time::Duration;

use baton_broker::{BrokerConfig, BrokerError, Caller, Presence};
use baton_model::{FunctionId, HostState};

use crate::args::{Call, Common};
use crate::data;
use crate::exit::Exit;
use crate::settings::Settings;

/// After how long without an answer it is looked whether there can be one.
const SILENCE: Duration = Duration::from_secs(1);

pub(crate) async fn run(common: &Common, call: &Call) -> anyhow::Result<Exit> {
    let settings = Settings::read(common)?;
    let (payload, options) = data::input(&call.input)?;
    let broker = settings.caller()?;
    let caller = Caller::new(&broker, data::reply_channel())?;
    let function = &call.function;
    let answer = caller.call(function, &payload, &options, call.timeout);
    let (id, result) = tokio::select! {
        answer = answer => answer?,
        never = explain(&broker, function, call.timeout) => match never {},
    };
    match result {
        Some(result) => data::print_result(function, &result, call.json),
        None => Ok(data::no_answer(function, &id)),
    }
}

/// Says after a while why there is no answer, if that is because no host has the function.
async fn explain(broker: &BrokerConfig, function: &FunctionId, timeout: Duration) -> std::convert::Infallible {
    tokio::time::sleep(SILENCE).await;
    let left = timeout.saturating_sub(SILENCE).as_secs_f64().round();
    // If Redis cannot say, the call itself will tell why.
    if left >= 1.0 && is_served(broker, function).await.is_ok_and(|served| !served) {
        eprintln!("no host has {function} now; waiting until one does, at most {left} s");
    }
    std::future::pending().await
}

async fn is_served(broker: &BrokerConfig, function: &FunctionId) -> Result<bool, BrokerError> {
    let roll = Presence::new(broker)?.roll().await?;
    let online = roll.into_iter().filter_map(|seen| seen.record).filter(|record| record.state == HostState::Online);
    Ok(online.flat_map(|record| record.functions).any(|loaded| loaded.function == *function))
}
