//! A position in JSON text: white space, strings, numbers, and what to say when they are wrong.
//!
//! Owns the lexical grammar (RFC 8259, no extensions). Strings are scanned eight bytes at a time;
//! UTF-8 is checked only where a string has a byte that is not ASCII, since no other token may.

use crate::reject::{Checked, EXCERPT_CHARS_MAX, Fault, Reason, excerpt};

const ONES: u64 = 0x0101_0101_0101_0101;
const HIGHS: u64 = 0x8080_8080_8080_8080;
const WORD: usize = size_of::<u64>();

/// Digits that always fit in a `u64`.
const SAFE_DIGITS: usize = 19;

#[derive(Debug)]
pub(super) struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
    /// Where the current record begins: what offsets in messages count from.
    record: usize,
    /// In lines, a newline ends the record and so is no white space.
    lines: bool,
}

/// The inside of a string, quotes aside.
#[derive(Debug, Clone, Copy)]
pub(super) struct Text<'a> {
    pub(super) raw: &'a [u8],
    pub(super) escaped: bool,
}

/// A number by JSON's grammar.
#[derive(Debug, Clone, Copy)]
pub(super) struct Number<'a> {
    pub(super) text: &'a [u8],
    /// The digits without point, where `exact`.
    mantissa: u64,
    /// Power of ten of the mantissa, exponent left out.
    power: i32,
    negative: bool,
    /// The mantissa holds all digits, and there is no exponent.
    exact: bool,
    /// Neither point nor exponent.
    pub(super) integral: bool,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(bytes: &'a [u8], lines: bool) -> Self {
        Self {
            bytes,
            at: 0,
            record: 0,
            lines,
        }
    }

    #[inline]
    pub(super) fn position(&self) -> usize {
        self.at
    }

    #[inline]
    pub(super) fn begin_record(&mut self) {
        self.record = self.at;
    }

    #[inline]
    pub(super) fn record_start(&self) -> usize {
        self.record
    }

    #[inline]
    pub(super) fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    #[inline]
    pub(super) fn advance(&mut self, bytes: usize) {
        self.at += bytes;
    }

    #[inline]
    fn rest(&self) -> &'a [u8] {
        self.bytes.get(self.at..).unwrap_or_default()
    }

    /// Passes over white space; the byte that follows, not yet taken.
    #[inline]
    pub(super) fn next_token(&mut self) -> Option<u8> {
        loop {
            match self.peek() {
                Some(b' ' | b'\t' | b'\r') => self.at += 1,
                Some(b'\n') if !self.lines => self.at += 1,
                other => return other,
            }
        }
    }

    /// Takes `token` if it comes next.
    #[inline]
    pub(super) fn take(&mut self, token: &[u8]) -> bool {
        let taken = self.rest().starts_with(token);
        if taken {
            self.at += token.len();
        }
        taken
    }

    /// Takes the colon that follows a field's name.
    #[inline]
    pub(super) fn colon(&mut self) -> Checked<()> {
        if self.next_token() == Some(b':') {
            self.at += 1;
            Ok(())
        } else {
            Err(self.malformed("expected ':'"))
        }
    }

    /// Takes a word such as `true` that ends there.
    pub(super) fn word(&mut self, word: &[u8]) -> bool {
        let follows = self.rest().get(word.len());
        let ends = !follows.is_some_and(|byte| byte.is_ascii_alphanumeric() || *byte == b'_');
        ends && self.take(word)
    }

    /// Takes a string; the cursor is at its opening quote.
    #[inline]
    pub(super) fn string(&mut self) -> Checked<Text<'a>> {
        let start = self.at + 1;
        let mut at = start;
        let mut high = 0_u64;
        let end = loop {
            let Some(word) = self.bytes.get(at..).and_then(<[u8]>::first_chunk::<WORD>) else {
                return self.string_tail(start, at, high != 0);
            };
            let word = u64::from_le_bytes(*word);
            let special = special_bytes(word);
            if special != 0 {
                let length = special.trailing_zeros() / 8;
                // Only bytes before the special one belong to the text.
                high |= word & HIGHS & !(u64::MAX << (8 * length));
                break at + length as usize;
            }
            high |= word & HIGHS;
            at += WORD;
        };
        if self.bytes[end] != b'"' {
            return self.string_tail(start, end, high != 0);
        }
        let raw = &self.bytes[start..end];
        self.at = end + 1;
        if high != 0 {
            self.check_utf8(raw, start)?;
        }
        Ok(Text {
            raw,
            escaped: false,
        })
    }

    /// The slow end of a string: escapes, control characters, the end of input.
    fn string_tail(&mut self, start: usize, mut at: usize, mut high: bool) -> Checked<Text<'a>> {
        let mut escaped = false;
        loop {
            match self.bytes.get(at) {
                None => {
                    self.at = at;
                    return Err(self.malformed("a string is not closed"));
                }
                Some(b'"') => break,
                Some(b'\\') => {
                    escaped = true;
                    // What is escaped is looked at when the text is used; a quote must not end it.
                    at += if self.bytes.get(at + 1).is_some_and(|byte| *byte >= b' ') {
                        2
                    } else {
                        1
                    };
                }
                Some(byte) if *byte < b' ' => {
                    self.at = at;
                    return Err(self.malformed("a control character in a string must be escaped"));
                }
                Some(byte) => {
                    high |= !byte.is_ascii();
                    at += 1;
                }
            }
        }
        let raw = &self.bytes[start..at];
        self.at = at + 1;
        if high || escaped {
            self.check_utf8(raw, start)?;
        }
        Ok(Text { raw, escaped })
    }

    fn check_utf8(&self, raw: &[u8], start: usize) -> Checked<()> {
        std::str::from_utf8(raw).map(|_| ()).map_err(|error| {
            let offset = start + error.valid_up_to() - self.record;
            Fault::new(Reason::InvalidUtf8 { offset })
        })
    }

    /// Takes an integer of at most 18 digits, the usual case; nothing is taken for anything else.
    #[inline]
    pub(super) fn short_integer(&mut self) -> Option<i64> {
        let rest = self.rest();
        let negative = rest.first() == Some(&b'-');
        let digits = &rest[usize::from(negative)..];
        let mut value = 0_i64;
        let mut length = 0;
        while let Some(digit @ 0..=9) = digits.get(length).map(|byte| byte.wrapping_sub(b'0')) {
            if length == SAFE_DIGITS - 1 {
                return None;
            }
            value = value * 10 + i64::from(digit);
            length += 1;
        }
        let plain = !matches!(digits.get(length), Some(b'.' | b'e' | b'E'));
        let zero_led = length > 1 && digits[0] == b'0';
        if length == 0 || zero_led || !plain {
            return None;
        }
        self.at += usize::from(negative) + length;
        Some(if negative { -value } else { value })
    }

    /// Takes a number; the cursor is at its first byte, a digit or a minus.
    #[inline]
    pub(super) fn number(&mut self) -> Checked<Number<'a>> {
        let rest = self.rest();
        let negative = rest.first() == Some(&b'-');
        let mut at = usize::from(negative);
        let mut mantissa = 0_u64;
        let mut digits = |mut at: usize| {
            let start = at;
            while let Some(digit @ 0..=9) = rest.get(at).map(|byte| byte.wrapping_sub(b'0')) {
                mantissa = mantissa.wrapping_mul(10).wrapping_add(u64::from(digit));
                at += 1;
            }
            at - start
        };
        let whole = digits(at);
        if whole == 0 {
            return Err(self.broken(at, "a number needs a digit"));
        }
        if whole > 1 && rest[at] == b'0' {
            return Err(self.broken(at, "a number must not begin with a zero"));
        }
        at += whole;
        let mut fraction = 0;
        let mut integral = true;
        if rest.get(at) == Some(&b'.') {
            integral = false;
            fraction = digits(at + 1);
            at += 1 + fraction;
            if fraction == 0 {
                return Err(self.broken(at, "a number needs a digit behind its point"));
            }
        }
        let mut exact = whole + fraction <= SAFE_DIGITS;
        if let Some(b'e' | b'E') = rest.get(at) {
            integral = false;
            exact = false;
            at += 1;
            at += usize::from(matches!(rest.get(at), Some(b'+' | b'-')));
            let tail = rest.get(at..).unwrap_or_default();
            let exponent = tail.iter().take_while(|byte| byte.is_ascii_digit()).count();
            at += exponent;
            if exponent == 0 {
                return Err(self.broken(at, "a number needs a digit in its exponent"));
            }
        }
        self.at += at;
        let power = i32::try_from(fraction).map_or(i32::MIN, |fraction| -fraction);
        Ok(Number {
            text: &rest[..at],
            mantissa,
            power,
            negative,
            exact,
            integral,
        })
    }

    fn broken(&mut self, bytes: usize, detail: &'static str) -> Box<Fault> {
        self.at += bytes;
        self.malformed(detail)
    }

    #[cold]
    pub(super) fn malformed(&self, detail: &'static str) -> Box<Fault> {
        let offset = self.at - self.record;
        Fault::new(Reason::Malformed { offset, detail })
    }

    /// The value at `start` as messages quote it: `string "abc"`, `number 7`, `array [1,2]`.
    #[cold]
    pub(super) fn found(&self, start: usize) -> String {
        let rest = self.bytes.get(start..).unwrap_or_default();
        let rest = &rest[..rest
            .iter()
            .position(|byte| *byte == b'\n')
            .unwrap_or(rest.len())];
        let bare = |rest: &[u8]| {
            rest.iter()
                .position(|byte| b",]} \t\r\n".contains(byte))
                .unwrap_or(rest.len())
        };
        match rest.first() {
            None => "nothing".to_owned(),
            Some(b'"') => {
                let body = &rest[1..];
                let mut length = 0;
                while let Some(byte) = body.get(length).filter(|byte| **byte != b'"') {
                    length += if *byte == b'\\' { 2 } else { 1 };
                }
                format!("string \"{}\"", excerpt(&body[..length.min(body.len())]))
            }
            Some(b'{') => format!("object {}", excerpt(balanced(rest))),
            Some(b'[') => format!("array {}", excerpt(balanced(rest))),
            Some(b'-' | b'0'..=b'9') => format!("number {}", excerpt(&rest[..bare(rest)])),
            Some(_) => excerpt(&rest[..bare(rest)]),
        }
    }
}

