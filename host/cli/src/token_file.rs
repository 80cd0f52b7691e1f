//! A file of TOML that keeps tokens: a `tenant.toml`, or the settings. What people wrote in it, comments included, stays.

use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;

use anyhow::Context as _;
use baton_model::Digest;
use toml_edit::{ArrayOfTables, Datetime, DocumentMut, Item, Table, TableLike, value};

use crate::exit::UsageError;

/// A token as a file has it.
pub(crate) struct KeptToken {
    pub(crate) name: String,
    pub(crate) sha256: Digest,
    /// The moment as TOML writes it; none never.
    pub(crate) expires: Option<String>,
}

/// A file that was read and may be changed.
pub(crate) struct TokenFile {
    path: PathBuf,
    document: DocumentMut,
    /// The tables, from the outside in, and the array of tables that has the tokens.
    key: Vec<String>,
}

impl TokenFile {
    /// Writes a new file.
    ///
    /// # Errors
    /// If it cannot be written.
    pub(crate) fn make(path: PathBuf, text: &str) -> anyhow::Result<()> {
        let document = text.parse().context("the beginning of a file is TOML")?;
        Self { path, document, key: Vec::new() }.save()
    }

    /// Reads a file; one that is not there is empty.
    ///
    /// # Errors
    /// If it cannot be read or is no TOML.
    pub(crate) fn open(path: PathBuf, key: &[&str]) -> anyhow::Result<Self> {
        let text = match std::fs::read_to_string(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
            text => text.with_context(|| format!("cannot read {}", path.display()))?,
        };
        let document = text.parse().map_err(|error| UsageError(format!("{} is no TOML: {error}", path.display())))?;
        Ok(Self { path, document, key: key.iter().map(|&part| part.to_owned()).collect() })
    }

    /// The tokens in it.
    ///
    /// # Errors
    /// If one of them is none.
    pub(crate) fn tokens(&self) -> anyhow::Result<Vec<KeptToken>> {
        let mut place: Option<&dyn TableLike> = Some(self.document.as_table());
        let (last, tables) = self.key.split_last().context("a key has a name")?;
        for table in tables {
            place = place.and_then(|place| place.get(table)?.as_table_like());
        }
        let Some(item) = place.and_then(|place| place.get(last)) else { return Ok(Vec::new()) };
        let wrong = || UsageError(format!("{}: `{}` is wrong", self.path.display(), self.key.join(".")));
        let tables: Vec<&dyn TableLike> = match item {
            Item::ArrayOfTables(tables) => tables.iter().map(|table| table as &dyn TableLike).collect(),
            item => {
                let items = item.as_array().ok_or_else(wrong)?.iter();
                items
                    .map(|item| item.as_inline_table().map(|table| table as &dyn TableLike))
                    .collect::<Option<_>>()
                    .ok_or_else(wrong)?
            }
        };
        let token = |table: &dyn TableLike| {
            let text = |key: &str| table.get(key).and_then(Item::as_str);
            let expires = table.get("expires").map(|end| {
                end.as_datetime().map(Datetime::to_string).or_else(|| end.as_str().map(str::to_owned)).ok_or_else(wrong)
            });
            let sha256 = text("sha256").and_then(Digest::parse).ok_or_else(wrong)?;
            Ok(KeptToken { name: text("name").ok_or_else(wrong)?.to_owned(), sha256, expires: expires.transpose()? })
        };
        tables.into_iter().map(token).collect()
    }

    /// Whether a key at the top is `true`.
    pub(crate) fn is_true(&self, key: &str) -> bool {
        self.document.get(key).and_then(Item::as_bool) == Some(true)
    }

    /// A name that no token here has.
    pub(crate) fn free_name(&self) -> String {
        let taken: Vec<String> = self.tokens().unwrap_or_default().into_iter().map(|token| token.name).collect();
        let mut names = std::iter::once("token".to_owned()).chain((2..).map(|n: u32| format!("token-{n}")));
        names.find(|name| !taken.contains(name)).expect("there are more numbers than tokens")
    }

    /// Adds a token.
    ///
    /// # Errors
    /// A [`UsageError`] if there is one of that name.
    pub(crate) fn add(&mut self, token: &KeptToken) -> anyhow::Result<()> {
        let KeptToken { name, sha256, expires } = token;
        if name.is_empty() || name.len() > 64 || name.chars().any(char::is_control) {
            return Err(UsageError("a token's name has 1 to 64 bytes and no control characters".to_owned()).into());
        }
        if self.tokens()?.iter().any(|token| token.name == *name) {
            let rule = format!("{} has a token {name:?} already; give this one another --name", self.path.display());
            return Err(UsageError(rule).into());
        }
        let mut table = Table::new();
        table["name"] = value(name);
        table["sha256"] = value(sha256.to_string());
        if let Some(end) = expires {
            table["expires"] = value(end.parse::<Datetime>().context("a moment of ours is one of TOML's")?);
        }
        let wrong = || UsageError(format!("{}: `{}` is wrong", self.path.display(), self.key.join(".")));
        let (last, tables) = self.key.split_last().context("a key has a name")?;
        let mut place = self.document.as_table_mut() as &mut dyn TableLike;
        for key in tables {
            let below = place.entry(key).or_insert_with(|| {
                let mut table = Table::new();
                table.set_implicit(true);
                Item::Table(table)
            });
            place = below.as_table_like_mut().ok_or_else(wrong)?;
        }
        match place.entry(last).or_insert_with(|| Item::ArrayOfTables(ArrayOfTables::new())) {
            Item::ArrayOfTables(tables) => tables.push(table),
            item => item.as_array_mut().ok_or_else(wrong)?.push(table.into_inline_table()),
        }
        Ok(())
    }

