//! The job queue: Bots's own API over a queue that loses nothing, and its relay in other pods.
//!
//! Theory of operation. [`queue`] owns the rows, through `database`, and the running jobs, each of which is one
//! [`runner::run`]. [`listener`] answers Bots's programs and `bots-ctl job` in the wire format of [`xmlrpc`]; [`rpc`] has
//! the methods. In a pod without the queue [`relay`] forwards calls through [`client`]. [`submitter`] adds a job for each
//! route with new files.

pub mod client;
pub mod command_line;
pub mod engine_host;
pub mod listener;
pub mod queue;
pub mod relay;
pub mod request_id;
pub mod rpc;
pub mod runner;
pub mod submitter;
pub mod xmlrpc;
