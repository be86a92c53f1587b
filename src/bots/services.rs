//! The services of Bots as data: program, arguments, environment, stop signal, sign of life.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use nix::libc;
use secrecy::ExposeSecret;

use super::django_settings::DjangoSettings;
use super::environment::{Environment, parse_ini};
use super::{Error, Installation, engine_shim};
use crate::config::Config;
use crate::config::keys::CONFIG_FILE_ENV;
use crate::model::{LivenessProbe, ServiceName};
use crate::process::child::ProcessSpec;
use crate::process::reaper::Reaper;
use crate::pycompat::configparser::{parse_boolean, parse_integer};

/// Variables that everything of Bots gets, beside those bots-ctl itself has. Not `Debug`: some are secrets.
#[derive(Clone)]
pub struct ChildEnv(pub Vec<(String, OsString)>);

impl ChildEnv {
    /// Gives a process these variables, and keeps from it what only bots-ctl needs to know.
    #[must_use]
    pub fn apply(&self, mut spec: ProcessSpec) -> ProcessSpec {
        spec.environment.clone_from(&self.0);
        spec.env_remove.extend(BOTSCTL_ONLY_VARS.map(str::to_owned));
        spec.env_remove.extend(self.redundant_secret_file_vars());
        spec
    }

    /// Sets one of them.
    pub fn set(&mut self, name: &str, value: impl Into<OsString>) {
        self.0.retain(|(known, _)| known != name);
        self.0.push((name.to_owned(), value.into()));
    }

    /// Variables that name the file of a secret which is given as well: bots-ctl, started by what it has started, would
    /// find two answers.
    pub fn redundant_secret_file_vars(&self) -> impl Iterator<Item = String> {
        let given = self.0.iter().filter(|(name, _)| SECRETS.contains(&name.as_str()));
        given.map(|(name, _)| format!("{name}_FILE"))
    }

    /// All that a process of Bots finds in its environment.
    pub(super) fn effective(&self) -> BTreeMap<String, String> {
        let text = |value: &OsString| value.to_string_lossy().into_owned();
        let inherited = std::env::vars_os().map(|(name, value)| (text(&name), text(&value)));
        let own = self.0.iter().map(|(name, value)| (name.clone(), text(value)));
        let kept_back: Vec<String> =
            self.redundant_secret_file_vars().chain(BOTSCTL_ONLY_VARS.map(str::to_owned)).collect();
        inherited.chain(own).filter(|(name, _)| !kept_back.contains(name)).collect()
    }
}

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
const SECRETS: [&str; 2] = ["DB_PASSWORD", "DJANGO_SECRET_KEY"];

/// Variables of our own environment that the children's are built on.
#[derive(Debug, Clone, Default)]
pub struct InheritedEnv {
    /// `PATH`.
    pub path: Option<OsString>,
    /// `PYTHONPATH`.
    pub python_path: Option<OsString>,
    /// A directory for temporary files, when the usual one cannot be written to.
    pub temporary: Option<PathBuf>,
}

/// A service as bots-ctl runs it.
#[derive(Clone)]
pub struct BotsServiceSpec {
    /// Which one.
    pub name: ServiceName,
    /// How to start it.
    pub spec: ProcessSpec,
    /// The signal that makes it stop in order; none for the engine, which is let finish.
    pub stop_signal: Option<i32>,
    /// What shows that it lives; none for a process that ends by itself.
    pub probe: Option<LivenessProbe>,
}

/// What every process of Bots is made from.
#[derive(Clone, Copy)]
pub struct BotsContext<'a> {
    /// Starts Python.
    pub reaper: &'a Reaper,
    /// Which Bots.
    pub bots: &'a Installation,
    /// Which environment.
    pub environment: &'a Environment,
    /// Variables that the services get.
    pub variables: &'a ChildEnv,
}

