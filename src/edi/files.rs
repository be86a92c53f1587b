//! The files that Bots has received: time, route, result, and Bots's reason for a failure.

use super::stats::model::{FileState, ReceivedFile};
use super::stats::sql_time::{TimeDialect, now};
use super::{failed, number_or_zero, text_or_empty};
use crate::database::connect::{ConnectMode, connect};
use crate::database::query::{Connection, Param, Row};
use crate::database::{DatabaseConfig, Error};

/// `filereport` has no index but its key, so each query reads this many numbers of it at most.
const NUMBERS_PER_QUERY: i64 = 20_000;

/// Files of which not all steps succeeded.
pub(super) const AND_NOT_DONE: &str = " AND statust IN (0, 1, 2)";

/// Maximum length of the reason of a failure: longer than any that Bots writes.
const MAX_REASON: u16 = 20_000;

/// Which files are wanted.
#[derive(Debug, Clone)]
pub struct FileFilter {
    /// Maximum age, in seconds.
    pub max_age: i64,
    /// Of this route.
    pub route: Option<String>,
    /// Only files that were not processed completely.
    pub failed: bool,
    /// Maximum number, newest first.
    pub limit: usize,
}

impl ReceivedFile {
    /// The columns of `filereport` that [`Self::of`] reads, with the beginning of the reason.
    pub(super) fn columns(dialect: TimeDialect, max_reason: u16) -> String {
        let received = dialect.seconds("ts");
        format!(
            "idta, reportidta, {received}, idroute, infilename, statust, outfilename, SUBSTR(errortext, 1, {max_reason})"
        )
    }

    pub(super) fn of(row: &Row) -> Self {
        Self {
            id: number_or_zero(row, 0),
            run: number_or_zero(row, 1),
            received: number_or_zero(row, 2),
            route: text_or_empty(row, 3),
            name: text_or_empty(row, 4),
            state: FileState::of_statust(number_or_zero(row, 5)),
            output: text_or_empty(row, 6),
            error: text_or_empty(row, 7).trim().to_owned(),
        }
    }
}

/// The files that match the filter, newest first. `time_zone` is Django's.
///
/// # Errors
/// When the database cannot be read, or was never initialised.
pub async fn received(
    settings: &DatabaseConfig,
    time_zone: Option<&str>,
    filter: &FileFilter,
) -> Result<Vec<ReceivedFile>, Error> {
    let dialect = TimeDialect::in_zone(settings, time_zone);
    let mut connection = connect(settings, ConnectMode::Probe).await?;
    let read = read(&mut connection, dialect, filter).await;
    connection.close().await;
    read.map_err(|error| failed(settings, &error))
}

/// Reads ranges backwards, until one contains no file that is recent enough.
async fn read(
    connection: &mut Connection,
    dialect: TimeDialect,
    filter: &FileFilter,
) -> Result<Vec<ReceivedFile>, sqlx::Error> {
    let oldest = now() - filter.max_age;
    let mut found = Vec::new();
    let mut to = newest_up_to(connection, i64::MAX).await?;
    while let Some(end) = to.filter(|_| found.len() < filter.limit) {
        let range = format!("idta > {} AND idta <= {end}", end - NUMBERS_PER_QUERY);
        let received = dialect.seconds("ts");
        let youngest = format!("SELECT MAX({received}) FROM filereport WHERE {range}");
        let youngest = connection.fetch_value(youngest).await?.and_then(|at| at.parse::<i64>().ok());
        if youngest.is_none_or(|youngest| youngest < oldest) {
            break;
        }
        let (route, state) =
            (filter.route.as_ref().map_or("", |_| " AND idroute = ?"), if filter.failed { AND_NOT_DONE } else { "" });
        let columns = ReceivedFile::columns(dialect, MAX_REASON);
        let query = format!(
            "SELECT {columns} FROM filereport WHERE {range} AND {received} >= {oldest}{route}{state} \
             ORDER BY idta DESC LIMIT {}",
            filter.limit - found.len()
        );
        let arguments: Vec<Param<'_>> = filter.route.iter().map(|route| Param::Text(route)).collect();
        let rows = connection.fetch(query, &arguments).await?;
        found.extend(rows.iter().map(ReceivedFile::of));
        to = newest_up_to(connection, end - NUMBERS_PER_QUERY).await?;
    }
    Ok(found)
}

/// Numbers are shared with other tables, so there may be gaps of any size.
async fn newest_up_to(connection: &mut Connection, limit: i64) -> Result<Option<i64>, sqlx::Error> {
    let newest = connection.fetch_value(format!("SELECT MAX(idta) FROM filereport WHERE idta <= {limit}")).await?;
    Ok(newest.and_then(|newest| newest.parse().ok()))
}
