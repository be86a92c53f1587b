//! Pure: files by route, added up since counting began and over the last day, hour by hour.

use std::collections::{BTreeMap, HashMap, HashSet};

use indexmap::IndexMap;

use super::model::{FileCounts, FileState, LastFile, MAX_ROUTES, RouteStats, UnnamedRoutes};
use crate::database::query::Row;
use crate::edi::{number_or_zero, text_or_empty};

/// Number of stored hours: a day, and the current hour.
const HOURS: i64 = 24;

/// The name for files without a route.
const NO_ROUTE: &str = "(none)";

/// The data read from a range of numbers.
#[derive(Debug, Default)]
pub(crate) struct RangeRows {
    /// Route, hour, state, files, time of the newest, number of the newest.
    pub files: Vec<Row>,
    /// Route, hour, files sent, runs that were lost.
    pub steps: Vec<Row>,
}

/// The accumulated data.
#[derive(Debug, Default)]
pub(crate) struct EdiStatsAccumulator {
    /// The number and the time at which the totals begin.
    counted_from: i64,
    pub counted_since: i64,
    /// Known routes, by name; an assigned index is kept, so that totals only grow.
    totals: IndexMap<String, RouteTotals>,
    /// Of the last day, by hour and index.
    hours: BTreeMap<i64, HashMap<usize, FileCounts>>,
    lost: BTreeMap<i64, u64>,
    /// The oldest hour that was read.
    first_hour: Option<i64>,
}

#[derive(Debug, Default)]
struct RouteTotals {
    last: Option<(i64, LastFile)>,
    total: FileCounts,
}

impl FileCounts {
    /// Both together.
    pub fn add(&mut self, other: Self) {
        self.received += other.received;
        self.done += other.done;
        self.errors += other.errors;
        self.stuck += other.stuck;
        self.sent += other.sent;
    }
}

impl EdiStatsAccumulator {
    /// Rows after this number count in the totals; older ones only as recent.
    pub fn count_from(&mut self, number: i64, now: i64) {
        (self.counted_from, self.counted_since) = (number, now);
    }

    /// A range must not go beyond this number.
    pub fn range_limit(&self, from: i64) -> i64 {
        if from < self.counted_from { self.counted_from } else { i64::MAX }
    }

    /// Adds the data read up to this number.
    pub fn add(&mut self, rows: &RangeRows, to: i64) {
        let is_new = to > self.counted_from;
        for row in &rows.files {
            let (state, files) = (FileState::of_statust(number_or_zero(row, 2)), number_or_zero(row, 3));
            let mut counts = FileCounts { received: files, ..FileCounts::default() };
            match state {
                FileState::Done => counts.done = files,
                FileState::Error => counts.errors = files,
                FileState::Stuck => counts.stuck = files,
            }
            let index = self.count(row, counts, is_new);
            let last = (number_or_zero(row, 5), LastFile { at: number_or_zero(row, 4), state });
            let known = &mut self.totals[index].last;
            if known.is_none_or(|(number, _)| number < last.0) {
                *known = Some(last);
            }
        }
        for row in &rows.steps {
            let (sent, lost): (u64, u64) = (number_or_zero(row, 2), number_or_zero(row, 3));
            if sent > 0 {
                self.count(row, FileCounts { sent, ..FileCounts::default() }, is_new);
            }
            if lost > 0 {
                *self.lost.entry(number_or_zero(row, 1)).or_default() += lost;
            }
        }
    }

    fn count(&mut self, row: &Row, counts: FileCounts, is_new: bool) -> usize {
        let name = Some(text_or_empty(row, 0)).filter(|name| !name.is_empty()).unwrap_or_else(|| NO_ROUTE.to_owned());
        let (entry, hour) = (self.totals.entry(name), number_or_zero(row, 1));
        let index = entry.index();
        entry.or_default();
        self.first_hour = Some(self.first_hour.map_or(hour, |first| first.min(hour)));
        self.hours.entry(hour).or_default().entry(index).or_default().add(counts);
        if is_new {
            self.totals[index].total.add(counts);
        }
        index
    }

    /// Drops data that is older than a day.
    pub fn forget(&mut self, now: i64) {
        let first = now / 3600 - HOURS;
        self.hours = self.hours.split_off(&first);
        self.lost = self.lost.split_off(&first);
    }

