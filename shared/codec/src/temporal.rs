//! Dates, times and timestamps as text: RFC 3339, strictly.
//!
//! A space in place of `T` is taken, lower-case `t` and `z` too. Fractions beyond the type's digits
//! are refused unless they are zeros. Printing gives no fraction, or 3, 6 or 9 digits, whichever is
//! the shortest that is exact.

const SECONDS_A_DAY: i64 = 86_400;
pub(crate) const MICROS_A_DAY: i64 = SECONDS_A_DAY * 1_000_000;
/// Of the farthest year that 32 bits of days reach.
const YEAR_DIGITS_MAX: usize = 7;

/// Why text is not a date or time: the words for the message.
pub type Misfit = &'static str;

pub(crate) const OUT_OF_RANGE: Misfit = "out of range";

/// What a timestamp's text must look like and how finely it counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StampKind {
    pub nanos: bool,
    pub zoned: bool,
}

/// Days since 1970-01-01 of `2026-11-21`.
pub(crate) fn parse_date(text: &[u8]) -> Result<i32, Misfit> {
    let (days, rest) = take_date(text)?;
    if rest.is_empty() {
        Ok(days)
    } else {
        Err("a date is YYYY-MM-DD")
    }
}

/// [`parse_date`], and the far years that printing gives a sign.
pub(crate) fn parse_any_date(text: &[u8]) -> Result<i32, Misfit> {
    let (days, rest) = take_any_date(text)?;
    if !rest.is_empty() {
        return Err("a date is YYYY-MM-DD");
    }
    i32::try_from(days).map_err(|_| OUT_OF_RANGE)
}

/// Microseconds of the day of `12:34:56.789012`.
pub(crate) fn parse_time(text: &[u8]) -> Result<i64, Misfit> {
    let (seconds, fraction, rest) = take_time(text, 6)?;
    if rest.is_empty() {
        Ok(seconds * 1_000_000 + fraction)
    } else {
        Err("a time is HH:MM:SS[.ffffff]")
    }
}

/// Micro- or nanoseconds since 1970-01-01T00:00:00Z of `2026-11-21T12:34:56.789012[Z|±HH:MM]`.
pub fn parse_timestamp(text: &[u8], kind: StampKind) -> Result<i64, Misfit> {
    let (days, rest) = take_date(text)?;
    let (seconds, fraction) = take_clock(days.into(), rest, kind)?;
    if kind.nanos {
        // In i128, since the smallest i64 lies below its own whole second.
        let nanos = i128::from(seconds) * 1_000_000_000 + i128::from(fraction);
        i64::try_from(nanos).map_err(|_| OUT_OF_RANGE)
    } else {
        Ok(seconds * 1_000_000 + fraction)
    }
}

/// [`parse_timestamp`], and the far years that printing gives a sign.
pub(crate) fn parse_any_timestamp(text: &[u8], kind: StampKind) -> Result<i64, Misfit> {
    let (days, rest) = take_any_date(text)?;
    let (seconds, fraction) = take_clock(days, rest, kind)?;
    let per_second = if kind.nanos { 1_000_000_000 } else { 1_000_000 };
    let value = i128::from(seconds) * per_second + i128::from(fraction);
    i64::try_from(value).map_err(|_| OUT_OF_RANGE)
}

/// What follows a timestamp's date: whole seconds since 1970, and the fraction.
fn take_clock(days: i64, rest: &[u8], kind: StampKind) -> Result<(i64, i64), Misfit> {
    let Some((b'T' | b't' | b' ', rest)) = rest.split_first() else {
        return Err("a timestamp is YYYY-MM-DDTHH:MM:SS[.f]");
    };
    let digits = if kind.nanos { 9 } else { 6 };
    let (seconds, fraction, rest) = take_time(rest, digits)?;
    let offset = match (kind.zoned, rest) {
        (false, []) => 0,
        (false, _) => return Err("no offset is wanted here"),
        (true, []) => return Err("an offset is wanted: Z or ±HH:MM"),
        (true, _) => take_offset(rest)?,
    };
    Ok((days * SECONDS_A_DAY + seconds - offset, fraction))
}

