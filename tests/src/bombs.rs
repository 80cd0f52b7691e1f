//! Components that are small and cost a compiler much: what a host must survive.

use anyhow::{Context, Result};

/// A function of `loops` in one another, in which each of `locals` changes.
fn loops(loops: usize, locals: usize) -> String {
    let change = |local| format!("(local.set {local} (i32.add (local.get {local}) (i32.const 1)))");
    let changes: String = (0..locals).map(change).collect();
    let (open, close) = ("(loop ".repeat(loops), "(br_if 0 (i32.const 0)))".repeat(loops));
    format!("(func (local {}) {open}{changes}{close})", "i32 ".repeat(locals))
}

fn component(functions: &str) -> Result<Vec<u8>> {
    wat::parse_str(format!("(component (core module {functions}))")).context("a component")
}

/// Components that are refused for what a look at them shows: what each is, a word of the refusal, and the bytes.
///
/// # Errors
/// If a text here is no component.
pub fn plain_bombs() -> Result<Vec<(&'static str, &'static str, Vec<u8>)>> {
    let functions = |count| "(func)".repeat(count);
    let long = format!("(func {})", "(drop (i32.const 7))".repeat((7 << 20) / 3));
    Ok(vec![
        ("300 loops in one another with 300 locals, in 5 KB", "128 loops", component(&loops(300, 300))?),
        ("100 loops in one another with 200 locals", "the product may be 10000", component(&loops(100, 200))?),
        ("300,000 functions", "50000", component(&functions(300_000))?),
        ("a function of 7 MB", "524288", component(&long)?),
    ])
}

/// A component that looks harmless and takes the compiler's memory: loops one behind the other and locals that live
/// through all of them.
///
/// # Errors
/// If the text is no component.
pub fn memory_bomb() -> Result<Vec<u8>> {
    const MANY: usize = 2_000;
    let set: String = (0..MANY).map(|n| format!("(local.set {n} (i32.add (local.get {n}) (i32.const 1)))")).collect();
    let get: String = (0..MANY).map(|n| format!("(drop (local.get {n}))")).collect();
    let loops = "(loop (br_if 0 (i32.const 0)))".repeat(MANY);
    component(&format!("(func (local {}) {set}{loops}{get})", "i32 ".repeat(MANY)))
}

/// A component that looks harmless and takes the compiler's time: `functions` of 128 loops in one another with 78
/// locals, about half a second each. `padding` bytes without meaning raise the limit that a file of its size gets.
///
/// # Errors
/// If the text is no component.
pub fn time_bomb(functions: usize, padding: usize) -> Result<Vec<u8>> {
    let custom = format!(r#"(@custom "padding" "{}")"#, "x".repeat(padding));
    component(&(loops(128, 78).repeat(functions) + &custom))
}
