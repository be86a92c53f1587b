//! The state that bots-ctl passes to itself when it executes itself with another configuration.

use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::bots::config_source::Digest;
use crate::exit::{Error, Kind};
use crate::process::reexec;

/// The state, in its form as a variable.
#[derive(Default, Serialize, Deserialize)]
pub(crate) struct ReloadState {
    /// The bots-ctl.toml that was committed, if there is one.
    pub own_file: Option<PathBuf>,
    /// The mounted files that were committed.
    pub applied: Digest,
    /// Numbers of changed configurations.
    pub applied_reloads: u64,
    pub rejected_reloads: u64,
    /// Whether the previous files are kept until the services are ready.
    pub is_trial: bool,
    pub listener: Option<RawFd>,
    pub turn: Option<RawFd>,
    /// The connection of the client that requested the reload.
    pub requester: Option<RawFd>,
}

/// The descriptors passed to the next start.
#[derive(Default)]
pub(crate) struct PassedDescriptors {
    pub listener: Option<OwnedFd>,
    pub turn: Option<OwnedFd>,
    pub requester: Option<OwnedFd>,
}

impl ReloadState {
    /// The state from the previous execution, if this is a reload. Must be called before another thread exists.
    pub fn take() -> Option<Self> {
        parse(&reexec::take_state()?)
    }

    /// Whether the services are watched until they are ready.
    pub fn is_watched(&self) -> bool {
        self.is_trial || self.turn.is_some() || self.requester.is_some()
    }

    /// The health listener, in which connections wait until it is served again.
    pub fn listener(&mut self) -> Option<OwnedFd> {
        self.listener.take().and_then(reexec::adopt_descriptor)
    }

    /// The lock that holds up other replicas.
    pub fn turn(&mut self) -> Option<OwnedFd> {
        self.turn.take().and_then(reexec::adopt_descriptor)
    }

    /// The client that waits for the result of the reload.
    pub fn requester(&mut self) -> Option<OwnedFd> {
        self.requester.take().and_then(reexec::adopt_descriptor)
    }

    /// Executes bots-ctl again. Returns only if that fails.
    pub fn reexec(mut self, passed: PassedDescriptors) -> Error {
        let PassedDescriptors { listener, turn, requester } = passed;
        let number = |descriptor: &Option<OwnedFd>| descriptor.as_ref().map(AsRawFd::as_raw_fd);
        (self.listener, self.turn, self.requester) = (number(&listener), number(&turn), number(&requester));
        let descriptors: Vec<OwnedFd> = listener.into_iter().chain(turn).chain(requester).collect();
        let error = reexec::reexec(&serde_json::to_string(&self).unwrap_or_default(), &descriptors);
        Error::new(Kind::Internal, format!("bots-ctl cannot execute itself again: {error}"))
    }
}

fn parse(state: &str) -> Option<ReloadState> {
    serde_json::from_str(state).ok()
}

/// The configuration file for this start, if the previous program has committed one: the mounted file may have changed
/// since, without validation.
pub(crate) fn own_file() -> Option<PathBuf> {
    parse(&reexec::state()?)?.own_file
}
