//! Answers after a while, to see deadlines, draining and calls in flight.

use std::time::Duration;

use baton_sdk::prelude::*;

#[derive(Deserialize)]
struct Input {
    /// How long to wait, in milliseconds.
    ms: u64,
}

#[baton_sdk::function]
fn sleep(input: Input) -> Reply {
    std::thread::sleep(Duration::from_millis(input.ms));
    Reply::new("text/plain", format!("slept {}", input.ms))
}

#[cfg(test)]
mod tests {
    use super::*;
    use baton_sdk::testing::call;
    use std::time::Instant;

    #[test]
    fn it_answers_after_the_time_asked_for() {
        let start = Instant::now();
        let reply = call::<sleep>(Context::default(), r#"{"ms":5}"#);
        assert!(start.elapsed() >= Duration::from_millis(5));
        assert_eq!(reply, Ok(Reply::new("text/plain", "slept 5")));
    }

    #[test]
    fn a_time_must_be_given() {
        let failure = call::<sleep>(Context::default(), "{}").unwrap_err();
        assert!(failure.message().contains("missing field `ms`"), "{failure}");
    }
}