    /// The first [`MAX_ROUTES`] routes seen, active ones first, by name; and the sum of all others.
    pub fn routes(&mut self, active: &[String]) -> (Vec<RouteStats>, UnnamedRoutes) {
        for name in active {
            self.totals.entry(name.clone()).or_default();
        }
        let mut recent = vec![FileCounts::default(); self.totals.len()];
        for (index, counts) in self.hours.values().flatten() {
            recent[*index].add(*counts);
        }
        let active: HashSet<&str> = active.iter().map(String::as_str).collect();
        let (mut named, mut rest) = (Vec::new(), UnnamedRoutes::default());
        for (index, ((name, totals), recent)) in self.totals.iter().zip(recent).enumerate() {
            let is_active = active.contains(name.as_str());
            if !is_active && recent == FileCounts::default() && totals.total == FileCounts::default() {
                continue;
            }
            if index < MAX_ROUTES {
                let (name, last) = (name.clone(), totals.last.map(|(_, last)| last));
                named.push(RouteStats { name, is_active, last, recent, total: totals.total });
            } else {
                rest.routes += 1;
                rest.recent.add(recent);
                rest.total.add(totals.total);
            }
        }
        named.sort_by(|one, other| (!one.is_active, &one.name).cmp(&(!other.is_active, &other.name)));
        (named, rest)
    }

    pub fn recent_since(&self, now: i64) -> i64 {
        let day = (now / 3600 - HOURS) * 3600;
        self.first_hour.map_or(day, |hour| day.max(hour * 3600))
    }

    pub fn lost_runs(&self) -> u64 {
        self.lost.values().sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(route: &str, hour: i64, state: i64, files: i64, newest: i64) -> Row {
        [route.to_owned(), hour.to_string(), state.to_string(), files.to_string(), (hour * 3600).to_string()]
            .into_iter()
            .chain([newest.to_string()])
            .map(Some)
            .collect()
    }

    fn sent(route: &str, hour: i64, files: i64, lost: i64) -> Row {
        [route.to_owned(), hour.to_string(), files.to_string(), lost.to_string()].map(Some).into()
    }

    const NOW: i64 = 1000 * 3600;

    #[test]
    fn totals_start_with_counting_and_recent_counts_a_day_ago() {
        let mut accumulator = EdiStatsAccumulator::default();
        accumulator.count_from(100, NOW);
        assert_eq!((accumulator.range_limit(20), accumulator.range_limit(100)), (100, i64::MAX));
        accumulator
            .add(&RangeRows { files: vec![file("a", 900, 3, 9, 10), file("a", 999, 3, 2, 60)], steps: vec![] }, 100);
        let new = RangeRows {
            files: vec![file("a", 1000, 1, 1, 110)],
            steps: vec![sent("a", 1000, 4, 0), sent("", 1000, 0, 1)],
        };
        accumulator.add(&new, 120);
        accumulator.forget(NOW);
        let (routes, rest) = accumulator.routes(&["a".to_owned(), "b".to_owned()]);
        let recent = FileCounts { received: 3, done: 2, errors: 1, stuck: 0, sent: 4 };
        let total = FileCounts { received: 1, done: 0, errors: 1, stuck: 0, sent: 4 };
        let last = Some(LastFile { at: NOW, state: FileState::Error });
        let idle = RouteStats {
            name: "b".into(),
            is_active: true,
            last: None,
            recent: FileCounts::default(),
            total: FileCounts::default(),
        };
        assert_eq!(routes, [RouteStats { name: "a".into(), is_active: true, last, recent, total }, idle]);
        assert_eq!((rest, accumulator.lost_runs()), (UnnamedRoutes::default(), 1));
    }

    #[test]
    fn totals_are_kept_for_inactive_routes() {
        let mut accumulator = EdiStatsAccumulator::default();
        accumulator.count_from(0, 0);
        accumulator.add(&RangeRows { files: vec![file("gone", 500, 3, 2, 5)], steps: vec![] }, 10);
        accumulator.forget(NOW);
        let (routes, _) = accumulator.routes(&[]);
        assert!(!routes[0].is_active && routes[0].total.done == 2 && routes[0].recent.done == 0);
    }

    #[test]
    fn routes_beyond_limit_are_summed_up() {
        let mut accumulator = EdiStatsAccumulator::default();
        let names: Vec<String> = (0..MAX_ROUTES + 2).map(|number| format!("r{number:04}")).collect();
        accumulator.routes(&names);
        accumulator.add(
            &RangeRows { files: vec![file("r0501", 999, 2, 3, 5), file("r0000", 999, 3, 1, 6)], steps: vec![] },
            10,
        );
        let (routes, rest) = accumulator.routes(&names);
        assert_eq!((routes.len(), rest.routes, rest.recent.stuck, rest.total.received), (MAX_ROUTES, 2, 3, 3));
        assert_eq!(routes[0].recent.done, 1);
    }

    #[test]
    fn recent_window_is_limited_to_read_rows() {
        let mut accumulator = EdiStatsAccumulator::default();
        assert_eq!(accumulator.recent_since(NOW), (1000 - 24) * 3600);
        accumulator.add(&RangeRows { files: vec![file("a", 990, 3, 1, 5)], steps: vec![] }, 10);
        assert_eq!(accumulator.recent_since(NOW), 990 * 3600);
    }
}
