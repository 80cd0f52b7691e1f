//! Which files are functions, and what is said about the others.

use std::time::Duration;

use baton_engine::{COMPONENT_BYTES_MAX, Costly, Engine, EngineConfig, LoadError};
use baton_model::{Digest, Grants, HttpGrant, Limits};

use crate::guests::{self, Guest, plain};
use crate::support::{call, config, engine, execute, limits, load};

fn refusal(bytes: &[u8]) -> LoadError {
    match engine().load(bytes, &Grants::default()) {
        Ok(_) => panic!("it was loaded"),
        Err(e) => e,
    }
}

#[test]
fn a_component_knows_its_digest_its_size_and_its_imports() {
    let bytes = guests::exit();
    let component = load(&bytes);
    assert_eq!((component.digest(), component.size_bytes()), (Digest::of(&bytes), bytes.len()));
    assert_eq!(component.imports(), ["baton:function/types@0.1.0", "wasi:cli/exit@0.2.6"]);
    assert!(!component.from_cache());
}

#[test]
fn what_is_no_component_is_told_apart() {
    let core = wat::parse_str("(module)").unwrap();
    for (bytes, word) in [
        (&b""[..], "empty"),
        (b"#!/bin/sh\n", "text"),
        (b"(component)", "text"),
        (b"\x7fELF\x02\x01\x01", "machine code"),
        (b"\0asm", "cut short"),
        (b"\0asm\x0d\0", "cut short"),
        (&core, "wasm32-wasip2"),
    ] {
        let refused = refusal(bytes);
        assert!(matches!(refused, LoadError::NotAComponent(_)), "{refused:?}");
        assert!(refused.to_string().contains(word), "{refused}");
    }
    let huge = refusal(&vec![0; COMPONENT_BYTES_MAX + 1]);
    assert!(matches!(huge, LoadError::TooLarge { bytes } if bytes == COMPONENT_BYTES_MAX + 1));
}

#[test]
fn a_file_that_is_cut_short_anywhere_is_refused() {
    let engine = engine();
    let whole = guests::print(1);
    let mut boundaries = 0;
    // Every byte of the file, so every section boundary of the component and of the modules inside it.
    for end in 0..whole.len() {
        match engine.load(&whole[..end], &Grants::default()) {
            // Names for people may be missing at the end: without them it is the same function.
            Ok(_) => assert!(is_only_custom_sections(&whole[end..]), "cut at {end} of {}", whole.len()),
            Err(LoadError::WrongExports { .. }) => boundaries += 1,
            Err(_) => {}
        }
    }
    assert!(boundaries > 3, "cuts between sections leave a valid component without its export, {boundaries} seen");
}

/// Whether these are whole sections of the kind that has no meaning to an engine.
fn is_only_custom_sections(mut bytes: &[u8]) -> bool {
    while let [0, rest @ ..] = bytes {
        // The size is in groups of seven bits, lowest first.
        let digits = rest.iter().position(|b| b & 0x80 == 0).expect("a size ends") + 1;
        let size = rest[..digits].iter().rev().fold(0, |size, b| size << 7 | usize::from(b & 0x7f));
        bytes = &rest[digits + size..];
    }
    bytes.is_empty()
}

#[test]
fn the_wrong_world_is_refused_with_what_it_exports() {
    let none = refusal(&wat::parse_str("(component)").unwrap());
    assert!(none.to_string().contains("exports nothing"), "{none}");
    let other = r#"(component (instance $i) (export "wasi:cli/run@0.2.0" (instance $i)))"#;
    let other = refusal(&wat::parse_str(other).unwrap());
    assert!(other.to_string().contains("wasi:cli/run@0.2.0"), "{other}");
    let surplus = r#"(component (instance $i)
        (export "baton:function/handler@0.1.0" (instance $i)) (export "wasi:cli/run@0.2.0" (instance $i)))"#;
    let surplus = refusal(&wat::parse_str(surplus).unwrap());
    assert!(matches!(&surplus, LoadError::WrongExports { found } if found.len() == 2), "{surplus}");
    let instead = r#"(component (instance $i) (export "handler" (instance $i)))"#;
    assert!(matches!(refusal(&wat::parse_str(instead).unwrap()), LoadError::WrongExports { .. }));
}

