//! The row of a lease: its holder, since when, and the last heartbeat, by the server's clock.

use std::time::Duration;

use crate::database::query::Connection;
use crate::database::{DatabaseConfig, Error};

/// Longest name of a holder that is kept.
const MAX_NAME: usize = 200;

/// One of the leases.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeaseKind {
    name: &'static str,
    /// For so long a row counts without a heartbeat.
    pub ttl: Duration,
}

impl LeaseKind {
    /// The right to run the engine.
    pub const ENGINE: Self = Self { name: "engine", ttl: Duration::from_secs(60) };
    /// The right to run the jobs. A queue that has lost it cannot write any more, so that it may be short.
    pub const JOB_QUEUE: Self = Self { name: "jobqueue", ttl: Duration::from_secs(7) };
}

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
    pub(crate) fn expired_for(&self, kind: LeaseKind, span: Duration) -> bool {
        let lifetime = if self.released { Duration::ZERO } else { kind.ttl };
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
    kind: LeaseKind,
    (owner, name): (&str, &str),
    lifetime: Option<Duration>,
) -> Result<LeaseHolder, Error> {
    let refused = |error: sqlx::Error| failed("take", kind, settings, &error);
    let (now, owner, row) = (connection.server_time_ms(), connection.quote_literal(owner), kind.name);
    let name: String = name.chars().filter(|c| !c.is_control()).take(MAX_NAME).collect();
    let values = [owner.clone(), connection.quote_literal(&name), now.to_owned(), now.to_owned(), "0".to_owned()];
    if read(connection, settings, kind).await?.is_none() {
        let insert = format!("INSERT INTO botsctl_lease (name, {COLUMNS}) VALUES ('{row}', {})", values.join(", "));
        connection.execute_batch(insert).await.map_err(refused)?;
    } else {
        let set: Vec<String> =
            COLUMNS.split(", ").zip(&values).map(|(column, value)| format!("{column} = {value}")).collect();
        let free = match lifetime {
            Some(lifetime) => format!(" AND (released = 1 OR renewed < {now} - {})", lifetime.as_millis()),
            None => String::new(),
        };
        let update = format!("UPDATE botsctl_lease SET {} WHERE name = '{row}'{free}", set.join(", "));
        connection.execute_batch(update).await.map_err(refused)?;
    }
    Ok(read(connection, settings, kind).await?.unwrap_or_else(LeaseHolder::unknown))
}

/// A heartbeat. The answer is whose lease it is.
///
/// # Errors
/// What the database says.
pub async fn renew(
    connection: &mut Connection,
    settings: &DatabaseConfig,
    kind: LeaseKind,
    owner: &str,
) -> Result<LeaseHolder, Error> {
    heartbeat(connection, settings, kind, owner).await?;
    Ok(read(connection, settings, kind).await?.unwrap_or_else(LeaseHolder::unknown))
}

/// A heartbeat of an owner that has the lock.
///
/// # Errors
/// What the database says.
pub async fn heartbeat(
    connection: &mut Connection,
    settings: &DatabaseConfig,
    kind: LeaseKind,
    owner: &str,
) -> Result<(), Error> {
    write(connection, kind, owner, "").await.map_err(|error| failed("renew", kind, settings, &error))
}

/// Releases it.
///
/// # Errors
/// What the database says.
pub async fn release(
    connection: &mut Connection,
    settings: &DatabaseConfig,
    kind: LeaseKind,
    owner: &str,
) -> Result<(), Error> {
    write(connection, kind, owner, ", released = 1").await.map_err(|error| failed("release", kind, settings, &error))
}

async fn write(connection: &mut Connection, kind: LeaseKind, owner: &str, more: &str) -> Result<(), sqlx::Error> {
    let (now, owner, row) = (connection.server_time_ms(), connection.quote_literal(owner), kind.name);
    let update = format!(
        "UPDATE botsctl_lease SET renewed = {now}{more} WHERE name = '{row}' AND owner = {owner} AND released = 0"
    );
    connection.execute_batch(update).await
}

fn failed(action: &str, kind: LeaseKind, settings: &DatabaseConfig, error: &sqlx::Error) -> Error {
    Error::failed(&format!("{action} the lease of the {} in", kind.name), settings, error)
}

/// Who has it, or had it last; nobody when it was never taken.
///
/// # Errors
/// What the database says.
pub async fn read(
    connection: &mut Connection,
    settings: &DatabaseConfig,
    kind: LeaseKind,
) -> Result<Option<LeaseHolder>, Error> {
    let (now, row) = (connection.server_time_ms(), kind.name);
    let query = format!(
        "SELECT owner, holder, {now} - acquired, {now} - renewed, released FROM botsctl_lease WHERE name = '{row}'"
    );
    let rows = connection.fetch_text(query).await;
    let rows = rows.map_err(|error| failed("read", kind, settings, &error))?;
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

const COLUMNS: &str = "owner, holder, acquired, renewed, released";

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
            let logged = holder(silent, released).expired_for(LeaseKind::ENGINE, Duration::from_secs(after));
            assert_eq!(logged, is_gone, "{silent:?}, {released}, {after}");
        }
    }
}
