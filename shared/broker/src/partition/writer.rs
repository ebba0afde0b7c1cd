//! The only code that changes a partition's files: rounds of appends, rolls, retention, sealing.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::sync::Arc;

use bytes::Bytes;

use crate::batch::assign_offset;
use crate::producers::{Producer, ProducerTable, SequenceError, Verdict};
use crate::segment::{BatchPlace, Segment, Sidecar};

use super::tail::TailLimits;
use super::{Append, AppendAnswer, AppendError, Appended, Log, Partition};

/// The end of the log, as only the writer sees it.
#[derive(Debug)]
pub(super) struct Writer {
    active: Arc<Segment>,
    producers: ProducerTable,
    /// The file may be longer than what is durable, and must be cut before the next write.
    overhang: bool,
}

impl Writer {
    pub(super) fn new(active: Arc<Segment>, producers: ProducerTable) -> Self {
        Self {
            active,
            producers,
            overhang: false,
        }
    }

    fn sidecar(&self) -> Sidecar {
        Sidecar {
            base_offset: self.active.base_offset(),
            contents: self.active.contents().clone(),
            producers: self.producers.clone(),
        }
    }
}

/// Appends that will be written with one call and become durable together.
#[derive(Default)]
struct Round {
    bytes: Vec<u8>,
    places: Vec<BatchPlace>,
    answers: Vec<(AppendAnswer, Result<i64, AppendError>)>,
    /// Producers as they were before the round.
    before: HashMap<i64, Option<Producer>>,
}

impl Round {
    /// Assigns offsets to what `append` brings; its answer waits for the disk.
    fn stage(&mut self, writer: &mut Writer, append: Append, now_ms: i64) {
        let Append {
            records,
            headers,
            answer,
        } = append;
        let mut first = None;
        let mut start = 0;
        for header in &headers {
            let end = start + header.bytes;
            match self.stage_batch(writer, &records[start..end], *header, now_ms) {
                Ok(base_offset) => _ = first.get_or_insert(base_offset),
                Err(error) => {
                    self.answers.push((answer, Err(error)));
                    return;
                }
            }
            start = end;
        }
        self.answers
            .push((answer, first.ok_or(AppendError::Storage)));
    }

    fn stage_batch(
        &mut self,
        writer: &mut Writer,
        batch: &[u8],
        mut header: crate::batch::BatchHeader,
        now_ms: i64,
    ) -> Result<i64, AppendError> {
        if header.is_sequenced() {
            match writer.producers.check(&header) {
                Ok(Verdict::Append) => {}
                Ok(Verdict::Duplicate { base_offset }) => return Ok(base_offset),
                Err(SequenceError::OutOfOrder) => return Err(AppendError::OutOfOrderSequence),
                Err(SequenceError::OldEpoch) => return Err(AppendError::OldProducerEpoch),
            }
        }
        let (durable_bytes, durable_next) = {
            let contents = writer.active.contents();
            (contents.bytes, contents.next_offset)
        };
        header.base_offset = self
            .places
            .last()
            .map_or(durable_next, |place| place.header.next_offset());
        if header.is_sequenced() {
            let id = header.producer_id;
            self.before
                .entry(id)
                .or_insert_with(|| writer.producers.remember(id));
            writer.producers.record(&header, header.base_offset, now_ms);
        }
        let start = self.bytes.len();
        self.bytes.extend_from_slice(batch);
        assign_offset(&mut self.bytes[start..], header.base_offset);
        self.places.push(BatchPlace {
            header,
            position: durable_bytes + start as u64,
        });
        Ok(header.base_offset)
    }
}

impl Partition {
    /// Stores appends in order: as one round, or several where a segment fills up.
    pub(super) fn round(&self, log: &Log, appends: Vec<Append>) {
        let mut writer = log.writer.lock();
        let now_ms = self.context.clock.now_ms();
        let segment_bytes_max = self.config.read().segment_bytes_max;
        let mut round = Round::default();
        let bytes = appends.iter().map(|append| append.records.len()).sum();
        round.bytes.reserve_exact(bytes);
        for append in appends {
            if log.view.read().deleted {
                _ = append.answer.send(Err(AppendError::Deleted));
                continue;
            }
            let used = writer.active.contents().bytes + round.bytes.len() as u64;
            if used > 0 && used + append.records.len() as u64 > segment_bytes_max {
                self.commit(log, &mut writer, std::mem::take(&mut round), now_ms);
                if let Err(error) = self.roll(log, &mut writer, now_ms) {
                    self.complain("cannot start a segment", &error);
                    _ = append.answer.send(Err(AppendError::Storage));
                    continue;
                }
            }
            round.stage(&mut writer, append, now_ms);
        }
        self.commit(log, &mut writer, round, now_ms);
    }

    /// Makes a round durable, shows it to consumers, and answers its producers.
    fn commit(&self, log: &Log, writer: &mut Writer, round: Round, now_ms: i64) {
        let Round {
            bytes,
            places,
            answers,
            before,
        } = round;
        let stored = match places.last() {
            None => Ok(()),
            Some(_) => self.store(writer, &bytes),
        };
        if let Err(error) = stored {
            self.complain("append not stored", &error);
            for (producer_id, remembered) in before {
                writer.producers.restore(producer_id, remembered);
            }
            for (answer, result) in answers {
                _ = answer.send(Err(result.err().unwrap_or(AppendError::Storage)));
            }
            return;
        }
        if let Some(last) = places.last() {
            self.publish(
                log,
                writer,
                bytes.into(),
                &places,
                last.header.next_offset(),
                now_ms,
            );
        }
        let log_start = log.view.read().extent.log_start;
        for (answer, result) in answers {
            // A receiver that went away has its records stored all the same.
            _ = answer.send(result.map(|base_offset| Appended {
                base_offset,
                log_start,
            }));
        }
    }

