//! Pure: files by route, added up since counting began and over the last day, hour by hour.

use std::collections::{BTreeMap, HashMap};

use super::{Counts, FileState, LastFile, ROUTES, Rest, Route, count, number, text};
use crate::database::connection::TextRow;

/// Hours that are remembered: a day and the hour that has begun.
const HOURS: i64 = 24;

/// Stands for the route where Bots has noted none.
const NO_ROUTE: &str = "(none)";

/// What was read of a range of numbers.
#[derive(Debug, Default)]
pub(crate) struct Rows {
    /// Route, hour, state, files, time of the newest, number of the newest.
    pub files: Vec<TextRow>,
    /// Route, hour, files sent, runs that were lost.
    pub steps: Vec<TextRow>,
}

/// What was added up.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    /// Where counting the totals begins, and when that was.
    counted_from: i64,
    counted_since: i64,
    /// Known routes; a place once given is kept, so that totals only grow.
    places: HashMap<String, usize>,
    seen: Vec<Seen>,
    /// Of the last day, by hour and place.
    hours: BTreeMap<i64, HashMap<usize, Counts>>,
    lost: BTreeMap<i64, u64>,
    /// The oldest hour that was read.
    first_hour: Option<i64>,
}

/// A route that has a place.
#[derive(Debug, Default)]
struct Seen {
    name: String,
    last: Option<(i64, LastFile)>,
    total: Counts,
}

impl Counts {
    /// Both together.
    pub fn add(&mut self, other: Self) {
        self.received += other.received;
        self.done += other.done;
        self.errors += other.errors;
        self.stuck += other.stuck;
        self.sent += other.sent;
    }
}

impl Tally {
    /// What comes after this number counts for the totals; what comes before it is only recent.
    pub fn count_from(&mut self, number: i64, now: i64) {
        (self.counted_from, self.counted_since) = (number, now);
    }

    /// A range must not go beyond this number.
    pub fn next_stop(&self, from: i64) -> i64 {
        if from < self.counted_from { self.counted_from } else { i64::MAX }
    }

    /// Adds what was read up to this number.
    pub fn add(&mut self, rows: &Rows, to: i64) {
        let is_new = to > self.counted_from;
        for row in &rows.files {
            let (state, files) = (state(number(row, 2)), count(row, 3));
            let mut counts = Counts { received: files, ..Counts::default() };
            match state {
                FileState::Done => counts.done = files,
                FileState::Error => counts.errors = files,
                FileState::Stuck => counts.stuck = files,
            }
            let place = self.count(row, counts, is_new);
            let last = (number(row, 5), LastFile { at: number(row, 4), state });
            let known = &mut self.seen[place].last;
            if known.is_none_or(|(number, _)| number < last.0) {
                *known = Some(last);
            }
        }
        for row in &rows.steps {
            let (sent, lost) = (count(row, 2), count(row, 3));
            if sent > 0 {
                self.count(row, Counts { sent, ..Counts::default() }, is_new);
            }
            if lost > 0 {
                *self.lost.entry(number(row, 1)).or_default() += lost;
            }
        }
    }

    fn count(&mut self, row: &TextRow, counts: Counts, is_new: bool) -> usize {
        let name = Some(text(row, 0)).filter(|name| !name.is_empty()).unwrap_or_else(|| NO_ROUTE.to_owned());
        let (place, hour) = (self.place(&name), number(row, 1));
        self.first_hour = Some(self.first_hour.map_or(hour, |first| first.min(hour)));
        self.hours.entry(hour).or_default().entry(place).or_default().add(counts);
        if is_new {
            self.seen[place].total.add(counts);
        }
        place
    }

    fn place(&mut self, name: &str) -> usize {
        if let Some(place) = self.places.get(name) {
            return *place;
        }
        let place = self.seen.len();
        self.places.insert(name.to_owned(), place);
        self.seen.push(Seen { name: name.to_owned(), ..Seen::default() });
        place
    }

    /// Forgets what is older than a day.
    pub fn forget(&mut self, now: i64) {
        let first = now / 3600 - HOURS;
        self.hours = self.hours.split_off(&first);
        self.lost = self.lost.split_off(&first);
    }

