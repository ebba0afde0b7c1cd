//! `POST /v1/tables/{t}/dead-letters/replay`: dead letters through the codec again, and into the log
//! where they are good now.
//!
//! ```text
//!  letters ─► judge: table's current schema ─► bad: the reason      ─► answer
//!                         │ good
//!                         ▼
//!             table's topic, `tl-replay: bucket/offset` ══ acknowledged ══► dead-letter topic: the
//!                                                     same one with `tl-replayed-at`, `-to`
//! ```
//! A record is marked only after it is in the log. So a crash between the two replays it again if it
//! is asked for again: an append table then has it twice; an upsert table has the same row, which
//! would however replace one that came in between. Nothing is ever marked and not there.

mod judge;
mod patience;
mod request;

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use bytes::Bytes;
use serde::Serialize;
use tidelake_core::headers::dead_letter as names;
use tidelake_core::{Bucket, Offset, Token, Watermark};
use tidelake_log::{LogError, Message};
use tidelake_service::Problem;

use crate::Gateway;
use crate::body;
use crate::decode::BodyError;
use crate::log::Delivered;
use crate::problem::{self, Answer, chain};
use crate::request::Table;
use crate::tables::Reached;
use judge::{Judge, Refusal};
use patience::Patience;
use request::DeadLetter;

/// Letters of one request.
const LETTERS_MAX: usize = 1000;
/// Bytes of one request, which is held whole: one dead letter of the largest size fits.
const BODY_BYTES_MAX: usize = 32 << 20;
/// Places among the streams: the body, what is decoded of it, the messages.
const PLACES: usize = 4;

/// What became of one dead letter.
#[derive(Debug, Serialize)]
struct Outcome {
    source_bucket: i32,
    source_offset: i64,
    #[serde(flatten)]
    end: End,
}

#[derive(Debug, Serialize)]
#[serde(untagged)]
enum End {
    Replayed {
        /// Where the record stands now: `bucket/offset`.
        replayed_to: String,
        /// False: it is in the table, and its dead letter does not say so. Replayed again, it is
        /// there again.
        marked: bool,
    },
    Refused(Refusal),
}

#[derive(Debug, Serialize)]
pub(crate) struct Replayed {
    /// In the order asked.
    letters: Vec<Outcome>,
    replayed: usize,
    /// Covers the replayed records.
    token: String,
}

pub(crate) async fn replay(
    State(gateway): State<Gateway>,
    Table(id): Table,
    body: Body,
) -> Result<Json<Replayed>, Answer> {
    let table = gateway.tables.current(&id).await?;
    table.check_own()?;
    // Of a table of an older program: made now.
    gateway.tables.current(&id.dead_letters()).await?;
    let _place = gateway.admission.stream(&id.tenant, PLACES).await?;
    let body = body::whole(body, BODY_BYTES_MAX, gateway.ingest.pace()).await;
    let body = body.map_err(BodyError::Fault)?;
    let snapshot = gateway.tables.snapshot(&table, Duration::ZERO).await?;
    let judge = Judge::new(Arc::clone(&table.entry), &snapshot);
    let turn = table.next_turn();
    let judged = tokio::task::spawn_blocking(move || judged(&body, judge, turn));
    let judged = judged.await.map_err(died)??;
    // A client that goes away now leaves no dead letter replayed and not marked.
    let job = Job {
        gateway: Arc::clone(&gateway),
        topic: Arc::clone(&table.topic),
        reached: Arc::clone(&table.reached),
        dead_letters: gateway.tables.dead_letter_topic(&id),
    };
    let now = gateway.tables.current(&id).await?;
    if now.entry.topic_id != table.entry.topic_id {
        return Err(problem::table_replaced(&id)
            .hint("nothing was replayed")
            .into());
    }
    gateway.tables.check_topic(&table).await?;
    let replayed = tokio::spawn(async move { job.run(judged).await });
    let (replayed, bytes) = replayed.await.map_err(died)?;
    let count = replayed.replayed;
    gateway.metrics.accepted(&id, count as u64, bytes, count);
    Ok(Json(replayed))
}

fn died(error: tokio::task::JoinError) -> Problem {
    Problem::from_kind(tidelake_core::ErrorKind::Bug, error.to_string())
}

type Judged = Vec<(DeadLetter, Result<Bucket, Refusal>)>;

fn judged(body: &[u8], mut judge: Judge, turn: u32) -> Result<Judged, Answer> {
    let letters = request::parse(body, LETTERS_MAX)?;
    let judged = letters.into_iter().map(|letter| {
        let found = judge.place(&letter, turn)?;
        Ok((letter, found))
    });
    judged.collect()
}

/// A replay under way.
#[derive(Debug)]
struct Job {
    gateway: Gateway,
    topic: Arc<str>,
    /// Up to where the topic is known to reach.
    reached: Arc<Reached>,
    dead_letters: Arc<str>,
}

/// What waits for the log's answer.
struct Sent {
    place: usize,
    bucket: Bucket,
    /// The least offset that the record can get.
    floor: Offset,
    delivered: Delivered,
}

