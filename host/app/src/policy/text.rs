//! From TOML to a table of ours, with errors that name the key, the line, the rule and the mend.

use std::fmt;

use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use serde::de::DeserializeOwned;
use serde_json::Value;
use toml::de::{DeTable, DeValue};

/// How much two keys must be alike for one to be suggested for the other, from 0 to 1.
const ALIKE: f64 = 0.7;

/// The most of a key that a message has.
const KEY_CHARS_MAX: usize = 200;
/// The most of a rule that a message has.
const RULE_CHARS_MAX: usize = 1_000;

/// What is wrong in a file: where, which rule, and how to mend it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Wrong {
    /// The tables and the key, from the outside in; empty for the whole file.
    key: Vec<String>,
    line: Option<usize>,
    /// What follows the key in a sentence.
    rule: String,
}

impl Wrong {
    /// `rule` goes on where the key ends: "is 5, but ...".
    pub(crate) fn new(key: &[&str], rule: impl Into<String>) -> Self {
        Self { key: key.iter().map(|&part| part.to_owned()).collect(), line: None, rule: rule.into() }
    }

    /// The same with the line of the key, if `text` has it.
    pub(crate) fn found_in(mut self, text: &str) -> Self {
        let Ok(table) = DeTable::parse(text) else { return self };
        self.line = self.line.or_else(|| line_of_key(text, table.get_ref(), &self.key));
        self
    }
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (key, rule) = (shown(&self.key.join("."), KEY_CHARS_MAX), shown(&self.rule, RULE_CHARS_MAX));
        match (self.key.is_empty(), self.line) {
            (true, None) => write!(f, "{rule}"),
            (true, Some(line)) => write!(f, "line {line}: {rule}"),
            (false, None) => write!(f, "`{key}` {rule}"),
            (false, Some(line)) => write!(f, "`{key}` (line {line}) {rule}"),
        }
    }
}

/// What a stranger wrote, on one line and not without end: it goes into the log.
fn shown(text: &str, chars_max: usize) -> String {
    let mut shown = String::new();
    for char in text.chars().take(chars_max) {
        if char.is_control() { shown.extend(char.escape_default()) } else { shown.push(char) }
    }
    if text.chars().nth(chars_max).is_some() {
        shown.push('…');
    }
    shown
}

impl std::error::Error for Wrong {}

/// Reads a table from TOML.
///
/// # Errors
/// [`Wrong`] for text that is no TOML, for a key that the table does not have (with the one that was probably meant), and
/// for a value of another kind.
pub(crate) fn read<T: DeserializeOwned + JsonSchema>(text: &str) -> Result<T, Wrong> {
    let table = DeTable::parse(text).map_err(|error| of_toml(text, Vec::new(), &error))?;
    let schema = SchemaSettings::draft2020_12().with(|s| s.inline_subschemas = true);
    let schema = schema.into_generator().into_root_schema_for::<T>().to_value();
    if let Some(wrong) = unknown_key(text, table.get_ref(), &schema, &mut Vec::new()) {
        return Err(wrong);
    }
    toml::from_str(text).map_err(|error| {
        let key = error.span().map_or_else(Vec::new, |span| key_at(table.get_ref(), span.start));
        of_toml(text, key, &error)
    })
}

fn of_toml(text: &str, key: Vec<String>, error: &toml::de::Error) -> Wrong {
    let line = error.span().map(|span| line_at(text, span.start));
    let message = error.message().trim_end();
    // What stands there may be a secret in the wrong place; what should stand there says enough.
    let rule = match (
        message.starts_with("invalid ") || message.starts_with("unknown variant "),
        message.rsplit_once(", expected "),
    ) {
        (true, Some((_, expected))) => format!("expected {expected}"),
        (true, None) | (false, _) => message.to_owned(),
    };
    Wrong { rule: if key.is_empty() { rule } else { format!("is wrong: {rule}") }, key, line }
}

fn line_at(text: &str, offset: usize) -> usize {
    text.bytes().take(offset).filter(|&b| b == b'\n').count() + 1
}

/// The first key, in the order of the file, that `schema` does not have.
fn unknown_key(text: &str, table: &DeTable<'_>, schema: &Value, path: &mut Vec<String>) -> Option<Wrong> {
    let known = properties(schema)?;
    let mut keys: Vec<_> = table.iter().collect();
    keys.sort_by_key(|(key, _)| key.span().start);
    for (key, value) in keys {
        let name: &str = key.get_ref();
        path.push(name.to_owned());
        let Some(within) = known.get(name) else {
            let names: Vec<&str> = known.keys().map(String::as_str).collect();
            let rule = format!("is no key of this file; {}", meant(name, &names));
            return Some(Wrong { key: path.clone(), line: Some(line_at(text, key.span().start)), rule });
        };
        let tables: Vec<&DeTable<'_>> = match value.get_ref() {
            DeValue::Table(table) => vec![table],
            DeValue::Array(items) => items.iter().filter_map(|item| item.get_ref().as_table()).collect(),
            DeValue::String(_) | DeValue::Integer(_) | DeValue::Float(_) | DeValue::Boolean(_) => Vec::new(),
            DeValue::Datetime(_) => Vec::new(),
        };
        let wrong = tables.into_iter().find_map(|table| unknown_key(text, table, within, path));
        if wrong.is_some() {
            return wrong;
        }
        path.pop();
    }
    None
}

