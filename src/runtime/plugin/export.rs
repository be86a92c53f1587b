//! `plugin export`: the configuration of an environment as a plugin for git.

use std::path::{Path, PathBuf};

use crate::config::Config;
use crate::exit::{Error, Kind};
use crate::plugin::normalize::exported_rows;
use crate::plugin::select::select_routes;
use crate::plugin::{self, Plugin, directory};
use crate::process::reaper::Reaper;
use crate::runtime::bots_environment::blocking;

use super::source::private_directory;
use super::target::{Target, warn_of_pending_change};

/// The content of the export, and its destination.
pub(crate) struct ExportRequest {
    /// These routes with their dependencies; all if empty.
    pub routes: Vec<String>,
    /// A directory, or an archive with the extension zip.
    pub target: PathBuf,
}

/// The numbers of rows and files that an export has.
pub(crate) struct ExportCounts {
    pub rows: usize,
    pub files: usize,
}

/// Writes the configuration, or what some routes need of it.
///
/// # Errors
/// If the environment cannot be read, has no such route, or is the target.
pub(crate) async fn export(config: &Config, reaper: &Reaper, request: &ExportRequest) -> Result<ExportCounts, Error> {
    let mut environment = Target::open(config, reaper).await?;
    let usersys = request.target.join(directory::USERSYS);
    let own = &environment.django.directories.usersys;
    if usersys.canonicalize().is_ok_and(|path| own.canonicalize().is_ok_and(|own| own == path)) {
        let text = format!("{}: that is the environment itself: choose another directory", request.target.display());
        return Err(Error::new(Kind::Usage, text));
    }
    if environment.journal.pending()?.is_some() {
        warn_of_pending_change();
    }
    let (stored, files) = environment.read(&Plugin::default()).await?;
    let mut plugin = Plugin { rows: exported_rows(&stored), files, ignored: Vec::new() };
    if !request.routes.is_empty() {
        select_routes(&mut plugin, &request.routes)?;
    }
    let counts = ExportCounts { rows: plugin.rows.len(), files: plugin.files.len() };
    let version = environment.django.bots_version.clone();
    if request.target.extension().is_some_and(|extension| extension == "zip") {
        write_archive(config, &mut environment, plugin, version, &request.target).await?;
    } else {
        write(request.target.clone(), plugin, version).await?;
    }
    Ok(counts)
}

async fn write(directory: PathBuf, plugin: Plugin, version: String) -> Result<(), Error> {
    Ok(blocking(move || directory::write(&directory, &plugin, &version)).await??)
}

/// The archive gets its name when it is whole.
async fn write_archive(
    config: &Config,
    environment: &mut Target,
    plugin: Plugin,
    version: String,
    target: &Path,
) -> Result<(), Error> {
    let temporary = private_directory(config)?;
    let content = temporary.path().join("plugin");
    write(content.clone(), plugin, version).await?;
    let archive = temporary.path().join("plugin.zip");
    environment.python.pack(&content, &archive).await?;
    let target = target.to_path_buf();
    let copy = move || -> Result<(), plugin::Error> {
        let bytes = std::fs::read(&archive);
        let bytes = bytes.map_err(|error| crate::fs::atomic::describe_io_error("read", &archive, &error))?;
        crate::fs::atomic::write_atomically(&target, &bytes, 0o644)?;
        Ok(())
    };
    Ok(blocking(copy).await??)
}
