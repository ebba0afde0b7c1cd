//! Answers on standard output: for people as a table, for programs as JSON, NDJSON or CSV.
//!
//! One shape for every command: a list of things is a JSON array of objects, one thing an object.
//! `text.rs` sees to it that nothing of others steers a terminal, `draw.rs` draws.

mod draw;
mod text;

use std::io::{self, IsTerminal, Write};

use clap::ValueEnum;
use serde_json::{Map, Value};

pub(crate) use draw::Drawn;
pub(crate) use text::{Breaks, Means, Screened, safe_json, shown};

use crate::failure::Failure;

/// How an answer looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(crate) enum Format {
    /// A table for people
    #[default]
    Table,
    /// A line for each value, rows one below the other
    Vertical,
    Markdown,
    /// An array of objects, or an object
    Json,
    /// An object a line
    Ndjson,
    Csv,
    /// An Arrow stream; answers of queries only
    Arrow,
    /// A Parquet file; answers of queries only
    Parquet,
}

impl Format {
    /// For people: what is no part of the answer may be told beside it.
    pub(crate) fn is_drawn(self) -> bool {
        matches!(self, Self::Table | Self::Vertical | Self::Markdown)
    }

    pub(crate) fn is_binary(self) -> bool {
        matches!(self, Self::Arrow | Self::Parquet)
    }
}

/// Rows under names.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Grid {
    pub columns: Vec<String>,
    pub rows: Vec<Vec<Value>>,
    /// Values of tables rather than words of ours: null is told from empty text, and values are cut
    /// to the terminal rather than wrapped.
    pub is_answer: bool,
}

impl Grid {
    pub(crate) fn new(columns: &[&str]) -> Self {
        Self {
            columns: columns.iter().map(|c| (*c).to_owned()).collect(),
            ..Self::default()
        }
    }

    /// The answer of a query: `{"columns":[{"name",…}],"rows":[[…]]}`.
    pub(crate) fn of_query(answer: &Value) -> Self {
        let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
        let name = |column: &Value| column["name"].as_str().unwrap_or_default().to_owned();
        Self {
            columns: list(&answer["columns"]).iter().map(name).collect(),
            rows: list(&answer["rows"]).iter().map(list).collect(),
            is_answer: true,
        }
    }

    pub(crate) fn print(&self, format: Format) -> Result<(), Failure> {
        let mut out = io::stdout().lock();
        let drawn = self.render(format, terminal_width())?;
        out.write_all(drawn.text.as_bytes())?;
        out.flush()?;
        if let Some(left_out) = drawn.left_out {
            note(&format!("{left_out}; -o vertical shows all"));
        }
        Ok(())
    }

    /// As text, for a terminal of this width or for none.
    pub(crate) fn render(&self, format: Format, terminal: Option<usize>) -> Result<Drawn, Failure> {
        let text = match format {
            Format::Table => return Ok(draw::table(self, terminal)),
            Format::Vertical => draw::vertical(self),
            Format::Markdown => draw::markdown(self),
            Format::Json => json_array(self.rows.iter().map(|row| self.object(row).to_string())),
            Format::Ndjson => {
                let lines = self.rows.iter();
                let lines = lines.map(|row| format!("{}\n", self.object(row)));
                safe_json(&lines.collect::<String>()).into_owned()
            }
            Format::Csv => self.csv(terminal.is_some()),
            Format::Arrow | Format::Parquet => {
                let message = "only answers of queries come as Arrow or Parquet";
                return Err(Failure::usage(message).hint("say -o json, ndjson or csv"));
            }
        };
        Ok(text.into())
    }

    fn csv(&self, is_terminal: bool) -> String {
        let header = self.columns.iter().map(|name| csv_field(name));
        let header = header.collect::<Vec<_>>();
        let lines = self.rows.iter().map(|row| {
            let fields = row.iter().map(|value| match value {
                Value::Null => String::new(),
                Value::String(text) => csv_field(text),
                other => csv_field(&other.to_string()),
            });
            fields.collect::<Vec<_>>()
        });
        let lines = std::iter::once(header).chain(lines);
        let text: String = lines.map(|line| line.join(",") + "\n").collect();
        match is_terminal {
            true => shown(&text, Breaks::Stay).into_owned(),
            false => text,
        }
    }

    fn object(&self, row: &[Value]) -> Value {
        let pairs = self.columns.iter().cloned().zip(row.iter().cloned());
        Value::Object(pairs.collect::<Map<_, _>>())
    }
}

/// Objects as one array, an object a line.
pub(crate) fn json_array(objects: impl Iterator<Item = String>) -> String {
    let lines: Vec<_> = objects.map(|object| format!("\n  {object}")).collect();
    let text = match lines.is_empty() {
        true => "[]\n".to_owned(),
        false => format!("[{}\n]\n", lines.join(",")),
    };
    safe_json(&text).into_owned()
}

