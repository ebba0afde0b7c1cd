//! Idempotent producers of one partition: which sequence numbers were stored where.
//!
//! Owns the rules of Kafka's deduplication: a repeated batch is answered with its first offset, a
//! gap is refused, an old epoch is fenced. Pure; the partition decides when a batch counts as stored.

use std::collections::{HashMap, VecDeque};

use crate::batch::BatchHeader;

/// Batches remembered for each producer: as many as a producer may have in flight.
const BATCHES_MAX: usize = 5;
/// Producers remembered for each partition; the one silent for longest makes room.
const PRODUCERS_MAX: usize = 20_000;
/// A producer silent for this long is forgotten.
const IDLE_MS_MAX: i64 = 24 * 60 * 60 * 1000;

/// What to do with a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    Append,
    /// Stored before, at this offset.
    Duplicate {
        base_offset: i64,
    },
}

/// Why a batch is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SequenceError {
    OutOfOrder,
    OldEpoch,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct StoredBatch {
    first_sequence: i32,
    last_sequence: i32,
    base_offset: i64,
}

/// What is known of one producer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Producer {
    epoch: i16,
    seen_ms: i64,
    batches: VecDeque<StoredBatch>,
}

/// All producers of one partition.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct ProducerTable {
    producers: HashMap<i64, Producer>,
}

/// Sequence numbers wrap from `i32::MAX` to 0.
fn advance(sequence: i32, by: i32) -> i32 {
    let sum = i64::from(sequence) + i64::from(by);
    (sum % (i64::from(i32::MAX) + 1)) as i32
}

impl ProducerTable {
    /// Judges a sequenced batch. Does not change anything: see [`ProducerTable::record`].
    pub(crate) fn check(&self, batch: &BatchHeader) -> Result<Verdict, SequenceError> {
        let Some(producer) = self.producers.get(&batch.producer_id) else {
            // Forgotten or new: any sequence may be the first, as in Kafka.
            return Ok(Verdict::Append);
        };
        if batch.producer_epoch < producer.epoch {
            return Err(SequenceError::OldEpoch);
        }
        if batch.producer_epoch > producer.epoch {
            let starts_over = batch.base_sequence == 0;
            return if starts_over {
                Ok(Verdict::Append)
            } else {
                Err(SequenceError::OutOfOrder)
            };
        }
        let last_sequence = advance(batch.base_sequence, batch.last_offset_delta);
        let stored = producer.batches.iter().find(|stored| {
            stored.first_sequence == batch.base_sequence && stored.last_sequence == last_sequence
        });
        if let Some(stored) = stored {
            return Ok(Verdict::Duplicate {
                base_offset: stored.base_offset,
            });
        }
        match producer.batches.back() {
            Some(last) if advance(last.last_sequence, 1) != batch.base_sequence => {
                Err(SequenceError::OutOfOrder)
            }
            _ => Ok(Verdict::Append),
        }
    }

    /// Notes that a batch that [`ProducerTable::check`] let pass lies at `base_offset`.
    pub(crate) fn record(&mut self, batch: &BatchHeader, base_offset: i64, now_ms: i64) {
        let producer = self
            .producers
            .entry(batch.producer_id)
            .or_insert_with(|| Producer {
                epoch: batch.producer_epoch,
                seen_ms: now_ms,
                batches: VecDeque::with_capacity(BATCHES_MAX),
            });
        if producer.epoch != batch.producer_epoch {
            producer.epoch = batch.producer_epoch;
            producer.batches.clear();
        }
        producer.seen_ms = now_ms;
        if producer.batches.len() == BATCHES_MAX {
            producer.batches.pop_front();
        }
        producer.batches.push_back(StoredBatch {
            first_sequence: batch.base_sequence,
            last_sequence: advance(batch.base_sequence, batch.last_offset_delta),
            base_offset,
        });
    }

    /// A copy of what is known of a producer, for [`ProducerTable::restore`].
    pub(crate) fn remember(&self, producer_id: i64) -> Option<Producer> {
        self.producers.get(&producer_id).cloned()
    }

    /// Puts a remembered state back: the batches recorded since were not stored after all.
    pub(crate) fn restore(&mut self, producer_id: i64, remembered: Option<Producer>) {
        match remembered {
            Some(producer) => self.producers.insert(producer_id, producer),
            None => self.producers.remove(&producer_id),
        };
    }

    /// Forgets idle producers, and the most idle ones beyond the bound.
    pub(crate) fn expire(&mut self, now_ms: i64) {
        self.producers
            .retain(|_, producer| now_ms.saturating_sub(producer.seen_ms) < IDLE_MS_MAX);
        if self.producers.len() > PRODUCERS_MAX {
            let mut seen: Vec<_> = self.producers.values().map(|p| p.seen_ms).collect();
            let surplus = seen.len() - PRODUCERS_MAX;
            let (_, newest_to_go, _) = seen.select_nth_unstable(surplus - 1);
            let newest_to_go = *newest_to_go;
            self.producers
                .retain(|_, producer| producer.seen_ms > newest_to_go);
        }
    }

    /// Appends the snapshot form: a count, then for each producer id, epoch, time and batches.
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        out.extend((self.producers.len() as u32).to_be_bytes());
        for (id, producer) in &self.producers {
            out.extend(id.to_be_bytes());
            out.extend(producer.epoch.to_be_bytes());
            out.extend(producer.seen_ms.to_be_bytes());
            out.push(producer.batches.len() as u8);
            for batch in &producer.batches {
                out.extend(batch.first_sequence.to_be_bytes());
                out.extend(batch.last_sequence.to_be_bytes());
                out.extend(batch.base_offset.to_be_bytes());
            }
        }
    }

    /// Reads the snapshot form from the front of `bytes`; `None` where it is too short.
    pub(crate) fn decode(bytes: &mut &[u8]) -> Option<Self> {
        let count = u32::from_be_bytes(field(bytes)?);
        let mut producers = HashMap::new();
        for _ in 0..count {
            let id = i64::from_be_bytes(field(bytes)?);
            let epoch = i16::from_be_bytes(field(bytes)?);
            let seen_ms = i64::from_be_bytes(field(bytes)?);
            let [len] = field(bytes)?;
            let mut batches = VecDeque::with_capacity(BATCHES_MAX);
            for _ in 0..len {
                batches.push_back(StoredBatch {
                    first_sequence: i32::from_be_bytes(field(bytes)?),
                    last_sequence: i32::from_be_bytes(field(bytes)?),
                    base_offset: i64::from_be_bytes(field(bytes)?),
                });
            }
            producers.insert(
                id,
                Producer {
                    epoch,
                    seen_ms,
                    batches,
                },
            );
        }
        Some(Self { producers })
    }
}

/// Takes the next `N` bytes.
pub(crate) fn field<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
    let (head, rest) = bytes.split_first_chunk::<N>()?;
    *bytes = rest;
    Some(*head)
}

#[cfg(test)]
mod tests;
