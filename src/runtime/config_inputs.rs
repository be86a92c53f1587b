//! Where the configuration of bots-ctl is read from: environment, flags and file, at a start and before a reload.

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::bots::volume_names;
use crate::config::{Config, Diagnostic, FlagOverride};
use crate::exit::{Error, Kind};

use super::bots_environment::{applied_own_file, restored_own_file};
use super::reload_state;

/// The flags and the file of a command line.
#[derive(Clone)]
pub(crate) struct ConfigInputs {
    pub overrides: Vec<FlagOverride>,
    pub file: Option<PathBuf>,
    /// Whether the command is `up`, which runs all services unless a setting selects some.
    pub is_up: bool,
}

impl ConfigInputs {
    /// Reads the configuration. Errors do not prevent it from reading the rest.
    pub fn read(&self) -> Result<(Config, Vec<Diagnostic>), Error> {
        let environment: BTreeMap<String, String> = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.to_string_lossy().into_owned())))
            .collect();
        let home = home_dir(environment.get("HOME"), home_of_user)?;
        let committed = reload_state::own_file();
        let file = committed.as_deref().or(self.file.as_deref());
        let (mut config, mut faults) = Config::read(&environment, &self.overrides, file, &home);
        faults.extend(volume_names::fault(&config).map(|text| Diagnostic { text, is_from_command_line: false }));
        config.enables_queue = self.is_up && config.up.services.is_none();
        Ok((config, faults))
    }

    /// As [`Self::read`], but with the restored bots-ctl.toml if services failed with the mounted files in a reload. It waits for
    /// the volume: not for probes.
    pub fn read_in_use(&self) -> Result<(Config, Vec<Diagnostic>), Error> {
        let mounted = self.read()?;
        restored_own_file(&mounted.0).map_or(Ok(mounted), |file| self.with_file(file).read())
    }

    /// As [`Self::read`], but with the copy of the mounted bots-ctl.toml that the last start or reload has applied, if there is
    /// one.
    pub fn read_applied(&self, mounted: &Config) -> Option<Config> {
        let file = applied_own_file(mounted)?;
        self.with_file(file).read().ok().map(|(config, _)| config)
    }

    fn with_file(&self, file: PathBuf) -> Self {
        Self { file: Some(file), ..self.clone() }
    }
}

/// `HOME`, else the entry in the user database, as in Bots.
fn home_dir(variable: Option<&String>, of_user: impl Fn() -> Option<PathBuf>) -> Result<PathBuf, Error> {
    let named = variable.filter(|home| !home.is_empty()).map(PathBuf::from);
    if let Some(relative) = named.as_ref().filter(|home| home.is_relative()) {
        let text =
            format!("HOME={} is relative: set HOME to the absolute path of a writable directory", relative.display());
        return Err(Error::new(Kind::Configuration, text));
    }
    named.or_else(|| of_user().filter(|home| home.is_absolute())).ok_or_else(|| {
        let uid = nix::unistd::getuid();
        let text = format!("HOME is not set, and user {uid} has no home directory: set HOME to a writable directory");
        Error::new(Kind::Configuration, text)
    })
}

fn home_of_user() -> Option<PathBuf> {
    nix::unistd::User::from_uid(nix::unistd::getuid()).ok().flatten().map(|user| user.dir)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn services_of_up_are_enabled_at_each_reading() {
        let services = FlagOverride { path: "up.services", flag: "--services", value: "webserver".to_owned() };
        for (is_up, overrides, expected) in
            [(true, vec![], true), (true, vec![services], false), (false, vec![], false)]
        {
            let (config, _) = ConfigInputs { overrides, file: None, is_up }.read().expect("there is a home directory");
            assert_eq!(config.enables_queue, expected);
        }
    }

    #[test]
    fn user_with_an_empty_home_directory_has_none() {
        for dir in [None, Some(""), Some("home")] {
            let error = home_dir(None, || dir.map(PathBuf::from)).expect_err("there is none");
            assert!(error.kind() == Kind::Configuration && error.to_string().contains("set HOME"), "{error}");
        }
        assert_eq!(home_dir(Some(&String::new()), || Some("/home/me".into())), Ok(PathBuf::from("/home/me")));
    }
}
