//! `tidelake sql` in front of a person: a pseudo terminal, and a query service of canned answers.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

/// Requests so far: method and path.
type Asked = Arc<Mutex<Vec<String>>>;

/// Serves until the process ends. A statement that says `slow` gets no answer, and the file is made.
fn service(asked: &Asked, slow: PathBuf) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let url = format!("http://{}", listener.local_addr().expect("it is bound"));
    let asked = Arc::clone(asked);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (asked, slow) = (Arc::clone(&asked), slow.clone());
            std::thread::spawn(move || converse(stream.expect("a connection"), &asked, &slow));
        }
    });
    url
}

fn converse(stream: TcpStream, asked: &Asked, slow: &Path) {
    let mut stream = BufReader::new(stream);
    loop {
        let (mut request, mut length) = (String::new(), 0);
        loop {
            let mut line = String::new();
            if stream.read_line(&mut line).unwrap_or(0) == 0 {
                return;
            }
            let lower = line.to_ascii_lowercase();
            if let Some(value) = lower.strip_prefix("content-length:") {
                length = value.trim().parse().expect("a length");
            }
            match line.as_str() {
                "\r\n" => break,
                line if request.is_empty() => request = line.trim_end().to_owned(),
                _ => {}
            }
        }
        let mut body = vec![0; length];
        stream.read_exact(&mut body).expect("a body");
        let body: Value = serde_json::from_slice(&body).unwrap_or_default();
        let sql = body["sql"].as_str().unwrap_or_default();
        asked.lock().expect("nobody panics").push(request);
        let rows = match sql {
            sql if sql.contains("slow") => {
                std::fs::write(slow, "").expect("the file is made");
                continue;
            }
            sql if sql.contains("information_schema") => json!([["orders", "id"]]),
            _ => json!([["\u{1b}]0;owned\u{7}", sql]]),
        };
        let columns = json!([{ "name": "a" }, { "name": "b" }]);
        let text = json!({ "columns": columns, "rows": rows }).to_string();
        let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", text.len());
        let stream = stream.get_mut();
        let written = stream.write_all((head + &text).as_bytes());
        written.expect("the client listens");
    }
}

#[test]
fn a_person_types_completes_cancels_and_quits() {
    let home = tempfile::tempdir().unwrap();
    let slow = home.path().join("slow");
    let asked = Asked::default();
    let url = service(&asked, slow.clone());
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/shell.py");
    let ended = Command::new("python3")
        .arg(script)
        .args([env!("CARGO_BIN_EXE_tidelake"), &url])
        .args([&slow, home.path()])
        .output()
        .expect("python3 is there");
    let told = String::from_utf8_lossy(&ended.stderr);
    assert_eq!(ended.status.code(), Some(0), "{told}");
    let asked = asked.lock().unwrap();
    let cancels = asked
        .iter()
        .filter(|request| request.starts_with("DELETE /v1/queries/cli-"));
    assert_eq!(cancels.count(), 1, "{asked:?}");
    let history = home.path().join(".local/state/tidelake/history");
    let history = std::fs::read_to_string(history).unwrap();
    assert!(history.contains("SELECT evil\\nFROM orders;"), "{history}");
}
