//! The steps to a complete database, under the lock: each is recorded in the database before it is taken.

use std::time::{Duration, Instant};

use tracing::info;

use crate::bots::context::BotsContext;
use crate::bots::migrate::{self, MigrateRequest, SuperuserAction};
use crate::bots::python_session::PythonSession;
use crate::config::Config;
use crate::database::DatabaseConfig;
use crate::database::advisory_lock::LockSession;
use crate::database::init_progress::{self, InitProgress};
use crate::database::schema::desired::{self, DesiredSchema};
use crate::database::schema::diff::SchemaDiff;
use crate::database::schema::{self, Inspection, apply};
use crate::exit::Error;

use super::report::Report;

/// Django's own tables: they hold no work of users.
const DJANGO_INTERNAL_TABLES: [&str; 3] = ["django_migrations", "django_content_type", "auth_permission"];

/// One initialisation of a database.
pub(crate) struct InitDb<'a> {
    pub config: &'a Config,
    pub context: &'a BotsContext<'a>,
    pub settings: DatabaseConfig,
    pub expected: DesiredSchema,
}

/// Executes all necessary steps; returns the remaining defects.
pub(crate) async fn complete(
    init: &InitDb<'_>,
    session: &mut LockSession,
    mut python: PythonSession,
    inspection: &Inspection,
    user: Option<SuperuserAction>,
    report: &mut Report,
) -> Result<SchemaDiff, Error> {
    migrate::check_password(&init.config.superuser, false)?;
    let mut steps = Steps { init, session, report, progress: first_progress(inspection) };
    let cleared = steps.reset_interrupted_first_run(inspection).await?;
    let inspected = cleared.as_ref().unwrap_or(inspection);
    steps.create_unmanaged_tables(inspected).await?;
    steps.migrate(&mut python, inspected, user).await?;
    let unfixed = steps.apply_fixes().await?;
    steps.write("done", true).await?;
    Ok(unfixed)
}

/// A run on an empty database is the first one; so is a run that resumes an interrupted first run.
fn first_progress(inspection: &Inspection) -> InitProgress {
    let goes_on = inspection.progress.as_ref().is_some_and(|progress| progress.first_run && !progress.finished);
    InitProgress { first_run: inspection.difference.is_empty || goes_on, ..InitProgress::default() }
}

struct Steps<'a> {
    init: &'a InitDb<'a>,
    session: &'a mut LockSession,
    report: &'a mut Report,
    progress: InitProgress,
}

