//! One entry on the monitor's list: what is known of it, and when it is due.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use super::events::{Event, Events, News, PlaceId};
use super::monitor::SHARE;
use super::observation::Clock;
use super::scan::{Condition, Directories, Extent, Found};
use super::target::Entry;
use super::unfinished::Pending;

/// How often a directory that cannot be read is tried again.
const TROUBLE_INTERVAL: Duration = Duration::from_secs(2);

/// As [`SHARE`], for polling, where delays matter more.
const POLL_SHARE: u32 = 2;

/// As many events are kept while a look is under way, which may hang for hours with its file system.
const ROOM: usize = 16_384;

/// An entry on the list.
pub struct Place {
    id: PlaceId,
    /// What is watched.
    pub entry: Arc<Entry>,
    /// Away while they are being looked at.
    pub directories: Option<Box<Directories>>,
    /// When the look that is under way began.
    pub began: Option<Instant>,
    /// What a look at everything cost the last time.
    pub took: Duration,
    was_all: bool,
    /// What was told since.
    told: Vec<Event>,
    /// How much is to be looked at.
    pub wants: Extent,
    /// When everything is to be looked at again.
    pub next_all: Instant,
    check_at: Option<Instant>,
    /// When the next look is due.
    pub due: Instant,
    /// It is in the queue.
    pub is_queued: bool,
    /// How it fares; nothing before the first look.
    pub condition: Option<Condition>,
    /// Since when the file is there that came first, as of the last look at everything.
    pub oldest: Option<SystemTime>,
    /// Files that are not complete, as of the last look.
    pub unfinished: Pending,
}

/// A look that has ended.
pub struct Look {
    /// Whose.
    pub place: PlaceId,
    /// Given back.
    pub directories: Box<Directories>,
    /// What it has shown.
    pub found: Found,
    /// How long it took.
    pub took: Duration,
}

impl Place {
    /// Nothing is known yet.
    pub fn new(entry: Entry, id: PlaceId, events: Arc<Events>) -> Self {
        let entry = Arc::new(entry);
        let directories = Directories::new(Arc::clone(&entry), id, events, Clock::Local);
        let now = Instant::now();
        Self {
            id,
            entry,
            directories: Some(Box::new(directories)),
            began: None,
            took: Duration::ZERO,
            was_all: false,
            told: Vec::new(),
            wants: Extent::Told,
            next_all: now,
            check_at: None,
            due: now,
            is_queued: false,
            condition: None,
            oldest: None,
            unfinished: Pending::default(),
        }
    }

    /// Whether an event may mean something. Most do not: reading a directory is one, too.
    pub fn cares(&self, event: &Event, is_watched_itself: bool) -> bool {
        let is_about_file = matches!(event.news, News::Closed | News::Written);
        let name = event.path.file_name().unwrap_or_default();
        !is_about_file || !is_watched_itself && self.entry.takes(name)
    }

    /// Takes down what was told. With more than there is room for, everything is looked at instead.
    pub fn tell(&mut self, event: Event) {
        if self.told.len() == ROOM {
            self.told = Vec::new();
            self.wants = self.wants.max(Extent::All);
        }
        self.told.push(event);
    }

    /// Whether it is polled.
    pub fn polls(&self) -> bool {
        matches!(&self.condition, Some(Condition::Watched { backend, .. }) if backend.polls)
    }

    /// Whether there is something to look at now.
    pub fn has_reason(&self) -> bool {
        self.wants != Extent::Told || !self.told.is_empty()
    }

    /// The look that is to be made, for a thread that may block; none while another one is under way.
    pub fn begin(&mut self, now: Instant) -> Option<impl FnOnce() -> Look + use<>> {
        let is_due = self.has_reason() || self.check_at.is_some_and(|when| when <= now);
        let mut directories = is_due.then(|| self.directories.take()).flatten()?;
        self.began = Some(now);
        let (place, told) = (self.id, std::mem::take(&mut self.told));
        let extent = std::mem::replace(&mut self.wants, Extent::Told);
        Some(move || {
            let began = std::time::Instant::now();
            let found = directories.look(told, extent);
            Look { place, directories, found, took: began.elapsed() }
        })
    }

    /// A look has ended.
    pub fn end(
        &mut self,
        directories: Box<Directories>,
        took: Duration,
        was_all: bool,
        check_at: Option<std::time::Instant>,
    ) {
        self.directories = Some(directories);
        self.began = None;
        self.check_at = check_at.map(Instant::from_std);
        self.was_all = was_all;
        if was_all {
            self.took = took;
        }
    }

    /// Decides when it is due again. `cost` is what one look at everything costs for all places of its kind.
    pub fn plan(&mut self, cost: Duration, sweep: Duration) {
        if self.was_all {
            let pause = match &self.condition {
                Some(Condition::Watched { backend, .. }) if backend.polls => {
                    self.entry.poll_interval.max(cost * POLL_SHARE)
                }
                Some(Condition::Trouble { root: Some(_), .. }) => TROUBLE_INTERVAL.max(cost * SHARE),
                _ => sweep.max(cost * SHARE),
            };
            self.next_all = Instant::now() + pause;
        }
        self.due = self.check_at.map_or(self.next_all, |when| when.min(self.next_all));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::watch::target::tests::entry;

    #[test]
    fn what_is_told_during_a_look_that_hangs_takes_no_more_than_its_room() {
        let entry = entry("/nowhere".as_ref(), "*");
        let (events, _heard) = Events::start();
        let mut place = Place::new(entry, 1, Arc::new(events));
        let event = Event { path: "/nowhere/file".into(), news: News::Closed };
        for _ in 0..ROOM {
            place.tell(event.clone());
        }
        assert_eq!((place.told.len(), place.wants), (ROOM, Extent::Told), "what fits is looked at alone");
        for _ in 0..3 * ROOM {
            place.tell(event.clone());
        }
        assert!(place.told.capacity() <= ROOM && place.wants == Extent::All, "{}", place.told.capacity());
    }
}
