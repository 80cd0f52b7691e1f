//! What a guest says, and what of it arrives.

use std::time::Duration;

use baton_model::{Limits, Outcome};

use crate::guests;
use crate::support::{call, execute, limits, load};

async fn lines(guest: &[u8], payload: &'static [u8], log_bytes_max: usize) -> (Vec<String>, Vec<u64>) {
    let limits = Limits { log_bytes_max, ..limits() };
    let (outcome, sink) = execute(&load(guest), call(payload), limits).await;
    assert!(matches!(outcome, Outcome::Replied(_)), "{outcome:?}");
    let lines = sink.lines.lock().unwrap().clone();
    let dropped = sink.dropped.lock().unwrap().clone();
    (lines, dropped)
}

#[tokio::test]
async fn standard_output_arrives_line_by_line_and_the_unfinished_line_at_the_end() {
    let (said, dropped) = lines(&guests::print(2), b"one\r\ntwo", 100).await;
    assert_eq!(said, ["Stdout one", "Stdout twoone", "Stdout two"]);
    assert!(dropped.is_empty());
}

#[tokio::test]
async fn control_characters_cannot_reach_a_terminal_or_forge_a_line() {
    let payload = "a\u{1b}[31m\rb\tc\u{202e}d\u{85}\u{0}e".as_bytes();
    let (said, _) = lines(&guests::print(1), payload, 100).await;
    assert_eq!(said, ["Stdout a\\u{1b}[31m\\rb\tc\\u{202e}d\\u{85}\\u{0}e"]);
}

#[tokio::test]
async fn bytes_that_are_no_text_arrive_as_replacement_characters() {
    let (said, _) = lines(&guests::print(1), b"\xff\xfea", 100).await;
    assert_eq!(said, ["Stdout \u{fffd}\u{fffd}a"]);
}

#[tokio::test]
async fn what_is_above_the_limit_is_dropped_and_counted_and_the_call_succeeds() {
    let (said, dropped) = lines(&guests::print(100_000), b"0123456\n", 64).await;
    assert_eq!(said.len(), 8);
    assert_eq!(dropped, [800_000 - 64]);
}

#[tokio::test]
async fn the_logging_interface_arrives_with_its_level_and_its_context() {
    let (said, dropped) = lines(&guests::log(), b"first\nsecond\x1b", 100).await;
    let stream = "Log { level: Error, context: \"ctx\" }";
    assert_eq!(said, [format!("{stream} first"), format!("{stream} second\\u{{1b}}")]);
    assert!(dropped.is_empty());
}

#[tokio::test]
async fn a_message_above_the_limit_is_cut() {
    let (said, dropped) = lines(&guests::log(), b"first and second", 8).await;
    assert_eq!(said, ["Log { level: Error, context: \"ctx\" } first"]);
    assert_eq!(dropped, [11]);
}

#[tokio::test]
async fn what_a_guest_said_before_it_was_stopped_arrives() {
    for (then, time_max) in [("unreachable", 20_000), ("(loop (br 0)) unreachable", 60)] {
        let limits = Limits { time_max: Duration::from_millis(time_max), ..limits() };
        let (outcome, sink) = execute(&load(&guests::print_and(1, then)), call("last words"), limits).await;
        assert!(matches!(outcome, Outcome::Trapped { .. } | Outcome::TimedOut { .. }), "{outcome:?}");
        assert_eq!(*sink.lines.lock().unwrap(), ["Stdout last words"]);
    }
}
