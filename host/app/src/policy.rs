//! What people write about functions and tenants: text becomes types here, and what a manifest asks for is held against
//! what the operator allows.
//!
//! Three files speak, and each caps the next: the operator's settings (`[tenants]`), a tenant's `tenant.toml`, and the
//! manifest beside a component. Nothing here looks into a folder; the one thing that is read is a secret that a manifest
//! names and the operator allows.

mod caps;
mod grants;
mod limits;
mod manifest;
mod quotas;
mod schedules;
#[cfg(test)]
mod schema;
mod secrets;
mod tenant;
mod text;
mod trust;

pub use caps::CapsTable;
pub(crate) use caps::{Caps, Rules};
pub(crate) use manifest::Manifest;
pub use manifest::Terms;
pub(crate) use secrets::Secrets;
pub use secrets::Variable;
pub(crate) use tenant::TenantFile;
pub use trust::SecurityTable;