    /// The first [`ROUTES`] that were ever seen, active ones before others, by name; and the rest of them together.
    pub fn routes(&mut self, active: &[String]) -> (Vec<Route>, Rest) {
        for name in active {
            self.place(name);
        }
        let mut recent = vec![Counts::default(); self.seen.len()];
        for (place, counts) in self.hours.values().flatten() {
            recent[*place].add(*counts);
        }
        let active: std::collections::HashSet<&str> = active.iter().map(String::as_str).collect();
        let (mut named, mut rest) = (Vec::new(), Rest::default());
        for (place, (seen, recent)) in self.seen.iter().zip(recent).enumerate() {
            let is_active = active.contains(seen.name.as_str());
            if !is_active && recent == Counts::default() && seen.total == Counts::default() {
                continue;
            }
            if place < ROUTES {
                let (name, last) = (seen.name.clone(), seen.last.map(|(_, last)| last));
                named.push(Route { name, is_active, last, recent, total: seen.total });
            } else {
                rest.routes += 1;
                rest.recent.add(recent);
                rest.total.add(seen.total);
            }
        }
        named.sort_by(|one, other| (!one.is_active, &one.name).cmp(&(!other.is_active, &other.name)));
        (named, rest)
    }

    pub fn recent_since(&self, now: i64) -> i64 {
        let day = (now / 3600 - HOURS) * 3600;
        self.first_hour.map_or(day, |hour| day.max(hour * 3600))
    }

    pub fn counted_since(&self) -> i64 {
        self.counted_since
    }

    pub fn lost_runs(&self) -> u64 {
        self.lost.values().sum()
    }
}

fn state(statust: i64) -> FileState {
    match statust {
        1 => FileState::Error,
        0 | 2 => FileState::Stuck,
        // Done; and done long ago, with leave to be sent again.
        _ => FileState::Done,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(route: &str, hour: i64, state: i64, files: i64, newest: i64) -> TextRow {
        [route.to_owned(), hour.to_string(), state.to_string(), files.to_string(), (hour * 3600).to_string()]
            .into_iter()
            .chain([newest.to_string()])
            .map(Some)
            .collect()
    }

    fn sent(route: &str, hour: i64, files: i64, lost: i64) -> TextRow {
        [route.to_owned(), hour.to_string(), files.to_string(), lost.to_string()].map(Some).into()
    }

    const NOW: i64 = 1000 * 3600;

    #[test]
    fn totals_begin_where_counting_does_and_recent_ones_a_day_ago() {
        let mut tally = Tally::default();
        tally.count_from(100, NOW);
        assert_eq!((tally.next_stop(20), tally.next_stop(100)), (100, i64::MAX));
        tally.add(&Rows { files: vec![file("a", 900, 3, 9, 10), file("a", 999, 3, 2, 60)], steps: vec![] }, 100);
        let new =
            Rows { files: vec![file("a", 1000, 1, 1, 110)], steps: vec![sent("a", 1000, 4, 0), sent("", 1000, 0, 1)] };
        tally.add(&new, 120);
        tally.forget(NOW);
        let (routes, rest) = tally.routes(&["a".to_owned(), "b".to_owned()]);
        let recent = Counts { received: 3, done: 2, errors: 1, stuck: 0, sent: 4 };
        let total = Counts { received: 1, done: 0, errors: 1, stuck: 0, sent: 4 };
        let last = Some(LastFile { at: NOW, state: FileState::Error });
        let idle = Route {
            name: "b".into(),
            is_active: true,
            last: None,
            recent: Counts::default(),
            total: Counts::default(),
        };
        assert_eq!(routes, [Route { name: "a".into(), is_active: true, last, recent, total }, idle]);
        assert_eq!((rest, tally.lost_runs()), (Rest::default(), 1));
    }

    #[test]
    fn totals_only_grow_also_when_a_route_is_no_longer_active() {
        let mut tally = Tally::default();
        tally.count_from(0, 0);
        tally.add(&Rows { files: vec![file("gone", 500, 3, 2, 5)], steps: vec![] }, 10);
        tally.forget(NOW);
        let (routes, _) = tally.routes(&[]);
        assert!(!routes[0].is_active && routes[0].total.done == 2 && routes[0].recent.done == 0);
    }

    #[test]
    fn routes_beyond_the_limit_are_added_up() {
        let mut tally = Tally::default();
        let names: Vec<String> = (0..ROUTES + 2).map(|number| format!("r{number:04}")).collect();
        tally.routes(&names);
        tally.add(&Rows { files: vec![file("r0501", 999, 2, 3, 5), file("r0000", 999, 3, 1, 6)], steps: vec![] }, 10);
        let (routes, rest) = tally.routes(&names);
        assert_eq!((routes.len(), rest.routes, rest.recent.stuck, rest.total.received), (ROUTES, 2, 3, 3));
        assert_eq!(routes[0].recent.done, 1);
    }

    #[test]
    fn the_window_is_no_longer_than_what_was_read() {
        let mut tally = Tally::default();
        assert_eq!(tally.recent_since(NOW), (1000 - 24) * 3600);
        tally.add(&Rows { files: vec![file("a", 990, 3, 1, 5)], steps: vec![] }, 10);
        assert_eq!(tally.recent_since(NOW), 990 * 3600);
    }
}
