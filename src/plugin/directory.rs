//! A plugin as a directory for git: the index, and `usersys`.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use walkdir::{DirEntry, WalkDir};

use super::acceptance::TESTS;
use super::index::{JSON_INDEX, PYTHON_INDEX};
use super::{Error, Plugin, index};
use crate::fs::{atomic, regular};

/// The directory of scripts in a plugin.
pub const USERSYS: &str = "usersys";

/// Files of usersys that do not belong to a plugin: Bots creates them, and reads the last two as its own index.
const OWN_FILES: [&str; 3] = ["__init__.py", "index.json", "index.py"];

/// Mode of files that are made.
const FILE_MODE: u32 = 0o644;

/// An index in one of its two forms.
pub enum Index {
    /// The text of a botsindex.json.
    Json(String),
    /// A botsindex.py, which only Python can read.
    Python(PathBuf),
}

/// The index of a plugin.
///
/// # Errors
/// If it is missing or cannot be read.
pub fn find_index(directory: &Path) -> Result<Index, Error> {
    let (json, python) = (directory.join(JSON_INDEX), directory.join(PYTHON_INDEX));
    if json.exists() {
        let text = regular::read_to_string(&json).map_err(|error| atomic::describe_io_error("read", &json, &error))?;
        return Ok(Index::Json(text));
    }
    if python.exists() {
        return Ok(Index::Python(python));
    }
    let text = format!("{}: not a plugin: it contains neither {JSON_INDEX} nor {PYTHON_INDEX}", directory.display());
    Err(Error::fault(text))
}

/// Everything of a plugin but its index.
///
/// # Errors
/// When a file cannot be read.
pub fn read_files(directory: &Path) -> Result<Plugin, Error> {
    let root = directory.canonicalize().map_err(|error| atomic::describe_io_error("read", directory, &error))?;
    let files = files_below(&directory.join(USERSYS), Some(git_repository(&root).unwrap_or(&root)))?;
    let mut ignored = Vec::new();
    let entries = fs::read_dir(directory).map_err(|error| atomic::describe_io_error("read", directory, &error))?;
    let mut names: Vec<_> = entries.flatten().filter(|entry| entry.path().is_dir()).map(|e| e.file_name()).collect();
    names.sort();
    for name in names {
        let name = name.to_string_lossy();
        if name != USERSYS && name != TESTS && !name.starts_with('.') {
            ignored.push(format!("the directory {name}: only {USERSYS} is applied"));
        }
    }
    Ok(Plugin { files, ignored, ..Plugin::default() })
}

/// The working tree of git that a directory is in: plugins of one repository may share files by links.
fn git_repository(directory: &Path) -> Option<&Path> {
    directory.ancestors().find(|ancestor| ancestor.join(".git").exists())
}

/// The files of a usersys that can be part of a plugin.
///
/// # Errors
/// When one cannot be read.
pub fn usersys_files(directory: &Path) -> Result<BTreeMap<String, Vec<u8>>, Error> {
    files_below(directory, None)
}

/// As [`usersys_files`]; links must not lead out of `root`: another person may have written the plugin.
fn files_below(directory: &Path, root: Option<&Path>) -> Result<BTreeMap<String, Vec<u8>>, Error> {
    let mut files = BTreeMap::new();
    if !directory.exists() {
        return Ok(files);
    }
    for entry in WalkDir::new(directory).follow_links(true).into_iter().filter_entry(is_part) {
        let entry = entry.map_err(|error| {
            let path = error.path().unwrap_or(directory).to_path_buf();
            atomic::describe_io_error("read", &path, &error.into())
        })?;
        let Some(path) = entry.path().strip_prefix(directory).ok().and_then(Path::to_str) else { continue };
        if !entry.file_type().is_file() || OWN_FILES.contains(&path) {
            continue;
        }
        if let Some(root) = root
            && !entry.path().canonicalize().is_ok_and(|real| real.starts_with(root))
        {
            let text = "it is a link that leads out of the plugin and its git repository";
            return Err(Error::fault(format!("{}: {text}", entry.path().display())));
        }
        let content =
            regular::read(entry.path()).map_err(|error| atomic::describe_io_error("read", entry.path(), &error))?;
        // An empty `__init__.py` carries no content of the plugin.
        if !(path.ends_with("/__init__.py") && content.is_empty()) {
            files.insert(path.to_owned(), content);
        }
    }
    Ok(files)
}

