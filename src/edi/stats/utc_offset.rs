//! The zone of Bots's local times on SQLite, which only Django's settings name.

use tz::TimeZone;

const DAY: i64 = 24 * 3600;

/// The period that is searched for a clock change: half a year, and a margin for political changes.
const DAYS_BACK: i64 = 400;

/// A time zone. One that this machine does not know is UTC, as for Bots's Python.
#[derive(Debug, Clone)]
pub(crate) struct DjangoTimeZone(TimeZone);

/// How local times differ from UTC, in seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct UtcOffsets {
    /// Now.
    pub now: i64,
    pub last_change: Option<ClockChange>,
}

/// A clock change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ClockChange {
    /// The first local time after it, in seconds since 1970 as if it were UTC.
    pub local: i64,
    /// The offset before it.
    pub offset_before: i64,
}

impl DjangoTimeZone {
    /// By its name, such as `Europe/Berlin`; without one, that of the machine.
    pub fn named(name: Option<&str>) -> Self {
        let name = name.filter(|name| !name.is_empty()).unwrap_or("localtime");
        Self(TimeZone::from_posix_tz(name).unwrap_or_else(|_| TimeZone::utc()))
    }

    /// As of a moment, in seconds since 1970.
    pub fn offsets(&self, now: i64) -> UtcOffsets {
        let offset = self.offset(now);
        let earlier = (0..=DAYS_BACK).step_by(7).map(|days| now - days * DAY).find(|at| self.offset(*at) != offset);
        let last_change = earlier.map(|earlier| ClockChange {
            local: self.change(earlier, now, offset) + offset,
            offset_before: self.offset(earlier),
        });
        UtcOffsets { now: offset, last_change }
    }

    /// The first second with this offset, between one without it and one with it.
    fn change(&self, mut without: i64, mut with: i64, offset: i64) -> i64 {
        while with - without > 1 {
            let middle = without + (with - without) / 2;
            if self.offset(middle) == offset { with = middle } else { without = middle }
        }
        with
    }

    fn offset(&self, at: i64) -> i64 {
        self.0.find_local_time_type(at).map_or(0, |kind| i64::from(kind.ut_offset()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_cover_daylight_saving_change() {
        // By a rule, so that no zone need be installed: Berlin in the winter of 2026.
        let berlin = DjangoTimeZone::named(Some("CET-1CEST,M3.5.0,M10.5.0/3"));
        let (december, change) = (1_796_083_200, 1_792_890_000);
        let last_change = Some(ClockChange { local: change + 3600, offset_before: 7200 });
        let expected = UtcOffsets { now: 3600, last_change };
        assert_eq!(berlin.offsets(december), expected);
        assert_eq!(berlin.offsets(change), expected);
        assert_eq!(berlin.offsets(change - 1).now, 7200);
    }

    #[test]
    fn unknown_zone_is_utc() {
        assert_eq!(
            DjangoTimeZone::named(Some("Nowhere/Atlantis")).offsets(0),
            UtcOffsets { now: 0, last_change: None }
        );
    }
}
