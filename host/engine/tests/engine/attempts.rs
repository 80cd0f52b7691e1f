//! How attempts end.

use std::sync::Arc;
use std::time::{Duration, Instant};

use baton_engine::{Invocation, Timings};
use baton_model::{Grants, Limits, Outcome};
use futures_util::future::join_all;

use crate::guests::{self, ECHO, Guest, plain};
use crate::support::{Sink, call, config, engine, execute, limits, load, outcome, unix_ms};

#[tokio::test]
async fn an_echo_answers_with_the_payload_byte_for_byte() {
    let component = load(&guests::echo());
    for payload in [Vec::new(), b"abc".to_vec(), (0..=255).cycle().take(900_000).collect()] {
        let (outcome, _) = execute(&component, call(payload.clone()), limits()).await;
        let Outcome::Replied(reply) = outcome else { panic!("{outcome:?}") };
        assert_eq!((reply.media_type.as_str(), &reply.body[..]), ("text/plain", &payload[..]));
    }
}

#[tokio::test]
async fn the_context_stands_where_the_contract_says() {
    // The 88 bytes of the context, whose texts lie elsewhere, are answered as they are.
    let component = load(&plain("(call $ok (local.get $call) (i32.const 88))"));
    let mut asked = call("");
    asked.attempt = 7;
    asked.deadline_ms = Some(unix_ms() + 60_000);
    asked.traceparent = Some("00-ab".into());
    let deadline_ms = asked.deadline_ms.unwrap();
    let (Outcome::Replied(reply), _) = execute(&component, asked, limits()).await else { panic!("no reply") };
    let u32_at = |at: usize| u32::from_le_bytes(reply.body[at..at + 4].try_into().unwrap());
    assert_eq!([u32_at(4), u32_at(12), u32_at(20)], [3, 4, 6], "lengths of `1-0`, `acme` and `resize`");
    assert_eq!(u32_at(24), 7, "attempt");
    assert_eq!(reply.body[32], 1, "there is a deadline");
    assert_eq!(u64::from_le_bytes(reply.body[40..48].try_into().unwrap()), deadline_ms);
    assert_eq!((reply.body[56], u32_at(64)), (1, 5), "there is a traceparent");
    assert_eq!(reply.body[68], 0, "there is no tracestate");
    assert_eq!(u32_at(84), 2, "two headers");
}

#[tokio::test]
async fn a_refusal_keeps_its_code_if_that_is_a_name() {
    for (code, kept) in [("bad-input", "bad-input"), ("Bad input!", "rejected"), ("", "rejected")] {
        let Outcome::Rejected(refusal) = outcome(&guests::reject(code), limits()).await else { panic!("{code}") };
        assert_eq!(refusal.code, kept);
        assert_eq!(refusal.message, "no\\u{1b}[1m\n2", "control characters are escaped");
    }
}

#[tokio::test]
async fn a_wish_for_another_attempt_comes_with_its_wait() {
    let expected = Outcome::RetryAsked { message: "later".into(), after: Some(Duration::from_millis(250)) };
    assert_eq!(outcome(&guests::retry(), limits()).await, expected);
}

#[tokio::test]
async fn a_trap_is_told_with_the_names_of_its_frames() {
    let Outcome::Trapped { message } = outcome(&plain("unreachable"), limits()).await else { panic!() };
    assert!(message.contains("unreachable") && message.contains("handle"), "{message}");
}

#[tokio::test]
async fn a_deep_recursion_traps_and_the_next_call_is_served() {
    let guest = Guest {
        items: "(func $deep (param i32) (result i32) (i32.add (call $deep (local.get 0)) (i32.const 1)))".into(),
        body: "(call $deep (i32.const 0))".into(),
        ..Guest::default()
    };
    let component = load(&guest.build());
    for _ in 0..2 {
        let (outcome, _) = execute(&component, call(""), limits()).await;
        let Outcome::Trapped { message } = outcome else { panic!("{outcome:?}") };
        assert!(message.contains("stack"), "{message}");
        assert!(message.len() < 6_000, "{} bytes", message.len());
    }
}

#[tokio::test]
async fn an_exit_is_an_exit_and_not_a_trap() {
    assert_eq!(outcome(&guests::exit(), limits()).await, Outcome::Exited { code: 1 });
}

#[tokio::test]
async fn a_guest_that_computes_for_ever_is_stopped_at_its_time_limit() {
    let limit = Duration::from_millis(60);
    let guest = plain("(loop (br 0)) unreachable");
    let ended = outcome(&guest, Limits { time_max: limit, ..limits() }).await;
    assert_eq!(ended, Outcome::TimedOut { limit });
}

