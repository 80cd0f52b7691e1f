//! Components: the samples as `make plugins` built them, and what tests make of them.

use anyhow::{Context, Result, bail, ensure};

use crate::settings::{profile_dir, repository};

/// An empty core module: WebAssembly, but no component.
pub const CORE_MODULE: &[u8] = b"\0asm\x01\0\0\0";

/// The sample function of this name.
///
/// # Errors
/// If it was not built; the message says how to.
pub fn sample(name: &str) -> Result<Vec<u8>> {
    let path = repository().join("plugins").join(format!("{name}.wasm"));
    std::fs::read(&path).with_context(|| format!("{} is missing; `make plugins` builds it", path.display()))
}

/// The guest of tests/hostile.
///
/// # Errors
/// If it was not built; the message says how to.
pub fn ill_guest() -> Result<Vec<u8>> {
    guest("hostile")
}

/// The guest of tests/foreign.
///
/// # Errors
/// If it was not built; the message says how to.
pub fn foreign_guest() -> Result<Vec<u8>> {
    guest("foreign")
}

/// The guest of tests/nested.
///
/// # Errors
/// If it was not built; the message says how to.
pub fn nested_guest() -> Result<Vec<u8>> {
    guest("nested")
}

/// The guest of tests/guests/http.
///
/// # Errors
/// If it was not built; the message says how to.
pub fn http_guest() -> Result<Vec<u8>> {
    guest("http_guest")
}

/// The guest of tests/guests/scratch.
///
/// # Errors
/// If it was not built; the message says how to.
pub fn scratch_guest() -> Result<Vec<u8>> {
    guest("scratch_guest")
}

/// The guest of tests/guests/clerk.
///
/// # Errors
/// If it was not built; the message says how to.
pub fn clerk_guest() -> Result<Vec<u8>> {
    guest("clerk_guest")
}

/// The guest of tests/guests/saga.
///
/// # Errors
/// If it was not built; the message says how to.
pub fn saga_guest() -> Result<Vec<u8>> {
    guest("saga_guest")
}

/// The guest of tests/guests/steps.
///
/// # Errors
/// If it was not built; the message says how to.
pub fn steps_guest() -> Result<Vec<u8>> {
    guest("steps_guest")
}

fn guest(name: &str) -> Result<Vec<u8>> {
    let target = profile_dir()?.parent().context("the profile lies in the target folder")?.to_owned();
    let path = target.join("wasm32-wasip2/guest").join(format!("{name}.wasm"));
    std::fs::read(&path).with_context(|| format!("{} is missing; `make guests` builds it", path.display()))
}

/// The same behaviour under another digest: the component with a custom section that says `n`.
///
/// # Panics
/// If `n` had more digits than a section of one length byte can hold, which no `u32` has.
#[must_use]
pub fn variant(component: &[u8], n: u32) -> Vec<u8> {
    const NAME: &[u8] = b"variant";
    let digits = n.to_string();
    let name_length = u8::try_from(NAME.len()).expect("the name is short");
    let length = u8::try_from(1 + NAME.len() + digits.len()).expect("a number is short");
    // Lengths below 128 are their own LEB128; section 0 is the custom one in components as in modules.
    assert!(length < 128, "one byte holds the length");
    [component, &[0, length, name_length], NAME, digits.as_bytes()].concat()
}

/// Other behaviour at the same size: every `from` in the component replaced by `to`.
///
/// # Errors
/// If they differ in length, or `from` is not in it.
pub fn patched(component: &[u8], from: &str, to: &str) -> Result<Vec<u8>> {
    ensure!(from.len() == to.len(), "{from:?} and {to:?} differ in length, so offsets would move");
    let mut bytes = component.to_vec();
    let mut found = 0;
    for start in 0..=bytes.len().saturating_sub(from.len()) {
        if bytes[start..].starts_with(from.as_bytes()) {
            bytes[start..start + to.len()].copy_from_slice(to.as_bytes());
            found += 1;
        }
    }
    if found == 0 {
        bail!("the component has no {from:?} in it");
    }
    Ok(bytes)
}

