//! What Bots's own tables say of routes and runs. Nothing here writes.

use crate::database::query::Connection;
use crate::database::{DatabaseConfig, Error, errors};

/// A route, as the engine can be asked for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// Its name.
    pub name: String,
    /// Whether an engine runs it.
    pub is_active: bool,
}

/// What the reports of some runs add up to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Summary {
    /// Runs that wrote a report; none that found nothing to do, in some versions.
    pub reports: u64,
    pub received: u64,
    pub done: u64,
    pub errors: u64,
    pub sent: u64,
    /// Errors that belong to no file, such as a channel that cannot be reached.
    pub process_errors: u64,
    /// The number of the last run that wrote one.
    pub newest: u64,
}

/// All routes, by name. One of several parts counts as active when any of them is.
///
/// # Errors
/// When the database cannot be read, or was never initialised.
pub async fn routes(connection: &mut Connection, settings: &DatabaseConfig) -> Result<Vec<Route>, Error> {
    const QUERY: &str =
        "SELECT idroute, MAX(CASE WHEN active THEN 1 ELSE 0 END) FROM routes GROUP BY idroute ORDER BY 1";
    let rows = connection.fetch_text(QUERY).await.map_err(|error| failed(settings, &error))?;
    let route = |row: Vec<Option<String>>| {
        let mut row = row.into_iter();
        Some(Route { name: row.next()??, is_active: row.next()?? == "1" })
    };
    Ok(rows.into_iter().filter_map(route).collect())
}

/// Whether an engine was cut off: it leaves a row that only its orderly end removes.
///
/// # Errors
/// As [`routes`].
pub async fn was_cut_off(connection: &mut Connection, settings: &DatabaseConfig) -> Result<bool, Error> {
    let count = connection
        .fetch_value("SELECT count(*) FROM mutex WHERE mutexk = 1")
        .await
        .map_err(|error| failed(settings, &error))?;
    Ok(count.is_some_and(|count| count != "0"))
}

/// The number of the newest report, 0 when there is none.
///
/// # Errors
/// As [`routes`].
pub async fn newest_report(connection: &mut Connection, settings: &DatabaseConfig) -> Result<u64, Error> {
    let newest =
        connection.fetch_value("SELECT MAX(idta) FROM report").await.map_err(|error| failed(settings, &error))?;
    Ok(newest.and_then(|number| number.parse().ok()).unwrap_or_default())
}

/// What the reports after `number` add up to.
///
/// # Errors
/// As [`routes`].
pub async fn summary_since(
    connection: &mut Connection,
    settings: &DatabaseConfig,
    number: u64,
) -> Result<Summary, Error> {
    let query = format!(
        "SELECT count(*), SUM(lastreceived), SUM(lastdone), SUM(lasterror), SUM(send), SUM(processerrors), MAX(idta) \
         FROM report \
         WHERE idta > {number}"
    );
    let rows = connection.fetch_text(query).await.map_err(|error| failed(settings, &error))?;
    let row = rows.into_iter().next().unwrap_or_default();
    let count = |place: usize| {
        let text = row.get(place).cloned().flatten().unwrap_or_default();
        text.parse().unwrap_or_default()
    };
    let [reports, received, done, errors, sent, process_errors, newest] = [0, 1, 2, 3, 4, 5, 6].map(count);
    Ok(Summary { reports, received, done, errors, sent, process_errors, newest })
}

pub(crate) fn failed(settings: &DatabaseConfig, error: &sqlx::Error) -> Error {
    if errors::is_missing_table(error) {
        let text = format!("the {} lacks tables of Bots: run bots-ctl init-db first", settings.describe());
        return Error::Failed(text);
    }
    Error::failed("read", settings, error)
}