impl BotsContext<'_> {
    /// The web UI. SIGINT makes it finish the requests it has; SIGTERM would cut them.
    #[must_use]
    pub fn webserver(&self, django: &DjangoSettings, args: &[OsString]) -> BotsServiceSpec {
        let (port, path, tls) = (django.web_port, webserver_probe_path(django), django.web_https);
        let probe = Some(LivenessProbe::Http { port, path, tls });
        let spec = self.spec("bots-webserver", args);
        BotsServiceSpec { name: ServiceName::Webserver, spec, stop_signal: Some(libc::SIGINT), probe }
    }

    /// Bots's own job queue. SIGTERM ends it at once; SIGINT would close its port and leave it running (3.3.1). An
    /// engine that it has started goes on in its group, and is waited for.
    #[must_use]
    pub fn jobqueue(&self, queue: &BotsJobQueueIni, args: &[OsString]) -> BotsServiceSpec {
        let spec = self.spec("bots-jobqueueserver", args);
        let probe = Some(LivenessProbe::JobQueue { port: queue.port });
        BotsServiceSpec { name: ServiceName::Jobqueue, spec, stop_signal: Some(libc::SIGTERM), probe }
    }

    /// Bots's own directory monitor, which has nothing to finish.
    #[must_use]
    pub fn dirmonitor(&self, args: &[OsString]) -> BotsServiceSpec {
        let spec = self.spec("bots-dirmonitor", args);
        BotsServiceSpec {
            name: ServiceName::Dirmonitor,
            spec,
            stop_signal: Some(libc::SIGTERM),
            probe: Some(LivenessProbe::Inotify),
        }
    }

    /// One run of Bots's engine. No signal stops it in order: SIGINT makes it drop the files it has taken, SIGTERM leaves
    /// a crash for the next run to recover.
    #[must_use]
    pub fn engine(&self, args: &[OsString]) -> BotsServiceSpec {
        let mut spec = self.spec(engine_shim::NAME, args);
        spec.environment.push((engine_shim::HOLDS_LEASE.to_owned(), "1".into()));
        BotsServiceSpec { name: ServiceName::Engine, spec, stop_signal: None, probe: None }
    }

    /// One run of the engine as everybody starts it who is not bots-ctl: through its link.
    #[must_use]
    pub fn engine_via_shim(&self, args: &[OsString]) -> BotsServiceSpec {
        let link = engine_shim::directory(&self.environment.root).join(engine_shim::NAME);
        BotsServiceSpec { spec: self.spec_of(link.into(), args), ..self.engine(args) }
    }

    fn spec(&self, program: &str, args: &[OsString]) -> ProcessSpec {
        self.spec_of(self.bots.program(program), args)
    }

    fn spec_of(&self, program: OsString, args: &[OsString]) -> ProcessSpec {
        let mut config_dir = OsString::from("-c");
        config_dir.push(&self.environment.config);
        let mut spec = ProcessSpec::new(program).arg(config_dir);
        spec.args.extend_from_slice(args);
        spec.directory = Some(self.environment.root.clone());
        self.variables.apply(spec)
    }
}

/// What bots.ini says of the job queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BotsJobQueueIni {
    /// Whether it is in use.
    pub enabled: bool,
    /// Its port on loopback.
    pub port: u16,
    /// How many jobs run at once.
    pub threads: usize,
    /// How many minutes a job may run.
    pub longest_minutes: u64,
    /// Whether it is ended then.
    pub kills_overdue: bool,
    /// First words of tasks that may be run beside the engine.
    pub authorised: Vec<String>,
    /// The file that says so.
    pub file: PathBuf,
}

impl BotsJobQueueIni {
    /// The port where bots.ini names none.
    pub const PORT: u16 = 28082;