impl Number<'_> {
    /// The nearest `f64`; infinite where out of range.
    #[inline]
    pub(super) fn to_f64(self) -> f64 {
        const EXACT: u64 = 1 << f64::MANTISSA_DIGITS;
        const POWERS: [f64; 23] = [
            1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15,
            1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22,
        ];
        // Both sides are exact, so one correctly rounded division is the nearest value.
        if self.exact && self.mantissa <= EXACT {
            let power = usize::try_from(-self.power).unwrap_or(usize::MAX);
            if let Some(divisor) = POWERS.get(power) {
                let value = self.mantissa as f64 / divisor;
                return if self.negative { -value } else { value };
            }
        }
        self.parse()
    }

    /// The nearest `f32`, rounded once.
    pub(super) fn to_f32(self) -> f32 {
        self.parse()
    }

    pub(super) fn to_i64(self) -> Option<i64> {
        std::str::from_utf8(self.text).ok()?.parse().ok()
    }

    fn parse<T: std::str::FromStr>(self) -> T {
        let text = std::str::from_utf8(self.text).unwrap_or_default();
        let Ok(value) = text.parse() else {
            unreachable!("a JSON number is a Rust float")
        };
        value
    }
}

impl Text<'_> {
    /// Appends the text itself; the message of what is wrong with an escape otherwise.
    #[inline]
    pub(super) fn append_to(self, out: &mut Vec<u8>) -> Result<(), &'static str> {
        if !self.escaped {
            out.extend_from_slice(self.raw);
            return Ok(());
        }
        let mut rest = self.raw;
        while let Some(at) = rest.iter().position(|byte| *byte == b'\\') {
            out.extend_from_slice(&rest[..at]);
            rest = unescape(&rest[at + 1..], out)?;
        }
        out.extend_from_slice(rest);
        Ok(())
    }
}