impl Job {
    /// Replays in order: of one key, the last dead letter wins.
    async fn run(self, judged: Judged) -> (Replayed, u64) {
        let mut patience = Patience(self.gateway.ingest.produce_timeout());
        let log = self.gateway.log.as_ref();
        let mut ends: Vec<Option<End>> = Vec::with_capacity(judged.len());
        let mut sent = Vec::new();
        let mut letters = Vec::with_capacity(judged.len());
        for (place, (letter, found)) in judged.into_iter().enumerate() {
            let end = match found {
                Err(refusal) => Some(End::Refused(refusal)),
                Ok(bucket) => {
                    let record = letter.record(Arc::clone(&self.topic), bucket);
                    let floor = self.reached.floor(bucket);
                    match patience.enqueue(log, record).await {
                        Ok(delivered) => {
                            sent.push(Sent {
                                place,
                                bucket,
                                floor,
                                delivered,
                            });
                            None
                        }
                        Err(error) => Some(End::Refused(not_taken(&error))),
                    }
                }
            };
            ends.push(end);
            letters.push(letter);
        }
        let mut token = Token::default();
        let (mut marks, mut bytes, mut replayed) = (Vec::new(), 0, 0);
        for Sent {
            place,
            bucket,
            floor,
            delivered,
        } in sent
        {
            let offset = match patience.wait(delivered).await {
                Ok(offset) if offset < floor => {
                    ends[place] = Some(End::Refused(elsewhere()));
                    continue;
                }
                Ok(offset) => offset,
                Err(error) => {
                    ends[place] = Some(End::Refused(unknown(&error)));
                    continue;
                }
            };
            token.raise(bucket, Watermark::after(offset));
            let letter = &letters[place];
            bytes += letter.value.as_ref().map_or(0, Bytes::len) as u64;
            replayed += 1;
            let replayed_to = format!("{bucket}/{offset}");
            let mark = self.mark(letter, &replayed_to);
            marks.push((place, patience.enqueue(log, mark).await));
            let marked = false;
            ends[place] = Some(End::Replayed {
                replayed_to,
                marked,
            });
        }
        for (place, mark) in marks {
            let outcome = match mark {
                Ok(delivered) => patience.wait(delivered).await.map(drop),
                Err(error) => Err(error),
            };
            match (outcome, &mut ends[place]) {
                (Ok(()), Some(End::Replayed { marked, .. })) => *marked = true,
                (Err(error), _) => {
                    let topic = &self.dead_letters;
                    let error = chain(&error);
                    tracing::warn!(%topic, error, "a replayed dead letter is not marked");
                }
                (Ok(()), _) => {}
            }
        }
        let outcomes = letters.iter().zip(ends).filter_map(|(letter, end)| {
            Some(Outcome {
                source_bucket: letter.source_bucket,
                source_offset: letter.source_offset,
                end: end?,
            })
        });
        let answer = Replayed {
            letters: outcomes.collect(),
            replayed,
            token: token.to_string(),
        };
        (answer, bytes)
    }

    /// The dead letter again, saying what became of it.
    fn mark(&self, letter: &DeadLetter, replayed_to: &str) -> Message {
        let now_ms = self.gateway.tables.now_ms();
        let mut message = letter.again(Arc::clone(&self.dead_letters), &self.topic);
        let more = [
            (names::REPLAYED_AT, now_ms.to_string()),
            (names::REPLAYED_TO, replayed_to.to_owned()),
        ];
        let more = more.map(|(name, text)| (name.into(), Bytes::from(text.into_bytes())));
        message.headers.extend(more);
        message
    }
}

/// The record is not in the log.
fn not_taken(error: &LogError) -> Refusal {
    tracing::warn!(error = chain(error), "a dead letter was not replayed");
    if let Some(kept_out) = kept_out(error) {
        return kept_out;
    }
    Refusal::new("LOG_UNAVAILABLE", "the log does not take the record")
}

/// The record is in a topic that was made again, or cut back.
fn elsewhere() -> Refusal {
    let reason = "the table's topic is another one by now, or was cut back: the record is in it, \
                  and may be in the table or not";
    Refusal::new(tidelake_service::codes::TOPIC_REPLACED, reason)
}

/// The topic takes no such record: none is in the log, and replaying it again is in vain.
fn kept_out(error: &LogError) -> Option<Refusal> {
    let LogError::Refused { topic, because, .. } = error else {
        return None;
    };
    let (what, cure) = problem::of_refusal(topic, *because);
    let reason = format!("topic {topic} does not take the record: {what}; {cure}");
    let code = tidelake_service::codes::TOPIC_REFUSES;
    Some(Refusal::new(code, &reason))
}

/// The record may be in the log, unless the topic says that it takes none such.
fn unknown(error: &LogError) -> Refusal {
    tracing::warn!(
        error = chain(error),
        "a replayed dead letter was not acknowledged"
    );
    if let Some(kept_out) = kept_out(error) {
        return kept_out;
    }
    let reason = "the log did not acknowledge the record: it may be in the table or not";
    Refusal::new("LOG_UNAVAILABLE", reason)
}

const _: () = assert!(BODY_BYTES_MAX > tidelake_core::limits::MESSAGE_BYTES_MAX / 3 * 4);
