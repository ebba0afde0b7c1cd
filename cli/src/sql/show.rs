//! The answer of a statement on its way to a screen.
//!
//! What is drawn for people is read whole, which the service bounds. Everything else is passed on as
//! it comes, however much it is.

use std::io::Write;
use std::time::{Duration, Instant};

use futures::StreamExt;
use reqwest::Response;
use serde_json::Value;

use super::screen::Screen;
use crate::client::json_of;
use crate::failure::{Failure, chain};
use crate::output::{Drawn, Format, Grid, Means, thousands};

/// Bytes of one line of an answer in JSON: the service's own bound on a document.
const LINE_BYTES_MAX: usize = 64 << 20;

/// Shows an answer; `begun` is when it was asked for. Tells when the last of it had come, whatever
/// a person then does with a pager.
pub(crate) async fn show(
    response: Response,
    format: Format,
    screen: &mut dyn Screen,
    begun: Instant,
) -> Result<Duration, Failure> {
    match format {
        format if format.is_drawn() => {
            let answer = json_of(response).await?;
            let came = begun.elapsed();
            draw(&answer, format, screen, came)?;
            return Ok(came);
        }
        Format::Json => array(response, &mut *screen.stream(Some(Means::Json))?).await?,
        Format::Ndjson => pass(response, &mut *screen.stream(Some(Means::Json))?).await?,
        Format::Csv => pass(response, &mut *screen.stream(Some(Means::Text))?).await?,
        _ => pass(response, &mut *screen.stream(None)?).await?,
    }
    Ok(begun.elapsed())
}

fn draw(
    answer: &Value,
    format: Format,
    screen: &mut dyn Screen,
    came: Duration,
) -> Result<(), Failure> {
    let grid = Grid::of_query(answer);
    let columns = screen.terminal().map(|size| size.columns);
    let Drawn { text, left_out } = grid.render(format, columns)?;
    screen.show(&text)?;
    screen.note(&footer(&grid, answer, came));
    if let Some(left_out) = left_out {
        screen.note(&format!("{left_out}: \\x or -o vertical shows all"));
    }
    Ok(())
}

fn footer(grid: &Grid, answer: &Value, came: Duration) -> String {
    let rows = grid.rows.len();
    let elapsed = answer["elapsed_ms"]
        .as_f64()
        .unwrap_or(came.as_secs_f64() * 1000.0);
    let mut text = format!(
        "{} row{} in {elapsed:.0} ms",
        thousands(rows as u64),
        if rows == 1 { "" } else { "s" }
    );
    for (table, version) in answer["version"].as_object().into_iter().flatten() {
        text.push_str(&format!(", {table} at version {version}"));
    }
    if answer["truncated"] == true {
        text.push_str("; there are more: \\rows 0 or a higher --max-rows shows them");
    }
    text
}

/// The answer's bytes as they come.
async fn pass(response: Response, out: &mut dyn Write) -> Result<(), Failure> {
    let mut stream = response.bytes_stream();
    while let Some(chunk) = stream.next().await {
        out.write_all(&chunk.map_err(|error| cut_short(&error))?)?;
    }
    Ok(out.flush()?)
}

/// Lines of objects as one array.
async fn array(response: Response, out: &mut dyn Write) -> Result<(), Failure> {
    let mut stream = response.bytes_stream();
    let (mut held, mut first) = (Vec::new(), true);
    while let Some(chunk) = stream.next().await {
        held.extend_from_slice(&chunk.map_err(|error| cut_short(&error))?);
        let Some(end) = held.iter().rposition(|byte| *byte == b'\n') else {
            if held.len() > LINE_BYTES_MAX {
                let message = format!("a row of the answer has more than {LINE_BYTES_MAX} bytes");
                return Err(Failure::failed(message));
            }
            continue;
        };
        let rest = held.split_off(end + 1);
        elements(&held, &mut first, out)?;
        held = rest;
    }
    elements(&held, &mut first, out)?;
    out.write_all(if first { b"[]\n" } else { b"\n]\n" })?;
    Ok(out.flush()?)
}

fn elements(lines: &[u8], first: &mut bool, out: &mut dyn Write) -> Result<(), Failure> {
    for line in lines.split(|byte| *byte == b'\n') {
        if line.iter().all(u8::is_ascii_whitespace) {
            continue;
        }
        out.write_all(if *first { b"[\n  " } else { b",\n  " })?;
        out.write_all(line)?;
        *first = false;
    }
    Ok(())
}

fn cut_short(error: &reqwest::Error) -> Failure {
    Failure::failed(format!("the answer was cut short: {}", chain(error)))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::sql::screen::{Kept, Size};

    #[test]
    fn the_footer_names_the_versions_and_what_was_cut() {
        let mut answer = json!({
            "columns": [{ "name": "n" }], "rows": [[1]],
            "elapsed_ms": 12.4, "version": { "flights": 7 },
        });
        let text = |answer: &Value| footer(&Grid::of_query(answer), answer, Duration::ZERO);
        assert_eq!(text(&answer), "1 row in 12 ms, flights at version 7");
        answer["truncated"] = json!(true);
        assert!(text(&answer).contains("; there are more: \\rows 0"));
    }

    #[test]
    fn what_does_not_fit_is_cut_and_told() {
        let answer = json!({ "columns": [{ "name": "n" }], "rows": [["x".repeat(100)]] });
        let mut screen = Kept {
            size: Some(Size {
                columns: 40,
                rows: 10,
            }),
            ..Kept::default()
        };
        draw(&answer, Format::Table, &mut screen, Duration::ZERO).unwrap();
        let text = String::from_utf8(screen.answers).unwrap();
        assert!(
            text.lines().all(|line| line.chars().count() <= 40),
            "{text}"
        );
        assert!(
            screen.notes[1].contains("values are cut"),
            "{:?}",
            screen.notes
        );
    }

    #[test]
    fn lines_become_an_array_wherever_they_are_cut() {
        let written = |parts: &[&str]| {
            let (mut out, mut first) = (Vec::new(), true);
            for part in parts {
                elements(part.as_bytes(), &mut first, &mut out).unwrap();
            }
            String::from_utf8(out).unwrap()
        };
        assert_eq!(
            written(&["{\"a\":1}\n{\"a\":2}\n", "", "\n"]),
            "[\n  {\"a\":1},\n  {\"a\":2}"
        );
    }
}