impl Steps<'_> {
    fn settings(&self) -> &DatabaseConfig {
        &self.init.settings
    }

    async fn write(&mut self, step: &str, finished: bool) -> Result<(), Error> {
        step.clone_into(&mut self.progress.step);
        self.progress.finished = finished;
        init_progress::write(&mut self.session.connection, &self.progress).await?;
        Ok(())
    }

    /// Clears the tables of an interrupted first run, on a server without transactional DDL: if none of them has a row,
    /// starting over loses no data and is safer than resuming. Returns a new inspection.
    async fn reset_interrupted_first_run(&mut self, inspection: &Inspection) -> Result<Option<Inspection>, Error> {
        let was_cut = inspection.progress.as_ref().is_some_and(|progress| progress.first_run && !progress.finished);
        if !was_cut || !matches!(self.settings(), DatabaseConfig::Mysql(_)) || !inspection.difference.needs_migrate() {
            return Ok(None);
        }
        let ours = self.init.expected.tables(&inspection.catalogue);
        if ours.is_empty() {
            return Ok(None);
        }
        let business = ours.iter().map(String::as_str).filter(|name| !DJANGO_INTERNAL_TABLES.contains(name));
        if schema::any_rows(&mut self.session.connection, &inspection.catalogue, business).await? {
            return Ok(None);
        }
        let begin = Instant::now();
        self.write("clear", false).await?;
        apply::drop_tables(&mut self.session.connection, &ours).await?;
        self.report.step("clearing the tables of an interrupted first run", begin.elapsed());
        self.inspect().await.map(Some)
    }

    /// Before Django's migrations: with Bots 3.3.1 these would create the tables without the required defaults.
    async fn create_unmanaged_tables(&mut self, inspection: &Inspection) -> Result<(), Error> {
        let tables = &inspection.difference.unmanaged;
        if tables.is_empty() {
            return Ok(());
        }
        let begin = Instant::now();
        self.write("tables", false).await?;
        apply::create_tables(&mut self.session.connection, &inspection.catalogue, tables).await?;
        let names: Vec<&str> = tables.iter().map(|table| table.name.as_str()).collect();
        self.report.step(&format!("making {}", names.join(", ")), begin.elapsed());
        Ok(())
    }

    async fn migrate(
        &mut self,
        python: &mut PythonSession,
        inspection: &Inspection,
        user: Option<SuperuserAction>,
    ) -> Result<(), Error> {
        let difference = &inspection.difference;
        let was_finished = inspection.progress.as_ref().is_some_and(|progress| progress.finished);
        // Only a database without transactional DDL can be left half-way.
        let finish = !difference.is_empty && !was_finished && matches!(self.settings(), DatabaseConfig::Mysql(_));
        let migrate = difference.needs_migrate();
        if !migrate && user.is_none() {
            return Ok(());
        }
        if migrate {
            self.write("migrate", false).await?;
            info!("running Django's migrate");
        }
        let user = user.map(|what| (&self.init.config.superuser, what));
        let (environment, database) = (self.init.context.environment, self.settings().describe());
        let done = migrate::run(python, environment, &database, MigrateRequest { migrate, finish, user }).await?;
        for step in &done.steps {
            self.report.step(&step.step, Duration::try_from_secs_f64(step.seconds).unwrap_or_default());
        }
        self.session.check().await?;
        Ok(())
    }

    /// Repairs the defects that can be repaired; returns the others. A failed repair does not prevent the next one.
    async fn apply_fixes(&mut self) -> Result<SchemaDiff, Error> {
        let mut inspection = self.inspect().await?;
        if inspection.difference.repairs.is_empty() {
            return Ok(inspection.difference);
        }
        let begin = Instant::now();
        self.write("repair", false).await?;
        if self.recreate_empty_tables(&inspection).await? {
            inspection = self.inspect().await?;
        }
        let mut failures = Vec::new();
        for repair in &inspection.difference.repairs {
            match apply::apply(&mut self.session.connection, repair).await {
                Ok(()) => info!("{}", repair.done()),
                Err(error) => failures.push(error.to_string()),
            }
        }
        self.report.step("repair", begin.elapsed());
        inspection = self.inspect().await?;
        inspection.difference.manual_fixes.extend(failures);
        Ok(inspection.difference)
    }

    /// Recreates unmanaged tables that Django has made, without the defaults, and that hold no row.
    async fn recreate_empty_tables(&mut self, inspection: &Inspection) -> Result<bool, Error> {
        let InitDb { settings, expected, .. } = self.init;
        let all = desired::unmanaged(settings, expected.version);
        let mut empty = Vec::new();
        for table in all.iter().filter(|table| inspection.difference.lacks_defaults(&table.name)) {
            // Reports refer to the numbers of `ta`, which must not start over.
            let filled =
                if table.name == "ta" { vec!["ta", "report", "filereport"] } else { vec![table.name.as_str()] };
            if !schema::any_rows(&mut self.session.connection, &inspection.catalogue, filled.into_iter()).await? {
                empty.push(table);
            }
        }
        if empty.is_empty() {
            return Ok(false);
        }
        apply::recreate_tables(&mut self.session.connection, &empty).await?;
        let names: Vec<&str> = empty.iter().map(|table| table.name.as_str()).collect();
        info!("recreated {} with the defaults that Bots needs", names.join(", "));
        Ok(true)
    }

    async fn inspect(&mut self) -> Result<Inspection, Error> {
        Ok(schema::inspect(&mut self.session.connection, &self.init.expected).await?)
    }
}
