//! The report of `init-db`: a line per step in the log, and one JSON object for programs.

use std::time::Duration;

use serde_json::{Value, json};
use tracing::{info, warn};

use crate::exit::Error;

/// The completed steps, and the remaining ones.
#[derive(Debug, Default)]
pub(crate) struct Report {
    /// The database, as a person would name it.
    pub database: String,
    /// Steps in their order, with the time each took.
    pub steps: Vec<(String, Duration)>,
    /// The names of missing parts.
    pub missing: Vec<String>,
    /// Defects that need manual repair.
    pub findings: Vec<String>,
    /// Warnings about conditions that may fail later.
    pub warnings: Vec<String>,
    /// Statements that convert the database to a character set for every text.
    pub conversion: Vec<String>,
}

impl Report {
    /// Records a step that has ended.
    pub fn step(&mut self, name: &str, took: Duration) {
        info!("{name} took {:.2} s", took.as_secs_f64());
        self.steps.push((name.to_owned(), took));
    }

    /// Records a warning, and logs it once.
    pub fn warn(&mut self, warning: String) {
        if !self.warnings.contains(&warning) {
            warn!("{warning}");
            self.warnings.push(warning);
        }
    }

    /// Logs the steps that have to be done manually.
    pub fn log_unfixed(&self) {
        for name in &self.missing {
            warn!(
                "the {} still lacks {name}: create it manually, or restore a backup, then rerun init-db",
                self.database
            );
        }
        for finding in &self.findings {
            warn!("the {}: {finding}; fix this manually, then rerun init-db", self.database);
        }
    }

    /// The object of `--json`; `status` is the result.
    pub fn to_json(&self, status: &str, error: Option<&Error>) -> Value {
        let steps = self
            .steps
            .iter()
            .map(|(name, took)| json!({"step": name, "seconds": (took.as_secs_f64() * 1000.0).round() / 1000.0}));
        json!({
            "status": status,
            "database": self.database,
            "steps": steps.collect::<Vec<_>>(),
            "missing": self.missing,
            "findings": self.findings,
            "warnings": self.warnings,
            "conversion": self.conversion,
            "errors": error.map(Error::faults).unwrap_or_default(),
        })
    }
}