#[test]
fn what_a_toolchain_exports_for_itself_under_a_plain_name_is_let_through() {
    let guest = Guest {
        imports: r#"(instance $own) (export "exports" (instance $own))"#,
        body: guests::ECHO.into(),
        ..Guest::default()
    };
    assert!(load(&guest.build()).imports().contains(&"baton:function/types@0.1.0".to_owned()));
}

#[test]
fn imports_that_the_host_does_not_have_are_all_named() {
    let guest = Guest {
        imports: r#"(import "wasi:messaging/types@0.2.0" (instance (export "f" (func))))
            (import "acme:db/query@1.0.0" (instance (export "f" (func))))"#,
        body: "unreachable".into(),
        ..Guest::default()
    };
    let LoadError::MissingImports { missing } = refusal(&guest.build()) else { panic!() };
    assert_eq!(missing, ["wasi:messaging/types@0.2.0", "acme:db/query@1.0.0"]);
}

#[test]
fn an_import_that_the_manifest_does_not_grant_is_named_with_the_mend() {
    let guest = Guest {
        imports: r#"(import "wasi:http/types@0.2.3" (instance)) (import "wasi:random/random@0.2.6" (instance))"#,
        body: "unreachable".into(),
        ..Guest::default()
    };
    let grants = Grants { random: false, ..Grants::default() };
    let refused = engine().load(&guest.build(), &grants).err().expect("it is not granted");
    assert!(matches!(&refused, LoadError::NotGranted { ungranted } if ungranted.len() == 2), "{refused:?}");
    let text = refused.to_string();
    assert!(text.contains("wasi:http/types@0.2.3 (add `[grants.http]`"), "{text}");
    assert!(text.contains("wasi:random/random@0.2.6 (take `random = false`"), "{text}");
}

#[test]
fn a_durable_function_is_refused_what_a_replay_cannot_answer() {
    let guest = Guest {
        imports: r#"(import "baton:durable/steps@0.1.0" (instance)) (import "wasi:http/types@0.2.3" (instance))"#,
        body: "unreachable".into(),
        ..Guest::default()
    };
    let everywhere = HttpGrant { allow: Vec::new(), request_bytes_max: 1, response_bytes_max: 1, requests_max: 1 };
    let grants = Grants { http: Some(everywhere), ..Grants::default() };
    let refused = engine().load(&guest.build(), &grants).err().expect("it asks for more than its log has");
    assert!(matches!(&refused, LoadError::NotDurable { asked } if *asked == ["wasi:http/types@0.2.3"]), "{refused:?}");
    assert!(refused.to_string().contains("have it call a function that does"), "{refused}");
}

#[test]
fn a_component_that_is_loaded_is_measured_again_when_its_grants_change() {
    let guest = Guest {
        imports: r#"(import "wasi:clocks/monotonic-clock@0.2.6" (instance))"#,
        body: "unreachable".into(),
        ..Guest::default()
    };
    let component = load(&guest.build());
    component.fits(&Grants::default()).expect("it was loaded so");
    let refused = component.fits(&Grants { clock: false, ..Grants::default() }).expect_err("it needs the clock");
    assert!(matches!(refused, LoadError::NotGranted { .. }), "{refused:?}");
}

#[test]
fn an_import_of_another_type_is_refused() {
    let guest = Guest {
        imports: r#"(import "wasi:cli/exit@0.2.6" (instance (export "exit" (func (param "status" string)))))"#,
        body: "unreachable".into(),
        ..Guest::default()
    };
    assert!(matches!(refusal(&guest.build()), LoadError::WrongTypes(_)));
}

#[tokio::test]
async fn a_handler_of_another_type_is_refused_by_the_trial_at_the_latest() {
    let text = r#"(component
        (core module $m (func (export "handle") (result i32) (i32.const 1)))
        (core instance $i (instantiate $m))
        (func $handle (result u32) (canon lift (core func $i "handle")))
        (instance $h (export "handle" (func $handle)))
        (export "baton:function/handler@0.1.0" (instance $h)))"#;
    let refused = match engine().load(&wat::parse_str(text).unwrap(), &Grants::default()) {
        Ok(component) => component.trial(&limits(), None).await.expect_err("it is not the contract's handler"),
        Err(e) => e,
    };
    assert!(matches!(refused, LoadError::WrongTypes(_)), "{refused:?}");
}

