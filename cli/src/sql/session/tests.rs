use std::collections::VecDeque;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::*;
use crate::sql::screen::Kept;
use crate::testing::{self, Asked, Reply};

/// A query service of canned answers: it gives back the statement, fails where that says so, and
/// never answers one that says `slow`.
async fn service() -> (String, Asked) {
    testing::service(|_, body| {
        let sql = body["sql"].as_str().unwrap_or_default();
        if sql.contains("slow") {
            return None;
        }
        Some(match sql.contains("bad") {
            true => {
                let problem = json!({ "detail": "no \u{1b}[2J", "code": "SQL_INVALID" });
                Reply::new("400 Bad Request", &problem)
            }
            false => {
                let answer = json!({ "columns": [{ "name": "sql" }], "rows": [[sql]] });
                Reply::new("200 OK", &answer)
            }
        })
    })
    .await
}

/// So often a watched statement is asked before it is interrupted.
const WATCHED: usize = 3;

struct Given(VecDeque<Line>);

impl Lines for Given {
    fn next(&mut self) -> Result<Line, Failure> {
        Ok(self.0.pop_front().unwrap_or(Line::End))
    }
}

/// Runs a session over these lines; what came of it, and what was shown, told and asked.
async fn session(
    interactive: bool,
    lines: &[&str],
) -> (Result<(), Failure>, String, Vec<String>, Vec<Value>) {
    let (url, asked) = service().await;
    let client = Client::to(url.clone(), url, None).unwrap();
    let (sender, receiver) = mpsc::channel(1);
    let mut screen = Kept::default();
    let interrupts = Interrupts::of_channel(receiver);
    let (reads, format) = (ReadArgs::default(), Format::Table);
    let mut session = Session::new(client, reads, format, &mut screen, interrupts);
    session.interactive = interactive;
    let text = |line: &&str| match *line {
        "^C" => Line::Dropped,
        line => Line::Text(line.to_owned()),
    };
    let mut given = Given(lines.iter().map(text).collect());
    let done = {
        // Ctrl-C as soon as a statement that waits for it is under way.
        let watched = Arc::clone(&asked);
        let interrupt = async move {
            let mut looks = tokio::time::interval(Duration::from_millis(5));
            loop {
                looks.tick().await;
                let due = {
                    let asked = watched.lock().unwrap();
                    let times = |sql| asked.iter().filter(|(_, body)| body["sql"] == sql).count();
                    times("slow") > 0 || times("watched") >= WATCHED
                };
                if due {
                    let _full = sender.try_send(());
                    return std::future::pending::<()>().await;
                }
            }
        };
        let run = session.run(&mut given);
        tokio::select! {
            done = run => done,
            () = interrupt => unreachable!("it waits for ever"),
        }
    };
    let asked = asked.lock().unwrap();
    let words = |body: &Value| {
        let sql = body["sql"].as_str().unwrap_or_default();
        sql.contains("information_schema")
    };
    let bodies = asked.iter().filter(|(_, body)| !words(body));
    let bodies = bodies.map(|(request, body)| match body.is_null() {
        true => json!(request),
        false => body.clone(),
    });
    let shown = String::from_utf8(screen.answers).unwrap();
    (done, shown, screen.notes, bodies.collect())
}

fn statements(bodies: &[Value]) -> Vec<&str> {
    bodies
        .iter()
        .filter_map(|body| body["sql"].as_str())
        .collect()
}

#[tokio::test]
async fn a_script_runs_every_statement_the_last_one_without_its_end() {
    let lines = ["SELECT 1; SELECT", " 2;\n", "-- done\n", "SELECT 3"];
    let (done, shown, _, asked) = session(false, &lines).await;
    done.unwrap();
    assert_eq!(statements(&asked), ["SELECT 1", "SELECT\n 2", "SELECT 3"]);
    assert!(shown.contains("SELECT\\n 2"), "{shown}");
    // A script is answered whole.
    assert!(asked.iter().all(|body| body["max_rows"].is_null()));
}

#[tokio::test]
async fn a_script_ends_with_its_first_error_and_names_its_line() {
    let (done, _, _, asked) = session(false, &["SELECT 1;\n", "\n", "bad; SELECT 2;"]).await;
    let failure = done.unwrap_err();
    assert_eq!(failure.exit, Exit::Failed);
    assert!(
        failure.message.starts_with("line 3: no "),
        "{}",
        failure.message
    );
    assert_eq!(statements(&asked), ["SELECT 1", "bad"]);
    let (done, ..) = session(false, &["SELECT 'x"]).await;
    assert_eq!(
        done.unwrap_err().message,
        "line 1: the statement's ' is not closed"
    );
    let (done, ..) = session(false, &["\\nothing"]).await;
    assert!(done.unwrap_err().message.contains("no command \\nothing"));
}

