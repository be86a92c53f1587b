//! The environment variables that lead any program of Bots, and any Python of it, to one environment.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use secrecy::{ExposeSecret, SecretString};

use super::{Error, engine_shim};
use crate::config::Config;
use crate::config::database::normalise_engine;
use crate::config::keys::JOBQUEUE_URL_ENV;
use crate::config::setting::CONFIG_FILE_ENV;
use crate::process::child::ProcessSpec;

/// Secrets that no service has a use for.
const BOTSCTL_ONLY_VARS: [&str; 6] = [
    "SUPERUSER_PASSWORD",
    "SUPERUSER_PASSWORD_FILE",
    "BOTS_CTL_DATABASE_URL",
    "BOTS_CTL_DATABASE_URL_FILE",
    "BOTS_CTL_JOBQUEUE_TOKEN",
    "BOTS_CTL_JOBQUEUE_TOKEN_FILE",
];

/// Secrets that settings.py reads.
const SECRETS: [&str; 3] = ["DB_PASSWORD", "DJANGO_SECRET_KEY", "EMAIL_HOST_PASSWORD"];

/// Variables that every child gets in addition to those of bots-ctl. Not `Debug`: some are secrets.
#[derive(Clone)]
pub struct ChildEnv(pub Vec<(String, OsString)>);

impl ChildEnv {
    /// The variables for programs of Bots in `bin_dir`, or for any program if Bots is not installed. `temporary` is a
    /// directory for temporary files, if the default one is not writable.
    pub fn new(config: &Config, bin_dir: Option<&Path>, temporary: Option<PathBuf>) -> Self {
        let config_dir = &config.environment.config_dir;
        let module = format!("{}.settings", config_dir.file_name().unwrap_or_default().to_string_lossy());
        let root = config.environment_root();
        let links = engine_shim::directory(root);
        let modules = [links.as_path(), root];
        let python_path = prepend(if bin_dir.is_some() { &modules } else { &modules[1..] }, "PYTHONPATH");
        let mut all: Vec<(String, OsString)> = vec![
            ("BOTS_CONFIG_DIR".into(), config_dir.into()),
            ("DJANGO_SETTINGS_MODULE".into(), module.into()),
            ("PYTHONUNBUFFERED".into(), "1".into()),
            ("HOME".into(), config.home.clone().into()),
            ("PYTHONPATH".into(), python_path),
        ];
        // settings.py of Bots 3.3.1 names its directories after BOTSENV only if it is set.
        let name = config.is_given("environment.name").then(|| config.environment.name.clone());
        all.extend(name.map(|name| ("BOTSENV".into(), name.into())));
        all.extend(bin_dir.map(|bin_dir| ("PATH".into(), prepend(&[&links, bin_dir], "PATH"))));
        all.extend(temporary.map(|temporary| ("TMPDIR".into(), temporary.into())));
        if let Some(file) = &config.file {
            // An engine that a service starts is bots-ctl again, possibly with another working directory.
            let file = std::path::absolute(file).unwrap_or_else(|_| file.clone());
            all.push((CONFIG_FILE_ENV.into(), file.into()));
        }
        // These override values of bots.ini, which may be on a volume shared with pods that have other values.
        all.extend(config.webserver.port.map(|port| ("PORT".into(), port.to_string().into())));
        let queue = config.jobqueue.url.as_ref().map(|queue| format!("http://{}{}", queue.authority, queue.path));
        all.extend(queue.map(|url| (JOBQUEUE_URL_ENV.into(), url.into())));
        all.extend(settings_env(config));
        // bots-ctl reports these faults; Python would report them a second time.
        for wrong in config.effective_settings.iter().filter(|known| known.is_wrong) {
            all.push((wrong.setting.env.to_owned(), OsString::new()));
            all.extend(wrong.setting.secret.then(|| (format!("{}_FILE", wrong.setting.env), OsString::new())));
        }
        all.extend(libpq_env(config));
        Self(all)
    }

    /// Rejects directories that PATH and PYTHONPATH cannot name: engines would be found without the lease.
    ///
    /// # Errors
    /// The setting to change.
    pub fn check_paths(config: &Config, bin_dir: &Path) -> Result<(), Error> {
        // PATH itself cannot name such a directory.
        let programs = match config.bots.bin_dir {
            Some(_) => ("BOTS_BIN_DIR", bin_dir),
            None => ("BOTS_CTL_INSTALL_DIR", bin_dir.parent().unwrap_or(bin_dir)),
        };
        let faults = [("BOTS_CONFIG_DIR", config.environment.config_dir.as_path()), programs]
            .into_iter()
            .filter(|(_, path)| path.as_os_str().as_encoded_bytes().contains(&b':'))
            .map(|(name, path)| {
                format!("{name}={}: it must not contain ':', which separates directories in PATH", path.display())
            });
        Error::fail_if_any(faults.collect())
    }

    /// Adds these variables to those of a process, and removes those that only bots-ctl needs.
    pub fn apply(&self, mut spec: ProcessSpec) -> ProcessSpec {
        spec.environment.extend_from_slice(&self.0);
        spec.env_remove.extend(self.hidden());
        spec
    }

