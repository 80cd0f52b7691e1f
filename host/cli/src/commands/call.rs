//! `baton call`: one call, and its answer.

use baton_broker::Caller;

use crate::args::{Call, Common};
use crate::data;
use crate::exit::Exit;
use crate::settings::Settings;

pub(crate) async fn run(common: &Common, call: &Call) -> anyhow::Result<Exit> {
    let settings = Settings::read(common)?;
    let (payload, options) = data::input(&call.input)?;
    let caller = Caller::new(&settings.caller()?, data::reply_channel())?;
    let function = &call.input.function;
    let (id, result) = caller.call(function, &payload, &options, call.timeout).await?;
    match result {
        Some(result) => data::print_result(function, &result, call.json),
        None => Ok(data::no_answer(function, &id)),
    }
}
