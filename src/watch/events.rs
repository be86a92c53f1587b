//! Events of the kernel, by the crate `notify`: which directories are watched for whom, and what is told of them.
//!
//! The watcher has a thread of its own, which puts what it hears into a channel and never waits. What does not fit, and
//! what the kernel itself had to drop, is made up for by a look at everything.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use notify::event::{AccessKind, AccessMode, CreateKind, Flag, ModifyKind, RenameMode};
use notify::{Config, ErrorKind, INotifyWatcher, RecursiveMode, Watcher as _};
use tokio::sync::mpsc;

/// What is told before anybody has listened; as many as the kernel keeps by default.
const CAPACITY: usize = 16_384;

/// For whom a directory is watched.
pub type TargetId = u64;

/// Something that happened in a watched directory, or to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// The file or directory.
    pub path: PathBuf,
    /// What happened to it.
    pub kind: EventKind,
}

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventKind {
    /// A file was made, or linked.
    Created,
    /// A directory was made.
    DirCreated,
    /// Something was renamed to this name.
    RenamedIn,
    /// A file was closed by one who could write it.
    Closed,
    /// A file was written.
    Modified,
    /// It was removed, or has another name now.
    Removed,
    /// Who may do what with it has changed, or it is another one of the same name.
    AttributesChanged,
}

/// The watcher, if there can be one.
pub struct Watcher {
    watcher: Mutex<Result<INotifyWatcher, String>>,
    users: Mutex<HashMap<PathBuf, Vec<TargetId>>>,
    sender: Sender,
}

/// What happened, in the order in which it did.
pub struct EventReceiver {
    receiver: mpsc::Receiver<Event>,
    is_incomplete: Arc<AtomicBool>,
}

#[derive(Clone)]
struct Sender {
    sender: mpsc::Sender<Event>,
    is_incomplete: Arc<AtomicBool>,
}

impl Watcher {
    /// Starts the watcher. Where that fails, each try to watch a directory says why.
    #[must_use]
    pub fn start() -> (Self, EventReceiver) {
        let (sender, receiver) = mpsc::channel(CAPACITY);
        let is_incomplete = Arc::new(AtomicBool::new(false));
        let sender = Sender { sender, is_incomplete: Arc::clone(&is_incomplete) };
        let teller = sender.clone();
        let push = move |event: notify::Result<notify::Event>| match event {
            Ok(event) => teller.push(event),
            Err(_) => teller.miss(),
        };
        let watcher = INotifyWatcher::new(push, Config::default()).map_err(|error| explain(&error));
        let events = Self { watcher: Mutex::new(watcher), users: Mutex::default(), sender };
        (events, EventReceiver { receiver, is_incomplete })
    }

    /// No watcher at all, for an observer that looks by itself.
    #[must_use]
    pub fn none() -> Self {
        let (sender, _) = mpsc::channel(1);
        let sender = Sender { sender, is_incomplete: Arc::default() };
        Self { watcher: Mutex::new(Err("no events were asked for".to_owned())), users: Mutex::default(), sender }
    }

    /// Watches a directory, by its real path, for a place. `is_new` says that it is another one than before, if there was
    /// one before; all others who watch it are told so.
    ///
    /// # Errors
    /// Why it cannot be watched, in a few words.
    pub fn watch(&self, directory: &Path, target: TargetId, is_new: bool) -> Result<(), String> {
        let mut watcher = lock(&self.watcher);
        let watcher = watcher.as_mut().map_err(|reason| reason.clone())?;
        let others = self.add_user(directory, target);
        if is_new && others {
            let _ = watcher.unwatch(directory);
        }
        let watched = watcher.watch(directory, RecursiveMode::NonRecursive);
        if is_new && others {
            // What happened in between was not heard.
            self.sender.send(Event { path: directory.to_owned(), kind: EventKind::AttributesChanged });
        }
        watched.map_err(|error| {
            self.remove_user(directory, target);
            explain(&error)
        })
    }

