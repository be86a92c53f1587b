//! One connection type for all three databases: statements and arguments in, rows of text out.
//!
//! A statement without arguments is not prepared: one round trip instead of two, and poolers permit it. Arguments are
//! sent separately from the text of a statement, never in it.

use std::str::FromStr;

use sqlx::database::Database;
use sqlx::mysql::MySqlConnection;
use sqlx::postgres::PgConnection;
use sqlx::query::Query;
use sqlx::sqlite::SqliteConnection;
use sqlx::{AssertSqlSafe, ColumnIndex, Connection as _, Decode, Encode, IntoArguments, Row as SqlxRow, Type};

use super::{DatabaseConfig, Error};

/// A row: each value as text, or NULL.
pub type Row = Vec<Option<String>>;

/// A column of a row, as text.
#[must_use]
pub fn text(row: &Row, index: usize) -> Option<String> {
    row.get(index).cloned().flatten()
}

/// A column of a row, as a number.
#[must_use]
pub fn number<T: FromStr>(row: &Row, index: usize) -> Option<T> {
    row.get(index)?.as_ref()?.parse().ok()
}

/// The value of a `?` in a statement.
#[derive(Debug, Clone, Copy)]
pub enum Param<'a> {
    Integer(i64),
    OptionalInteger(Option<i64>),
    Text(&'a str),
}

/// Runs `$text` on one kind of connection: unprepared, or prepared if there are arguments.
macro_rules! run {
    ($method:ident, $on:expr, $text:expr, $arguments:expr) => {
        if $arguments.is_empty() {
            sqlx::raw_sql(AssertSqlSafe($text)).$method($on).await
        } else {
            bind(sqlx::query(AssertSqlSafe($text)), $arguments).$method($on).await
        }
    };
}

/// An open connection. Dropping it closes it and releases its locks.
#[derive(Debug)]
pub struct Connection {
    /// The database of the connection.
    pub settings: DatabaseConfig,
    pub(super) driver: Driver,
}

#[derive(Debug)]
pub(super) enum Driver {
    Sqlite(SqliteConnection),
    Mysql(MySqlConnection),
    Postgres(PgConnection),
}

impl Connection {
    /// Executes statements, separated by semicolons. Their text is constant, or built from names in the catalogue.
    ///
    /// # Errors
    /// If a statement fails.
    pub async fn execute_batch(&mut self, statements: impl Into<String>) -> Result<(), sqlx::Error> {
        self.execute(statements, &[]).await.map(|_| ())
    }

    /// The rows of a query without parameters, with a text as in [`Self::execute_batch`].
    ///
    /// # Errors
    /// If the query fails.
    pub async fn fetch_text(&mut self, query: impl Into<String>) -> Result<Vec<Row>, sqlx::Error> {
        self.fetch(query, &[]).await
    }

