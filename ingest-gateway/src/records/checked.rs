//! A body's records checked, in the room that its kind needs.
//!
//! They are checked by the schema of the table's own log. Another engine may have changed it a
//! moment ago, so no record is refused by a schema that was not the latest when the record came:
//! the log is looked at anew before a refusal, and a body that is still at hand is checked again.

use std::sync::Arc;

use axum::body::Body;
use tidelake_catalog::TableMode;
use tidelake_service::Problem;

use super::shape::Shape;
use crate::Gateway;
use crate::admission::{Overloaded, Place};
use crate::body::{self, Chunks, Coding, Fault};
use crate::decode::{self, BodyError, Decoded, Format, Operation, Room, Work};
use crate::problem::Answer;
use crate::spool::Spool;
use crate::tables::{LiveTable, LoggedTable};

/// Bodies up to this size are decoded where they arrive: handing them to a thread costs more.
const SMALL_BODY_BYTES_MAX: u64 = 64 * 1024;

/// Places of an Arrow stream among the streams: its batches are held whole.
const ARROW_PLACES: usize = 4;
/// What one batch may become for each place that its stream has.
const PLACE_BYTES: usize = 64 << 20;
/// What rows that wait for others of their bucket add.
const ROUTING_PLACES: usize = 1;

/// Records to check.
pub(super) struct Unchecked<'a> {
    pub(super) gateway: &'a Gateway,
    pub(super) table: &'a Arc<LiveTable>,
    pub(super) operation: Operation,
    pub(super) shape: Shape,
}

/// A body, as much of it as is at hand.
enum Source {
    Whole(bytes::Bytes),
    Stream(Body),
    /// It was read to where it was refused.
    Read,
}

enum Failed {
    Body(BodyError),
    /// By what the body is not to blame for.
    Other(Answer),
}

impl From<BodyError> for Failed {
    fn from(error: BodyError) -> Self {
        Self::Body(error)
    }
}

impl From<Overloaded> for Failed {
    fn from(error: Overloaded) -> Self {
        Self::Other(error.into())
    }
}

impl Unchecked<'_> {
    /// The body's records, every one of which fits the table; `logged` is the table with the schema
    /// of its log.
    pub(super) async fn check(
        &self,
        mut logged: LoggedTable,
        body: Body,
    ) -> Result<(Decoded, Place), Answer> {
        self.check_length()?;
        let mut source = Source::Stream(body);
        loop {
            let refused = match self.decode(&logged, &mut source).await {
                Ok(decoded) => return Ok(decoded),
                Err(Failed::Other(answer)) => return Err(answer),
                Err(Failed::Body(error)) => error,
            };
            if !refused.is_by_schema() {
                return Err(refused.into());
            }
            let tables = &self.gateway.tables;
            match (tables.logged_since(self.table, &logged).await?, &source) {
                (None, _) => return Err(refused.into()),
                (Some(newer), Source::Whole(_)) => logged = newer,
                (Some(_), Source::Stream(_) | Source::Read) => return Err(self.outran().into()),
            }
        }
    }

    fn check_length(&self) -> Result<(), Answer> {
        let bytes_max = self.gateway.ingest.body_bytes_max;
        match self.shape.length {
            Some(0) => Err(BodyError::Empty.into()),
            Some(length) if length > bytes_max && self.shape.coding == Coding::Identity => {
                Err(BodyError::Fault(Fault::TooLarge(bytes_max)).into())
            }
            _ => Ok(()),
        }
    }

    fn outran(&self) -> Problem {
        let title = "the table's schema changed while the records came";
        Problem::new(503, "SCHEMA_CHANGED", title)
            .detail(format!(
                "table {} has another schema by now than the records were checked by",
                self.table.entry.id.table
            ))
            .hint("nothing was written: send it again")
            .retry_after_s(1)
    }

    async fn decode(
        &self,
        logged: &LoggedTable,
        source: &mut Source,
    ) -> Result<(Decoded, Place), Failed> {
        let Shape {
            format,
            coding,
            length,
        } = self.shape;
        let gateway = self.gateway;
        let tenant = &logged.entry.id.tenant;
        let is_small = |length| length <= SMALL_BODY_BYTES_MAX;
        let whole = match source {
            Source::Whole(body) => Some(body.clone()),
            Source::Stream(_) if coding == Coding::Identity && length.is_some_and(is_small) => None,
            Source::Stream(_) | Source::Read => return self.decode_stream(logged, source).await,
        };
        let place = gateway.admission.small(tenant).await?;
        let whole = match (whole, std::mem::replace(source, Source::Read)) {
            (None, Source::Stream(body)) => {
                let pace = gateway.ingest.pace();
                let body = body::whole(body, SMALL_BODY_BYTES_MAX as usize, pace).await;
                body.map_err(BodyError::Fault)?
            }
            (whole, _) => whole.unwrap_or_default(),
        };
        *source = Source::Whole(whole.clone());
        let work = self.work(logged, Chunks::whole(whole), format, Room::Small);
        match decode::run(work) {
            // What came small and grew needs the room of a stream.
            Err(error) if error.wants_room() => {
                drop(place);
                self.decode_stream(logged, source).await
            }
            outcome => self.spooled(outcome.map(|decoded| (decoded, place))),
        }
    }

    /// On a thread of its own. A body that is at hand stays so.
    async fn decode_stream(
        &self,
        logged: &LoggedTable,
        source: &mut Source,
    ) -> Result<(Decoded, Place), Failed> {
        let (gateway, format) = (self.gateway, self.shape.format);
        let wanted = places(format, logged.entry.mode);
        let (place, places) = gateway
            .admission
            .stream(&logged.entry.id.tenant, wanted)
            .await?;
        let chunks = match std::mem::replace(source, Source::Read) {
            Source::Whole(body) => {
                *source = Source::Whole(body.clone());
                Chunks::whole(body)
            }
            Source::Stream(body) => body::pump(body, gateway.ingest.pace()),
            Source::Read => Chunks::whole(bytes::Bytes::new()),
        };
        let work = self.work(logged, chunks, format, Room::Stream(places * PLACE_BYTES));
        // The place stays taken until the thread is done, also when the client goes away.
        let outcome =
            tokio::task::spawn_blocking(move || decode::run(work).map(|decoded| (decoded, place)))
                .await
                .unwrap_or_else(|error| Err(BodyError::Worker(error.to_string())));
        self.spooled(outcome)
    }

    fn work(&self, logged: &LoggedTable, chunks: Chunks, format: Format, room: Room) -> Work {
        Work {
            chunks,
            coding: self.shape.coding,
            bytes_max: self.gateway.ingest.body_bytes_max,
            format,
            operation: self.operation,
            table: logged.clone(),
            room,
            spool: Spool::new(Arc::clone(&self.gateway.spool)),
        }
    }

    fn spooled(
        &self,
        outcome: Result<(Decoded, Place), BodyError>,
    ) -> Result<(Decoded, Place), Failed> {
        let spool = &self.gateway.spool;
        let metrics = &self.gateway.metrics;
        metrics.spooled(spool.memory_bytes(), spool.disk_bytes());
        Ok(outcome?)
    }
}

fn places(format: Format, mode: TableMode) -> usize {
    let places = match format {
        Format::Arrow => ARROW_PLACES,
        Format::Json | Format::Ndjson => 1,
    };
    match mode {
        TableMode::Append => places,
        TableMode::Upsert => places + ROUTING_PLACES,
    }
}