#[test]
fn features_that_are_off_are_refused() {
    for items in ["(memory $second 1)", "(tag $t)", "(type $s (struct))"] {
        let guest = Guest { items: items.into(), body: "unreachable".into(), ..Guest::default() };
        let refused = refusal(&guest.build());
        assert!(matches!(refused, LoadError::Invalid(_)), "{items}: {refused:?}");
    }
    for (text, word) in [
        ("(component (core module (memory i64 1)))", "64-bit memory"),
        ("(component (core module (memory 1 1 shared)))", "shared memory"),
    ] {
        let refused = refusal(&wat::parse_str(text).unwrap());
        assert!(matches!(refused, LoadError::Costly(_)) && refused.to_string().contains(word), "{refused}");
    }
}

#[test]
fn what_would_cost_the_compiler_too_much_is_refused_before_it_is_compiled() {
    let (open, close) = ("(loop ".repeat(129), ")".repeat(129));
    let guest = Guest { items: format!("(func {open}{close})"), body: "unreachable".into(), ..Guest::default() };
    let refused = refusal(&guest.build());
    assert!(matches!(refused, LoadError::Costly(Costly::Loops { .. })), "{refused:?}");
    assert!(refused.to_string().contains("128 loops"), "it names the rule: {refused}");
}

#[tokio::test]
async fn a_trial_finds_a_start_that_traps_or_exits_or_never_ends_or_needs_too_much() {
    let start = |body: &str| {
        let items = format!("(func $start {body}) (start $start)");
        Guest { items, body: "unreachable".into(), ..Guest::default() }.build()
    };
    let short = Limits { time_max: Duration::from_millis(60), memory_bytes_max: 4 << 20, ..limits() };
    for (body, word) in [
        ("unreachable", "unreachable"),
        ("(loop (br 0))", "longer than 60 ms"),
        ("(drop (memory.grow (i32.const 1000)))", "memory"),
    ] {
        let refused = load(&start(body)).trial(&short, None).await.expect_err("the trial fails");
        assert!(matches!(refused, LoadError::Trial(_)) && refused.to_string().contains(word), "{refused}");
    }
    load(&guests::echo()).trial(&short, None).await.expect("an echo comes to life");
    // A trial calls nothing.
    load(&plain("unreachable")).trial(&short, None).await.expect("a handler that traps comes to life");
}

#[test]
fn more_memory_from_the_start_than_the_engine_ever_gives_is_refused() {
    let text = "(component (core module $m (memory 1600)) (core instance (instantiate $m)))";
    let config = EngineConfig { memory_bytes_max: 64 << 20, ..config() };
    let refused =
        Engine::new(config).unwrap().load(&wat::parse_str(text).unwrap(), &Grants::default()).err().expect("refused");
    assert!(matches!(refused, LoadError::Invalid(_)), "{refused:?}");
}

/// How much of this process is in memory, and how many mappings it has.
fn footprint() -> (usize, usize) {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: usize = statm.split(' ').nth(1).unwrap().parse().unwrap();
    (pages * 4096, std::fs::read_to_string("/proc/self/maps").unwrap().lines().count())
}

#[tokio::test]
async fn components_that_are_dropped_give_their_memory_back() {
    let engine = engine();
    let turn = async |number| {
        let component = engine.load(&guests::echo_number(number), &Grants::default()).unwrap();
        execute(&component, call("abc"), limits()).await;
    };
    for number in 0..50 {
        turn(number).await;
    }
    let (bytes_before, maps_before) = footprint();
    for number in 50..250 {
        turn(number).await;
    }
    let (bytes, maps) = footprint();
    // Other tests run at the same time, so the bounds are wide: 200 components kept would be far above them.
    assert!(bytes < bytes_before + (48 << 20), "{bytes_before} -> {bytes} bytes");
    assert!(maps < maps_before + 300, "{maps_before} -> {maps} mappings");
}
