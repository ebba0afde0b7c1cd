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

/// Tells of an answer whose rows were cut at the number that was asked for.
const TRUNCATED: &str = "x-truncated";
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
    let mut truncated = response
        .headers()
        .get(TRUNCATED)
        .is_some_and(|value| value == "true");
    match format {
        format if format.is_drawn() => {
            let answer = json_of(response).await?;
            let came = begun.elapsed();
            draw(&answer, format, screen, came)?;
            return Ok(came);
        }
        Format::Json => {
            let out = &mut *screen.stream(Some(Means::Json))?;
            truncated |= lines(response, &mut Array::default(), out).await?;
        }
        Format::Ndjson => {
            let out = &mut *screen.stream(Some(Means::Json))?;
            truncated |= lines(response, &mut AsTheyAre, out).await?;
        }
        Format::Csv => pass(response, &mut *screen.stream(Some(Means::Text))?).await?,
        _ => pass(response, &mut *screen.stream(None)?).await?,
    }
    if truncated {
        screen.note("there are more rows: a higher --max-rows shows them");
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
        out.write_all(&chunk.map_err(|error| cut_short(&error, b""))?)?;
        // However fast the rest comes: whoever interrupts is heard.
        tokio::task::yield_now().await;
    }
    Ok(out.flush()?)
}

/// What becomes of lines, each of which is an object.
trait Lines {
    fn write(&mut self, lines: &[u8], out: &mut dyn Write) -> Result<(), Failure>;
    /// There are no more, and none is missing.
    fn end(&mut self, _out: &mut dyn Write) -> Result<(), Failure> {
        Ok(())
    }
}

struct AsTheyAre;

impl Lines for AsTheyAre {
    fn write(&mut self, lines: &[u8], out: &mut dyn Write) -> Result<(), Failure> {
        Ok(out.write_all(lines)?)
    }
}

/// The elements of one array.
#[derive(Default)]
struct Array {
    begun: bool,
}

impl Lines for Array {
    fn write(&mut self, lines: &[u8], out: &mut dyn Write) -> Result<(), Failure> {
        for line in lines.split(|byte| *byte == b'\n') {
            if line.iter().all(u8::is_ascii_whitespace) {
                continue;
            }
            out.write_all(if self.begun { b",\n  " } else { b"[\n  " })?;
            out.write_all(line)?;
            self.begun = true;
        }
        Ok(())
    }

    fn end(&mut self, out: &mut dyn Write) -> Result<(), Failure> {
        Ok(out.write_all(if self.begun { b"\n]\n" } else { b"[]\n" })?)
    }
}

/// Lines as they come. The last one is held back until it is known to be a row: of an answer that is
/// cut short it may say why, of one that ends at the wished number of rows that there are more. True
/// where it says the latter.
async fn lines(
    response: Response,
    lines: &mut dyn Lines,
    out: &mut dyn Write,
) -> Result<bool, Failure> {
    let mut stream = response.bytes_stream();
    let (mut held, mut written) = (Vec::new(), 0);
    while let Some(chunk) = stream.next().await {
        match chunk {
            Ok(chunk) => held.extend_from_slice(&chunk),
            Err(error) => {
                let failure = cut_short(&error, &held);
                lines.write(whole(&held), out)?;
                out.flush()?;
                return Err(failure);
            }
        }
        let known = last_line(&held);
        lines.write(&held[..known], out)?;
        written += held[..known].iter().filter(|byte| **byte == b'\n').count();
        held.drain(..known);
        if held.len() > LINE_BYTES_MAX {
            let message = format!("a row of the answer has more than {LINE_BYTES_MAX} bytes");
            return Err(Failure::failed(message));
        }
        tokio::task::yield_now().await;
    }
    let truncated = is_truncation(&held, written);
    if !truncated {
        lines.write(&held, out)?;
    }
    lines.end(out)?;
    out.flush()?;
    Ok(truncated)
}

/// True for a line `{"truncated":{"rows":N}}` behind as many rows.
fn is_truncation(line: &[u8], rows: usize) -> bool {
    let told: Value = serde_json::from_slice(line).unwrap_or_default();
    told == serde_json::json!({"truncated": {"rows": rows}})
}

/// Where the last whole line begins.
fn last_line(text: &[u8]) -> usize {
    let is_end = |byte: &u8| *byte == b'\n';
    let end = text.iter().rposition(is_end).unwrap_or(0);
    text[..end].iter().rposition(is_end).map_or(0, |at| at + 1)
}

