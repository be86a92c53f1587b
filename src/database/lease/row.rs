//! The row of a lease: its holder, the start of the hold, and the last heartbeat, by the server's clock.

use std::fmt;
use std::time::Duration;

use crate::database::Error;
use crate::database::query::{Connection, Row, number, text};

/// One of the leases.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeaseKind {
    name: &'static str,
    /// How long a row is valid without a heartbeat.
    pub ttl: Duration,
}

/// The process that holds a lease, or held it last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaseHolder {
    /// The random name of the hold.
    pub(crate) owner: String,
    /// Pod and process.
    pub name: String,
    /// The time since it acquired the lease.
    pub since: Duration,
    /// The time since its last heartbeat; `None` with SQLite, whose file lock shows that it is alive.
    pub since_heartbeat: Option<Duration>,
    /// Whether it has released the lease.
    pub released: bool,
}

/// The row of a new holder.
#[derive(Debug, Clone, Copy)]
pub struct Claim<'a> {
    /// The random name of the hold.
    pub owner: &'a str,
    /// Pod and process.
    pub holder: &'a str,
}

/// The rows that may be claimed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Claimable {
    /// One that was released, has expired, or does not exist.
    Expired,
    Any,
}

impl LeaseHolder {
    /// The holder of a lock that has not written its row yet, or writes none.
    pub(crate) fn unknown() -> Self {
        let (owner, name) = (String::new(), "another bots-ctl".to_owned());
        Self { owner, name, since: Duration::ZERO, since_heartbeat: None, released: false }
    }

    /// Whether its row is released, or expires within this time.
    pub(crate) fn expires_within(&self, kind: LeaseKind, span: Duration) -> bool {
        self.released || self.since_heartbeat.is_some_and(|since_heartbeat| since_heartbeat + span >= kind.ttl)
    }
}

impl fmt::Display for LeaseHolder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.owner.is_empty() {
            return write!(f, "{} holds the engine lease", self.name);
        }
        write!(f, "{} has held the engine lease for {} s", self.name, self.since.as_secs())?;
        let Some(since_heartbeat) = self.since_heartbeat else { return Ok(()) };
        write!(f, ", its last heartbeat is {} s old", since_heartbeat.as_secs())
    }
}

impl LeaseKind {
    /// The right to run the engine.
    pub const ENGINE: Self = Self { name: "engine", ttl: Duration::from_secs(60) };
    /// The right to run the jobs. The TTL may be short, since a queue that has lost its lock cannot write any more.
    pub const JOB_QUEUE: Self = Self { name: "jobqueue", ttl: Duration::from_secs(7) };

    /// Claims the row, if it may be claimed. Returns the holder afterwards.
    ///
    /// # Errors
    /// If the query fails.
    pub async fn claim(
        self,
        connection: &mut Connection,
        claim: &Claim<'_>,
        claimable: Claimable,
    ) -> Result<LeaseHolder, Error> {
        let (now, row) = (connection.server_time_ms(), self.name);
        let [owner, holder] = [claim.owner, claim.holder].map(|text| connection.quote_literal(text));
        let statement = if self.read(connection).await?.is_none() {
            format!(
                "INSERT INTO botsctl_lease (name, owner, holder, acquired, renewed, released) \
                 VALUES ('{row}', {owner}, {holder}, {now}, {now}, 0)"
            )
        } else {
            let ttl = self.ttl.as_millis();
            let free = match claimable {
                Claimable::Expired => format!("released = 1 OR renewed < {now} - {ttl}"),
                Claimable::Any => "1 = 1".to_owned(),
            };
            format!(
                "UPDATE botsctl_lease SET owner = {owner}, holder = {holder}, acquired = {now}, renewed = {now}, \
                 released = 0 WHERE name = '{row}' AND ({free})"
            )
        };
        connection.change(&self.action("acquire"), statement, &[]).await?;
        Ok(self.read(connection).await?.unwrap_or_else(LeaseHolder::unknown))
    }

