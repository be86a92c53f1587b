//! The directory monitor: which files have arrived, by inotify events or by polling, and which routes they start.
//!
//! # Theory of operation
//!
//! A [`target::WatchTarget`] names directories, a mask and a route. A [`scan::TargetScanner`] holds its directories with their
//! files, and whether each file is complete ([`stability`], by the observations of [`observation`]). A *scan* compares that
//! with the file system and returns the new files. There are three reasons for a scan: an inotify event ([`events`]), a
//! file that may have become stable, and the interval of full scans or, where events are missing, of polls ([`backend`]). So an event only makes things faster. A full scan finds
//! all files that were missed by a full queue, on a file system that other machines write to, or by an error of bots-ctl.
//!
//! [`monitor`] decides when to scan. It has no part in queues and databases: its caller gets the new files, and the state of
//! the targets ([`status`]).

pub mod backend;
pub mod events;
pub mod monitor;
mod mounts;
pub mod observation;
pub mod run_check;
pub mod scan;
mod schedule_entry;
pub mod stability;
pub mod status;
pub mod target;
pub mod unfinished;
