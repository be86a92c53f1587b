//! A private environment on SQLite, in which a plugin is tested: its channels are directories, and no inherited
//! variable refers to anything outside.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt::Write as _;
use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};

use serde_json::json;

use crate::config::Config;
use crate::config::keys::CONFIG_SOURCE_ENV;
use crate::exit::{Error, Exit, Kind};
use crate::fs::atomic::{describe_io_error, write_atomically};
use crate::fs::temp_dir::PrivateTempDir;
use crate::plugin::directory::{Index, find_index};
use crate::plugin::{self, Plugin, Table, index};
use crate::process::capture::{CapturedOutput, capture};
use crate::process::child::ProcessSpec;
use crate::process::reaper::Reaper;
use crate::process::signals;
use crate::pycompat::configparser::set_value;
use crate::runtime::bots_environment::find_bots;

use super::source::private_directory;

/// Variables that bots-ctl inherits; all others could refer to a real database.
const KEPT: [&str; 6] = ["PATH", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "LD_LIBRARY_PATH"];

/// Fields of a channel that refer to another machine, or to a path outside its directory.
const EMPTIED: [&str; 8] = ["host", "username", "secret", "lockname", "archivepath", "testpath", "keyfile", "certfile"];

/// The default directory of the configuration, below the home directory.
const CONFIG_DIR: &str = ".bots/env/default/config";

/// The environment, deleted when dropped.
pub(super) struct PrivateEnvironment<'a> {
    reaper: &'a Reaper,
    directory: PrivateTempDir,
    bots: PathBuf,
    channels: BTreeMap<String, PrivateChannel>,
}

/// A channel of the plugin. Its directory is numbered: a name may be a path to anywhere.
pub(super) struct PrivateChannel {
    pub directory: PathBuf,
    pub is_incoming: bool,
    has_filename: bool,
}

impl<'a> PrivateEnvironment<'a> {
    /// Creates an environment with a plugin.
    ///
    /// # Errors
    /// If the plugin cannot be applied.
    pub async fn new(config: &Config, reaper: &'a Reaper, source: &Path) -> Result<Self, Error> {
        let bots = find_bots(config, reaper).await?.bin_dir;
        let Index::Json(text) = find_index(source)? else {
            let text = "only a plugin with a botsindex.json can be tested: apply it to an environment, and export it";
            return Err(plugin::Error::fault(format!("{}: {text}", source.display())).into());
        };
        let directory = private_directory(config)?;
        let channels = private_channels(&index::read(&text)?, &directory.path().join("channels"));
        let environment = Self { reaper, directory, bots, channels };
        environment.apply(source).await?;
        Ok(environment)
    }

    async fn apply(&self, source: &Path) -> Result<(), Error> {
        let values = self.directory.path().join("values.toml");
        write_atomically(&values, self.values().as_bytes(), 0o600)?;
        self.empty_channels()?;
        let (source, values) = (source.display().to_string(), values.display().to_string());
        let applied = self.run(&["plugin", "apply", &source, "--values", &values, "--activate"]).await?;
        if applied.exit.code() != 0 {
            let lines = applied.stderr.lines();
            let faults: Vec<String> =
                lines.filter_map(|line| line.strip_prefix("bots-ctl: ").map(str::to_owned)).collect();
            // A killed command has written none.
            return Err(match faults.is_empty() {
                true => Error::new(Kind::Failed, format!("the apply {}", describe_end(&applied))),
                false => Error::all(Kind::Configuration, faults),
            });
        }
        // Bots's engines use a port of the machine as a lock.
        let ini = self.directory.path().join(CONFIG_DIR).join("bots.ini");
        let text = fs::read_to_string(&ini).map_err(|error| describe_io_error("read", &ini, &error))?;
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|listener| listener.local_addr());
        let port = port.map_err(|error| Error::new(Kind::Unavailable, format!("cannot find a free port: {error}")))?;
        let text = set_value(&text, "settings", "port", &port.port().to_string());
        let text = text.map_err(|error| Error::new(Kind::Internal, format!("{}: {error}", ini.display())))?;
        write_atomically(&ini, text.as_bytes(), 0o644)?;
        Ok(())
    }

    /// Replaces every channel with a directory.
    fn values(&self) -> String {
        let mut text = String::new();
        for (name, channel) in &self.channels {
            let _ = writeln!(text, "[channel.{}]\ntype = \"file\"", json!(name));
            let _ = writeln!(text, "path = {}\nremove = true", json!(channel.directory));
            if !channel.has_filename {
                text.push_str("filename = \"*\"\n");
            }
            for field in EMPTIED {
                let _ = writeln!(text, "{field} = \"\"");
            }
        }
        text
    }

    /// The channels of the plugin by their names.
    pub fn channels(&self) -> &BTreeMap<String, PrivateChannel> {
        &self.channels
    }

    /// Empties the directories of all channels.
    ///
    /// # Errors
    /// When one cannot be emptied.
    pub fn empty_channels(&self) -> Result<(), Error> {
        Ok(self.channels.values().try_for_each(|channel| make_empty(&channel.directory))?)
    }

    /// Runs a command of bots-ctl here.
    ///
    /// # Errors
    /// When it cannot be started.
    pub async fn run(&self, arguments: &[&str]) -> Result<CapturedOutput, Error> {
        let program = std::env::current_exe();
        let program = program.map_err(|error| describe_io_error("find", Path::new("/proc/self/exe"), &error))?;
        let mut spec = arguments.iter().fold(ProcessSpec::new(program), |spec, argument| spec.arg(*argument));
        let others = std::env::vars_os().filter_map(|(name, _)| name.into_string().ok());
        spec.env_remove = others.filter(|name| !KEPT.contains(&name.as_str())).collect();
        spec.environment = variables(self.directory.path(), &self.bots);
        Ok(capture(self.reaper, &spec).await?)
    }
}

