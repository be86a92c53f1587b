//! Changes to the database that only Django can make, in the Python process that has loaded the settings: `migrate`,
//! and web users.

use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde_json::json;
use tracing::{info, warn};

use super::Error;
use super::environment::Environment;
use super::python_session::{PythonSession, RequestError};
use crate::config::SuperuserConfig;
use crate::fs::atomic::{fsync_dir, load_or_create_secret};
use crate::random;

/// Length of a generated password: more than 110 bits.
const PASSWORD_LENGTH: usize = 20;

/// Well-known passwords, in lower case.
const WELL_KNOWN: [&str; 14] = [
    "botsbots",
    "bots",
    "admin",
    "administrator",
    "password",
    "passw0rd",
    "secret",
    "changeme",
    "change-me",
    "default",
    "root",
    "123456",
    "12345678",
    "adminadmin",
];

/// A request to Django.
#[derive(Debug, Clone, Copy)]
pub struct MigrateRequest<'a> {
    /// Run `migrate`.
    pub migrate: bool,
    /// An earlier `migrate` may have been interrupted.
    pub finish: bool,
    /// Create or update this web user.
    pub user: Option<(&'a SuperuserConfig, SuperuserAction)>,
}

/// How to create a web user.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SuperuserAction {
    /// Create the user if there is no web user.
    CreateIfNone,
    /// Create the user, or set its password and all permissions.
    Upsert,
}

/// The reply of Django.
#[derive(Debug, Deserialize)]
pub struct MigrateResult {
    /// Steps in their order, with the time each took.
    pub steps: Vec<Step>,
    user: Option<UserChange>,
}

/// The change of a web user.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum UserChange {
    Created,
    Updated,
    Kept,
}

/// One step.
#[derive(Debug, Clone, Deserialize)]
pub struct Step {
    pub step: String,
    pub seconds: f64,
}

/// Sends the request for the database described by `database`; Django's output goes to the log.
pub async fn run(
    python: &mut PythonSession,
    environment: &Environment,
    database: &str,
    work: MigrateRequest<'_>,
) -> Result<MigrateResult, Error> {
    let password = work.user.map(|(user, _)| load_or_generate_password(user, environment)).transpose()?;
    let user = work.user.zip(password.as_ref()).map(|((user, what), password)| {
        json!({
            "username": user.username,
            "email": user.email.as_deref().unwrap_or_default(),
            "password": password.expose_secret(),
            "update": what == SuperuserAction::Upsert,
        })
    });
    let request = json!({ "migrate": work.migrate, "finish": work.finish, "user": user });
    let reply = python.request_logged(&request).await.map_err(|error| {
        let resume = if matches!(error, RequestError::Ended(..)) { "; rerun init-db to resume" } else { "" };
        error.to_error(format!("Django could not complete the {database}: {error}{resume}"))
    })?;
    let done: MigrateResult = serde_json::from_value(reply)
        .map_err(|error| Error::Failed(format!("cannot parse the result of Django's migrate: {error}")))?;
    if let Some(((user, _), password)) = work.user.zip(password) {
        log_superuser(user, done.user, &password, environment);
    }
    Ok(done)
}

/// Rejects a well-known password: it would give any client access to the web UI.
///
/// # Errors
/// If the configured password is well known, or missing although `must_be_set`.
pub fn check_password(user: &SuperuserConfig, must_be_set: bool) -> Result<(), Error> {
    let Some(password) = &user.password else {
        return match must_be_set {
            true => {
                Err(Error::fault("--superuser needs a password: set SUPERUSER_PASSWORD or SUPERUSER_PASSWORD_FILE"))
            }
            false => Ok(()),
        };
    };
    let password = password.expose_secret().trim().to_lowercase();
    if password.is_empty() || password == user.username.to_lowercase() || WELL_KNOWN.contains(&password.as_str()) {
        return Err(Error::fault(
            "SUPERUSER_PASSWORD is empty, equal to the user name or a well-known password: choose another one",
        ));
    }
    Ok(())
}

/// The configured password, else a random one. It is on disk before the user exists, so that an interruption in between
/// does not lock out the user.
fn load_or_generate_password(superuser: &SuperuserConfig, environment: &Environment) -> Result<SecretString, Error> {
    if let Some(password) = &superuser.password {
        return Ok(password.clone());
    }
    let made = format!("{}\n", random::alphanumeric(PASSWORD_LENGTH));
    let saved = load_or_create_secret(&environment.admin_password_file(), &made, "password")?;
    // Another process may have created the file and died before the fsync.
    fsync_dir(&environment.root)?;
    Ok(SecretString::from(saved))
}

/// The only place where a secret is logged: otherwise no user could log in.
fn log_superuser(
    superuser: &SuperuserConfig,
    change: Option<UserChange>,
    password: &SecretString,
    environment: &Environment,
) {
    let name = &superuser.username;
    match (change, &superuser.password) {
        (Some(UserChange::Created), Some(_)) => info!("created web user {name} with the configured password"),
        (Some(UserChange::Created), None) => warn!(
            "created web user {name} with password {}; it is shown only once and kept in {}",
            password.expose_secret(),
            environment.admin_password_file().display()
        ),
        (Some(UserChange::Updated), _) => info!("updated web user {name}"),
        (Some(UserChange::Kept) | None, _) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(password: Option<&str>) -> SuperuserConfig {
        let password = password.map(|password| SecretString::from(password.to_owned()));
        SuperuserConfig { username: "Boss".to_owned(), email: None, password }
    }

    #[test]
    fn well_known_passwords_are_rejected() {
        for wrong in ["", " ", "botsbots", "BotsBots", "boss", "admin", "password "] {
            assert!(check_password(&user(Some(wrong)), false).is_err(), "{wrong:?}");
        }
        assert!(check_password(&user(Some("b0ts-and-b0ts")), true).is_ok());
        assert!(check_password(&user(None), false).is_ok());
        assert!(check_password(&user(None), true).is_err());
    }
}
