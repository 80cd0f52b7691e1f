;; The frame of the guests that no compiler would make: the contract's types, a memory with its allocator, and the
;; guest's own module. `{...}` is filled in by tests/suites/hostile/odd.rs.
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
    (export "failure" (type $failure (eq $f)))))
  (alias export $types "context" (type $context))
  (alias export $types "reply" (type $reply))
  (alias export $types "failure" (type $failure))
  {beside}
  (core module $memory
    (memory (export "memory") {memory})
    (global $top (mut i32) (i32.const 4096))
    (func (export "realloc") (param i32 i32 i32 i32) (result i32)
      (local $at i32)
      (local.set $at (i32.and (i32.add (global.get $top) (i32.const 15)) (i32.const -16)))
      (global.set $top (i32.add (local.get $at) (local.get 3)))
      (i32.add (local.get $at) (i32.const {astray}))))
  (core instance $memory (instantiate $memory))
  (core module $guest
    (import "memory" "memory" (memory 1))
    {imports}
    ;; An answer: its media type lies at 2048 and has 10 bytes, its body is as given.
    (func $answer (param $at i32) (param $bytes i32) (result i32)
      (i32.store8 (i32.const 1024) (i32.const 0))
      (i32.store (i32.const 1032) (i32.const 2048))
      (i32.store (i32.const 1036) (i32.const 10))
      (i32.store (i32.const 1040) (local.get $at))
      (i32.store (i32.const 1044) (local.get $bytes))
      (i32.const 1024))
    (data (i32.const 2048) "{media}")
    {items}
    (func $handle (export "handle") (param $call i32) (result i32) {body}))
  (core instance $guest (instantiate $guest (with "memory" (instance $memory)) {with}))
  (func $handle (param "context" $context) (param "payload" (list u8)) (result (result $reply (error $failure)))
    (canon lift (core func $guest "handle")
      (memory (core memory $memory "memory")) (realloc (core func $memory "realloc"))))
  (instance $handler (export "handle" (func $handle)))
  (export "baton:function/handler@0.1.0" (instance $handler)))
