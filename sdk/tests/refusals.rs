//! What a wrong function is told by the compiler. After a change on purpose: `TRYBUILD=overwrite cargo test -p baton-sdk`.

use std::process::Command;

#[test]
fn each_wrong_function_is_told_the_rule_and_the_mend() {
    let cases = trybuild::TestCases::new();
    cases.compile_fail("tests/refusals/signature.rs");
    cases.compile_fail("tests/refusals/bytes.rs");
    // Here the compiler adds words of its own, which change from one release to the next.
    if compiler_is_the_one_recorded_with() {
        cases.compile_fail("tests/refusals/types.rs");
    }
}

fn compiler_is_the_one_recorded_with() -> bool {
    let compiler = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let version = Command::new(compiler).arg("--version").output().expect("a compiler is at hand").stdout;
    String::from_utf8_lossy(&version).contains(concat!(" ", env!("CARGO_PKG_RUST_VERSION"), "."))
}
