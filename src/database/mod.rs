//! The database that Django is configured with: connections, locks, and the tables of bots-ctl.
//!
//! Django creates the managed tables by `migrate`. This module decides whether that is needed, and creates the tables that
//! Bots uses with its own SQL. It never changes existing rows of Bots or Django.

pub mod connect;
mod default_account;
pub mod errors;

pub mod advisory_lock;
pub mod config;
pub mod init_progress;
pub mod jobs;
pub mod lease;
pub mod own_schema;
pub mod ping;
pub mod query;
pub mod retry;
pub mod run_metrics;
pub mod schema;
pub mod tls;

pub use config::DatabaseConfig;

/// An error of a database.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// bots-ctl does not support such a database, or one of its options.
    #[error("{0}")]
    Unsupported(String),
    /// settings.py and the URL name different databases.
    #[error("{0}")]
    Conflict(String),
    /// It cannot be reached or does not answer; a retry may succeed.
    #[error("{0}")]
    Unavailable(String),
    /// It refuses the connection; a retry cannot succeed.
    #[error("{0}")]
    Rejected(String),
    /// It answers, but a statement failed.
    #[error("{0}")]
    Failed(String),
}

impl Error {
    /// A statement that failed.
    pub(crate) fn failed(action: &str, settings: &DatabaseConfig, error: &sqlx::Error) -> Self {
        let text = format!("cannot {action} the {}: {}", settings.describe(), errors::message(error));
        if errors::is_connection_lost(error) { Self::Unavailable(text) } else { Self::Failed(text) }
    }
}
