//! The step that `init-db` is at, so that the next run knows of an interrupted one.

use super::Error;
use super::query::{Connection, number, text};

/// The table; `own_schema` creates it.
pub const TABLE: &str = "botsctl_init";

/// The progress of an earlier run.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct InitProgress {
    /// Its last step.
    pub step: String,
    /// It began with an empty database, and so did all interrupted runs before it.
    pub first_run: bool,
    /// It completed.
    pub finished: bool,
}

/// The progress of the last run, if there was one.
///
/// # Errors
/// When the database cannot be read.
pub async fn read(connection: &mut Connection) -> Result<Option<InitProgress>, Error> {
    let query = format!("SELECT step, first_run, finished FROM {TABLE} WHERE id = 1");
    let rows = connection.select("read", query, &[]).await?;
    Ok(rows.first().map(|row| InitProgress {
        step: text(row, 0).unwrap_or_default(),
        first_run: number(row, 1) == Some(1),
        finished: number(row, 2) == Some(1),
    }))
}

/// Records the next step, before it is taken.
///
/// # Errors
/// When the database refuses.
pub async fn write(connection: &mut Connection, progress: &InitProgress) -> Result<(), Error> {
    let host = nix::unistd::gethostname().unwrap_or_default();
    let statements = [
        format!("DELETE FROM {TABLE} WHERE id = 1"),
        format!(
            "INSERT INTO {TABLE} (id, step, first_run, finished, holder, ts) VALUES (1, {}, {}, {}, {}, CURRENT_TIMESTAMP)",
            connection.quote_literal(&progress.step),
            u8::from(progress.first_run),
            u8::from(progress.finished),
            connection.quote_literal(&format!("{} {}", std::process::id(), host.to_string_lossy())),
        ),
    ];
    let written = connection.execute_in_transaction(&statements).await;
    written.map_err(|error| connection.settings.failed("write to", &error))
}
