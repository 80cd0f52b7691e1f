//! `baton send`: one call, and its id.

use baton_broker::Caller;
use serde_json::json;

use crate::args::{Common, Send};
use crate::data;
use crate::exit::Exit;
use crate::settings::Settings;

pub(crate) async fn run(common: &Common, send: &Send) -> anyhow::Result<Exit> {
    let settings = Settings::read(common)?;
    let (payload, options) = data::input(&send.input)?;
    let caller = Caller::new(&settings.caller()?, data::reply_channel())?;
    let function = &send.input.function;
    let id = caller.send(function, &payload, &options).await?;
    if send.json {
        println!("{}", json!({ "function": function, "id": id }));
    } else {
        println!("{id}");
    }
    Ok(Exit::Ok)
}
