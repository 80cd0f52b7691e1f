//! The shapes a function may have, each called as the host calls it.

use baton_sdk::prelude::*;
use baton_sdk::testing::{call, context};

#[baton_sdk::function]
fn nothing() {}

#[baton_sdk::function]
fn only_context(context: &Context) -> Text {
    Text::from(format!("{} {}", context.header("X-Colour").unwrap_or("none"), context.traceparent().is_some()))
}

#[baton_sdk::function]
fn owned_context_last((a, b): (u32, u32), context: Context) -> String {
    format!("{} {}", context.function(), a + b)
}

#[baton_sdk::function]
fn parse(input: Text) -> Result<i32> {
    Ok(input.parse::<i32>()?)
}

#[baton_sdk::function]
fn own_error(input: Text) -> std::result::Result<i32, std::num::ParseIntError> {
    input.parse()
}

#[baton_sdk::function]
pub(crate) fn reverse(mut input: Vec<char>) -> Vec<char> {
    input.reverse();
    input
}

#[baton_sdk::function]
fn raw(input: Bytes) -> Bytes {
    input
}

/// Named as the macro's own words are.
#[baton_sdk::function]
fn payload(input: u8) -> u8 {
    input
}

fn text<F: baton_sdk::Function>(payload: &str) -> Result<String> {
    call::<F>(context().build(), payload).map(|reply| reply.text().into_owned())
}

#[test]
fn each_shape_of_function_answers() {
    assert_eq!(text::<nothing>("anything"), Ok("null".into()));
    assert_eq!(text::<owned_context_last>("[1, 2]"), Ok(r#""function 3""#.into()));
    assert_eq!(text::<payload>("7"), Ok("7".into()));
    assert_eq!(text::<reverse>(r#"["a", "b"]"#), Ok(r#"["b","a"]"#.into()));
    assert_eq!(call::<raw>(context().build(), b"\xff"), Ok(Reply::new("application/octet-stream", b"\xff")));
}

#[test]
fn the_context_is_handed_on() {
    let context = context().header("X-Colour", "red").trace("00-1-2-01", None).build();
    assert_eq!(call::<only_context>(context, "").unwrap().text(), "red true");
}

#[test]
fn any_error_is_a_retry() {
    assert_eq!(text::<parse>("12"), Ok("12".into()));
    let retry = Err(Failure::retry("invalid digit found in string"));
    assert_eq!(text::<parse>("x"), retry);
    assert_eq!(text::<own_error>("x"), retry);
}

#[test]
fn the_function_itself_stays_callable() {
    assert_eq!(reverse(vec!['a', 'b']), ['b', 'a']);
}
