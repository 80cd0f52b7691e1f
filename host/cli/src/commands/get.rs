//! `baton get`: the result of a call that was sent.

use std::time::{Duration, Instant};

use baton_broker::{Admin, Caller};
use baton_model::FunctionId;

use crate::args::{Common, Get};
use crate::data;
use crate::exit::{Exit, UsageError};
use crate::settings::Settings;

/// How often a result is looked for while it is not known of which function.
const LOOK: Duration = Duration::from_millis(200);

pub(crate) async fn run(common: &Common, get: &Get) -> anyhow::Result<Exit> {
    let settings = Settings::read(common)?;
    let broker = settings.caller()?;
    let began = Instant::now();
    if get.fanout {
        return gather(&Caller::new(&broker, data::reply_channel())?, get, began).await;
    }
    let function = match &get.function {
        Some(function) => function.clone(),
        None => match find(&Admin::new(&broker)?, get, began).await? {
            Some(function) => function,
            None => {
                eprintln!("no function has a result under {}; it may still run, or its result has expired", get.id);
                return Ok(Exit::NoAnswer);
            }
        },
    };
    let caller = Caller::new(&broker, data::reply_channel())?;
    let patience = get.wait.saturating_sub(began.elapsed());
    match caller.wait(&function, &get.id, patience).await? {
        Some(result) => data::print_result(&function, &result, get.json),
        None => Ok(data::no_answer(&function, &get.id)),
    }
}

/// The results of a call to several functions, waited for while there is time.
async fn gather(caller: &Caller, get: &Get, began: Instant) -> anyhow::Result<Exit> {
    let Some(functions) = caller.fanout(&get.tenant, &get.id).await? else {
        eprintln!(
            "{} has no call to several functions under {}: the id is wrong, or nobody has asked for it for a day",
            get.tenant, get.id
        );
        return Ok(Exit::Failed);
    };
    let calls: Vec<_> = functions.into_iter().map(|function| (function, get.id.clone())).collect();
    let results = loop {
        let results = caller.results(&calls).await?;
        if results.iter().all(Option::is_some) || began.elapsed() >= get.wait {
            break results;
        }
        tokio::time::sleep(LOOK.min(get.wait.saturating_sub(began.elapsed()))).await;
    };
    data::print_results(&get.id, &calls, &results, get.json)
}

/// The function that has a result under this id, looked for while there is time.
async fn find(admin: &Admin, get: &Get, began: Instant) -> anyhow::Result<Option<FunctionId>> {
    loop {
        let mut owners = admin.owners(&get.id, &admin.functions().await?).await?;
        match (owners.pop(), owners.is_empty()) {
            (Some(owner), true) => return Ok(Some(owner)),
            (Some(owner), false) => {
                let all = owners.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
                let rule = format!(
                    "several functions have a result under {}: {owner}, {all}; say which with --function",
                    get.id
                );
                return Err(UsageError(rule).into());
            }
            (None, _) if began.elapsed() >= get.wait => return Ok(None),
            (None, _) => tokio::time::sleep(LOOK).await,
        }
    }
}
