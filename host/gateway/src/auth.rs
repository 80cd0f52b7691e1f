//! Who asks: bearer tokens of tenants and of operators, and what each of them may see.
//!
//! What an asker may not see is looked up like something that nobody has, so that neither an answer nor the time that
//! it takes tells whether it is there.

use std::sync::{Arc, Mutex, PoisonError};

use axum::extract::FromRequestParts;
use axum::http::HeaderMap;
use axum::http::header::AUTHORIZATION;
use axum::http::request::Parts;
use baton_model::{Digest, FunctionId, Name, Tenants, Token};
use subtle::ConstantTimeEq as _;
use tokio::sync::watch;

use crate::gate::now_ms;
use crate::problem::Problem;

/// When a request has to have a token.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Auth {
    /// As soon as any tenant or any operator has a token, and from then on for as long as the process lives.
    #[default]
    Auto,
    /// Always.
    Required,
    /// Never: whoever reaches the gateway may do everything. For gateways behind something that asks who it is.
    Off,
}

/// Who may ask for a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    /// Everybody: it tells nothing of functions.
    Everybody,
    /// Whoever has a token.
    Tenants,
    /// Operators alone.
    Operators,
}

/// Who sent a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Asker {
    /// Somebody who was not asked for a token, because nobody is.
    Anybody,
    /// An operator.
    Operator,
    /// A tenant.
    Tenant(Name),
}

impl Asker {
    /// Whether this function is the asker's to call and to know of.
    pub(crate) fn may_see(&self, function: &FunctionId) -> bool {
        match self {
            Self::Anybody | Self::Operator => true,
            Self::Tenant(tenant) => function.tenant() == tenant,
        }
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Asker {
    type Rejection = Problem;
    /// The router has asked already and put the answer down.
    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        parts.extensions.get().cloned().ok_or_else(|| Problem::new(500, "internal").detail("nobody asked who this is"))
    }
}

/// One token, and whose it is.
#[derive(Debug)]
struct Key {
    sha256: Digest,
    expires_ms: Option<u64>,
    whose: Asker,
}

/// All tokens there are.
#[derive(Debug)]
struct Ring {
    tenants: watch::Receiver<Tenants>,
    keys: Arc<[Key]>,
    is_required: bool,
}

/// Asks for tokens.
pub(crate) struct Guard {
    auth: Auth,
    operators: Vec<Token>,
    /// A lock and no message: it guards a look at whether the tenants have changed.
    ring: Mutex<Ring>,
}

impl Guard {
    pub(crate) fn new(auth: Auth, operators: Vec<Token>, mut tenants: watch::Receiver<Tenants>) -> Self {
        tenants.mark_changed();
        let ring = Ring { tenants, keys: Arc::new([]), is_required: auth == Auth::Required };
        Self { auth, operators, ring: Mutex::new(ring) }
    }

    /// Who sent these headers, if they may ask for something with this access.
    pub(crate) fn admit(&self, headers: &HeaderMap, access: Access) -> Result<Asker, Problem> {
        let keys = match (self.auth, access) {
            (Auth::Off, _) | (_, Access::Everybody) => return Ok(Asker::Anybody),
            (Auth::Auto | Auth::Required, Access::Tenants | Access::Operators) => self.keys(),
        };
        let Some(keys) = keys else { return Ok(Asker::Anybody) };
        let asker = whose(&keys, headers)?;
        match (access, &asker) {
            (Access::Operators, Asker::Tenant(tenant)) => {
                let detail = format!("this is for operators, and the token is one of the tenant {tenant}");
                Err(Problem::new(403, "operators-only").detail(detail))
            }
            (Access::Everybody | Access::Tenants | Access::Operators, _) => Ok(asker),
        }
    }

    /// The tokens as they are now; none if no token is asked for.
    fn keys(&self) -> Option<Arc<[Key]>> {
        let mut ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        let ring = &mut *ring;
        let tenants = ring.tenants.borrow_and_update();
        if tenants.has_changed() {
            ring.keys = self.all(&tenants);
            // It is not taken back: whoever removes the last token does not mean to open the door to everybody.
            ring.is_required |= !ring.keys.is_empty();
        }
        ring.is_required.then(|| ring.keys.clone())
    }

    fn all(&self, tenants: &Tenants) -> Arc<[Key]> {
        let key = |token: &Token, whose| Key { sha256: token.sha256, expires_ms: token.expires_ms, whose };
        let of_tenants = tenants
            .iter()
            .flat_map(|(tenant, policy)| policy.tokens.iter().map(|token| key(token, Asker::Tenant(tenant.clone()))));
        let of_operators = self.operators.iter().map(|token| key(token, Asker::Operator));
        of_tenants.chain(of_operators).collect()
    }
}

/// Whose token stands in these headers.
fn whose(keys: &[Key], headers: &HeaderMap) -> Result<Asker, Problem> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let (Some(value), None) = (values.next(), values.next()) else {
        let detail = "this host asks for a token: send one header `Authorization: Bearer TOKEN`; an operator makes tokens with `baton tenant token`";
        return Err(refused("Bearer realm=\"baton\"", detail));
    };
    // What is hashed is never compared byte by byte, and every token is compared: the time that it takes tells nothing.
    let digest = bearer(value.as_bytes()).map(Digest::of);
    let mut found = None;
    for key in keys {
        let is_it = digest.is_some_and(|digest| digest.as_bytes().ct_eq(key.sha256.as_bytes()).into());
        if is_it && found.is_none() {
            found = Some(key);
        }
    }
    found.filter(|key| key.expires_ms.is_none_or(|end| now_ms() < end)).map(|key| key.whose.clone()).ok_or_else(|| {
        let detail =
            "the token is not known here or has expired; an operator makes a new one with `baton tenant token`";
        refused("Bearer realm=\"baton\", error=\"invalid_token\"", detail)
    })
}

