//! Which run of the engine Bots is to recover.
//!
//! Bots takes up the newest run and marks it as done before it has begun with it. When that recovery is cut off in turn,
//! the next one would take up the recovery, and the files of the run that it was for would stay behind for ever. So a
//! row of `botsctl_lease` says which run is being recovered; until that has been done, recoveries that were cut off are
//! made a part of it, and Bots finds it as the newest one again.

use super::connection::Connection;
use super::{Error, Settings, lease_row, runs};

/// Sees to it that Bots, about to recover, recovers everything that is not done. Under the engine lease, and only when
/// an engine was cut off. The answer is whether an earlier recovery was cut off, too.
///
/// # Errors
/// When the database cannot be read or written: no engine may be started then.
pub async fn prepare(connection: &mut Connection, settings: &Settings) -> Result<bool, Error> {
    let failed = |error: sqlx::Error| runs::failed(settings, &error);
    let newest = connection.value("SELECT MAX(idta) FROM ta WHERE script = 0").await.map_err(failed)?;
    let Some(newest) = newest.and_then(|number| number.parse::<u64>().ok()) else { return Ok(false) };
    match begun(connection).await.map_err(failed)? {
        Some(begun) if begun < newest => {
            let join = format!("UPDATE ta SET script = {begun} WHERE script = 0 AND idta > {begun}");
            connection.run(join).await.map_err(failed)?;
            Ok(true)
        }
        _ => note(connection, newest).await.map(|()| false).map_err(failed),
    }
}

/// The run whose recovery was begun and has not come to its end: then it would have a report of that type, or a later
/// run would have its own.
async fn begun(connection: &mut Connection) -> Result<Option<u64>, sqlx::Error> {
    let noted = connection.value("SELECT owner FROM botsctl_lease WHERE name = 'recovery'").await?;
    let Some(noted) = noted.and_then(|number| number.parse::<u64>().ok()) else { return Ok(None) };
    let is_open = connection
        .value(format!(
            "SELECT count(*) FROM ta WHERE idta = {noted} AND script = 0 AND NOT EXISTS (SELECT 1 FROM report \
             WHERE idta > {noted} OR (idta = {noted} AND type = 'crashrecovery'))"
        ))
        .await?;
    Ok((is_open.as_deref() == Some("1")).then_some(noted))
}

/// Takes down which run is about to be recovered.
async fn note(connection: &mut Connection, run: u64) -> Result<(), sqlx::Error> {
    let now = lease_row::clock(connection);
    let is_there = connection.value("SELECT count(*) FROM botsctl_lease WHERE name = 'recovery'").await?;
    let statement = if is_there.as_deref() == Some("0") {
        format!(
            "INSERT INTO botsctl_lease (name, owner, holder, acquired, renewed, released) \
             VALUES ('recovery', '{run}', '', {now}, {now}, 0)"
        )
    } else {
        format!("UPDATE botsctl_lease SET owner = '{run}', acquired = {now}, renewed = {now} WHERE name = 'recovery'")
    };
    connection.run(statement).await
}
