//! `init-db`: creates or completes the database and the web user.

use tokio_util::task::TaskTracker;

use crate::bots::environment::Environment;
use crate::cli::{self, Global};
use crate::exit::{Error, Kind, Outcome};
use crate::runtime::init_db::{self, InitOptions, Report};

use super::{overrides, run_one_shot, write_line, write_stdout};
use crate::runtime::bots_environment::{FoundBots, mounted_files};
use crate::runtime::dry_run::dry_run;
use crate::runtime::prepare::prepare_environment;

/// Runs the command.
///
/// # Errors
/// The errors, with code 1 for the database and 78 for the configuration.
pub fn run(global: &Global, flags: &cli::InitDb) -> Result<Outcome, Error> {
    let given = overrides([("database.connect_timeout", "--wait", flags.wait.clone())]);
    let task = InitOptions { check: flags.check, superuser: flags.superuser };
    let critical = TaskTracker::new();
    run_one_shot(global, given, &critical, async |config, reaper| {
        let mut report = Report::default();
        let initialising = async {
            let bots = FoundBots::find(config, reaper).await?;
            let source = mounted_files(config).await;
            let (environment, django) = match task.check {
                true => {
                    let found = dry_run(config, reaper, &bots.installation, source, |_, _| Ok(())).await?;
                    (Environment::paths(config), found.settings()?.clone())
                }
                false => prepare_environment(config, &bots, source?).await?,
            };
            let context = bots.context(&environment);
            init_db::ensure_database_with(config, &context, django, &critical, task, &mut report).await.map(|_| ())
        };
        let result = initialising.await.map_err(into_failed);
        print_result(flags.json, task, &report, result)
    })
}

fn print_result(json: bool, task: InitOptions, report: &Report, result: Result<(), Error>) -> Result<Outcome, Error> {
    let is_incomplete = !report.missing.is_empty() || !report.findings.is_empty();
    if json {
        let status = match &result {
            Err(_) => "failed",
            Ok(()) if is_incomplete => "incomplete",
            Ok(()) if report.steps.is_empty() => "complete",
            Ok(()) => "done",
        };
        write_line(&report.to_json(status, result.as_ref().err()));
    } else if task.check && result.is_ok() {
        let missing = report.missing.iter().map(|name| format!("missing: {name}\n"));
        let findings = report.findings.iter().map(|finding| format!("finding: {finding}\n"));
        let conversion = report.conversion.iter().map(|statement| format!("{statement};\n"));
        write_stdout(&missing.chain(findings).chain(conversion).collect::<String>());
        if !is_incomplete {
            write_line(&format!("the {} is complete", report.database));
        }
    } else if result.is_ok() {
        report.log_unfixed();
    }
    result?;
    Ok(if is_incomplete { Outcome::ProblemsFound } else { Outcome::Success })
}

/// The command's own code for a database that cannot be used is 1.
fn into_failed(error: Error) -> Error {
    match error.kind() {
        Kind::Unavailable => Error::all(Kind::Failed, error.into_faults()),
        _ => error,
    }
}
