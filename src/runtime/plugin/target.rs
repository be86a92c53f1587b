//! The environment that a plugin is exported from or applied to.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use tokio_util::task::TaskTracker;
use tracing::warn;

use crate::bots::context::BotsContext;
use crate::bots::django_settings::DjangoSettings;
use crate::bots::plugin_session::StoredConfiguration;
use crate::bots::python_session::PythonSession;
use crate::config::Config;
use crate::database::DatabaseConfig;
use crate::exit::Error;
use crate::fs::atomic::describe_io_error;
use crate::fs::regular;
use crate::plugin::directory::usersys_files;
use crate::plugin::journal::Journal;
use crate::plugin::{self, Plugin};
use crate::process::reaper::Reaper;
use crate::runtime::bots_environment::{FoundBots, blocking, existing_environment, mounted_files};
use crate::runtime::init_db;
use crate::runtime::prepare::prepare_environment;

/// An environment, with a Python that has read its settings.
pub(super) struct Target {
    pub python: PythonSession,
    pub django: DjangoSettings,
    pub database: DatabaseConfig,
    pub journal: Journal,
    /// The usersys that the installed Bots comes with.
    packaged_usersys: PathBuf,
}

impl Target {
    /// Opens an environment without changing it.
    ///
    /// # Errors
    /// If it does not exist, or its settings are invalid.
    pub async fn open(config: &Config, reaper: &Reaper) -> Result<Self, Error> {
        let bots = FoundBots::find(config, reaper).await?;
        Self::start(config, &bots.context(&existing_environment(config)?)).await
    }

    /// Prepares an environment and its database, as a start of a service does, and opens it.
    ///
    /// # Errors
    /// Those of such a start.
    pub async fn prepare(config: &Config, reaper: &Reaper, critical: &TaskTracker) -> Result<Self, Error> {
        let bots = FoundBots::find(config, reaper).await?;
        let (environment, django) = prepare_environment(config, &bots, mounted_files(config).await?).await?;
        let context = bots.context(&environment);
        if !config.database.init_skip {
            init_db::ensure_database(config, &context, django, critical).await?;
        }
        Self::start(config, &context).await
    }

    async fn start(config: &Config, context: &BotsContext<'_>) -> Result<Self, Error> {
        let (python, django) = PythonSession::start(context).await?;
        let database = init_db::database_config(config, &django)?;
        let journal = Journal::new(&django.directories.botssys, &django.directories.usersys);
        let packaged_usersys = context.bots.package.join("usersys");
        Ok(Self { python, django, database, journal, packaged_usersys })
    }

    /// The configuration, and the files of usersys: those that did not come with Bots, and those that a plugin also has.
    ///
    /// # Errors
    /// When one of them cannot be read.
    pub async fn read(&mut self, plugin: &Plugin) -> Result<(StoredConfiguration, BTreeMap<String, Vec<u8>>), Error> {
        let stored = self.python.read_configuration().await?;
        let (usersys, packaged) = (self.django.directories.usersys.clone(), self.packaged_usersys.clone());
        let paths: Vec<String> = plugin.files.keys().cloned().collect();
        Ok((stored, blocking(move || current_files(&usersys, &packaged, paths)).await??))
    }
}

/// A command that only reads does not settle an interrupted change.
pub(super) fn warn_of_pending_change() {
    warn!("an earlier change of the configuration was interrupted: this reads the intermediate state");
}

fn current_files(
    usersys: &Path,
    packaged: &Path,
    of_plugin: Vec<String>,
) -> Result<BTreeMap<String, Vec<u8>>, plugin::Error> {
    let (mut files, packaged) = (usersys_files(usersys)?, usersys_files(packaged)?);
    files.retain(|path, content| packaged.get(path) != Some(content));
    for name in of_plugin.into_iter().filter(|name| !files.contains_key(name)).collect::<Vec<_>>() {
        let path = usersys.join(&name);
        if path.is_file() {
            let content = regular::read(&path).map_err(|error| describe_io_error("read", &path, &error))?;
            files.insert(name, content);
        }
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn files_of_bots_are_read_where_a_plugin_has_them_too() {
        let place = tempfile::tempdir().expect("a temporary directory");
        let (usersys, packaged) = (place.path().join("usersys"), place.path().join("packaged"));
        for directory in [&usersys, &packaged] {
            fs::create_dir_all(directory.join("mappings")).expect("made");
            fs::write(directory.join("mappings/shipped.py"), "shipped").expect("written");
            fs::write(directory.join("mappings/other.py"), "other").expect("written");
        }
        fs::write(usersys.join("mappings/__init__.py"), "").expect("written");
        fs::write(usersys.join("mappings/own.py"), "own").expect("written");
        let of_plugin = ["mappings/shipped.py", "mappings/__init__.py", "mappings/new.py"].map(str::to_owned);
        let read = current_files(&usersys, &packaged, of_plugin.into()).expect("readable");
        let expected = [("mappings/__init__.py", ""), ("mappings/own.py", "own"), ("mappings/shipped.py", "shipped")];
        assert_eq!(read, expected.map(|(path, text)| (path.to_owned(), text.as_bytes().to_vec())).into());
    }
}
