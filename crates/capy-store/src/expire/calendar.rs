//! The calendar of retention: which day, ISO week, month or year a moment lies in, in UTC.
//!
//! Contained by: the policy. UTC has no summer time: every host draws the same borders, and no
//! day is counted twice.

use capy_types::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;

/// A unit of the calendar.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unit {
    Day,
    /// From Monday to Sunday; it belongs to the year its Thursday lies in (ISO 8601).
    Week,
    Month,
    Year,
}

/// One day, week, month or year. Two of the same unit are equal exactly when they are the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Period {
    year: i16,
    /// The month, or the week of the year; zero where the unit is the year.
    part: i8,
    /// The day of the month; zero where the unit is longer.
    day: i8,
}

impl Unit {
    /// The period that `at` lies in.
    pub(super) fn containing(self, at: Timestamp) -> Period {
        let date = date_of(at);
        match self {
            Self::Day => Period { year: date.year(), part: date.month(), day: date.day() },
            Self::Week => {
                let week = date.iso_week_date();
                Period { year: week.year(), part: week.week(), day: 0 }
            }
            Self::Month => Period { year: date.year(), part: date.month(), day: 0 },
            Self::Year => Period { year: date.year(), part: 0, day: 0 },
        }
    }
}

/// The date in UTC; moments beyond the years -9999 to 9999 count as the nearest.
fn date_of(at: Timestamp) -> Date {
    let nearest = if at.as_micros() < 0 { jiff::Timestamp::MIN } else { jiff::Timestamp::MAX };
    let moment = jiff::Timestamp::from_microsecond(at.as_micros()).unwrap_or(nearest);
    TimeZone::UTC.to_datetime(moment).date()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn period(unit: Unit, at: &str) -> (i16, i8, i8) {
        let period = unit.containing(at.parse().unwrap());
        (period.year, period.part, period.day)
    }

    #[test]
    fn a_week_belongs_to_the_year_of_its_thursday() {
        for (at, year, week) in [
            ("2020-12-31T12:00:00Z", 2020, 53),
            ("2021-01-03T23:59:59.999999Z", 2020, 53),
            ("2021-01-04T00:00:00Z", 2021, 1),
            ("2024-12-29T23:59:59Z", 2024, 52),
            ("2024-12-30T00:00:00Z", 2025, 1),
            ("2026-12-31T00:00:00Z", 2026, 53),
            ("2027-01-01T00:00:00Z", 2026, 53),
        ] {
            assert_eq!(period(Unit::Week, at), (year, week, 0), "{at}");
        }
    }

    #[test]
    fn days_and_months_end_at_midnight_utc_leap_day_included() {
        for (at, day) in [
            ("2024-02-28T23:59:59.999999Z", (2024, 2, 28)),
            ("2024-02-29T00:00:00Z", (2024, 2, 29)),
            ("2024-02-29T23:59:59.999999Z", (2024, 2, 29)),
            ("2024-03-01T00:00:00Z", (2024, 3, 1)),
            ("2023-02-28T23:59:59Z", (2023, 2, 28)),
            ("2024-03-01T00:30:00+01:00", (2024, 2, 29)),
        ] {
            assert_eq!(period(Unit::Day, at), day, "{at}");
            assert_eq!(period(Unit::Month, at), (day.0, day.1, 0), "{at}");
            assert_eq!(period(Unit::Year, at), (day.0, 0, 0), "{at}");
        }
    }

    #[test]
    fn any_count_of_microseconds_has_a_date() {
        for micros in [i64::MIN, -1, 0, i64::MAX] {
            let at = Timestamp::from_micros(micros);
            assert!(Unit::Day.containing(at) >= Unit::Year.containing(at), "{micros}");
        }
        assert_eq!(Unit::Day.containing(Timestamp::from_micros(-1)).year, 1969);
    }
}
