//! The directory monitor: which files have come, and which routes they start.
//!
//! # Theory of operation
//!
//! An [`entry::Entry`] names directories, a mask and a route. [`directories::Directories`] holds what was found of it:
//! each directory with its files, and of each file whether it is complete ([`settle`], by what [`sight`] observes). A *look* compares that with the
//! file system, and its answer is what has come since. Looks are made for three reasons: the kernel told something
//! ([`events`]), a file may have settled, or the time for a look at everything has come. So an event only makes things
//! faster. Whatever is missed, by a full queue, by a file system that other machines write to or by an error of ours, is
//! found by the next look at everything.
//!
//! [`monitor`] decides when to look. It knows nothing of queues and databases: files that have come are told to whoever
//! has started it, and how the entries fare ([`overview`]).

pub mod directories;
pub mod entry;
pub mod events;
pub mod filesystem;
pub mod fnmatch;
pub mod monitor;
pub mod overview;
pub mod pending;
mod place;
pub mod rest;
pub mod settle;
pub mod sight;
