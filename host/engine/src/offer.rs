//! Which interfaces a host offers, and which of them only to functions that were granted them. Nothing runs here.
//!
//! The linker offers everything to everybody, once for the whole engine; this list is the gate, and it is kept at load:
//! a component that imports what is not in it, or not granted, never gets an instance.

use baton_model::Grants;

/// What an import takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Needs {
    /// It is there for everybody: without a grant it answers as if there were nothing outside.
    Nothing,
    Logging,
    Clock,
    Random,
    Config,
    KeyValue,
    Http,
    Calls,
}

/// Every interface that is offered. One that ends with a dot is offered in any release that starts so.
const OFFERED: &[(&str, Needs)] = &[
    ("baton:calls/calls@0.1.0", Needs::Calls),
    ("baton:durable/steps@0.1.0", Needs::Nothing),
    ("baton:function/types@0.1.0", Needs::Nothing),
    ("wasi:cli/environment@0.2.", Needs::Nothing),
    ("wasi:cli/exit@0.2.", Needs::Nothing),
    ("wasi:cli/stderr@0.2.", Needs::Nothing),
    ("wasi:cli/stdin@0.2.", Needs::Nothing),
    ("wasi:cli/stdout@0.2.", Needs::Nothing),
    ("wasi:cli/terminal-input@0.2.", Needs::Nothing),
    ("wasi:cli/terminal-output@0.2.", Needs::Nothing),
    ("wasi:cli/terminal-stderr@0.2.", Needs::Nothing),
    ("wasi:cli/terminal-stdin@0.2.", Needs::Nothing),
    ("wasi:cli/terminal-stdout@0.2.", Needs::Nothing),
    ("wasi:clocks/monotonic-clock@0.2.", Needs::Clock),
    ("wasi:clocks/wall-clock@0.2.", Needs::Clock),
    ("wasi:config/runtime@0.2.0-draft", Needs::Config),
    ("wasi:config/store@0.2.0-draft", Needs::Config),
    ("wasi:config/store@0.2.0-draft-2024-09-27", Needs::Config),
    ("wasi:config/store@0.2.0-rc.1", Needs::Config),
    ("wasi:filesystem/preopens@0.2.", Needs::Nothing),
    ("wasi:filesystem/types@0.2.", Needs::Nothing),
    ("wasi:http/outgoing-handler@0.2.", Needs::Http),
    ("wasi:http/types@0.2.", Needs::Http),
    ("wasi:io/error@0.2.", Needs::Nothing),
    ("wasi:io/poll@0.2.", Needs::Nothing),
    ("wasi:io/streams@0.2.", Needs::Nothing),
    ("wasi:keyvalue/atomics@0.2.0-draft", Needs::KeyValue),
    ("wasi:keyvalue/atomics@0.2.0-draft2", Needs::KeyValue),
    ("wasi:keyvalue/batch@0.2.0-draft", Needs::KeyValue),
    ("wasi:keyvalue/batch@0.2.0-draft2", Needs::KeyValue),
    ("wasi:keyvalue/store@0.2.0-draft", Needs::KeyValue),
    ("wasi:keyvalue/store@0.2.0-draft2", Needs::KeyValue),
    ("wasi:logging/logging@0.1.0-draft", Needs::Logging),
    ("wasi:random/insecure-seed@0.2.", Needs::Random),
    ("wasi:random/insecure@0.2.", Needs::Random),
    ("wasi:random/random@0.2.", Needs::Random),
    ("wasi:sockets/instance-network@0.2.", Needs::Nothing),
    ("wasi:sockets/ip-name-lookup@0.2.", Needs::Nothing),
    ("wasi:sockets/network@0.2.", Needs::Nothing),
    ("wasi:sockets/tcp-create-socket@0.2.", Needs::Nothing),
    ("wasi:sockets/tcp@0.2.", Needs::Nothing),
    ("wasi:sockets/udp-create-socket@0.2.", Needs::Nothing),
    ("wasi:sockets/udp@0.2.", Needs::Nothing),
];

/// What is wrong with a component's imports: names, each with the mend if there is one.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Refused {
    /// Those that no host has.
    pub(crate) missing: Vec<String>,
    /// Those that the manifest would have to grant.
    pub(crate) ungranted: Vec<Ungranted>,
}

/// An import that the manifest does not grant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ungranted {
    /// The import.
    pub import: String,
    /// What to write into the manifest.
    pub mend: &'static str,
}

