//! Errors of the layers below, converted to errors of the command.

use crate::bots;
use crate::database;
use crate::exit::{Error, Kind};
use crate::fs;
use crate::plugin;
use crate::process::child::SpawnError;

impl From<bots::Error> for Error {
    fn from(error: bots::Error) -> Self {
        match error {
            bots::Error::NotInstalled(text) => Self::new(Kind::NotFound, text),
            bots::Error::Faults(faults) => Self::all(Kind::Configuration, faults),
            bots::Error::Failed(text) => Self::new(Kind::Failed, text),
            bots::Error::Unavailable(text) => Self::new(Kind::Unavailable, text),
        }
    }
}

impl From<fs::Error> for Error {
    fn from(error: fs::Error) -> Self {
        Self::new(Kind::Configuration, error.to_string())
    }
}

impl From<database::Error> for Error {
    fn from(error: database::Error) -> Self {
        let kind = match error {
            database::Error::Unsupported(_) | database::Error::Conflict(_) => Kind::Configuration,
            database::Error::Unavailable(_) | database::Error::Rejected(_) => Kind::Unavailable,
            database::Error::Failed(_) => Kind::Failed,
        };
        Self::new(kind, error.to_string())
    }
}

impl From<plugin::Error> for Error {
    fn from(error: plugin::Error) -> Self {
        match error {
            plugin::Error::Faults(faults) => Self::all(Kind::Configuration, faults),
            plugin::Error::File(error) => error.into(),
        }
    }
}

impl From<SpawnError> for Error {
    fn from(error: SpawnError) -> Self {
        let kind = match error {
            SpawnError::NotFound(_) => Kind::NotFound,
            SpawnError::NotExecutable(..) => Kind::CannotExecute,
            SpawnError::NoResources(..) => Kind::Unavailable,
        };
        Self::new(kind, error.to_string())
    }
}

impl From<crate::jobs::client::Error> for Error {
    fn from(error: crate::jobs::client::Error) -> Self {
        use crate::jobs::client::Error as ClientError;
        let kind = match error {
            ClientError::Unreachable(..) | ClientError::NoResponse(..) => Kind::Unavailable,
            ClientError::WrongToken(_) => Kind::Configuration,
            ClientError::Fault(..) => Kind::Failed,
        };
        Self::new(kind, error.to_string())
    }
}
