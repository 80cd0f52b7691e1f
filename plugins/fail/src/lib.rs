//! Fails in the way it is asked to, to see what the host makes of it.

use std::time::Duration;

use baton_sdk::prelude::*;

#[derive(Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
enum Input {
    /// Will never succeed.
    Reject,
    /// May succeed later.
    Retry {
        /// The shortest time to the next attempt, in milliseconds.
        after_ms: Option<u64>,
    },
    /// Breaks off in the middle.
    Trap,
    /// Never ends.
    Loop,
    /// Ends the whole instance, as a program would.
    Exit,
}

#[baton_sdk::function]
fn fail(input: Input) -> Result<()> {
    match input {
        Input::Reject => Err(Failure::reject("as-asked", "rejected as asked")),
        Input::Retry { after_ms: None } => Err(Failure::retry("failed as asked")),
        Input::Retry { after_ms: Some(ms) } => Err(Failure::retry("failed as asked").after(Duration::from_millis(ms))),
        Input::Trap => panic!("trapped as asked"),
        Input::Loop => loop {
            std::hint::spin_loop();
        },
        Input::Exit => std::process::exit(1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use baton_sdk::testing::call;

    fn failure(payload: &str) -> Failure {
        call::<fail>(Context::default(), payload).unwrap_err()
    }

    #[test]
    fn it_rejects_and_retries_as_asked() {
        assert_eq!(failure(r#"{"kind":"reject"}"#), Failure::reject("as-asked", "rejected as asked"));
        let retry = Failure::retry("failed as asked");
        assert_eq!(failure(r#"{"kind":"retry"}"#), retry);
        assert_eq!(failure(r#"{"kind":"retry","after_ms":50}"#), retry.after(Duration::from_millis(50)));
    }

    #[test]
    #[should_panic(expected = "trapped as asked")]
    fn it_traps_as_asked() {
        failure(r#"{"kind":"trap"}"#);
    }

    #[test]
    fn an_unknown_kind_is_rejected_by_the_names_of_the_known_ones() {
        let failure = failure(r#"{"kind":"explode"}"#);
        assert!(matches!(&failure, Failure::Reject { code, .. } if code == "bad-input"), "{failure}");
        for kind in ["reject", "retry", "trap", "loop", "exit"] {
            assert!(failure.message().contains(&format!("`{kind}`")), "{failure}");
        }
    }
}