/// The clock ticks for all guests alike; were each stopped by its first tick, one of some hundred quick calls would wait for
/// a turn behind guests that compute for long.
#[tokio::test]
async fn a_call_that_computes_for_less_than_a_tick_is_through_at_once_whenever_the_clock_ticks() {
    const TICK: Duration = Duration::from_millis(10);
    // Half a millisecond or so: of twenty calls one sees a tick.
    let component = load(&plain(
        "(local $n i32) (local.set $n (i32.const 1000000))
        (loop (br_if 0 (local.tee $n (i32.sub (local.get $n) (i32.const 1)))))
        (call $ok (local.get $call) (i32.const 0))",
    ));
    let mut brief = 0;
    for n in 0..400 {
        let began = Instant::now();
        let mut attempt = Box::pin(execute(&component, call(""), limits()));
        let is_through = futures_util::poll!(&mut attempt).is_ready();
        // On a machine that does other things as well one may take longer.
        if began.elapsed() < TICK {
            brief += 1;
            assert!(is_through, "call {n} is not");
        }
    }
    assert!(brief > 0, "no call was brief");
}

#[tokio::test]
async fn a_guest_that_waits_in_the_host_is_stopped_at_its_time_limit() {
    let limit = Duration::from_millis(60);
    let ended = outcome(&guests::sleep(), Limits { time_max: limit, ..limits() }).await;
    assert_eq!(ended, Outcome::TimedOut { limit });
}

#[tokio::test]
async fn a_deadline_before_the_time_limit_is_what_counts() {
    let component = load(&plain("(loop (br 0)) unreachable"));
    let mut asked = call("");
    asked.deadline_ms = Some(unix_ms() + 60);
    assert_eq!(execute(&component, asked, limits()).await.0, Outcome::DeadlinePassed);
}

#[tokio::test]
async fn a_call_whose_deadline_has_passed_is_not_begun() {
    let component = load(&guests::print(1));
    let mut asked = call("abc");
    asked.deadline_ms = Some(1);
    let (outcome, sink) = execute(&component, asked, limits()).await;
    assert_eq!(outcome, Outcome::DeadlinePassed);
    assert!(sink.lines.lock().unwrap().is_empty());
}

#[tokio::test(flavor = "current_thread")]
async fn a_guest_that_computes_leaves_its_thread_to_others() {
    let limit = Duration::from_millis(500);
    let endless = load(&plain("(loop (br 0)) unreachable"));
    let echo = load(&guests::echo());
    let running = execute(&endless, call(""), Limits { time_max: limit, ..limits() });
    tokio::pin!(running);
    for _ in 0..3 {
        tokio::select! {
            biased;
            (ended, _) = &mut running => panic!("{ended:?} before its neighbours had their turn"),
            (served, _) = execute(&echo, call("abc"), limits()) => assert!(matches!(served, Outcome::Replied(_))),
        }
    }
    assert_eq!(running.await.0, Outcome::TimedOut { limit });
}

#[tokio::test]
async fn memory_above_the_limit_is_told_as_such_whether_asked_for_at_once_or_by_steps() {
    let limits = Limits { memory_bytes_max: 4 << 20, ..limits() };
    let expected = Outcome::OutOfMemory { bytes_max: 4 << 20 };
    let at_once = plain("(drop (memory.grow (i32.const 65000))) unreachable");
    assert_eq!(outcome(&at_once, limits).await, expected);
    let by_steps = plain("(loop (drop (memory.grow (i32.const 1))) (br 0)) unreachable");
    assert_eq!(outcome(&by_steps, limits).await, expected);
}

#[tokio::test]
async fn memory_above_the_engines_own_ceiling_is_refused_whatever_the_limit_says() {
    let guest = plain("(loop (drop (memory.grow (i32.const 16))) (br 0)) unreachable");
    let ended = outcome(&guest, Limits { memory_bytes_max: usize::MAX, ..limits() }).await;
    assert_eq!(ended, Outcome::OutOfMemory { bytes_max: config().memory_bytes_max });
}

#[tokio::test]
async fn an_answer_above_the_limit_is_told_as_such() {
    let component = load(&guests::echo());
    let limits = Limits { result_bytes_max: 2, ..limits() };
    let (outcome, _) = execute(&component, call("abc"), limits).await;
    assert_eq!(outcome, Outcome::ResultTooLarge { bytes: 3, bytes_max: 2 });
}

#[tokio::test]
async fn an_enormous_answer_is_not_even_copied() {
    let guest = plain("(drop (memory.grow (i32.const 1600))) (call $ok (i32.const 0) (i32.const 104857600))");
    let ended = outcome(&guest, limits()).await;
    assert!(matches!(ended, Outcome::ResultTooLarge { bytes_max: 1_048_576, .. }), "{ended:?}");
}

#[tokio::test]
async fn an_answer_that_points_outside_the_memory_is_a_trap() {
    let ended = outcome(&plain("(call $ok (i32.const 0) (i32.const 104857600))"), limits()).await;
    assert!(matches!(ended, Outcome::Trapped { .. }), "{ended:?}");
}

#[tokio::test]
async fn a_table_above_the_limit_is_a_trap() {
    let guest = Guest {
        items: "(table $t 1 funcref)".into(),
        body: "(drop (table.grow $t (ref.null func) (i32.const 10000000))) unreachable".into(),
        ..Guest::default()
    };
    let Outcome::Trapped { message } = outcome(&guest.build(), limits()).await else { panic!() };
    assert!(message.contains("table"), "{message}");
}

