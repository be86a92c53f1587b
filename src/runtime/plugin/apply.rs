//! `plugin apply`: applies a plugin to an environment.

use std::path::PathBuf;
use std::sync::Arc;

use tokio_util::task::TaskTracker;

use crate::config::Config;
use crate::exit::Error;
use crate::plugin;
use crate::plugin::acceptance::{CaseResult, TESTS};
use crate::plugin::diff::{DiffOptions, Plan, plan};
use crate::plugin::normalize::normalize;
use crate::plugin::values::Values;
use crate::process::reaper::Reaper;

use super::change::Change;
use super::check::check_scripts;
use super::source::Source;
use super::target::Target;
use super::test::test;
use super::write::{settle_earlier, write};

/// The plugin to apply, and the options.
pub(crate) struct ApplyRequest {
    /// A directory or an archive.
    pub source: PathBuf,
    pub values: Values,
    pub options: DiffOptions,
    /// Compare only.
    pub check: bool,
    /// Run the tests of the plugin first.
    pub needs_test: bool,
    /// The environment and its database are as a start leaves them.
    pub is_prepared: bool,
}

/// Applies a plugin. `show` gets the difference before anything is changed. A token of `critical` is held while it is.
///
/// # Errors
/// The faults of the plugin, of which nothing was written; those of [`write()`].
pub(crate) async fn apply(
    config: &Config,
    reaper: &Reaper,
    request: ApplyRequest,
    critical: &TaskTracker,
    show: impl FnOnce(&Plan, &[String]),
) -> Result<Change, Error> {
    let mut target = match request.check || request.is_prepared {
        true => Target::open(config, reaper).await?,
        false => Target::prepare(config, reaper, critical).await?,
    };
    let source = Source::open(config, &mut target.python, &request.source).await?;
    let mut plugin = source.read(&mut target.python).await?;
    if request.check {
        target.warn_of_pending_change()?;
    } else {
        settle_earlier(config, &target).await?;
    }
    let (stored, files) = target.read().await?;
    normalize(&mut plugin, &stored)?;
    request.values.apply(&mut plugin, &stored)?;
    let plan = Arc::new(plan(&plugin, &stored, &files, request.options)?);
    show(&plan, &plugin.ignored);
    check_scripts(config, &mut target, &plan).await?;
    if request.needs_test && !plan.is_empty() {
        expect_success(&test(config, reaper, &source.directory, None, |_| {}).await?)?;
    }
    let is_applied = !request.check && make(config, &mut target, &plan, critical).await?;
    Ok(Change { plan, ignored: plugin.ignored, is_applied })
}

/// Rejects a plugin whose tests fail.
fn expect_success(results: &[CaseResult]) -> Result<(), plugin::Error> {
    let describe = |result: &CaseResult| {
        let describe = |difference: &String| format!("{TESTS}/{}: {}", result.name, difference.trim_start());
        result.differences.iter().map(describe).collect::<Vec<_>>()
    };
    plugin::Error::from_faults(results.iter().flat_map(describe).collect())
}

/// Shows a change, checks its scripts, and makes it.
///
/// # Errors
/// As [`apply`].
pub(super) async fn carry_out(
    config: &Config,
    target: &mut Target,
    plan: Arc<Plan>,
    ignored: Vec<String>,
    critical: &TaskTracker,
    show: impl FnOnce(&Plan, &[String]),
) -> Result<Change, Error> {
    show(&plan, &ignored);
    check_scripts(config, target, &plan).await?;
    let is_applied = make(config, target, &plan, critical).await?;
    Ok(Change { plan, ignored, is_applied })
}

/// Makes a change unless it is empty. Returns whether it was made.
async fn make(config: &Config, target: &mut Target, plan: &Arc<Plan>, critical: &TaskTracker) -> Result<bool, Error> {
    if plan.is_empty() {
        return Ok(false);
    }
    let uncancelled = critical.token();
    write(config, target, plan, None).await?;
    drop(uncancelled);
    Ok(true)
}
