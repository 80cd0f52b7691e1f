//! What a function was granted beside its call, and who does it. The engine asks; what stands behind is made elsewhere.

use std::sync::Arc;

use baton_model::Grants;

/// The grants of one attempt and what stands behind them. An attempt of a function without grants has none of it, and
/// pays nothing for it. Without what stands behind a grant (as in a trial, where nothing may reach outside) its
/// interface answers with an error.
pub struct Services {
    /// What was granted.
    pub grants: Arc<Grants>,
}
