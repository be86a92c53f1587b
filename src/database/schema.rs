//! What is in the database, what is missing, and the tables that Django does not make.

use std::collections::{BTreeMap, BTreeSet};

use sqlx::sqlite::SqliteConnection;
use sqlx::{Connection, Row};

use super::connect::{Purpose, connect};
use super::{Error, Settings};

/// Tables that Bots uses with its own SQL.
pub const UNMANAGED: [&str; 4] = ["ta", "mutex", "persist", "uniek"];

/// Tables without which no service is of use; the names of Bots's own start-up check.
pub const REQUIRED: [&str; 4] = ["channel", "routes", "ta", "mutex"];

/// The statements for one family of Bots.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Variant {
    /// Up to 3.3.1.
    Bots3,
    /// 4.0 and later.
    Bots4,
}

/// What a database should hold.
#[derive(Debug)]
pub struct Wanted<'a> {
    /// Tables that Django makes.
    pub tables: &'a [String],
    /// Migrations by app.
    pub migrations: &'a BTreeMap<String, Vec<String>>,
}

/// What a look at the database told.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Missing {
    /// Unmanaged tables that are not there.
    pub unmanaged: Vec<String>,
    /// Managed tables that are not there.
    pub managed: Vec<String>,
    /// Migrations that were not applied, as `app.name`.
    pub migrations: Vec<String>,
    /// Whether there is no web user at all.
    pub users: bool,
    /// Whether `ta` was made by Django, without the defaults that the engine's SQL relies on.
    pub ta_defaults: bool,
}

impl Missing {
    /// Whether Django has something to do.
    #[must_use]
    pub fn needs_migrate(&self) -> bool {
        !self.managed.is_empty() || !self.migrations.is_empty()
    }

    /// Whether the schema is whole.
    #[must_use]
    pub fn is_schema_complete(&self) -> bool {
        !self.needs_migrate() && self.unmanaged.is_empty() && !self.ta_defaults
    }

    /// Names of everything that is missing.
    #[must_use]
    pub fn names(&self) -> String {
        let all = [&self.unmanaged, &self.managed, &self.migrations].into_iter().flatten();
        all.map(String::as_str).collect::<Vec<_>>().join(", ")
    }
}

/// Compares the database with what is wanted.
///
/// # Errors
/// When it cannot be opened or read.
pub async fn inspect(settings: &Settings, wanted: &Wanted<'_>, purpose: Purpose) -> Result<Missing, Error> {
    let mut connection = connect(settings, purpose).await?;
    let found = look(&mut connection, wanted).await;
    let _ = connection.close().await;
    found.map_err(|error| failed("read", settings, &error))
}

async fn look(connection: &mut SqliteConnection, wanted: &Wanted<'_>) -> Result<Missing, sqlx::Error> {
    let tables = tables(connection).await?;
    let absent = |names: &mut dyn Iterator<Item = &str>| -> Vec<String> {
        names.filter(|name| !tables.contains(*name)).map(str::to_owned).collect()
    };
    let managed = wanted.tables.iter().map(String::as_str).filter(|name| !UNMANAGED.contains(name));
    Ok(Missing {
        unmanaged: absent(&mut UNMANAGED.into_iter()),
        managed: absent(&mut managed.into_iter()),
        migrations: unapplied(connection, &tables, wanted.migrations).await?,
        users: !tables.contains("auth_user") || count(connection, "SELECT count(*) FROM auth_user").await? == 0,
        ta_defaults: tables.contains("ta") && lacks_defaults(connection).await?,
    })
}

async fn tables(connection: &mut SqliteConnection) -> Result<BTreeSet<String>, sqlx::Error> {
    let rows = sqlx::query("SELECT name FROM sqlite_master WHERE type = 'table'").fetch_all(connection).await?;
    rows.iter().map(|row| row.try_get(0)).collect()
}

async fn unapplied(
    connection: &mut SqliteConnection,
    tables: &BTreeSet<String>,
    wanted: &BTreeMap<String, Vec<String>>,
) -> Result<Vec<String>, sqlx::Error> {
    let mut applied = BTreeSet::new();
    if tables.contains("django_migrations") {
        for row in sqlx::query("SELECT app, name FROM django_migrations").fetch_all(connection).await? {
            applied.insert((row.try_get::<String, _>(0)?, row.try_get::<String, _>(1)?));
        }
    }
    let all = wanted.iter().flat_map(|(app, names)| names.iter().map(move |name| (app.clone(), name.clone())));
    Ok(all.filter(|migration| !applied.contains(migration)).map(|(app, name)| format!("{app}.{name}")).collect())
}

async fn lacks_defaults(connection: &mut SqliteConnection) -> Result<bool, sqlx::Error> {
    const QUESTION: &str = "SELECT count(*) FROM pragma_table_info('ta') WHERE name = 'statust' AND dflt_value IS NULL";
    Ok(count(connection, QUESTION).await? > 0)
}

async fn count(connection: &mut SqliteConnection, query: &'static str) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar(query).fetch_one(connection).await
}

/// Makes the unmanaged tables that are missing: all of them or none.
///
/// # Errors
/// When the database refuses.
pub async fn make_unmanaged(settings: &Settings, variant: Variant) -> Result<(), Error> {
    let statements = match variant {
        Variant::Bots3 => include_str!("../../sql/sqlite/bots-3.sql"),
        Variant::Bots4 => include_str!("../../sql/sqlite/bots-4.sql"),
    };
    let mut connection = connect(settings, Purpose::Initialise).await?;
    let made = apply(&mut connection, statements).await;
    let _ = connection.close().await;
    made.map_err(|error| failed("make tables in", settings, &error))
}

async fn apply(connection: &mut SqliteConnection, statements: &'static str) -> Result<(), sqlx::Error> {
    let mut transaction = connection.begin().await?;
    sqlx::raw_sql(statements).execute(&mut *transaction).await?;
    transaction.commit().await
}

/// Which of the tables that every service needs are not there.
///
/// # Errors
/// When the database cannot be read.
pub async fn missing_required(settings: &Settings) -> Result<Vec<String>, Error> {
    let mut connection = connect(settings, Purpose::Probe).await?;
    let found = tables(&mut connection).await;
    let _ = connection.close().await;
    match found {
        Ok(found) => Ok(REQUIRED.into_iter().filter(|name| !found.contains(*name)).map(str::to_owned).collect()),
        Err(error) if super::connect::is_busy(&error) => Ok(Vec::new()),
        Err(error) => Err(failed("read", settings, &error)),
    }
}

fn failed(action: &str, settings: &Settings, error: &sqlx::Error) -> Error {
    let reason = error.as_database_error().map_or_else(|| error.to_string(), |error| error.message().to_owned());
    Error::Failed(format!("cannot {action} the {}: {reason}", settings.describe()))
}
