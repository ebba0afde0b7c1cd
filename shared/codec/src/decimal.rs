//! Decimal text to an unscaled integer and back, exactly.

use arrow::datatypes::DECIMAL128_MAX_PRECISION;

/// Why text is not a decimal of the asked-for type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Misfit {
    NotANumber,
    /// Digits would be lost behind the point.
    Inexact,
    OutOfRange,
}

/// Parses `[+-]digits[.digits][e[+-]digits]` into the integer that stands for it at `scale`.
pub(crate) fn parse(text: &[u8], precision: u8, scale: i8) -> Result<i128, Misfit> {
    let (negative, mut rest) = match text.split_first() {
        Some((b'-', rest)) => (true, rest),
        Some((b'+', rest)) => (false, rest),
        _ => (false, text),
    };
    let mut digits = Digits::default();
    let mut seen = 0;
    let mut point = false;
    loop {
        match rest.split_first() {
            Some((digit @ b'0'..=b'9', tail)) => {
                digits.push(digit - b'0', point);
                seen += 1;
                rest = tail;
            }
            Some((b'.', tail)) if !point && seen > 0 => {
                point = true;
                // A point wants digits on both sides.
                if !tail.first().is_some_and(u8::is_ascii_digit) {
                    return Err(Misfit::NotANumber);
                }
                rest = tail;
            }
            _ => break,
        }
    }
    if seen == 0 {
        return Err(Misfit::NotANumber);
    }
    let exponent = match rest.split_first() {
        None => 0,
        Some((b'e' | b'E', tail)) => parse_exponent(tail)?,
        Some(_) => return Err(Misfit::NotANumber),
    };
    let magnitude = digits.at_scale(exponent, precision, scale)?;
    Ok(if negative { -magnitude } else { magnitude })
}

/// Saturates far beyond what any decimal can use.
fn parse_exponent(text: &[u8]) -> Result<i64, Misfit> {
    let (negative, digits) = match text.split_first() {
        Some((b'-', rest)) => (true, rest),
        Some((b'+', rest)) => (false, rest),
        _ => (false, text),
    };
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return Err(Misfit::NotANumber);
    }
    let push = |value: i64, digit: &u8| (value * 10 + i64::from(digit - b'0')).min(1 << 40);
    let value = digits.iter().fold(0, push);
    Ok(if negative { -value } else { value })
}

/// The significant digits read so far: neither leading nor trailing zeros.
#[derive(Default)]
struct Digits {
    coefficient: i128,
    count: i64,
    /// Zeros that count only if another digit follows.
    zeros: i64,
    /// Power of ten of the last digit read.
    power: i64,
}

impl Digits {
    fn push(&mut self, digit: u8, behind_point: bool) {
        self.power -= i64::from(behind_point);
        if digit == 0 {
            self.zeros += i64::from(self.count > 0);
            return;
        }
        for next in std::iter::repeat_n(0, self.zeros.min(64) as usize).chain([digit]) {
            self.count += 1;
            if self.count <= i64::from(DECIMAL128_MAX_PRECISION) {
                self.coefficient = self.coefficient * 10 + i128::from(next);
            }
        }
        self.zeros = 0;
    }

    fn at_scale(&self, exponent: i64, precision: u8, scale: i8) -> Result<i128, Misfit> {
        if self.count == 0 {
            return Ok(0);
        }
        let shift = self.power + self.zeros + exponent + i64::from(scale);
        if shift < 0 {
            return Err(Misfit::Inexact);
        }
        if self.count + shift > i64::from(precision) {
            return Err(Misfit::OutOfRange);
        }
        let shift = u32::try_from(shift).map_err(|_| Misfit::OutOfRange)?;
        Ok(self.coefficient * 10_i128.pow(shift))
    }
}

/// Prints the decimal that `value` stands for at `scale`, with all its digits behind the point.
pub(crate) fn print(value: i128, scale: i8, out: &mut Vec<u8>) {
    if value < 0 {
        out.push(b'-');
    }
    let mut digits = itoa::Buffer::new();
    let digits = digits.format(value.unsigned_abs());
    let Some(behind) = usize::try_from(scale).ok().filter(|scale| *scale > 0) else {
        out.extend_from_slice(digits.as_bytes());
        if value != 0 {
            out.extend(std::iter::repeat_n(b'0', usize::from(scale.unsigned_abs())));
        }
        return;
    };
    let before = digits.len().saturating_sub(behind);
    if before == 0 {
        out.extend_from_slice(b"0.");
        out.extend(std::iter::repeat_n(b'0', behind - digits.len()));
    } else {
        out.extend_from_slice(&digits.as_bytes()[..before]);
        out.push(b'.');
    }
    out.extend_from_slice(&digits.as_bytes()[before..]);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn text_becomes_exactly_its_number_or_nothing() {
        let cases: [(&str, Result<i128, Misfit>); 22] = [
            ("0", Ok(0)),
            ("-0.00", Ok(0)),
            ("12.34", Ok(1234)),
            ("12.3", Ok(1230)),
            ("-12.340000", Ok(-1234)),
            ("+1", Ok(100)),
            ("007", Ok(700)),
            ("1e3", Ok(100_000)),
            ("123456e-4", Err(Misfit::Inexact)),
            ("1234500e-4", Ok(12345)),
            ("1234000e-4", Ok(12340)),
            ("99999.99", Ok(9_999_999)),
            ("100000", Err(Misfit::OutOfRange)),
            ("1e99999999999999999999999", Err(Misfit::OutOfRange)),
            ("1e-99999999999999999999999", Err(Misfit::Inexact)),
            ("0e99999999999999999999999", Ok(0)),
            ("", Err(Misfit::NotANumber)),
            (".5", Err(Misfit::NotANumber)),
            ("5.", Err(Misfit::NotANumber)),
            ("1.2.3", Err(Misfit::NotANumber)),
            ("1e", Err(Misfit::NotANumber)),
            ("NaN", Err(Misfit::NotANumber)),
        ];
        for (text, expected) in cases {
            assert_eq!(parse(text.as_bytes(), 7, 2), expected, "{text}");
        }
        let nines = "9".repeat(38);
        assert_eq!(parse(nines.as_bytes(), 38, 0), Ok(10_i128.pow(38) - 1));
        assert_eq!(
            parse(format!("{nines}9").as_bytes(), 38, 0),
            Err(Misfit::OutOfRange)
        );
        let zeros = format!("1{}.5", "0".repeat(200));
        assert_eq!(parse(zeros.as_bytes(), 38, 1), Err(Misfit::OutOfRange));
    }

    proptest! {
        #[test]
        fn printed_decimals_parse_back(
            value in -(10_i128.pow(38) - 1)..10_i128.pow(38), scale in 0..=38_i8
        ) {
            let mut text = Vec::new();
            print(value, scale, &mut text);
            prop_assert_eq!(parse(&text, 38, scale), Ok(value));
        }
    }
}
