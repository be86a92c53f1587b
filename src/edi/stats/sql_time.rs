//! Times in each database. Seconds since 1970 are the only form that means the same everywhere.
//!
//! Bots leaves times to the database: MySQL and PostgreSQL store them in the zone of the session, which is the server's for
//! Bots's engine and for us; on SQLite they are local times of Django's zone.

use std::time::SystemTime;

use super::utc_offset::{ClockChange, DjangoTimeZone, UtcOffsets};
use crate::database::DatabaseConfig;

/// Seconds since 1970.
pub(crate) fn now() -> i64 {
    let span = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(span.as_secs()).unwrap_or(i64::MAX)
}

/// A kind of database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TimeDialect {
    Sqlite(UtcOffsets),
    Mysql,
    Postgres,
}

impl TimeDialect {
    pub fn of(settings: &DatabaseConfig, offsets: UtcOffsets) -> Self {
        match settings {
            DatabaseConfig::Sqlite(_) => Self::Sqlite(offsets),
            DatabaseConfig::Mysql(_) => Self::Mysql,
            DatabaseConfig::Postgres(_) => Self::Postgres,
        }
    }

    /// As [`Self::of`], with the offsets of this moment in Django's time zone.
    pub fn in_zone(settings: &DatabaseConfig, time_zone: Option<&str>) -> Self {
        Self::of(settings, DjangoTimeZone::named(time_zone).offsets(now()))
    }

    /// A column as seconds since 1970.
    pub fn seconds(self, column: &str) -> String {
        match self {
            Self::Sqlite(UtcOffsets { now, last_change }) => {
                let local = format!("CAST(strftime('%s', {column}) AS INTEGER)");
                match last_change {
                    Some(ClockChange { local: change, offset_before }) => {
                        format!("({local} - CASE WHEN {local} < {change} THEN {offset_before} ELSE {now} END)")
                    }
                    None => format!("({local} - {now})"),
                }
            }
            // A cast rounds, possibly to a time in the future.
            Self::Mysql => format!("CAST(FLOOR(UNIX_TIMESTAMP({column})) AS SIGNED)"),
            Self::Postgres => format!("CAST(FLOOR(EXTRACT(EPOCH FROM CAST({column} AS timestamptz))) AS bigint)"),
        }
    }

    /// A column as hours since 1970.
    pub fn hour(self, column: &str) -> String {
        let seconds = self.seconds(column);
        match self {
            Self::Sqlite(_) | Self::Postgres => format!("{seconds} / 3600"),
            Self::Mysql => format!("{seconds} DIV 3600"),
        }
    }

    /// The present moment as seconds since 1970.
    pub fn now(self) -> &'static str {
        match self {
            Self::Sqlite(_) => "CAST(strftime('%s', 'now') AS INTEGER)",
            Self::Mysql => "UNIX_TIMESTAMP()",
            Self::Postgres => "CAST(FLOOR(EXTRACT(EPOCH FROM now())) AS bigint)",
        }
    }
}
