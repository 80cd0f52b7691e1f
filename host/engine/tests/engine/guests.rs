//! Guests as component text: one frame, and a body for each behaviour. No behaviour is checked here.

/// The frame: memory and allocator first, so that imported functions can be lowered before the guest's own module.
const FRAME: &str = r#"
(component
  (import "baton:function/types@0.1.0" (instance $types
    (type $c (record
      (field "call-id" string) (field "tenant" string) (field "function" string) (field "attempt" u32)
      (field "deadline-ms" (option u64)) (field "media-type" string) (field "traceparent" (option string))
      (field "tracestate" (option string)) (field "headers" (list (tuple string string)))))
    (export "context" (type $context (eq $c)))
    (type $r (record (field "media-type" string) (field "body" (list u8))))
    (export "reply" (type $reply (eq $r)))
    (type $t (record (field "message" string) (field "after-ms" (option u64))))
    (export "retry-failure" (type $retry (eq $t)))
    (type $j (record (field "code" string) (field "message" string)))
    (export "reject-failure" (type $reject (eq $j)))
    (type $f (variant (case "retry" $retry) (case "reject" $reject)))
    (export "failure" (type $failure (eq $f)))
  ))
  (alias export $types "context" (type $context))
  (alias export $types "reply" (type $reply))
  (alias export $types "failure" (type $failure))
  (core module $libc
    (memory (export "memory") 1)
    (global $top (mut i32) (i32.const 4096))
    (func (export "realloc") (param i32 i32 i32 i32) (result i32)
      (local $at i32)
      (local.set $at (i32.and (i32.add (global.get $top) (i32.const 15)) (i32.const -16)))
      (global.set $top (i32.add (local.get $at) (local.get 3)))
      (if (i32.gt_u (global.get $top) (i32.shl (memory.size) (i32.const 16)))
        (then (drop (memory.grow (i32.add (i32.const 1)
          (i32.shr_u (i32.sub (global.get $top) (i32.shl (memory.size) (i32.const 16))) (i32.const 16)))))))
      (local.get $at)))
  (core instance $libc (instantiate $libc))
  {imports}
  (core module $guest
    (import "libc" "memory" (memory 1))
    {core_imports}
    (func $ok (param $body i32) (param $len i32) (result i32)
      (i32.store8 (i32.const 1024) (i32.const 0))
      (i32.store (i32.const 1032) (i32.const 2048))
      (i32.store (i32.const 1036) (i32.const 10))
      (i32.store (i32.const 1040) (local.get $body))
      (i32.store (i32.const 1044) (local.get $len))
      (i32.const 1024))
    (data (i32.const 2048) "text/plain")
    {items}
    (func $handle (export "handle") (param $call i32) (result i32) {body}))
  (core instance $guest (instantiate $guest (with "libc" (instance $libc)) {with}))
  (func $handle (param "context" $context) (param "payload" (list u8)) (result (result $reply (error $failure)))
    (canon lift (core func $guest "handle") (memory (core memory $libc "memory")) (realloc (core func $libc "realloc"))))
  (instance $handler (export "handle" (func $handle)))
  (export "baton:function/handler@0.1.0" (instance $handler))
)"#;

/// What a guest is made of; empty parts are left out.
#[derive(Default)]
pub(crate) struct Guest {
    pub(crate) imports: &'static str,
    pub(crate) core_imports: &'static str,
    pub(crate) with: &'static str,
    pub(crate) items: String,
    pub(crate) body: String,
}

impl Guest {
    pub(crate) fn build(&self) -> Vec<u8> {
        self.build_as("")
    }

    /// The same, with `{name}` in its imports replaced.
    pub(crate) fn build_as(&self, name: &str) -> Vec<u8> {
        let text = FRAME
            .replace("{imports}", &self.imports.replace("{name}", name))
            .replace("{core_imports}", self.core_imports)
            .replace("{with}", self.with)
            .replace("{items}", &self.items)
            .replace("{body}", &self.body);
        wat::parse_str(text).expect("the guest's text is valid")
    }
}

