//! Whether a component is the one that was meant: the digest that it is pinned to, and its signature.

use baton_model::Digest;
use ipnet::IpNet;
use minisign_verify::{PublicKey, Signature};
use serde::Deserialize;

use super::text::Wrong;

/// What the operator demands of components, and which networks functions may reach: `[security]` in the host's settings.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SecurityTable {
    /// Whether a component without a `.wasm.sha256` beside it is refused.
    pub require_digest: bool,
    /// Whether a component without a `.wasm.minisig` beside it is refused.
    pub require_signature: bool,
    /// The minisign public keys of which one must have signed a component that has a signature.
    pub public_keys: Vec<String>,
    /// Networks that are not public and that functions with outgoing HTTP may reach all the same.
    pub egress_networks: Vec<IpNet>,
}

impl SecurityTable {
    /// Whether it can be held to.
    ///
    /// # Errors
    /// A sentence that names the key, the rule and the mend.
    pub fn check(&self) -> Result<(), String> {
        Trust::of(self).map(drop).map_err(|wrong| wrong.to_string())
    }
}

/// What is demanded of the components of one tenant.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Trust {
    needs_digest: bool,
    needs_signature: bool,
    keys: Vec<PublicKey>,
}

impl Trust {
    pub(super) fn of(table: &SecurityTable) -> Result<Self, Wrong> {
        let SecurityTable { require_digest, require_signature, public_keys, egress_networks: _ } = table;
        Self::default().and(*require_digest, *require_signature, public_keys)
    }

    /// The same, with what a tenant's file demands as well. Where the operator has keys, its keys are some of them.
    pub(super) fn and(&self, digest: bool, signature: bool, keys: &[String]) -> Result<Self, Wrong> {
        let key = |text: &String| {
            PublicKey::from_base64(text.trim()).map_err(|_| {
                let rule = format!("has {text:?}, which is no public key; write the second line of a minisign.pub");
                Wrong::new(&["public_keys"], rule)
            })
        };
        let narrowed = keys.iter().map(key).collect::<Result<Vec<_>, Wrong>>()?;
        if let Some((_, text)) =
            narrowed.iter().zip(keys).find(|(key, _)| !self.keys.is_empty() && !self.keys.contains(key))
        {
            let rule = format!(
                "has {text:?}, which is none of `security.public_keys` in the host's settings; add it there first"
            );
            return Err(Wrong::new(&["public_keys"], rule));
        }
        let trust = Self {
            needs_digest: self.needs_digest || digest,
            needs_signature: self.needs_signature || signature,
            keys: if narrowed.is_empty() { self.keys.clone() } else { narrowed },
        };
        if trust.needs_signature && trust.keys.is_empty() {
            let rule = "is true, but there is no key to check with; add `public_keys = [\"...\"]`";
            return Err(Wrong::new(&["require_signature"], rule));
        }
        Ok(trust)
    }

    /// Checks a component against the files beside it.
    ///
    /// # Errors
    /// The rule that it breaks, with the mend.
    pub(crate) fn check(
        &self,
        component: &[u8],
        digest: Digest,
        pinned: Option<&str>,
        signature: Option<&str>,
    ) -> Result<(), String> {
        match pinned {
            Some(text) => check_pin(text, digest)?,
            None if self.needs_digest => {
                return Err("every component has to be pinned here; write its .wasm.sha256 with sha256sum".to_owned());
            }
            None => {}
        }
        match signature {
            // Without a key there is nothing that it could be checked against, and nobody who asked for it.
            Some(_) if self.keys.is_empty() => Ok(()),
            Some(text) => self.check_signature(component, text),
            None if self.needs_signature => {
                Err("every component has to be signed here; make its .wasm.minisig with `minisign -S`".to_owned())
            }
            None => Ok(()),
        }
    }

    fn check_signature(&self, component: &[u8], text: &str) -> Result<(), String> {
        let signature = Signature::decode(text)
            .map_err(|_| "its .wasm.minisig is no minisign signature; make it with `minisign -S`".to_owned())?;
        // Signatures over the bytes themselves are those of old versions, which had to hold the whole file in memory.
        if self.keys.iter().any(|key| key.verify(component, &signature, false).is_ok()) {
            return Ok(());
        }
        Err("its .wasm.minisig is not of these bytes by any of the keys that are trusted here; sign it again with one of \
             them, or have its key added to public_keys"
            .to_owned())
    }
}

