//! `healthcheck`: asks the listener of this container, or looks for itself.

use std::cell::Cell;

use serde_json::Value;
use tokio::sync::watch;

use crate::admin::server::to_json;
use crate::bots::django_settings::{Context, Facts as DjangoFacts};
use crate::bots::environment::Environment;
use crate::cli::{self, Global, Healthcheck};
use crate::config::Config;
use crate::exit::{Error, Kind, Outcome};
use crate::health::checks;
use crate::health::client::{self, Answer};
use crate::health::state::{Check, Fact, Facts, Report, report};
use crate::process::blocking;
use crate::process::reaper::Reaper;

use super::{health_addr, load_config, print};
use crate::runtime::bots_environment::{child_variables, find_bots, health_targets};
use crate::runtime::session::{Session, until_stopped, with_session};

/// Runs the command.
///
/// # Errors
/// Code 2 when the check could not be carried out.
pub fn run(global: &Global, flags: Healthcheck) -> Result<Outcome, Error> {
    let check = check(flags.check);
    let answer = if flags.standalone { standalone(global, check)? } else { ask(global, check)? };
    if flags.json {
        print(&format!("{}\n", answer.body));
    } else if !flags.quiet {
        print(&in_words(&answer.body));
    }
    Ok(if answer.healthy { Outcome::Success } else { Outcome::Unhealthy })
}

fn ask(global: &Global, check: Check) -> Result<Answer, Error> {
    let (addr, faulty) = health_addr(global).map_err(not_run)?;
    client::ask(addr, check).map_err(|error| {
        if let Some(faulty) = faulty {
            return not_run(faulty);
        }
        let text = format!("cannot ask the health listener on {addr}: {error}; is bots-ctl running in this container?");
        Error::new(Kind::CheckNotRun, format!("{text} --standalone needs no listener"))
    })
}

/// The same checks without a listener; no service is looked at, since which one would it be.
fn standalone(global: &Global, check: Check) -> Result<Answer, Error> {
    let config = load_config(global, Vec::new()).map_err(not_run)?;
    let checked = with_session(config, async |mut session| {
        let Session { config, reaper, signals, .. } = &mut session;
        match until_stopped(signals, &Cell::new(false), look(config, reaper, check)).await {
            Ok(report) => report,
            Err(_) => Err(Error::new(Kind::CheckNotRun, "interrupted")),
        }
    });
    let report = checked.map_err(not_run)?;
    Ok(Answer { healthy: report.healthy, body: to_json(&report) })
}

async fn look(config: &Config, reaper: &Reaper, check: Check) -> Result<Report, Error> {
    let bots = find_bots(config, reaper).await?;
    let variables = child_variables(config, Some(&bots.bin_dir));
    let environment = Environment::layout(config);
    let context = Context { reaper, bots: &bots, environment: &environment, variables: &variables };
    let django = match DjangoFacts::kept(&context) {
        Some(kept) => kept,
        None => DjangoFacts::ask(&context).await?,
    };
    // The checks need a thread, and cannot do without.
    blocking::run(|| ()).await.map_err(|error| Error::new(Kind::CheckNotRun, error.to_string()))?;
    let database_only = config.health.database_only;
    let facts = watch::Sender::new(Facts { config: Fact::Good, database_only, ..Facts::default() });
    checks::look_once(&health_targets(config, &django)?, &facts).await;
    let answer = report(check, &facts.borrow());
    Ok(answer)
}

/// Whatever keeps a check from being made is code 2, so that a probe never mistakes it for an answer.
fn not_run(error: Error) -> Error {
    Error::all(Kind::CheckNotRun, error.faults().to_vec())
}

fn check(check: cli::Check) -> Check {
    match check {
        cli::Check::Live => Check::Live,
        cli::Check::Ready => Check::Ready,
        cli::Check::Startup => Check::Startup,
    }
}

/// The layout that the Python script had which this replaces.
fn in_words(body: &str) -> String {
    let answer: Value = serde_json::from_str(body).unwrap_or_default();
    let text = |key: &str| answer[key].as_str().unwrap_or_default().to_owned();
    let mut words = format!("Health Check: {}\nStatus: {}\n", text("check"), text("status"));
    for (name, good) in answer["checks"].as_object().into_iter().flatten() {
        words += &format!("  {} {name}\n", if good.as_bool() == Some(true) { "ok    " } else { "FAILED" });
    }
    for error in answer["errors"].as_array().into_iter().flatten() {
        words += &format!("  error: {}\n", error.as_str().unwrap_or_default());
    }
    words
}
