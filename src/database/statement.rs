//! Statements with arguments: values go over beside the text of a statement, never in it. A `?` stands for each.

use sqlx::database::Database;
use sqlx::query::Query;
use sqlx::{AssertSqlSafe, ColumnIndex, Decode, Encode, IntoArguments, Row, Type};

use super::connection::Connection;

/// What a `?` in a statement stands for.
#[derive(Debug, Clone, Copy)]
pub enum Param<'a> {
    /// A whole number.
    Integer(i64),
    /// A text.
    Text(&'a str),
}

/// A value that was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// Nothing.
    Null,
    /// A whole number.
    Integer(i64),
    /// A text.
    Text(String),
}

impl Value {
    /// The number; none for anything else.
    #[must_use]
    pub fn integer(&self) -> Option<i64> {
        match self {
            Self::Integer(number) => Some(*number),
            Self::Null | Self::Text(_) => None,
        }
    }

    /// The text; none for anything else.
    #[must_use]
    pub fn text(self) -> Option<String> {
        match self {
            Self::Text(text) => Some(text),
            Self::Null | Self::Integer(_) => None,
        }
    }
}

/// Runs a statement, which is never made of anything a user has written; says how many rows it has changed.
///
/// # Errors
/// What the database says.
pub async fn execute(
    connection: &mut Connection,
    statement: impl Into<String>,
    arguments: &[Param<'_>],
) -> Result<u64, sqlx::Error> {
    let query = AssertSqlSafe(numbered(connection, statement.into()));
    Ok(match connection {
        Connection::Sqlite(on) => bind(sqlx::query(query), arguments).execute(on).await?.rows_affected(),
        Connection::Mysql(on) => bind(sqlx::query(query), arguments).execute(on).await?.rows_affected(),
        Connection::Postgres(on) => bind(sqlx::query(query), arguments).execute(on).await?.rows_affected(),
    })
}

/// The rows that a query gives. As for [`execute`], it is never made of anything a user has written.
///
/// # Errors
/// What the database says.
pub async fn fetch(
    connection: &mut Connection,
    query: impl Into<String>,
    arguments: &[Param<'_>],
) -> Result<Vec<Vec<Value>>, sqlx::Error> {
    let query = AssertSqlSafe(numbered(connection, query.into()));
    match connection {
        Connection::Sqlite(on) => bind(sqlx::query(query), arguments).fetch_all(on).await?.iter().map(cells).collect(),
        Connection::Mysql(on) => bind(sqlx::query(query), arguments).fetch_all(on).await?.iter().map(cells).collect(),
        Connection::Postgres(on) => {
            bind(sqlx::query(query), arguments).fetch_all(on).await?.iter().map(cells).collect()
        }
    }
}

fn bind<'q, D: Database>(query: Query<'q, D, D::Arguments>, arguments: &[Param<'_>]) -> Query<'q, D, D::Arguments>
where
    i64: Encode<'q, D> + Type<D>,
    String: Encode<'q, D> + Type<D>,
    D::Arguments: IntoArguments<D>,
{
    arguments.iter().fold(query, |query, argument| match argument {
        Param::Integer(number) => query.bind(*number),
        Param::Text(text) => query.bind((*text).to_owned()),
    })
}

/// PostgreSQL numbers its arguments.
fn numbered(connection: &Connection, statement: String) -> String {
    match connection {
        Connection::Postgres(_) => with_numbers(&statement),
        Connection::Sqlite(_) | Connection::Mysql(_) => statement,
    }
}

fn with_numbers(statement: &str) -> String {
    let mut parts = statement.split('?');
    let first = parts.next().unwrap_or_default().to_owned();
    parts.enumerate().fold(first, |text, (index, part)| format!("{text}${}{part}", index + 1))
}

fn cells<'r, R: Row>(row: &'r R) -> Result<Vec<Value>, sqlx::Error>
where
    usize: ColumnIndex<R>,
    Option<i64>: Decode<'r, R::Database> + Type<R::Database>,
    Option<String>: Decode<'r, R::Database> + Type<R::Database>,
{
    let cell = |index| match row.try_get::<Option<i64>, _>(index) {
        Ok(number) => Ok(number.map_or(Value::Null, Value::Integer)),
        Err(_) => Ok(row.try_get::<Option<String>, _>(index)?.map_or(Value::Null, Value::Text)),
    };
    (0..row.len()).map(cell).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_numbered_in_their_order() {
        assert_eq!(with_numbers("SELECT ? WHERE a = ? AND b"), "SELECT $1 WHERE a = $2 AND b");
        assert_eq!(with_numbers("SELECT 1"), "SELECT 1");
    }
}
