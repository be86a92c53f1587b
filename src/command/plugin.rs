//! `plugin`: exports, applies, tests and undoes plugins.

use std::path::Path;

use tokio_util::task::TaskTracker;
use tracing::warn;

use crate::cli::{self, ApplyPlugin, Global};
use crate::exit::{Error, Kind, Outcome};
use crate::model::counted;
use crate::plugin::acceptance::CaseResult;
use crate::plugin::diff::{Activation, DiffOptions, Plan};
use crate::plugin::show;
use crate::plugin::values::Values;
use crate::runtime::plugin::{ApplyRequest, Change, ExportCounts, ExportRequest, apply, export, test, undo};
use crate::telemetry::escape::escape_control;

use super::{run_one_shot, write_line};

/// Runs the command.
///
/// # Errors
/// 64 and 78 for the command line, the plugin and its values; 69 when an engine runs or the database is unavailable.
pub fn run(global: &Global, plugin: &cli::Plugin) -> Result<Outcome, Error> {
    match plugin {
        cli::Plugin::Export { routes, target } => {
            let request = ExportRequest { routes: routes.clone(), target: target.clone() };
            run_export(global, &request)
        }
        cli::Plugin::Apply(flags) => {
            let request = ApplyRequest {
                source: flags.source.clone(),
                values: values(flags)?,
                options: options(flags),
                check: flags.check,
                needs_test: flags.test,
                is_prepared: false,
            };
            run_apply(global, request, flags.json)
        }
        cli::Plugin::Test { source, junit } => run_test(global, source, junit.as_deref()),
        cli::Plugin::Undo { check, json } => run_undo(global, *check, *json),
    }
}

fn values(flags: &ApplyPlugin) -> Result<Values, Error> {
    let mut values = Values::default();
    flags.values.iter().try_for_each(|file| values.add_file(file))?;
    for argument in &flags.set {
        values.add_argument(argument).map_err(|error| Error::new(Kind::Usage, error.to_string()))?;
    }
    Ok(values)
}

fn options(flags: &ApplyPlugin) -> DiffOptions {
    let activation = match (flags.activate, flags.keep_active) {
        (true, _) => Activation::Activate,
        (_, true) => Activation::Keep,
        (false, false) => Activation::AsInPlugin,
    };
    DiffOptions { activation, prune: flags.prune }
}

fn run_export(global: &Global, request: &ExportRequest) -> Result<Outcome, Error> {
    run_one_shot(global, Vec::new(), &TaskTracker::new(), async |config, reaper| {
        let ExportCounts { rows, files } = export(config, reaper, request).await?;
        write_line(&format!("{}: {}, {}", request.target.display(), counted(rows, "row"), counted(files, "file")));
        Ok(Outcome::Success)
    })
}

fn run_apply(global: &Global, request: ApplyRequest, json: bool) -> Result<Outcome, Error> {
    let (critical, check) = (TaskTracker::new(), request.check);
    run_one_shot(global, Vec::new(), &critical, async |config, reaper| {
        let show = |plan: &Plan, ignored: &[String]| show_text(plan, ignored, json);
        Ok(finish(&apply(config, reaper, request, &critical, show).await?, check, json, "applied"))
    })
}

fn run_test(global: &Global, source: &Path, report: Option<&Path>) -> Result<Outcome, Error> {
    run_one_shot(global, Vec::new(), &TaskTracker::new(), async |config, reaper| {
        let show = |result: &CaseResult| {
            let word = if result.differences.is_empty() { "ok" } else { "FAILED" };
            write_line(&escape_control(&format!("{}: {word}", result.name)));
            let lines = result.differences.iter().map(|difference| format!("    {difference}"));
            lines.for_each(|line| write_line(&escape_control(&line)));
        };
        let results = test(config, reaper, source, report, show).await?;
        let is_success = results.iter().all(|result| result.differences.is_empty());
        Ok(if is_success { Outcome::Success } else { Outcome::ProblemsFound })
    })
}

fn run_undo(global: &Global, check: bool, json: bool) -> Result<Outcome, Error> {
    let critical = TaskTracker::new();
    run_one_shot(global, Vec::new(), &critical, async |config, reaper| {
        let show = |plan: &Plan, ignored: &[String]| show_text(plan, ignored, json);
        Ok(finish(&undo(config, reaper, check, &critical, show).await?, check, json, "undone"))
    })
}

fn show_text(plan: &Plan, ignored: &[String], json: bool) {
    if json {
        return;
    }
    ignored.iter().for_each(|part| warn!("left out: {part}"));
    show::text(plan).iter().for_each(|line| write_line(&escape_control(line)));
}

fn finish(change: &Change, check: bool, json: bool, done: &str) -> Outcome {
    if json {
        write_line(&show::json(&change.plan, change.is_applied, &change.ignored));
    } else if change.is_applied {
        write_line(&format!("{done}: {}", show::summary(&change.plan)));
    } else if change.plan.is_empty() {
        write_line("nothing to do");
    } else {
        write_line(&show::summary(&change.plan));
    }
    if check && !change.plan.is_empty() { Outcome::ProblemsFound } else { Outcome::Success }
}
