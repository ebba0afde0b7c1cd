//! A look at tables that bring no news of themselves.
//!
//! A table whose topic is gone is in nobody's assignment; one that no record comes for is never
//! committed to, so what became of its log shows to nobody here. Both would stand still in silence.
//! Owns when and at how many of them to look; what stops a table is the seats' to say, but for those
//! that have no seat.
//!
//! Invariant: a round costs one list of topics and, while all of them are there, nothing of the
//! store. After [`LOG_DISCOVERIES`] one looks at [`LOGS_MAX`] tables' logs, however many there are.

use std::collections::HashSet;

use tidelake_catalog::TableEntry;
use tidelake_log::topics::parse_table_topic;
use tidelake_manifest::Freshness;

use super::*;
use crate::freshness::Position;
use crate::identity::check_topic;
use crate::opener::Opener;
use crate::policy::Cause;

/// Rounds begin so many discoveries of topics after each other.
const DISCOVERIES: u32 = 10;
/// Between rounds that look at tables' logs, ten minutes by default: what nobody writes to or reads
/// costs next to nothing, and whoever reads a damaged table is told at once.
const LOG_DISCOVERIES: u32 = 600;
/// Tables' logs that are looked at in such a round.
const LOGS_MAX: usize = 8;
/// Topics that are missing which one round makes sure of.
const MISSING_MAX: usize = 100;

/// What a round found.
pub(super) struct Patrolled {
    /// Tables of the catalog whose topic is not there; none where the log did not say.
    missing: Option<BTreeMap<Arc<str>, Trouble>>,
    /// Tables whose log can't be read.
    unreadable: Vec<Arc<str>>,
}

/// What is known between two rounds.
#[derive(Debug, Default)]
pub(super) struct Patrol {
    /// When the last round began, and whether it goes on.
    begun: Moment,
    under_way: bool,
    /// When tables' logs were looked at.
    logs_begun: Moment,
    /// The last table whose log was looked at.
    looked_at: Option<Arc<str>>,
    missing: BTreeMap<Arc<str>, Trouble>,
}

impl Patrol {
    /// Tables that have no seat and stand still.
    pub(super) fn troubles(&self) -> impl Iterator<Item = (&Arc<str>, &Trouble)> {
        self.missing.iter()
    }
}

impl Owner {
    /// Begins a round where one is due.
    pub(super) fn go_on_patrol(&mut self) {
        let now = self.now();
        let discovery = Duration::from_millis(self.settings.discovery_ms.max(10));
        let since = now.saturating_sub(self.patrol.begun);
        if self.patrol.under_way || since < discovery * DISCOVERIES {
            return;
        }
        (self.patrol.begun, self.patrol.under_way) = (now, true);
        let quiet = match now.saturating_sub(self.patrol.logs_begun) < discovery * LOG_DISCOVERIES {
            true => Vec::new(),
            false => self.quiet_tables(now),
        };
        let (opener, news) = (self.bench.opener.clone(), self.news.clone());
        let before = self.patrol.missing.clone();
        tokio::spawn(async move {
            let missing = missing_topics(&opener, &before).await;
            let mut unreadable = Vec::new();
            for (topic, table) in quiet {
                if is_unreadable(&table).await {
                    unreadable.push(topic);
                }
            }
            let patrolled = Patrolled {
                missing,
                unreadable,
            };
            // The loop is gone at the process's end only.
            let _gone = news.send(News::Patrolled(patrolled)).await;
        });
    }

    /// Some tables that nothing is held of, in turn.
    fn quiet_tables(&mut self, now: Moment) -> Vec<(Arc<str>, Arc<OpenTable>)> {
        self.patrol.logs_begun = now;
        let busy: HashSet<&Arc<str>> = self
            .buckets
            .iter()
            .filter(|(_, state)| state.oldest_uncommitted_ms().is_some())
            .map(|(at, _)| &at.topic)
            .collect();
        let mut quiet: Vec<_> = self
            .tables
            .keys()
            .filter(|topic| !busy.contains(topic))
            .cloned()
            .collect();
        quiet.sort_unstable();
        let last = self.patrol.looked_at.as_ref();
        let turn = quiet.partition_point(|topic| last.is_some_and(|last| topic <= last));
        quiet.rotate_left(turn);
        quiet.truncate(LOGS_MAX);
        self.patrol.looked_at = quiet.last().cloned();
        let table = |topic: Arc<str>| {
            let table = self.tables.get(&topic)?.table.clone();
            Some((topic, table))
        };
        quiet.into_iter().filter_map(table).collect()
    }

