//! Failed jobs, and the job that has waited longest, for readers other than the queue.

use std::collections::HashMap;

use super::super::errors;
use super::super::query::{Connection, Row, number, text};
use super::OLDEST_WAITING;

/// Failed jobs that are read.
const MAX_JOBS: usize = 200;

/// The engine's exit code for errors in files or channels, which are reported separately.
const FILE_ERRORS: i64 = 2;

/// Jobs that need attention.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct JobFailures {
    /// Tasks that have failed and not succeeded since, the latest failure first.
    pub failed: Vec<FailedTask>,
    /// The job that waits longest.
    pub oldest: Option<WaitingJob>,
}

/// The jobs of one task that have failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FailedTask {
    /// Its command line.
    pub task: String,
    /// The number of the last one.
    pub number: i64,
    /// When that ended: seconds since 1970.
    pub ended: i64,
    /// None if it did not run.
    pub exit_code: Option<u8>,
    /// How many.
    pub count: usize,
}

/// A waiting job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WaitingJob {
    pub number: i64,
    /// Its command line.
    pub task: String,
    /// Seconds since 1970.
    pub submitted: i64,
}

/// Reads the jobs; empty without a job queue. `since` is in seconds since 1970.
///
/// # Errors
/// If the database cannot be read.
pub async fn job_failures(connection: &mut Connection, since: i64) -> Result<JobFailures, sqlx::Error> {
    let query = format!(
        "SELECT task, number, ended, exit_code FROM botsctl_job AS job \
         WHERE state = 'failed' AND ended >= {} \
         AND NOT (task LIKE '%bots-engine\"%' AND exit_code IS NOT NULL AND exit_code = {FILE_ERRORS}) \
         AND NOT EXISTS (SELECT 1 FROM botsctl_job AS later WHERE later.digest = job.digest \
         AND later.state = 'done' AND later.number > job.number) ORDER BY number DESC LIMIT {MAX_JOBS}",
        since * 1000
    );
    let rows = match connection.fetch_text(query).await {
        Err(error) if errors::is_missing_table(&error) => return Ok(JobFailures::default()),
        rows => rows?,
    };
    let (mut failed, mut known) = (Vec::<FailedTask>::new(), HashMap::<String, usize>::new());
    for row in &rows {
        let task = command_line(row, 0);
        match known.get(&task) {
            Some(index) => failed[*index].count += 1,
            None => {
                known.insert(task.clone(), failed.len());
                failed.push(FailedTask {
                    task,
                    number: number(row, 1).unwrap_or_default(),
                    ended: number::<i64>(row, 2).unwrap_or_default() / 1000,
                    exit_code: number(row, 3),
                    count: 1,
                });
            }
        }
    }
    let oldest = format!("SELECT number, task, submitted FROM botsctl_job WHERE number = {OLDEST_WAITING}");
    let oldest = connection.fetch_text(oldest).await?.first().map(|row| WaitingJob {
        number: number(row, 0).unwrap_or_default(),
        task: command_line(row, 1),
        submitted: number::<i64>(row, 2).unwrap_or_default() / 1000,
    });
    Ok(JobFailures { failed, oldest })
}

fn command_line(row: &Row, index: usize) -> String {
    let json = text(row, index).unwrap_or_default();
    serde_json::from_str::<Vec<String>>(&json).map_or(json, |words| words.join(" "))
}
