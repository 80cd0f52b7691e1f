//! `tenant.toml`: what an operator says about one tenant.

use std::collections::BTreeSet;
use std::num::NonZeroU32;

use baton_model::{Digest, Over, TenantPolicy, Token};
use schemars::JsonSchema;
use serde::Deserialize;
use toml::value::{Date, Datetime, Offset, Time};

use super::grants::GrantCapsTable;
use super::limits::LimitsTable;
use super::quotas::TenantQuotasTable;
use super::text::{self, Wrong};

/// The largest weight.
const WEIGHT_MAX: u32 = 1_000;
/// The most tokens of one tenant.
const TOKENS_MAX: usize = 100;

/// What an operator says about a tenant. What is left out is as if nothing was said.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(title = "A tenant's tenant.toml")]
pub(crate) struct TenantFile {
    /// Its share of the host, beside the weights of the others.
    #[schemars(extend("default" = 1, "maximum" = WEIGHT_MAX))]
    weight: Option<NonZeroU32>,
    /// What HTTP does with a call that would wait for a quota: take it, or refuse it with 429.
    #[schemars(extend("default" = "wait"))]
    over: OverWord,
    /// Whether its notices may only go to reply channels that start with its name and a dot.
    own_replies_only: bool,
    /// Whether a component of its without a `.wasm.sha256` beside it is refused.
    pub(super) require_digest: bool,
    /// Whether a component of its without a `.wasm.minisig` beside it is refused.
    pub(super) require_signature: bool,
    /// The minisign public keys that may sign its components. Where the host's settings have keys, these are some of them.
    pub(super) public_keys: Vec<String>,
    /// How much all its functions together may take.
    pub(super) quotas: TenantQuotasTable,
    /// The most that one call of its functions may use.
    pub(super) limits: LimitsTable,
    /// The most that its functions may be granted.
    pub(super) grants: GrantCapsTable,
    /// Who may act for it over HTTP.
    tokens: Vec<TokenTable>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum OverWord {
    /// The call is taken and waits for its turn.
    #[default]
    Wait,
    /// The call is refused with 429 and `Retry-After`.
    Refuse,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct TokenTable {
    /// What operators call it; no two of a tenant's have the same.
    name: String,
    /// The SHA-256 of the token, as 64 hexadecimal digits.
    #[schemars(regex(pattern = "^[0-9a-fA-F]{64}$"))]
    sha256: String,
    /// From when on it is refused, with its offset: 2027-01-01T00:00:00Z. Never, if it is left out.
    #[schemars(with = "Option<String>", extend("format" = "date-time"))]
    expires: Option<Datetime>,
}

impl TenantFile {
    /// Reads the text of a `tenant.toml`.
    ///
    /// # Errors
    /// [`Wrong`] names the key.
    pub(crate) fn parse(text: &str) -> Result<Self, Wrong> {
        let file: Self = text::read(text)?;
        file.policy().map_err(|wrong| wrong.found_in(text))?;
        Ok(file)
    }

    /// What it says that is not about one of the functions.
    pub(super) fn policy(&self) -> Result<TenantPolicy, Wrong> {
        let weight = self.weight.map_or(1, NonZeroU32::get);
        if weight > WEIGHT_MAX {
            return Err(Wrong::new(&["weight"], format!("is {weight}; it takes 1 to {WEIGHT_MAX}")));
        }
        Ok(TenantPolicy {
            weight,
            quotas: self.quotas.quotas(),
            over: match self.over {
                OverWord::Wait => Over::Wait,
                OverWord::Refuse => Over::Refuse,
            },
            tokens: self.tokens()?,
            own_replies_only: self.own_replies_only,
        })
    }

    fn tokens(&self) -> Result<Vec<Token>, Wrong> {
        if self.tokens.len() > TOKENS_MAX {
            return Err(Wrong::new(&["tokens"], format!("are {}, the limit is {TOKENS_MAX}", self.tokens.len())));
        }
        let mut names = BTreeSet::new();
        let token = |token: &TokenTable| {
            let TokenTable { name, sha256, expires } = token;
            if name.is_empty() || name.len() > 64 || name.chars().any(char::is_control) {
                return Err(Wrong::new(&["tokens", "name"], "is empty, longer than 64 bytes or not printable"));
            }
            let sha256 = Digest::parse(sha256).ok_or_else(|| {
                let rule =
                    format!("of the token {name:?} is not 64 hexadecimal digits; make one with `baton tenant token`");
                Wrong::new(&["tokens", "sha256"], rule)
            })?;
            let expires_ms = expires.map(|expires| unix_ms(expires).ok_or(expires)).transpose().map_err(|expires| {
                let rule =
                    format!("is {expires}; write a date and a time with its offset, such as 2027-01-01T00:00:00Z");
                Wrong::new(&["tokens", "expires"], rule)
            })?;
            Ok(Token { name: name.clone(), sha256, expires_ms })
        };
        let tokens = self.tokens.iter().map(token).collect::<Result<Vec<Token>, Wrong>>()?;
        match tokens.iter().find(|token| !names.insert(token.name.as_str())) {
            Some(twice) => {
                Err(Wrong::new(&["tokens"], format!("has the name {:?} twice; give each its own", twice.name)))
            }
            None => Ok(tokens),
        }
    }
}

/// Unix time in milliseconds; none for a moment that is no moment, or one before 1970.
fn unix_ms(at: Datetime) -> Option<u64> {
    let (Some(Date { year, month, day }), Some(time), Some(offset)) = (at.date, at.time, at.offset) else {
        return None;
    };
    let Time { hour, minute, second, .. } = time;
    let offset_minutes = match offset {
        Offset::Z => 0,
        Offset::Custom { minutes } => i64::from(minutes),
    };
    // Days since 1970-01-01 in the proleptic Gregorian calendar, counted in years that start in March, so that the leap
    // day is the last of its year.
    let (year, month) =
        if month > 2 { (i64::from(year), i64::from(month)) } else { (i64::from(year) - 1, i64::from(month) + 12) };
    let days = 365 * year + year / 4 - year / 100 + year / 400 + (153 * (month - 3) + 2) / 5 + i64::from(day) - 719_469;
    let minutes = (days * 24 + i64::from(hour)) * 60 + i64::from(minute) - offset_minutes;
    u64::try_from((minutes * 60 + i64::from(second.unwrap_or(0))) * 1_000).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tenants_file_says_who_may_act_for_it_and_how_much_it_may_take() {
        let digest = "ab".repeat(32);
        let text = format!(
            "weight = 2\nover = \"refuse\"\nown_replies_only = true\n[quotas]\nconcurrency = 8\n[[tokens]]\nname = \"ci\"\n\
             sha256 = \"{digest}\"\nexpires = 2027-01-01T01:00:00+01:00\n"
        );
        let policy = TenantFile::parse(&text).unwrap().policy().unwrap();
        assert_eq!((policy.weight, policy.over, policy.own_replies_only), (2, Over::Refuse, true));
        assert_eq!(policy.quotas.concurrency_max, Some(8));
        assert_eq!(policy.tokens[0].expires_ms, Some(1_798_761_600_000));
        assert_eq!(TenantFile::parse("").unwrap().policy().unwrap(), TenantPolicy::default());
    }

    #[test]
    fn moments_are_counted_as_everybody_counts_them() {
        for (text, ms) in [
            ("1970-01-01T00:00:00Z", Some(0)),
            ("2000-02-29T12:00:00Z", Some(951_825_600_000)),
            ("2024-12-31T23:59:59Z", Some(1_735_689_599_000)),
            ("2026-03-01T00:00:00-05:30", Some(1_772_343_000_000)),
            ("1969-12-31T23:59:59Z", None),
            ("2027-01-01T00:00:00", None),
            ("2027-01-01", None),
        ] {
            assert_eq!(unix_ms(text.parse().unwrap()), ms, "{text}");
        }
    }

    #[test]
    fn what_is_wrong_is_named_with_the_mend() {
        for (text, expected) in [
            ("weigth = 2", "did you mean `weight`?"),
            ("weight = 0", "`weight` (line 1)"),
            ("weight = 5000", "it takes 1 to 1000"),
            ("over = \"drop\"", "`over` (line 1)"),
            ("[[tokens]]\nname = \"a\"\nsha256 = \"x\"", "baton tenant token"),
            ("[[tokens]]\nname = \"a\"\nsha_256 = \"x\"", "`tokens.sha_256` (line 3)"),
        ] {
            let said = TenantFile::parse(text).map(|_| String::new()).unwrap_or_else(|wrong| wrong.to_string());
            assert!(said.contains(expected), "{text}: {said}");
        }
    }
}
