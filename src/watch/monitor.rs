//! When which entry is looked at: what was told, what is due, and what may be gone. One task, which never blocks.
//!
//! Each entry is looked at by one thread at a time, and few are at once. One that does not come back, from a server that
//! is away for instance, keeps no other waiting.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};
use tracing::{debug, warn};

use super::backend::{Identity, identity};
use super::events::{Event, Events, Heard, PlaceId};
use super::scan::{Condition, Extent};
use super::schedule_entry::{Look, Place};
pub use super::status::Arrival;
use super::status::{Overview, Report, tell_change, tell_given_up};
use super::target::Entry;
use super::unfinished::{Complete, Waiting};
use crate::telemetry::counters::{Counters, Event as Happened};

/// Looks that are under way at once: enough to use the time one waits for a disk, too few to be felt.
const AT_ONCE: usize = 2;

/// After this time a look no longer keeps others from being made.
const TOO_LONG: Duration = Duration::from_secs(5);

/// How often it is checked that a path still leads to the directory that is watched.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// How soon everything is looked at again when events were lost once more.
const LOSS_INTERVAL: Duration = Duration::from_secs(2);

/// What is done over and over takes at most one part in so many of the time. This keeps an idle monitor of ten thousand
/// directories below one percent of a core.
pub(super) const SHARE: u32 = 200;

/// The overview is renewed so often while everything changes.
const OVERVIEW_INTERVAL: Duration = Duration::from_millis(200);

/// What the monitor is asked.
#[derive(Debug)]
pub enum Order {
    /// Watch these entries, of which no two are alike, and no others.
    Watch(Vec<Entry>),
    /// Look at all files as if for the first time.
    LookAnew,
}

/// Watches until the task is dropped. `sweep` is the time between two looks at everything where events are had.
/// What happens is added to the counters.
pub async fn run(
    mut orders: mpsc::Receiver<Order>,
    sweep: Duration,
    counters: &Counters,
    arrived: impl Fn(Arrival),
    observe: impl Fn(Overview),
) {
    let (events, mut heard) = Events::start();
    let mut monitor = Monitor::new(events, sweep, counters, arrived, observe);
    let mut told = Vec::new();
    loop {
        let wake = monitor.next_wake();
        tokio::select! {
            order = orders.recv() => match order {
                Some(order) => monitor.follow(order),
                None => std::future::pending().await,
            },
            () = heard.next(&mut told) => monitor.hear(&mut told, &heard),
            Some(look) = monitor.looks.join_next() => look.into_iter().for_each(|look| monitor.learn(look)),
            Some(check) = monitor.checks.join_next() => check.into_iter().for_each(|check| monitor.learn_check(&check)),
            () = sleep_until(wake) => {}
        }
        monitor.proceed();
    }
}

/// Places whose path leads elsewhere than before.
struct Check {
    other: Vec<PlaceId>,
    took: Duration,
}

/// Kept up to date, since there may be too many to add up each time.
#[derive(Default)]
struct Cost {
    polled: Duration,
    others: Duration,
}

impl Cost {
    fn of(&mut self, polls: bool) -> &mut Duration {
        if polls { &mut self.polled } else { &mut self.others }
    }

    fn remove(&mut self, place: &Place) {
        let cost = self.of(place.polls());
        *cost = cost.saturating_sub(place.took);
    }

    fn add(&mut self, place: &Place) {
        *self.of(place.polls()) += place.took;
    }
}

struct Monitor<'a, A, O> {
    events: Arc<Events>,
    sweep: Duration,
    counters: &'a Counters,
    arrived: A,
    observe: O,
    places: HashMap<PlaceId, Place>,
    /// As the entries were given.
    order: Vec<PlaceId>,
    last: PlaceId,
    /// When each place is due.
    due: BTreeSet<(Instant, PlaceId)>,
    /// Places that are, in the order in which they became so.
    queue: VecDeque<PlaceId>,
    looks: JoinSet<Look>,
    /// Places that are being looked at, but for those that take too long.
    under_way: Vec<PlaceId>,
    /// What one look at everything costs, for places that are polled and for others.
    cost: Cost,
    checks: JoinSet<Check>,
    next_check: Instant,
    has_lost: bool,
    next_loss: Instant,
    has_changed: bool,
    next_overview: Instant,
}

impl<'a, A: Fn(Arrival), O: Fn(Overview)> Monitor<'a, A, O> {
    fn new(events: Events, sweep: Duration, counters: &'a Counters, arrived: A, observe: O) -> Self {
        let now = Instant::now();
        Self {
            events: Arc::new(events),
            sweep,
            counters,
            arrived,
            observe,
            places: HashMap::new(),
            order: Vec::new(),
            last: 0,
            due: BTreeSet::new(),
            queue: VecDeque::new(),
            looks: JoinSet::new(),
            under_way: Vec::new(),
            cost: Cost::default(),
            checks: JoinSet::new(),
            next_check: now,
            has_lost: false,
            next_loss: now,
            has_changed: false,
            next_overview: now,
        }
    }

