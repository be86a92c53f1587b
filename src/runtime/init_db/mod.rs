//! Creates or completes the database and the web user, under a lock.

mod report;
mod steps;

use std::time::{Duration, Instant};

use tokio::time::sleep;
use tokio_util::task::TaskTracker;
use tracing::{debug, info, warn};

use crate::bots::context::BotsContext;
use crate::bots::django_settings::DjangoSettings;
use crate::bots::migrate::{self, SuperuserAction};
use crate::bots::python_session::PythonSession;
use crate::config::Config;
use crate::database::advisory_lock::{LockName, LockSession};
use crate::database::connect::{ConnectMode, connect};
use crate::database::own_schema::{self, OwnTables};
use crate::database::query::Connection;
use crate::database::schema::desired::DesiredSchema;
use crate::database::schema::diff::SchemaDiff;
use crate::database::schema::{self, Inspection};
use crate::database::{self, DatabaseConfig, retry, run_metrics};
use crate::exit::{Error, Kind};
use crate::process::{blocking, network};
use crate::watch::backend::shared_file_system;

pub(crate) use report::Report;
use steps::{InitDb, complete};

/// Pause before a new connection to a server that was just lost.
const RECONNECT_DELAY: Duration = Duration::from_millis(500);

const DEFAULT_ACCOUNT: &str = "the account bots with the password of Bots's bundled database";

const DEFAULT_ACCOUNT_REMEDY: &str = "anyone who can reach the web UI could log in; change it with \
     SUPERUSER_USERNAME=bots, SUPERUSER_PASSWORD and init-db --superuser, or set \
     BOTS_CTL_ALLOW_DEFAULT_PASSWORD=true";

/// The options of a start.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct InitOptions {
    /// Look only.
    pub check: bool,
    /// Create or update the web user.
    pub superuser: bool,
}

/// Completes the database that `django` names.
///
/// These settings alone only ever lead to "nothing to do": before anything is changed, Python reads the settings again. A token of `critical` is held while the schema is being changed.
///
/// # Errors
/// As [`ensure_database_with`]; also when something is left to a person.
pub(crate) async fn ensure_database(
    config: &Config,
    context: &BotsContext<'_>,
    django: DjangoSettings,
    critical: &TaskTracker,
) -> Result<DjangoSettings, Error> {
    let mut report = Report::default();
    let options = InitOptions::default();
    let django = ensure_database_with(config, context, django, critical, options, &mut report).await?;
    if report.missing.is_empty() && report.findings.is_empty() {
        return Ok(django);
    }
    let unfixed = [report.missing, report.findings].concat().join("; ");
    Err(Error::new(Kind::Failed, format!("the schema of the {} does not match Bots: {unfixed}", report.database)))
}

pub(crate) async fn ensure_database_with(
    config: &Config,
    context: &BotsContext<'_>,
    mut django: DjangoSettings,
    critical: &TaskTracker,
    task: InitOptions,
    report: &mut Report,
) -> Result<DjangoSettings, Error> {
    if task.superuser {
        migrate::check_password(&config.superuser, true)?;
    }
    let mut python = None;
    loop {
        let bots = InitDb {
            config,
            context,
            settings: database_config(config, &django)?,
            expected: DesiredSchema {
                version: context.bots.bots_version(),
                managed: django.tables.clone(),
                migrations: django.migrations.clone(),
            },
        };
        report.database = bots.settings.describe();
        if python.is_none() && !task.superuser && !task.check && bots.is_complete(report).await? {
            debug!("the {} is complete", report.database);
            return Ok(django);
        }
        if task.check {
            return bots.check(report).await.map(|()| django);
        }
        let Some(work) = bots.lock_and_inspect(task, report).await? else { return Ok(django) };
        if python.is_none() {
            let (started, asked) = PythonSession::start(context).await?;
            python = Some(started);
            if !asked.is_same(&django) {
                django = asked;
                continue;
            }
        }
        if let Some(python) = python {
            bots.initialise(python, work, critical, report).await?;
        }
        return Ok(django);
    }
}

fn is_complete(inspection: &Inspection) -> bool {
    inspection.difference.is_schema_complete()
        && !inspection.difference.lacks_superuser
        && inspection.difference.manual_fixes.is_empty()
}

/// The database in Django's settings.
///
/// # Errors
/// If there is no driver for it, or the URL names another one.
pub(crate) fn database_config(config: &Config, settings: &DjangoSettings) -> Result<DatabaseConfig, Error> {
    Ok(DatabaseConfig::from_django(&settings.database, config.database.url.as_ref())?)
}

