//! Dates in the forms FTP has for them: MDTM and facts, in UTC (RFC 3659 §2.3), and those of LIST, in the time zone that
//! its readers expect. The caller brings "now".

use jiff::tz::TimeZone;

/// Seconds since 1970-01-01T00:00:00Z.
pub type Timestamp = i64;

const DAY: i64 = 86_400;

/// A time of more than this many seconds ago is listed with its year: what `ls` calls six months.
const RECENT: i64 = 180 * DAY;

/// 0000-01-01T00:00:00Z and 9999-12-31T23:59:59Z: what a year of four digits can say.
const YEAR_0: i64 = -62_167_219_200;
const YEAR_9999: i64 = 253_402_300_799;

const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

/// `YYYYMMDDHHMMSS`, RFC 3659's time-val. Years outside of 0 to 9999 are shown as the nearest that can be.
pub fn compact(unix_seconds: Timestamp) -> String {
    let Civil { year, month, day, hour, minute, second } = Civil::from_unix(unix_seconds);
    format!("{year:04}{month:02}{day:02}{hour:02}{minute:02}{second:02}")
}

/// The seconds of `YYYYMMDDHHMMSS[.sss]`; the fraction is checked and cut off, as files behind SFTP v3 have none.
///
/// `None` when it is not of that form or no such moment exists (31 April, 29 February of most years). The second 60
/// is taken, as RFC 3659 says, and is the first of the next minute.
pub fn parse_compact(text: &[u8]) -> Option<Timestamp> {
    let (digits, fraction) = text.split_at_checked(14)?;
    match fraction {
        [] => {}
        [b'.', decimals @ ..] if !decimals.is_empty() && decimals.iter().all(u8::is_ascii_digit) => {}
        _ => return None,
    }
    if !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let number = |from: usize, to: usize| {
        let digits = digits.get(from..to)?;
        Some(digits.iter().fold(0, |number, digit| number * 10 + i64::from(digit - b'0')))
    };
    let civil = Civil {
        year: number(0, 4)?,
        month: number(4, 6)?,
        day: number(6, 8)?,
        hour: number(8, 10)?,
        minute: number(10, 12)?,
        second: number(12, 14)?,
    };
    civil.exists().then(|| civil.to_unix())
}

/// A time zone of LIST.
#[derive(Debug, Clone, PartialEq)]
pub struct Zone(Option<TimeZone>);

impl Zone {
    /// UTC itself.
    pub const UTC: Self = Self(None);

    /// By its name in the IANA database, such as `Europe/Berlin`: that of the system, or the program's own where there is
    /// none. `None` for what is not in it.
    pub fn find(name: &str) -> Option<Self> {
        if name.eq_ignore_ascii_case("UTC") {
            return Some(Self::UTC);
        }
        TimeZone::get(name).ok().map(|zone| Self(Some(zone)))
    }

    /// What clocks there showed at a moment, as if it were UTC.
    fn local(&self, unix_seconds: Timestamp) -> Timestamp {
        let Some(zone) = &self.0 else { return unix_seconds };
        // Beyond the years that have zones at all there is no difference that matters.
        let Ok(moment) = jiff::Timestamp::from_second(unix_seconds) else { return unix_seconds };
        unix_seconds + i64::from(zone.to_offset(moment).seconds())
    }
}

/// `11-22-26  05:41PM`, as the `dir` of DOS shows it.
pub fn dos_date(unix_seconds: Timestamp, zone: &Zone) -> String {
    let Civil { year, month, day, hour, minute, .. } = Civil::from_unix(zone.local(unix_seconds));
    let (half, hour) = (if hour < 12 { "AM" } else { "PM" }, if hour % 12 == 0 { 12 } else { hour % 12 });
    format!("{month:02}-{day:02}-{:02}  {hour:02}:{minute:02}{half}", year % 100)
}

