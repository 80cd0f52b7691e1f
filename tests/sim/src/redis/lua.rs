//! Scripts, run as they are shipped: the interpreter is the Lua 5.1 that Redis has inside, and what it calls is the model.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use mlua::{Function, Lua, MultiValue, Value};

use super::{Reply, Store};

/// A script by the name of its file.
pub type Script = &'static str;

/// The shipped scripts by which calls change hands.
const SHIPPED: [(Script, &str); 9] = [
    ("settle", include_str!("../../../../host/broker/src/scripts/settle.lua")),
    ("requeue", include_str!("../../../../host/broker/src/scripts/requeue.lua")),
    ("bury", include_str!("../../../../host/broker/src/scripts/bury.lua")),
    ("renew", include_str!("../../../../host/broker/src/scripts/renew.lua")),
    ("sweep", include_str!("../../../../host/broker/src/scripts/sweep.lua")),
    ("promote", include_str!("../../../../host/broker/src/scripts/promote.lua")),
    ("ensure", include_str!("../../../../host/broker/src/scripts/ensure.lua")),
    ("leave", include_str!("../../../../host/broker/src/scripts/leave.lua")),
    ("part", include_str!("../../../../host/broker/src/scripts/part.lua")),
];

/// A change of one script: what is taken out, and what stands there instead.
#[derive(Debug, Clone, Copy)]
pub struct Patch {
    /// The script.
    pub script: Script,
    /// What stands in it, once.
    pub from: &'static str,
    /// What is to stand there.
    pub to: &'static str,
}

/// The scripts, compiled, and the store that they work on.
pub struct Scripts {
    lua: Lua,
    compiled: BTreeMap<Script, Function>,
    /// The keys that commands and scripts work on.
    pub store: Rc<RefCell<Store>>,
}

impl Scripts {
    /// The text of a shipped script.
    #[must_use]
    pub fn text(script: Script) -> &'static str {
        SHIPPED.iter().find(|(name, _)| *name == script).expect("a script of that name").1
    }

    /// The shipped scripts, these changes made.
    ///
    /// # Panics
    /// If a script does not have what a patch takes out.
    #[must_use]
    pub fn new(patches: &[Patch]) -> Self {
        let lua = Lua::new();
        let store: Rc<RefCell<Store>> = Rc::default();
        prepare(&lua, &store).expect("a Lua state");
        let compile = |(name, text): (Script, &str)| {
            let text = patches.iter().filter(|patch| patch.script == name).fold(text.to_owned(), |text, patch| {
                assert_eq!(text.matches(patch.from).count(), 1, "{name}.lua has `{}` not once", patch.from);
                text.replacen(patch.from, patch.to, 1)
            });
            // The first line is for Redis.
            let code = text.split_once('\n').map_or("", |(_, code)| code);
            (name, lua.load(code).set_name(format!("={name}.lua")).into_function().expect("a script that compiles"))
        };
        let compiled = SHIPPED.into_iter().map(compile).collect();
        Self { lua, compiled, store }
    }

    /// Runs a script.
    pub fn run(&self, script: Script, keys: &[Vec<u8>], args: &[Vec<u8>]) -> Reply {
        let answer = self.try_run(script, keys, args);
        answer.unwrap_or_else(|error| Reply::Error(format!("ERR {script}.lua: {error}")))
    }

    fn try_run(&self, script: Script, keys: &[Vec<u8>], args: &[Vec<u8>]) -> mlua::Result<Reply> {
        let texts = |texts: &[Vec<u8>]| {
            self.lua.create_sequence_from(
                texts.iter().map(|text| self.lua.create_string(text)).collect::<Result<Vec<_>, _>>()?,
            )
        };
        self.lua.globals().set("KEYS", texts(keys)?)?;
        self.lua.globals().set("ARGV", texts(args)?)?;
        let value: Value = self.compiled[script].call(())?;
        from_lua(&value)
    }
}

fn prepare(lua: &Lua, store: &Rc<RefCell<Store>>) -> mlua::Result<()> {
    let globals = lua.globals();
    let redis = lua.create_table()?;
    for (name, is_protected) in [("call", false), ("pcall", true)] {
        let store = store.clone();
        let call = lua.create_function(move |lua, args: MultiValue| {
            let command = args.iter().map(to_word).collect::<mlua::Result<Vec<_>>>()?;
            let reply = store.borrow_mut().execute(&command);
            match reply {
                Reply::Error(error) if !is_protected => Err(mlua::Error::runtime(error)),
                reply => to_lua(lua, &reply),
            }
        })?;
        redis.set(name, call)?;
    }
    globals.set("redis", redis)?;
    let msgpack = lua.create_table()?;
    let unpack = |lua: &Lua, packed: mlua::String| {
        let texts = unpack(&packed.as_bytes()).ok_or_else(|| mlua::Error::runtime("no list of texts"))?;
        lua.create_sequence_from(texts.iter().map(|text| lua.create_string(text)).collect::<Result<Vec<_>, _>>()?)
    };
    let pack = |lua: &Lua, texts: Vec<mlua::String>| {
        lua.create_string(pack(&texts.iter().map(|t| t.as_bytes().to_vec()).collect::<Vec<_>>()))
    };
    msgpack.set("unpack", lua.create_function(unpack)?)?;
    msgpack.set("pack", lua.create_function(pack)?)?;
    globals.set("cmsgpack", msgpack)
}

