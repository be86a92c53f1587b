//! A change of the configuration: shown, checked and made.

use std::path::PathBuf;
use std::sync::Arc;

use tokio_util::task::TaskTracker;

use crate::config::Config;
use crate::exit::Error;
use crate::plugin;
use crate::plugin::acceptance::{CaseResult, TESTS};
use crate::plugin::diff::Plan;
use crate::process::reaper::Reaper;

use super::check::check_scripts;
use super::target::Target;
use super::test::test;
use super::write::write;

/// A change before it is made.
pub(super) struct PlannedChange {
    pub plan: Plan,
    /// Parts of the plugin that are left out.
    pub ignored: Vec<String>,
    /// The directory of the plugin whose tests have to pass first.
    pub tested: Option<PathBuf>,
    /// The backup that the change undoes.
    pub undoes: Option<String>,
    /// The ID of the last change, as of [`super::write::begin`]; without it the change is checked but not made.
    pub base: Option<String>,
}

/// A change and its result.
#[derive(Debug)]
pub(crate) struct Change {
    pub plan: Arc<Plan>,
    /// Parts of the plugin that are left out.
    pub ignored: Vec<String>,
    pub is_applied: bool,
}

/// Shows a change, checks its scripts, and makes it unless it is empty.
///
/// # Errors
/// The faults of the scripts and tests, before anything is written; those of [`write()`].
pub(super) async fn carry_out(
    config: &Config,
    reaper: &Reaper,
    target: &mut Target,
    planned: PlannedChange,
    critical: &TaskTracker,
    show: impl FnOnce(&Plan, &[String]),
) -> Result<Change, Error> {
    let PlannedChange { plan, ignored, tested, undoes, base } = planned;
    let plan = Arc::new(plan);
    show(&plan, &ignored);
    // An undo restores scripts as they were, with their faults.
    if undoes.is_none() {
        check_scripts(config, target, &plan).await?;
    }
    if let Some(plugin) = tested.filter(|_| !plan.is_empty()) {
        expect_success(&test(config, reaper, &plugin, None, |_| {}).await?)?;
    }
    // An empty undo is recorded too, so that the next one undoes the change before.
    let base = base.filter(|_| undoes.is_some() || !plan.is_empty());
    if let Some(base) = &base {
        write(config, target, &plan, base, undoes, critical).await?;
    }
    let is_applied = base.is_some();
    Ok(Change { plan, ignored, is_applied })
}

/// Rejects a plugin whose tests fail.
fn expect_success(results: &[CaseResult]) -> Result<(), plugin::Error> {
    let describe = |result: &CaseResult| {
        let describe = |difference: &String| format!("{TESTS}/{}: {}", result.name, difference.trim_start());
        result.differences.iter().map(describe).collect::<Vec<_>>()
    };
    plugin::Error::fail_if_any(results.iter().flat_map(describe).collect())
}