    fn follow(&mut self, order: Order) {
        match order {
            Order::Watch(entries) => self.watch(entries),
            Order::LookAnew => {
                for id in self.order.clone() {
                    self.want(id, Extent::Anew);
                }
            }
        }
    }

    /// An entry that stays keeps what is known of its files.
    fn watch(&mut self, entries: Vec<Entry>) {
        let mut before: HashMap<Arc<Entry>, PlaceId> =
            self.places.iter().map(|(id, place)| (Arc::clone(&place.entry), *id)).collect();
        self.order.clear();
        for entry in entries {
            let id = before.remove(&entry).unwrap_or_else(|| self.add(entry));
            self.order.push(id);
        }
        for (_, id) in before {
            let Some(place) = self.places.remove(&id) else { continue };
            self.due.remove(&(place.due, id));
            self.cost.remove(&place);
            // One that is being looked at leaves when that has ended.
            if let Some(directories) = place.directories {
                tokio::task::spawn_blocking(|| directories.leave());
            }
        }
        self.has_changed = true;
    }

    fn add(&mut self, entry: Entry) -> PlaceId {
        self.last += 1;
        let place = Place::new(entry, self.last, Arc::clone(&self.events));
        self.places.insert(self.last, place);
        self.want(self.last, Extent::All);
        self.last
    }

    fn want(&mut self, id: PlaceId, extent: Extent) {
        if let Some(place) = self.places.get_mut(&id) {
            place.wants = place.wants.max(extent);
            self.enqueue(id);
        }
    }

    fn enqueue(&mut self, id: PlaceId) {
        if let Some(place) = self.places.get_mut(&id).filter(|place| !place.is_queued) {
            place.is_queued = true;
            self.queue.push_back(id);
        }
    }

    fn hear(&mut self, told: &mut Vec<Event>, heard: &Heard) {
        self.has_lost |= heard.was_incomplete();
        self.counters.add(Happened::WatchTold, told.len() as u64);
        for event in told.drain(..) {
            let its_own = self.events.users(&event.path);
            let of_parent = event.path.parent().map(|parent| self.events.users(parent)).unwrap_or_default();
            let is_watched = !its_own.is_empty();
            for id in its_own.into_iter().chain(of_parent) {
                let Some(place) = self.places.get_mut(&id).filter(|place| place.cares(&event, is_watched)) else {
                    continue;
                };
                place.tell(event.clone());
                self.enqueue(id);
            }
        }
    }

    /// Does everything whose time has come.
    fn proceed(&mut self) {
        let now = Instant::now();
        while let Some((when, id)) = self.due.first().copied().filter(|(when, _)| *when <= now) {
            self.due.remove(&(when, id));
            if self.places.get(&id).is_some_and(|place| place.next_all <= now) {
                self.want(id, Extent::All);
            }
            self.enqueue(id);
        }
        if self.has_lost && self.next_loss <= now {
            self.make_up_for_loss(now);
        }
        self.let_go_of_slow_ones(now);
        self.start_looks(now);
        if self.next_check <= now && self.checks.is_empty() {
            self.start_check();
        }
        if self.has_changed && (self.next_overview <= now || self.is_at_rest()) {
            self.has_changed = false;
            self.next_overview = now + OVERVIEW_INTERVAL;
            (self.observe)(self.overview());
        }
    }

    fn next_wake(&self) -> Instant {
        let now = Instant::now();
        let slow = self.under_way.iter().filter_map(|id| self.places.get(id)?.began).map(|began| began + TOO_LONG);
        let times = [
            self.due.first().map(|(when, _)| *when),
            slow.min(),
            self.checks.is_empty().then_some(self.next_check),
            self.has_lost.then_some(self.next_loss),
            self.has_changed.then_some(self.next_overview),
        ];
        times.into_iter().flatten().min().unwrap_or(now + CHECK_INTERVAL)
    }

    fn is_at_rest(&self) -> bool {
        self.queue.is_empty() && self.under_way.is_empty()
    }

    fn make_up_for_loss(&mut self, now: Instant) {
        warn!("more happened at once than could be told; looking at everything");
        self.counters.count(Happened::WatchLost);
        self.has_lost = false;
        self.next_loss = now + LOSS_INTERVAL.max((self.cost.polled + self.cost.others) * 10);
        for id in self.order.clone() {
            self.want(id, Extent::All);
        }
    }

