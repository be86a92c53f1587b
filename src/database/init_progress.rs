//! What `init-db` was doing, so that the next run knows of one that was cut off.

use super::query::Connection;
use super::{DatabaseConfig, Error};

/// The table; `own_schema` makes it.
pub const TABLE: &str = "botsctl_init";

/// What an earlier run was doing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct InitProgress {
    /// The step it was at.
    pub step: String,
    /// It had begun with an empty database, and so did all before it that were cut off.
    pub first_run: bool,
    /// It came to its end.
    pub finished: bool,
}

/// The note of the last run, if there was one.
///
/// # Errors
/// When the database cannot be read.
pub async fn read(connection: &mut Connection, settings: &DatabaseConfig) -> Result<Option<InitProgress>, Error> {
    let query = format!("SELECT step, first_run, finished FROM {TABLE} WHERE id = 1");
    let rows = connection.fetch_text(query).await.map_err(|error| Error::failed("read", settings, &error))?;
    Ok(rows.into_iter().next().map(|row| {
        let text = |index: usize| row.get(index).cloned().flatten().unwrap_or_default();
        InitProgress { step: text(0), first_run: text(1) == "1", finished: text(2) == "1" }
    }))
}

/// Takes down what is about to be done, before it is.
///
/// # Errors
/// When the database refuses.
pub async fn write(
    connection: &mut Connection,
    settings: &DatabaseConfig,
    progress: &InitProgress,
) -> Result<(), Error> {
    let failed = |error: sqlx::Error| Error::failed("write to", settings, &error);
    let holder = format!("{} {}", std::process::id(), host());
    let values = format!(
        "1, {}, {}, {}, {}, CURRENT_TIMESTAMP",
        connection.quote_literal(&progress.step),
        u8::from(progress.first_run),
        u8::from(progress.finished),
        connection.quote_literal(&holder)
    );
    let columns = "id, step, first_run, finished, holder, ts";
    let statement = match settings {
        DatabaseConfig::Sqlite(_) | DatabaseConfig::Mysql(_) => {
            format!("REPLACE INTO {TABLE} ({columns}) VALUES ({values})")
        }
        DatabaseConfig::Postgres(_) => format!(
            "INSERT INTO {TABLE} ({columns}) VALUES ({values}) ON CONFLICT (id) DO UPDATE SET step = excluded.step, \
             first_run = excluded.first_run, finished = excluded.finished, holder = excluded.holder, ts = excluded.ts"
        ),
    };
    connection.execute_batch(statement).await.map_err(failed)
}

fn host() -> String {
    let name = nix::unistd::gethostname().unwrap_or_default();
    name.to_string_lossy().chars().take(200).collect()
}
