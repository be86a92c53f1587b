//! Routes and runs in Bots's own tables. Nothing here writes.

use super::stats::model::{FileCounts, Route};
use super::{failed, fetch, is_set, number_or_zero, text_or_empty};
use crate::database::Error;
use crate::database::query::{Connection, Row};

/// The totals of the reports of some runs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Summary {
    /// Runs that wrote a report; none that found nothing to do, in some versions.
    pub reports: u64,
    pub files: FileCounts,
    /// Errors that belong to no file, such as a channel that cannot be reached.
    pub process_errors: u64,
    /// The number of the last run that wrote one.
    pub newest: u64,
}

/// All routes, by name. One of several parts counts as active when any of them is.
///
/// # Errors
/// When the database cannot be read, or was never initialised.
pub async fn routes(connection: &mut Connection) -> Result<Vec<Route>, Error> {
    read_routes(connection).await.map_err(|error| failed(&connection.settings, &error))
}

/// As [`routes`], with the error of the database.
pub(super) async fn read_routes(connection: &mut Connection) -> Result<Vec<Route>, sqlx::Error> {
    const QUERY: &str =
        "SELECT idroute, MAX(CASE WHEN active THEN 1 ELSE 0 END) FROM routes GROUP BY idroute ORDER BY 1";
    let route = |row: &Row| Route { name: text_or_empty(row, 0), is_active: is_set(row, 1) };
    Ok(connection.fetch_text(QUERY).await?.iter().map(route).collect())
}

/// The number of the newest report; 0 if there is none.
///
/// # Errors
/// As [`routes`].
pub async fn newest_report(connection: &mut Connection) -> Result<u64, Error> {
    let rows = fetch(connection, "SELECT MAX(idta) FROM report").await?;
    Ok(rows.first().map_or(0, |row| number_or_zero(row, 0)))
}

/// The totals of the reports after the number `since`.
///
/// # Errors
/// As [`routes`].
pub async fn summary_since(connection: &mut Connection, since: u64) -> Result<Summary, Error> {
    let query = format!(
        "SELECT count(*), SUM(lastreceived), SUM(lastdone), SUM(lasterror), SUM(lastok + lastopen), SUM(send), \
         SUM(processerrors), MAX(idta) FROM report WHERE idta > {since}"
    );
    let row = fetch(connection, query).await?.into_iter().next().unwrap_or_default();
    let [reports, received, done, errors, stuck, sent, process_errors, newest] =
        [0, 1, 2, 3, 4, 5, 6, 7].map(|at| number_or_zero(&row, at));
    Ok(Summary { reports, files: FileCounts { received, done, errors, stuck, sent }, process_errors, newest })
}
