//! One body to the gateway: sent again where nothing of it was written, and never else.

use std::time::Duration;

use reqwest::{Method, StatusCode, header};
use serde_json::Value;
use tidelake_core::{TableName, Token};

use super::Body;
use crate::client::{Client, json_of, of_problem, unreachable};
use crate::failure::Failure;
use crate::moment;

/// A gateway that is away or busy for longer ends the command.
const PATIENCE: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(10);

/// What the records of a file are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub(crate) enum Op {
    #[default]
    Upsert,
    /// Keys of rows that are to go; of other columns nothing counts
    Delete,
}

/// Why a body was not taken.
struct Refused {
    failure: Failure,
    /// Nobody was there to refuse it.
    away: bool,
    /// How long to wait before it is sent again; none where it must not be.
    again: Option<Duration>,
    /// Certainly nothing of it was written.
    unwritten: bool,
}

/// `POST /v1/tables/{t}/records`, again and again while nothing is written and patience lasts. A
/// gateway that is away before anything went in (not `resumed`) is not waited for. `waiting` is told
/// each new reason to wait. With the failure it is told whether certainly nothing was written.
pub(super) async fn post_patiently(
    client: &Client,
    table: &TableName,
    op: Op,
    body: Body,
    resumed: bool,
    waiting: impl Fn(&str),
) -> Result<Value, (Failure, bool)> {
    let begun = moment::now();
    let mut told = String::new();
    loop {
        let refused = match post(client, table, op, body.clone()).await {
            Ok(answer) => return Ok(answer),
            Err(refused) => refused,
        };
        match refused.again {
            _ if refused.away && !resumed => return Err((refused.failure, true)),
            Some(pause) if begun.elapsed() + pause < PATIENCE => {
                if told != refused.failure.message {
                    waiting(&refused.failure.message);
                    told = refused.failure.message;
                }
                moment::pause(pause).await;
            }
            _ => return Err((refused.failure, refused.unwritten)),
        }
    }
}

/// One attempt at a body of upserts.
pub(crate) async fn post_body(
    client: &Client,
    table: &TableName,
    body: Body,
) -> Result<Value, Failure> {
    let posted = post(client, table, Op::Upsert, body).await;
    posted.map_err(|refused| refused.failure)
}

async fn post(client: &Client, table: &TableName, op: Op, body: Body) -> Result<Value, Refused> {
    let path = match op {
        Op::Upsert => format!("/v1/tables/{table}/records"),
        Op::Delete => format!("/v1/tables/{table}/records?op=delete"),
    };
    let request = client
        .gateway(Method::POST, &path)
        .header(header::CONTENT_TYPE, body.media_type)
        .body(body.bytes);
    let response = request.send().await.map_err(|error| Refused {
        // Without a connection nothing was sent.
        again: error.is_connect().then_some(PAUSE),
        away: error.is_connect(),
        unwritten: error.is_connect(),
        failure: match error.is_connect() {
            true => unreachable(&error),
            false => unreachable(&error).hint(UNKNOWN),
        },
    })?;
    let status = response.status();
    if status.is_success() {
        let answer = json_of(response).await;
        return answer.map_err(|failure| Refused {
            failure,
            away: false,
            again: None,
            unwritten: false,
        });
    }
    let pause = response.headers().get(header::RETRY_AFTER);
    let pause = pause.and_then(|after| after.to_str().ok()?.parse().ok());
    let pause = pause.map_or(PAUSE, Duration::from_secs).min(PAUSE_MAX);
    let text = response.text().await.unwrap_or_default();
    let problem: Value = serde_json::from_str(&text).unwrap_or_default();
    let failure = of_problem(status, &text);
    Err(Refused {
        unwritten: status.is_client_error() || nothing_written(status, &problem),
        away: false,
        failure: in_file(failure, problem["row"].as_u64(), body.first_record),
        again: nothing_written(status, &problem).then_some(pause),
    })
}

const UNKNOWN: &str = "some or all records of this body may be in the table: sending them again \
                       may repeat them";

/// True where the gateway says so, and that it may be otherwise later.
fn nothing_written(status: StatusCode, problem: &Value) -> bool {
    let passes = matches!(
        status,
        StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE
    );
    let says = |part: &str| {
        problem[part]
            .as_str()
            .unwrap_or("")
            .contains("nothing was written")
    };
    passes && (says("hint") || says("detail"))
}

