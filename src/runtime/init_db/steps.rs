//! The way from what is there to what should be, under the lock: each step is noted in the database before it is taken.

use std::time::{Duration, Instant};

use tracing::info;

use crate::bots::migrate;
use crate::bots::migrate::{Migrate, UserWork, Work};
use crate::bots::python_session::Interpreter;
use crate::database::Settings;
use crate::database::advisory_lock::Held;
use crate::database::init_progress;
use crate::database::init_progress::Note;
use crate::database::schema;
use crate::database::schema::Look;
use crate::database::schema::diff::Difference;
use crate::database::schema::{apply, desired};
use crate::exit::Error;

use super::Ground;
use super::report::Report;

/// Django's own books: what is in them says nothing of anybody's work.
const BOOKKEEPING: [&str; 3] = ["django_migrations", "django_content_type", "auth_permission"];

/// Takes every step that is needed; the answer is what is left.
pub(crate) async fn complete(
    ground: &Ground<'_>,
    held: &mut Held,
    mut python: Interpreter,
    look: &Look,
    user: Option<UserWork>,
    report: &mut Report,
) -> Result<Difference, Error> {
    migrate::check_password(&ground.config.superuser, false)?;
    let mut steps = Steps { ground, held, report, note: first_note(look), has_notes: look.has_notes };
    let cleared = steps.clear_first_run(look).await?;
    let look = cleared.as_ref().unwrap_or(look);
    steps.make_unmanaged(look).await?;
    steps.migrate(&mut python, look, user).await?;
    let left = steps.mend().await?;
    steps.write("done", true).await?;
    Ok(left)
}

/// A run that begins with nothing is the first; so is one that goes on where such a run was cut off.
fn first_note(look: &Look) -> Note {
    let goes_on = look.note.as_ref().is_some_and(|note| note.first_run && !note.finished);
    Note { first_run: look.difference.is_empty || goes_on, ..Note::default() }
}

struct Steps<'a> {
    ground: &'a Ground<'a>,
    held: &'a mut Held,
    report: &'a mut Report,
    note: Note,
    has_notes: bool,
}

impl Steps<'_> {
    fn settings(&self) -> &Settings {
        &self.ground.settings
    }

    async fn write(&mut self, step: &str, finished: bool) -> Result<(), Error> {
        step.clone_into(&mut self.note.step);
        self.note.finished = finished;
        init_progress::write(&mut self.held.connection, &self.ground.settings, self.has_notes, &self.note).await?;
        self.has_notes = true;
        Ok(())
    }

    /// A first run that was cut off on a server that cannot take back what it has begun: with no row in any of its
    /// tables there is nothing to lose, and to begin again is surer than to go on. The answer is a new look.
    async fn clear_first_run(&mut self, look: &Look) -> Result<Option<Look>, Error> {
        let was_cut = look.note.as_ref().is_some_and(|note| note.first_run && !note.finished);
        if !was_cut || !matches!(self.settings(), Settings::Mysql(_)) || !look.difference.needs_migrate() {
            return Ok(None);
        }
        let Ground { settings, expected, .. } = self.ground;
        let ours = expected.tables(&look.catalogue);
        if ours.is_empty() {
            return Ok(None);
        }
        let business = ours.iter().map(String::as_str).filter(|name| !BOOKKEEPING.contains(name));
        if schema::any_rows(&mut self.held.connection, settings, &look.catalogue, business).await? {
            return Ok(None);
        }
        let begin = Instant::now();
        self.write("clear", false).await?;
        apply::clear(&mut self.held.connection, settings, &ours).await?;
        self.report.step("clearing what an interrupted first run has left", begin);
        self.look().await.map(Some)
    }

    /// Before Django's turn: with Bots 3.3.1 it would make them itself, without the defaults they need.
    async fn make_unmanaged(&mut self, look: &Look) -> Result<(), Error> {
        let tables = &look.difference.unmanaged;
        if tables.is_empty() {
            return Ok(());
        }
        let begin = Instant::now();
        self.write("tables", false).await?;
        apply::make(&mut self.held.connection, &self.ground.settings, &look.catalogue, tables).await?;
        let names: Vec<&str> = tables.iter().map(|table| table.name.as_str()).collect();
        self.report.step(&format!("making {}", names.join(", ")), begin);
        Ok(())
    }

    async fn migrate(&mut self, python: &mut Interpreter, look: &Look, user: Option<UserWork>) -> Result<(), Error> {
        let difference = &look.difference;
        let was_finished = look.note.as_ref().is_some_and(|note| note.finished);
        // Only a database that cannot take back what was begun can be left half-way.
        let finish = !difference.is_empty && !was_finished && matches!(self.settings(), Settings::Mysql(_));
        let migrate = difference.needs_migrate().then_some(Migrate { finish });
        if migrate.is_none() && user.is_none() {
            return Ok(());
        }
        if migrate.is_some() {
            self.write("migrate", false).await?;
            info!("running Django's migrate");
        }
        let user = user.map(|what| (&self.ground.config.superuser, what));
        let environment = self.ground.context.environment;
        let done = migrate::run(python, environment, &self.settings().describe(), Work { migrate, user }).await?;
        for step in &done.steps {
            self.report.step_of(&step.step, Duration::try_from_secs_f64(step.seconds).unwrap_or_default());
        }
        self.held.check(&self.ground.settings).await?;
        Ok(())
    }

    /// Mends what can be mended; the answer is what is left. What fails does not keep the rest from being tried.
    async fn mend(&mut self) -> Result<Difference, Error> {
        let mut look = self.look().await?;
        if look.difference.repairs.is_empty() {
            return Ok(look.difference);
        }
        let begin = Instant::now();
        self.write("repair", false).await?;
        if self.remake(&look).await? {
            look = self.look().await?;
        }
        let mut failures = Vec::new();
        for repair in &look.difference.repairs {
            match apply::mend(&mut self.held.connection, &self.ground.settings, repair).await {
                Ok(()) => info!("{}", repair.done()),
                Err(error) => failures.push(error.to_string()),
            }
        }
        self.report.step("repair", begin);
        look = self.look().await?;
        look.difference.findings.extend(failures);
        Ok(look.difference)
    }

    /// Makes unmanaged tables anew that Django has made, without the defaults, and that hold no row.
    async fn remake(&mut self, look: &Look) -> Result<bool, Error> {
        let Ground { settings, expected, .. } = self.ground;
        let all = desired::unmanaged(settings, expected.variant);
        let mut empty = Vec::new();
        for table in all.iter().filter(|table| look.difference.lacks_defaults(&table.name)) {
            // Reports refer to the numbers of `ta`, which must not begin anew under them.
            let filled =
                if table.name == "ta" { vec!["ta", "report", "filereport"] } else { vec![table.name.as_str()] };
            if !schema::any_rows(&mut self.held.connection, settings, &look.catalogue, filled.into_iter()).await? {
                empty.push(table);
            }
        }
        if empty.is_empty() {
            return Ok(false);
        }
        apply::remake(&mut self.held.connection, settings, &empty).await?;
        let names: Vec<&str> = empty.iter().map(|table| table.name.as_str()).collect();
        info!("made {} anew, with the defaults that Bots needs", names.join(", "));
        Ok(true)
    }

    async fn look(&mut self) -> Result<Look, Error> {
        let Ground { settings, expected, .. } = self.ground;
        Ok(schema::inspect(&mut self.held.connection, settings, expected).await?)
    }
}