    /// Writes a heartbeat, if the lease is still that of this owner.
    ///
    /// # Errors
    /// If the query fails.
    pub async fn heartbeat(self, connection: &mut Connection, owner: &str) -> Result<(), Error> {
        let update = self.update_statement(connection, owner, "");
        connection.change(&self.action("renew"), update, &[]).await.map(|_| ())
    }

    /// Releases the lease.
    ///
    /// # Errors
    /// If the query fails.
    pub async fn release(self, connection: &mut Connection, owner: &str) -> Result<(), Error> {
        let release = self.release_statement(connection, owner);
        connection.change(&self.action("release"), release, &[]).await.map(|_| ())
    }

    /// Releases the lease as a part of a transaction.
    pub(in crate::database) fn release_statement(self, connection: &Connection, owner: &str) -> String {
        self.update_statement(connection, owner, ", released = 1")
    }

    /// Writes the row of a new holder as a part of a transaction. Only for SQLite: the lock of a file protects the lease, and the
    /// row names its holder.
    pub(in crate::database) fn name_holder_statement(self, connection: &Connection, owner: &str, name: &str) -> String {
        let (now, row) = (connection.server_time_ms(), self.name);
        let [owner, name] = [owner, name].map(|text| connection.quote_literal(text));
        format!(
            "REPLACE INTO botsctl_lease (name, owner, holder, acquired, renewed, released) \
             VALUES ('{row}', {owner}, {name}, {now}, {now}, 0)"
        )
    }

    fn update_statement(self, connection: &Connection, owner: &str, more: &str) -> String {
        let (now, owner, row) = (connection.server_time_ms(), connection.quote_literal(owner), self.name);
        format!(
            "UPDATE botsctl_lease SET renewed = {now}{more} WHERE name = '{row}' AND owner = {owner} AND released = 0"
        )
    }

    /// The current or last holder; `None` if the lease was never acquired.
    ///
    /// # Errors
    /// If the query fails.
    pub async fn read(self, connection: &mut Connection) -> Result<Option<LeaseHolder>, Error> {
        let (now, row) = (connection.server_time_ms(), self.name);
        let query = format!(
            "SELECT owner, holder, released, {now} - acquired, {now} - renewed FROM botsctl_lease WHERE name = '{row}'"
        );
        let rows = connection.select(&self.action("read"), query, &[]).await?;
        let age = |row: &Row, index| Duration::from_millis(number(row, index).unwrap_or_default());
        Ok(rows.first().map(|row| LeaseHolder {
            owner: text(row, 0).unwrap_or_default(),
            name: text(row, 1).unwrap_or_default(),
            released: number(row, 2) == Some(1),
            since: age(row, 3),
            since_heartbeat: (!connection.settings.is_sqlite()).then(|| age(row, 4)),
        }))
    }

    fn action(self, verb: &str) -> String {
        format!("{verb} the lease of the {} in", self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lease_expires_by_heartbeat_age_or_release() {
        let holder = |heartbeat_age: Option<u64>, released| LeaseHolder {
            since_heartbeat: heartbeat_age.map(Duration::from_secs),
            released,
            ..LeaseHolder::unknown()
        };
        for (silent, released, span, is_gone) in [
            (Some(59), false, 0, false),
            (Some(60), false, 0, true),
            (Some(54), false, 5, false),
            (Some(55), false, 5, true),
            (Some(0), true, 0, true),
            (None, false, 0, false),
            (None, true, 0, true),
        ] {
            let expires = holder(silent, released).expires_within(LeaseKind::ENGINE, Duration::from_secs(span));
            assert_eq!(expires, is_gone, "{silent:?}, {released}, {span}");
        }
    }

    #[test]
    fn holder_without_a_row_has_no_times() {
        let unknown = LeaseHolder { released: true, since_heartbeat: Some(Duration::ZERO), ..LeaseHolder::unknown() };
        assert_eq!(unknown.to_string(), "another bots-ctl holds the engine lease");
        let name = "pod (process 1)".to_owned();
        let known =
            LeaseHolder { owner: "o".to_owned(), name, since: Duration::from_secs(7), ..LeaseHolder::unknown() };
        assert_eq!(known.to_string(), "pod (process 1) has held the engine lease for 7 s");
    }
}
