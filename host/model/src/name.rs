//! Names of tenants and functions, and the one parser for them.
//!
//! A name is part of Redis keys, channels, file names and URLs, so it has no character that means anything there.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The longest name, in bytes.
const NAME_BYTES_MAX: usize = 63;

/// The tenant of a function that is named without one.
const DEFAULT_TENANT: &str = "default";

/// A tenant's or a function's name: `^[a-z][a-z0-9-]{0,62}$`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Name(Box<str>);

/// Why a text is no name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{text:?} is not a name: a name starts with a lower-case letter and goes on with at most 62 lower-case letters, \
     digits or dashes, such as `resize-image`"
)]
pub struct NameError {
    text: String,
}

impl Name {
    /// Reads a name.
    ///
    /// # Errors
    /// [`NameError`] if the text breaks the rule; it quotes at most 80 characters of it.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        let mut bytes = text.bytes();
        let head = bytes.next().is_some_and(|b| b.is_ascii_lowercase());
        let tail = bytes.all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        if head && tail && text.len() <= NAME_BYTES_MAX {
            Ok(Self(text.into()))
        } else {
            Err(NameError { text: text.chars().take(80).collect() })
        }
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl TryFrom<String> for Name {
    type Error = NameError;
    fn try_from(text: String) -> Result<Self, NameError> {
        Self::parse(&text)
    }
}

impl From<Name> for String {
    fn from(name: Name) -> Self {
        name.0.into()
    }
}

impl FromStr for Name {
    type Err = NameError;
    fn from_str(text: &str) -> Result<Self, NameError> {
        Self::parse(text)
    }
}

/// A function's full name: its tenant and its own name.
///
/// Written `tenant/function`; a bare `function` belongs to the tenant `default`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct FunctionId {
    tenant: Name,
    function: Name,
}

impl FunctionId {
    /// The function `function` of `tenant`.
    #[must_use]
    pub fn new(tenant: Name, function: Name) -> Self {
        Self { tenant, function }
    }

    /// The function `function` of the tenant `default`.
    #[must_use]
    pub fn of_default_tenant(function: Name) -> Self {
        Self { tenant: Name(DEFAULT_TENANT.into()), function }
    }

    /// Who owns the function.
    #[must_use]
    pub fn tenant(&self) -> &Name {
        &self.tenant
    }

    /// The function's name without its tenant.
    #[must_use]
    pub fn function(&self) -> &Name {
        &self.function
    }
}

impl fmt::Display for FunctionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.tenant, self.function)
    }
}

impl fmt::Debug for FunctionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for FunctionId {
    type Err = NameError;
    fn from_str(text: &str) -> Result<Self, NameError> {
        match text.split_once('/') {
            Some((tenant, function)) => Ok(Self::new(Name::parse(tenant)?, Name::parse(function)?)),
            None => Ok(Self::of_default_tenant(Name::parse(text)?)),
        }
    }
}

impl TryFrom<String> for FunctionId {
    type Error = NameError;
    fn try_from(text: String) -> Result<Self, NameError> {
        text.parse()
    }
}

impl From<FunctionId> for String {
    fn from(id: FunctionId) -> Self {
        id.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_lower_case_letters_digits_and_dashes() {
        for good in ["a", "hello", "resize-image-2", &"a".repeat(63)] {
            assert!(Name::parse(good).is_ok(), "{good}");
        }
        let too_long = "a".repeat(64);
        for bad in ["", "Hello", "2fast", "-x", "a_b", "a/b", "a}b", "a:b", "é", "a\0", "a\r\n", "a b", &too_long] {
            assert!(Name::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_bare_function_belongs_to_the_default_tenant() {
        assert_eq!("hello".parse::<FunctionId>().unwrap().to_string(), "default/hello");
        assert_eq!("acme/resize".parse::<FunctionId>().unwrap().to_string(), "acme/resize");
        assert!("a/b/c".parse::<FunctionId>().is_err());
        assert!("/b".parse::<FunctionId>().is_err());
    }
}
