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
    /// Does at each attempt what stands there for it, and at later ones the last.
    Steps {
        /// What the first attempt does, the second, and so on.
        steps: Vec<Step>,
    },
}

/// What one attempt does.
#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Step {
    /// Answers.
    Ok,
    /// Will never succeed.
    Reject,
    /// May succeed later.
    Retry,
    /// Breaks off in the middle.
    Trap,
    /// Never ends.
    Loop,
    /// Ends the whole instance.
    Exit,
}

#[baton_sdk::function]
fn fail(context: &Context, input: Input) -> Result<()> {
    let (step, after_ms) = match input {
        Input::Reject => (Step::Reject, None),
        Input::Retry { after_ms } => (Step::Retry, after_ms),
        Input::Trap => (Step::Trap, None),
        Input::Loop => (Step::Loop, None),
        Input::Exit => (Step::Exit, None),
        Input::Steps { steps } => (step_of(&steps, context.attempt()), None),
    };
    match (step, after_ms) {
        (Step::Ok, _) => Ok(()),
        (Step::Reject, _) => Err(Failure::reject("as-asked", "rejected as asked")),
        (Step::Retry, None) => Err(Failure::retry("failed as asked")),
        (Step::Retry, Some(ms)) => Err(Failure::retry("failed as asked").after(Duration::from_millis(ms))),
        (Step::Trap, _) => panic!("trapped as asked"),
        (Step::Loop, _) => loop {
            std::hint::spin_loop();
        },
        (Step::Exit, _) => std::process::exit(1),
    }
}

/// What this attempt does; the first is 1.
fn step_of(steps: &[Step], attempt: u32) -> Step {
    let at = usize::try_from(attempt).unwrap_or(usize::MAX).saturating_sub(1);
    steps.get(at).or(steps.last()).copied().unwrap_or(Step::Ok)
}

#[cfg(test)]
mod tests {
    use super::*;
    use baton_sdk::testing::{call, context};

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
    fn each_attempt_does_what_stands_there_for_it() {
        let payload = r#"{"kind":"steps","steps":["retry","reject","ok"]}"#;
        let end = |attempt| call::<fail>(context().attempt(attempt).build(), payload).map(drop);
        assert_eq!(end(1), Err(Failure::retry("failed as asked")));
        assert_eq!(end(2), Err(Failure::reject("as-asked", "rejected as asked")));
        assert_eq!((end(3), end(9)), (Ok(()), Ok(())));
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
        for kind in ["reject", "retry", "trap", "loop", "exit", "steps"] {
            assert!(failure.message().contains(&format!("`{kind}`")), "{failure}");
        }
    }
}
