//! A change of the configuration, and its result.

use std::sync::Arc;

use crate::plugin::diff::Plan;

/// A change and its result.
#[derive(Debug)]
pub(crate) struct Change {
    pub plan: Arc<Plan>,
    /// Parts of the plugin that are left out.
    pub ignored: Vec<String>,
    pub is_applied: bool,
}
