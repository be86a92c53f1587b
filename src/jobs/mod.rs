//! The job queue: Bots's own API over a queue that loses nothing, and the way to it from other pods.
//!
//! Theory of operation. [`queue`] owns the rows, through `database`, and the running jobs, each of which is one
//! [`runner::run`]. [`listener`] answers Bots's programs and `bots-ctl job` in the wire format of [`xmlrpc`], as
//! [`rpc`] says. [`relay`] answers in a pod where the queue is not, and passes on what it is asked through
//! [`client`]. [`submitter`] hands over the routes whose files have come.

pub mod client;
pub mod command_line;
pub mod listener;
pub mod queue;
pub mod relay;
pub mod request_id;
pub mod rpc;
pub mod runner;
pub mod submitter;
pub mod xmlrpc;
