//! Failures of the last day that need a person: files, errors of runs that belong to no file, and jobs.

use std::collections::BTreeMap;

use super::files::FAILED;
use super::stats::model::{EngineRunStats, Failures, MAX_FILES, ProcessError, ReceivedFile};
use super::stats::sql_time::TimeDialect;
use super::{number_or_zero, text_or_empty};
use crate::database::jobs::failures::job_failures;
use crate::database::query::{Connection, Row};

/// How much is read of a reason.
const MAX_REASON: u16 = 400;

/// Errors that are read of one run.
const MAX_ERRORS: usize = 5;

const DAY: i64 = 24 * 3600;

/// Reads them again and again.
#[derive(Debug, Default)]
pub(super) struct FailureReader {
    files: Vec<ReceivedFile>,
}

impl FailureReader {
    /// Adds the files of a range of numbers that comes after the one before.
    pub async fn add(
        &mut self,
        connection: &mut Connection,
        dialect: TimeDialect,
        range: &str,
    ) -> Result<(), sqlx::Error> {
        let columns = ReceivedFile::columns(dialect, MAX_REASON);
        let failed =
            format!("SELECT {columns} FROM filereport WHERE {range}{FAILED} ORDER BY idta DESC LIMIT {MAX_FILES}");
        let failed = connection.fetch_text(failed).await?;
        if !self.files.is_empty() {
            self.remove_received_again(connection, range).await?;
        }
        self.files.splice(0..0, failed.iter().map(ReceivedFile::of));
        self.files.truncate(MAX_FILES);
        Ok(())
    }

    /// Bots keeps no link from a file that it has received again to the first time. Bots 4 keeps its name; 3.3.1 names the
    /// stored file, which is the number of a row whose parent is the file.
    async fn remove_received_again(&mut self, connection: &mut Connection, range: &str) -> Result<(), sqlx::Error> {
        let again = format!(
            "SELECT idroute, infilename FROM filereport WHERE {range} \
             AND reportidta IN (SELECT idta FROM report WHERE type = 'rereceive')"
        );
        let again = connection.fetch_text(again).await?;
        let stored: Vec<String> =
            again.iter().map(|row| text_or_empty(row, 1)).filter(|name| name.parse::<u32>().is_ok()).collect();
        let mut parents = Vec::new();
        if !stored.is_empty() {
            let query = format!("SELECT parent FROM ta WHERE idta IN ({})", stored.join(", "));
            parents = connection.fetch_text(query).await?.iter().map(|row| number_or_zero::<i64>(row, 0)).collect();
        }
        let is_again = |file: &ReceivedFile| {
            parents.contains(&file.id)
                || again.iter().any(|row| (text_or_empty(row, 0), text_or_empty(row, 1)) == file.key())
        };
        self.files.retain(|file| !is_again(file));
        Ok(())
    }

    /// The failures that still exist: without rows that a person has deleted or Bots has changed.
    pub async fn read(
        &mut self,
        connection: &mut Connection,
        runs: &[EngineRunStats],
        now: i64,
    ) -> Result<Failures, sqlx::Error> {
        self.files.retain(|file| file.received >= now - DAY);
        if !self.files.is_empty() {
            let numbers: Vec<String> = self.files.iter().map(|file| file.id.to_string()).collect();
            let query = format!("SELECT idta FROM filereport WHERE idta IN ({}){FAILED}", numbers.join(", "));
            let rows = connection.fetch_text(query).await?;
            let failed: Vec<i64> = rows.iter().map(|row| number_or_zero(row, 0)).collect();
            self.files.retain(|file| failed.contains(&file.id));
        }
        let processes = process_errors(connection, runs, now).await?;
        Ok(Failures { files: self.files.clone(), processes, jobs: job_failures(connection, now - DAY).await? })
    }
}

impl ReceivedFile {
    fn key(&self) -> (String, String) {
        (self.route.clone(), self.name.clone())
    }
}

/// Of the newest run with each command line: a later run with the same one shows whether an error is over.
async fn process_errors(
    connection: &mut Connection,
    runs: &[EngineRunStats],
    now: i64,
) -> Result<Vec<ProcessError>, sqlx::Error> {
    let mut newest: BTreeMap<(&str, &str), (usize, &EngineRunStats)> = BTreeMap::new();
    for (index, run) in runs.iter().enumerate() {
        newest.entry((&run.kind, &run.command_line)).or_insert((index, run));
    }
    let mut found = Vec::new();
    for (index, run) in newest.into_values().filter(|(_, run)| run.process_errors > 0 && run.started >= now - DAY) {
        let end = index.checked_sub(1).map(|next| format!(" AND idta < {}", runs[next].id)).unwrap_or_default();
        let query = format!(
            "SELECT idroute, SUBSTR(errortext, 1, {MAX_REASON}) FROM ta \
             WHERE idta >= {}{end} AND status = 1 AND statust = 1 ORDER BY idta DESC LIMIT {MAX_ERRORS}",
            run.id
        );
        let rows = connection.fetch_text(query).await?;
        found.extend(rows.iter().map(|row: &Row| ProcessError {
            run: run.id,
            at: run.started,
            route: text_or_empty(row, 0),
            reason: text_or_empty(row, 1).trim().to_owned(),
        }));
    }
    Ok(found)
}
