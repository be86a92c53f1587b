//! The job queue: Bots's own API over a queue that loses nothing, and the way to it from other pods.
//!
//! Theory of operation. [`queue`] owns the rows, through `database`, and the running jobs, each of which is one
//! [`runner::run`]. [`listener`] answers Bots's programs and `bots-ctl job` in the wire format of [`xmlrpc`], as
//! [`methods`] says. [`relay`] answers in a pod where the queue is not, and passes on what it is asked through
//! [`client`]. [`submitter`] hands over the routes whose files have come.

pub mod client;
pub mod listener;
pub mod methods;
pub mod queue;
pub mod relay;
pub mod request_id;
pub mod runner;
pub mod submitter;
pub mod task;
pub mod xmlrpc;
