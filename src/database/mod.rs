//! The database that Django is configured with: connections, locks, and the tables of bots-ctl.
//!
//! Django creates the managed tables by `migrate`. This module decides whether that is needed, and creates the tables that
//! Bots uses with its own SQL. It never changes existing rows of Bots or Django.

pub mod connect;
mod default_account;
pub mod errors;

pub mod advisory_lock;
pub mod applied_plugin;
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
pub use errors::Error;