/// The gateway counts rows from the start of the body; a person looks them up in the file.
fn in_file(mut failure: Failure, row: Option<u64>, first_record: u64) -> Failure {
    if let Some(row) = row {
        let record = format!("record {}", first_record + row);
        failure.message = match failure.message.strip_prefix(&format!("row {row}")) {
            Some(rest) => format!("{record}{rest}"),
            None => format!("{record}: {}", failure.message),
        };
    }
    failure
}

pub(super) fn token_of(answer: &Value) -> Result<Token, Failure> {
    let text = answer["token"].as_str().unwrap_or_default();
    Token::parse(text).map_err(|error| Failure::failed(error.to_string()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::testing::{Reply, service};

    fn body() -> Body {
        Body {
            bytes: "{}".into(),
            media_type: "application/json",
            first_record: 0,
            file_bytes: 2,
        }
    }

    /// Posts one body of deletes to a gateway that refuses it twice, and tells what came of it and
    /// how often it was sent.
    async fn posted(hint: &'static str) -> (Result<Value, (Failure, bool)>, Vec<String>) {
        let refusals = std::sync::atomic::AtomicUsize::new(2);
        let (url, asked) = service(move |_, _| {
            let order = std::sync::atomic::Ordering::SeqCst;
            let left = refusals.fetch_update(order, order, |left| left.checked_sub(1));
            Some(match left {
                Ok(_) => Reply::new(
                    "503 Service Unavailable",
                    &json!({ "hint": hint, "detail": "x" }),
                )
                .with("retry-after: 0\r\n"),
                Err(_) => Reply::new("200 OK", &json!({ "records": 1 })),
            })
        })
        .await;
        let client = Client::to(url.clone(), url, None).unwrap();
        let body = body();
        let table = TableName::new("t").unwrap();
        let answer = post_patiently(&client, &table, Op::Delete, body, false, |_| {}).await;
        let asked = asked.lock().unwrap().clone();
        (
            answer,
            asked.into_iter().map(|(request, _)| request).collect(),
        )
    }

    #[tokio::test]
    async fn a_body_of_which_nothing_was_written_is_sent_again() {
        let (answer, asked) = posted("nothing was written: send it again later").await;
        assert_eq!(answer.unwrap()["records"], 1);
        assert_eq!(asked, ["POST /v1/tables/t/records?op=delete"; 3]);
    }

    #[tokio::test]
    async fn a_gateway_that_never_was_there_is_not_waited_for() {
        let nowhere = "http://127.0.0.1:1".to_owned();
        let client = Client::to(nowhere.clone(), nowhere, None).unwrap();
        let table = TableName::new("t").unwrap();
        let waiting = |why: &str| panic!("{why}");
        let answer = post_patiently(&client, &table, Op::Upsert, body(), false, waiting).await;
        assert_eq!(
            answer.unwrap_err().0.message,
            "nothing answers at http://127.0.0.1:1"
        );
    }

    #[tokio::test]
    async fn a_body_that_may_be_in_the_table_is_not_sent_again() {
        let (answer, asked) = posted("some or all records may be in the table").await;
        let (failure, unwritten) = answer.unwrap_err();
        assert_eq!((failure.message.as_str(), unwritten), ("x", false));
        assert_eq!(asked.len(), 1);
    }

    #[test]
    fn a_refused_row_is_named_by_its_place_in_the_file() {
        let told = |message: &str, row| in_file(Failure::failed(message), row, 2400).message;
        assert_eq!(
            told("row 7, field \"x\": expected int", Some(7)),
            "record 2407, field \"x\": expected int"
        );
        assert_eq!(told("too long", Some(7)), "record 2407: too long");
        assert_eq!(told("the log is away", None), "the log is away");
    }

    #[test]
    fn only_what_was_not_written_is_sent_again() {
        let nothing = json!({ "hint": "nothing was written: send it again later" });
        let unknown = json!({ "hint": "some or all records may be in the table" });
        assert!(nothing_written(StatusCode::SERVICE_UNAVAILABLE, &nothing));
        assert!(!nothing_written(StatusCode::SERVICE_UNAVAILABLE, &unknown));
        assert!(!nothing_written(StatusCode::CONFLICT, &nothing));
    }
}
