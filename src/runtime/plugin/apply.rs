//! `plugin apply`: applies a plugin to an environment.

use std::path::PathBuf;

use tokio_util::task::TaskTracker;

use crate::config::Config;
use crate::exit::Error;
use crate::plugin::diff::{DiffOptions, Plan, plan};
use crate::plugin::normalize::normalize;
use crate::plugin::values::Values;
use crate::process::reaper::Reaper;

use super::change::{Change, PlannedChange, carry_out};
use super::source::Source;
use super::target::Target;
use super::write::begin;

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

/// Applies a plugin. `show` gets the difference before anything is changed.
///
/// # Errors
/// The faults of the plugin, before anything is written; those of [`carry_out`].
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
    let base = begin(config, &target, request.check, critical).await?;
    let (stored, files) = target.read(&plugin).await?;
    normalize(&mut plugin, &stored)?;
    request.values.apply(&mut plugin, &stored)?;
    let planned = PlannedChange {
        plan: plan(&plugin, &stored, &files, request.options)?,
        ignored: plugin.ignored,
        tested: request.needs_test.then(|| source.directory.clone()),
        undoes: None,
        base,
    };
    carry_out(config, reaper, &mut target, planned, critical, show).await
}
