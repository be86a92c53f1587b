//! The row of the engine lease: who has it, since when, and its last sign of life, by the server's clock.

use std::time::Duration;

use super::query::Connection;
use super::{DatabaseConfig, Error};

/// Longest name of a holder that is kept.
const MAX_NAME: usize = 200;

/// Who holds the lease, or did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaseHolder {
    /// What tells it from every other.
    pub(crate) owner: String,
    /// Pod and process.
    pub name: String,
    /// Since when it has it, or had.
    pub since: Duration,
    /// How long ago it gave the last sign of life; none beside SQLite, where the lock of a file shows that it lives.
    pub since_heartbeat: Option<Duration>,
    /// Whether it has given the lease back.
    pub released: bool,
}

impl LeaseHolder {
    /// For a lock whose holder has not written its row yet.
    pub(crate) fn unknown() -> Self {
        let (owner, name) = (String::new(), "another bots-ctl".to_owned());
        Self { owner, name, since: Duration::ZERO, since_heartbeat: None, released: false }
    }

    /// Whether its row was released, or ran out, so long ago.
    pub(crate) fn expired_for(&self, span: Duration) -> bool {
        let lifetime = if self.released { Duration::ZERO } else { super::lease::LEASE_TTL };
        self.since_heartbeat.map_or(self.released, |since_heartbeat| since_heartbeat >= lifetime + span)
    }
}

/// Makes the row ours if it was released, is not there, or has not been renewed for `lifetime`; without a lifetime in any
/// case. The answer is whose it is then.
///
/// # Errors
/// What the database says.
pub async fn claim_row(
    connection: &mut Connection,
    settings: &DatabaseConfig,
    owner: &str,
    name: &str,
    lifetime: Option<Duration>,
) -> Result<LeaseHolder, Error> {
    let failed = |error: sqlx::Error| Error::failed("take the engine lease in", settings, &error);
    let (now, owner) = (server_time_ms(connection), connection.quote_literal(owner));
    let name: String = name.chars().filter(|c| !c.is_control()).take(MAX_NAME).collect();
    let values = [owner.clone(), connection.quote_literal(&name), now.to_owned(), now.to_owned(), "0".to_owned()];
    if read(connection, settings).await?.is_none() {
        let insert = format!("INSERT INTO botsctl_lease (name, {COLUMNS}) VALUES ('engine', {})", values.join(", "));
        connection.execute_batch(insert).await.map_err(failed)?;
    } else {
        let set: Vec<String> =
            COLUMNS.split(", ").zip(&values).map(|(column, value)| format!("{column} = {value}")).collect();
        let free = match lifetime {
            Some(lifetime) => format!(" AND (released = 1 OR renewed < {now} - {})", lifetime.as_millis()),
            None => String::new(),
        };
        let update = format!("UPDATE botsctl_lease SET {} WHERE name = 'engine'{free}", set.join(", "));
        connection.execute_batch(update).await.map_err(failed)?;
    }
    Ok(read(connection, settings).await?.unwrap_or_else(LeaseHolder::unknown))
}

/// A sign of life. The answer is whose lease it is.
///
/// # Errors
/// What the database says.
pub async fn renew(connection: &mut Connection, settings: &DatabaseConfig, owner: &str) -> Result<LeaseHolder, Error> {
    write(connection, settings, owner, "").await?;
    Ok(read(connection, settings).await?.unwrap_or_else(LeaseHolder::unknown))
}

/// Gives it back.
///
/// # Errors
/// What the database says.
pub async fn release(connection: &mut Connection, settings: &DatabaseConfig, owner: &str) -> Result<(), Error> {
    write(connection, settings, owner, ", released = 1").await
}

async fn write(connection: &mut Connection, settings: &DatabaseConfig, owner: &str, more: &str) -> Result<(), Error> {
    let (now, owner) = (server_time_ms(connection), connection.quote_literal(owner));
    let update = format!(
        "UPDATE botsctl_lease SET renewed = {now}{more} WHERE name = 'engine' AND owner = {owner} AND released = 0"
    );
    let written = connection.execute_batch(update).await;
    written.map_err(|error| Error::failed("renew the engine lease in", settings, &error))
}