/// A guest that imports nothing and does this.
pub(crate) fn plain(body: &str) -> Vec<u8> {
    Guest { body: body.into(), ..Guest::default() }.build()
}

/// Answers with the payload.
pub(crate) fn echo() -> Vec<u8> {
    plain(ECHO)
}

pub(crate) const ECHO: &str =
    "(call $ok (i32.load offset=88 (local.get $call)) (i32.load offset=92 (local.get $call)))";

/// Answers with the payload, and is a component of its own for each number.
#[allow(dead_code, reason = "the example does not need it")]
pub(crate) fn echo_number(number: usize) -> Vec<u8> {
    let items = format!("(data (i32.const 3000) \"component number {number}\")");
    Guest { items, body: ECHO.into(), ..Guest::default() }.build()
}

/// Imports `wasi:cli/exit` and leaves through it, as a failure.
#[allow(dead_code, reason = "the example does not need it")]
pub(crate) fn exit() -> Vec<u8> {
    Guest {
        imports: r#"(import "wasi:cli/exit@0.2.6" (instance $exit (export "exit" (func (param "status" (result))))))
            (core func $exit (canon lower (func $exit "exit")))"#,
        core_imports: r#"(import "host" "exit" (func $exit (param i32)))"#,
        with: r#"(with "host" (instance (export "exit" (func $exit))))"#,
        body: "(call $exit (i32.const 1)) unreachable".into(),
        ..Guest::default()
    }
    .build()
}

/// Waits in the host for an hour.
#[allow(dead_code, reason = "the example does not need it")]
pub(crate) fn sleep() -> Vec<u8> {
    Guest {
        imports: r#"(import "wasi:io/poll@0.2.6" (instance $poll
              (export "pollable" (type $p (sub resource)))
              (export "[method]pollable.block" (func (param "self" (borrow $p))))))
            (alias export $poll "pollable" (type $pollable))
            (import "wasi:clocks/monotonic-clock@0.2.6" (instance $clock
              (alias outer 1 $pollable (type $p))
              (export "pollable" (type $q (eq $p)))
              (export "subscribe-duration" (func (param "when" u64) (result (own $q))))))
            (core func $block (canon lower (func $poll "[method]pollable.block")))
            (core func $subscribe (canon lower (func $clock "subscribe-duration")))"#,
        core_imports: r#"(import "host" "block" (func $block (param i32)))
            (import "host" "subscribe" (func $subscribe (param i64) (result i32)))"#,
        with: r#"(with "host" (instance (export "block" (func $block)) (export "subscribe" (func $subscribe))))"#,
        body: "(call $block (call $subscribe (i64.const 3600000000000))) unreachable".into(),
        ..Guest::default()
    }
    .build()
}

const STDOUT: &str = r#"(import "wasi:io/error@0.2.6" (instance $io-error (export "error" (type (sub resource)))))
    (alias export $io-error "error" (type $error))
    (import "wasi:io/streams@0.2.6" (instance $streams
      (export "output-stream" (type $stream (sub resource)))
      (alias outer 1 $error (type $e))
      (export "error" (type $error (eq $e)))
      (type $v (variant (case "last-operation-failed" (own $error)) (case "closed")))
      (export "stream-error" (type $stream-error (eq $v)))
      (export "[method]output-stream.blocking-write-and-flush" (func
        (param "self" (borrow $stream)) (param "contents" (list u8)) (result (result (error $stream-error)))))))
    (alias export $streams "output-stream" (type $stream))
    (import "wasi:cli/stdout@0.2.6" (instance $stdout
      (alias outer 1 $stream (type $s))
      (export "output-stream" (type $stream (eq $s)))
      (export "get-stdout" (func (result (own $stream))))))
    (core func $get (canon lower (func $stdout "get-stdout")))
    (core func $write (canon lower (func $streams "[method]output-stream.blocking-write-and-flush")
      (memory (core memory $libc "memory"))))"#;

