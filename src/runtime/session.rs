//! Everything that a command which starts processes needs: runtime, log, signals and reaper.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::task::TaskTracker;

use crate::config::Config;
use crate::exit::{Error, Exit, Kind};
use crate::process::reaper::Reaper;
use crate::process::signals::{self, Signals};
use crate::telemetry::child_output::ServiceOutput;
use crate::telemetry::counters::Counters;
use crate::telemetry::logging::{self, LogGuard};

use super::reload_state::ReloadState;

/// Longer than bots-ctl ever runs.
const BLOCKING_THREAD_KEEP_ALIVE: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// Everything that a command which starts processes needs.
pub(crate) struct App {
    pub config: Config,
    pub reaper: Reaper,
    pub signals: Signals,
    pub lines: ServiceOutput,
    pub counters: Arc<Counters>,
    /// The state of the program before, where this is a reload.
    pub reloaded: Option<ReloadState>,
    /// Declared last: flushed after everything else is gone.
    _log: LogGuard,
}

/// Sets up log, runtime, signals and reaper, and runs `body` in them.
pub(crate) fn with_app<T>(config: Config, body: impl AsyncFnOnce(App) -> Result<T, Error>) -> Result<T, Error> {
    signals::block_all();
    let reloaded = ReloadState::take();
    let (log, lines) = logging::init(config.log);
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    // The first thread for work that blocks is kept: at the limit on processes there may be no other.
    let runtime = runtime.enable_io().enable_time().thread_keep_alive(BLOCKING_THREAD_KEEP_ALIVE).build();
    let runtime = runtime.map_err(|error| internal_error(&error))?;
    let result = runtime.block_on(async {
        let signals = Signals::install().map_err(|error| internal_error(&error))?;
        let reaper = Reaper::start().map_err(|error| internal_error(&error))?;
        body(App { config, reaper, signals, lines, counters: Arc::default(), reloaded, _log: log }).await
    });
    // Tasks that still run in the background must not delay the end.
    runtime.shutdown_background();
    result
}

/// Does work until it is done or a signal asks to stop, and then says how the command ends. While the work holds a token of
/// `critical`, such a signal lets it go on to its end, so that nothing is cut in the middle; so does a second one.
/// Signals that ask for something else stay for what comes next.
pub(crate) async fn run_until_shutdown<T>(
    signals: &mut Signals,
    critical: &TaskTracker,
    work: impl Future<Output = T>,
) -> Result<T, Exit> {
    tokio::pin!(work);
    let mut stopped_by = None;
    loop {
        tokio::select! {
            done = &mut work => return stopped_by.map_or(Ok(done), |number| Err(Exit::Signal(number))),
            number = signals.stop_requested() => {
                if critical.is_empty() {
                    return Err(Exit::Signal(stopped_by.unwrap_or(number)));
                }
                tracing::info!("asked to stop by {}: the database is completed first", signals::name(number));
                stopped_by.get_or_insert(number);
            }
        }
    }
}

fn internal_error(error: &dyn std::error::Error) -> Error {
    Error::new(Kind::Internal, format!("internal error: {error}"))
}
