//! What has to hold for any manifest and any tenant.toml. For property tests, and for fuzzing from outside (feature
//! `fuzz`): no host has this in it.

#![allow(clippy::missing_panics_doc, reason = "to panic is how these say that something does not hold")]

use crate::policy::{Manifest, TenantFile};

/// A manifest: it is read, or refused in words that are not endless.
pub fn manifest(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Err(wrong) = Manifest::parse(text) {
        check(&wrong.to_string());
    }
}

/// A tenant.toml, in the same way.
pub fn tenant(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Err(wrong) = TenantFile::parse(text) {
        check(&wrong.to_string());
    }
}

fn check(refusal: &str) {
    assert!(!refusal.is_empty() && refusal.len() < 8_192, "{} bytes: {refusal}", refusal.len());
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    /// A line of TOML in which something may be wrong.
    fn line() -> impl Strategy<Value = String> {
        let table = prop::sample::select(vec![
            "limits",
            "retry",
            "quotas",
            "grants",
            "grants.config",
            "grants.keyvalue",
            "grants.http",
            "grants.scratch",
            "grants.calls",
            "[tokens]",
            "nonsense",
            "",
            "limits.time_ms",
        ]);
        let key = prop_oneof![
            prop::sample::select(vec![
                "memory_bytes",
                "time_ms",
                "payload_bytes",
                "result_bytes",
                "log_bytes",
                "attempts_max",
                "concurrency",
                "calls_per_second",
                "cpu_ms_per_second",
                "logging",
                "clock",
                "random",
                "allow",
                "bytes",
                "files",
                "functions",
                "weight",
                "over",
                "name",
                "sha256",
                "expires",
                "default",
                "greeting",
                "own_replies_only",
            ])
            .prop_map(str::to_owned),
            "[a-z_.\"-]{0,12}",
        ];
        let value = prop_oneof![
            any::<i64>().prop_map(|n| n.to_string()),
            any::<f64>().prop_map(|n| n.to_string()),
            Just("true".to_owned()),
            Just("\"all\"".to_owned()),
            "\"[^\"\\\\\n]{0,40}\"",
            r#"\["https://[a-z.*:0-9]{0,30}"\]"#,
            r#"\{ (file|env|x) = "[a-z/]{0,20}" \}"#,
            "[0-9]{4}-[0-9]{2}-[0-9]{2}T00:00:00Z",
            ".{0,30}",
        ];
        prop_oneof![
            table.prop_map(|table| format!("[{table}]")),
            (key, value).prop_map(|(key, value)| format!("{key} = {value}")),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn whatever_stands_in_a_manifest_is_read_or_refused(lines in prop::collection::vec(line(), 0..8)) {
            super::manifest(lines.join("\n").as_bytes());
            super::tenant(lines.join("\n").as_bytes());
        }

        #[test]
        fn whatever_text_stands_in_a_manifest_is_read_or_refused(text in "(?s).{0,200}") {
            super::manifest(text.as_bytes());
            super::tenant(text.as_bytes());
        }
    }
}