    /// A place no longer needs a directory.
    pub fn forget(&self, directory: &Path, target: TargetId) {
        if self.remove_user(directory, target)
            && let Ok(watcher) = lock(&self.watcher).as_mut()
        {
            // It may be gone already, and with it the watch.
            let _ = watcher.unwatch(directory);
        }
    }

    /// For whom a directory is watched.
    #[must_use]
    pub fn users(&self, directory: &Path) -> Vec<TargetId> {
        lock(&self.users).get(directory).cloned().unwrap_or_default()
    }

    /// Whether the directory had a user before.
    fn add_user(&self, directory: &Path, target: TargetId) -> bool {
        let mut users = lock(&self.users);
        let known = users.entry(directory.to_owned()).or_default();
        let was_used = !known.is_empty();
        if !known.contains(&target) {
            known.push(target);
        }
        was_used
    }

    /// Whether that was the last user of the directory.
    fn remove_user(&self, directory: &Path, target: TargetId) -> bool {
        let mut users = lock(&self.users);
        users.get_mut(directory).into_iter().for_each(|known| known.retain(|user| *user != target));
        users.get(directory).is_some_and(Vec::is_empty) && users.remove(directory).is_some()
    }
}

impl EventReceiver {
    /// The next events; never none.
    pub async fn next(&mut self, events: &mut Vec<Event>) {
        if self.receiver.recv_many(events, 1024).await == 0 {
            // Nobody is left who could tell anything.
            std::future::pending::<()>().await;
        }
    }

    /// Whether something was missed since the last time this was asked.
    pub fn was_incomplete(&self) -> bool {
        self.is_incomplete.swap(false, Ordering::AcqRel)
    }
}

impl Sender {
    fn push(&self, event: notify::Event) {
        if event.flag() == Some(Flag::Rescan) {
            self.miss();
        }
        let Some(event_kind) = event_kind(event.kind) else { return };
        for path in event.paths {
            self.send(Event { path, kind: event_kind });
        }
    }

    fn send(&self, event: Event) {
        if self.sender.try_send(event).is_err() {
            self.miss();
        }
    }

    fn miss(&self) {
        self.is_incomplete.store(true, Ordering::Release);
        // Whoever waits has to wake up. If this does not fit, there is enough to wake up for.
        let _ = self.sender.try_send(Event { path: PathBuf::new(), kind: EventKind::AttributesChanged });
    }
}

fn event_kind(kind: notify::EventKind) -> Option<EventKind> {
    match kind {
        notify::EventKind::Create(CreateKind::Folder) => Some(EventKind::DirCreated),
        notify::EventKind::Create(_) => Some(EventKind::Created),
        notify::EventKind::Modify(ModifyKind::Name(RenameMode::To)) => Some(EventKind::RenamedIn),
        notify::EventKind::Modify(ModifyKind::Name(RenameMode::From)) | notify::EventKind::Remove(_) => {
            Some(EventKind::Removed)
        }
        // Both names, each of which has had its own event.
        notify::EventKind::Modify(ModifyKind::Name(_)) => None,
        notify::EventKind::Modify(ModifyKind::Metadata(_)) => Some(EventKind::AttributesChanged),
        notify::EventKind::Modify(_) => Some(EventKind::Modified),
        notify::EventKind::Access(AccessKind::Close(AccessMode::Write)) => Some(EventKind::Closed),
        // That a file is opened is not told of: a look does that itself.
        notify::EventKind::Access(_) | notify::EventKind::Any | notify::EventKind::Other => None,
    }
}

fn explain(error: &notify::Error) -> String {
    const TOO_MANY_FILES: i32 = nix::libc::EMFILE;
    match &error.kind {
        ErrorKind::MaxFilesWatch => "the limit fs.inotify.max_user_watches is reached".to_owned(),
        ErrorKind::Io(error) if error.raw_os_error() == Some(TOO_MANY_FILES) => {
            "the limit fs.inotify.max_user_instances is reached".to_owned()
        }
        ErrorKind::Io(error) => error.to_string(),
        _ => error.to_string(),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