/// The token of the scheme `Bearer`, whose name may be written in either case.
fn bearer(value: &[u8]) -> Option<&[u8]> {
    let (scheme, rest) = value.split_at_checked(6)?;
    (scheme.eq_ignore_ascii_case(b"bearer") && rest.first() == Some(&b' ')).then(|| rest.trim_ascii())
}

fn refused(challenge: &'static str, detail: &str) -> Problem {
    Problem::new(401, "unauthorized").detail(detail).challenge(challenge)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use baton_model::TenantPolicy;

    use super::*;

    fn token(text: &str, expires_ms: Option<u64>) -> Token {
        Token { name: "test".to_owned(), sha256: Digest::of(text.as_bytes()), expires_ms }
    }

    fn tenants(said: &[(&str, Vec<Token>)]) -> Tenants {
        let policy = |tokens: &Vec<Token>| Arc::new(TenantPolicy { tokens: tokens.clone(), ..TenantPolicy::default() });
        let said = said.iter().map(|(name, tokens)| (Name::parse(name).unwrap(), policy(tokens)));
        Tenants::new(said.collect::<BTreeMap<_, _>>())
    }

    fn with(value: &str) -> HeaderMap {
        HeaderMap::from_iter([(AUTHORIZATION, value.parse().unwrap())])
    }

    #[test]
    fn nobody_is_asked_until_there_is_a_token_and_then_everybody_for_ever() {
        let (tell, seen) = watch::channel(Tenants::default());
        let guard = Guard::new(Auth::Auto, Vec::new(), seen);
        let ask = |headers: &HeaderMap| guard.admit(headers, Access::Tenants);
        assert_eq!(ask(&HeaderMap::new()).unwrap(), Asker::Anybody);
        assert_eq!(ask(&with("Bearer no-such-token")).unwrap(), Asker::Anybody);
        tell.send_replace(tenants(&[("acme", vec![token("a", None)])]));
        assert_eq!(ask(&with("Bearer a")).unwrap(), Asker::Tenant(Name::parse("acme").unwrap()));
        assert!(ask(&HeaderMap::new()).is_err());
        tell.send_replace(Tenants::default());
        assert!(ask(&HeaderMap::new()).is_err(), "the last token is gone");
        assert!(ask(&with("Bearer a")).is_err(), "it is not valid any more");
        drop(tell);
        assert!(ask(&HeaderMap::new()).is_err());
    }

    #[test]
    fn a_setting_can_ask_always_or_never() {
        let seen = watch::channel(tenants(&[("acme", vec![token("a", None)])])).1;
        let never = Guard::new(Auth::Off, Vec::new(), seen);
        assert_eq!(never.admit(&HeaderMap::new(), Access::Operators).unwrap(), Asker::Anybody);
        let always = Guard::new(Auth::Required, Vec::new(), watch::channel(Tenants::default()).1);
        assert!(always.admit(&HeaderMap::new(), Access::Tenants).is_err());
        assert_eq!(always.admit(&HeaderMap::new(), Access::Everybody).unwrap(), Asker::Anybody);
    }

    #[test]
    fn any_of_a_tenants_tokens_will_do_until_it_expires() {
        let tokens = vec![token("old", Some(1)), token("b", Some(u64::MAX)), token("c", None)];
        let guard = Guard::new(Auth::Auto, vec![token("root", None)], watch::channel(tenants(&[("acme", tokens)])).1);
        let ask = |value: &str, access| guard.admit(&with(value), access);
        let acme = Asker::Tenant(Name::parse("acme").unwrap());
        for good in ["Bearer b", "bearer  c", "BEARER c "] {
            assert_eq!(ask(good, Access::Tenants).unwrap(), acme, "{good}");
            assert!(ask(good, Access::Operators).is_err(), "{good}");
        }
        for bad in ["Bearer old", "Bearer", "Bearer ", "b", "Basic b", "Bearerb", "Bearer b c", "Bearer bb", ""] {
            assert!(ask(bad, Access::Tenants).is_err(), "{bad:?}");
        }
        assert_eq!(ask("Bearer root", Access::Operators).unwrap(), Asker::Operator);
        let mut two = with("Bearer b");
        two.append(AUTHORIZATION, "Bearer c".parse().unwrap());
        assert!(guard.admit(&two, Access::Tenants).is_err(), "which of them counts would be anybody's guess");
    }
}
