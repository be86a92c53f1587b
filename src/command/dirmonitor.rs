//! `dirmonitor`: the directory monitor, of bots-ctl itself or Bots's own.

use std::fmt::Write as _;

use serde_json::json;
use tokio_util::task::TaskTracker;

use crate::cli::{self, Global};
use crate::config::FlagOverride;
use crate::exit::{Error, Outcome};
use crate::model::{ServiceName, counted};
use crate::telemetry::escape::escape_control;
use crate::watch::scan::WatchState;

use super::{overrides, run_one_shot, run_services, write_line, write_stdout};
use crate::runtime::dirmonitor_dry_run::{self, ScannedTarget};

/// Runs the command.
///
/// # Errors
/// All errors that keep the monitor from starting.
pub fn run(global: &Global, flags: &cli::Dirmonitor) -> Result<Outcome, Error> {
    let given = overrides([
        ("dirmonitor.backend", "--backend", flags.backend.clone()),
        ("health.addr", "--health-addr", flags.health_addr.clone()),
    ]);
    if flags.dry_run {
        return dry_run(global, given, flags.json);
    }
    run_services(global, given, Some(ServiceName::Dirmonitor), &flags.args, false)
}

fn dry_run(global: &Global, given: Vec<FlagOverride>, json: bool) -> Result<Outcome, Error> {
    run_one_shot(global, given, &TaskTracker::new(), async |config, reaper| {
        let scanned = dirmonitor_dry_run::scan(config, reaper).await?;
        if json {
            write_line(&to_json(&scanned));
        } else {
            scanned.iter().for_each(|target| write_stdout(&to_text(target)));
        }
        Ok(Outcome::Success)
    })
}

fn to_text(scanned: &ScannedTarget) -> String {
    let ScannedTarget { target: entry, found } = scanned;
    let head = format!("{} for route {}, by {}", entry.files(), entry.route, entry.origin);
    // Route and path come from the database.
    let mut text = format!("{}\n", escape_control(&head));
    let _ = match found.watch_state.as_ref() {
        Some(WatchState::Watching { directories, backend, .. }) => {
            let noun = if *directories == 1 { "directory" } else { "directories" };
            writeln!(text, "  watched: {directories} {noun}, by {} ({})", backend.name(), backend.reason)
        }
        Some(WatchState::Failed { reason, .. }) => writeln!(text, "  not watched: {}", escape_control(reason)),
        None => Ok(()),
    };
    if let Some(example) = &found.complete.example {
        let example = example.to_string_lossy();
        let _ = writeln!(
            text,
            "  starts the route now: {}, such as {}",
            counted(found.complete.count, "file"),
            escape_control(&example)
        );
    }
    if let Some(oldest) = &found.waiting.pending.oldest {
        let files = counted(found.waiting.pending.count, "file");
        let (reason, example) = (oldest.unfinished.reason.as_str(), oldest.path.to_string_lossy());
        let _ = writeln!(text, "  not complete yet: {files}, such as {}: {reason}", escape_control(&example));
    }
    if found.waiting.pending.held > 0 {
        let held = counted(found.waiting.pending.held, "file");
        let _ = writeln!(text, "  starts the route when those are complete: {held}");
    }
    text
}

fn to_json(scanned: &[ScannedTarget]) -> serde_json::Value {
    let one = |ScannedTarget { target: entry, found }: &ScannedTarget| {
        let (watched, error) = match found.watch_state.as_ref() {
            Some(WatchState::Watching { directories, backend, .. }) => {
                (Some(json!({ "directories": directories, "by": backend.name(), "why": backend.reason })), None)
            }
            Some(WatchState::Failed { reason, .. }) => (None, Some(reason)),
            None => (None, None),
        };
        json!({
            "files": entry.files(),
            "route": entry.route,
            "origin": entry.origin,
            "watched": watched,
            "error": error,
            "complete": found.complete.count + found.waiting.pending.held,
            "unfinished": found.waiting.pending.count,
        })
    };
    scanned.iter().map(one).collect()
}
