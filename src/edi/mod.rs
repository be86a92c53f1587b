//! Bots's own tables: runs of the engine and their recovery, routes and channels, and what came of the files.

pub mod files;
pub mod monitored_routes;
pub mod open_run;
pub mod recovery;
pub mod runs;
pub mod stats;
