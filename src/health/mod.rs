//! Health: the state that checks gather in the background, the rules that derive responses from it, and the client of the
//! listener.
//!
//! A request only reads the last state, so probes cost nothing and cannot pile up on a slow database. Liveness never depends on
//! the database: an outage of it must not restart pods.

pub mod checks;
pub mod client;
pub mod edi_refresh;
pub mod liveness;
pub mod rules;
pub mod state;
pub mod watchdog;
