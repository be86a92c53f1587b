//! Makes or completes the database, and the web user, under a lock.

mod report;
mod steps;

use std::cell::Cell;
use std::fs::File;
use std::time::{Duration, Instant};

use tokio::time::sleep;
use tracing::{debug, info, warn};

use crate::bots::Generation;
use crate::bots::django_settings::{Context, Facts, Key};
use crate::bots::migrate::{self, UserWork};
use crate::bots::python_session::Interpreter;
use crate::config::{Config, DatabaseUrl};
use crate::database::advisory_lock::{self, Held, Name};
use crate::database::config::Django;
use crate::database::connect::{Purpose, connect};
use crate::database::schema::desired::{Expected, Index, ManagedTable, Variant};
use crate::database::schema::diff::Difference;
use crate::database::schema::{self, Look};
use crate::database::{self, Settings, jobs, retry, run_metrics};
use crate::exit::{Error, Kind};
use crate::fs::atomic;
use crate::process::network;

use crate::runtime::init_db::steps::complete;
pub(crate) use report::Report;

/// How often to look whether another start in this environment has been told the facts.
const TURN_RETRY: Duration = Duration::from_millis(10);

/// How long to wait before a server is asked again that has just gone away.
const LOST_RETRY: Duration = Duration::from_millis(500);

const DEFAULT_ACCOUNT: &str = "the account bots with the password that Bots's bundled database has";

const DEFAULT_ACCOUNT_REMEDY: &str = "whoever reaches the web UI could log in; change it with SUPERUSER_USERNAME=bots, \
     SUPERUSER_PASSWORD and init-db --superuser, or set BOTS_CTL_ALLOW_DEFAULT_PASSWORD=true";

/// What is asked for.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Task {
    /// Look only.
    pub check: bool,
    /// Make or update the web user, whether there is one or not.
    pub superuser: bool,
}

/// Learns what Django is configured with and sees to it that the database is complete.
///
/// An answer that is kept from an earlier start only ever leads to "nothing to do": before anything is changed,
/// Python is asked anew. `critical` is set while the schema is being changed.
///
/// # Errors
/// As [`settle_reporting`]; also when something is left that a person must see to.
pub(crate) async fn settle(config: &Config, context: &Context<'_>, critical: &Cell<bool>) -> Result<Facts, Error> {
    let mut report = Report::default();
    let facts = settle_reporting(config, context, critical, Task::default(), &mut report).await?;
    if report.missing.is_empty() && report.findings.is_empty() {
        return Ok(facts);
    }
    let left = [report.missing, report.findings].concat().join("; ");
    Err(Error::new(Kind::Failed, format!("the {} is not as Bots needs it: {left}", report.database)))
}

pub(crate) async fn settle_reporting(
    config: &Config,
    context: &Context<'_>,
    critical: &Cell<bool>,
    task: Task,
    report: &mut Report,
) -> Result<Facts, Error> {
    if task.superuser {
        migrate::check_password(&config.superuser, true)?;
    }
    let (mut facts, mut python) = know(context).await?;
    loop {
        let ground =
            Ground { config, context, settings: settings(config, &facts)?, expected: expected(context, &facts) };
        report.database = ground.settings.describe();
        if python.is_none() && !task.superuser && !task.check && ground.is_complete().await? {
            debug!("the {} is complete", report.database);
            return Ok(facts);
        }
        if task.check {
            return ground.check(report).await.map(|()| facts);
        }
        let Some(work) = ground.begin(task).await? else { return Ok(facts) };
        if python.is_none() {
            let (started, asked) = Interpreter::start(context).await?;
            python = Some(started);
            if !asked.is_same(&facts) {
                facts = asked;
                continue;
            }
        }
        if let Some(python) = python {
            ground.initialise(python, work, critical, report).await?;
        }
        return Ok(facts);
    }
}

/// What Django is configured with, and the Python that has told it if there had to be one. Of several that start at
/// once in one environment only the first asks.
async fn know(context: &Context<'_>) -> Result<(Facts, Option<Interpreter>), Error> {
    if let Some(facts) = Facts::kept(context) {
        return Ok((facts, None));
    }
    let _turn = turn(context).await?;
    if let Some(facts) = Facts::kept(context) {
        return Ok((facts, None));
    }
    let (python, facts) = Interpreter::start(context).await?;
    Ok((facts, Some(python)))
}

async fn turn(context: &Context<'_>) -> Result<File, Error> {
    let path = context.environment.root.join(".bots-ctl-facts.lock");
    loop {
        match atomic::try_lock(&path)? {
            Some(file) => return Ok(file),
            None => sleep(TURN_RETRY).await,
        }
    }
}

fn is_done(look: &Look) -> bool {
    look.difference.is_schema_complete() && !look.difference.users && look.difference.findings.is_empty()
}

/// The database that Django is configured with, in the database module's terms.
///
/// # Errors
/// When there is no driver for it, or the URL names another one.
pub(crate) fn settings(config: &Config, facts: &Facts) -> Result<Settings, Error> {
    let database = &facts.database;
    let django = Django {
        engine: &database.engine,
        name: &database.name,
        user: &database.user,
        password: &database.password,
        host: &database.host,
        port: &database.port,
        options: &database.options,
    };
    let url: Option<&DatabaseUrl> = config.database.url.as_ref();
    Ok(Settings::from_django(&django, url)?)
}

