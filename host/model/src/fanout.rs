//! One call to many functions: to which ones it may go.

use std::collections::BTreeSet;

use crate::{FunctionId, Name};

/// The most functions of one fan-out.
const FUNCTIONS_MAX: usize = 100;

/// The tenant of all these functions, to which one payload is to go.
///
/// # Errors
/// The rule that is broken, for people: they are one to a hundred, of one tenant, and each is named once.
pub fn fanout_tenant(functions: &[FunctionId]) -> Result<&Name, String> {
    let Some(first) = functions.first() else { return Err("no function is named".to_owned()) };
    if functions.len() > FUNCTIONS_MAX {
        return Err(format!("{} functions are named, and {FUNCTIONS_MAX} is the most", functions.len()));
    }
    if let Some(other) = functions.iter().find(|other| other.tenant() != first.tenant()) {
        return Err(format!("{first} and {other} are of two tenants, and a fan-out is of one"));
    }
    let mut seen = BTreeSet::new();
    match functions.iter().find(|function| !seen.insert(*function)) {
        Some(twice) => Err(format!("{twice} is named twice")),
        None => Ok(first.tenant()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fan_out_is_of_one_tenant_and_goes_to_each_function_once() {
        let many: Vec<String> = (0..101).map(|n| format!("acme/f{n}")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        for (names, rule) in [
            (&["acme/a"][..], None),
            (&["acme/a", "acme/b"], None),
            (&many[..100], None),
            (&[], Some("no function")),
            (&many[..], Some("100 is the most")),
            (&["acme/a", "other/a"], Some("two tenants")),
            (&["acme/a", "acme/b", "acme/a"], Some("acme/a is named twice")),
        ] {
            let functions: Vec<FunctionId> = names.iter().map(|name| name.parse().unwrap()).collect();
            match (fanout_tenant(&functions), rule) {
                (Ok(tenant), None) => assert_eq!(tenant.as_str(), "acme"),
                (Err(said), Some(rule)) => assert!(said.contains(rule), "{said}"),
                (said, rule) => panic!("{names:?}: {said:?}, and {rule:?} was expected"),
            }
        }
    }
}
