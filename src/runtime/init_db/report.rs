//! The report of `init-db`: a line per step in the log, and one JSON object for programs.

use std::time::Duration;

use serde_json::{Value, json};
use tracing::{info, warn};

use crate::exit::Error;

/// The steps that were taken, and those that are left.
#[derive(Debug, Default)]
pub(crate) struct Report {
    /// The database, as a person would name it.
    pub database: String,
    /// Steps in their order, with the time each took.
    pub steps: Vec<(String, Duration)>,
    /// What is missing, by name.
    pub missing: Vec<String>,
    /// What is left to a person.
    pub findings: Vec<String>,
    /// What works, and may fail later.
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

    /// Records what may fail later, for the log as well, once each.
    pub fn warn(&mut self, warning: String) {
        if !self.warnings.contains(&warning) {
            warn!("{warning}");
            self.warnings.push(warning);
        }
    }

    /// Logs the steps that are left to a person.
    pub fn log_unfixed(&self) {
        for name in &self.missing {
            warn!(
                "the {} still lacks {name}: make it by hand, or restore a backup, then run init-db again",
                self.database
            );
        }
        for finding in &self.findings {
            warn!("in the {} {finding}: see to it by hand, then run init-db again", self.database);
        }
    }

    /// The object of `--json`; `status` says how it went.
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
