//! `init-db`: makes or completes the database, and the first web user.

use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use tracing::{debug, info, warn};

use crate::bots::django::{Context, Facts, python};
use crate::bots::environment::{Environment, random_text};
use crate::bots::{Generation, files};
use crate::cli::Global;
use crate::config::{Config, Superuser};
use crate::database::connect::Purpose;
use crate::database::schema::{self, Missing, Variant, Wanted};
use crate::database::{Settings, lock};
use crate::exit::{Error, Kind, Outcome};
use crate::process::Exit;
use crate::process::capture::capture;

use super::{child_variables, find_bots, load_config, prepare, with_session};

const SCRIPT: &str = include_str!("../bots/python/init_db.py");

/// Length of a generated password: more than 110 bits.
const PASSWORD_LENGTH: usize = 20;

#[derive(Serialize)]
struct Request<'a> {
    migrate: bool,
    superuser: Option<NewUser<'a>>,
}

#[derive(Serialize)]
struct NewUser<'a> {
    username: &'a str,
    email: &'a str,
    password: &'a str,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Answer {
    Fault { fault: String },
    Done { superuser_created: bool },
}

/// Runs the command.
///
/// # Errors
/// What went wrong, with code 1 for the database and 78 for the configuration.
pub fn run(global: &Global) -> Result<Outcome, Error> {
    with_session(load_config(global, Vec::new())?, async |session| {
        let bots = find_bots(&session).await?;
        let variables = child_variables(&session.config, Some(&bots.bin_dir));
        let environment = prepare(&session.config, &bots).await?;
        let context =
            Context { reaper: &session.reaper, bots: &bots, environment: &environment, variables: &variables };
        settle(&session.config, &context).await.map_err(|error| match error.kind() {
            Kind::Unavailable => Error::all(Kind::Failed, error.faults().to_vec()),
            _ => error,
        })?;
        Ok(Outcome::Success)
    })
}

/// Learns what Django is configured with and sees to it that the database is complete.
///
/// An answer that is kept from an earlier start only ever leads to "nothing to do": before anything is changed,
/// Python is asked anew.
///
/// # Errors
/// See [`run`].
pub(super) async fn settle(config: &Config, context: &Context<'_>) -> Result<Facts, Error> {
    if let Some(facts) = Facts::kept(context) {
        let settings = settings(&facts)?;
        let looked = schema::inspect(&settings, &wanted(&facts), Purpose::Probe).await;
        if looked.is_ok_and(|missing| missing.is_schema_complete() && !missing.users) {
            debug!("{} is complete", settings.describe());
            return Ok(facts);
        }
    }
    let facts = Facts::ask(context).await?;
    initialise(config, context, &facts).await?;
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

async fn initialise(config: &Config, context: &Context<'_>, facts: &Facts) -> Result<(), Error> {
    let settings = settings(facts)?;
    let _lock = lock::for_initialisation(&settings).await?;
    let missing = schema::inspect(&settings, &wanted(facts), Purpose::Initialise).await?;
    refuse_damaged(&settings, &missing)?;
    if missing.is_schema_complete() && !missing.users {
        info!("{} is complete", settings.describe());
        return Ok(());
    }
    if !missing.unmanaged.is_empty() {
        // Before Django's turn: with Bots 3.3.1 it would make them itself, without the defaults they need.
        schema::make_unmanaged(&settings, variant(context)).await?;
        info!("made the tables {}", missing.unmanaged.join(", "));
    }
    if missing.needs_migrate() || missing.users {
        run_django(config, context, &missing).await?;
    }
    let left = schema::inspect(&settings, &wanted(facts), Purpose::Initialise).await?;
    if !left.is_schema_complete() {
        let text = format!("the {} still lacks {} after migrate", settings.describe(), left.names());
        return Err(Error::new(Kind::Failed, text));
    }
    info!("{} is ready", settings.describe());
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

async fn run_django(config: &Config, context: &Context<'_>, missing: &Missing) -> Result<(), Error> {
    let user = if missing.users { Some(first_user(&config.superuser, context.environment)?) } else { None };
    let request = Request {
        migrate: missing.needs_migrate(),
        superuser: user.as_ref().map(|password| NewUser {
            username: &config.superuser.username,
            email: config.superuser.email.as_deref().unwrap_or_default(),
            password: password.expose_secret(),
        }),
    };
    let created = ask_django(context, &request).await?;
    if created {
        announce(&config.superuser, user.as_ref(), context.environment);
    }
    Ok(())
}

/// Runs the request in Python; what it prints goes to our log.
async fn ask_django(context: &Context<'_>, request: &Request<'_>) -> Result<bool, Error> {
    if request.migrate {
        info!("running Django's migrate");
    }
    let input = serde_json::to_vec(request).map_err(|error| super::internal(&error))?;
    let spec = python(context, SCRIPT).arg(&context.environment.config);
    let captured = capture(context.reaper, &spec, &input).await?;
    let printed = String::from_utf8_lossy(&captured.stdout);
    let (log, answer) = printed.trim_end().rsplit_once('\n').unwrap_or(("", printed.trim_end()));
    for line in log.lines().filter(|line| !line.trim().is_empty()) {
        info!("migrate: {}", line.trim());
    }
    match serde_json::from_str(answer) {
        Ok(Answer::Done { superuser_created }) if captured.exit == Exit::Code(0) => Ok(superuser_created),
        Ok(Answer::Fault { fault }) => {
            debug!("{}", captured.stderr);
            Err(Error::new(Kind::Failed, format!("Django could not complete the database: {fault}")))
        }
        _ => {
            let reason = captured.stderr.trim().lines().last().unwrap_or("it said nothing").to_owned();
            Err(Error::new(Kind::Failed, format!("Django's migrate ended with {}: {reason}", captured.exit)))
        }
    }
}

/// The configured password, else a random one. It is on disk before the user exists, so that a stop between the
/// two leaves nobody locked out.
fn first_user(superuser: &Superuser, environment: &Environment) -> Result<SecretString, Error> {
    if let Some(password) = &superuser.password {
        return Ok(password.clone());
    }
    let file = environment.admin_password_file();
    files::create_once(&file, format!("{}\n", random_text(PASSWORD_LENGTH)).as_bytes(), 0o600)?;
    let kept = std::fs::read_to_string(&file).map_err(|error| files::explain("read", &file, &error))?;
    Ok(SecretString::from(kept.trim_end().to_owned()))
}

/// The one place where a secret is shown, and the one time: nobody could log in otherwise.
fn announce(superuser: &Superuser, password: Option<&SecretString>, environment: &Environment) {
    let name = &superuser.username;
    match (&superuser.password, password) {
        (None, Some(password)) => warn!(
            "made the web user {name} with password {}; this is shown once and kept in {}",
            password.expose_secret(),
            environment.admin_password_file().display()
        ),
        _ => info!("made the web user {name} with the configured password"),
    }
}
