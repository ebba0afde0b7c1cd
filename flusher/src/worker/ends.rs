//! The look at logs that nothing is fetched from: where they end, and how old their oldest record is
//! that no commit covers.
//!
//! Invariant: one look at a time, and at most [`RECORDS_MAX`] records read in it.

use tidelake_log::BucketReader;

use super::*;

/// Records that are read in one look, each for its timestamp.
const RECORDS_MAX: usize = 16;
/// How long reading one of them may take.
const RECORD_WAIT: Duration = Duration::from_secs(3);

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
        tokio::spawn(async move {
            let mut ends = Vec::new();
            for (topic, buckets) in by_topic {
                match admin.end_offsets(&topic, &buckets).await {
                    Ok(found) => ends.extend(found.into_iter().map(|(bucket, end)| {
                        let topic = topic.clone();
                        (TopicBucket { topic, bucket }, end)
                    })),
                    // The others would wait for the same answer.
                    Err(error) if error.kind().is_transient() => break,
                    Err(error) => tracing::debug!(%topic, %error, "end of the log not known"),
                }
            }
            // The loop is gone at the process's end only.
            let _gone = news
                .send(News::Oldest(oldest(&*reader, wanted).await))
                .await;
            let _gone = news.send(News::Ends(ends)).await;
        });
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
        wanted.take(RECORDS_MAX).collect()
    }
}

/// The timestamps of the first records from these offsets on, where the log has them.
async fn oldest(
    reader: &dyn BucketReader,
    wanted: Vec<(TopicBucket, Offset)>,
) -> Vec<(TopicBucket, Offset, UnixMillis)> {
    let mut found = Vec::new();
    for (at, from) in wanted {
        let read = match reader.ranges(&at.topic) {
            Ok(ranges) => {
                let range = vec![(at.bucket, from, from.next())];
                ranges.read(range, RECORD_WAIT).await
            }
            Err(error) => Err(error),
        };
        match read {
            Ok(batches) => {
                let mut records = batches.iter().flat_map(|batch| batch.iter());
                let oldest = records.find(|record| record.offset() >= from);
                let oldest = oldest.map(|record| record.timestamp_ms());
                found.extend(oldest.map(|ms| (at, from, ms)));
            }
            // The others would wait for the same answer.
            Err(error) if error.kind().is_transient() => break,
            Err(error) => tracing::debug!(bucket = %at, %error, "oldest record not known"),
        }
    }
    found
}