    /// Reads the effective bots.ini.
    ///
    /// # Errors
    /// When it cannot be read; each fault with file and line.
    pub fn read(environment: &Environment) -> Result<Self, Error> {
        let file = environment.config.join("bots.ini");
        let text = std::fs::read_to_string(&file)
            .map_err(|error| crate::fs::atomic::describe_io_error("read", &file, &error))?;
        let ini = parse_ini(&file, &text)?;
        let value = |section, key| ini.get(section, key).map(|entry| entry.value);
        let is_true = |key| value("jobqueue", key).and_then(parse_boolean).unwrap_or(false);
        let number = |section, key| value(section, key).and_then(parse_integer);
        let separators = [' ', ',', ';', '\t', '\n'];
        let words = value("jobqueue", "authorized_tasks").unwrap_or_default().split(separators);
        Ok(Self {
            enabled: is_true("enabled"),
            port: number("jobqueue", "port").and_then(|port| port.try_into().ok()).unwrap_or(Self::PORT),
            threads: number("jobqueue", "nr_threads").and_then(|count| count.try_into().ok()).unwrap_or(1).max(1),
            longest_minutes: number("settings", "maxruntime").map_or(60, |minutes| minutes.try_into().unwrap_or(0)),
            kills_overdue: is_true("killjobsintimeout"),
            authorised: words.filter(|word| !word.is_empty()).map(str::to_owned).collect(),
            file,
        })
    }

    /// The fault that keeps the queue, and whoever needs it, from running.
    #[must_use]
    pub fn disabled_error(&self, service: ServiceName) -> Error {
        let (file, name) = (self.file.display(), service.as_str());
        Error::fault(format!("{file}: [jobqueue] enabled is not True, so {name} would end at once: set enabled = True"))
    }
}

/// What the web UI answers without asking the database: a static file, served beside Django.
fn webserver_probe_path(django: &DjangoSettings) -> String {
    format!("/{}/", django.static_url.trim_matches('/'))
}

/// The variables that lead any program of Bots, and any Python of it, to this environment.
#[must_use]
pub fn build_child_env(config: &Config, bin_dir: Option<&Path>, inherited: &InheritedEnv) -> ChildEnv {
    let config_dir = &config.environment.config_dir;
    let mut all: Vec<(String, OsString)> = vec![
        ("BOTSENV".into(), config.environment.name.clone().into()),
        ("BOTS_CONFIG_DIR".into(), config_dir.into()),
        ("DJANGO_SETTINGS_MODULE".into(), settings_module(config_dir).into()),
        ("PYTHONUNBUFFERED".into(), "1".into()),
        ("HOME".into(), config.home.clone().into()),
    ];
    let (root, python_path) = (config.environment_root(), inherited.python_path.as_ref());
    let links = engine_shim::directory(root);
    if let Some(bin_dir) = bin_dir {
        all.push(("PATH".into(), prepend(&[&links, bin_dir], inherited.path.as_ref())));
        all.push(("PYTHONPATH".into(), prepend(&[&links, root], python_path)));
    } else {
        all.push(("PYTHONPATH".into(), prepend(&[root], python_path)));
    }
    if let Some(temporary) = &inherited.temporary {
        all.push(("TMPDIR".into(), temporary.into()));
    }
    if let Some(file) = &config.file {
        // An engine that a service starts is bots-ctl again.
        let file = std::path::absolute(file).unwrap_or_else(|_| file.clone());
        all.push((CONFIG_FILE_ENV.into(), file.into()));
    }
    all.extend(settings_env(config));
    ChildEnv(all)
}

fn settings_module(config_dir: &Path) -> String {
    format!("{}.settings", config_dir.file_name().unwrap_or_default().to_string_lossy())
}

/// `first` before what is there; nothing twice.
fn prepend(first: &[&Path], rest: Option<&OsString>) -> OsString {
    let rest = rest.map(std::env::split_paths).into_iter().flatten();
    let rest = rest.filter(|path| !first.contains(&path.as_path()));
    let all = first.iter().map(|path| path.to_path_buf()).chain(rest);
    std::env::join_paths(all).unwrap_or_else(|_| first.iter().copied().next_back().map(Into::into).unwrap_or_default())
}

/// What bots-ctl.toml or a flag says reaches settings.py the way the environment always did.
fn settings_env(config: &Config) -> Vec<(String, OsString)> {
    let (database, django) = (&config.database, &config.django);
    let secret = |value: &Option<secrecy::SecretString>| value.as_ref().map(|s| s.expose_secret().to_owned());
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
        ("DEBUG", django.debug.map(|debug| if debug { "True" } else { "False" }.to_owned())),
        ("TZ", django.time_zone.clone()),
    ];
    given.into_iter().filter_map(|(name, value)| Some((name.to_owned(), OsString::from(value?)))).collect()
}
