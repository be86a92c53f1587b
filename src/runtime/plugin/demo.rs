//! `demo`: a translation that comes with bots-ctl, applied as any other plugin.

use std::fs;
use std::path::PathBuf;

use tokio_util::task::TaskTracker;

use crate::config::Config;
use crate::exit::Error;
use crate::fs::atomic;
use crate::plugin::diff::{DiffOptions, Plan, plan};
use crate::plugin::normalize::normalize;
use crate::plugin::{self, demo};
use crate::process::reaper::Reaper;
use crate::runtime::bots_environment::blocking;

use super::change::{Change, PlannedChange, carry_out};
use super::target::Target;
use super::write::begin;

/// The demo as it is applied.
pub(crate) struct AppliedDemo {
    pub change: Change,
    /// The order that a run takes, and the file that it becomes.
    pub sample: PathBuf,
    pub output: PathBuf,
}

/// Applies the demo and creates its sample order, or removes both.
///
/// # Errors
/// When something else has its names, and those of an apply.
pub(crate) async fn apply_demo(
    config: &Config,
    reaper: &Reaper,
    remove: bool,
    critical: &TaskTracker,
    show: impl FnOnce(&Plan, &[String]),
) -> Result<AppliedDemo, Error> {
    let mut target = Target::prepare(config, reaper, critical).await?;
    let base = begin(config, &target, false, critical).await?;
    let mut plugin = demo::plugin()?;
    let (stored, files) = target.read(&plugin).await?;
    normalize(&mut plugin, &stored)?;
    let mut plan = plan(&plugin, &stored, &files, DiffOptions::default())?;
    if remove {
        plan = demo::removal(&plugin, &plan, &stored);
    } else {
        demo::check_is_own(&plan)?;
    }
    let botssys = target.django.directories.botssys.clone();
    let (sample, output) = (botssys.join(demo::SAMPLE.0), botssys.join(demo::OUTPUT));
    let planned = PlannedChange { plan, ignored: Vec::new(), tested: None, undoes: None, base };
    let change = carry_out(config, reaper, &mut target, planned, critical, show).await?;
    let path = sample.clone();
    let place = move || -> Result<(), plugin::Error> {
        let directory = path.parent().unwrap_or(&path);
        if !remove {
            atomic::make_dir(directory)?;
            atomic::create_if_absent(&path, demo::SAMPLE.1, 0o644)?;
        } else if fs::read(&path).is_ok_and(|content| content == demo::SAMPLE.1) {
            fs::remove_file(&path).map_err(|error| atomic::describe_io_error("remove", &path, &error))?;
            // Unless there are other files in it.
            let _ = fs::remove_dir(directory);
        }
        Ok(())
    };
    blocking(place).await??;
    Ok(AppliedDemo { change, sample, output })
}
