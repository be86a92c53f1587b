//! One run of Bots's engine under its lease: the wait for other engines and for incomplete files, the run, and its metrics.

pub(super) mod acquire;
mod channels;
mod incomplete_files;
mod listings;
mod preflight;
mod result;
mod run;
pub(super) mod run_metrics;
mod supervise;

pub(crate) use run::run;
