//! Text of others on a terminal: what would steer the terminal is shown, not obeyed.
//!
//! Invariant: of what [`shown`] and [`Screened`] let through, nothing moves the cursor, changes the
//! terminal's state or turns the order of letters around.

use std::borrow::Cow;
use std::io::{self, Write};

/// Which line breaks stay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Breaks {
    /// Line feeds and tabs.
    Stay,
    /// None: one value is one line.
    Shown,
}

/// True for characters that a terminal obeys, that turn text around, or that begin a new line where
/// nobody expects one.
fn steers(c: char) -> bool {
    c.is_control()
        || matches!(
            c,
            '\u{061c}'
                | '\u{200e}'
                | '\u{200f}'
                | '\u{2028}'..='\u{202e}'
                | '\u{2066}'..='\u{2069}'
                | '\u{feff}'
                | '\u{fff9}'..='\u{fffb}'
                | '\u{e0000}'..='\u{e007f}'
        )
}

/// Text as a person may see it.
pub(crate) fn shown(text: &str, breaks: Breaks) -> Cow<'_, str> {
    let stays = |c: char| breaks == Breaks::Stay && matches!(c, '\n' | '\t');
    if text.chars().all(|c| !steers(c) || stays(c)) {
        return Cow::Borrowed(text);
    }
    let mut safe = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if steers(c) && !stays(c) {
            escape(c, &mut safe);
        } else {
            safe.push(c);
        }
    }
    Cow::Owned(safe)
}

fn escape(c: char, out: &mut String) {
    match c {
        '\n' => out.push_str("\\n"),
        '\r' => out.push_str("\\r"),
        '\t' => out.push_str("\\t"),
        c if u32::from(c) < 0x100 => out.push_str(&format!("\\x{:02x}", u32::from(c))),
        c => out.push_str(&format!("\\u{{{:x}}}", u32::from(c))),
    }
}

/// A JSON text that means the same, without anything that steers: between values only line breaks
/// stand, and within strings every character has an escape.
pub(crate) fn safe_json(text: &str) -> Cow<'_, str> {
    let stays = |c: char| matches!(c, '\n' | '\t' | '\r');
    if text.chars().all(|c| !steers(c) || stays(c)) {
        return Cow::Borrowed(text);
    }
    let mut safe = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if steers(c) && !stays(c) {
            for unit in c.encode_utf16(&mut [0; 2]) {
                safe.push_str(&format!("\\u{unit:04x}"));
            }
        } else {
            safe.push(c);
        }
    }
    Cow::Owned(safe)
}

/// How wide a terminal shows it, or wider: wide letters and symbols count twice.
pub(crate) fn width(text: &str) -> usize {
    text.chars().map(char_width).sum()
}

fn char_width(c: char) -> usize {
    let wide = matches!(u32::from(c), 0x1100..=0x115f | 0x2300..=0x27bf | 0x2b00..=0x2bff
        | 0x2e80..=0xa4cf | 0xa960..=0xa97f | 0xac00..=0xd7a3 | 0xf900..=0xfaff | 0xfe30..=0xfe6f
        | 0xff00..=0xff60 | 0xffe0..=0xffe6 | 0x1f000..=0x1faff | 0x20000..=0x3fffd);
    1 + usize::from(wide)
}

/// Text cut to a width, with `…` in place of what is left out.
pub(crate) fn cut(text: &str, width_max: usize) -> Cow<'_, str> {
    if width(text) <= width_max {
        return Cow::Borrowed(text);
    }
    let mut left = width_max.saturating_sub(1);
    let kept = text.chars().take_while(|c| {
        let fits = char_width(*c) <= left;
        left = left.saturating_sub(char_width(*c));
        fits
    });
    Cow::Owned(kept.chain(['…']).collect())
}

/// What a stream of text means to whoever reads it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Means {
    /// Escapes are JSON's: the text means the same afterwards.
    Json,
    /// Escapes are for the eye.
    Text,
}

/// Writes a stream of text so that nothing in it steers. What is no UTF-8 is shown, too.
#[derive(Debug)]
pub(crate) struct Screened<W> {
    inner: W,
    means: Means,
    /// The beginning of a character, or a carriage return that may belong to a line feed.
    held: Vec<u8>,
}

impl<W: Write> Screened<W> {
    pub(crate) fn new(inner: W, means: Means) -> Self {
        Self {
            inner,
            means,
            held: Vec::new(),
        }
    }