/// The variables that are set here.
fn variables(home: &Path, bots: &Path) -> Vec<(String, OsString)> {
    let variables = [
        ("HOME", home.into()),
        ("BOTS_BIN_DIR", bots.into()),
        // A mounted configuration belongs to the environment of the services.
        (CONFIG_SOURCE_ENV, home.join(CONFIG_DIR).into_os_string()),
        ("LOG_FORMAT", "text".into()),
    ];
    variables.into_iter().map(|(name, value): (&str, OsString)| (name.to_owned(), value)).collect()
}

/// How a command that should have succeeded has ended.
pub(super) fn describe_end(command: &CapturedOutput) -> String {
    let last = command.stderr.lines().last().map_or(String::new(), |line| format!(": {line}"));
    match command.exit {
        Exit::Code(code) => format!("ended with exit code {code}{last}"),
        Exit::Signal(signal) => format!("was ended by {}{last}", signals::name(signal)),
    }
}

/// Of two rows with one name Bots keeps the last.
fn private_channels(plugin: &Plugin, parent: &Path) -> BTreeMap<String, PrivateChannel> {
    let rows = plugin.rows.iter().filter(|(table, _)| *table == Table::Channel).enumerate();
    let channels = rows.map(|(number, (table, row))| {
        let channel = PrivateChannel {
            directory: parent.join(number.to_string()),
            is_incoming: row.get("inorout") == Some(&json!("in")),
            has_filename: row.get("filename").is_some_and(|filename| filename != "" && !filename.is_null()),
        };
        (table.name_of(row), channel)
    });
    channels.collect()
}

fn make_empty(directory: &Path) -> Result<(), crate::fs::Error> {
    if directory.exists() {
        fs::remove_dir_all(directory).map_err(|error| describe_io_error("remove", directory, &error))?;
    }
    fs::create_dir_all(directory).map_err(|error| describe_io_error("create", directory, &error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_that_was_killed_is_named_with_its_signal() {
        let ended =
            |exit, stderr: &str| describe_end(&CapturedOutput { exit, stdout: Vec::new(), stderr: stderr.to_owned() });
        assert_eq!(ended(Exit::Signal(9), ""), "was ended by SIGKILL");
        assert_eq!(ended(Exit::Code(1), "first\nlast\n"), "ended with exit code 1: last");
    }

    #[test]
    fn only_seeds_of_the_temporary_environment_are_outside_of_it() {
        let home = tempfile::tempdir().expect("a temporary directory");
        let variables = variables(home.path(), &home.path().join("bin")).into_iter();
        let variables = variables.map(|(name, value)| (name, value.into_string().expect("it is text"))).collect();
        let (config, faults) = Config::read(&variables, &[], None, home.path());
        assert!(faults.is_empty(), "{faults:?}");
        let is_outside = |value: &str| value.starts_with('/') && !Path::new(value).starts_with(home.path());
        let outside = config.effective_settings.iter().filter(|known| is_outside(&known.value));
        let outside: Vec<&str> = outside.map(|known| known.setting.path).collect();
        assert_eq!(outside, ["environment.seed_usersys", "environment.seed_grammars"]);
    }
}