impl InitDb<'_> {
    async fn check(&self, report: &mut Report) -> Result<(), Error> {
        let connection = match &self.settings {
            // A look must not make the file.
            DatabaseConfig::Sqlite(path) if !path.exists() => {
                report.missing.push(format!("the file {}", path.display()));
                return Ok(());
            }
            DatabaseConfig::Sqlite(_) => connect(&self.settings, ConnectMode::ReadWrite).await?,
            _ => {
                retry::connect_with_retry(&self.settings, ConnectMode::Create, self.config.database.retry_window())
                    .await?
            }
        };
        let look = self.inspect(connection).await?;
        self.warn(&look, report).await;
        report.missing = look.difference.missing();
        report.findings = look.difference.manual_fixes;
        if look.difference.has_default_password && !self.config.database.allow_default_password {
            report.findings.push(DEFAULT_ACCOUNT.to_owned());
        }
        Ok(())
    }

    /// Whether an inspection, without waiting, finds the database complete.
    async fn is_complete(&self, report: &mut Report) -> Result<bool, Error> {
        let Ok(connection) = connect(&self.settings, ConnectMode::Probe).await else { return Ok(false) };
        match self.inspect(connection).await {
            Ok(look) if is_complete(&look) => {
                self.warn(&look, report).await;
                self.refuse_default_account(&look.difference).map(|()| true)
            }
            _ => Ok(false),
        }
    }

    /// Warns of defects that do no harm yet, and may make the next file fail.
    async fn warn(&self, look: &Inspection, report: &mut Report) {
        let database = self.settings.describe();
        if let Some(narrow) = &look.narrow_charset {
            let remedy = match &narrow.statements[..] {
                [statement] => statement.as_str(),
                _ => "init-db --check prints the statements",
            };
            report.warn(format!(
                "the {database} uses {}, which cannot store every file name and error text; a run \
                 with such a text fails: stop the services, back up the database, and convert it \
                 to utf8mb4: {remedy}",
                narrow.found.join(" and ")
            ));
            report.conversion.clone_from(&narrow.statements);
        }
        let DatabaseConfig::Sqlite(path) = &self.settings else { return };
        let directory = path.parent().unwrap_or(path).to_path_buf();
        if let Ok(Some(kind)) = blocking::run(move || shared_file_system(&directory)).await {
            report.warn(format!(
                "the {database} is on {kind}, where SQLite's locks are unreliable and the file may \
                 be corrupted: move it to a local disk, or use a database server"
            ));
        }
    }

    async fn inspect(&self, mut connection: Connection) -> Result<Inspection, database::Error> {
        let inspection = schema::inspect(&mut connection, &self.expected).await;
        connection.close().await;
        inspection
    }

    /// Waits for the lock; a server that becomes unreachable is retried like one that is not yet available.
    async fn lock(&self) -> Result<LockSession, Error> {
        let (mut lost, window) = (None, self.config.database.retry_window());
        loop {
            let connection = retry::connect_with_retry(&self.settings, ConnectMode::Create, window).await?;
            let mut session = LockSession::new(connection, LockName::InitDb)?;
            let text = match session.acquire("initialises").await {
                Err(database::Error::Unavailable(text)) => text,
                Err(error) => return Err(error.into()),
                Ok(()) => return Ok(session),
            };
            if lost.get_or_insert_with(Instant::now).elapsed() >= window {
                return Err(Error::new(Kind::Unavailable, text));
            }
            info!("{text}; retrying for up to {} s", window.as_secs_f64());
            sleep(RECONNECT_DELAY).await;
        }
    }

    /// Acquires the lock and inspects the database; `None` if nothing is left to do.
    async fn lock_and_inspect(&self, task: InitOptions, report: &mut Report) -> Result<Option<LockedInit>, Error> {
        let mut session = self.lock().await?;
        let inspection = schema::inspect(&mut session.connection, &self.expected).await?;
        self.warn(&inspection, report).await;
        if is_complete(&inspection) && !task.superuser {
            session.connection.close().await;
            info!("the {} is complete", self.settings.describe());
            return self.refuse_default_account(&inspection.difference).map(|()| None);
        }
        session.reject_transaction_pooler(self.config.database.retry_window()).await?;
        let user = match (task.superuser, inspection.difference.lacks_superuser) {
            (true, _) => Some(SuperuserAction::Upsert),
            (false, true) => Some(SuperuserAction::CreateIfNone),
            (false, false) => None,
        };
        Ok(Some(LockedInit { session, inspection, user }))
    }

    async fn initialise(
        &self,
        python: PythonSession,
        LockedInit { mut session, inspection, user }: LockedInit,
        critical: &TaskTracker,
        report: &mut Report,
    ) -> Result<(), Error> {
        let begin = Instant::now();
        for tables in OwnTables::ALL {
            own_schema::ensure(&mut session.connection, tables).await?;
        }
        let _uncancelled = critical.token();
        let completed = complete(self, &mut session, python, &inspection, user, report).await;
        let is_success =
            completed.as_ref().is_ok_and(|unfixed| unfixed.is_schema_complete() && unfixed.manual_fixes.is_empty());
        if let Err(error) = run_metrics::add_initialisation(&mut session.connection, is_success).await {
            debug!("{error}");
        }
        session.connection.close().await;
        let left = completed?;
        report.missing = left.missing();
        self.refuse_default_account(&left)?;
        report.findings = left.manual_fixes;
        if report.missing.is_empty() && report.findings.is_empty() {
            info!("the {} is ready after {:.2} s", self.settings.describe(), begin.elapsed().as_secs_f64());
        }
        Ok(())
    }

    /// The web UI listens on all addresses: if other machines can reach this one, they could log in.
    fn refuse_default_account(&self, difference: &SchemaDiff) -> Result<(), Error> {
        if !difference.has_default_password || self.config.database.allow_default_password {
            return Ok(());
        }
        let database = self.settings.describe();
        if !network::is_reachable() {
            warn!("the {database} has {DEFAULT_ACCOUNT}; accepted, because no other machine can reach this one");
            return Ok(());
        }
        Err(Error::new(Kind::Failed, format!("the {database} has {DEFAULT_ACCOUNT}: {DEFAULT_ACCOUNT_REMEDY}")))
    }
}

/// The lock is acquired, and the database needs changes.
struct LockedInit {
    session: LockSession,
    inspection: Inspection,
    user: Option<SuperuserAction>,
}
