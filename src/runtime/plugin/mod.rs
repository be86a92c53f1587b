//! Plugins in an environment: exported from it, applied to it, taken back.

mod apply;
mod change;
mod check;
mod demo;
mod export;
mod private;
pub(crate) mod recover;
mod source;
mod target;
mod test;
mod undo;
pub(crate) mod watch;
mod write;

pub(crate) use apply::{ApplyRequest, apply};
pub(crate) use change::Change;
pub(crate) use demo::apply_demo;
pub(crate) use export::{ExportCounts, ExportRequest, export};
pub(crate) use test::test;
pub(crate) use undo::undo;
