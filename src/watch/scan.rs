//! The directories of one entry, as they were found: a look at all of them, or at what was told of some.
//!
//! Everything here may wait for a file system, so it runs on a thread for such work. A directory is watched before it is
//! listed: what comes in between is told twice and counts once.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use super::backend::{Backend, Identity, identity};
use super::events::{Event, Events, News, PlaceId};
use super::observation::{Clock, file, sight, stamp};
use super::stability::{Files, Patience, Unfinished, Verdict};
use super::target::{Entry, leads_to};
use super::unfinished::{Complete, UnfinishedFiles, Waiting};

/// How much is looked at, beside what was told and files that were not complete the last time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Extent {
    /// Nothing more.
    Told,
    /// Everything.
    All,
    /// Everything, as if for the first time.
    Anew,
}

/// What a look has shown.
#[derive(Debug, Default)]
pub struct Found {
    /// Files that are complete, and were not when they were told of last. None is told of while another one has to be waited
    /// for.
    pub complete: Complete,
    /// Files that are not complete.
    pub waiting: Waiting,
    /// How the directories are watched; nothing where only a part was looked at and nothing has changed.
    pub condition: Option<Condition>,
    /// Where everything was looked at: since when the file is there that came first.
    pub oldest: Option<SystemTime>,
}

/// How the directories of an entry are watched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Condition {
    /// As many, in this way.
    #[allow(missing_docs)]
    Watched { directories: usize, backend: Backend, root: Identity },
    /// They are not all watched, for a reason that time or a person may mend.
    #[allow(missing_docs)]
    Trouble { why: String, root: Option<Identity> },
}

/// The directories of one entry.
pub struct Directories {
    entry: Arc<Entry>,
    place: PlaceId,
    events: Arc<Events>,
    patience: Patience,
    /// By their real paths.
    known: HashMap<PathBuf, Directory>,
    root: Option<Identity>,
    round: u32,
    is_first: bool,
    unfinished: UnfinishedFiles,
    clock: Clock,
}

struct Directory {
    identity: Identity,
    /// How many names of the pattern lead here.
    level: usize,
    is_watched: bool,
    backend: Backend,
    files: Files,
    /// The last round in which it was there.
    round: u32,
}

/// What is gathered during a look.
#[derive(Default)]
struct Gathered {
    found: Found,
    trouble: Option<String>,
}

impl Directories {
    /// Nothing is looked at yet.
    #[must_use]
    pub fn new(entry: Arc<Entry>, place: PlaceId, events: Arc<Events>, clock: Clock) -> Self {
        let patience = Patience { settle: entry.settle, limit: entry.file_wait };
        let (known, unfinished) = (HashMap::new(), UnfinishedFiles::default());
        Self { entry, place, events, patience, known, root: None, round: 0, is_first: true, unfinished, clock }
    }

    /// Looks at what was told, and as much more as is asked for.
    pub fn look(&mut self, told: Vec<Event>, extent: Extent) -> Found {
        let mut gathered = Gathered::default();
        let before = self.known.len();
        let is_doubtful = self.look_at_told(told, &mut gathered);
        self.look_at_unfinished(&mut gathered.found);
        if extent == Extent::Anew {
            self.known.values_mut().for_each(|directory| directory.files = Files::default());
            self.is_first = true;
        }
        if is_doubtful || extent != Extent::Told {
            self.look_at_all(&mut gathered);
        } else if self.known.len() != before || gathered.trouble.is_some() {
            gathered.found.condition = Some(self.condition(gathered.trouble));
        }
        let found = &mut gathered.found;
        found.waiting = self.unfinished.hold(&mut found.complete, Instant::now(), self.patience.limit);
        gathered.found
    }

