//! Rows drawn for people: as a table, one below the other, or as Markdown.

use comfy_table::{CellAlignment, ContentArrangement, Table, presets};
use serde_json::Value;

use super::Grid;
use super::text::{Breaks, cut, shown, width};

/// Narrower than this no column is made: rather fewer columns are shown.
const COLUMN_WIDTH_MIN: usize = 8;

/// What was drawn, and what had to be left out.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Drawn {
    pub text: String,
    /// In words; none where everything is there.
    pub left_out: Option<String>,
}

impl From<String> for Drawn {
    fn from(text: String) -> Self {
        Self {
            text,
            left_out: None,
        }
    }
}

/// A table; `terminal` is the width of the terminal that it is for, which gets lines around cells.
pub(super) fn table(grid: &Grid, terminal: Option<usize>) -> Drawn {
    let breaks = match grid.is_answer {
        true => Breaks::Shown,
        false => Breaks::Stay,
    };
    let header = grid.columns.iter();
    let header: Vec<String> = header
        .map(|name| shown(name, Breaks::Shown).into_owned())
        .collect();
    let rows = grid.rows.iter().map(|row| {
        let cells = row.iter().map(|value| cell(grid, value, breaks));
        cells.collect::<Vec<_>>()
    });
    let rows: Vec<Vec<String>> = rows.collect();
    match terminal {
        Some(columns) if grid.is_answer => fitted(grid, &header, &rows, columns),
        terminal => drawn(grid, &header, &rows, terminal, ContentArrangement::Dynamic).into(),
    }
}

/// Values are cut to fit rather than wrapped, and columns for which there is no room are left out.
fn fitted(grid: &Grid, header: &[String], rows: &[Vec<String>], terminal: usize) -> Drawn {
    let widths = header.iter().enumerate().map(|(column, name)| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        let widest = cells.map(|cell| width(cell)).max();
        widest.unwrap_or(0).max(width(name)).max(1)
    });
    let widths: Vec<usize> = widths.collect();
    let (shown, cap) = fit(&widths, terminal);
    let narrow = |cells: &[String]| -> Vec<String> {
        let cells = cells.iter().take(shown);
        cells.map(|cell| cut(cell, cap).into_owned()).collect()
    };
    let cut_rows: Vec<_> = rows.iter().map(|row| narrow(row)).collect();
    let text = drawn(
        grid,
        &narrow(header),
        &cut_rows,
        Some(terminal),
        ContentArrangement::Disabled,
    );
    let mut left_out = Vec::new();
    if shown < header.len() {
        left_out.push(format!("{shown} of {} columns are shown", header.len()));
    }
    if widths.iter().take(shown).any(|width| *width > cap) {
        left_out.push("values are cut to the width of the terminal".to_owned());
    }
    Drawn {
        text,
        left_out: (!left_out.is_empty()).then(|| left_out.join(", ")),
    }
}

/// How many columns there is room for, and how wide each may be at most.
fn fit(widths: &[usize], terminal: usize) -> (usize, usize) {
    let room = |columns: usize| terminal.saturating_sub(3 * columns + 1);
    let least = |columns: usize| -> usize {
        let widths = widths[..columns].iter();
        widths.map(|width| (*width).min(COLUMN_WIDTH_MIN)).sum()
    };
    let mut shown = widths.len();
    while shown > 1 && least(shown) > room(shown) {
        shown -= 1;
    }
    let taken = |cap: usize| -> usize { widths[..shown].iter().map(|w| (*w).min(cap)).sum() };
    let widest = widths[..shown].iter().copied().max().unwrap_or(0);
    if taken(widest) <= room(shown) {
        return (shown, widest);
    }
    // Both ends are known: the one fits or is the least there is, the other does not.
    let (mut fits, mut over) = (COLUMN_WIDTH_MIN.min(room(shown).max(1)), widest);
    while over - fits > 1 {
        let middle = fits.midpoint(over);
        if taken(middle) <= room(shown) {
            fits = middle;
        } else {
            over = middle;
        }
    }
    (shown, fits)
}

