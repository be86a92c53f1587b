//! `init-db`: makes or completes the database, and the web user.

use std::cell::Cell;

use crate::bots::django_settings::Context;
use crate::cli::{self, Global};
use crate::config::Override;
use crate::exit::{Error, Kind, Outcome};
use crate::process::tree;
use crate::runtime::init_db::{self, Report, Task};

use super::{load_config, print};
use crate::runtime::bots_environment::{child_variables, find_bots, prepare};
use crate::runtime::session::{Session, until_stopped, with_session};

/// Runs the command.
///
/// # Errors
/// What went wrong, with code 1 for the database and 78 for the configuration.
pub fn run(global: &Global, flags: &cli::InitDb) -> Result<Outcome, Error> {
    let wait = flags.wait.clone().map(|value| Override { path: "database.wait", flag: "--wait", value });
    let task = Task { check: flags.check, superuser: flags.superuser };
    with_session(load_config(global, wait.into_iter().collect())?, async |mut session| {
        let Session { config, reaper, signals, .. } = &mut session;
        let critical = Cell::new(false);
        let mut report = Report::default();
        let initialising = async {
            let bots = find_bots(config, reaper).await?;
            let variables = child_variables(config, Some(&bots.bin_dir));
            let environment = prepare(config, &bots).await?;
            let context = Context { reaper, bots: &bots, environment: &environment, variables: &variables };
            init_db::settle_reporting(config, &context, &critical, task, &mut report).await.map(|_| ())
        };
        let settled = match until_stopped(signals, &critical, initialising).await {
            Ok(settled) => settled.map_err(as_failed),
            Err(exit) => {
                // What was asked of Python no longer matters.
                tree::end_all(reaper, signals, &[], config.stop.timeout).await;
                return Ok(Outcome::Child(exit.code()));
            }
        };
        conclude(flags.json, task, &report, settled)
    })
}

fn conclude(json: bool, task: Task, report: &Report, settled: Result<(), Error>) -> Result<Outcome, Error> {
    let is_incomplete = !report.missing.is_empty() || !report.findings.is_empty();
    if json {
        let status = match &settled {
            Err(_) => "failed",
            Ok(()) if is_incomplete => "incomplete",
            Ok(()) if report.steps.is_empty() => "complete",
            Ok(()) => "done",
        };
        print(&format!("{}\n", report.to_json(status, settled.as_ref().err())));
    } else if task.check && settled.is_ok() {
        let missing = report.missing.iter().map(|name| format!("missing: {name}\n"));
        let findings = report.findings.iter().map(|finding| format!("finding: {finding}\n"));
        print(&missing.chain(findings).collect::<String>());
        if !is_incomplete {
            print(&format!("the {} is complete\n", report.database));
        }
    } else if settled.is_ok() {
        report.warn_of_what_is_left();
    }
    settled?;
    Ok(if is_incomplete { Outcome::Unhealthy } else { Outcome::Success })
}

/// The command's own code for a database that cannot be used is 1.
fn as_failed(error: Error) -> Error {
    match error.kind() {
        Kind::Unavailable => Error::all(Kind::Failed, error.faults().to_vec()),
        _ => error,
    }
}