/// `Nov 22 17:41`, or `Nov 22  2024` when that is more than 180 days ago or more than a day ahead of `now`.
pub fn list_date(unix_seconds: Timestamp, now: Timestamp, zone: &Zone) -> String {
    let Civil { year, month, day, hour, minute, .. } = Civil::from_unix(zone.local(unix_seconds));
    let name = usize::try_from(month - 1).ok().and_then(|index| MONTHS.get(index)).copied().unwrap_or_default();
    let age = now.saturating_sub(unix_seconds);
    if (-DAY..=RECENT).contains(&age) {
        format!("{name} {day:>2} {hour:02}:{minute:02}")
    } else {
        format!("{name} {day:>2}  {year:04}")
    }
}

/// A moment in the proleptic Gregorian calendar.
struct Civil {
    year: i64,
    month: i64,
    day: i64,
    hour: i64,
    minute: i64,
    second: i64,
}

impl Civil {
    fn exists(&self) -> bool {
        let leap = self.year % 4 == 0 && (self.year % 100 != 0 || self.year % 400 == 0);
        let days = match self.month {
            2 if leap => 29,
            2 => 28,
            4 | 6 | 9 | 11 => 30,
            1..=12 => 31,
            _ => return false,
        };
        (1..=days).contains(&self.day) && self.hour <= 23 && self.minute <= 59 && self.second <= 60
    }

    // Both ways count in eras of 400 years (146,097 days) and in years that begin on 1 March, so that the leap day is
    // a year's last. Day 0 is 1970-01-01, which is day 719,468 since 0000-03-01.

    fn to_unix(&self) -> i64 {
        let year = if self.month <= 2 { self.year - 1 } else { self.year };
        let era = year.div_euclid(400);
        let year_of_era = year.rem_euclid(400);
        let month_from_march = (self.month + 9) % 12;
        let day_of_year = (153 * month_from_march + 2) / 5 + self.day - 1;
        let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
        let days = era * 146_097 + day_of_era - 719_468;
        days * DAY + self.hour * 3600 + self.minute * 60 + self.second
    }

