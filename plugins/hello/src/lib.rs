//! A greeting, in JSON: the smallest function worth copying.

use baton_sdk::prelude::*;

/// Whom to greet.
#[derive(Deserialize)]
struct Input {
    #[serde(default = "world")]
    name: String,
}

#[derive(Serialize)]
struct Greeting {
    greeting: String,
}

fn world() -> String {
    "world".to_owned()
}

#[baton_sdk::function]
fn hello(input: Input) -> Result<Greeting> {
    Ok(Greeting { greeting: format!("Hello, {}", input.name) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use baton_sdk::testing::call;

    fn answer(payload: &str) -> String {
        call::<hello>(Context::default(), payload).unwrap().text().into_owned()
    }

    #[test]
    fn a_name_is_greeted() {
        assert_eq!(answer(r#"{"name":"Ada"}"#), r#"{"greeting":"Hello, Ada"}"#);
    }

    #[test]
    fn without_a_name_the_world_is_greeted() {
        assert_eq!(answer(""), r#"{"greeting":"Hello, world"}"#);
        assert_eq!(answer("{}"), r#"{"greeting":"Hello, world"}"#);
    }

    #[test]
    fn a_name_that_is_no_text_is_rejected() {
        let failure = call::<hello>(Context::default(), r#"{"name":7}"#).err().unwrap();
        assert!(matches!(&failure, Failure::Reject { code, .. } if code == "bad-input"), "{failure}");
    }
}
