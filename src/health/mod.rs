//! Health: facts gathered in the background, the rules that turn them into answers, the listener and its client.
//!
//! A request only reads the last facts, so probes cost nothing and cannot pile up on a slow database. Liveness never
//! depends on the database: an outage of it must not restart pods.

pub mod checks;
pub mod client;
pub mod report;
pub mod results;
pub mod server;
pub mod sign_of_life;
pub mod status;
mod status_page;
pub mod status_results;
pub mod status_text;
pub mod watchdog;
