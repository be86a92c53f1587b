//! The state that bots-ctl passes to itself when it starts again with another configuration.

use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::bots::config_source::Digest;
use crate::exit::{Error, Kind};
use crate::process::reexec;

/// The state, as it is in a variable.
#[derive(Default, Serialize, Deserialize)]
pub(crate) struct ReloadState {
    /// The bots-ctl.toml that was committed, if there is one.
    pub own_file: Option<PathBuf>,
    /// The mounted files that were committed.
    pub applied: Digest,
    /// How often a changed configuration was applied, and refused.
    pub reloads: [u64; 2],
    /// Whether the files of before are kept until the services are up.
    pub is_trial: bool,
    pub listener: Option<RawFd>,
    pub turn: Option<RawFd>,
}

impl ReloadState {
    /// The state that the program before has left, if it has started this one. Must be called before there is another thread.
    pub fn take() -> Option<Self> {
        parse(&reexec::take_state()?)
    }

    /// The health listener: connections wait in it until they are answered again.
    pub fn listener(&mut self) -> Option<OwnedFd> {
        self.listener.take().and_then(reexec::adopt_descriptor)
    }

    /// The lock that holds up other replicas.
    pub fn turn(&mut self) -> Option<OwnedFd> {
        self.turn.take().and_then(reexec::adopt_descriptor)
    }

    /// Starts bots-ctl again. Returns only when that has failed.
    pub fn reexec(mut self, listener: Option<OwnedFd>, turn: Option<OwnedFd>) -> Error {
        let number = |descriptor: &Option<OwnedFd>| descriptor.as_ref().map(AsRawFd::as_raw_fd);
        (self.listener, self.turn) = (number(&listener), number(&turn));
        let descriptors: Vec<OwnedFd> = listener.into_iter().chain(turn).collect();
        let error = reexec::reexec(&serde_json::to_string(&self).unwrap_or_default(), &descriptors);
        Error::new(Kind::Internal, format!("bots-ctl cannot start itself again: {error}"))
    }
}

fn parse(state: &str) -> Option<ReloadState> {
    serde_json::from_str(state).ok()
}

/// The configuration file to start with, where the program before has committed one: the mounted file may have changed since
/// then, and would not have been checked.
pub(crate) fn own_file() -> Option<PathBuf> {
    parse(&reexec::state()?)?.own_file
}