    fn store(&self, writer: &mut Writer, bytes: &[u8]) -> io::Result<()> {
        let durable_bytes = writer.active.contents().bytes;
        let disk = &self.context.disk;
        let file = writer.active.file()?;
        if writer.overhang {
            disk.truncate(&file, durable_bytes)?;
            writer.overhang = false;
        }
        let stored = disk.write(&file, bytes, durable_bytes).and_then(|()| {
            if self.context.fsync {
                disk.sync(&file)
            } else {
                Ok(())
            }
        });
        if stored.is_err() {
            // Cut at once, to give a full disk its space back; if that fails, before the next write.
            writer.overhang = disk.truncate(&file, durable_bytes).is_err();
        }
        stored
    }

    fn publish(
        &self,
        log: &Log,
        writer: &Writer,
        bytes: Bytes,
        places: &[BatchPlace],
        next_offset: i64,
        now_ms: i64,
    ) {
        let mut view = log.view.write();
        writer.active.publish(places, now_ms);
        view.extent.high_watermark = next_offset;
        if !view.deleted {
            let limits = TailLimits {
                partition_bytes_max: self.context.partition_tail_bytes_max,
                all_bytes_max: self.context.tail_bytes_max,
                all_bytes: &self.context.tail_bytes,
            };
            view.tail.push(&bytes, places, limits);
        }
        drop(view);
        log.advanced.notify_waiters();
    }

    /// Closes the active segment and starts the next one.
    fn roll(&self, log: &Log, writer: &mut Writer, now_ms: i64) -> io::Result<()> {
        if writer.overhang {
            // What a failed append left would be damage in a closed segment.
            let durable_bytes = writer.active.contents().bytes;
            let file = writer.active.file()?;
            self.context.disk.truncate(&file, durable_bytes)?;
            writer.overhang = false;
        }
        if !self.context.fsync {
            self.context.disk.sync(&*writer.active.file()?)?;
        }
        let next_offset = writer.active.contents().next_offset;
        let files = &self.context.files;
        let segment = Arc::new(Segment::create(&self.dir, next_offset, now_ms, files)?);
        writer.producers.expire(now_ms);
        self.write_sidecar(writer);
        writer.active.close();
        writer.active = Arc::clone(&segment);
        // The file may be left over from an attempt that failed half-way.
        writer.overhang = true;
        log.view.write().segments.push(segment);
        Ok(())
    }

    fn write_sidecar(&self, writer: &Writer) {
        let path = writer.active.index_path();
        if let Err(error) = fs::write(path, writer.sidecar().encode()) {
            self.complain(
                "index not written, the segment will be scanned at the next start",
                &error,
            );
        }
    }

    /// Deletes closed segments that are too old or too many. Blocks on the disk.
    pub(crate) fn enforce_retention(&self) {
        let Some(log) = self.log() else { return };
        let mut writer = log.writer.lock();
        if log.view.read().deleted {
            return;
        }
        let now_ms = self.context.clock.now_ms();
        writer.producers.expire(now_ms);
        let (retention_ms, retention_bytes) = {
            let config = self.config.read();
            (config.retention_ms, config.retention_bytes)
        };
        let too_old = |segment: &Segment| {
            let age_ms = now_ms.saturating_sub(segment.contents().last_append_ms);
            retention_ms.is_some_and(|retention_ms| age_ms > retention_ms)
        };
        let active_is_due = writer.active.contents().bytes > 0 && too_old(&writer.active);
        if active_is_due && let Err(error) = self.roll(log, &mut writer, now_ms) {
            self.complain("cannot start a segment", &error);
        }
        let mut gone = Vec::new();
        let mut view = log.view.write();
        view.tail.age(&self.context.tail_bytes);
        let mut bytes: u64 = view
            .segments
            .iter()
            .map(|segment| segment.contents().bytes)
            .sum();
        while view.segments.len() > 1 {
            let oldest_bytes = view.segments[0].contents().bytes;
            let too_many = retention_bytes.is_some_and(|max| bytes - oldest_bytes >= max);
            if !too_many && !too_old(&view.segments[0]) {
                break;
            }
            bytes -= oldest_bytes;
            gone.push(view.segments.remove(0));
            view.extent.log_start = view.segments[0].base_offset();
        }
        drop(view);
        for segment in gone {
            tracing::info!(partition = %self.name, base_offset = segment.base_offset(),
                "segment deleted by retention");
            if let Err(error) = segment.remove() {
                self.complain("segment not removed", &error);
            }
        }
    }

    /// Leaves the files as a clean stop should. Call after [`Partition::close`]. Blocks on the disk.
    pub(crate) fn seal(&self) -> io::Result<()> {
        let Some(log) = &self.log else { return Ok(()) };
        let writer = log.writer.lock();
        if log.view.read().deleted {
            return Ok(());
        }
        let durable_bytes = writer.active.contents().bytes;
        if writer.overhang {
            self.context
                .disk
                .truncate(&*writer.active.file()?, durable_bytes)?;
        }
        if !self.context.fsync || writer.overhang {
            self.context.disk.sync(&*writer.active.file()?)?;
        }
        self.write_sidecar(&writer);
        Ok(())
    }

    fn complain(&self, what: &str, error: &io::Error) {
        tracing::error!(partition = %self.name, %error, "{what}");
    }
}
