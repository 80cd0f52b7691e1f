//! What `baton ps --json` prints, read loosely: only what a test asks for has to be there.

use baton_model::HostId;
use serde_json::Value;

/// One answer of `baton ps --json`.
#[derive(Debug, Clone)]
pub struct Listing(pub(crate) Value);

impl Listing {
    /// The record of one host.
    #[must_use]
    pub fn host(&self, id: &HostId) -> Option<&Value> {
        self.find("hosts", "id", id.as_str())
    }

    /// The state of one host, with the reason if there is one: `online`, `offline (crashed)`. Empty if it is not listed.
    #[must_use]
    pub fn state(&self, id: &HostId) -> String {
        let word = |name| self.host(id).and_then(|host| host[name].as_str()).unwrap_or_default();
        match (word("state"), word("reason")) {
            (state, "") => state.to_owned(),
            (state, reason) => format!("{state} ({reason})"),
        }
    }

    /// The summary of the machine that a host runs on.
    #[must_use]
    pub fn machine_of(&self, id: &HostId) -> Option<&Value> {
        self.find("machines", "machine", self.host(id)?["machine"].as_str()?)
    }

    /// The row of a function, by its full name.
    #[must_use]
    pub fn function(&self, name: &str) -> Option<&Value> {
        self.find("functions", "function", name)
    }

    fn find(&self, list: &str, key: &str, value: &str) -> Option<&Value> {
        self.0[list].as_array()?.iter().find(|row| row[key] == value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_listing_is_read_by_what_is_asked_for() {
        let listing = Listing(json!({
            "functions": [{"function": "default/echo", "available": true}],
            "hosts": [{"id": "a", "machine": "m", "state": "online", "reason": null},
                      {"id": "b", "machine": "m", "state": "offline", "reason": "crashed", "further": 1}],
            "machines": [{"machine": "m", "state": "online", "hosts": 2, "online": 1}],
        }));
        let id = |text| HostId::parse(text).expect("it is an id");
        assert_eq!(listing.state(&id("a")), "online");
        assert_eq!(listing.state(&id("b")), "offline (crashed)");
        assert_eq!(listing.state(&id("c")), "");
        assert_eq!(listing.machine_of(&id("b")).map(|machine| &machine["online"]), Some(&json!(1)));
        assert_eq!(listing.function("default/echo").map(|row| &row["available"]), Some(&json!(true)));
        assert!(Listing(json!({})).machine_of(&id("a")).is_none());
    }
}
