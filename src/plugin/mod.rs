//! Plugins, as Bots calls them: rows of its configuration and files of usersys. Their format, their difference to an
//! environment, and how a change of both is made atomic.
//!
//! [`crate::bots::plugin_session`] reads and writes the rows, in Bots's Python; all decisions are made here.

pub mod acceptance;
pub mod demo;
pub mod diff;
pub mod directory;
pub mod index;
pub mod journal;
pub mod normalize;
pub mod select;
pub mod show;
pub mod tables;
#[cfg(test)]
mod tests;
pub mod values;

use std::collections::BTreeMap;
use std::path::Path;

use crate::bots::plugin_session::Fields;
use crate::config::toml_file::line_of;

pub use tables::Table;

/// A plugin.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Plugin {
    /// Rows of the configuration, with the fields that the plugin has.
    pub rows: Vec<(Table, Fields)>,
    /// Files by their path below usersys.
    pub files: BTreeMap<String, Vec<u8>>,
    /// Unknown content, which is ignored: for messages.
    pub ignored: Vec<String>,
}

/// An error of a plugin, or one that prevents a change. Each text has the location and the remedy.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Faults of the plugin or of the values for it.
    #[error("{}", .0.join("\n"))]
    Faults(Vec<String>),
    /// A file or directory.
    #[error(transparent)]
    File(#[from] crate::fs::Error),
}

impl Error {
    /// The fault of a TOML file, with its line. The lines after the first one of such an error quote the text, which may hold a
    /// secret.
    pub(crate) fn toml(path: &Path, text: &str, error: &toml::de::Error) -> Self {
        let line = line_of(text, error.span().map_or(0, |span| span.start));
        let reason = error.message().lines().next().unwrap_or_default();
        Self::fault(format!("{}:{line}: {reason}", path.display()))
    }

    /// One fault.
    pub fn fault(text: impl Into<String>) -> Self {
        Self::Faults(vec![text.into()])
    }

    /// All of these, if there are any.
    pub(crate) fn fail_if_any(faults: Vec<String>) -> Result<(), Self> {
        if faults.is_empty() { Ok(()) } else { Err(Self::Faults(faults)) }
    }
}