/// Of the terminal that standard output is, if it is one.
pub(crate) fn terminal_width() -> Option<usize> {
    const WIDTH_UNKNOWN: usize = 80;
    io::stdout().is_terminal().then(|| {
        let width = comfy_table::Table::new().width();
        width.map_or(WIDTH_UNKNOWN, usize::from)
    })
}

/// One thing with its properties; in tables a line for each.
pub(crate) fn print_object(object: &Value, format: Format) -> Result<(), Failure> {
    print_properties(object, format, ["property", "value"], false)
}

/// A row of a table: null is told from empty text.
pub(crate) fn print_row(row: &Value, format: Format) -> Result<(), Failure> {
    print_properties(row, format, ["column", "value"], true)
}

fn print_properties(
    object: &Value,
    format: Format,
    header: [&str; 2],
    is_answer: bool,
) -> Result<(), Failure> {
    match format {
        Format::Json => return say(&safe_json(&format!("{object:#}"))),
        Format::Ndjson => return say(&safe_json(&object.to_string())),
        _ => {}
    }
    let mut grid = Grid {
        is_answer,
        ..Grid::new(&header)
    };
    let map = object.as_object().into_iter().flatten();
    if format == Format::Vertical {
        let (names, values) = map
            .map(|(name, value)| (name.clone(), value.clone()))
            .unzip();
        grid.columns = names;
        grid.rows = vec![values];
    } else {
        let rows = map.map(|(name, value)| vec![Value::from(name.as_str()), value.clone()]);
        grid.rows = rows.collect();
    }
    grid.print(format)
}

/// One line on standard output.
pub(crate) fn say(line: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    writeln!(out, "{}", shown(line, Breaks::Stay))?;
    Ok(out.flush()?)
}

/// One line on standard error: for what is not the answer.
pub(crate) fn note(line: &str) {
    let _closed = writeln!(io::stderr().lock(), "{}", shown(line, Breaks::Stay));
}

/// A number with separators between thousands.
pub(crate) fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Bytes in the largest unit that leaves a number of at least one.
pub(crate) fn bytes(number: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = number as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 {
        format!("{number} B")
    } else {
        format!("{value:.1} {}", UNITS[unit])
    }
}

fn csv_field(text: &str) -> String {
    // Empty text is told from null, which is nothing at all.
    if text.is_empty() || text.contains([',', '"', '\n', '\r']) {
        format!("\"{}\"", text.replace('"', "\"\""))
    } else {
        text.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn grid() -> Grid {
        Grid::of_query(&json!({
            "columns": [{ "name": "city", "type": "string" }, { "name": "n", "type": "long" }],
            "rows": [["Ulm, \"old\"", 7], [null, 1200], ["", 0]],
        }))
    }

    fn text(format: Format, terminal: Option<usize>) -> String {
        grid().render(format, terminal).unwrap().text
    }

    #[test]
    fn an_empty_list_is_a_list() {
        assert_eq!(json_array(std::iter::empty()), "[]\n");
        let bad = grid().render(Format::Parquet, None).unwrap_err();
        assert!(bad.hint.unwrap().contains("-o json"));
    }

    #[test]
    fn every_format_shows_every_value() {
        assert_eq!(
            text(Format::Csv, None),
            "city,n\n\"Ulm, \"\"old\"\"\",7\n,1200\n\"\",0\n"
        );
        assert_eq!(
            text(Format::Ndjson, None),
            "{\"city\":\"Ulm, \\\"old\\\"\",\"n\":7}\n{\"city\":null,\"n\":1200}\n{\"city\":\"\",\"n\":0}\n"
        );
        let json: Value = serde_json::from_str(&text(Format::Json, None)).unwrap();
        assert_eq!(json[1], json!({ "city": null, "n": 1200 }));
    }

    #[test]
    fn tables_are_plain_in_a_pipe_and_numbers_stand_right() {
        let plain = text(Format::Table, None);
        let lines: Vec<&str> = plain.lines().collect();
        assert_eq!(lines.len(), 4);
        assert!(lines[1].ends_with("   7"), "{plain}");
        assert!(!plain.contains('│'), "{plain}");
        assert!(text(Format::Table, Some(80)).contains('│'));
    }

    #[test]
    fn numbers_are_readable() {
        assert_eq!(thousands(0), "0");
        assert_eq!(thousands(999), "999");
        assert_eq!(thousands(3_000_000), "3,000,000");
        assert_eq!(bytes(12), "12 B");
        assert_eq!(bytes(13_493_022), "12.9 MiB");
    }
}
