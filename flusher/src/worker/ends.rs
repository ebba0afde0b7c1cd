//! The look at logs that nothing is fetched from: where they end, and how old their oldest record is
//! that no commit covers.
//!
//! Invariants: one look at a time, and at most [`RECORDS_MAX`] records read in it. A look ends
//! where the log does not answer, and the next one begins behind what it asked for last: a topic or
//! bucket that fails each time keeps none of the others from their turn.

use tidelake_log::{BucketReader, LogAdmin, LogError, RangeReader};

use super::*;

/// Records that are read in one look, each for its timestamp.
const RECORDS_MAX: usize = 16;
/// How long reading one of them may take.
const RECORD_WAIT: Duration = Duration::from_secs(3);

/// What a look found.
pub(super) struct Looked {
    /// Ends of logs that nothing is fetched from.
    pub ends: Vec<(TopicBucket, Offset)>,
    /// Of buckets that stand: where each record was looked for, and its timestamp.
    pub oldest: Vec<(TopicBucket, Offset, UnixMillis)>,
    pub turns: Turns,
}

/// What the last look asked for last.
#[derive(Debug, Default, Clone)]
pub(super) struct Turns {
    topic: Option<Arc<str>>,
    bucket: Option<TopicBucket>,
}

impl Owner {
    /// Nobody fetches from buckets that are stopped, opening or paused: their logs grow unseen.
    pub(super) fn look_at_ends(&mut self) {
        let mut by_topic: BTreeMap<Arc<str>, Vec<Bucket>> = BTreeMap::new();
        for at in self.seats.unwatched() {
            by_topic
                .entry(at.topic.clone())
                .or_default()
                .push(at.bucket);
        }
        if by_topic.is_empty() {
            return;
        }
        self.looking = true;
        let (admin, news) = (self.bench.opener.admin.clone(), self.news.clone());
        let (reader, wanted) = (self.bench.reader.clone(), self.wanted_records());
        let mut turns = self.turns.clone();
        tokio::spawn(async move {
            let topics = by_topic.into_iter().collect();
            let looked = Looked {
                ends: ends(&*admin, topics, &mut turns).await,
                oldest: oldest(&*reader, wanted, &mut turns).await,
                turns,
            };
            // The loop is gone at the process's end only.
            let _gone = news.send(News::Looked(looked)).await;
        });
    }

    pub(super) fn looked(&mut self, found: Looked) {
        self.looking = false;
        self.turns = found.turns;
        for (at, offset, ms) in found.oldest {
            if let Some(progress) = self.progress.get_mut(&at) {
                progress.oldest(offset, ms);
            }
        }
        let ends = found.ends.into_iter();
        let ours = ends.filter(|(at, _)| self.seats.owns(at));
        self.ends.extend(ours);
    }

    /// The oldest records of buckets that stand, as far as their timestamps are not known.
    fn wanted_records(&self) -> Vec<(TopicBucket, Offset)> {
        let troubled = self.seats.unwatched().filter(|at| {
            let open = self.buckets.contains_key(at);
            !open && self.seats.trouble_of(at).is_some()
        });
        let wanted = troubled.filter_map(|at| {
            let position = self.position(at, self.ends.get(at).copied());
            let record = self.progress.get(at)?.wants(&position)?;
            Some((at.clone(), record))
        });
        wanted.collect()
    }
}

/// Whose turn is next comes first: what follows the last that was asked for.
fn in_turn<K: Ord, T>(mut all: Vec<(K, T)>, last: Option<&K>) -> Vec<(K, T)> {
    all.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
    let turn = all.partition_point(|(key, _)| last.is_some_and(|last| key <= last));
    all.rotate_left(turn);
    all
}

/// Where the logs of these buckets end, as far as the log says.
async fn ends(
    admin: &dyn LogAdmin,
    topics: Vec<(Arc<str>, Vec<Bucket>)>,
    turns: &mut Turns,
) -> Vec<(TopicBucket, Offset)> {
    let mut ends = Vec::new();
    for (topic, buckets) in in_turn(topics, turns.topic.as_ref()) {
        turns.topic = Some(topic.clone());
        match admin.end_offsets(&topic, &buckets).await {
            Ok(found) => ends.extend(found.into_iter().map(|(bucket, end)| {
                let topic = topic.clone();
                (TopicBucket { topic, bucket }, end)
            })),
            // Perhaps the others would wait for the same answer.
            Err(error) if error.kind().is_transient() => break,
            Err(error) => tracing::debug!(%topic, %error, "end of the log not known"),
        }
    }
    ends
}

/// The timestamps of the first records from these offsets on, where the log has them.
async fn oldest(
    reader: &dyn BucketReader,
    wanted: Vec<(TopicBucket, Offset)>,
    turns: &mut Turns,
) -> Vec<(TopicBucket, Offset, UnixMillis)> {
    let mut found = Vec::new();
    // Of the topic before: each one is a client of the log, and buckets come by their topics.
    let mut open: Option<(Arc<str>, Box<dyn RangeReader>)> = None;
    let wanted = in_turn(wanted, turns.bucket.as_ref()).into_iter();
    for (at, from) in wanted.take(RECORDS_MAX) {
        turns.bucket = Some(at.clone());
        match first_stamp(reader, &mut open, &at, from).await {
            Ok(stamp) => found.extend(stamp.map(|ms| (at, from, ms))),
            // Perhaps the others would wait for the same answer.
            Err(error) if error.kind().is_transient() => break,
            Err(error) => {
                open = None;
                tracing::debug!(bucket = %at, %error, "oldest record not known");
            }
        }
    }
    found
}

async fn first_stamp(
    reader: &dyn BucketReader,
    open: &mut Option<(Arc<str>, Box<dyn RangeReader>)>,
    at: &TopicBucket,
    from: Offset,
) -> Result<Option<UnixMillis>, LogError> {
    let ranges = match open.take() {
        Some((topic, ranges)) if topic == at.topic => ranges,
        _ => reader.ranges(&at.topic)?,
    };
    let (_, ranges) = open.insert((at.topic.clone(), ranges));
    let range = vec![(at.bucket, from, from.next())];
    let batches = ranges.read(range, RECORD_WAIT).await?;
    // What a reader read ahead for the bucket before may come along.
    let mut records = batches.iter().flat_map(|batch| batch.iter());
    let first = records.find(|record| record.bucket() == at.bucket && record.offset() >= from);
    Ok(first.map(|record| record.timestamp_ms()))
}

#[cfg(test)]
mod tests;