fn to_word(value: &Value) -> mlua::Result<Vec<u8>> {
    match value {
        Value::String(text) => Ok(text.as_bytes().to_vec()),
        Value::Integer(number) => Ok(number.to_string().into_bytes()),
        // As Redis writes the numbers of Lua.
        #[expect(clippy::cast_possible_truncation, reason = "whole numbers alone are handed over")]
        Value::Number(number) => Ok(format!("{}", *number as i64).into_bytes()),
        other => Err(mlua::Error::runtime(format!("a command cannot have a {} in it", other.type_name()))),
    }
}

fn to_lua(lua: &Lua, reply: &Reply) -> mlua::Result<Value> {
    let one = |name: &str, text: &str| {
        let table = lua.create_table()?;
        table.set(name, text)?;
        Ok(Value::Table(table))
    };
    match reply {
        Reply::Nil => Ok(Value::Boolean(false)),
        #[expect(clippy::cast_precision_loss, reason = "as in Lua 5.1, which has no other numbers")]
        Reply::Int(number) => Ok(Value::Number(*number as f64)),
        Reply::Bulk(bytes) => Ok(Value::String(lua.create_string(bytes)?)),
        Reply::Status(text) => one("ok", text),
        Reply::Error(text) => one("err", text),
        Reply::Array(parts) => {
            let parts = parts.iter().map(|part| to_lua(lua, part)).collect::<mlua::Result<Vec<_>>>()?;
            Ok(Value::Table(lua.create_sequence_from(parts)?))
        }
    }
}

fn from_lua(value: &Value) -> mlua::Result<Reply> {
    Ok(match value {
        Value::Nil | Value::Boolean(false) => Reply::Nil,
        Value::Boolean(true) => Reply::Int(1),
        Value::Integer(number) => Reply::Int(*number),
        #[expect(clippy::cast_possible_truncation, reason = "as Redis does")]
        Value::Number(number) => Reply::Int(*number as i64),
        Value::String(text) => Reply::Bulk(text.as_bytes().to_vec()),
        Value::Table(table) => {
            if let Some(error) = table.get::<Option<String>>("err")? {
                return Ok(Reply::Error(error));
            }
            if let Some(status) = table.get::<Option<String>>("ok")? {
                return Ok(Reply::Status(status));
            }
            let mut parts = Vec::new();
            for part in table.sequence_values::<Value>() {
                parts.push(from_lua(&part?)?);
            }
            Reply::Array(parts)
        }
        other => return Err(mlua::Error::runtime(format!("a script cannot answer with a {}", other.type_name()))),
    })
}

/// A list of texts as the message pack of Redis writes it.
fn pack(texts: &[Vec<u8>]) -> Vec<u8> {
    let head = |out: &mut Vec<u8>, len: usize, small: (usize, u8), wide: [(usize, u8); 3]| {
        let be = len.to_be_bytes();
        match len {
            len if len <= small.0 => out.push(small.1 | u8::try_from(len).expect("small")),
            len if len <= wide[0].0 => out.extend([wide[0].1, be[7]]),
            len if len <= wide[1].0 => out.extend([wide[1].1, be[6], be[7]]),
            _long => out.extend([wide[2].1, be[4], be[5], be[6], be[7]]),
        }
    };
    let mut out = Vec::new();
    head(&mut out, texts.len(), (15, 0x90), [(0, 0), (0xffff, 0xdc), (usize::MAX, 0xdd)]);
    for text in texts {
        head(&mut out, text.len(), (31, 0xa0), [(0xff, 0xd9), (0xffff, 0xda), (usize::MAX, 0xdb)]);
        out.extend_from_slice(text);
    }
    out
}

fn unpack(packed: &[u8]) -> Option<Vec<Vec<u8>>> {
    let mut rest = packed;
    let count = match number(&mut rest, 1)? {
        small @ 0x90..=0x9f => small & 0x0f,
        0xdc => number(&mut rest, 2)?,
        0xdd => number(&mut rest, 4)?,
        _other => return None,
    };
    let mut texts = Vec::new();
    for _ in 0..count {
        let len = match number(&mut rest, 1)? {
            small @ 0xa0..=0xbf => small & 0x1f,
            0xd9 => number(&mut rest, 1)?,
            0xda => number(&mut rest, 2)?,
            0xdb => number(&mut rest, 4)?,
            _other => return None,
        };
        let (text, tail) = rest.split_at_checked(len)?;
        texts.push(text.to_vec());
        rest = tail;
    }
    Some(texts)
}

/// The number that so many bytes make.
fn number(rest: &mut &[u8], bytes: usize) -> Option<usize> {
    let (head, tail) = rest.split_at_checked(bytes)?;
    *rest = tail;
    Some(head.iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte)))
}
