//! What the topics are that are being consumed, and when they turn into something else.
//!
//! Pure. One broker is asked, which may know less than there is: that a topic is gone counts once
//! it was missing several times in a row.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

use super::request::Described;
use crate::{Event, LogError, TopicBucket, TopicInfo};

/// Looks in a row by which a topic that is missing is gone.
const MISSING_LOOKS: u32 = 3;

#[derive(Debug, Default)]
pub(super) struct Watch {
    known: BTreeMap<String, Known>,
    /// Buckets of which a broker has said that it does not know them.
    suspects: HashSet<TopicBucket>,
}

#[derive(Debug)]
struct Known {
    info: Option<TopicInfo>,
    missing: u32,
}

impl Watch {
    pub(super) fn suspect(&mut self, at: TopicBucket) {
        self.suspects.insert(at);
    }

    pub(super) fn forget(&mut self, at: &TopicBucket) {
        self.suspects.remove(at);
    }

    /// Only these topics are consumed any more.
    pub(super) fn keep(&mut self, topics: &BTreeSet<&str>) {
        self.known.retain(|name, _| topics.contains(name.as_str()));
    }

    pub(super) fn answered(
        &mut self,
        described: Described,
        owned: &HashSet<TopicBucket>,
    ) -> Vec<Event> {
        let mut events = Vec::new();
        for (name, info) in described {
            match info {
                Ok(Some(info)) => events.extend(self.found(name, info)),
                Ok(None) => events.extend(self.missing(&name, owned)),
                Err(error) => tracing::debug!(%error, "look at topics"),
            }
        }
        events
    }

    fn found(&mut self, name: String, info: TopicInfo) -> Option<Event> {
        self.suspects.retain(|at| *at.topic != *name);
        let topic: Arc<str> = Arc::from(name.as_str());
        let now = Known {
            info: Some(info),
            missing: 0,
        };
        let before = self.known.insert(name, now);
        let changed = before.is_none_or(|before| before.info != Some(info));
        changed.then_some(Event::TopicChanged {
            topic,
            info: Some(info),
        })
    }

    fn missing(&mut self, name: &str, owned: &HashSet<TopicBucket>) -> Vec<Event> {
        let unknown = || Known {
            info: None,
            missing: 0,
        };
        let known = self.known.entry(name.to_owned()).or_insert_with(unknown);
        known.missing = known.missing.saturating_add(1);
        if known.missing < MISSING_LOOKS {
            return Vec::new();
        }
        let mut events = Vec::new();
        if known.missing == MISSING_LOOKS {
            known.info = None;
            let topic = Arc::from(name);
            events.push(Event::TopicChanged { topic, info: None });
        }
        let gone = self.suspects.extract_if(|at| *at.topic == *name);
        let gone = gone.filter(|at| owned.contains(at));
        events.extend(gone.map(|at| Event::Failed(at, LogError::NoTopic(name.to_owned()))));
        events
    }
}

#[cfg(test)]
mod tests {
    use tidelake_core::{Bucket, TopicId};

    use super::*;

    fn info(id: u8, buckets: u32) -> TopicInfo {
        let id = TopicId([id; 16]);
        TopicInfo { id, buckets }
    }

    fn look(watch: &mut Watch, info: Option<TopicInfo>) -> Vec<Event> {
        let owned = HashSet::from([at()]);
        watch.answered(Described::from([("t".to_owned(), Ok(info))]), &owned)
    }

    fn at() -> TopicBucket {
        TopicBucket {
            topic: "t".into(),
            bucket: Bucket(1),
        }
    }

    #[test]
    fn what_a_topic_is_is_told_at_first_and_when_it_changes() {
        let mut watch = Watch::default();
        for (told, now) in [
            (true, info(1, 2)),
            (false, info(1, 2)),
            (true, info(1, 3)),
            (true, info(2, 3)),
            (false, info(2, 3)),
        ] {
            let events = look(&mut watch, Some(now));
            match (told, &events[..]) {
                (
                    true,
                    [
                        Event::TopicChanged {
                            info: Some(seen), ..
                        },
                    ],
                ) => assert_eq!(*seen, now),
                (false, []) => {}
                _ => panic!("{now:?}: {events:?}"),
            }
        }
    }

    #[test]
    fn one_broker_that_does_not_know_a_topic_proves_nothing() {
        let mut watch = Watch::default();
        look(&mut watch, Some(info(1, 2)));
        watch.suspect(at());
        assert!(look(&mut watch, None).is_empty());
        assert!(look(&mut watch, None).is_empty());
        assert!(look(&mut watch, Some(info(1, 2))).is_empty(), "it is there");
        watch.suspect(at());
        assert!(look(&mut watch, None).is_empty());
        assert!(look(&mut watch, None).is_empty());
        let events = look(&mut watch, None);
        let [
            Event::TopicChanged { info: None, .. },
            Event::Failed(of, LogError::NoTopic(_)),
        ] = &events[..]
        else {
            panic!("{events:?}");
        };
        assert_eq!(*of, at());
        assert!(look(&mut watch, None).is_empty(), "told once");
        assert_eq!(look(&mut watch, Some(info(2, 2))).len(), 1, "made again");
    }
}