#[tokio::test]
async fn nothing_in_memory_outlives_a_call() {
    // Answers with what lies at 60,000 and leaves something there.
    let body = "(i32.store (i32.const 61000) (i32.load (i32.const 60000)))
        (i32.store (i32.const 60000) (i32.const 0x41414141))
        (call $ok (i32.const 61000) (i32.const 4))";
    let component = load(&plain(body));
    for _ in 0..50 {
        let (Outcome::Replied(reply), _) = execute(&component, call(""), limits()).await else { panic!() };
        assert_eq!(&reply.body[..], [0; 4]);
    }
}

#[tokio::test]
async fn one_instance_more_than_the_pool_has_is_the_hosts_fault() {
    let engine = baton_engine::Engine::new(baton_engine::EngineConfig { instances_max: 2, ..config() }).unwrap();
    let component = engine.load(&guests::sleep(), &Grants::default()).unwrap();
    let limits = Limits { time_max: Duration::from_millis(300), ..limits() };
    let ended = join_all((0..3).map(|_| execute(&component, call(""), limits))).await;
    let faults = ended.iter().filter(|(outcome, _)| matches!(outcome, Outcome::HostFault { .. })).count();
    let timeouts = ended.iter().filter(|(outcome, _)| matches!(outcome, Outcome::TimedOut { .. })).count();
    assert_eq!((faults, timeouts), (1, 2));
    // The pool is whole again.
    let echo = engine.load(&guests::echo(), &Grants::default()).unwrap();
    let served = join_all((0..2).map(|_| execute(&echo, call("abc"), limits))).await;
    assert!(served.iter().all(|(outcome, _)| matches!(outcome, Outcome::Replied(_))));
}

#[tokio::test]
async fn an_attempt_tells_how_long_its_halves_took_as_far_as_it_came() {
    let timed = |guest: Vec<u8>, limits: Limits, deadline_ms: Option<u64>| async move {
        let mut asked = call("abc");
        asked.deadline_ms = deadline_ms;
        let log = Arc::new(Sink::default());
        let executed = load(&guest)
            .execute_timed(Invocation {
                call: Arc::new(asked),
                limits,
                log,
                waits: false,
                weight: 1,
                services: None,
                durable: None,
            })
            .await;
        (executed.outcome, executed.timings)
    };

    let (outcome, timings) = timed(guests::echo(), limits(), None).await;
    assert!(matches!(outcome, Outcome::Replied(_)), "{outcome:?}");
    assert!(timings.instantiate.is_some() && timings.run.is_some(), "{timings:?}");

    // One guest waits in the host and its attempt is dropped, the other computes and is interrupted.
    let limit = Duration::from_millis(60);
    for guest in [guests::sleep(), plain("(loop (br 0)) unreachable")] {
        let (outcome, timings) = timed(guest, Limits { time_max: limit, ..limits() }, None).await;
        assert_eq!(outcome, Outcome::TimedOut { limit });
        assert!(timings.run.is_some_and(|run| run > limit / 2), "{timings:?}");
    }

    let (outcome, timings) = timed(guests::echo(), limits(), Some(1)).await;
    assert_eq!((outcome, timings), (Outcome::DeadlinePassed, Timings::default()));
}

#[tokio::test]
async fn an_attempt_that_is_dropped_gives_its_instance_back() {
    let engine = baton_engine::Engine::new(baton_engine::EngineConfig { instances_max: 1, ..config() }).unwrap();
    let sleep = engine.load(&guests::sleep(), &Grants::default()).unwrap();
    let echo = engine.load(&guests::echo(), &Grants::default()).unwrap();
    for _ in 0..5 {
        let limits = limits();
        let dropped = tokio::time::timeout(Duration::from_millis(20), execute(&sleep, call(""), limits)).await;
        assert!(dropped.is_err());
        let (outcome, _) = execute(&echo, call("abc"), limits).await;
        assert!(matches!(outcome, Outcome::Replied(_)), "{outcome:?}");
    }
}

#[tokio::test]
async fn an_untuned_engine_gives_the_same_answers() {
    let config = baton_engine::EngineConfig { tuning: baton_engine::Tuning::CrateDefaults, ..config() };
    let component = baton_engine::Engine::new(config).unwrap().load(&guests::echo(), &Grants::default()).unwrap();
    assert!(matches!(execute(&component, call("abc"), limits()).await.0, Outcome::Replied(_)));
}

#[tokio::test]
async fn a_component_lives_on_without_its_engine() {
    let component = {
        let engine = Arc::new(engine());
        engine
            .load(
                &plain(&format!("(if (i32.load8_u offset=88 (local.get $call)) (then (loop (br 0)))) {ECHO}")),
                &Grants::default(),
            )
            .unwrap()
    };
    // It is still interrupted: the clock lives as long as whoever needs it.
    let limit = Duration::from_millis(60);
    let ended = execute(&component, call("abc"), Limits { time_max: limit, ..limits() }).await.0;
    assert_eq!(ended, Outcome::TimedOut { limit });
}