#[tokio::test]
async fn a_person_goes_on_after_an_error_which_steers_no_terminal() {
    let (done, shown, notes, asked) = session(true, &["bad;", "SELECT 1;"]).await;
    done.unwrap();
    assert_eq!(statements(&asked), ["bad", "SELECT 1"]);
    assert_eq!(notes[0], "error: no \\x1b[2J (SQL_INVALID)");
    assert!(shown.contains("SELECT 1"));
    assert_eq!(asked[1]["max_rows"], json!(ROWS_SHOWN));
}

#[tokio::test]
async fn ctrl_c_cancels_the_statement_and_not_the_session() {
    let (done, shown, notes, asked) = session(true, &["slow;", "SELECT 1;"]).await;
    done.unwrap();
    assert_eq!(notes[0], "error: cancelled");
    assert!(shown.contains("SELECT 1"));
    let cancelled = asked.iter().filter_map(Value::as_str);
    let cancelled: Vec<_> = cancelled.collect();
    assert_eq!(cancelled.len(), 1, "{asked:?}");
    assert!(cancelled[0].starts_with("DELETE /v1/queries/cli-"));
    // A script ends.
    let (done, _, _, asked) = session(false, &["slow;", "SELECT 1;"]).await;
    assert_eq!(done.unwrap_err().message, "line 1: cancelled");
    assert_eq!(statements(&asked), ["slow"]);
    // At the prompt it drops what was typed.
    let (done, _, _, asked) = session(true, &["SELECT 'x", "^C", "SELECT 2;"]).await;
    done.unwrap();
    assert_eq!(statements(&asked), ["SELECT 2"]);
}

#[tokio::test]
async fn commands_change_how_answers_look() {
    let lines = [
        "\\x on",
        "SELECT 1;",
        "\\rows 5",
        "\\timing",
        "SELECT 2;",
        "\\f csv",
        "\\q",
        "x;",
    ];
    let (done, shown, notes, asked) = session(true, &lines).await;
    done.unwrap();
    assert!(
        shown.starts_with("-[ row 1 ]-\nsql | SELECT 1\n"),
        "{shown}"
    );
    assert_eq!(statements(&asked), ["SELECT 1", "SELECT 2"]);
    assert_eq!(asked[1]["max_rows"], json!(5));
    assert!(
        notes.iter().any(|note| note.starts_with("time: ")),
        "{notes:?}"
    );
}

#[tokio::test]
async fn a_watched_statement_runs_until_ctrl_c() {
    let (done, _, notes, asked) = session(true, &["watched\n\\watch 0.1", "SELECT 1;"]).await;
    done.unwrap();
    let statements = statements(&asked);
    let times = statements.iter().filter(|sql| **sql == "watched").count();
    assert!(times >= WATCHED, "{statements:?}");
    assert_eq!(statements.last(), Some(&"SELECT 1"));
    assert!(notes[0].ends_with("UTC, every 0.1 s"), "{notes:?}");
}

#[tokio::test]
async fn statements_are_asked_in_the_zone_of_the_session() {
    let lines = [
        "SELECT 1;\n\\timezone Europe/Berlin\nSELECT 2;\n",
        "\\timezone\n",
    ];
    let (done, _, notes, asked) = session(true, &lines).await;
    done.unwrap();
    let zones: Vec<&Value> = asked.iter().map(|body| &body["time_zone"]).collect();
    // The second one asks whether the service knows the zone.
    let berlin = json!("Europe/Berlin");
    assert_eq!(zones, [&Value::Null, &berlin, &berlin]);
    assert_eq!(statements(&asked), ["SELECT 1", "SELECT 1", "SELECT 2"]);
    let told = notes.iter().filter(|note| note.starts_with("time zone"));
    let told: Vec<&String> = told.collect();
    assert_eq!(told, ["time zone: Europe/Berlin"; 2]);
    // A script that asks is told, too.
    let lines = ["\\timezone\n\\timezone Europe/Berlin\n"];
    let (done, shown, notes, _) = session(false, &lines).await;
    done.unwrap();
    assert_eq!(notes, ["time zone: UTC", "time zone: Europe/Berlin"]);
    assert_eq!(shown, "");
}
