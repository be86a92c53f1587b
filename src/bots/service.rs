//! The services of Bots as data: program, arguments, environment, stop signal, sign of life.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use nix::libc;
use secrecy::ExposeSecret;

use super::Installation;
use super::django::Facts;
use super::environment::Environment;
use crate::config::Config;
use crate::process::child::Spec;

/// Variables that everything of Bots gets, beside those bots-ctl itself has. Not `Debug`: some are secrets.
#[derive(Clone)]
pub struct Variables(pub Vec<(String, OsString)>);

impl Variables {
    /// Gives a process these variables, and keeps from it what only bots-ctl needs to know.
    #[must_use]
    pub fn apply(&self, mut spec: Spec) -> Spec {
        spec.environment.clone_from(&self.0);
        spec.removed.extend(OURS_ALONE.map(str::to_owned));
        spec
    }
}

/// Secrets that no service has a use for.
const OURS_ALONE: [&str; 2] = ["SUPERUSER_PASSWORD", "SUPERUSER_PASSWORD_FILE"];

/// Variables of our own environment that the children's are built on.
#[derive(Debug, Clone, Default)]
pub struct Inherited {
    /// `PATH`.
    pub path: Option<OsString>,
    /// `PYTHONPATH`.
    pub python_path: Option<OsString>,
    /// A directory for temporary files, when the usual one cannot be written to.
    pub temporary: Option<PathBuf>,
}

/// A service as bots-ctl runs it.
#[derive(Clone)]
pub struct Service {
    /// Its name in logs and health answers.
    pub name: &'static str,
    /// How to start it.
    pub spec: Spec,
    /// The signal that makes it stop in order.
    pub stop_signal: i32,
}

/// The web UI. SIGINT makes it finish the requests it has; SIGTERM would cut them.
#[must_use]
pub fn webserver(bots: &Installation, environment: &Environment, variables: &Variables, args: &[OsString]) -> Service {
    let mut config_dir = OsString::from("-c");
    config_dir.push(&environment.config);
    let mut spec = Spec::new(bots.program("bots-webserver")).arg(config_dir);
    spec.args.extend_from_slice(args);
    spec.directory = Some(environment.root.clone());
    let spec = variables.apply(spec);
    Service { name: "webserver", spec, stop_signal: libc::SIGINT }
}

/// What the web UI answers without asking the database: a static file, served beside Django.
#[must_use]
pub fn webserver_probe_path(facts: &Facts) -> String {
    format!("/{}/", facts.static_url.trim_matches('/'))
}

/// The variables that lead any program of Bots, and any Python of it, to this environment.
#[must_use]
pub fn variables(config: &Config, bin_dir: Option<&Path>, inherited: &Inherited) -> Variables {
    let config_dir = &config.environment.config_dir;
    let mut all: Vec<(String, OsString)> = vec![
        ("BOTSENV".into(), config.environment.name.clone().into()),
        ("BOTS_CONFIG_DIR".into(), config_dir.into()),
        ("DJANGO_SETTINGS_MODULE".into(), settings_module(config_dir).into()),
        ("PYTHONPATH".into(), prepend(config.environment_root(), inherited.python_path.as_ref())),
        ("PYTHONUNBUFFERED".into(), "1".into()),
        ("HOME".into(), config.home.clone().into()),
    ];
    if let Some(bin_dir) = bin_dir {
        all.push(("PATH".into(), prepend(bin_dir, inherited.path.as_ref())));
    }
    if let Some(temporary) = &inherited.temporary {
        all.push(("TMPDIR".into(), temporary.into()));
    }
    all.extend(settings_variables(config));
    Variables(all)
}

fn settings_module(config_dir: &Path) -> String {
    format!("{}.settings", config_dir.file_name().unwrap_or_default().to_string_lossy())
}

/// `first` before what is there; nothing twice.
fn prepend(first: &Path, rest: Option<&OsString>) -> OsString {
    let rest = rest.map(std::env::split_paths).into_iter().flatten().filter(|path| path != first);
    let all = std::iter::once(first.to_path_buf()).chain(rest);
    std::env::join_paths(all).unwrap_or_else(|_| first.into())
}

/// What bots-ctl.toml or a flag says reaches settings.py the way the environment always did.
fn settings_variables(config: &Config) -> Vec<(String, OsString)> {
    let (database, django) = (&config.database, &config.django);
    let secret = |value: &Option<secrecy::SecretString>| value.as_ref().map(|s| s.expose_secret().to_owned());
    let given = [
        ("DB_ENGINE", database.engine.clone()),
        ("DB_NAME", database.name.clone()),
        ("DB_USER", database.user.clone()),
        ("DB_PASSWORD", secret(&database.password)),
        ("DB_HOST", database.host.clone()),
        ("DB_PORT", database.port.map(|port| port.to_string())),
        ("DJANGO_SECRET_KEY", secret(&django.secret_key)),
        ("ALLOWED_HOSTS", django.allowed_hosts.clone()),
        ("CSRF_TRUSTED_ORIGINS", django.csrf_trusted_origins.clone()),
        ("DEBUG", django.debug.map(|debug| if debug { "True" } else { "False" }.to_owned())),
        ("TZ", django.time_zone.clone()),
    ];
    given.into_iter().filter_map(|(name, value)| Some((name.to_owned(), OsString::from(value?)))).collect()
}