    fn from_unix(unix_seconds: i64) -> Self {
        let unix_seconds = unix_seconds.clamp(YEAR_0, YEAR_9999);
        let days = unix_seconds.div_euclid(DAY) + 719_468;
        let second_of_day = unix_seconds.rem_euclid(DAY);
        let era = days.div_euclid(146_097);
        let day_of_era = days.rem_euclid(146_097);
        let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let month_from_march = (5 * day_of_year + 2) / 153;
        let month = (month_from_march + 2) % 12 + 1;
        Self {
            year: era * 400 + year_of_era + i64::from(month <= 2),
            month,
            day: day_of_year - (153 * month_from_march + 2) / 5 + 1,
            hour: second_of_day / 3600,
            minute: second_of_day / 60 % 60,
            second: second_of_day % 60,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// 2026-11-22T17:41:00Z
    const NOW: i64 = 1_795_369_260;

    #[test]
    fn known_moments() {
        for (seconds, text) in [
            (0, "19700101000000"),
            (-1, "19691231235959"),
            (951_782_400, "20000229000000"),
            (NOW, "20261122174100"),
            (4_294_967_295, "21060207062815"),
            (YEAR_0, "00000101000000"),
            (YEAR_9999, "99991231235959"),
        ] {
            assert_eq!(compact(seconds), text);
            assert_eq!(parse_compact(text.as_bytes()), Some(seconds));
        }
        assert_eq!(compact(i64::MAX), "99991231235959");
        assert_eq!(compact(i64::MIN), "00000101000000");
    }

    #[test]
    fn fractions_and_leap_seconds_are_taken() {
        assert_eq!(parse_compact(b"20261122174100.999"), Some(NOW));
        assert_eq!(parse_compact(b"20161231235960"), parse_compact(b"20170101000000"));
    }

    #[test]
    fn refuses_what_is_no_moment() {
        for text in [
            &b""[..],
            b"2026112217410",
            b"202611221741000",
            b"20261122174100.",
            b"20261122174100.1x",
            b"20261122174100Z",
            b"2026112217410x",
            b"+0261122174100",
            b"20250229000000",
            b"19000229000000",
            b"20260431000000",
            b"20261301000000",
            b"20260001000000",
            b"20260100000000",
            b"20260101240000",
            b"20260101006000",
            b"20260101000061",
        ] {
            assert_eq!(parse_compact(text), None, "{}", text.escape_ascii());
        }
        assert!(parse_compact(b"20240229000000").is_some());
    }

    #[test]
    fn list_dates_change_form_with_age() {
        let list_date = |seconds, now| list_date(seconds, now, &Zone::UTC);
        assert_eq!(list_date(NOW, NOW), "Nov 22 17:41");
        assert_eq!(list_date(NOW - RECENT, NOW), "May 26 17:41");
        assert_eq!(list_date(NOW - RECENT - 1, NOW), "May 26  2026");
        assert_eq!(list_date(NOW + DAY, NOW), "Nov 23 17:41");
        assert_eq!(list_date(NOW + DAY + 1, NOW), "Nov 23  2026");
        assert_eq!(list_date(0, NOW), "Jan  1  1970");
        assert_eq!(list_date(i64::MIN, i64::MAX), "Jan  1  0000");
    }

    #[test]
    fn zones_have_their_summers() {
        let berlin = Zone::find("Europe/Berlin").unwrap();
        assert_eq!(list_date(NOW, NOW, &berlin), "Nov 22 18:41");
        assert_eq!(list_date(NOW - 150 * DAY, NOW, &berlin), "Jun 25 19:41");
        // An age is the same everywhere.
        assert_eq!(list_date(NOW - RECENT - 1, NOW, &berlin), "May 26  2026");
        assert_eq!(list_date(NOW, NOW, &Zone::find("Asia/Kolkata").unwrap()), "Nov 22 23:11");
        assert_eq!(list_date(i64::MIN, i64::MAX, &berlin), "Jan  1  0000");
        assert_eq!(Zone::find("utc"), Some(Zone::UTC));
        for name in ["", "Berlin", "CET+1", "../etc/passwd", "/etc/localtime"] {
            assert_eq!(Zone::find(name), None, "{name}");
        }
    }

    #[test]
    fn dates_of_dos() {
        let utc = Zone::UTC;
        for (seconds, text) in [
            (NOW, "11-22-26  05:41PM"),
            (0, "01-01-70  12:00AM"),
            (12 * 3600, "01-01-70  12:00PM"),
            (23 * 3600 + 59 * 60, "01-01-70  11:59PM"),
        ] {
            assert_eq!(dos_date(seconds, &utc), text);
        }
        assert_eq!(dos_date(NOW, &Zone::find("America/New_York").unwrap()), "11-22-26  12:41PM");
    }

    #[test]
    fn every_day_follows_the_one_before() {
        let mut before = compact(0);
        for day in 1..=49_710 {
            let text = compact(day * DAY);
            assert!(text > before, "{before} {text}");
            assert_eq!(parse_compact(text.as_bytes()), Some(day * DAY));
            before = text;
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(seconds in 0i64..=u32::MAX.into()) {
            prop_assert_eq!(parse_compact(compact(seconds).as_bytes()), Some(seconds));
        }

        #[test]
        fn what_is_read_is_written_back(text in "[0-9]{4}[01][0-9][0-3][0-9][0-2][0-9][0-5][0-9][0-5][0-9]") {
            if let Some(seconds) = parse_compact(text.as_bytes()) {
                prop_assert_eq!(compact(seconds), text);
            }
        }

        #[test]
        fn any_date_has_twelve_columns(seconds in any::<i64>(), now in any::<i64>()) {
            for zone in [Zone::UTC, Zone::find("Europe/Berlin").unwrap()] {
                prop_assert_eq!(list_date(seconds, now, &zone).len(), 12);
                prop_assert_eq!(dos_date(seconds, &zone).len(), 17);
            }
            prop_assert_eq!(compact(seconds).len(), 14);
        }
    }
}
