//! Bots's configuration of the directory monitor: the sections of bots.ini, and the base of relative paths.

use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use super::environment::Environment;
use super::ini_check::is_windows_path;
use super::{Error, Installation};
use crate::config::WatchMethod;
use crate::config::layers::closest_match;
use crate::config::parse::{self, ParseResult};
use crate::model::BotsVersion;
use crate::pycompat::configparser::{BotsIni, parse_boolean};

/// The section with defaults; the sections of directories begin with the same word.
const GENERAL: &str = "dirmonitor";

/// The keys of a directory's section.
const KEYS: [&str; 7] = ["path", "filemask", "recursive", "route", "watch", "poll_interval", "stable_after"];

/// The sections of bots.ini.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirmonitorConfig {
    /// One for each section.
    pub directories: Vec<WatchedDirectory>,
    /// Whether files that exist at the start of the monitor start their routes.
    pub process_existing: bool,
    /// The options of directories without options in their section.
    pub default_options: WatchOptions,
    /// Errors of the general section and of skipped sections, each with file and line.
    pub faults: Vec<String>,
    /// The file that Bots's programs write to notify the monitor.
    pub trigger: PathBuf,
    /// The base of relative paths.
    base: PathBuf,
}

/// A directory of bots.ini.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WatchedDirectory {
    /// The section and the file, for messages.
    pub origin: String,
    /// Where the files are, and their names.
    pub files: FilePattern,
    /// Whether subdirectories count as well.
    pub is_recursive: bool,
    /// The route that is started.
    pub route: String,
    /// How it is watched.
    pub options: WatchOptions,
}

/// Files as Bots's channels name them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FilePattern {
    /// An absolute path, in which names may be masks.
    pub directory: PathBuf,
    /// The mask for the names of files.
    pub mask: String,
}

/// Keys of bots-ctl, which Bots ignores.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct WatchOptions {
    pub watch_by: Option<WatchMethod>,
    pub poll_interval: Option<Duration>,
    pub stable_after: Option<Duration>,
}

impl DirmonitorConfig {
    /// Reads the effective bots.ini. A section that would start a wrong route, or none, is skipped.
    ///
    /// # Errors
    /// If the file cannot be read; each error with its line.
    pub fn read(environment: &Environment, bots: &Installation) -> Result<Self, Error> {
        let (file, ini) = (environment.ini_file(), environment.read_ini()?);
        let empty = Self::without_sections(environment, bots);
        let mut reader = SectionReader { file: &file, ini: &ini, base: &empty.base, faults: Vec::new() };
        let process_existing = reader.boolean(GENERAL, "process_existing", true);
        let default_options = reader.read_watch_options(GENERAL);
        let sections: Vec<&str> = ini.sections().filter(|name| name.starts_with(GENERAL) && *name != GENERAL).collect();
        let directories = sections.into_iter().filter_map(|section| reader.directory(section)).collect();
        Ok(Self { directories, process_existing, default_options, faults: reader.faults, ..empty })
    }

    /// As for a bots.ini without these sections.
    pub fn without_sections(environment: &Environment, bots: &Installation) -> Self {
        let base = match bots.bots_version() {
            BotsVersion::V3 => bots.package.clone(),
            BotsVersion::V4 => environment.root.clone(),
        };
        let (directories, default_options) = (Vec::new(), WatchOptions::default());
        let (faults, trigger) = (Vec::new(), trigger_file(environment));
        Self { directories, process_existing: true, default_options, faults, trigger, base }
    }

    /// The options of a directory: those of its section, if it has one.
    pub fn watch_options_for(&self, directory: &Path) -> WatchOptions {
        let section = self.directories.iter().find(|section| section.files.directory == directory);
        section.map_or(self.default_options, |section| section.options.or(self.default_options))
    }

    /// Files of a channel, whose path may be relative.
    pub fn files(&self, path: &str, mask: &str) -> Option<FilePattern> {
        FilePattern::new(&self.base, path, mask)
    }
}

impl WatchOptions {
    /// These options, completed with those of `other`.
    pub fn or(self, other: Self) -> Self {
        Self {
            watch_by: self.watch_by.or(other.watch_by),
            poll_interval: self.poll_interval.or(other.poll_interval),
            stable_after: self.stable_after.or(other.stable_after),
        }
    }
}

