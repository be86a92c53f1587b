//! The database that Django is configured with, seen by bots-ctl itself. The only module that speaks SQL.
//!
//! Managed tables belong to Django, which makes them by `migrate`; here is what decides whether that is needed, and
//! what makes the tables Bots uses with its own SQL. Rows that are there are never touched.

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

/// What can go wrong with a database.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// bots-ctl cannot talk to such a database, or not in that way.
    #[error("{0}")]
    Unsupported(String),
    /// Two places name two databases.
    #[error("{0}")]
    Conflict(String),
    /// It cannot be reached or does not answer; it may later.
    #[error("{0}")]
    Unavailable(String),
    /// It has answered, and refuses us: to ask again is no use.
    #[error("{0}")]
    Rejected(String),
    /// It answers, but what was asked of it failed.
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