fn drawn(
    grid: &Grid,
    header: &[String],
    rows: &[Vec<String>],
    terminal: Option<usize>,
    arrangement: ContentArrangement,
) -> String {
    let mut table = Table::new();
    match terminal {
        Some(columns) => {
            table.load_preset(presets::UTF8_FULL_CONDENSED);
            table.set_content_arrangement(arrangement);
            table.set_width(u16::try_from(columns).unwrap_or(u16::MAX));
        }
        None => _ = table.load_preset(presets::NOTHING),
    }
    table.set_header(header);
    for row in rows {
        table.add_row(row);
    }
    for (index, column) in table.column_iter_mut().enumerate() {
        let mut values = grid.rows.iter().filter_map(|row| row.get(index));
        if values.clone().any(Value::is_number) && values.all(|v| v.is_number() || v.is_null()) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    let lines = table.lines().map(|line| format!("{}\n", line.trim_end()));
    lines.collect()
}

/// One line for each value, whole; rows one below the other.
pub(super) fn vertical(grid: &Grid) -> String {
    let names: Vec<_> = grid
        .columns
        .iter()
        .map(|name| shown(name, Breaks::Shown))
        .collect();
    let widest = names.iter().map(|name| width(name)).max().unwrap_or(0);
    let mut text = String::new();
    for (number, row) in grid.rows.iter().enumerate() {
        text.push_str(&format!("-[ row {} ]-\n", number + 1));
        for (name, value) in names.iter().zip(row) {
            let pad = " ".repeat(widest - width(name));
            let value = cell(grid, value, Breaks::Shown);
            text.push_str(format!("{name}{pad} | {value}").trim_end());
            text.push('\n');
        }
    }
    text
}

pub(super) fn markdown(grid: &Grid) -> String {
    let line = |cells: Vec<String>| format!("| {} |\n", cells.join(" | "));
    let safe = |text: &str| text.replace('\\', "\\\\").replace('|', "\\|");
    let names = grid.columns.iter();
    let mut text = line(
        names
            .map(|name| safe(&shown(name, Breaks::Shown)))
            .collect(),
    );
    text.push_str(&line(vec!["---".to_owned(); grid.columns.len()]));
    for row in &grid.rows {
        let cells = row
            .iter()
            .map(|value| safe(&cell(grid, value, Breaks::Shown)));
        text.push_str(&line(cells.collect()));
    }
    text
}

fn cell(grid: &Grid, value: &Value, breaks: Breaks) -> String {
    match value {
        Value::Null if grid.is_answer => "NULL".to_owned(),
        Value::Null => String::new(),
        Value::String(text) => shown(text, breaks).into_owned(),
        other => shown(&other.to_string(), breaks).into_owned(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn answer(columns: usize, value: &Value) -> Grid {
        Grid {
            columns: (0..columns).map(|column| format!("c{column}")).collect(),
            rows: vec![vec![value.clone(); columns]],
            is_answer: true,
        }
    }

    #[test]
    fn null_and_empty_text_differ_in_answers() {
        let mut grid = answer(1, &Value::Null);
        grid.rows.push(vec![json!("")]);
        let text = table(&grid, None).text;
        let lines: Vec<_> = text.lines().map(str::trim).collect();
        assert_eq!(lines, ["c0", "NULL", ""]);
        assert_eq!(
            vertical(&grid),
            "-[ row 1 ]-\nc0 | NULL\n-[ row 2 ]-\nc0 |\n"
        );
        assert_eq!(markdown(&grid), "| c0 |\n| --- |\n| NULL |\n|  |\n");
        grid.is_answer = false;
        assert!(!table(&grid, None).text.contains("NULL"));
    }

    #[test]
    fn a_table_is_never_wider_than_its_terminal_and_says_what_it_left_out() {
        for columns in [1, 2, 3, 7, 40] {
            for terminal in [20, 33, 80, 200] {
                let grid = answer(columns, &json!("x".repeat(50)));
                let drawn = table(&grid, Some(terminal));
                let widest = drawn.text.lines().map(|line| line.chars().count()).max();
                assert!(
                    widest.unwrap() <= terminal,
                    "{columns} {terminal}\n{}",
                    drawn.text
                );
                let whole = 53 * columns < terminal;
                assert_eq!(drawn.left_out.is_none(), whole, "{columns} {terminal}");
                assert_eq!(drawn.text.contains('…'), !whole);
            }
        }
        let drawn = table(&answer(40, &json!("x".repeat(50))), Some(80));
        assert_eq!(
            drawn.left_out.unwrap(),
            "7 of 40 columns are shown, values are cut to the width of the terminal"
        );
    }

    #[test]
    fn one_wide_column_does_not_make_the_others_narrow() {
        assert_eq!(fit(&[3, 5, 200], 80), (3, 62));
        assert_eq!(fit(&[3, 5, 20], 80), (3, 20));
        assert_eq!(fit(&[], 80), (0, 0));
    }

    #[test]
    fn values_don_t_steer_and_don_t_break_the_frame() {
        let grid = answer(1, &json!("a\u{1b}[2J\nb|c"));
        assert!(table(&grid, Some(80)).text.contains("a\\x1b[2J\\nb|c"));
        assert!(markdown(&grid).contains("| a\\\\x1b[2J\\\\nb\\|c |"));
    }
}