impl FilePattern {
    /// Joins path and mask as Bots's channels do. `None` for a mask that names no file.
    fn new(base: &Path, path: &str, mask: &str) -> Option<Self> {
        if mask.is_empty() || mask.ends_with('/') {
            return None;
        }
        let whole = normalise(&base.join(path).join(mask));
        let mask = whole.file_name()?.to_str()?.to_owned();
        Some(Self { directory: whole.parent()?.to_path_buf(), mask })
    }
}

/// The file through which Bots 4 notifies its monitor of changed routes.
pub fn trigger_file(environment: &Environment) -> PathBuf {
    environment.botssys.join(".dirmonitor.trigger")
}

/// Removes `.` and `..` lexically, as Python's `normpath` does, which ignores links.
fn normalise(path: &Path) -> PathBuf {
    let mut normal = PathBuf::new();
    for component in path.components() {
        match component {
            Component::CurDir => {}
            Component::ParentDir => {
                normal.pop();
            }
            other => normal.push(other),
        }
    }
    normal
}

struct SectionReader<'a> {
    file: &'a Path,
    ini: &'a BotsIni,
    base: &'a Path,
    faults: Vec<String>,
}

impl SectionReader<'_> {
    fn directory(&mut self, section: &str) -> Option<WatchedDirectory> {
        let faults_before = self.faults.len();
        self.check_keys(section);
        let path = self.text(section, "path");
        let route = self.text(section, "route");
        let mask = self.ini.get(section, "filemask").map_or("*", |entry| entry.value).to_owned();
        if path.is_empty() {
            self.report(
                section,
                "path",
                "is missing or empty, and Bots has no default: set path = /path/of/the/directory",
            );
        }
        if is_windows_path(&path) {
            self.report(section, "path", "is a Windows path; use a path of this machine");
        }
        if route.is_empty() {
            self.report(
                section,
                "route",
                "is missing or empty, so Bots's engine would run no route and report success: set route = NAME",
            );
        }
        let files = FilePattern::new(self.base, &path, &mask);
        if files.is_none() && !path.is_empty() {
            self.report(section, "filemask", "matches no file; for all files set filemask = *");
        }
        let is_recursive = self.boolean(section, "recursive", false);
        let options = self.read_watch_options(section);
        let origin = format!("[{section}] of {}", self.file.display());
        (self.faults.len() == faults_before).then_some(())?;
        Some(WatchedDirectory { origin, files: files?, is_recursive, route, options })
    }

    /// A misspelt key would leave the section with a default. Bots also ignores unknown keys.
    fn check_keys(&mut self, section: &str) {
        let known: Vec<String> = KEYS.iter().map(|key| (*key).to_owned()).collect();
        let names: Vec<&str> = self.ini.items(section).map(|(name, _)| name).collect();
        for name in names.into_iter().filter(|name| !KEYS.contains(name)) {
            if let Some(meant) = closest_match(name, known.iter()) {
                self.report(section, name, &format!("is unknown; did you mean {meant}?"));
            }
        }
    }

    fn read_watch_options(&mut self, section: &str) -> WatchOptions {
        WatchOptions {
            watch_by: self.parsed(section, "watch", parse::choice),
            poll_interval: self.parsed(section, "poll_interval", parse::interval),
            stable_after: self.parsed(section, "stable_after", parse::duration),
        }
    }

    fn text(&self, section: &str, key: &str) -> String {
        self.ini.get(section, key).map(|entry| entry.value.trim().to_owned()).unwrap_or_default()
    }

    fn boolean(&mut self, section: &str, key: &str, default: bool) -> bool {
        let Some(entry) = self.ini.get(section, key) else { return default };
        parse_boolean(entry.value).unwrap_or_else(|| {
            self.report(section, key, "is neither True nor False; Bots's own monitor exits on it");
            default
        })
    }

    fn parsed<T>(&mut self, section: &str, key: &str, parse: fn(&str) -> ParseResult<T>) -> Option<T> {
        match parse(self.ini.get(section, key)?.value.trim()) {
            Ok(value) => Some(value),
            Err(expected) => {
                self.report(section, key, &format!("is invalid: {expected}"));
                None
            }
        }
    }

    fn report(&mut self, section: &str, key: &str, what: &str) {
        let entry = self.ini.get(section, key);
        let line = entry.map(|entry| entry.line).or(self.ini.section_line(section)).unwrap_or_default();
        let value = entry.map(|entry| format!(" = {}", entry.value)).unwrap_or_default();
        self.faults.push(format!("{}:{line}: [{section}] {key}{value} {what}", self.file.display()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(generation: BotsVersion, text: &str) -> Result<DirmonitorConfig, Error> {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let root = dir.path().join("env");
        let package = dir.path().join("bots");
        std::fs::create_dir_all(root.join("config")).expect("made");
        std::fs::create_dir_all(package.join(if generation == BotsVersion::V4 { "migrations" } else { "" }))
            .expect("made");
        std::fs::write(root.join("config/bots.ini"), text).expect("written");
        let (bin_dir, python) = (dir.path().join("bin"), dir.path().join("bin/python"));
        let environment = Environment {
            config: root.join("config"),
            botssys: root.join("botssys"),
            usersys: root.join("usersys"),
            root,
        };
        DirmonitorConfig::read(&environment, &Installation { bin_dir, python, package })
    }

    #[test]
    fn sections_have_the_defaults_of_bots() {
        let monitored = read(BotsVersion::V4, "[dirmonitor]\n[dirmonitor1]\npath = /in\nroute = r\n").expect("valid");
        let [directory] = monitored.directories.as_slice() else { panic!("one directory") };
        assert_eq!(directory.files, FilePattern { directory: "/in".into(), mask: "*".into() });
        assert!(!directory.is_recursive && monitored.process_existing);
        assert_eq!(directory.options, WatchOptions::default());
    }

    #[test]
    fn relative_paths_resolve_like_channel_paths() {
        let text = "[dirmonitor1]\npath = botssys/../in//a\nfilemask = b/*.xml\nroute = r\n";
        for (generation, base) in [(BotsVersion::V3, "bots"), (BotsVersion::V4, "env")] {
            let monitored = read(generation, text).expect("valid");
            let files = &monitored.directories[0].files;
            assert!(files.directory.ends_with(format!("{base}/in/a/b")), "{files:?}");
            assert_eq!(files.mask, "*.xml");
            assert_eq!(monitored.files("/x", "y"), Some(FilePattern { directory: "/x".into(), mask: "y".into() }));
            assert_eq!(monitored.files("/x", ""), None);
        }
    }

    #[test]
    fn all_errors_are_reported_with_their_lines() {
        let text = "[dirmonitor]\nprocess_existing = perhaps\nwatch = often\n[dirmonitor1]\nroute =\n[dirmonitor2]\n\
                    path = /in\nroute = r\nfilemask =\nrecursive = deep\nstable_after = soon\n[dirmonitor3]\n\
                    path = C:\\in\nroute = r\nfilmask = *.edi\nnote = mine\n[dirmonitor4]\npath = /in\nroute = r\n";
        let DirmonitorConfig { directories, faults, .. } = read(BotsVersion::V3, text).expect("it can be read");
        assert_eq!(directories.len(), 1, "the fourth is sound: {directories:?}");
        let expected = [
            ":2: [dirmonitor] process_existing = perhaps is neither True nor False",
            ":3: [dirmonitor] watch = often is invalid: expected auto, inotify or poll",
            ":4: [dirmonitor1] path is missing or empty",
            ":5: [dirmonitor1] route =  is missing or empty",
            ":9: [dirmonitor2] filemask =  matches no file",
            ":10: [dirmonitor2] recursive = deep is neither",
            ":11: [dirmonitor2] stable_after = soon is invalid",
            ":15: [dirmonitor3] filmask = *.edi is unknown; did you mean filemask?",
            ":13: [dirmonitor3] path = C:\\in is a Windows path",
        ];
        assert_eq!(faults.len(), expected.len(), "{faults:#?}");
        for (fault, part) in faults.iter().zip(expected) {
            assert!(fault.contains(part), "{fault} lacks {part}");
        }
    }

    #[test]
    fn section_overrides_general_options() {
        let text =
            "[dirmonitor]\nwatch = poll\npoll_interval = 5s\n[dirmonitorA]\npath = /in\nroute = r\nwatch = inotify\n";
        let monitored = read(BotsVersion::V4, text).expect("valid");
        let options = monitored.directories[0].options.or(monitored.default_options);
        assert_eq!(
            (options.watch_by, options.poll_interval),
            (Some(WatchMethod::Inotify), Some(Duration::from_secs(5)))
        );
        assert_eq!(options.stable_after, None);
    }
}
