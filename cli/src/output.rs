//! Answers on standard output: for people as a table, for programs as JSON, NDJSON or CSV.

use std::io::{self, IsTerminal, Write};

use clap::ValueEnum;
use comfy_table::{CellAlignment, ContentArrangement, Table, presets};
use serde_json::{Map, Value};

use crate::failure::Failure;

/// How an answer looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(crate) enum Format {
    #[default]
    Table,
    Json,
    Ndjson,
    Csv,
}

/// Rows under names.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Grid {
    pub columns: Vec<String>,
    pub rows: Vec<Vec<Value>>,
}

impl Grid {
    pub(crate) fn new(columns: &[&str]) -> Self {
        Self {
            columns: columns.iter().map(|c| (*c).to_owned()).collect(),
            rows: Vec::new(),
        }
    }

    /// The answer of a query: `{"columns":[{"name",…}],"rows":[[…]]}`.
    pub(crate) fn of_query(answer: &Value) -> Self {
        let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
        let name = |column: &Value| column["name"].as_str().unwrap_or_default().to_owned();
        Self {
            columns: list(&answer["columns"]).iter().map(name).collect(),
            rows: list(&answer["rows"]).iter().map(list).collect(),
        }
    }

    pub(crate) fn print(&self, format: Format) -> Result<(), Failure> {
        let mut out = io::stdout().lock();
        out.write_all(self.render(format, out.is_terminal()).as_bytes())?;
        Ok(out.flush()?)
    }

    /// As text; `terminal` draws lines around tables.
    pub(crate) fn render(&self, format: Format, terminal: bool) -> String {
        match format {
            Format::Table => self.table(terminal),
            Format::Json => {
                let rows = self.rows.iter().map(|row| self.object(row)).collect();
                format!("{:#}\n", Value::Array(rows))
            }
            Format::Ndjson => self
                .rows
                .iter()
                .map(|row| format!("{}\n", self.object(row)))
                .collect(),
            Format::Csv => {
                let header = self
                    .columns
                    .iter()
                    .map(|name| csv_field(name))
                    .collect::<Vec<_>>();
                let lines = self.rows.iter().map(|row| {
                    row.iter()
                        .map(|value| csv_field(&cell(value)))
                        .collect::<Vec<_>>()
                });
                std::iter::once(header)
                    .chain(lines)
                    .map(|line| line.join(",") + "\n")
                    .collect()
            }
        }
    }

    fn object(&self, row: &[Value]) -> Value {
        let pairs = self.columns.iter().cloned().zip(row.iter().cloned());
        Value::Object(pairs.collect::<Map<_, _>>())
    }

    fn table(&self, terminal: bool) -> String {
        let mut table = Table::new();
        if terminal {
            table.load_preset(presets::UTF8_FULL_CONDENSED);
            table.set_content_arrangement(ContentArrangement::Dynamic);
        } else {
            table.load_preset(presets::NOTHING);
        }
        table.set_header(&self.columns);
        for row in &self.rows {
            table.add_row(row.iter().map(cell));
        }
        for (index, column) in table.column_iter_mut().enumerate() {
            let mut values = self.rows.iter().filter_map(|row| row.get(index));
            if values.clone().next().is_some() && values.all(|v| v.is_number() || v.is_null()) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        let lines = table.lines().map(|line| format!("{}\n", line.trim_end()));
        lines.collect()
    }
}

/// One thing with its properties; in tables a line for each.
pub(crate) fn print_object(object: &Value, format: Format) -> Result<(), Failure> {
    if format == Format::Json {
        return say(&format!("{object:#}"));
    }
    let mut grid = Grid::new(&["property", "value"]);
    if let Value::Object(map) = object {
        let rows = map
            .iter()
            .map(|(name, value)| vec![Value::from(name.as_str()), value.clone()]);
        grid.rows = rows.collect();
    }
    grid.print(format)
}

/// One line on standard output.
pub(crate) fn say(line: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    writeln!(out, "{line}")?;
    Ok(out.flush()?)
}

/// One line on standard error: for what is not the answer.
pub(crate) fn note(line: &str) {
    let _closed = writeln!(io::stderr().lock(), "{line}");
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

fn cell(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn csv_field(text: &str) -> String {
    if text.contains([',', '"', '\n', '\r']) {
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
            "rows": [["Ulm, \"old\"", 7], [null, 1200]],
        }))
    }

    #[test]
    fn every_format_shows_every_value() {
        assert_eq!(
            grid().render(Format::Csv, false),
            "city,n\n\"Ulm, \"\"old\"\"\",7\n,1200\n"
        );
        assert_eq!(
            grid().render(Format::Ndjson, false),
            "{\"city\":\"Ulm, \\\"old\\\"\",\"n\":7}\n{\"city\":null,\"n\":1200}\n"
        );
        let json: Value = serde_json::from_str(&grid().render(Format::Json, false)).unwrap();
        assert_eq!(json[1], json!({ "city": null, "n": 1200 }));
    }

    #[test]
    fn tables_are_plain_in_a_pipe_and_numbers_stand_right() {
        let text = grid().render(Format::Table, false);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 3);
        assert!(lines[1].ends_with("   7"), "{text}");
        assert!(!text.contains('│'), "{text}");
        assert!(grid().render(Format::Table, true).contains('│'));
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
