//! `init-db`: makes or completes the database, and the first web user.

use std::cell::Cell;

use tracing::{debug, info};

use crate::bots::Generation;
use crate::bots::django::{Context, Facts};
use crate::bots::migrate;
use crate::cli::Global;
use crate::config::Config;
use crate::database::connect::Purpose;
use crate::database::schema::{self, Missing, Variant, Wanted};
use crate::database::{Settings, lock};
use crate::exit::{Error, Kind, Outcome};

use super::{child_variables, find_bots, load_config, prepare, until_stopped, with_session};

/// Runs the command.
///
/// # Errors
/// What went wrong, with code 1 for the database and 78 for the configuration.
pub fn run(global: &Global) -> Result<Outcome, Error> {
    with_session(load_config(global, Vec::new())?, async |mut session| {
        let (config, reaper) = (&session.config, &session.reaper);
        let bots = find_bots(config, reaper).await?;
        let critical = Cell::new(false);
        let initialising = async {
            let variables = child_variables(config, Some(&bots.bin_dir));
            let environment = prepare(config, &bots).await?;
            let context = Context { reaper, bots: &bots, environment: &environment, variables: &variables };
            settle(config, &context, &critical).await.map_err(as_failed)
        };
        match until_stopped(&mut session.signals, &critical, initialising).await {
            Ok(settled) => settled.map(|_| Outcome::Success),
            Err(exit) => Ok(Outcome::Child(exit.code())),
        }
    })
}

/// The command's own code for a database that cannot be used is 1.
fn as_failed(error: Error) -> Error {
    match error.kind() {
        Kind::Unavailable => Error::all(Kind::Failed, error.faults().to_vec()),
        _ => error,
    }
}

/// Learns what Django is configured with and sees to it that the database is complete.
///
/// An answer that is kept from an earlier start only ever leads to "nothing to do": before anything is changed,
/// Python is asked anew. `critical` is set while the schema is being changed.
///
/// # Errors
/// See [`run`].
pub(super) async fn settle(config: &Config, context: &Context<'_>, critical: &Cell<bool>) -> Result<Facts, Error> {
    if let Some(facts) = Facts::kept(context) {
        let settings = settings(&facts)?;
        let looked = schema::inspect(&settings, &wanted(&facts), Purpose::Probe).await;
        if looked.is_ok_and(|missing| missing.is_schema_complete() && !missing.users) {
            debug!("{} is complete", settings.describe());
            return Ok(facts);
        }
    }
    let facts = Facts::ask(context).await?;
    initialise(config, context, &facts, critical).await?;
    Ok(facts)
}

/// The database that Django is configured with, in the database module's terms.
///
/// # Errors
/// When this version has no driver for it.
pub(super) fn settings(facts: &Facts) -> Result<Settings, Error> {
    Ok(Settings::from_django(&facts.database.engine, &facts.database.name)?)
}

fn wanted(facts: &Facts) -> Wanted<'_> {
    Wanted { tables: &facts.tables, migrations: &facts.migrations }
}

async fn initialise(config: &Config, context: &Context<'_>, facts: &Facts, critical: &Cell<bool>) -> Result<(), Error> {
    let settings = settings(facts)?;
    let _lock = lock::for_initialisation(&settings).await?;
    let missing = schema::inspect(&settings, &wanted(facts), Purpose::Initialise).await?;
    refuse_damaged(&settings, &missing)?;
    if missing.is_schema_complete() && !missing.users {
        info!("{} is complete", settings.describe());
        return Ok(());
    }
    critical.set(true);
    let completed = complete(config, context, &settings, &missing).await;
    critical.set(false);
    completed?;
    let left = schema::inspect(&settings, &wanted(facts), Purpose::Initialise).await?;
    if !left.is_schema_complete() {
        let text = format!("the {} still lacks {} after migrate", settings.describe(), left.names());
        return Err(Error::new(Kind::Failed, text));
    }
    info!("{} is ready", settings.describe());
    Ok(())
}

async fn complete(config: &Config, context: &Context<'_>, settings: &Settings, missing: &Missing) -> Result<(), Error> {
    if !missing.unmanaged.is_empty() {
        // Before Django's turn: with Bots 3.3.1 it would make them itself, without the defaults they need.
        schema::make_unmanaged(settings, variant(context)).await?;
        info!("made the tables {}", missing.unmanaged.join(", "));
    }
    if missing.needs_migrate() || missing.users {
        let first_user = missing.users.then_some(&config.superuser);
        migrate::run(context, missing.needs_migrate(), first_user).await?;
    }
    Ok(())
}

fn refuse_damaged(settings: &Settings, missing: &Missing) -> Result<(), Error> {
    if !missing.ta_defaults {
        return Ok(());
    }
    let text = format!(
        "the table ta in the {} was made by Django, without the column defaults that the engine needs; move the file \
         away to begin with an empty database, or remake the table with Bots's own statements",
        settings.describe()
    );
    Err(Error::new(Kind::Failed, text))
}

fn variant(context: &Context<'_>) -> Variant {
    match context.bots.generation() {
        Generation::Three => Variant::Bots3,
        Generation::Four => Variant::Bots4,
    }
}