fn is_part(entry: &DirEntry) -> bool {
    let name = entry.file_name().to_string_lossy();
    let is_compiled = name == "__pycache__" || name.ends_with(".pyc") || name.ends_with(".pyo");
    entry.depth() == 0 || !(is_compiled || name.starts_with('.') || name.ends_with('~'))
}

/// Writes a plugin. Files of an earlier export that are not in this one are removed, and nothing else is.
///
/// # Errors
/// When something cannot be written, or the directory has a usersys that no export has made.
pub fn write(directory: &Path, plugin: &Plugin, bots_version: &str) -> Result<(), Error> {
    let usersys = directory.join(USERSYS);
    let existing = usersys_files(&usersys)?;
    if !existing.is_empty() && !directory.join(JSON_INDEX).exists() {
        let text = "it contains files that were not written by an export: choose another directory, or remove them";
        return Err(Error::fault(format!("{}: {text}", usersys.display())));
    }
    let added =
        plugin.files.iter().filter(|(path, content)| existing.get(*path) != Some(*content)).map(|(path, _)| path);
    let removed: Vec<&String> = existing.keys().filter(|path| !plugin.files.contains_key(*path)).collect();
    check_directories(&usersys, added.chain(removed.iter().copied()))?;
    // The index comes first, so that an export can be repeated after an interruption.
    atomic::make_dir(directory)?;
    let index = index::write(&plugin.rows, bots_version);
    atomic::write_atomically(&directory.join(JSON_INDEX), index.as_bytes(), FILE_MODE)?;
    for (path, content) in &plugin.files {
        let path = usersys.join(path);
        atomic::make_dir(path.parent().unwrap_or(&usersys))?;
        atomic::write_atomically(&path, content, atomic::file_mode(&path).unwrap_or(FILE_MODE))?;
    }
    for path in removed {
        remove(&usersys, path)?;
    }
    Ok(())
}

/// Rejects changes in directories that links share with other plugins.
fn check_directories<'a>(usersys: &Path, paths: impl Iterator<Item = &'a String>) -> Result<(), Error> {
    let Ok(root) = usersys.canonicalize() else { return Ok(()) };
    let is_shared = |path: &&String| {
        let real = usersys.join(path).parent().and_then(|parent| parent.canonicalize().ok());
        real.is_some_and(|real| !real.starts_with(&root))
    };
    let text =
        "its directory is a link, and the export would change the files of other plugins: replace the link by a copy";
    Error::fail_if_any(
        paths.filter(is_shared).map(|path| format!("{}: {text}", usersys.join(path).display())).collect(),
    )
}

/// Deletes a file, its compiled form, and directories that become empty, except those directly below usersys.
///
/// # Errors
/// If it cannot be deleted.
pub fn remove(usersys: &Path, name: &str) -> Result<(), Error> {
    let path = usersys.join(name);
    match fs::remove_file(&path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(atomic::describe_io_error("remove", &path, &error).into());
        }
        _ => {}
    }
    remove_compiled(&path);
    let mut directory = path.parent();
    while let Some(found) = directory.filter(|found| found.parent().is_some_and(|parent| parent != usersys)) {
        if found == usersys || fs::remove_dir(found).is_err() {
            break;
        }
        directory = found.parent();
    }
    if let Some(directory) = directory.filter(|directory| directory.exists()) {
        atomic::fsync_dir(directory)?;
    }
    Ok(())
}

