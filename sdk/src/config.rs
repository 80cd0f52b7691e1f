//! The settings that the function's manifest grants under `[grants.config]`, secrets among them.
//!
//! ```
//! use baton_sdk::prelude::*;
//! use baton_sdk::{config, testing};
//!
//! #[baton_sdk::function]
//! fn greet(name: String) -> Result<String> {
//!     let greeting = config::get("greeting").unwrap_or_else(|| "Hello".to_owned());
//!     Ok(format!("{greeting}, {name}"))
//! }
//!
//! testing::setting("greeting", "Ahoy");
//! assert_eq!(greet("Ada".to_owned()).unwrap(), "Ahoy, Ada");
//! ```

use alloc::string::String;
use alloc::vec::Vec;

/// The setting of this name. None if the manifest has none.
#[must_use]
pub fn get(name: &str) -> Option<String> {
    host::get(name)
}

/// All settings, in no order.
#[must_use]
pub fn all() -> Vec<(String, String)> {
    host::all()
}

#[cfg(all(target_os = "wasi", target_env = "p2"))]
mod host {
    use super::{String, Vec};
    use crate::bindings::wasi::config::store;

    // The host has the settings at hand; there is no way in which it fails.
    pub(super) fn get(name: &str) -> Option<String> {
        store::get(name).ok().flatten()
    }

    pub(super) fn all() -> Vec<(String, String)> {
        store::get_all().unwrap_or_default()
    }
}

#[cfg(not(all(target_os = "wasi", target_env = "p2")))]
pub(crate) mod host {
    use std::cell::RefCell;
    use std::collections::BTreeMap;

    use super::{String, Vec};

    std::thread_local! {
        /// What `testing::setting` has said, for the test that this thread runs.
        pub(crate) static SETTINGS: RefCell<BTreeMap<String, String>> = const { RefCell::new(BTreeMap::new()) };
    }

    pub(super) fn get(name: &str) -> Option<String> {
        SETTINGS.with_borrow(|settings| settings.get(name).cloned())
    }

    pub(super) fn all() -> Vec<(String, String)> {
        SETTINGS.with_borrow(|settings| settings.clone().into_iter().collect())
    }
}