    /// Files that are there and not known to be complete, why, and whether they are still waited for.
    pub fn unfinished(&self) -> impl Iterator<Item = (PathBuf, Unfinished, bool)> + '_ {
        self.unfinished.seen()
    }

    /// Nobody watches for this entry any more.
    pub fn leave(mut self) {
        self.forget_where(|_, _| true);
    }

    fn look_at_all(&mut self, gathered: &mut Gathered) {
        self.round = self.round.wrapping_add(1);
        let before = self.unfinished.begin_round();
        let mut all = Gathered::default();
        let root = &self.entry.directory.root;
        self.root = identity(root);
        match (self.root, fs::canonicalize(root)) {
            (Some(_), Ok(real)) => self.visit(real, 0, &mut all),
            _ => all.trouble = Some(why_not_there(root)),
        }
        self.forget_where(|directory, round| directory.round != round);
        if !self.is_first || self.entry.takes_existing {
            let (complete, more) = (&mut gathered.found.complete, all.found.complete);
            complete.count += more.count;
            complete.example = complete.example.take().or(more.example);
        }
        self.is_first = false;
        self.unfinished.end_round(&before);
        gathered.found.condition = Some(self.condition(all.trouble));
        gathered.found.oldest = self.oldest();
    }

    fn oldest(&self) -> Option<SystemTime> {
        let oldest = self.known.values().filter_map(|directory| directory.files.oldest()).min()?;
        Some(SystemTime::UNIX_EPOCH + Duration::from_nanos(u64::try_from(oldest).ok()?))
    }

    fn condition(&self, trouble: Option<String>) -> Condition {
        // One that is polled says how fast news are found.
        let polled = self.known.values().find(|directory| directory.backend.polls);
        let typical = polled.or(self.known.values().next());
        match (trouble, typical, self.root) {
            (None, Some(directory), Some(root)) => {
                Condition::Watched { directories: self.targets(), backend: directory.backend.clone(), root }
            }
            (trouble, _, root) => {
                let why = trouble.unwrap_or_else(|| why_not_there(&self.entry.directory.root));
                Condition::Trouble { why, root }
            }
        }
    }

    fn targets(&self) -> usize {
        let level = self.entry.directory.rest.len();
        self.known.values().filter(|directory| directory.level == level).count()
    }

    /// Looks at a directory, by its real path, and those below it that belong to the entry.
    fn visit(&mut self, real: PathBuf, level: usize, gathered: &mut Gathered) {
        let mut open = vec![(real, level)];
        while let Some((real, level)) = open.pop() {
            if let Err(error) = self.visit_one(&real, level, &mut open, &mut gathered.found) {
                // What is gone again was never there.
                if error.kind() != io::ErrorKind::NotFound {
                    let trouble = || format!("cannot read {}: {}", real.display(), plain(&error));
                    gathered.trouble.get_or_insert_with(trouble);
                }
            }
        }
    }

    fn visit_one(
        &mut self,
        real: &Path,
        level: usize,
        open: &mut Vec<(PathBuf, usize)>,
        found: &mut Found,
    ) -> io::Result<()> {
        let Some(identity) = identity(real) else { return Ok(()) };
        let before = self.known.remove(real).filter(|known| known.identity == identity);
        let backend = Backend::of(real, self.entry.watch_by)?;
        let is_watched = before.as_ref().is_some_and(|known| known.is_watched);
        let (is_watched, backend) = self.watch(real, is_watched, before.is_some(), backend);
        let files = before.map(|known| known.files).unwrap_or_default();
        let mut directory = Directory { identity, level, is_watched, backend, files, round: self.round };
        let entry = Arc::clone(&self.entry);
        let listed = match entry.directory.rest.get(level) {
            Some(mask) if !mask.is_pattern() => {
                open.extend(fs::canonicalize(real.join(mask.as_str())).ok().map(|below| (below, level + 1)));
                Ok(())
            }
            Some(mask) => list(real, |item| {
                if leads_to(mask, &item.file_name()) {
                    open.extend(real_directory(item).map(|below| (below, level + 1)));
                }
            }),
            None => self.list_files(real, level, &mut directory, open, found),
        };
        self.known.insert(real.to_owned(), directory);
        listed
    }

    /// Watches a directory if its file system allows it and it is not watched yet.
    fn watch(&self, real: &Path, is_watched: bool, is_known: bool, backend: Backend) -> (bool, Backend) {
        if !backend.events {
            if is_watched {
                self.events.forget(real, self.place);
            }
            return (false, backend);
        }
        if is_watched {
            return (true, backend);
        }
        match self.events.watch(real, self.place, !is_known) {
            Ok(()) => (true, backend),
            Err(why) => (false, backend.without_events(&why)),
        }
    }

    fn list_files(
        &mut self,
        real: &Path,
        level: usize,
        directory: &mut Directory,
        open: &mut Vec<(PathBuf, usize)>,
        found: &mut Found,
    ) -> io::Result<()> {
        let (entry, patience, now) = (Arc::clone(&self.entry), self.patience, Instant::now());
        let mut clock = self.clock.begin(real, &directory.backend);
        directory.files.begin_round();
        let listed = list(real, |item| {
            let name = item.file_name();
            if item.file_type().is_ok_and(|kind| kind.is_dir()) {
                if entry.is_recursive {
                    open.push((item.path(), level));
                }
                return;
            }
            let path = item.path();
            let Some(meta) = entry.takes(&name).then(|| file(&path)).flatten() else { return };
            // Most files are known, and need no further question.
            if directory.files.is_still(&name, stamp(&meta)) {
                return;
            }
            let is_unfinished = entry.is_channel && entry.is_unfinished(&name);
            let sight = sight(&path, &meta, &directory.backend, &mut clock, is_unfinished);
            let verdict = directory.files.look(&name, &sight, now, patience);
            self.note(verdict, real, name, found);
        });
        if listed.is_ok() {
            directory.files.end_round();
        }
        listed
    }

    fn note(&mut self, verdict: Verdict, directory: &Path, name: OsString, found: &mut Found) {
        let key = (directory.to_owned(), name);
        match verdict {
            Verdict::Waits(unfinished) => self.unfinished.see(key, unfinished),
            Verdict::Counts => {
                self.unfinished.remove(&key);
                count(found, directory, &key.1);
            }
            Verdict::Known => self.unfinished.remove(&key),
        }
    }

    /// Whether it takes a look at everything to know how things are.
    fn look_at_told(&mut self, told: Vec<Event>, gathered: &mut Gathered) -> bool {
        let mut is_doubtful = false;
        for Event { path, news } in told {
            let is_other = matches!(news, News::Gone | News::Changed);
            match self.known.get_mut(&path).filter(|_| is_other) {
                // The watch may be gone with it; a look at everything sets it again.
                Some(directory) => (directory.is_watched, is_doubtful) = (false, true),
                None => self.look_at(&path, news, gathered),
            }
        }
        is_doubtful
    }

    fn look_at(&mut self, path: &Path, news: News, gathered: &mut Gathered) {
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { return };
        let Some(level) = self.known.get(parent).map(|directory| directory.level) else { return };
        let may_be_directory = matches!(news, News::DirectoryAppeared | News::Arrived | News::Appeared);
        match self.entry.directory.rest.get(level) {
            Some(mask) => {
                if may_be_directory
                    && leads_to(mask, name)
                    && let Ok(real) = fs::canonicalize(path)
                {
                    self.visit(real, level + 1, gathered);
                }
            }
            None if self.entry.is_recursive && may_be_directory && is_real_directory(path) => {
                self.visit(path.to_owned(), level, gathered);
            }
            None if self.entry.takes(name) => self.look_at_file(path, parent, name, news, &mut gathered.found),
            None => {}
        }
    }

    fn look_at_file(&mut self, path: &Path, parent: &Path, name: &OsStr, news: News, found: &mut Found) {
        let (now, patience) = (Instant::now(), self.patience);
        let Some(directory) = self.known.get_mut(parent) else { return };
        let key = (parent.to_owned(), name.to_owned());
        let Some(meta) = (news != News::Gone).then(|| file(path)).flatten() else {
            // Where it is not removed, the engine was faster.
            directory.files.vanished(name);
            self.unfinished.remove(&key);
            return;
        };
        let begins = matches!(news, News::Appeared | News::Written);
        if begins && directory.files.counted(name) == Some(stamp(&meta)) {
            // An earlier look was faster than this event.
            return;
        }
        match news {
            News::Closed | News::Arrived => {
                let mut clock = self.clock.begin(parent, &directory.backend);
                let sight = sight(path, &meta, &directory.backend, &mut clock, false);
                let verdict = directory.files.completed(name, &sight, now, patience);
                self.note(verdict, parent, key.1, found);
                return;
            }
            News::Appeared => directory.files.appeared(name, now),
            News::Written => directory.files.written(name, now),
            News::Gone | News::DirectoryAppeared | News::Changed => return,
        }
        self.unfinished.touch(key);
    }

    /// Where events tell of a writer, its next one is waited for; all other files are looked at.
    fn look_at_unfinished(&mut self, found: &mut Found) {
        let (now, patience) = (Instant::now(), self.patience);
        for (parent, name) in self.unfinished.due(now) {
            let path = parent.join(&name);
            let (Some(directory), Some(meta)) = (self.known.get_mut(&parent), file(&path)) else {
                self.known.get_mut(&parent).into_iter().for_each(|directory| directory.files.vanished(&name));
                self.unfinished.remove(&(parent, name));
                continue;
            };
            let mut clock = self.clock.begin(&parent, &directory.backend);
            let is_unfinished = self.entry.is_channel && self.entry.is_unfinished(&name);
            let sight = sight(&path, &meta, &directory.backend, &mut clock, is_unfinished);
            let verdict = directory.files.look(&name, &sight, now, patience);
            self.note(verdict, &parent, name, found);
        }
    }

    fn forget_where(&mut self, is_gone: impl Fn(&Directory, u32) -> bool) {
        let (round, place, events) = (self.round, self.place, &self.events);
        self.known.retain(|path, directory| {
            let is_gone = is_gone(directory, round);
            if is_gone && directory.is_watched {
                events.forget(path, place);
            }
            !is_gone
        });
    }
}

fn count(found: &mut Found, directory: &Path, name: &OsStr) {
    found.complete.count += 1;
    found.complete.example.get_or_insert_with(|| directory.join(name));
}

fn list(directory: &Path, mut each: impl FnMut(&fs::DirEntry)) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        each(&entry?);
    }
    Ok(())
}

/// The real path of a directory, also of one behind a link.
fn real_directory(entry: &fs::DirEntry) -> Option<PathBuf> {
    match entry.file_type() {
        Ok(kind) if kind.is_dir() => Some(entry.path()),
        Ok(kind) if kind.is_symlink() => fs::canonicalize(entry.path()).ok().filter(|real| real.is_dir()),
        _ => None,
    }
}

fn is_real_directory(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|meta| meta.is_dir())
}

fn why_not_there(root: &Path) -> String {
    match fs::metadata(root) {
        Ok(meta) if meta.is_dir() => format!("{} was not there a moment ago", root.display()),
        Ok(_) => {
            format!("{} is no directory: path names one, and filemask the files in it", root.display())
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => format!("{} is not there", root.display()),
        Err(error) => format!("cannot look at {}: {}", root.display(), plain(&error)),
    }
}

/// Without the number that the standard library appends.
fn plain(error: &io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or(&text).to_owned()
}