    /// Writes what was held back.
    pub(crate) fn finish(mut self) -> io::Result<()> {
        let held = std::mem::take(&mut self.held);
        for byte in held {
            write!(self.inner, "\\x{byte:02x}")?;
        }
        self.inner.flush()
    }

    fn text(&mut self, text: &str) -> io::Result<()> {
        let safe = match self.means {
            Means::Json => safe_json(text),
            Means::Text if text.contains('\r') => {
                let lines: Vec<_> = text
                    .split("\r\n")
                    .map(|line| shown(line, Breaks::Stay))
                    .collect();
                Cow::Owned(lines.join("\r\n"))
            }
            Means::Text => shown(text, Breaks::Stay),
        };
        self.inner.write_all(safe.as_bytes())
    }
}

impl<W: Write> Write for Screened<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut all = std::mem::take(&mut self.held);
        all.extend_from_slice(bytes);
        let mut rest = all.as_slice();
        while !rest.is_empty() {
            let (valid, bad) = match std::str::from_utf8(rest) {
                Ok(text) => (text, 0..0),
                Err(error) => {
                    let (valid, after) = rest.split_at(error.valid_up_to());
                    let bad = error.error_len().unwrap_or(after.len());
                    if error.error_len().is_none() {
                        self.held = after.to_vec();
                    }
                    let text = std::str::from_utf8(valid).unwrap_or_default();
                    (text, valid.len()..valid.len() + bad)
                }
            };
            let whole = match valid.strip_suffix('\r') {
                Some(before) if bad.is_empty() && self.held.is_empty() => {
                    self.held = b"\r".to_vec();
                    before
                }
                _ => valid,
            };
            self.text(whole)?;
            if bad.is_empty() || !self.held.is_empty() {
                break;
            }
            for byte in &rest[bad.clone()] {
                write!(self.inner, "\\x{byte:02x}")?;
            }
            rest = &rest[bad.end..];
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn screened(chunks: &[&[u8]], means: Means) -> String {
        let mut out = Vec::new();
        let mut screened = Screened::new(&mut out, means);
        for chunk in chunks {
            screened.write_all(chunk).unwrap();
        }
        screened.finish().unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn what_steers_a_terminal_is_shown() {
        let evil = "\u{1b}]0;owned\u{7}\u{9b}31m\u{202e}abc\u{2066}\u{7f}\r\n\t";
        assert_eq!(
            shown(evil, Breaks::Shown),
            "\\x1b]0;owned\\x07\\x9b31m\\u{202e}abc\\u{2066}\\x7f\\r\\n\\t"
        );
        assert!(shown(evil, Breaks::Stay).ends_with("\\r\n\t"));
        for plain in ["grün", "日本", "👩‍👩‍👧", "עברית", ""] {
            assert_eq!(shown(plain, Breaks::Shown), plain);
        }
    }

    #[test]
    fn json_means_the_same_afterwards() {
        let value = serde_json::json!({ "a\u{9b}": "\u{202e}x\u{e0001}\u{1b}é", "n": 1 });
        let text = value.to_string();
        let safe = safe_json(&text);
        assert!(!safe.chars().any(steers), "{safe}");
        assert_eq!(
            serde_json::from_str::<serde_json::Value>(&safe).unwrap(),
            value
        );
    }

    #[test]
    fn streams_are_screened_wherever_they_are_cut() {
        let text = "a\u{202e}é日\u{1b}[2J\r\nb\rc\r".as_bytes();
        let whole = screened(&[text], Means::Text);
        assert_eq!(whole, "a\\u{202e}é日\\x1b[2J\r\nb\\rc\\x0d");
        for at in 0..=text.len() {
            assert_eq!(screened(&[&text[..at], &text[at..]], Means::Text), whole);
        }
        let each: Vec<&[u8]> = text.chunks(1).collect();
        assert_eq!(screened(&each, Means::Text), whole);
        assert_eq!(
            screened(&[b"a\xff\xfeb\xc3"], Means::Text),
            "a\\xff\\xfeb\\xc3"
        );
        assert_eq!(
            screened(&[b"\"\xc2", b"\x9b\""], Means::Json),
            "\"\\u009b\""
        );
    }

    #[test]
    fn cut_text_fits_and_says_so() {
        assert_eq!(cut("abc", 3), "abc");
        assert_eq!(cut("abcd", 3), "ab…");
        assert_eq!(cut("日本語", 4), "日…");
        assert_eq!(width("日本"), 4);
    }
}