/// Writes its payload to standard output this many times, then answers with it.
pub(crate) fn print(times: u32) -> Vec<u8> {
    print_and(times, ECHO)
}

/// Writes its payload to standard output this many times, then does this.
pub(crate) fn print_and(times: u32, then: &str) -> Vec<u8> {
    Guest {
        imports: STDOUT,
        core_imports: r#"(import "host" "get" (func $get (result i32)))
            (import "host" "write" (func $write (param i32 i32 i32 i32)))"#,
        with: r#"(with "host" (instance (export "get" (func $get)) (export "write" (func $write))))"#,
        body: format!(
            "(local $stream i32) (local $times i32)
            (local.set $stream (call $get))
            (local.set $times (i32.const {times}))
            (loop $again
              (call $write (local.get $stream)
                (i32.load offset=88 (local.get $call)) (i32.load offset=92 (local.get $call)) (i32.const 512))
              (br_if $again (local.tee $times (i32.sub (local.get $times) (i32.const 1)))))
            {then}"
        ),
        ..Guest::default()
    }
    .build()
}

/// Logs its payload as an error in the context `ctx`, then answers with it.
#[allow(dead_code, reason = "the example does not need it")]
pub(crate) fn log() -> Vec<u8> {
    Guest {
        imports: r#"(import "wasi:logging/logging@0.1.0-draft" (instance $logging
              (type $l (enum "trace" "debug" "info" "warn" "error" "critical"))
              (export "level" (type $level (eq $l)))
              (export "log" (func (param "level" $level) (param "context" string) (param "message" string)))))
            (core func $log (canon lower (func $logging "log") (memory (core memory $libc "memory"))))"#,
        core_imports: r#"(import "host" "log" (func $log (param i32 i32 i32 i32 i32)))"#,
        with: r#"(with "host" (instance (export "log" (func $log))))"#,
        items: r#"(data (i32.const 3000) "ctx")"#.into(),
        body: format!(
            "(call $log (i32.const 4) (i32.const 3000) (i32.const 3)
              (i32.load offset=88 (local.get $call)) (i32.load offset=92 (local.get $call))) {ECHO}"
        ),
    }
    .build()
}

/// Refuses the call with this code.
#[allow(dead_code, reason = "the example does not need it")]
pub(crate) fn reject(code: &str) -> Vec<u8> {
    let items = format!("(data (i32.const 3000) \"{code}\") (data (i32.const 3500) \"no\\1b[1m\\n2\")");
    let body = format!(
        "(i32.store8 (i32.const 1024) (i32.const 1)) (i32.store8 (i32.const 1032) (i32.const 1))
        (i32.store (i32.const 1040) (i32.const 3000)) (i32.store (i32.const 1044) (i32.const {}))
        (i32.store (i32.const 1048) (i32.const 3500)) (i32.store (i32.const 1052) (i32.const 8))
        (i32.const 1024)",
        code.len()
    );
    Guest { items, body, ..Guest::default() }.build()
}

/// Asks for another attempt after 250 ms.
#[allow(dead_code, reason = "the example does not need it")]
pub(crate) fn retry() -> Vec<u8> {
    let items = "(data (i32.const 3000) \"later\")".into();
    let body = "(i32.store8 (i32.const 1024) (i32.const 1)) (i32.store8 (i32.const 1032) (i32.const 0))
        (i32.store (i32.const 1040) (i32.const 3000)) (i32.store (i32.const 1044) (i32.const 5))
        (i32.store8 (i32.const 1048) (i32.const 1)) (i64.store (i32.const 1056) (i64.const 250))
        (i32.const 1024)"
        .into();
    Guest { items, body, ..Guest::default() }.build()
}
