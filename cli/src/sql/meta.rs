//! The shell's own commands. Pure: text to command.

use std::time::Duration;

use crate::failure::Failure;
use crate::output::Format;

/// Between two runs of a watched statement, where nothing else is said.
const WATCH_INTERVAL: Duration = Duration::from_secs(2);
const WATCH_INTERVAL_MIN: Duration = Duration::from_millis(100);
const WATCH_INTERVAL_MAX: Duration = Duration::from_secs(24 * 60 * 60);

pub(crate) const HELP: &str = "\
Statements end with ; and may take several lines.

\\dt [PATTERN]      the tables, or those whose names match: * and ? stand for letters
\\d TABLE           a table's columns and primary key
\\x [on|off]        rows one below the other
\\f FORMAT          table, vertical, markdown, json, ndjson, csv, arrow, parquet
\\o [FILE]          answers into a file; without a name to the terminal again
\\rows [N]          fetch N rows of an answer at most; 0: all
\\pager [on|off]    long answers through $PAGER
\\timing [on|off]   tell how long each statement took
\\timezone [ZONE]   times without an offset are meant in this zone; without a name: which it is
\\watch [SECONDS]   run the last statement again and again, until Ctrl-C
\\p                 show the last statement
\\r                 forget what was typed so far
\\?                 this
\\q                 end, as Ctrl-D does

Ctrl-C ends the statement that runs, or the line that is typed; Tab completes.";

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Meta {
    Tables(Option<String>),
    Describe(String),
    Expanded(Option<bool>),
    Format(Format),
    /// None: standard output.
    Output(Option<String>),
    /// None: tell it.
    Rows(Option<u64>),
    Pager(Option<bool>),
    Timing(Option<bool>),
    /// None: tell it.
    TimeZone(Option<String>),
    Watch(Duration),
    Print,
    Reset,
    Help,
    Quit,
}

/// The names, for completion.
pub(crate) const NAMES: [&str; 14] = [
    "\\?",
    "\\d",
    "\\dt",
    "\\f",
    "\\o",
    "\\p",
    "\\pager",
    "\\q",
    "\\r",
    "\\rows",
    "\\timing",
    "\\timezone",
    "\\watch",
    "\\x",
];

/// Reads a command without its backslash.
pub(crate) fn parse(text: &str) -> Result<Meta, Failure> {
    let text = text.trim().trim_end_matches(';');
    let (name, rest) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
    let rest = rest.trim();
    let word = (!rest.is_empty()).then(|| rest.to_owned());
    let switch = || match rest {
        "" => Ok(None),
        "on" => Ok(Some(true)),
        "off" => Ok(Some(false)),
        _ => Err(Failure::usage(format!(
            "\\{name} {rest}: expected on or off"
        ))),
    };
    Ok(match name {
        "dt" => Meta::Tables(word),
        "d" => match word {
            Some(table) => Meta::Describe(table),
            None => Meta::Tables(None),
        },
        "x" => Meta::Expanded(switch()?),
        "f" => Meta::Format(format(rest)?),
        "o" => Meta::Output(word),
        "rows" if rest.is_empty() => Meta::Rows(None),
        "rows" => Meta::Rows(Some(rest.parse().map_err(|_| {
            Failure::usage(format!("\\rows {rest}: expected a number, or 0 for all"))
        })?)),
        "pager" => Meta::Pager(switch()?),
        "timing" => Meta::Timing(switch()?),
        "timezone" => Meta::TimeZone(word),
        "watch" => Meta::Watch(interval(rest)?),
        "p" => Meta::Print,
        "r" => Meta::Reset,
        "?" | "h" | "help" => Meta::Help,
        "q" | "quit" | "exit" => Meta::Quit,
        _ => {
            return Err(Failure::usage(format!(
                "no command \\{name}; \\? lists them"
            )));
        }
    })
}

fn format(word: &str) -> Result<Format, Failure> {
    use clap::ValueEnum;
    Format::from_str(word, true).map_err(|_| {
        let known = Format::value_variants().iter();
        let known = known.filter_map(|format| Some(format.to_possible_value()?.get_name().into()));
        let known = known.collect::<Vec<String>>().join(", ");
        Failure::usage(format!("\\f {word}: expected one of {known}"))
    })
}

fn interval(text: &str) -> Result<Duration, Failure> {
    if text.is_empty() {
        return Ok(WATCH_INTERVAL);
    }
    let seconds = text.parse().ok();
    let interval = seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    interval
        .filter(|interval| (WATCH_INTERVAL_MIN..=WATCH_INTERVAL_MAX).contains(interval))
        .ok_or_else(|| Failure::usage(format!("\\watch {text}: expected 0.1 seconds or more")))
}

/// True where a name matches a pattern of letters, `*` and `?`, whatever its case.
pub(crate) fn matches(pattern: &str, name: &str) -> bool {
    let pattern: Vec<char> = pattern.to_lowercase().chars().collect();
    let name: Vec<char> = name.to_lowercase().chars().collect();
    // Where the last star stands, and how much it has taken: going back to it is enough.
    let (mut p, mut n, mut star) = (0, 0, None);
    while n < name.len() {
        if p < pattern.len() && (pattern[p] == '?' || pattern[p] == name[n]) && pattern[p] != '*' {
            (p, n) = (p + 1, n + 1);
        } else if p < pattern.len() && pattern[p] == '*' {
            star = Some((p, n));
            p += 1;
        } else if let Some((at, taken)) = star {
            star = Some((at, taken + 1));
            (p, n) = (at + 1, taken + 1);
        } else {
            return false;
        }
    }
    pattern[p..].iter().all(|c| *c == '*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_read_and_slips_are_told() {
        assert_eq!(parse("dt").unwrap(), Meta::Tables(None));
        assert_eq!(parse("d orders;").unwrap(), Meta::Describe("orders".into()));
        assert_eq!(parse("x on").unwrap(), Meta::Expanded(Some(true)));
        assert_eq!(parse("f CSV").unwrap(), Meta::Format(Format::Csv));
        assert_eq!(
            parse("o a b.csv").unwrap(),
            Meta::Output(Some("a b.csv".into()))
        );
        assert_eq!(
            parse("timezone Europe/Berlin;").unwrap(),
            Meta::TimeZone(Some("Europe/Berlin".into()))
        );
        assert_eq!(parse("watch").unwrap(), Meta::Watch(WATCH_INTERVAL));
        assert_eq!(
            parse("watch 0.5").unwrap(),
            Meta::Watch(Duration::from_millis(500))
        );
        for bad in [
            "watch 0",
            "watch NaN",
            "watch 1e300",
            "x maybe",
            "rows -1",
            "f xml",
            "zz",
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn every_command_of_the_help_is_completed() {
        for name in NAMES {
            assert!(HELP.contains(&format!("\n{name} ")), "{name}");
        }
        assert_eq!(HELP.matches("\n\\").count(), NAMES.len());
    }

    #[test]
    fn patterns_match_as_files_do() {
        for (pattern, name, expected) in [
            ("*", "", true),
            ("o*s", "Orders", true),
            ("o*s", "order", false),
            ("?rders", "orders", true),
            ("*a*b*", "xxaxxbx", true),
            ("*a*b", "abab", true),
            ("", "x", false),
        ] {
            assert_eq!(matches(pattern, name), expected, "{pattern} {name}");
        }
    }
}
