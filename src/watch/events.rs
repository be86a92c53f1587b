//! inotify events, through the crate `notify`: the watched directories with their targets, and the events.
//!
//! The watcher has a separate thread, which puts events into a channel without waiting. A full scan replaces events
//! that do not fit, and those that the kernel dropped.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use notify::event::{AccessKind, AccessMode, CreateKind, Flag, ModifyKind, RenameMode};
use notify::{Config, ErrorKind, INotifyWatcher, RecursiveMode, Watcher as _};
use tokio::sync::mpsc;

/// Events that are kept until they are read; the kernel keeps as many by default.
const CAPACITY: usize = 16_384;

/// Identifies a target.
pub type TargetId = u64;

/// An event in a watched directory, or about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// The file or directory.
    pub path: PathBuf,
    /// The kind.
    pub kind: EventKind,
}

/// The kind of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventKind {
    /// A file was made, or linked.
    Created,
    /// A directory was made.
    DirCreated,
    /// Something was renamed to this name.
    RenamedIn,
    /// A file was closed that was open for writing.
    Closed,
    /// A file was written.
    Modified,
    /// A file or directory was removed, or has another name now.
    Removed,
    /// The permissions have changed, or another file has the name.
    AttributesChanged,
}

/// The watcher, where inotify is available.
pub struct Watcher {
    watcher: Mutex<Result<INotifyWatcher, String>>,
    users: Mutex<HashMap<PathBuf, Vec<TargetId>>>,
    sender: Sender,
}

/// The events, in their order.
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
    /// Starts the watcher. If this fails, each attempt to watch a directory returns the reason.
    #[must_use]
    pub fn start() -> (Self, EventReceiver) {
        let (sender, receiver) = mpsc::channel(CAPACITY);
        let is_incomplete = Arc::new(AtomicBool::new(false));
        let sender = Sender { sender, is_incomplete: Arc::clone(&is_incomplete) };
        let callback = sender.clone();
        let push = move |event: notify::Result<notify::Event>| match event {
            Ok(event) => callback.push(event),
            Err(_) => callback.miss(),
        };
        let watcher = INotifyWatcher::new(push, Config::default()).map_err(|error| explain(&error));
        let events = Self { watcher: Mutex::new(watcher), users: Mutex::default(), sender };
        (events, EventReceiver { receiver, is_incomplete })
    }

    /// No watcher at all, for scans alone.
    #[must_use]
    pub fn none() -> Self {
        let (sender, _) = mpsc::channel(1);
        let sender = Sender { sender, is_incomplete: Arc::default() };
        Self { watcher: Mutex::new(Err("no events were asked for".to_owned())), users: Mutex::default(), sender }
    }

    /// Watches a directory, by its real path, for a target. `is_new` means that it replaces another directory; the
    /// other targets that watch this path then get an event.
    ///
    /// # Errors
    /// A short reason.
    pub fn watch(&self, directory: &Path, target: TargetId, is_new: bool) -> Result<(), String> {
        let mut watcher = lock(&self.watcher);
        let watcher = watcher.as_mut().map_err(|reason| reason.clone())?;
        let others = self.add_user(directory, target);
        if is_new && others {
            let _ = watcher.unwatch(directory);
        }
        let watched = watcher.watch(directory, RecursiveMode::NonRecursive);
        if is_new && others {
            // Events in between were lost.
            self.sender.send(Event { path: directory.to_owned(), kind: EventKind::AttributesChanged });
        }
        watched.map_err(|error| {
            self.remove_user(directory, target);
            explain(&error)
        })
    }

    /// A target no longer needs a directory.
    pub fn forget(&self, directory: &Path, target: TargetId) {
        if self.remove_user(directory, target)
            && let Ok(watcher) = lock(&self.watcher).as_mut()
        {
            // The directory may be removed already, and with it the watch.
            let _ = watcher.unwatch(directory);
        }
    }

    /// The targets for which a directory is watched.
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
            // All senders are gone.
            std::future::pending::<()>().await;
        }
    }

    /// Whether events were lost since the last call.
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
        // Only to wake the receiver. If this event does not fit, others wake it.
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
        // Both names, each of which had a separate event.
        notify::EventKind::Modify(ModifyKind::Name(_)) => None,
        notify::EventKind::Modify(ModifyKind::Metadata(_)) => Some(EventKind::AttributesChanged),
        notify::EventKind::Modify(_) => Some(EventKind::Modified),
        notify::EventKind::Access(AccessKind::Close(AccessMode::Write)) => Some(EventKind::Closed),
        // Opening a file does not count as an event, since a scan does it itself.
        notify::EventKind::Access(_) | notify::EventKind::Any | notify::EventKind::Other => None,
    }
}

fn explain(error: &notify::Error) -> String {
    const TOO_MANY_FILES: i32 = nix::libc::EMFILE;
    match &error.kind {
        ErrorKind::MaxFilesWatch => "limit fs.inotify.max_user_watches reached".to_owned(),
        ErrorKind::Io(error) if error.raw_os_error() == Some(TOO_MANY_FILES) => {
            "limit fs.inotify.max_user_instances reached".to_owned()
        }
        ErrorKind::Io(error) => error.to_string(),
        _ => error.to_string(),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
