//! Scripts that stand behind what all of executions share, and those that tell an execution of the end of a call.

use baton_model::execution::LOG_BYTES_MAX;

use crate::script::Lua;

/// What all of them share.
fn shared() -> String {
    format!("local LOG_BYTES_MAX = {LOG_BYTES_MAX}\n{}", include_str!("../scripts/execution.lua"))
}

/// A script that works on executions.
pub(super) fn script(flags: &str, body: &str) -> Lua {
    Lua::made(format!("#!lua{flags}\n{}\n{body}", shared()))
}

/// The same for a script that stands by itself too; its first line stays the first.
pub(crate) fn before(whole: &'static str) -> Lua {
    let (first, body) = whole.split_once('\n').unwrap_or((whole, ""));
    Lua::made(format!("{first}\n{}\n{body}", shared()))
}

/// A script that ends a call which is a step, after which its end stands in the log of its execution, in the same step.
///
/// Its keys and arguments are those of the script inside, and behind them the keys of the execution's call stream, its state,
/// its log and the call's result, and the arguments id, run and step. The script inside answers 0, or a list that starts
/// with it, if it changed nothing.
pub(crate) fn and_tell(inside: &'static str) -> Lua {
    let body = inside.split_once('\n').map_or("", |(_, body)| body);
    Lua::made(format!(
        "#!lua flags=allow-oom\n{}\nlocal function inside(KEYS, ARGV)\n{body}\nend\n\
         local said = inside({{ unpack(KEYS, 1, #KEYS - 4) }}, {{ unpack(ARGV, 1, #ARGV - 3) }})\n\
         local changed = type(said) == 'table' and said[1] or said\n\
         if changed ~= 0 then\n\
           local id, run, step = ARGV[#ARGV - 2], ARGV[#ARGV - 1], ARGV[#ARGV]\n\
           answer(KEYS[#KEYS - 3], KEYS[#KEYS - 2], KEYS[#KEYS - 1], id, 'c:' .. run .. ':' .. step,\n\
             {{ 'event', 'call-completed', 'step', step, 'result', redis.call('GET', KEYS[#KEYS]) }},\n\
             string.match(KEYS[#KEYS], '}}:result:(.+)$'))\n\
         end\n\
         return said\n",
        shared()
    ))
}