fn two(text: &[u8]) -> Option<i64> {
    match text {
        [a @ b'0'..=b'9', b @ b'0'..=b'9'] => Some(i64::from(a - b'0') * 10 + i64::from(b - b'0')),
        _ => None,
    }
}

fn take_date(text: &[u8]) -> Result<(i32, &[u8]), Misfit> {
    let shape = || "a date is YYYY-MM-DD";
    let Some((date, rest)) = text.split_at_checked(10) else {
        return Err(shape());
    };
    if date[4] != b'-' || date[7] != b'-' {
        return Err(shape());
    }
    let parts = (
        two(&date[..2]),
        two(&date[2..4]),
        two(&date[5..7]),
        two(&date[8..]),
    );
    let (Some(century), Some(year), Some(month), Some(day)) = parts else {
        return Err(shape());
    };
    let days = days_of(century * 100 + year, month, day)?;
    let days = i32::try_from(days).map_err(|_| OUT_OF_RANGE)?;
    Ok((days, rest))
}

/// [`take_date`], or a sign, a year outside 0 to 9999 as printing spells it, month and day.
fn take_any_date(text: &[u8]) -> Result<(i64, &[u8]), Misfit> {
    let (negative, digits) = match text.split_first() {
        Some((b'-', rest)) => (true, rest),
        Some((b'+', rest)) => (false, rest),
        _ => return take_date(text).map(|(days, rest)| (i64::from(days), rest)),
    };
    let shape = || "a date is YYYY-MM-DD, with a sign where the year is below 0 or above 9999";
    let length = digits.iter().take_while(|b| b.is_ascii_digit()).count();
    let (year, rest) = digits.split_at(length);
    if !(4..=YEAR_DIGITS_MAX).contains(&length) || (length > 4 && year[0] == b'0') {
        return Err(shape());
    }
    let year = year.iter().fold(0, |n, b| n * 10 + i64::from(b - b'0'));
    let year = if negative { -year } else { year };
    let Some(([b'-', m1, m2, b'-', d1, d2], rest)) = rest.split_first_chunk::<6>() else {
        return Err(shape());
    };
    let (Some(month), Some(day)) = (two(&[*m1, *m2]), two(&[*d1, *d2])) else {
        return Err(shape());
    };
    if (0..=9999).contains(&year) {
        return Err(shape());
    }
    Ok((days_of(year, month, day)?, rest))
}

fn days_of(year: i64, month: i64, day: i64) -> Result<i64, Misfit> {
    if !(1..=12).contains(&month) {
        return Err("no such month");
    }
    if day < 1 || day > days_in_month(year, month) {
        return Err("no such day");
    }
    Ok(days_from_civil(year, month, day))
}

/// Seconds of the day, the fraction in units of 10^-digits, and what follows.
fn take_time(text: &[u8], digits: usize) -> Result<(i64, i64, &[u8]), Misfit> {
    let shape = || "a time is HH:MM:SS[.f]";
    let Some((time, mut rest)) = text.split_at_checked(8) else {
        return Err(shape());
    };
    if time[2] != b':' || time[5] != b':' {
        return Err(shape());
    }
    let parts = (two(&time[..2]), two(&time[3..5]), two(&time[6..]));
    let (Some(hour), Some(minute), Some(second)) = parts else {
        return Err(shape());
    };
    if hour > 23 || minute > 59 || second > 59 {
        return Err("no such time of day");
    }
    let mut fraction = 0;
    if let Some((b'.', tail)) = rest.split_first() {
        let length = tail.iter().take_while(|byte| byte.is_ascii_digit()).count();
        if length == 0 {
            return Err("digits are wanted behind the point");
        }
        let (kept, lost) = tail[..length].split_at(length.min(digits));
        if lost.iter().any(|digit| *digit != b'0') {
            return Err("more fractional digits than the type can keep");
        }
        for index in 0..digits {
            let digit = kept.get(index).map_or(0, |digit| i64::from(digit - b'0'));
            fraction = fraction * 10 + digit;
        }
        rest = &tail[length..];
    }
    Ok((hour * 3600 + minute * 60 + second, fraction, rest))
}

