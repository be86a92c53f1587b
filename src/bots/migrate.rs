//! What only Django can do to the database, in one start of Python: `migrate`, and the first web user.

use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use tracing::{debug, info, warn};

use super::Error;
use super::django::{Context, python};
use super::environment::{Environment, random_text};
use super::files::{create_once, explain};
use crate::config::Superuser;
use crate::process::Exit;
use crate::process::capture::{Captured, capture};

const SCRIPT: &str = include_str!("python/init_db.py");

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
    Fault { fault: String, traceback: String },
    Done { superuser_created: bool },
}

/// Runs `migrate` if asked to, and makes the first web user if there is none and `superuser` is given.
///
/// # Errors
/// What Django says.
pub async fn run(context: &Context<'_>, migrate: bool, superuser: Option<&Superuser>) -> Result<(), Error> {
    let password = superuser.map(|user| first_password(user, context.environment)).transpose()?;
    let new_user = superuser.zip(password.as_ref()).map(|(user, password)| NewUser {
        username: &user.username,
        email: user.email.as_deref().unwrap_or_default(),
        password: password.expose_secret(),
    });
    if migrate {
        info!("running Django's migrate");
    }
    let created = ask(context, &Request { migrate, superuser: new_user }).await?;
    if let Some((user, password)) = superuser.zip(password).filter(|_| created) {
        announce(user, &password, context.environment);
    }
    Ok(())
}

/// Runs the request in Python; what it prints goes to our log. There is no time limit: a migration that is cut in
/// the middle may leave a database that no later one can complete.
async fn ask(context: &Context<'_>, request: &Request<'_>) -> Result<bool, Error> {
    let input = serde_json::to_vec(request).map_err(|error| Error::Failed(error.to_string()))?;
    let spec = python(context, SCRIPT).arg(&context.environment.config);
    let captured = capture(context.reaper, &spec, &input).await.map_err(|error| Error::Failed(error.to_string()))?;
    for line in captured.stderr.lines().filter(|line| !line.trim().is_empty()) {
        info!("migrate: {}", line.trim());
    }
    match serde_json::from_slice(&captured.stdout) {
        Ok(Answer::Done { superuser_created }) if captured.exit == Some(Exit::Code(0)) => Ok(superuser_created),
        Ok(Answer::Fault { fault, traceback }) => {
            debug!("{traceback}");
            Err(Error::Failed(format!("Django could not complete the database: {fault}")))
        }
        _ => Err(Error::Failed(broken_off(&captured))),
    }
}

fn broken_off(captured: &Captured) -> String {
    let reason = captured.stderr.trim().lines().last().unwrap_or("it said nothing");
    let end = captured.exit.map_or_else(|| "at a time limit".to_owned(), |exit| format!("with {exit}"));
    format!("Django's migrate ended {end}: {reason}")
}

/// The configured password, else a random one. It is on disk before the user exists, so that a stop between the
/// two leaves nobody locked out.
fn first_password(superuser: &Superuser, environment: &Environment) -> Result<SecretString, Error> {
    if let Some(password) = &superuser.password {
        return Ok(password.clone());
    }
    let file = environment.admin_password_file();
    create_once(&file, format!("{}\n", random_text(PASSWORD_LENGTH)).as_bytes(), 0o600)?;
    let kept = std::fs::read_to_string(&file).map_err(|error| explain("read", &file, &error))?;
    match kept.trim_end() {
        "" => Err(Error::fault(format!("{} is empty: remove it, and a new password is made", file.display()))),
        password => Ok(SecretString::from(password.to_owned())),
    }
}

/// The one place where a secret is shown, and the one time: nobody could log in otherwise.
fn announce(superuser: &Superuser, password: &SecretString, environment: &Environment) {
    let name = &superuser.username;
    match superuser.password {
        Some(_) => info!("made the web user {name} with the configured password"),
        None => warn!(
            "made the web user {name} with password {}; this is shown once and kept in {}",
            password.expose_secret(),
            environment.admin_password_file().display()
        ),
    }
}
