//! Calls with a key run one after another, whichever hosts have them: who has the turn stands in Redis, and so does who
//! waits for it.

use baton_model::{FunctionId, HostId, WAITS_FOR_TURN_MS};
use redis::{Cmd, Value, pipe};

use crate::BrokerError;
use crate::keys::Keys;
use crate::reader::Delivery;
use crate::script::Lua;

/// What is said when a call with a key is about to begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// It is its turn: it may begin.
    Now,
    /// It waits in Redis for those before it, and is this host's no more.
    Later,
    /// This host does not hold its lease any more.
    Lost,
}

/// A script that ends a call, after which the next with its key has its turn, in the same step.
///
/// Its keys and arguments are those of the script inside, and behind them the keys of the delayed set, the turns and the
/// line, and the arguments key and call id. The script inside answers 0, or a list that starts with it, if it changed nothing.
pub(crate) fn and_next(inside: &'static str) -> Lua {
    let body = inside.split_once('\n').map_or("", |(_, body)| body);
    Lua::made(format!(
        "#!lua flags=allow-oom\n{}\nlocal function inside(KEYS, ARGV)\n{body}\nend\n\
         local answer = inside({{ unpack(KEYS, 1, #KEYS - 3) }}, {{ unpack(ARGV, 1, #ARGV - 2) }})\n\
         local changed = type(answer) == 'table' and answer[1] or answer\n\
         if changed ~= 0 then\n\
           next_turn(KEYS[#KEYS - 1], KEYS[#KEYS], KEYS[1], KEYS[#KEYS - 2], ARGV[#ARGV - 1], ARGV[#ARGV])\n\
         end\n\
         return answer\n",
        include_str!("scripts/next_turn.lua")
    ))
}

/// The keys that such a script has behind its own.
pub(crate) fn keys(call: &mut Cmd, keys: &Keys, function: &FunctionId) {
    call.arg(keys.delayed(function)).arg(keys.turns(function)).arg(keys.line(function));
}

/// Asks for the turns of these calls, which are `host`'s, in their order.
pub(crate) fn ask<'a>(
    turn: &Lua,
    names: &Keys,
    host: &HostId,
    calls: impl Iterator<Item = &'a Delivery>,
) -> redis::Pipeline {
    let mut all = pipe();
    all.add_command(turn.load());
    for Delivery { call, lease, .. } in calls {
        let function = &call.function;
        let mut one = turn.call(5);
        let level = lease.entry.level();
        one.arg(names.calls_at(function, level)).arg(names.claims_at(function, level));
        keys(&mut one, names, function);
        one.arg(names.group()).arg(host.as_str()).arg(lease.entry.in_stream()).arg(lease.claims).arg(call.id.as_str());
        // A claimed entry counts one more for each claim; what is written down is what the entry says.
        one.arg(call.attempt.saturating_sub(lease.claims).max(1)).arg(call.accepted_ms);
        one.arg(call.key.as_ref().map_or("", |key| key.as_str())).arg(WAITS_FOR_TURN_MS);
        all.add_command(one);
    }
    all
}

/// What was answered.
pub(crate) fn read(answers: Vec<Value>) -> Result<Vec<Turn>, BrokerError> {
    let one = |answer: Value| match answer.extract_error()? {
        Value::Int(1) => Ok(Turn::Now),
        Value::Int(0) => Ok(Turn::Later),
        Value::Int(-1) => Ok(Turn::Lost),
        other => Err(BrokerError::shape("turn.lua", &other)),
    };
    answers.into_iter().skip(1).map(one).collect()
}