/// Seconds east of UTC.
fn take_offset(text: &[u8]) -> Result<i64, Misfit> {
    let shape = "an offset is Z or ±HH:MM";
    let sign = match text {
        [b'Z' | b'z'] => return Ok(0),
        [b'+', ..] => 1,
        [b'-', ..] => -1,
        _ => return Err(shape),
    };
    if text.len() != 6 || text[3] != b':' {
        return Err(shape);
    }
    match (two(&text[1..3]), two(&text[4..])) {
        (Some(hours @ 0..=23), Some(minutes @ 0..=59)) => Ok(sign * (hours * 3600 + minutes * 60)),
        _ => Err(shape),
    }
}

fn days_in_month(year: i64, month: i64) -> i64 {
    match month {
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Proleptic Gregorian, after Howard Hinnant's `chrono`-compatible algorithms: years begin in March,
/// so that a leap day is a year's last.
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let of_era = year.rem_euclid(400);
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

fn civil_from_days(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let (era, of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (year + era * 400 + i64::from(month <= 2), month, day)
}

/// Years outside 0 to 9999 get a sign, as ISO 8601 has it.
pub(crate) fn print_date(days: i64, out: &mut Vec<u8>) {
    let (year, month, day) = civil_from_days(days);
    if (0..=9999).contains(&year) {
        print_padded(year, 4, out);
    } else {
        out.push(if year < 0 { b'-' } else { b'+' });
        print_padded(year.abs(), 4, out);
    }
    out.push(b'-');
    print_padded(month, 2, out);
    out.push(b'-');
    print_padded(day, 2, out);
}

/// `value` counts units of which a second has `per_second`, within one day.
pub(crate) fn print_time(value: i64, per_second: i64, out: &mut Vec<u8>) {
    let (seconds, fraction) = (value.div_euclid(per_second), value.rem_euclid(per_second));
    print_padded(seconds / 3600, 2, out);
    out.push(b':');
    print_padded(seconds / 60 % 60, 2, out);
    out.push(b':');
    print_padded(seconds % 60, 2, out);
    let nanos = fraction * (1_000_000_000 / per_second);
    if nanos == 0 {
        return;
    }
    out.push(b'.');
    if nanos % 1_000_000 == 0 {
        print_padded(nanos / 1_000_000, 3, out);
    } else if nanos % 1000 == 0 {
        print_padded(nanos / 1000, 6, out);
    } else {
        print_padded(nanos, 9, out);
    }
}

/// `value` counts units of which a second has `per_second`, since 1970.
pub(crate) fn print_timestamp(value: i64, per_second: i64, zoned: bool, out: &mut Vec<u8>) {
    let per_day = SECONDS_A_DAY * per_second;
    print_date(value.div_euclid(per_day), out);
    out.push(b'T');
    print_time(value.rem_euclid(per_day), per_second, out);
    if zoned {
        out.push(b'Z');
    }
}

fn print_padded(value: i64, width: usize, out: &mut Vec<u8>) {
    let mut digits = itoa::Buffer::new();
    let digits = digits.format(value);
    out.extend(std::iter::repeat_n(
        b'0',
        width.saturating_sub(digits.len()),
    ));
    out.extend_from_slice(digits.as_bytes());
}

#[cfg(test)]
mod tests {
    use chrono::{DateTime, Datelike, NaiveDate, SecondsFormat};
    use proptest::prelude::*;

    use super::*;

    const TZ: StampKind = StampKind {
        nanos: false,
        zoned: true,
    };
    const LOCAL_NS: StampKind = StampKind {
        nanos: true,
        zoned: false,
    };

    proptest! {
        #[test]
        fn timestamps_agree_with_chrono(micros in -62_135_596_800_000_000..253_402_300_799_999_999_i64) {
            let chrono = DateTime::from_timestamp_micros(micros).unwrap();
            let text = chrono.to_rfc3339_opts(SecondsFormat::AutoSi, true);
            prop_assert_eq!(parse_timestamp(text.as_bytes(), TZ), Ok(micros));
            let mut printed = Vec::new();
            print_timestamp(micros, 1_000_000, true, &mut printed);
            prop_assert_eq!(String::from_utf8(printed).unwrap(), text);
        }

        #[test]
        fn nanoseconds_print_and_parse_over_the_whole_range(nanos in any::<i64>()) {
            let mut printed = Vec::new();
            print_timestamp(nanos, 1_000_000_000, false, &mut printed);
            prop_assert_eq!(parse_timestamp(&printed, LOCAL_NS), Ok(nanos));
        }

        #[test]
        fn dates_agree_with_chrono_even_far_away(days in -95_000_000..95_000_000_i32) {
            let date = NaiveDate::from_epoch_days(days).unwrap();
            let mut printed = Vec::new();
            print_date(days.into(), &mut printed);
            if (0..=9999).contains(&date.year()) {
                prop_assert_eq!(parse_date(&printed), Ok(days));
                prop_assert_eq!(String::from_utf8(printed).unwrap(), date.to_string());
            } else {
                prop_assert!(parse_date(&printed).is_err());
            }
        }

        #[test]
        fn every_value_prints_to_what_the_parser_of_any_year_reads(
            value in any::<i64>(), days in any::<i32>(), nanos in any::<bool>(), zoned in any::<bool>(),
        ) {
            let mut printed = Vec::new();
            print_date(days.into(), &mut printed);
            prop_assert_eq!(parse_any_date(&printed), Ok(days));
            printed.clear();
            print_timestamp(value, if nanos { 1_000_000_000 } else { 1_000_000 }, zoned, &mut printed);
            prop_assert_eq!(parse_any_timestamp(&printed, StampKind { nanos, zoned }), Ok(value));
        }

        #[test]
        fn any_value_prints(value in any::<i64>(), days in any::<i32>()) {
            let mut out = Vec::new();
            print_date(days.into(), &mut out);
            for per_second in [1, 1000, 1_000_000, 1_000_000_000] {
                print_timestamp(value, per_second, true, &mut out);
            }
        }
    }

    #[test]
    fn strictness() {
        let ok = |text: &str| parse_timestamp(text.as_bytes(), TZ);
        assert_eq!(ok("1970-01-01T00:00:00Z"), Ok(0));
        assert_eq!(ok("1970-01-01 01:30:00.5+01:30"), Ok(500_000));
        assert_eq!(ok("1969-12-31t19:00:00.000000000-05:00"), Ok(0));
        for text in [
            "",
            "1970-01-01",
            "1970-01-01T00:00:00",
            "1970-01-01T00:00Z",
            "1970-01-01T24:00:00Z",
            "1970-01-01T00:00:60Z",
            "1970-13-01T00:00:00Z",
            "1970-02-29T00:00:00Z",
            "1970-01-01T00:00:00.Z",
            "1970-01-01T00:00:00.0000001Z",
            "1970-01-01T00:00:00+0100",
            "1970-01-01T00:00:00+01:00 ",
            "1970-1-1T00:00:00Z",
            "+970-01-01T00:00:00Z",
        ] {
            assert!(ok(text).is_err(), "{text}");
        }
        for text in [
            "+2026-01-01",
            "-0000-01-01",
            "+012345-01-01",
            "+12345-1-01",
            "-12345-02-30",
        ] {
            assert!(parse_any_date(text.as_bytes()).is_err(), "{text}");
        }
        assert_eq!(parse_any_date(b"2024-02-29"), Ok(19_782));
        assert_eq!(parse_any_date(b"+9999999-01-01"), Err(OUT_OF_RANGE));
        assert_eq!(parse_date(b"2024-02-29"), Ok(19_782));
        assert_eq!(parse_date(b"1900-02-29"), Err("no such day"));
        assert_eq!(parse_time(b"12:34:56.789012"), Ok(45_296_789_012));
        assert_eq!(parse_time(b"12:34:56Z"), Err("a time is HH:MM:SS[.ffffff]"));
        assert_eq!(
            parse_timestamp(b"2300-01-01T00:00:00", LOCAL_NS),
            Err(OUT_OF_RANGE)
        );
        assert_eq!(
            parse_timestamp(b"1970-01-01T00:00:00Z", LOCAL_NS),
            Err("no offset is wanted here")
        );
    }
}