/// The whole lines; what is behind them was torn.
fn whole(text: &[u8]) -> &[u8] {
    let end = text.iter().rposition(|byte| *byte == b'\n');
    &text[..end.map_or(0, |at| at + 1)]
}

/// An answer without its end. `last` is where its last line may say why.
fn cut_short(error: &reqwest::Error, last: &[u8]) -> Failure {
    let told = whole(last).split(|byte| *byte == b'\n').next();
    let told: Value = serde_json::from_slice(told.unwrap_or_default()).unwrap_or_default();
    Failure::failed(match why(&told) {
        Some(why) => format!("the answer was cut short: {why}"),
        None => format!("the answer was cut short: {}", chain(error)),
    })
}

/// What a line `{"error":{"code","title","detail"}}` says, and no row with such a column.
fn why(line: &Value) -> Option<String> {
    let error = line
        .get("error")
        .filter(|_| line.as_object().is_some_and(|map| map.len() == 1))?;
    let part = |name: &str| error[name].as_str().filter(|part| !part.is_empty());
    let told = part("detail").or_else(|| part("title"))?;
    Some(format!("{told} ({})", part("code")?))
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

    /// Answers `text`, whole or cut off behind it.
    async fn answered(text: &str, is_whole: bool) -> Response {
        let length = text.len() + usize::from(!is_whole);
        let reply = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n{text}");
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move {
            use tokio::io::{AsyncReadExt, AsyncWriteExt};
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 4096];
            let _length = stream.read(&mut request).await.unwrap();
            stream.write_all(reply.as_bytes()).await.unwrap();
        });
        reqwest::get(url).await.unwrap()
    }

    async fn shown(format: Format, text: &str, is_whole: bool) -> (Option<String>, String) {
        let mut screen = Kept::default();
        let response = answered(text, is_whole).await;
        let done = show(response, format, &mut screen, crate::moment::now()).await;
        let failure = done.err().map(|failure| failure.message);
        (failure, String::from_utf8(screen.answers).unwrap())
    }

    #[tokio::test]
    async fn lines_become_an_array() {
        let rows = "{\"a\":1}\n{\"a\":2}\n";
        let array = "[\n  {\"a\":1},\n  {\"a\":2}\n]\n";
        assert_eq!(
            shown(Format::Json, rows, true).await,
            (None, array.to_owned())
        );
        assert_eq!(
            shown(Format::Json, "", true).await,
            (None, "[]\n".to_owned())
        );
        assert_eq!(
            shown(Format::Ndjson, rows, true).await,
            (None, rows.to_owned())
        );
        assert_eq!(
            shown(Format::Csv, "a\n1\n", true).await,
            (None, "a\n1\n".to_owned())
        );
    }

    #[tokio::test]
    async fn the_line_that_tells_of_more_rows_is_no_row() {
        let rows = "{\"a\":1}\n{\"a\":2}\n";
        let told = format!("{rows}{{\"truncated\":{{\"rows\":2}}}}\n");
        let (_, text) = shown(Format::Ndjson, &told, true).await;
        assert_eq!(text, rows);
        let (_, text) = shown(Format::Json, &told, true).await;
        assert_eq!(text, "[\n  {\"a\":1},\n  {\"a\":2}\n]\n");
        // A row with such a column that tells another number is a row.
        let row = format!("{rows}{{\"truncated\":{{\"rows\":7}}}}\n");
        assert_eq!(shown(Format::Ndjson, &row, true).await.1, row);
    }

    #[tokio::test]
    async fn an_answer_that_is_cut_short_fails_and_does_not_look_whole() {
        let (failure, text) = shown(Format::Json, "{\"a\":1}\n{\"a\":2", false).await;
        assert!(failure.unwrap().starts_with("the answer was cut short: "));
        assert_eq!(text, "[\n  {\"a\":1}");
        let why = "{\"error\":{\"code\":\"TIMED_OUT\",\"title\":\"x\",\"detail\":\"too slow\"}}\n";
        let (failure, _) = shown(Format::Ndjson, &format!("{{\"a\":1}}\n{why}"), false).await;
        assert_eq!(
            failure.unwrap(),
            "the answer was cut short: too slow (TIMED_OUT)"
        );
        let (failure, _) = shown(Format::Csv, "a\n1\n", false).await;
        assert!(failure.is_some());
    }

    #[test]
    fn the_last_whole_line_is_held_back() {
        for (text, begins) in [
            ("", 0),
            ("a", 0),
            ("a\n", 0),
            ("a\nb", 0),
            ("a\nb\n", 2),
            ("a\nb\nc", 2),
        ] {
            assert_eq!(last_line(text.as_bytes()), begins, "{text:?}");
        }
    }
}