/// Components that are well formed but answer another contract, with a word on each.
///
/// # Errors
/// If a text here is no component.
pub fn wrong_world() -> Result<Vec<(&'static str, Vec<u8>)>> {
    let texts = [
        ("an empty component", "(component)"),
        (
            "a component that exports something else",
            r#"(component
                (core module $m (func (export "run")))
                (core instance $i (instantiate $m))
                (func $run (canon lift (core func $i "run")))
                (export "run" (func $run)))"#,
        ),
        (
            "a component that wants what no host has",
            r#"(component (import "acme:secrets/vault@1.0.0" (instance (export "open" (func)))))"#,
        ),
        (
            "a component whose handler has another signature",
            r#"(component
                (core module $m (func (export "handle")))
                (core instance $i (instantiate $m))
                (func $handle (canon lift (core func $i "handle")))
                (instance $handler (export "handle" (func $handle)))
                (export "baton:function/handler@0.1.0" (instance $handler)))"#,
        ),
    ];
    texts.into_iter().map(|(what, text)| Ok((what, wat::parse_str(text).context(what)?))).collect()
}

/// Ways to cut a file short: nothing left, within the header, and at every eighth of it, the last byte missing included.
#[must_use]
pub fn truncations(component: &[u8]) -> Vec<&[u8]> {
    let eighths = (1..8).map(|eighth| component.len() * eighth / 8);
    [0, 1, 7, 8].into_iter().chain(eighths).chain([component.len() - 1]).map(|cut| &component[..cut]).collect()
}

/// The sections of a component, each by its number, and where it ends: a section is its number, its length in LEB128, and
/// so many bytes.
///
/// # Errors
/// If the bytes do not go by that.
pub fn section_boundaries(component: &[u8]) -> Result<Vec<(u8, usize)>> {
    const PREAMBLE_BYTES: usize = 8;
    let mut boundaries = Vec::new();
    let mut at = PREAMBLE_BYTES;
    while at < component.len() {
        let number = component[at];
        at += 1;
        let mut length = 0usize;
        for shift in (0..35).step_by(7) {
            let byte = *component.get(at).context("a length is whole")?;
            at += 1;
            length |= usize::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                break;
            }
        }
        at += length;
        boundaries.push((number, at));
    }
    ensure!(at == component.len(), "the last section ends at {at}, the file at {}", component.len());
    Ok(boundaries)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_variant_is_the_component_and_one_section_more() {
        let component = wat::parse_str("(component)").unwrap();
        let other = variant(&component, 7);
        assert!(other.starts_with(&component));
        assert_eq!(&other[component.len()..], b"\0\x09\x07variant7");
        assert_ne!(variant(&component, 8), other);
    }

    #[test]
    fn a_patch_keeps_the_size_and_must_find_its_text() {
        assert_eq!(patched(b"..Hello..Hello", "Hello", "Howdy").unwrap(), b"..Howdy..Howdy");
        assert!(patched(b"nothing", "Hello", "Howdy").is_err());
        assert!(patched(b"Hello", "Hello", "Hi").is_err());
    }

    #[test]
    fn sections_end_where_the_next_begins() {
        let component = wat::parse_str("(component (component) (component))").unwrap();
        let boundaries = section_boundaries(&component).unwrap();
        assert_eq!(boundaries.last().map(|(_, end)| *end), Some(component.len()), "{boundaries:?}");
        assert_eq!(boundaries.iter().filter(|(number, _)| *number == 4).count(), 2, "two components in one");
        assert_eq!(section_boundaries(&variant(&component, 7)).unwrap().len(), boundaries.len() + 1);
        assert!(section_boundaries(&component[..component.len() - 1]).is_err());
    }

    #[test]
    fn every_component_of_the_wrong_world_is_well_formed() {
        assert_eq!(wrong_world().unwrap().len(), 4);
    }
}
