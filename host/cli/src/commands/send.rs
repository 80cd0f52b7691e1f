//! `baton send`: a call and its id, or many.

use anyhow::Context as _;
use baton_broker::{Caller, SendOptions};
use baton_model::{CallId, FunctionId};
use bytes::Bytes;
use serde_json::json;

use crate::args::{Common, Send};
use crate::data;
use crate::exit::Exit;
use crate::settings::Settings;

/// How many lines go in one step.
const BATCH: usize = 1_000;

pub(crate) async fn run(common: &Common, send: &Send) -> anyhow::Result<Exit> {
    let settings = Settings::read(common)?;
    let (payload, options) = data::input(&send.input)?;
    let caller = Caller::new(&settings.caller()?, data::reply_channel())?;
    let function = &send.input.function;
    if send.lines {
        return lines(&caller, send, &payload, &options).await;
    }
    let id = caller.send(function, &payload, &options).await?;
    print(function, &id, send.json);
    Ok(Exit::Ok)
}

/// A call for each line, in batches that Redis takes as a whole or not at all.
async fn lines(caller: &Caller, send: &Send, payload: &[u8], options: &SendOptions) -> anyhow::Result<Exit> {
    let function = &send.input.function;
    let lines: Vec<&[u8]> =
        payload.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii_end).filter(|line| !line.is_empty()).collect();
    for (n, batch) in lines.chunks(BATCH).enumerate() {
        let calls: Vec<_> = batch.iter().map(|line| (Bytes::copy_from_slice(line), options.clone())).collect();
        let sent = caller.send_all(function, &calls).await;
        let ids = sent.with_context(|| format!("the first {} of {} lines were sent", n * BATCH, lines.len()))?;
        ids.iter().for_each(|id| print(function, id, send.json));
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
