//! `baton send`: a call and its id, or many.

use anyhow::Context as _;
use baton_broker::{Caller, FannedOut, SendOptions};
use baton_model::{CallId, FunctionId, fanout_tenant};
use bytes::Bytes;
use serde_json::json;

use crate::args::{Common, Send};
use crate::data;
use crate::exit::{Exit, UsageError};
use crate::settings::Settings;

/// How many lines go in one step.
const BATCH: usize = 1_000;

pub(crate) async fn run(common: &Common, send: &Send) -> anyhow::Result<Exit> {
    let settings = Settings::read(common)?;
    let (payload, options) = data::input(&send.input)?;
    let caller = Caller::new(&settings.caller()?, data::reply_channel())?;
    match &send.to.0[..] {
        [function] if send.lines => lines(&caller, function, send.json, &payload, &options).await,
        [function] => {
            let id = caller.send(function, &payload, &options).await?;
            print(function, &id, send.json);
            Ok(Exit::Ok)
        }
        _ if send.lines => Err(UsageError("--lines are for one function; name one".to_owned()).into()),
        functions => fan_out(&caller, functions, send.json, &payload, &options).await,
    }
}

/// A call for each line, in batches that Redis takes as a whole or not at all.
async fn lines(
    caller: &Caller,
    function: &FunctionId,
    as_json: bool,
    payload: &[u8],
    options: &SendOptions,
) -> anyhow::Result<Exit> {
    let lines: Vec<&[u8]> =
        payload.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii_end).filter(|line| !line.is_empty()).collect();
    for (n, batch) in lines.chunks(BATCH).enumerate() {
        let calls: Vec<_> = batch.iter().map(|line| (Bytes::copy_from_slice(line), options.clone())).collect();
        let sent = caller.send_all(function, &calls).await;
        let ids = sent.with_context(|| format!("the first {} of {} lines were sent", n * BATCH, lines.len()))?;
        ids.iter().for_each(|id| print(function, id, as_json));
    }
    Ok(Exit::Ok)
}

/// One payload to several functions, in calls that have one id.
async fn fan_out(
    caller: &Caller,
    functions: &[FunctionId],
    as_json: bool,
    payload: &[u8],
    options: &SendOptions,
) -> anyhow::Result<Exit> {
    let tenant = fanout_tenant(functions).map_err(UsageError)?;
    let id = options.id.clone().unwrap_or_else(Caller::new_id);
    match caller.fan_out((tenant, &id), functions, payload, options).await? {
        FannedOut::Sent if as_json => println!("{}", json!({ "tenant": tenant, "functions": functions, "id": id })),
        FannedOut::Sent => println!("{id}"),
        FannedOut::Elsewhere => {
            eprintln!("under {id} a call went to other functions of {tenant}; take another --id");
            return Ok(Exit::Failed);
        }
    }
    Ok(Exit::Ok)
}

fn print(function: &FunctionId, id: &CallId, as_json: bool) {
    if as_json {
        println!("{}", json!({ "function": function, "id": id }));
    } else {
        println!("{id}");
    }
}