/// Looks at every import. Ok if each is offered and granted.
pub(crate) fn admits(imports: &[String], grants: &Grants) -> Result<(), Refused> {
    let mut refused = Refused::default();
    for import in imports {
        match OFFERED.iter().find(|(offered, _)| is_of(import, offered)) {
            None => refused.missing.push(import.clone()),
            Some((_, needs)) => {
                if let Some(mend) = needs.mend(grants) {
                    refused.ungranted.push(Ungranted { import: import.clone(), mend });
                }
            }
        }
    }
    if refused == Refused::default() { Ok(()) } else { Err(refused) }
}

/// What is asked for, in imports or in the manifest, that would not answer the same in a replay.
pub(crate) fn unrepeatable(imports: &[String], grants: &Grants) -> Vec<String> {
    let remembers = |import: &&String| {
        let offered = OFFERED.iter().find(|(offered, _)| is_of(import, offered));
        offered.is_some_and(|(_, needs)| needs.may_change())
    };
    let scratch = grants.scratch.is_some().then(|| "`[grants.scratch]`".to_owned());
    imports.iter().filter(remembers).cloned().chain(scratch).collect()
}

fn is_of(import: &str, offered: &str) -> bool {
    if offered.ends_with('.') { import.starts_with(offered) } else { import == offered }
}

impl Needs {
    /// Whether it may answer otherwise when it is asked again.
    fn may_change(self) -> bool {
        match self {
            Self::Config | Self::KeyValue | Self::Http | Self::Calls => true,
            // The clocks and random numbers of a durable function come from its log.
            Self::Nothing | Self::Logging | Self::Clock | Self::Random => false,
        }
    }

    /// What to write into the manifest, if this is not granted.
    fn mend(self, grants: &Grants) -> Option<&'static str> {
        let (is_granted, mend) = match self {
            Self::Nothing => (true, ""),
            Self::Logging => (grants.logging, "take `logging = false` out of `[grants]`"),
            Self::Clock => (grants.clock, "take `clock = false` out of `[grants]`"),
            Self::Random => (grants.random, "take `random = false` out of `[grants]`"),
            Self::Config => (grants.config.is_some(), "add `[grants.config]` with the settings that it reads"),
            Self::KeyValue => (
                grants.keyvalue.is_some(),
                "add `[grants.keyvalue]` with its buckets, such as `default = \"function\"`",
            ),
            Self::Http => (
                grants.http.is_some(),
                "add `[grants.http]` with where it may go, such as `allow = [\"https://api.example.com\"]`",
            ),
            Self::Calls => (
                grants.calls.is_some(),
                "add `[grants.calls]` with the functions that it calls, such as `functions = [\"resize\"]`",
            ),
        };
        (!is_granted).then_some(mend)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn imports(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn what_nobody_has_and_what_is_not_granted_are_told_apart_and_all_named() {
        let asked = imports(&["wasi:http/types@0.2.3", "acme:db/query@1.0.0", "wasi:clocks/wall-clock@0.2.6"]);
        let grants = Grants { clock: false, ..Grants::default() };
        let refused = admits(&asked, &grants).unwrap_err();
        assert_eq!(refused.missing, ["acme:db/query@1.0.0"]);
        let named: Vec<_> = refused.ungranted.iter().map(|u| (u.import.as_str(), u.mend)).collect();
        assert_eq!((named[0].0, named[1].0), (asked[0].as_str(), asked[2].as_str()));
        assert!(named[0].1.contains("[grants.http]") && named[1].1.contains("clock = false"), "{named:?}");
    }

    #[test]
    fn what_a_replay_could_not_answer_is_named() {
        let asked =
            imports(&["wasi:clocks/wall-clock@0.2.6", "wasi:http/types@0.2.3", "wasi:keyvalue/store@0.2.0-draft"]);
        let grants =
            Grants { scratch: Some(baton_model::ScratchGrant { bytes_max: 1, files_max: 1 }), ..Grants::default() };
        assert_eq!(unrepeatable(&asked, &grants), [&asked[1], &asked[2], "`[grants.scratch]`"]);
        assert!(unrepeatable(&asked[..1], &Grants::default()).is_empty());
    }

    #[test]
    fn a_name_that_only_starts_like_one_that_is_offered_is_none() {
        let asked = imports(&["wasi:logging/logging@0.1.0-draft2", "wasi:cli/exit@0.20.0", "wasi:cli/exits@0.2.0"]);
        assert_eq!(admits(&asked, &Grants::default()).unwrap_err().missing, asked);
    }
}