    /// Executes a statement with an argument for each `?`; returns the number of changed rows.
    ///
    /// # Errors
    /// If the statement fails.
    pub async fn execute(&mut self, statement: impl Into<String>, arguments: &[Param<'_>]) -> Result<u64, sqlx::Error> {
        let statement = statement.into();
        match &mut self.driver {
            Driver::Sqlite(on) => run!(execute, on, statement, arguments).map(|done| done.rows_affected()),
            Driver::Mysql(on) => run!(execute, on, statement, arguments).map(|done| done.rows_affected()),
            Driver::Postgres(on) => {
                run!(execute, on, with_numbers(statement, arguments), arguments).map(|done| done.rows_affected())
            }
        }
    }

    /// The rows of a query with an argument for each `?`.
    ///
    /// # Errors
    /// If the query fails.
    pub async fn fetch(&mut self, query: impl Into<String>, arguments: &[Param<'_>]) -> Result<Vec<Row>, sqlx::Error> {
        let (query, is_prepared) = (query.into(), !arguments.is_empty());
        match &mut self.driver {
            Driver::Sqlite(on) => texts(&run!(fetch_all, on, query, arguments)?, is_prepared),
            Driver::Mysql(on) => texts(&run!(fetch_all, on, query, arguments)?, is_prepared),
            Driver::Postgres(on) => {
                texts(&run!(fetch_all, on, with_numbers(query, arguments), arguments)?, is_prepared)
            }
        }
    }

    /// The first value of the first row.
    ///
    /// # Errors
    /// If the query fails.
    pub async fn fetch_value(&mut self, query: impl Into<String>) -> Result<Option<String>, sqlx::Error> {
        Ok(self.fetch_text(query).await?.into_iter().next().and_then(|row| row.into_iter().next().flatten()))
    }

    /// As [`Self::execute`]; the error names the failed `action`.
    ///
    /// # Errors
    /// When the database refuses, or its connection is lost.
    pub async fn change(
        &mut self,
        action: &str,
        statement: impl Into<String>,
        arguments: &[Param<'_>],
    ) -> Result<u64, Error> {
        self.execute(statement, arguments).await.map_err(|error| self.settings.failed(action, &error))
    }

    /// As [`Self::fetch`]; the error names the failed `action`.
    ///
    /// # Errors
    /// When the database refuses, or its connection is lost.
    pub async fn select(
        &mut self,
        action: &str,
        query: impl Into<String>,
        arguments: &[Param<'_>],
    ) -> Result<Vec<Row>, Error> {
        self.fetch(query, arguments).await.map_err(|error| self.settings.failed(action, &error))
    }

    /// Runs all of the statements or none, as far as the database has transactions for them: MySQL and MariaDB commit after
    /// each CREATE and ALTER.
    ///
    /// # Errors
    /// When one of them fails.
    pub async fn execute_in_transaction(&mut self, statements: &[String]) -> Result<(), sqlx::Error> {
        self.in_transaction(async |connection| connection.execute_batch(statements.join("; ")).await).await
    }

    /// Does work in a transaction, which is rolled back when the work fails.
    ///
    /// # Errors
    /// That of the work, or when the transaction cannot be committed.
    pub async fn in_transaction<T>(
        &mut self,
        work: impl AsyncFnOnce(&mut Self) -> Result<T, sqlx::Error>,
    ) -> Result<T, sqlx::Error> {
        // SQLite would find out only at the commit that another connection writes, when it is too late to wait.
        self.execute_batch(if self.settings.is_sqlite() { "BEGIN IMMEDIATE" } else { "BEGIN" }).await?;
        let result = match work(self).await {
            Ok(value) => self.execute_batch("COMMIT").await.map(|()| value),
            Err(error) => Err(error),
        };
        if result.is_err() {
            // The error may have ended the transaction, or the connection may be lost: then there is nothing to roll back.
            let _ = self.execute_batch("ROLLBACK").await;
        }
        result
    }

    /// Closes it in order: a server logs a connection that is cut.
    pub async fn close(self) {
        let _ = match self.driver {
            Driver::Sqlite(driver) => driver.close().await,
            Driver::Mysql(driver) => driver.close().await,
            Driver::Postgres(driver) => driver.close().await,
        };
    }

    /// Milliseconds since 1970, as the server counts them at the moment when it writes or reads a row: a statement may have
    /// waited for that, longer than its sender.
    #[must_use]
    pub fn server_time_ms(&self) -> &'static str {
        match self.driver {
            Driver::Sqlite(_) => "CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER)",
            // Only the start time of the statement is available in UTC, and only local time for the current moment.
            // Local times jump by at least half an hour, and are ambiguous when clocks go back, so only the difference
            // since the start is taken from them.
            Driver::Mysql(_) => {
                "(TIMESTAMPDIFF(MICROSECOND, '1970-01-01', UTC_TIMESTAMP(3)) DIV 1000 \
                 + IF(SYSDATE(3) BETWEEN NOW(3) AND NOW(3) + INTERVAL 15 MINUTE, \
                 TIMESTAMPDIFF(MICROSECOND, NOW(3), SYSDATE(3)) DIV 1000, 0))"
            }
            Driver::Postgres(_) => "(extract(epoch from clock_timestamp()) * 1000)::bigint",
        }
    }

    /// A quoted name for a statement.
    #[must_use]
    pub fn quote_ident(&self, name: &str) -> String {
        match self.driver {
            Driver::Mysql(_) => format!("`{}`", name.replace('`', "``")),
            Driver::Sqlite(_) | Driver::Postgres(_) => format!("\"{}\"", name.replace('"', "\"\"")),
        }
    }

    /// A quoted text for a statement. In MySQL, backslashes are escape characters.
    #[must_use]
    pub fn quote_literal(&self, text: &str) -> String {
        let text = text.replace('\'', "''");
        match self.driver {
            Driver::Mysql(_) => format!("'{}'", text.replace('\\', "\\\\")),
            Driver::Sqlite(_) | Driver::Postgres(_) => format!("'{text}'"),
        }
    }
}

fn bind<'q, D: Database>(query: Query<'q, D, D::Arguments>, arguments: &[Param<'_>]) -> Query<'q, D, D::Arguments>
where
    i64: Encode<'q, D> + Type<D>,
    Option<i64>: Encode<'q, D> + Type<D>,
    String: Encode<'q, D> + Type<D>,
    D::Arguments: IntoArguments<D>,
{
    arguments.iter().fold(query, |query, argument| match argument {
        Param::Integer(number) => query.bind(*number),
        Param::OptionalInteger(number) => query.bind(*number),
        Param::Text(text) => query.bind((*text).to_owned()),
    })
}

/// PostgreSQL numbers its parameters. A `?` in a statement without arguments is text.
fn with_numbers(statement: String, arguments: &[Param<'_>]) -> String {
    if arguments.is_empty() {
        return statement;
    }
    let mut parts = statement.split('?');
    let first = parts.next().unwrap_or_default().to_owned();
    parts.enumerate().fold(first, |text, (index, part)| format!("{text}${}{part}", index + 1))
}

/// The answer to a prepared statement has numbers in binary, as wide as the type of the column. A type that is none of these
/// is an error: its bytes are not text.
fn texts<R: SqlxRow>(rows: &[R], is_prepared: bool) -> Result<Vec<Row>, sqlx::Error>
where
    usize: ColumnIndex<R>,
    for<'r> Option<i64>: Decode<'r, R::Database> + Type<R::Database>,
    for<'r> Option<i32>: Decode<'r, R::Database> + Type<R::Database>,
    for<'r> Option<String>: Decode<'r, R::Database> + Type<R::Database>,
{
    let cell = |row: &R, index: usize| match is_prepared {
        true => number_text::<R, i64>(row, index)
            .or_else(|_| number_text::<R, i32>(row, index))
            .or_else(|_| row.try_get::<Option<String>, _>(index)),
        false => row.try_get_unchecked::<Option<String>, _>(index),
    };
    rows.iter().map(|row| (0..row.len()).map(|index| cell(row, index)).collect()).collect()
}

/// A column of this type, as text; an error for a column of another type.
fn number_text<R: SqlxRow, N: ToString>(row: &R, index: usize) -> Result<Option<String>, sqlx::Error>
where
    usize: ColumnIndex<R>,
    for<'r> Option<N>: Decode<'r, R::Database> + Type<R::Database>,
{
    row.try_get::<Option<N>, _>(index).map(|number| number.map(|number| number.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_numbered_in_their_order() {
        let numbered = |statement: &str, arguments: &[Param<'_>]| with_numbers(statement.to_owned(), arguments);
        let two = [Param::Integer(1), Param::Integer(2)];
        assert_eq!(numbered("SELECT ? WHERE a = ? AND b", &two), "SELECT $1 WHERE a = $2 AND b");
        assert_eq!(numbered("SELECT '?'", &[]), "SELECT '?'");
    }
}