    /// Sets one of them.
    pub fn set(&mut self, name: &str, value: impl Into<OsString>) {
        self.0.retain(|(known, _)| known != name);
        self.0.push((name.to_owned(), value.into()));
    }

    /// Variables that name the file of a secret whose value is also set: a bots-ctl started by a child would find two
    /// values.
    pub fn redundant_secret_file_vars(&self) -> impl Iterator<Item = String> {
        let given = self.0.iter().filter(|(name, _)| SECRETS.contains(&name.as_str()));
        given.map(|(name, _)| format!("{name}_FILE"))
    }

    fn hidden(&self) -> impl Iterator<Item = String> {
        self.redundant_secret_file_vars().chain(BOTSCTL_ONLY_VARS.map(str::to_owned))
    }

    /// The complete environment of a process of Bots.
    pub(super) fn effective(&self) -> BTreeMap<String, String> {
        let inherited = std::env::vars_os().map(|(name, value)| (name.to_string_lossy().into_owned(), value));
        let mut all: BTreeMap<String, String> = inherited
            .chain(self.0.iter().cloned())
            .map(|(name, value)| (name, value.to_string_lossy().into_owned()))
            .collect();
        self.hidden().for_each(|name| drop(all.remove(&name)));
        all
    }
}

/// Prepends `first` to the paths in the current value of the variable, without duplicates.
fn prepend(first: &[&Path], variable: &str) -> OsString {
    let own = std::env::var_os(variable).filter(|paths| !paths.is_empty());
    let own: Vec<PathBuf> = own.iter().flat_map(std::env::split_paths).collect();
    let others = own.iter().map(PathBuf::as_path).filter(|path| !first.contains(path));
    let all: Vec<&OsStr> = first.iter().copied().chain(others).map(Path::as_os_str).collect();
    all.join(OsStr::new(":"))
}

/// Options of PostgreSQL's client, and the variables in which it finds them.
const LIBPQ_VARIABLES: [(&str, &str); 6] = [
    ("options", "PGOPTIONS"),
    ("sslmode", "PGSSLMODE"),
    ("sslrootcert", "PGSSLROOTCERT"),
    ("sslcert", "PGSSLCERT"),
    ("sslkey", "PGSSLKEY"),
    ("sslcrl", "PGSSLCRL"),
];

/// The engine of Bots 3.3.1 passes no options to PostgreSQL's client, which also reads variables.
fn libpq_env(config: &Config) -> impl Iterator<Item = (String, OsString)> {
    let is_postgresql = config
        .database
        .engine
        .as_deref()
        .is_some_and(|engine| normalise_engine(&engine.to_ascii_lowercase()) == "postgresql");
    let options = config.database.options.as_ref().filter(|_| is_postgresql);
    LIBPQ_VARIABLES.into_iter().filter_map(move |(option, variable)| {
        let value = options?.get(option)?.as_str()?;
        std::env::var_os(variable).is_none().then(|| (variable.to_owned(), value.into()))
    })
}

/// A value of bots-ctl.toml or of a flag reaches settings.py as a variable would.
fn settings_env(config: &Config) -> impl Iterator<Item = (String, OsString)> {
    let Config { database, django, mail, log, .. } = config;
    let boolean = |value: Option<bool>| value.map(|value| if value { "True" } else { "False" }.to_owned());
    let secret = |value: &Option<SecretString>| value.as_ref().map(|secret| secret.expose_secret().to_owned());
    let given = [
        ("DB_ENGINE", database.engine.clone()),
        ("DB_NAME", database.name.clone()),
        ("DB_USER", database.user.clone()),
        ("DB_PASSWORD", secret(&database.password)),
        ("DB_HOST", database.host.clone()),
        ("DB_PORT", database.port.map(|port| port.to_string())),
        ("DB_OPTIONS", database.options.as_ref().map(|options| serde_json::json!(options).to_string())),
        ("DJANGO_SECRET_KEY", secret(&django.secret_key)),
        ("ALLOWED_HOSTS", django.allowed_hosts.clone()),
        ("CSRF_TRUSTED_ORIGINS", django.csrf_trusted_origins.clone()),
        ("DEBUG", boolean(django.debug)),
        ("TZ", django.time_zone.clone()),
        ("USE_TZ", boolean(django.use_tz)),
        ("EMAIL_HOST", mail.host.clone()),
        ("EMAIL_PORT", mail.port.map(|port| port.to_string())),
        ("EMAIL_USE_TLS", boolean(mail.use_tls)),
        ("EMAIL_USE_SSL", boolean(mail.use_ssl)),
        ("EMAIL_HOST_USER", mail.user.clone()),
        ("EMAIL_HOST_PASSWORD", secret(&mail.password)),
        ("SERVER_EMAIL", mail.sender.clone()),
        ("ADMIN_EMAIL", mail.managers.clone()),
        ("LOG_LEVEL", config.is_given("log.level").then(|| log.level.python_name().to_owned())),
    ];
    given.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?.into())))
}
