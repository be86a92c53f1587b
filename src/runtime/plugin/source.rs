//! Reads a plugin from a directory or an archive.

use std::path::{Path, PathBuf};

use crate::bots::python_session::PythonSession;
use crate::config::Config;
use crate::exit::Error;
use crate::fs::temp_dir::PrivateTempDir;
use crate::plugin::directory::{Index, find_index, read_files};
use crate::plugin::index::{self, PYTHON_INDEX};
use crate::plugin::{self, Plugin};
use crate::runtime::bots_environment::{blocking, temporary_directory};

/// A private directory for temporary files.
pub(super) fn private_directory(config: &Config) -> Result<PrivateTempDir, Error> {
    let parent = temporary_directory(config).unwrap_or_else(std::env::temp_dir);
    Ok(PrivateTempDir::new(&parent)?)
}

/// A plugin in a directory.
pub(super) struct Source {
    pub directory: PathBuf,
    /// That of an unpacked archive, deleted when dropped.
    _unpacked: Option<PrivateTempDir>,
}

impl Source {
    /// Finds a directory, or unpacks an archive.
    ///
    /// # Errors
    /// If it is neither.
    pub async fn open(config: &Config, python: &mut PythonSession, path: &Path) -> Result<Self, Error> {
        if path.is_dir() {
            return Ok(Self { directory: path.to_path_buf(), _unpacked: None });
        }
        if !path.exists() {
            let text = format!("{}: there is no such directory or archive", path.display());
            return Err(plugin::Error::fault(text).into());
        }
        let unpacked = private_directory(config)?;
        python.unpack(path, unpacked.path()).await?;
        Ok(Self { directory: unpacked.path().to_path_buf(), _unpacked: Some(unpacked) })
    }

    /// Reads the plugin.
    ///
    /// # Errors
    /// If it is not a plugin.
    pub async fn read(&self, python: &mut PythonSession) -> Result<Plugin, Error> {
        let path = self.directory.clone();
        let (index, mut plugin) =
            blocking(move || Ok::<_, plugin::Error>((find_index(&path)?, read_files(&path)?))).await??;
        let read = match index {
            Index::Json(text) => index::read(&text)?,
            Index::Python(file) => index::plugin_from_rows(python.read_python_index(&file).await?, PYTHON_INDEX)?,
        };
        plugin.rows = read.rows;
        plugin.ignored.extend(read.ignored);
        Ok(plugin)
    }
}
