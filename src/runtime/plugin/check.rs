//! Checks the scripts of a plugin in a copy of usersys, before anything is written.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use walkdir::WalkDir;

use crate::config::Config;
use crate::exit::{Error, Kind};
use crate::fs::atomic::describe_io_error;
use crate::plugin::diff::Plan;
use crate::runtime::bots_environment::blocking;

use super::source::private_directory;
use super::target::Target;

/// Compiles the scripts of a change, and has Bots read its grammars.
///
/// # Errors
/// Every fault, with file and line.
pub(super) async fn check_scripts(config: &Config, target: &mut Target, plan: &Plan) -> Result<(), Error> {
    let changed: BTreeMap<String, Option<Vec<u8>>> =
        plan.files.iter().map(|change| (change.path.clone(), change.after.clone())).collect();
    let scripts: Vec<String> = changed
        .iter()
        .filter(|(path, content)| content.is_some() && path.ends_with(".py"))
        .map(|(path, _)| path.clone())
        .collect();
    if scripts.is_empty() {
        return Ok(());
    }
    let directory = private_directory(config)?;
    let usersys = target.django.directories.usersys.clone();
    let copy = directory.path().join(usersys.file_name().unwrap_or_default());
    blocking(move || copy_usersys(&usersys, &copy, &changed)).await??;
    let faults = target.python.check_scripts(directory.path(), &scripts).await?;
    if faults.is_empty() {
        return Ok(());
    }
    let described = faults.into_iter().map(|fault| match fault.line {
        0 => format!("usersys/{}: {}", fault.file, fault.text),
        line => format!("usersys/{}:{line}: {}", fault.file, fault.text),
    });
    Err(Error::all(Kind::Configuration, described.collect()))
}

/// Links to the files that stay, and the files that are to come.
fn copy_usersys(
    usersys: &Path,
    copy: &Path,
    changed: &BTreeMap<String, Option<Vec<u8>>>,
) -> Result<(), crate::fs::Error> {
    let make = |path: &Path| fs::create_dir_all(path).map_err(|error| describe_io_error("create", path, &error));
    make(copy)?;
    let entries = WalkDir::new(usersys).follow_links(true).into_iter();
    for entry in entries.filter_entry(|entry| entry.file_name() != "__pycache__").flatten() {
        let Ok(relative) = entry.path().strip_prefix(usersys) else { continue };
        let place: PathBuf = copy.join(relative);
        if entry.file_type().is_dir() {
            make(&place)?;
        } else if relative.to_str().is_none_or(|path| !changed.contains_key(path)) {
            symlink(entry.path(), &place).map_err(|error| describe_io_error("link", &place, &error))?;
        }
    }
    for (path, content) in changed.iter().filter_map(|(path, content)| Some((path, content.as_ref()?))) {
        let place = copy.join(path);
        make(place.parent().unwrap_or(copy))?;
        fs::write(&place, content).map_err(|error| describe_io_error("write", &place, &error))?;
    }
    Ok(())
}
