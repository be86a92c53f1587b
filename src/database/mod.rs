//! The database that Django is configured with, seen by bots-ctl itself. The only module that speaks SQL.
//!
//! Managed tables belong to Django, which makes them by `migrate`; here is what decides whether that is needed, and
//! what makes the tables Bots uses with its own SQL. Nothing here drops or alters anything.

pub mod connect;
pub mod lock;
pub mod schema;

use std::path::PathBuf;

/// A database, in the terms of one kind of server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Settings {
    /// A SQLite file.
    Sqlite(PathBuf),
}

/// What can go wrong with a database.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// This version of bots-ctl cannot talk to such a database.
    #[error("{0}")]
    Unsupported(String),
    /// It cannot be opened or does not answer.
    #[error("{0}")]
    Unavailable(String),
    /// It answers, but what was asked of it failed.
    #[error("{0}")]
    Failed(String),
}

impl Settings {
    /// From Django's `ENGINE` and `NAME`.
    ///
    /// # Errors
    /// When this version of bots-ctl has no driver for the engine.
    pub fn from_django(engine: &str, name: &str) -> Result<Self, Error> {
        match engine.rsplit('.').next() {
            Some("sqlite3") => Ok(Self::Sqlite(PathBuf::from(name))),
            _ => Err(Error::Unsupported(format!(
                "settings.py: DATABASES has ENGINE {engine}, which is not available in this version of bots-ctl: \
                 it initialises and watches SQLite alone"
            ))),
        }
    }

    /// The database as a person would name it.
    #[must_use]
    pub fn describe(&self) -> String {
        match self {
            Self::Sqlite(path) => format!("SQLite database {}", path.display()),
        }
    }
}