fn expected(context: &Context<'_>, facts: &Facts) -> Expected {
    let variant = match context.bots.generation() {
        Generation::Three => Variant::Bots3,
        Generation::Four => Variant::Bots4,
    };
    let index = |key: &Key| Index {
        name: key.name.clone(),
        columns: key.columns.clone(),
        unique: key.unique,
        operators: key.operators.clone(),
    };
    let managed = facts.tables.iter().map(|(name, table)| {
        let indexes = table.keys.iter().map(index).collect();
        (name.clone(), ManagedTable { columns: table.columns.clone(), indexes })
    });
    Expected { variant, managed: managed.collect(), migrations: facts.migrations.clone() }
}

/// What an initialisation stands on.
struct Ground<'a> {
    config: &'a Config,
    context: &'a Context<'a>,
    settings: Settings,
    expected: Expected,
}

impl Ground<'_> {
    async fn check(&self, report: &mut Report) -> Result<(), Error> {
        let mut connection = match &self.settings {
            // A look must not make the file.
            Settings::Sqlite(path) if !path.exists() => {
                report.missing.push(format!("the file {}", path.display()));
                return Ok(());
            }
            Settings::Sqlite(_) => connect(&self.settings, Purpose::Work).await?,
            _ => retry::for_connection(&self.settings, self.config.database.patience()).await?,
        };
        let look = schema::inspect(&mut connection, &self.settings, &self.expected).await;
        connection.close().await;
        let look = look?;
        report.missing = look.difference.missing();
        report.findings = look.difference.findings;
        if look.difference.default_account && !self.config.database.allow_default_password {
            report.findings.push(DEFAULT_ACCOUNT.to_owned());
        }
        Ok(())
    }

    /// Whether a look, which waits for nothing, finds everything in place.
    async fn is_complete(&self) -> Result<bool, Error> {
        let looked = async {
            let mut connection = connect(&self.settings, Purpose::Probe).await?;
            let look = schema::inspect(&mut connection, &self.settings, &self.expected).await;
            connection.close().await;
            look
        };
        match looked.await {
            Ok(look) if is_done(&look) => self.refuse_default_account(&look.difference).map(|()| true),
            _ => Ok(false),
        }
    }

    /// Waits for the lock; a server that goes away meanwhile is waited for like one that is not there yet.
    async fn lock(&self) -> Result<Held, Error> {
        let mut lost = None;
        loop {
            let connection = retry::for_connection(&self.settings, self.config.database.patience()).await?;
            let text = match advisory_lock::wait(&self.settings, Name::Initialisation, connection).await {
                Err(database::Error::Unavailable(text)) => text,
                locked => return Ok(locked?),
            };
            if lost.get_or_insert_with(Instant::now).elapsed() >= self.config.database.patience() {
                return Err(Error::new(Kind::Unavailable, text));
            }
            info!("{text}; trying again for {} s", self.config.database.patience().as_secs_f64());
            sleep(LOST_RETRY).await;
        }
    }

    /// Gets the lock and looks under it; `None` when there is nothing left to do.
    async fn begin(&self, task: Task) -> Result<Option<Begun>, Error> {
        let mut held = self.lock().await?;
        let look = schema::inspect(&mut held.connection, &self.settings, &self.expected).await?;
        if is_done(&look) && !task.superuser {
            held.connection.close().await;
            info!("the {} is complete", self.settings.describe());
            return self.refuse_default_account(&look.difference).map(|()| None);
        }
        let user = match (task.superuser, look.difference.users) {
            (true, _) => Some(UserWork::Update),
            (false, true) => Some(UserWork::First),
            (false, false) => None,
        };
        Ok(Some(Begun { held, look, user }))
    }

    async fn initialise(
        &self,
        python: Interpreter,
        Begun { mut held, look, user }: Begun,
        critical: &Cell<bool>,
        report: &mut Report,
    ) -> Result<(), Error> {
        let begin = Instant::now();
        jobs::make(&self.settings, &mut held.connection).await?;
        run_metrics::make(&mut held.connection, &self.settings).await?;
        critical.set(true);
        let completed = complete(self, &mut held, python, &look, user, report).await;
        critical.set(false);
        let is_success = completed.as_ref().is_ok_and(|left| left.is_schema_complete() && left.findings.is_empty());
        if let Err(error) = run_metrics::add_initialisation(&mut held.connection, &self.settings, is_success).await {
            debug!("{error}");
        }
        held.connection.close().await;
        let left = completed?;
        report.missing = left.missing();
        self.refuse_default_account(&left)?;
        report.findings = left.findings;
        if report.missing.is_empty() && report.findings.is_empty() {
            info!("the {} is ready after {:.2} s", self.settings.describe(), begin.elapsed().as_secs_f64());
        }
        Ok(())
    }

    /// The web UI listens on every address: where others can reach this machine, they could log in.
    fn refuse_default_account(&self, difference: &Difference) -> Result<(), Error> {
        if !difference.default_account || self.config.database.allow_default_password {
            return Ok(());
        }
        let database = self.settings.describe();
        if !network::is_reachable() {
            warn!("the {database} has {DEFAULT_ACCOUNT}; nobody else can reach this machine");
            return Ok(());
        }
        Err(Error::new(Kind::Failed, format!("the {database} has {DEFAULT_ACCOUNT}: {DEFAULT_ACCOUNT_REMEDY}")))
    }
}

/// The lock is ours, and there is something to do.
struct Begun {
    held: Held,
    look: Look,
    user: Option<UserWork>,
}
