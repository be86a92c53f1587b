//! One connection, whatever the database: statements in, rows of text out.
//!
//! What is read here are names, types and counts of a catalogue, so text is all that is needed. Statements go over
//! as they are, without being prepared: that costs one exchange instead of two, and works through poolers.

use sqlx::mysql::MySqlConnection;
use sqlx::postgres::PgConnection;
use sqlx::sqlite::SqliteConnection;
use sqlx::{AssertSqlSafe, ColumnIndex, Connection as _, Decode, Row as SqlxRow, Type};

/// A row: each value as text, or NULL.
pub type Row = Vec<Option<String>>;

/// An open connection. Dropped, it is closed, and what it has locked is free.
#[derive(Debug)]
#[allow(missing_docs)]
pub enum Connection {
    Sqlite(SqliteConnection),
    Mysql(MySqlConnection),
    Postgres(PgConnection),
}

impl Connection {
    /// Runs statements, separated by semicolons. They are ours, or made of names that were read from the catalogue.
    ///
    /// # Errors
    /// What the database says.
    pub async fn execute_batch(&mut self, statements: impl Into<String>) -> Result<(), sqlx::Error> {
        let statements = sqlx::raw_sql(AssertSqlSafe(statements.into()));
        match self {
            Self::Sqlite(connection) => statements.execute(connection).await.map(|_| ()),
            Self::Mysql(connection) => statements.execute(connection).await.map(|_| ()),
            Self::Postgres(connection) => statements.execute(connection).await.map(|_| ()),
        }
    }

    /// The rows that a query gives. As for [`Self::execute_batch`], it is never made of anything a user has written.
    ///
    /// # Errors
    /// What the database says.
    pub async fn fetch_text(&mut self, query: impl Into<String>) -> Result<Vec<Row>, sqlx::Error> {
        let query = sqlx::raw_sql(AssertSqlSafe(query.into()));
        match self {
            Self::Sqlite(connection) => query.fetch_all(connection).await?.iter().map(texts).collect(),
            Self::Mysql(connection) => query.fetch_all(connection).await?.iter().map(texts).collect(),
            Self::Postgres(connection) => query.fetch_all(connection).await?.iter().map(texts).collect(),
        }
    }

    /// The first value of the first row.
    ///
    /// # Errors
    /// What the database says.
    pub async fn fetch_value(&mut self, query: impl Into<String>) -> Result<Option<String>, sqlx::Error> {
        Ok(self.fetch_text(query).await?.into_iter().next().and_then(|row| row.into_iter().next().flatten()))
    }

    /// Says goodbye, so that the server does not log a connection that was cut.
    pub async fn close(self) {
        let _ = match self {
            Self::Sqlite(connection) => connection.close().await,
            Self::Mysql(connection) => connection.close().await,
            Self::Postgres(connection) => connection.close().await,
        };
    }

    /// A name as it stands in a statement.
    #[must_use]
    pub fn quote_ident(&self, name: &str) -> String {
        match self {
            Self::Mysql(_) => format!("`{}`", name.replace('`', "``")),
            Self::Sqlite(_) | Self::Postgres(_) => format!("\"{}\"", name.replace('"', "\"\"")),
        }
    }

    /// A text as it stands in a statement. MySQL takes backslashes for escapes.
    #[must_use]
    pub fn quote_literal(&self, text: &str) -> String {
        let text = text.replace('\'', "''");
        match self {
            Self::Mysql(_) => format!("'{}'", text.replace('\\', "\\\\")),
            Self::Sqlite(_) | Self::Postgres(_) => format!("'{text}'"),
        }
    }
}

fn texts<'r, R: SqlxRow>(row: &'r R) -> Result<Row, sqlx::Error>
where
    usize: ColumnIndex<R>,
    Option<String>: Decode<'r, R::Database> + Type<R::Database>,
{
    (0..row.len()).map(|index| row.try_get_unchecked(index)).collect()
}
