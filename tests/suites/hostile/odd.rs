//! Guests of shapes that no compiler makes, written into the frame tests/hostile/wat/frame.wat.

use anyhow::{Context, Result};
use baton_tests::{memory_bomb, plain_bombs, time_bomb};

const FRAME: &str = include_str!("../../hostile/wat/frame.wat");

/// A guest's parts. What is not said is what a plain guest has.
struct Odd {
    /// What stands before the guest's own module: components, and functions lowered for it.
    beside: &'static str,
    memory: &'static str,
    /// How far the allocator answers beside the place that it means.
    astray: u32,
    imports: &'static str,
    with: &'static str,
    media: &'static str,
    items: String,
    body: String,
}

/// Answers with two bytes.
const ANSWER: &str = "(call $answer (i32.const 2048) (i32.const 2))";

impl Default for Odd {
    fn default() -> Self {
        Self {
            beside: "",
            memory: "1",
            astray: 0,
            imports: "",
            with: "",
            media: "text/plain",
            items: String::new(),
            body: ANSWER.to_owned(),
        }
    }
}

impl Odd {
    fn text(&self) -> String {
        FRAME
            .replace("{beside}", self.beside)
            .replace("{memory}", self.memory)
            .replace("{astray}", &self.astray.to_string())
            .replace("{imports}", self.imports)
            .replace("{with}", self.with)
            .replace("{media}", self.media)
            .replace("{items}", &self.items)
            .replace("{body}", &self.body)
    }
}

fn body(body: &str) -> Odd {
    Odd { body: body.to_owned(), ..Odd::default() }
}

fn items(items: &str) -> Odd {
    Odd { items: items.to_owned(), ..Odd::default() }
}

/// Searches `pages` of fresh memory and a table for anything that somebody left there, and traps if there is anything;
/// then fills both. With a payload it searches once more, and so finds its own.
fn canary(pages: u32) -> Odd {
    Odd {
        items: "(table $table 1000 funcref) (elem declare func $answer)
            (func $search
              (local $at i32)
              (local.set $at (i32.const 65536))
              (loop $next
                (if (i64.ne (i64.load (local.get $at)) (i64.const 0)) (then unreachable))
                (local.set $at (i32.add (local.get $at) (i32.const 8)))
                (br_if $next (i32.lt_u (local.get $at) (i32.shl (memory.size) (i32.const 16)))))
              (local.set $at (i32.const 0))
              (loop $next
                (if (i32.eqz (ref.is_null (table.get $table (local.get $at)))) (then unreachable))
                (local.set $at (i32.add (local.get $at) (i32.const 1)))
                (br_if $next (i32.lt_u (local.get $at) (table.size $table)))))"
            .to_owned(),
        body: format!(
            "(drop (memory.grow (i32.const {pages})))
            (call $search)
            (memory.fill (i32.const 65536) (i32.const 0xc5) (i32.shl (i32.const {pages}) (i32.const 16)))
            (table.fill $table (i32.const 0) (ref.func $answer) (table.size $table))
            (if (i32.load offset=92 (local.get $call)) (then (call $search)))
            {ANSWER}"
        ),
        ..Odd::default()
    }
}

/// Things of a sub-instance, handed on and never given back.
const SUB_INSTANCES: &str = r#"
  (component $maker
    (type $thing (resource (rep i32)))
    (core func $new (canon resource.new $thing))
    (core module $m
      (import "host" "new" (func $new (param i32) (result i32)))
      (func (export "make") (result i32) (call $new (i32.const 7))))
    (core instance $m (instantiate $m (with "host" (instance (export "new" (func $new))))))
    (export $own "thing" (type $thing))
    (func (export "make") (result (own $own)) (canon lift (core func $m "make"))))
  (instance $maker (instantiate $maker))
  (core func $make (canon lower (func $maker "make")))"#;

/// The odd guests that are functions, by their names.
pub(crate) const CALLED: &[&str] =
    &["table", "large-list", "no-utf8", "astray", "sub-instances", "canary", "canary-large"];

/// A component that no host may load: what it is, a word that the refusal has to have, and its bytes.
pub(crate) type Refused = (&'static str, &'static str, Vec<u8>);

