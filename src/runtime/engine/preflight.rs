//! Before a run: the lease, a check of the requested routes and of the files that they take.

use std::time::{Duration, Instant};

use tracing::error;

use crate::bots::engine_args::EngineArgs;
use crate::config::Config;
use crate::config::layers::closest_match;
use crate::database::DatabaseConfig;
use crate::database::lease::Lease;
use crate::edi::runs;
use crate::edi::stats::model::Route;
use crate::exit::{Error, Kind};

use super::acquire::{self, RunAttempt};
use super::incomplete_files::RunFiles;
use super::run_metrics;

/// A run that may begin: its lease is held.
pub(super) struct MayBegin {
    /// How long other engines were waited for.
    pub waited: Duration,
    /// Whether an earlier run did not finish.
    pub has_open_run: bool,
}

/// Acquires the lease once the files of the run are complete: they are judged under it, and waited for without it, so that
/// other runs go on. `held` has the lease whenever it is held, for a caller that is interrupted. Returns None when another engine
/// still runs.
///
/// # Errors
/// When the database is away, or a route cannot be run.
pub(super) async fn begin(
    config: &Config,
    settings: &DatabaseConfig,
    arguments: &EngineArgs,
    files: &mut RunFiles<'_>,
    held: &mut Option<Box<Lease>>,
) -> Result<Option<MayBegin>, Error> {
    let mut waited = Duration::ZERO;
    loop {
        let begin = Instant::now();
        let acquired = acquire::acquire(settings, config, &run_metrics::holder_name(), held).await?;
        waited += begin.elapsed();
        let has_open_run = match acquired {
            RunAttempt::Acquired { has_open_run } => has_open_run,
            RunAttempt::Busy(busy) => {
                run_metrics::add_busy(settings, waited).await;
                error!("engine not started: {busy}");
                return Ok(None);
            }
        };
        let may_begin = match held {
            Some(lease) => may_begin(config, lease, arguments, files).await,
            None => Ok(false),
        };
        if let Ok(true) = may_begin {
            return Ok(Some(MayBegin { waited, has_open_run }));
        }
        acquire::release(held).await;
        may_begin?;
        files.wait().await;
    }
}

async fn may_begin(
    config: &Config,
    lease: &mut Lease,
    arguments: &EngineArgs,
    files: &mut RunFiles<'_>,
) -> Result<bool, Error> {
    if !arguments.routes.is_empty() && !config.engine.allow_unknown_routes {
        check_routes(&lease.query_with_retry(runs::routes).await?, &arguments.routes)?;
    }
    files.may_begin(lease).await
}

/// For an unknown route Bots runs nothing, and ends with code 0.
fn check_routes(known: &[Route], wanted: &[String]) -> Result<(), Error> {
    let active: Vec<String> = known.iter().filter(|route| route.is_active).map(|route| route.name.clone()).collect();
    let all = if active.is_empty() { "none".to_owned() } else { active.join(", ") };
    let error = |name: &String| match known.iter().find(|route| route.name == *name) {
        Some(route) if route.is_active => None,
        Some(_) => Some(format!("route {name} is not active; active routes: {all}")),
        None => Some(match closest_match(name, active.iter()) {
            Some(near) => format!("there is no route {name}; did you mean {near}? Active routes: {all}"),
            None => format!("there is no route {name}; active routes: {all}"),
        }),
    };
    let errors: Vec<String> = wanted.iter().filter_map(error).collect();
    if errors.is_empty() { Ok(()) } else { Err(Error::all(Kind::Usage, errors)) }
}
