//! What a function reaches when it was granted it.

use std::collections::BTreeMap;
use std::sync::Arc;

use baton_engine::{Engine, Invocation, Services};
use baton_model::{Grants, Outcome, Setting};

use crate::guests::Guest;
use crate::support::{Sink, call, config, limits};

/// Answers with the setting that its payload names, through this interface.
fn reads_a_setting(interface: &str) -> Vec<u8> {
    let guest = Guest {
        imports: r#"(import "{name}" (instance $config
              (type $v (variant (case "upstream" string) (case "io" string)))
              (export "error" (type $error (eq $v)))
              (export "get" (func (param "key" string) (result (result (option string) (error $error)))))))
            (core func $get (canon lower (func $config "get")
              (memory (core memory $libc "memory")) (realloc (core func $libc "realloc"))))"#,
        core_imports: r#"(import "host" "get" (func $get (param i32 i32 i32)))"#,
        with: r#"(with "host" (instance (export "get" (func $get))))"#,
        body:
            "(call $get (i32.load offset=88 (local.get $call)) (i32.load offset=92 (local.get $call)) (i32.const 512))
            (call $ok (i32.load (i32.const 520)) (i32.load (i32.const 524)))"
                .into(),
        ..Guest::default()
    };
    guest.build_as(interface)
}

#[tokio::test]
async fn settings_are_read_under_every_name_that_the_interface_has_had() {
    let settings = [("greeting", Setting::Plain("hi".into())), ("key", Setting::Secret("hunter2".into()))];
    let settings: BTreeMap<_, _> = settings.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    let grants = Grants { config: Some(settings), ..Grants::default() };
    let services = Arc::new(Services {
        function: "acme/resize".parse().unwrap(),
        grants: Arc::new(grants.clone()),
        keyvalue: None,
        calls: None,
    });
    let engine = Engine::new(config()).unwrap();
    for name in ["store@0.2.0-rc.1", "store@0.2.0-draft", "store@0.2.0-draft-2024-09-27", "runtime@0.2.0-draft"] {
        let component = engine.load(&reads_a_setting(&format!("wasi:config/{name}")), &grants).unwrap();
        for (asked, expected) in [("greeting", "hi"), ("key", "hunter2"), ("nothing", "")] {
            let invocation = Invocation {
                call: Arc::new(call(asked)),
                limits: limits(),
                log: Arc::new(Sink::default()),
                waits: false,
                weight: 1,
                durable: None,
                services: Some(Arc::clone(&services)),
            };
            let Outcome::Replied(reply) = component.execute(invocation).await else { panic!("{name}: no reply") };
            assert_eq!(&reply.body[..], expected.as_bytes(), "{name}: {asked}");
        }
    }
}
