//! Before a run: the lease, a look at the routes that are asked for, and at the files that they take.

use std::time::{Duration, Instant};

use tracing::error;

use crate::bots::engine_args::EngineArguments;
use crate::config::Config;
use crate::config::layers::nearest;
use crate::database;
use crate::database::lease::Lease;
use crate::edi::runs;
use crate::exit::{Error, Kind};

use super::incomplete_files::FilesOfRun;
use super::{acquire, run_metrics};

/// The lease, and the figures that the sums of the run need.
pub(crate) struct Leased {
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
    settings: &database::Settings,
    arguments: &EngineArguments,
    files: &mut FilesOfRun<'_>,
) -> Result<Option<Leased>, Error> {
    let (name, mut waited) = (our_name(), Duration::ZERO);
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
            Ok(true) => return Ok(Some(Leased { lease, name, waited })),
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
    arguments: &EngineArguments,
    files: &mut FilesOfRun<'_>,
) -> Result<bool, Error> {
    if !arguments.routes.is_empty() && !config.engine.unknown_routes {
        check_routes(&lease.ask(runs::routes).await?, &arguments.routes)?;
    }
    files.may_begin(lease).await
}

/// Pod and process, as an engine that waits for this one names it.
fn our_name() -> String {
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
        None => Some(match nearest(name, active.iter()) {
            Some(near) => format!("there is no route {name}; did you mean {near}? Active routes: {all}"),
            None => format!("there is no route {name}; active routes: {all}"),
        }),
    };
    let faults: Vec<String> = wanted.iter().filter_map(explain).collect();
    if faults.is_empty() { Ok(()) } else { Err(Error::all(Kind::Usage, faults)) }
}