/// All of them: odd guests, and those that cost a compiler more than it may take.
pub(crate) fn refused() -> Result<Vec<Refused>> {
    let odd = REFUSED.iter().map(|(name, word)| Ok((*name, *word, component(name)?)));
    let mut refused = odd.collect::<Result<Vec<Refused>>>()?;
    refused.extend(plain_bombs()?);
    refused.push(("2,000 locals that live through 2,000 loops", "MiB of memory", memory_bomb()?));
    // 20 s of the processor, if it were let; a busy machine may not give it 5 s in time.
    refused.push(("40 functions of 128 loops with 78 locals, in 56 KB", "the compiler", time_bomb(40, 0)?));
    Ok(refused)
}

/// The odd guests that no host may load, by their names, with the words.
const REFUSED: &[(&str, &str)] = &[
    ("start-loop", "longer than"),
    ("start-recursion", "stack"),
    ("start-trap", "unreachable"),
    ("start-memory", "memory"),
    ("declared-memory", "memory"),
    ("declared-table", "table"),
    ("shared-memory", "shared memor"),
    ("memory64", "64-bit memor"),
    ("gc", "gc"),
    ("five-memories", "memor"),
    ("ungranted-http", "wasi:http/outgoing-handler"),
    ("ungranted-keyvalue", "wasi:keyvalue/store"),
    ("ungranted-config", "wasi:config/store"),
];

/// The component of this name.
pub(crate) fn component(name: &str) -> Result<Vec<u8>> {
    let odd = match name {
        "table" => Odd {
            items: "(table $table 1 funcref)".to_owned(),
            ..body("(drop (table.grow $table (ref.null func) (i32.const 10000000))) unreachable")
        },
        "large-list" => body("(call $answer (i32.const 2048) (i32.const 0x40000000))"),
        "no-utf8" => Odd { media: r"\ff\fe\ff\fe\ff\fe\ff\fe\ff\fe", ..Odd::default() },
        "astray" => Odd { astray: 1, ..Odd::default() },
        "sub-instances" => Odd {
            beside: SUB_INSTANCES,
            imports: r#"(import "maker" "make" (func $make (result i32)))"#,
            with: r#"(with "maker" (instance (export "make" (func $make))))"#,
            ..body("(loop $again (drop (call $make)) (br $again)) unreachable")
        },
        "canary" => canary(16),
        "canary-large" => canary(700),
        "start-loop" => items("(func $start (loop $again (br $again))) (start $start)"),
        "start-recursion" => items("(func $start (call $start) (call $start)) (start $start)"),
        "start-trap" => items("(func $start unreachable) (start $start)"),
        "start-memory" => {
            items("(func $start (loop $again (drop (memory.grow (i32.const 100))) (br $again))) (start $start)")
        }
        "declared-memory" => Odd { memory: "65536", ..Odd::default() },
        "declared-table" => items("(table 10000000 funcref)"),
        "shared-memory" => Odd { beside: "(core module (memory 1 2 shared))", ..Odd::default() },
        "memory64" => Odd { beside: "(core module (memory i64 1))", ..Odd::default() },
        "gc" => Odd { beside: "(core module (type (struct (field i32))))", ..Odd::default() },
        "five-memories" => Odd {
            beside: "(core module $m (memory 1))
                (core instance (instantiate $m)) (core instance (instantiate $m))
                (core instance (instantiate $m)) (core instance (instantiate $m))",
            ..Odd::default()
        },
        "ungranted-http" => {
            Odd { beside: r#"(import "wasi:http/outgoing-handler@0.2.0" (instance))"#, ..Odd::default() }
        }
        "ungranted-keyvalue" => {
            Odd { beside: r#"(import "wasi:keyvalue/store@0.2.0-draft" (instance))"#, ..Odd::default() }
        }
        "ungranted-config" => Odd { beside: r#"(import "wasi:config/store@0.2.0-rc.1" (instance))"#, ..Odd::default() },
        other => anyhow::bail!("there is no odd guest {other}"),
    };
    wat::parse_str(odd.text()).with_context(|| format!("the text of {name}"))
}