    /// Takes a token out. Returns whether it was there.
    pub(crate) fn remove(&mut self, name: &str) -> bool {
        let Some((last, tables)) = self.key.split_last() else { return false };
        let mut place = Some(self.document.as_table_mut() as &mut dyn TableLike);
        for key in tables {
            place = place.and_then(|place| place.get_mut(key)?.as_table_like_mut());
        }
        let is_it = |table: &dyn TableLike| table.get("name").and_then(Item::as_str) == Some(name);
        match place.and_then(|place| place.get_mut(last)) {
            Some(Item::ArrayOfTables(tables)) => {
                let before = tables.len();
                tables.retain(|table| !is_it(table));
                tables.len() < before
            }
            Some(item) => item.as_array_mut().is_some_and(|items| {
                let before = items.len();
                items.retain(|item| item.as_inline_table().is_none_or(|table| !is_it(table)));
                items.len() < before
            }),
            None => false,
        }
    }

    /// Writes the file: whoever reads it meanwhile sees the old one or the new one, and never half of it.
    ///
    /// # Errors
    /// If it cannot be written.
    pub(crate) fn save(&self) -> anyhow::Result<()> {
        let unwritable = || format!("cannot write {}", self.path.display());
        // A link stays one: it is what it leads to that is replaced.
        let path = self.path.canonicalize().unwrap_or_else(|_| self.path.clone());
        let name = path.file_name().with_context(unwritable)?.to_string_lossy();
        let beside = path.with_file_name(format!(".{name}.{:08x}", rand::random::<u32>()));
        let written = std::fs::write(&beside, self.document.to_string()).and_then(|()| {
            if let Ok(old) = std::fs::metadata(&path) {
                // The host that reads it may be another user than whoever runs this command.
                std::os::unix::fs::chown(&beside, Some(old.uid()), Some(old.gid()))?;
                std::fs::set_permissions(&beside, old.permissions())?;
            }
            std::fs::rename(&beside, &path)
        });
        written.inspect_err(|_| drop(std::fs::remove_file(&beside))).with_context(unwritable)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(text: &str, key: &[&str]) -> TokenFile {
        TokenFile {
            path: PathBuf::from("tenant.toml"),
            document: text.parse().unwrap(),
            key: key.iter().map(|&part| part.to_owned()).collect(),
        }
    }

    fn token(name: &str, expires: Option<&str>) -> KeptToken {
        KeptToken { name: name.to_owned(), sha256: Digest::of(b"x"), expires: expires.map(str::to_owned) }
    }

    #[test]
    fn what_people_wrote_stays_when_tokens_come_and_go() {
        let text = "# ours\nweight = 2 # twice\n\n[quotas]\nconcurrency = 1\n";
        let mut file = file(text, &["tokens"]);
        assert_eq!(file.free_name(), "token");
        file.add(&token("token", None)).unwrap();
        file.add(&token("ci", Some("2027-01-01T00:00:00Z"))).unwrap();
        assert!(file.add(&token("ci", None)).is_err(), "it is there");
        let written = file.document.to_string();
        assert!(written.starts_with(text), "{written}");
        assert!(written.contains("expires = 2027-01-01T00:00:00Z"), "{written}");
        let ends: Vec<_> = file.tokens().unwrap().into_iter().map(|token| (token.name, token.expires)).collect();
        assert_eq!(ends[1], ("ci".to_owned(), Some("2027-01-01T00:00:00Z".to_owned())));
        assert_eq!(file.free_name(), "token-2");
        assert!(file.remove("ci") && file.remove("token") && !file.remove("token"));
        assert_eq!(file.document.to_string().trim_end(), text.trim_end());
    }

    #[test]
    fn an_operators_token_finds_its_place_however_the_settings_are_written() {
        for text in ["", "[http]\nlisten = \"127.0.0.1:1\"\n", "http = { auth = \"auto\", operator_tokens = [] }\n"] {
            let mut file = file(text, &["http", "operator_tokens"]);
            file.add(&token("me", None)).unwrap();
            let again: DocumentMut = file.document.to_string().parse().unwrap();
            assert_eq!(again["http"]["operator_tokens"][0]["name"].as_str(), Some("me"), "{again}");
            assert!(file.remove("me") && file.tokens().unwrap().is_empty());
        }
        assert!(file("http = 1", &["http", "operator_tokens"]).add(&token("me", None)).is_err());
        assert!(file("tokens = 1", &["tokens"]).tokens().is_err());
    }
}
