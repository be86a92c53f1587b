//! Before a run: the lease, a look at the routes that are asked for, and at the files that they take.

use std::time::{Duration, Instant};

use tracing::error;

use crate::bots::engine_args::EngineArgs;
use crate::config::Config;
use crate::config::layers::closest_match;
use crate::database;
use crate::database::lease::Lease;
use crate::edi::runs;
use crate::exit::{Error, Kind};

use super::incomplete_files::RunFiles;
use super::{acquire, run_metrics};

/// The lease, and what the metrics of the run need.
pub(crate) struct LeasedRun {
    pub lease: Box<Lease>,
    pub name: String,
    /// How long another engine was waited for.
    pub waited: Duration,
}

/// Takes the lease, once the files of the run are complete: those are judged under it, and waited for without it, so that
/// other runs go on. Nothing when another engine runs.
///
/// # Errors
/// When the database is away, or a route is not one that can be run.
pub(crate) async fn begin(
    config: &Config,
    settings: &database::DatabaseConfig,
    arguments: &EngineArgs,
    files: &mut RunFiles<'_>,
) -> Result<Option<LeasedRun>, Error> {
    let (name, mut waited) = (holder_name(), Duration::ZERO);
    loop {
        let begin = Instant::now();
        let mut lease = match acquire::acquire(settings, config, &name).await? {
            Ok(lease) => lease,
            Err(busy) => {
                run_metrics::add_busy(settings, waited + begin.elapsed()).await;
                error!("nothing was run: {busy}");
                return Ok(None);
            }
        };
        waited += begin.elapsed();
        match may_begin(config, &mut lease, arguments, files).await {
            Ok(true) => return Ok(Some(LeasedRun { lease, name, waited })),
            Ok(false) => {
                lease.release().await;
                files.wait().await;
            }
            Err(error) => {
                lease.release().await;
                return Err(error);
            }
        }
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

/// Pod and process, as an engine that waits for this one names it.
fn holder_name() -> String {
    let host = nix::unistd::gethostname().unwrap_or_default();
    format!("{} (process {})", host.to_string_lossy(), std::process::id())
}

/// Bots runs nothing for a route that it does not know, and ends with code 0.
fn check_routes(known: &[runs::Route], wanted: &[String]) -> Result<(), Error> {
    let active: Vec<String> = known.iter().filter(|route| route.is_active).map(|route| route.name.clone()).collect();
    let all = if active.is_empty() { "none".to_owned() } else { active.join(", ") };
    let explain = |name: &String| match known.iter().find(|route| route.name == *name) {
        Some(route) if route.is_active => None,
        Some(_) => Some(format!("route {name} is not active; active routes: {all}")),
        None => Some(match closest_match(name, active.iter()) {
            Some(near) => format!("there is no route {name}; did you mean {near}? Active routes: {all}"),
            None => format!("there is no route {name}; active routes: {all}"),
        }),
    };
    let faults: Vec<String> = wanted.iter().filter_map(explain).collect();
    if faults.is_empty() { Ok(()) } else { Err(Error::all(Kind::Usage, faults)) }
}
