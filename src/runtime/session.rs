//! Everything that a command which starts processes needs: runtime, log, signals and reaper.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::task::TaskTracker;

use crate::config::Config;
use crate::exit::{Error, Exit, Kind};
use crate::process::reaper::Reaper;
use crate::process::signals::{self, Signals};
use crate::process::{memory, periodic};
use crate::telemetry::child_output::ServiceOutput;
use crate::telemetry::counters::Counters;
use crate::telemetry::logging::{self, LogGuard};

use super::reload_state::ReloadState;

/// Longer than bots-ctl ever runs.
const BLOCKING_THREAD_KEEP_ALIVE: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// Everything that a command which starts processes needs.
pub(crate) struct Session {
    pub config: Config,
    pub reaper: Reaper,
    pub signals: Signals,
    pub lines: ServiceOutput,
    pub counters: Arc<Counters>,
    /// The state of the previous execution, if this is a reload.
    pub reloaded: Option<ReloadState>,
    /// Declared last: flushed after everything else is gone.
    _log: LogGuard,
}

/// Sets up log, runtime, signals and reaper, and runs `body` in them.
pub(crate) fn with_session<T>(config: Config, body: impl AsyncFnOnce(Session) -> Result<T, Error>) -> Result<T, Error> {
    signals::block_all();
    let reloaded = ReloadState::take();
    let (log, lines) = logging::init(config.log);
    memory::use_one_heap();
    periodic::start();
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    // The first thread for blocking work is kept: at the process limit, no other can be created.
    let runtime = runtime.enable_io().enable_time().thread_keep_alive(BLOCKING_THREAD_KEEP_ALIVE).build();
    let runtime = runtime.map_err(|error| internal_error(&error))?;
    let result = runtime.block_on(async {
        let signals = Signals::install().map_err(|error| internal_error(&error))?;
        let reaper = Reaper::start().map_err(|error| internal_error(&error))?;
        body(Session { config, reaper, signals, lines, counters: Arc::default(), reloaded, _log: log }).await
    });
    // Tasks in the background must not delay the end.
    runtime.shutdown_background();
    result
}

/// Runs `work` until it finishes or a stop signal arrives, which is the outer error. A stop signal interrupts the work at once,
/// or, while it holds a token of `critical`, as soon as it has dropped it. Work that fails meanwhile returns its error, which
/// the signal must not hide. Other signals stay pending for the next reader.
pub(crate) async fn run_until_shutdown<T, E>(
    signals: &mut Signals,
    critical: &TaskTracker,
    work: impl Future<Output = Result<T, E>>,
) -> Result<Result<T, E>, Exit> {
    critical.close();
    tokio::pin!(work);
    let mut stopped_by = None;
    loop {
        tokio::select! {
            biased;
            done = &mut work => return match stopped_by {
                Some(number) if done.is_ok() => Err(Exit::Signal(number)),
                _ => Ok(done),
            },
            () = critical.wait(), if stopped_by.is_some() => {}
            number = signals.stop_requested() => {
                stopped_by.get_or_insert(number);
                if !critical.is_empty() {
                    tracing::info!("received {}; finishing the current change before exiting", signals::name(number));
                }
            }
        }
        if let Some(number) = stopped_by.filter(|_| critical.is_empty()) {
            return Err(Exit::Signal(number));
        }
    }
}

fn internal_error(error: &dyn std::error::Error) -> Error {
    Error::new(Kind::Internal, format!("internal error: {error}"))
}
