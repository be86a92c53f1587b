//! The directory monitor: which files have come, and which routes they start.
//!
//! # Theory of operation
//!
//! An [`target::WatchTarget`] names directories, a mask and a route. [`scan::TargetScanner`] holds what was found of it:
//! each directory with its files, and of each file whether it is complete ([`stability`], by what [`observation`] observes). A *look* compares that with the
//! file system, and its answer is what has come since. Looks are made for three reasons: the kernel told something
//! ([`events`]), a file may have settled, or the time for a look at everything has come. So an event only makes things
//! faster. Whatever is missed, by a full queue, by a file system that other machines write to or by an error of ours, is
//! found by the next look at everything.
//!
//! [`monitor`] decides when to look. It knows nothing of queues and databases: files that have come are told to whoever
//! has started it, and how the entries fare ([`status`]).

pub mod backend;
pub mod events;
pub mod monitor;
pub mod observation;
pub mod run_check;
pub mod scan;
mod schedule_entry;
pub mod stability;
pub mod status;
pub mod target;
pub mod unfinished;