    pub(super) fn patrolled(&mut self, found: Patrolled, consumer: &dyn GroupLog) {
        self.patrol.under_way = false;
        if let Some(missing) = found.missing {
            let found_again = self.patrol.missing.keys();
            let gone: Vec<_> = found_again
                .filter(|topic| !missing.contains_key(*topic))
                .cloned()
                .collect();
            for topic in gone {
                tracing::info!(%topic, "the topic is there again, or its table is gone");
                self.progress.remove(&stands_for(&topic));
                if !self.seats.has_table(&topic) {
                    self.forget_table(&topic);
                }
            }
            for (topic, trouble) in &missing {
                if !self.patrol.missing.contains_key(topic) {
                    tracing::warn!(%topic, reason = %trouble, "table stopped");
                }
            }
            self.patrol.missing = missing;
        }
        for topic in found.unreadable {
            tracing::warn!(%topic, "the table's log can't be read; it is looked up again");
            self.on(Event::TableChanged(topic), consumer);
        }
    }

    /// How far tables are whose topic is not there: what it held is not known, so their age counts
    /// from when that was seen.
    pub(super) fn behind_without_topic(&mut self, now_ms: i64) -> Vec<(Arc<str>, Behind)> {
        let unknown = Position {
            stands: true,
            ..Position::default()
        };
        let missing = self.patrol.missing.keys();
        let without_seat = missing.filter(|topic| !self.seats.has_table(topic));
        let behind = without_seat.map(|topic| {
            let progress = self.progress.entry(stands_for(topic)).or_default();
            (topic.clone(), progress.note(&unknown, now_ms))
        });
        behind.collect()
    }
}

/// The bucket under which the age of a table without a topic is kept.
fn stands_for(topic: &Arc<str>) -> TopicBucket {
    let (topic, bucket) = (topic.clone(), Bucket(0));
    TopicBucket { topic, bucket }
}

/// Tables of the catalog whose topic is not there, or is none of those that are read; none where
/// that is not known. What can't be told of a topic is as it was `before`.
async fn missing_topics(
    opener: &Opener,
    before: &BTreeMap<Arc<str>, Trouble>,
) -> Option<BTreeMap<Arc<str>, Trouble>> {
    let told = |what: &'static str, error: &dyn std::error::Error| {
        tracing::debug!(error = %error, what, "no look at topics");
    };
    // Before the catalog is read: a table is made after its topic, and dropped before it.
    let listed = opener.admin.list_topics().await;
    let listed = listed.inspect_err(|error| told("list", error)).ok()?;
    let there: HashSet<String> = listed.into_iter().collect();
    let is_read = |entry: &TableEntry| {
        parse_table_topic(&opener.topic_prefix, &entry.topic).as_ref() == Some(&entry.id)
    };
    let is_there = |entry: &Arc<TableEntry>| is_read(entry) && there.contains(&entry.topic);
    if opener.catalog.list_all().iter().all(is_there) {
        return Some(BTreeMap::new());
    }
    let refreshed = opener.catalog.refresh().await;
    refreshed.inspect_err(|error| told("catalog", error)).ok()?;
    let mut missing = BTreeMap::new();
    let tables = opener.catalog.list_all();
    let unlisted = tables.iter().filter(|entry| !is_there(entry));
    for entry in unlisted.take(MISSING_MAX) {
        let topic: Arc<str> = Arc::from(entry.topic.as_str());
        if !is_read(entry) {
            missing.insert(topic, elsewhere(opener, entry));
            continue;
        }
        let known = before.get(&topic).cloned();
        let trouble = match opener.admin.describe(&entry.topic).await {
            Ok(Some(_)) => None,
            Ok(None) => check_topic(entry, None).err(),
            Err(error) => {
                told("describe", &error);
                known
            }
        };
        missing.extend(trouble.map(|trouble| (topic, trouble)));
    }
    Some(missing)
}

fn elsewhere(opener: &Opener, entry: &TableEntry) -> Trouble {
    let text = format!(
        "table {}: its topic {} is none of this installation's, whose topics begin with {:?}: \
         nobody reads it; set `kafka.topic_prefix` as it was when the table was made",
        entry.id, entry.topic, opener.topic_prefix
    );
    Trouble::new(Cause::TopicElsewhere, text)
}

/// Whether what was added to the table's log, if anything was, can't be read.
async fn is_unreadable(table: &OpenTable) -> bool {
    match table.cached.get(Freshness::Latest).await {
        Ok(_) => false,
        Err(error) => {
            tracing::debug!(table = %table.entry.id, error = chain(&error), "a quiet table");
            !error.kind().is_transient()
        }
    }
}