/// Appends what the escape stands for; `text` begins behind its backslash. Returns what follows.
fn unescape<'a>(text: &'a [u8], out: &mut Vec<u8>) -> Result<&'a [u8], &'static str> {
    let Some((kind, mut rest)) = text.split_first() else {
        return Err("an escape is cut off");
    };
    let plain = match kind {
        b'"' | b'\\' | b'/' => *kind,
        b'b' => 0x08,
        b'f' => 0x0c,
        b'n' => b'\n',
        b'r' => b'\r',
        b't' => b'\t',
        b'u' => {
            let mut code = take_hex(&mut rest)?;
            if (0xdc00..0xe000).contains(&code) {
                return Err("a low surrogate without its high one");
            }
            if (0xd800..0xdc00).contains(&code) {
                let lone = "a high surrogate without its low one";
                rest = rest.strip_prefix(b"\\u").ok_or(lone)?;
                let low = take_hex(&mut rest)?;
                if !(0xdc00..0xe000).contains(&low) {
                    return Err(lone);
                }
                code = 0x10000 + ((code - 0xd800) << 10) + (low - 0xdc00);
            }
            let char = char::from_u32(code).ok_or("not a character")?;
            out.extend_from_slice(char.encode_utf8(&mut [0; 4]).as_bytes());
            return Ok(rest);
        }
        _ => return Err("not an escape that JSON knows"),
    };
    out.push(plain);
    Ok(rest)
}

