//! `healthcheck`: a request to the listener of this container, or checks without it.

use serde_json::Value;
use tokio::sync::watch;
use tokio_util::task::TaskTracker;

use crate::cli::{Global, Healthcheck};
use crate::config::Config;
use crate::exit::{Error, Kind, Outcome};
use crate::health::checks;
use crate::health::client::{self, ProbeReply};
use crate::health::rules::{CONFIG, ProbeResponse, evaluate};
use crate::health::state::{CheckResults, HealthState};
use crate::model::Check;
use crate::process::blocking;
use crate::process::reaper::Reaper;

use super::{HealthListener, load_config, run_one_shot_with, write_line, write_stdout};
use crate::runtime::bots_environment::{django_settings, health_targets};

/// Runs the command.
///
/// # Errors
/// Code 2 when the check could not be carried out.
pub fn run(global: &Global, flags: Healthcheck) -> Result<Outcome, Error> {
    if flags.standalone {
        return standalone(global, flags);
    }
    let ProbeReply { healthy, body } = query_listener(global, flags.check)?;
    Ok(print(healthy, &body, flags))
}

fn print(is_healthy: bool, body: &str, flags: Healthcheck) -> Outcome {
    if flags.json {
        write_line(body);
    } else if !flags.quiet {
        write_stdout(&to_text(body));
    }
    if is_healthy { Outcome::Success } else { Outcome::ProblemsFound }
}

fn query_listener(global: &Global, check: Check) -> Result<ProbeReply, Error> {
    let listener = HealthListener::find(global).map_err(into_check_not_run)?;
    listener.query(|addr| client::query(addr, check)).map_err(|error| {
        let addr = listener.addr();
        let text =
            format!("cannot query the health listener on {addr}: {error}; is bots-ctl running in this container?");
        let unavailable = Error::new(Kind::Unavailable, format!("{text} --standalone needs no listener"));
        into_check_not_run(listener.explain(unavailable))
    })
}

/// The same checks without a listener, and without any service: this process has none.
fn standalone(global: &Global, flags: Healthcheck) -> Result<Outcome, Error> {
    let config = load_config(global, Vec::new()).map_err(into_check_not_run)?;
    let checked = run_one_shot_with(config, &TaskTracker::new(), async |config, reaper| {
        let response = run_check(config, reaper, flags.check).await?;
        Ok(print(response.healthy, &response.to_json(), flags))
    });
    checked.map_err(into_check_not_run)
}

async fn run_check(config: &Config, reaper: &Reaper, check: Check) -> Result<ProbeResponse, Error> {
    let django = django_settings(config, reaper).await?;
    // The checks cannot run without a thread.
    blocking::run(|| ()).await.map_err(|error| Error::new(Kind::CheckNotRun, error.to_string()))?;
    let database_only = config.health.database_only;
    let health = watch::Sender::new(HealthState {
        checks: CheckResults::all_ok([CONFIG]),
        database_only,
        ..HealthState::default()
    });
    checks::run_once(&health_targets(config, &django)?, check, &health).await;
    let response = evaluate(check, &health.borrow());
    Ok(response)
}

/// An error that keeps a check from running has code 2, so that a probe never mistakes it for a result.
fn into_check_not_run(error: Error) -> Error {
    Error::all(Kind::CheckNotRun, error.into_faults())
}

/// The layout of the Python script that this command replaces.
fn to_text(body: &str) -> String {
    let response: Value = serde_json::from_str(body).unwrap_or_default();
    let text = |key: &str| response[key].as_str().unwrap_or_default().to_owned();
    let mut output = format!("Health Check: {}\nStatus: {}\n", text("check"), text("status"));
    for (name, good) in response["checks"].as_object().into_iter().flatten() {
        output += &format!("  {} {name}\n", if good.as_bool() == Some(true) { "ok    " } else { "FAILED" });
    }
    for error in response["errors"].as_array().into_iter().flatten() {
        output += &format!("  error: {}\n", error.as_str().unwrap_or_default());
    }
    output
}