/// A pinned component must be the one that is named. The file is what `sha256sum` writes: the digest comes first.
fn check_pin(text: &str, digest: Digest) -> Result<(), String> {
    match text.split_whitespace().next().and_then(Digest::parse) {
        Some(pinned) if pinned == digest => Ok(()),
        Some(pinned) => Err(format!("it is pinned to {} by its .sha256 file; update one of the two", pinned.short())),
        None => Err("its .sha256 file does not start with 64 hexadecimal digits; write it with sha256sum".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A key that signed the bytes `a component` for this test, and one that did not.
    const KEY: &str = "RWSl47qLHcKY5dzWAMzX53jjRxZqsZ/UANIhIN2odZh1dqI0WdBptVp7";
    const OTHER_KEY: &str = "RWRN/t0JqCpOkc0MC7d9GFGFTekQAPrqiehWm+URLh34gYe+BYYYZnZJ";
    const SIGNATURE: &str = "untrusted comment: signature of a test\nRUSl47qLHcKY5d3VRq2lgL9yGr2lTWRGaA5ASinnUwYLik/HdUg/iFklP+rjlaj7tSWk2BEv3bnBFXlU6sURj679n8vhCGMQRgE=\ntrusted comment: timestamp:1795000000\ny3sqWrtV8QIwHEQ64bS7dzBKsTZqWwCkzAdvQgvLFORYkfBx+/VCA2ukusQhlckGtiOCpQguK5PNpszowcvQCw==\n";

    fn trust(keys: &[&str], needs_signature: bool) -> Trust {
        let keys: Vec<String> = keys.iter().map(|&key| key.to_owned()).collect();
        Trust::default().and(false, needs_signature, &keys).unwrap()
    }

    fn check(trust: &Trust, component: &[u8], signature: Option<&str>) -> Result<(), String> {
        trust.check(component, Digest::of(component), None, signature)
    }

    #[test]
    fn a_signature_holds_for_its_bytes_and_its_key_alone() {
        let trusted = trust(&[OTHER_KEY, KEY], false);
        check(&trusted, b"a component", Some(SIGNATURE)).unwrap();
        for (trust, bytes, signature) in [
            (&trusted, &b"another"[..], SIGNATURE),
            (&trust(&[OTHER_KEY], false), b"a component", SIGNATURE),
            (&trusted, b"a component", &SIGNATURE.replace("1795000000", "1795000001")),
        ] {
            let said = check(trust, bytes, Some(signature)).unwrap_err();
            assert!(said.contains("by any of the keys"), "{said}");
        }
        assert!(check(&trusted, b"a component", Some("rubbish")).unwrap_err().contains("no minisign signature"));
    }

    #[test]
    fn what_is_demanded_has_to_be_there() {
        check(&trust(&[KEY], false), b"a component", None).unwrap();
        assert!(check(&trust(&[KEY], true), b"a component", None).unwrap_err().contains(".wasm.minisig"));
        let pinned = Trust::default().and(true, false, &[]).unwrap();
        assert!(check(&pinned, b"a component", None).unwrap_err().contains(".wasm.sha256"));
        let digest = Digest::of(b"a component");
        pinned.check(b"a component", digest, Some(&format!("{digest}  x.wasm")), None).unwrap();
    }

    #[test]
    fn what_a_tenant_demands_comes_on_top() {
        let both = trust(&[KEY, OTHER_KEY], true);
        let same = both.and(false, false, &[]).unwrap();
        check(&same, b"a component", Some(SIGNATURE)).unwrap();
        assert!(check(&same, b"a component", None).is_err());
        let narrowed = both.and(false, false, &[OTHER_KEY.to_owned()]).unwrap();
        assert!(check(&narrowed, b"a component", Some(SIGNATURE)).unwrap_err().contains("by any of the keys"));
    }

    #[test]
    fn a_tenant_s_own_key_does_not_undo_what_the_operator_demands() {
        let said = trust(&[OTHER_KEY], true).and(false, false, &[KEY.to_owned()]).unwrap_err().to_string();
        assert!(said.contains("security.public_keys"), "{said}");
        let own = trust(&[], false).and(false, true, &[KEY.to_owned()]).unwrap();
        check(&own, b"a component", Some(SIGNATURE)).unwrap();
    }

    #[test]
    fn a_key_that_is_none_and_a_demand_without_a_key_are_errors() {
        let said = Trust::default().and(false, false, &["abc".to_owned()]).unwrap_err().to_string();
        assert!(said.contains("`public_keys`") && said.contains("minisign.pub"), "{said}");
        let said = Trust::default().and(false, true, &[]).unwrap_err().to_string();
        assert!(said.contains("`require_signature`") && said.contains("public_keys"), "{said}");
    }
}