/// The keys that a schema has. None for one that takes any, such as the settings of a function.
fn properties(schema: &Value) -> Option<&serde_json::Map<String, Value>> {
    if let Some(properties) = schema.get("properties").and_then(Value::as_object) {
        let is_closed = schema.get("additionalProperties") == Some(&Value::Bool(false));
        return is_closed.then_some(properties);
    }
    if let Some(items) = schema.get("items") {
        return properties(items);
    }
    // An optional table is "the table, or null".
    let either = schema.get("anyOf").and_then(Value::as_array)?;
    either.iter().find_map(properties)
}

/// "did you mean ...?", or what there is to choose from.
pub(crate) fn meant(written: &str, known: &[&str]) -> String {
    let alike = known.iter().map(|name| (strsim::jaro_winkler(written, name), name));
    match alike.max_by(|a, b| a.0.total_cmp(&b.0)) {
        Some((likeness, name)) if likeness >= ALIKE => format!("did you mean `{name}`?"),
        _ => format!("it takes {}", known.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")),
    }
}

/// The key whose value stands at `offset`.
fn key_at(table: &DeTable<'_>, offset: usize) -> Vec<String> {
    for (key, value) in table {
        // A table that is opened by its header has the span of the header alone, so its keys are looked at first.
        if let DeValue::Table(inner) = value.get_ref() {
            let below = key_at(inner, offset);
            if !below.is_empty() {
                return [vec![key.get_ref().to_string()], below].concat();
            }
        }
        if value.span().contains(&offset) || key.span().contains(&offset) {
            return vec![key.get_ref().to_string()];
        }
    }
    Vec::new()
}

fn line_of_key(text: &str, table: &DeTable<'_>, path: &[String]) -> Option<usize> {
    let (first, rest) = path.split_first()?;
    let (key, value) = table.iter().find(|(key, _)| key.get_ref().as_ref() == first.as_str())?;
    let below = value.get_ref().as_table().and_then(|inner| line_of_key(text, inner, rest));
    Some(below.unwrap_or_else(|| line_at(text, key.span().start)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::Manifest;

    fn wrong(text: &str) -> String {
        read::<Manifest>(text).unwrap_err().to_string()
    }

    #[test]
    fn an_unknown_key_is_named_with_its_line_and_the_key_that_was_meant() {
        let said = wrong("[retry]\nattempts_max = 2\n\n[limits]\ntime = 5\n");
        assert_eq!(said, "`limits.time` (line 5) is no key of this file; did you mean `time_ms`?");
        let said = wrong("[limit]\ntime_ms = 5\n");
        assert_eq!(said, "`limit` (line 1) is no key of this file; did you mean `limits`?");
        let said = wrong("[grants.http]\nalow = []\n");
        assert_eq!(said, "`grants.http.alow` (line 2) is no key of this file; did you mean `allow`?");
        let said = wrong("[retry]\nxyzzy = 1\n");
        assert!(
            said.ends_with("it takes `attempts_max`, `backoff_base_ms`, `backoff_max_ms`, `hosts_lost_max`, `on`"),
            "{said}"
        );
    }

    #[test]
    fn a_value_of_another_kind_is_named_with_its_key_and_line() {
        let said = wrong("[limits]\nlog_bytes = 1\ntime_ms = \"long\"\n");
        assert!(said.starts_with("`limits.time_ms` (line 3) is wrong: ") && said.contains("expected"), "{said}");
        assert!(!said.contains("long"), "what stands there may be a secret: {said}");
        let said = wrong("[limits\n");
        assert!(said.starts_with("line 1: "), "{said}");
    }

    #[test]
    fn what_a_stranger_wrote_stands_on_one_line_of_the_log_and_has_an_end() {
        let said = wrong(&format!("\"a\\nERROR \\u001b[31m{}\" = 1", "x".repeat(5_000)));
        assert!(said.starts_with(r"`a\nERROR \u{1b}[31mxxx") && !said.contains(char::is_control), "{said}");
        assert!(said.len() < 1_500, "{} bytes", said.len());
    }

    #[test]
    fn a_setting_of_the_function_may_have_any_name() {
        read::<Manifest>("[grants.config]\nanything = \"x\"\n\"a.b c\" = \"y\"\n").unwrap();
    }
}