fn take_hex(text: &mut &[u8]) -> Result<u32, &'static str> {
    let wrong = "\\u needs four hexadecimal digits";
    let (digits, rest) = text.split_at_checked(4).ok_or(wrong)?;
    *text = rest;
    digits.iter().try_fold(0, |code, digit| {
        let digit = char::from(*digit).to_digit(16).ok_or(wrong)?;
        Ok(code * 16 + digit)
    })
}

/// The object or array that `text` begins with, as far as a message could quote it.
fn balanced(text: &[u8]) -> &[u8] {
    let mut depth = 0_usize;
    let mut quoted = false;
    let mut escaped = false;
    for (at, byte) in text.iter().take(4 * EXCERPT_CHARS_MAX).enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = quoted,
            b'"' => quoted = !quoted,
            b'{' | b'[' if !quoted => depth += 1,
            b'}' | b']' if !quoted => {
                depth = depth.saturating_sub(1);
                if depth == 0 {
                    return &text[..=at];
                }
            }
            _ => {}
        }
    }
    text
}

/// How many of a string's first bytes surely neither end it nor begin an escape.
#[inline]
pub(super) fn plain_prefix(text: &[u8]) -> usize {
    let mut at = 0;
    while let Some(word) = text.get(at..).and_then(<[u8]>::first_chunk::<WORD>) {
        let special = special_bytes(u64::from_le_bytes(*word));
        if special != 0 {
            return at + special.trailing_zeros() as usize / 8;
        }
        at += WORD;
    }
    at
}

/// Bit 7 of each byte that is a quote, a backslash or a control character. Bits above the lowest
/// may be wrong (borrows run upwards); the lowest is exact.
#[inline]
fn special_bytes(word: u64) -> u64 {
    let quote = word ^ (ONES * b'"' as u64);
    let slash = word ^ (ONES * b'\\' as u64);
    let zero = |bytes: u64| bytes.wrapping_sub(ONES) & !bytes;
    let control = word.wrapping_sub(ONES * b' ' as u64) & !word;
    (zero(quote) | zero(slash) | control) & HIGHS
}