/// Who has it, or had it last; nobody when it was never taken.
///
/// # Errors
/// What the database says.
pub async fn read(connection: &mut Connection, settings: &DatabaseConfig) -> Result<Option<LeaseHolder>, Error> {
    let now = server_time_ms(connection);
    let query = format!(
        "SELECT owner, holder, {now} - acquired, {now} - renewed, released FROM botsctl_lease WHERE name = 'engine'"
    );
    let rows = connection.fetch_text(query).await;
    let rows = rows.map_err(|error| Error::failed("read the engine lease in", settings, &error))?;
    Ok(rows.into_iter().next().map(|row| {
        let text = |index: usize| row.get(index).cloned().flatten().unwrap_or_default();
        let span = |column| Duration::from_millis(text(column).parse().unwrap_or_default());
        let heartbeat_age = (!matches!(settings, DatabaseConfig::Sqlite(_))).then(|| span(3));
        LeaseHolder {
            owner: text(0),
            name: text(1),
            since: span(2),
            since_heartbeat: heartbeat_age,
            released: text(4) == "1",
        }
    }))
}

/// A row beside that of the lease, for what a holder of the lease has noted.
#[derive(Debug)]
pub(crate) struct LeaseRow {
    /// Its two texts.
    pub owner: String,
    pub holder: String,
    /// How long ago it was written.
    pub age: Duration,
    /// A flag.
    pub released: bool,
}

/// Reads such a row.
pub(crate) async fn find(connection: &mut Connection, name: &str) -> Result<Option<LeaseRow>, sqlx::Error> {
    let now = server_time_ms(connection);
    let query = format!("SELECT owner, holder, {now} - acquired, released FROM botsctl_lease WHERE name = '{name}'");
    Ok(connection.fetch_text(query).await?.into_iter().next().map(|row| {
        let text = |index: usize| row.get(index).cloned().flatten().unwrap_or_default();
        let age = Duration::from_millis(text(2).parse().unwrap_or_default());
        LeaseRow { owner: text(0), holder: text(1), age, released: text(3) == "1" }
    }))
}

/// Writes such a row.
pub(crate) async fn put(
    connection: &mut Connection,
    name: &str,
    owner: &str,
    holder: &str,
    released: bool,
) -> Result<(), sqlx::Error> {
    let now = server_time_ms(connection);
    let (owner, holder, released) =
        (connection.quote_literal(owner), connection.quote_literal(holder), u8::from(released));
    let is_there = connection.fetch_value(format!("SELECT count(*) FROM botsctl_lease WHERE name = '{name}'")).await?;
    let statement = if is_there.as_deref() == Some("0") {
        format!(
            "INSERT INTO botsctl_lease (name, {COLUMNS}) VALUES ('{name}', {owner}, {holder}, {now}, {now}, {released})"
        )
    } else {
        format!(
            "UPDATE botsctl_lease SET owner = {owner}, holder = {holder}, acquired = {now}, renewed = {now}, \
             released = {released} WHERE name = '{name}'"
        )
    };
    connection.execute_batch(statement).await
}

const COLUMNS: &str = "owner, holder, acquired, renewed, released";

/// Milliseconds since 1970, as the server counts them at the moment when it writes or reads a row: a statement may have
/// waited for that, longer than whoever sent it.
pub(crate) fn server_time_ms(connection: &Connection) -> &'static str {
    match connection {
        Connection::Sqlite(_) => "CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER)",
        // Only the statement's beginning is to be had in UTC, and only the local time of this moment. Local times have leaps,
        // by half an hour at least, and mean two moments where they go back: of them no more is taken than what has passed
        // since that beginning.
        Connection::Mysql(_) => {
            "(TIMESTAMPDIFF(MICROSECOND, '1970-01-01', UTC_TIMESTAMP(3)) DIV 1000 \
             + IF(SYSDATE(3) BETWEEN NOW(3) AND NOW(3) + INTERVAL 15 MINUTE, \
             TIMESTAMPDIFF(MICROSECOND, NOW(3), SYSDATE(3)) DIV 1000, 0))"
        }
        Connection::Postgres(_) => "(extract(epoch from clock_timestamp()) * 1000)::bigint",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_that_is_never_renewed_tells_no_age() {
        let holder = |heartbeat_age: Option<u64>, released| LeaseHolder {
            since_heartbeat: heartbeat_age.map(Duration::from_secs),
            released,
            ..LeaseHolder::unknown()
        };
        for (silent, released, after, is_gone) in [
            (Some(59), false, 0, false),
            (Some(60), false, 0, true),
            (Some(64), false, 5, false),
            (Some(4), true, 5, false),
            (Some(5), true, 5, true),
            (None, false, 0, false),
            (None, true, 0, true),
        ] {
            let logged = holder(silent, released).expired_for(Duration::from_secs(after));
            assert_eq!(logged, is_gone, "{silent:?}, {released}, {after}");
        }
    }
}
