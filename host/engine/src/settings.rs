//! `wasi:config`: a function reads the settings that its manifest grants. Secrets leave the host through here alone.

use wasmtime::component::{ComponentType, Linker, Lower};

use crate::state::State;

/// The same interface under the names that it has had; components of other hosts ask for any of these.
const NAMES: &[&str] = &[
    "wasi:config/store@0.2.0-rc.1",
    "wasi:config/store@0.2.0-draft",
    "wasi:config/store@0.2.0-draft-2024-09-27",
    "wasi:config/runtime@0.2.0-draft",
];

/// Why a setting cannot be read. The settings are at hand, so that it is never said; the interface has it.
#[derive(Clone, ComponentType, Lower)]
#[component(variant)]
#[expect(dead_code, reason = "the interface has the cases; this host has no cause for them")]
enum Error {
    #[component(name = "upstream")]
    Upstream(String),
    #[component(name = "io")]
    Io(String),
}

/// Offers the interface.
pub(crate) fn add_to_linker(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    for name in NAMES {
        let mut interface = linker.instance(name)?;
        interface.func_wrap("get", |store, (key,): (String,)| {
            let found = store.data().config().and_then(|settings| settings.get(&key));
            Ok((Ok::<_, Error>(found.map(|setting| setting.reveal().to_owned())),))
        })?;
        interface.func_wrap("get-all", |store, (): ()| {
            let all = store.data().config().into_iter().flatten();
            let all: Vec<(String, String)> = all.map(|(key, value)| (key.clone(), value.reveal().to_owned())).collect();
            Ok((Ok::<_, Error>(all),))
        })?;
    }
    Ok(())
}