    fn let_go_of_slow_ones(&mut self, now: Instant) {
        let is_slow = |place: &Place| place.began.is_some_and(|began| began + TOO_LONG <= now);
        let slow: Vec<PlaceId> =
            self.under_way.iter().copied().filter(|id| self.places.get(id).is_none_or(is_slow)).collect();
        for id in slow {
            self.under_way.retain(|other| *other != id);
            let seconds = TOO_LONG.as_secs();
            self.change(id, |place| {
                let root = place.entry.directory.root.display();
                let why = format!("{root} has not answered for {seconds} s");
                Condition::Trouble { why, root: None }
            });
        }
    }

    fn start_looks(&mut self, now: Instant) {
        while self.under_way.len() < AT_ONCE {
            let Some(id) = self.queue.pop_front() else { return };
            let Some(place) = self.places.get_mut(&id) else { continue };
            place.is_queued = false;
            // What is being looked at comes back, and is looked at again if there is reason to.
            if let Some(look) = place.begin(now) {
                self.under_way.push(id);
                self.looks.spawn_blocking(look);
            }
        }
    }

    fn learn(&mut self, look: Look) {
        let (id, found) = (look.place, look.found);
        let was_slow = !self.under_way.contains(&id);
        self.under_way.retain(|other| *other != id);
        let Some(place) = self.places.get_mut(&id) else {
            tokio::task::spawn_blocking(|| look.directories.leave());
            return;
        };
        let Waiting { check_at, given_up, pending } = found.waiting;
        self.counters.add(Happened::FileGivenUp, given_up.len() as u64);
        given_up.iter().for_each(|file| tell_given_up(&place.entry, file, &pending));
        self.has_changed |= !place.unfinished.is_like(&pending);
        place.unfinished = pending;
        if let Complete { count: files, example: Some(example) } = found.complete {
            (self.arrived)(Arrival { route: place.entry.route.clone(), files, example });
        }
        if found.condition.is_some() {
            let took = look.took.as_secs_f64();
            debug!("a look at everything of {} took {took:.3} s", place.entry.files());
            self.counters.count(Happened::WatchSwept);
            self.has_changed |= place.oldest != found.oldest;
            place.oldest = found.oldest;
        }
        if was_slow {
            place.wants = place.wants.max(Extent::All);
        }
        self.cost.remove(place);
        place.end(look.directories, look.took, found.condition.is_some(), check_at);
        self.due.remove(&(place.due, id));
        if let Some(condition) = found.condition {
            self.change(id, |_| condition);
        }
        let Some(place) = self.places.get_mut(&id) else { return };
        self.cost.add(place);
        let cost = *self.cost.of(place.polls());
        place.plan(cost, self.sweep);
        self.due.insert((place.due, id));
        if place.has_reason() {
            self.enqueue(id);
        }
    }

    fn change(&mut self, id: PlaceId, to: impl FnOnce(&Place) -> Condition) {
        let count = self.places.len();
        let Some(place) = self.places.get_mut(&id) else { return };
        let condition = Some(to(place));
        if place.condition != condition {
            tell_change(&place.entry, place.condition.as_ref(), condition.as_ref(), count);
            place.condition = condition;
            self.has_changed = true;
        }
    }

    /// Events do not tell when a path leads to another directory, since something was mounted there or comes back.
    fn start_check(&mut self) {
        let expected = |(id, place): (&PlaceId, &Place)| -> Option<(PlaceId, Arc<Entry>, Option<Identity>)> {
            let root = match place.condition.as_ref()? {
                Condition::Watched { backend, .. } if backend.polls => return None,
                Condition::Watched { root, .. } => Some(*root),
                Condition::Trouble { root: None, .. } if place.directories.is_some() => None,
                Condition::Trouble { .. } => return None,
            };
            Some((*id, Arc::clone(&place.entry), root))
        };
        let expected: Vec<_> = self.places.iter().filter_map(expected).collect();
        self.checks.spawn_blocking(move || {
            let began = std::time::Instant::now();
            let is_other =
                |(_, entry, root): &(PlaceId, Arc<Entry>, Option<Identity>)| identity(&entry.directory.root) != *root;
            let other = expected.into_iter().filter(is_other).map(|(id, ..)| id).collect();
            Check { other, took: began.elapsed() }
        });
    }

    fn learn_check(&mut self, check: &Check) {
        self.next_check = Instant::now() + CHECK_INTERVAL.max(check.took * SHARE);
        for id in &check.other {
            self.want(*id, Extent::All);
        }
    }

    fn overview(&self) -> Overview {
        let report = |id: &PlaceId| {
            let place = self.places.get(id)?;
            Some(Report {
                entry: Arc::clone(&place.entry),
                condition: place.condition.clone(),
                oldest: place.oldest,
                unfinished: place.unfinished.clone(),
            })
        };
        let reports: Vec<Report> = self.order.iter().filter_map(report).collect();
        let is_complete = reports.iter().all(|report| report.condition.is_some());
        Overview { reports, is_complete }
    }
}
