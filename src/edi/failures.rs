//! Failures of the last day that need a person: files, errors of runs that belong to no file, and jobs.

use std::collections::BTreeMap;

use super::files::AND_NOT_DONE;
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

/// Rows of `ta` after which the row of a received file has that of its stored copy.
const MAX_COPY_DISTANCE: u32 = 1000;

/// Reads failures repeatedly and keeps those already found.
#[derive(Debug, Default)]
pub(super) struct FailureReader {
    files: Vec<ReceivedFile>,
    /// The name of the stored copy of each file, if it has one.
    copies: BTreeMap<i64, String>,
}

impl FailureReader {
    /// Adds the files of a range of numbers that comes after the one before.
    pub async fn add(
        &mut self,
        connection: &mut Connection,
        dialect: TimeDialect,
        (from, to): (i64, i64),
    ) -> Result<(), sqlx::Error> {
        let columns = ReceivedFile::columns(dialect, MAX_REASON);
        let failed = format!(
            "SELECT {columns} FROM filereport WHERE idta > {from} AND idta <= {to}{AND_NOT_DONE} \
             ORDER BY idta DESC LIMIT {MAX_FILES}"
        );
        let failed: Vec<ReceivedFile> = connection.fetch_text(failed).await?.iter().map(ReceivedFile::of).collect();
        if !failed.is_empty() {
            let numbers: Vec<String> = failed.iter().map(|file| file.id.to_string()).collect();
            self.copies.extend(copies(connection, (from, to), &numbers.join(", ")).await?);
        }
        self.files.splice(0..0, failed);
        self.files.truncate(MAX_FILES);
        if !self.files.is_empty() {
            self.remove_received_again(connection, (from, to)).await?;
        }
        Ok(())
    }

    /// A file that Bots receives again has the stored copy of the first time.
    async fn remove_received_again(
        &mut self,
        connection: &mut Connection,
        (from, to): (i64, i64),
    ) -> Result<(), sqlx::Error> {
        let again = format!(
            "SELECT idta FROM filereport WHERE idta > {from} AND idta <= {to} \
             AND reportidta IN (SELECT idta FROM report WHERE type = 'rereceive')"
        );
        let again = copies(connection, (from, to), &again).await?;
        let is_again = |file: &ReceivedFile| {
            let copy = self.copies.get(&file.id);
            again.iter().any(|(id, name)| *id > file.id && Some(name) == copy)
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
        self.copies.retain(|id, _| self.files.iter().any(|file| file.id == *id));
        if !self.files.is_empty() {
            let numbers: Vec<String> = self.files.iter().map(|file| file.id.to_string()).collect();
            let query = format!("SELECT idta FROM filereport WHERE idta IN ({}){AND_NOT_DONE}", numbers.join(", "));
            let rows = connection.fetch_text(query).await?;
            let failed: Vec<i64> = rows.iter().map(|row| number_or_zero(row, 0)).collect();
            self.files.retain(|file| failed.contains(&file.id));
        }
        let processes = process_errors(connection, runs, now).await?;
        Ok(Failures { files: self.files.clone(), processes, jobs: job_failures(connection, now - DAY).await? })
    }
}

/// The name of the stored copy of each file of a range, by the number of the file. `files` is the list of a condition IN.
async fn copies(
    connection: &mut Connection,
    (from, to): (i64, i64),
    files: &str,
) -> Result<BTreeMap<i64, String>, sqlx::Error> {
    let query = format!(
        "SELECT parent, filename FROM ta WHERE idta > {from} AND idta <= {to} + {MAX_COPY_DISTANCE} \
         AND filename <> '' AND parent IN ({files})"
    );
    let rows = connection.fetch_text(query).await?;
    Ok(rows.iter().map(|row| (number_or_zero(row, 0), text_or_empty(row, 1))).collect())
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