/// Python compares times to the second, and a file that is replaced twice in one may be as long as before.
pub fn remove_compiled(path: &Path) {
    let (Some(directory), Some(stem)) = (path.parent(), path.file_stem()) else { return };
    let cache = directory.join("__pycache__");
    let start = format!("{}.", stem.to_string_lossy());
    for entry in fs::read_dir(&cache).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with(&start) && name.ends_with(".pyc") {
            let _ = fs::remove_file(entry.path());
        }
    }
    // Only when it is empty.
    let _ = fs::remove_dir(cache);
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_link_leads_into_the_repository_of_the_plugin_at_most() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let place = |path: &str| directory.path().join(path);
        fs::create_dir_all(place("repository/plugin/usersys/mappings")).expect("made");
        for name in ["outside.py", "repository/shared.py"] {
            fs::write(place(name), "VALUE = 1\n").expect("written");
        }
        let link = place("repository/plugin/usersys/mappings/shared.py");
        symlink("../../../shared.py", &link).expect("linked");
        let refused = read_files(&place("repository/plugin")).expect_err("it is no repository").to_string();
        assert!(
            refused.ends_with("shared.py: it is a link that leads out of the plugin and its git repository"),
            "{refused}"
        );
        fs::create_dir(place("repository/.git")).expect("made");
        let plugin = read_files(&place("repository/plugin")).expect("the link stays in the repository");
        assert_eq!(plugin.files["mappings/shared.py"], b"VALUE = 1\n");
        fs::remove_file(&link).expect("removed");
        symlink(place("outside.py"), &link).expect("linked");
        read_files(&place("repository/plugin")).expect_err("the link leads out of the repository");
    }

    #[test]
    fn an_interrupted_export_can_be_repeated() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let place = directory.path().join("plugin");
        let files = ["mappings/a.py", "mappings/b.py"].map(|path| (path.to_owned(), b"VALUE = 1\n".to_vec()));
        let plugin = Plugin { files: files.into(), ..Plugin::default() };
        let obstacle = place.join("usersys/mappings/b.py");
        fs::create_dir_all(&obstacle).expect("made");
        write(&place, &plugin, "4.0").expect_err("a directory is in the way");
        assert!(place.join("usersys/mappings/a.py").exists());
        fs::remove_dir(&obstacle).expect("removed");
        write(&place, &plugin, "4.0").expect("it is the same export");
    }

    #[test]
    fn an_export_changes_no_shared_file() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let (plugin, shared) = (directory.path().join("plugin"), directory.path().join("shared"));
        let mappings = plugin.join("usersys/mappings");
        let export = |path: &str, content: &str| {
            let files = [(path.to_owned(), content.as_bytes().to_vec())].into();
            write(&plugin, &Plugin { files, ..Plugin::default() }, "4.0")
        };
        let shared_text = || fs::read_to_string(shared.join("shared.py")).expect("readable");
        export("mappings/shared.py", "VALUE = 1\n").expect("written");
        fs::rename(&mappings, &shared).expect("moved");
        symlink("../../shared", &mappings).expect("linked");
        export("mappings/shared.py", "VALUE = 1\n").expect("nothing differs");
        for (path, content) in [("mappings/shared.py", "VALUE = 2\n"), ("other/shared.py", "VALUE = 1\n")] {
            let refused = export(path, content).expect_err("the directory is shared").to_string();
            assert!(refused.contains("usersys/mappings/shared.py: its directory is a link"), "{refused}");
        }
        assert_eq!(shared_text(), "VALUE = 1\n");
        fs::remove_file(&mappings).expect("removed");
        fs::create_dir(&mappings).expect("made");
        symlink("../../../shared/shared.py", mappings.join("shared.py")).expect("linked");
        export("mappings/shared.py", "VALUE = 1\n").expect("nothing differs");
        assert!(mappings.join("shared.py").is_symlink());
        export("mappings/shared.py", "VALUE = 2\n").expect("the link is replaced");
        assert!(!mappings.join("shared.py").is_symlink());
        assert_eq!(shared_text(), "VALUE = 1\n");
    }
}
