//! Executes bots-ctl again in its own place: with the files of a reload, or with the previous ones after a reload that failed.

use std::os::fd::OwnedFd;

use tracing::error;

use crate::bots::Installation;
use crate::bots::config_source::Digest;
use crate::bots::context::BotsContext;
use crate::config::Config;
use crate::exit::{Error, Kind};
use crate::process::reaper::Reaper;
use crate::telemetry::counters::{CountedEvent, Counters};

use super::bots_environment::{blocking, commit, committed_own_file, service_variables};
use super::config_reload::PendingReload;
use super::control_requests::RESTORING;
use super::control_socket::Requester;
use super::prepare::Prepared;
use super::reload_state::{PassedDescriptors, ReloadState};
use super::reload_trial;
use super::session::Session;

/// Why bots-ctl starts again in its own place.
pub(super) enum Restart {
    /// A changed configuration is valid.
    Reload(Box<PendingReload>),
    /// The reason, if the services have failed with the last configuration.
    RollBack(String),
}

/// Handles a start that fails with the configuration of a reload: answers the client that waits for it, and executes bots-ctl
/// again with the previous files, if they were kept. Returns the error if there is nothing to restore.
pub(super) async fn abandon_reload(
    session: Session,
    reloaded: Option<ReloadState>,
    listener: Option<OwnedFd>,
    error: Error,
) -> Error {
    let Some(mut state) = reloaded else { return error };
    // The lock is released with the descriptor.
    let _turn = state.turn();
    // If the listener is bound, the error is that of an unreachable database server, not of the configuration.
    let restores = state.is_trial && (listener.is_none() || error.kind() != Kind::Unavailable);
    let reason = error.faults().join("; ");
    if let Some(requester) = state.requester().map(Requester::adopt) {
        let rest = if restores { RESTORING } else { "" };
        requester.failed(error.kind(), &format!("{reason}{rest}"));
    }
    if !restores {
        return error;
    }
    match roll_back(&session.config, state.applied, &session.counters, reason).await {
        Ok(next) => {
            drop(session);
            next.reexec(PassedDescriptors { listener, ..PassedDescriptors::default() })
        }
        Err(error) => error,
    }
}

/// Commits the files of the next start, and returns its state, with the turn.
pub(super) async fn put_in_place(
    restart: Restart,
    config: &Config,
    reaper: &Reaper,
    prepared: &Prepared,
    counters: &Counters,
) -> Result<(ReloadState, PassedDescriptors), Error> {
    match restart {
        Restart::Reload(reload) => commit_reload(reaper, &prepared.bots, *reload, counters).await,
        Restart::RollBack(reason) => {
            Ok((roll_back(config, prepared.applied, counters, reason).await?, PassedDescriptors::default()))
        }
    }
}

/// Commits a reload.
async fn commit_reload(
    reaper: &Reaper,
    bots: &Installation,
    reload: PendingReload,
    counters: &Counters,
) -> Result<(ReloadState, PassedDescriptors), Error> {
    let PendingReload { config, source, django, turn, is_trial, requester } = reload;
    let environment = commit(&config, bots, &source).await?;
    let variables = service_variables(&config, bots);
    django.write_cache(&BotsContext { reaper, bots, environment: &environment, variables: &variables });
    let state = ReloadState {
        own_file: committed_own_file(&config),
        applied: source.digest(),
        applied_reloads: counters.of(CountedEvent::ReloadApplied) + 1,
        rejected_reloads: counters.of(CountedEvent::ReloadRefused),
        is_trial,
        ..ReloadState::default()
    };
    let (turn, requester) = (turn.into_descriptor(), requester.map(Requester::into_descriptor));
    Ok((state, PassedDescriptors { listener: None, turn, requester }))
}

/// Restores the previous files, and returns the state for the next start with them.
async fn roll_back(
    config: &Config,
    applied: Digest,
    counters: &Counters,
    reason: String,
) -> Result<ReloadState, Error> {
    error!("the services failed to start with the changed configuration; restoring the previous one: {reason}");
    let own = config.clone();
    blocking(move || reload_trial::roll_back(&own, applied, &reason)).await??;
    // None of the mounted files is in use: the first poll will reject them.
    Ok(ReloadState {
        own_file: committed_own_file(config),
        applied_reloads: counters.of(CountedEvent::ReloadApplied),
        rejected_reloads: counters.of(CountedEvent::ReloadRefused),
        ..ReloadState::default()
    })
}
