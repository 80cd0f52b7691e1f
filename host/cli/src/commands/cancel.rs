//! `baton cancel`: takes a call back.

use baton_broker::{Absent, Admin, BrokerConfig, Cancel, Cancelled, Inspect};
use baton_model::{CallId, FunctionId};

use crate::args::{Cancel as Arguments, Common};
use crate::data;
use crate::exit::{Exit, UsageError};
use crate::settings::Settings;

pub(crate) async fn run(common: &Common, cancel: &Arguments) -> anyhow::Result<Exit> {
    let broker = Settings::read(common)?.caller()?;
    let function = match function_of(&broker, &cancel.id, cancel.function.as_ref()).await? {
        Ok(function) => function,
        Err(absent) => return Ok(no_such_call("any function", &cancel.id, absent)),
    };
    match Cancel::new(&broker)?.own_replies_only().cancel(&function, &cancel.id).await? {
        Cancelled::Done(result) => {
            if cancel.json {
                data::print_result(&function, &result, true)?;
            } else {
                println!("{function} {} is taken back", cancel.id);
            }
            Ok(Exit::Ok)
        }
        Cancelled::Ended(result) => {
            eprintln!(
                "{function} {} had ended before, with the status {}; its result stands",
                cancel.id, result.status
            );
            if cancel.json {
                data::print_result(&function, &result, true)?;
            }
            Ok(Exit::Failed)
        }
        Cancelled::Unknown(absent) => Ok(no_such_call(&function.to_string(), &cancel.id, absent)),
    }
}

/// Says so, and how the command ends.
pub(crate) fn no_such_call(whose: &str, id: &CallId, absent: Absent) -> Exit {
    if absent.is_sure {
        eprintln!("there is no call {id} of {whose}: the id is wrong, or its result has expired");
    } else {
        eprintln!(
            "there is no call {id} of {whose} among those that are known by their ids, nor among the first that wait; one that was \
             added with XADD under an id of its caller's choice may stand further behind"
        );
    }
    Exit::Failed
}

/// The function that was named, or else the one that has a call of this id.
pub(crate) async fn function_of(
    broker: &BrokerConfig,
    id: &CallId,
    named: Option<&FunctionId>,
) -> anyhow::Result<Result<FunctionId, Absent>> {
    if let Some(function) = named {
        return Ok(Ok(function.clone()));
    }
    let inspect = Inspect::new(broker)?;
    let mut found: Option<FunctionId> = None;
    let mut absent = Absent { is_sure: true };
    for function in Admin::new(broker)?.functions().await? {
        if let Err(none) = inspect.state(&function, id).await? {
            absent.is_sure &= none.is_sure;
            continue;
        }
        if let Some(other) = found.replace(function) {
            let rule = format!("more than one function has a call {id}, such as {other}; say which with --function");
            return Err(UsageError(rule).into());
        }
    }
    Ok(found.ok_or(absent))
}
