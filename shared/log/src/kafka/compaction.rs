//! Whether a topic is compacted: then offsets may be missing, and in no other.
//!
//! Asked only where offsets are missing, which a topic of Tidelake's own never has. A wrong offset of
//! a batch shows as a gap, or as an overlap, which the client tells by itself. What does not show:
//! in a compacted topic, one that only makes a gap; and in the first batch after a start within it,
//! alone in its answer, one that the next answer contradicts, behind rows that were handed on.
//!
//! A topic keeps its gaps when it is compacted no more, and is refused then: nothing tells them from
//! those of a wrong offset. The refusal says how its owner vouches for them.

#![expect(
    unsafe_code,
    reason = "describe-configs through the C API, without waiting"
)]

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use rdkafka::bindings as rd;
use rdkafka::types::RDKafkaRespErr as RespErr;
use tidelake_core::Offset;

use super::native::{Client, c_string, describe, text_of};
use super::request::{Question, Request};
use crate::{LogError, TopicBucket};

const POLICY: &str = "cleanup.policy";

/// True where the topic is compacted.
type Answer = Result<bool, LogError>;

/// Buckets of which offsets are missing.
#[derive(Debug)]
pub(super) struct Gaps {
    client: Arc<Client>,
    /// Topics that are known to be compacted.
    compacted: BTreeSet<Arc<str>>,
    waiting: Vec<Waiting>,
}

/// A bucket that stands before a gap until it is known whether there may be one.
#[derive(Debug)]
struct Waiting {
    at: TopicBucket,
    from: Offset,
    reason: String,
    question: Question<Answer>,
}

/// What becomes of a bucket that stood before a gap.
#[derive(Debug)]
pub(super) enum Decided {
    GoesOn(TopicBucket, Offset),
    Fails(TopicBucket, LogError),
}

impl Gaps {
    pub(super) fn new(client: Arc<Client>) -> Self {
        Self {
            client,
            compacted: BTreeSet::new(),
            waiting: Vec::new(),
        }
    }

    /// True where gaps of the topic are known to be right.
    pub(super) fn may_be(&self, topic: &str) -> bool {
        self.compacted.contains(topic)
    }

    /// Asks, and waits for the answer as long as there is time.
    pub(super) fn judge(
        &mut self,
        at: &TopicBucket,
        from: Offset,
        reason: String,
        time: Duration,
    ) -> Result<(), LogError> {
        if self.may_be(&at.topic) {
            return Ok(());
        }
        let answer = ask(&self.client, &at.topic)?.wait_at_most(time);
        self.judged(at, from, reason, answer)
    }

    /// Asks; the bucket waits meanwhile.
    pub(super) fn ask(
        &mut self,
        at: TopicBucket,
        from: Offset,
        reason: String,
    ) -> Result<(), LogError> {
        let question = ask(&self.client, &at.topic)?;
        self.forget(&at);
        self.waiting.push(Waiting {
            at,
            from,
            reason,
            question,
        });
        Ok(())
    }

    pub(super) fn forget(&mut self, at: &TopicBucket) {
        self.waiting.retain(|waiting| waiting.at != *at);
    }

    /// Gives all questions up: they must not outlive the client.
    pub(super) fn end(&mut self) {
        self.waiting.clear();
    }

    pub(super) fn is_waiting(&self, at: &TopicBucket) -> bool {
        self.waiting.iter().any(|waiting| waiting.at == *at)
    }

    /// What was answered since the last look.
    pub(super) fn look(&mut self) -> Vec<Decided> {
        let mut answered = Vec::new();
        self.waiting = std::mem::take(&mut self.waiting)
            .into_iter()
            .filter_map(|mut waiting| match waiting.question.poll() {
                None => Some(waiting),
                Some(answer) => {
                    answered.push((waiting.at, waiting.from, waiting.reason, answer));
                    None
                }
            })
            .collect();
        let decide = |(at, from, reason, answer)| match self.judged(&at, from, reason, answer) {
            Ok(()) => Decided::GoesOn(at, from),
            Err(error) => Decided::Fails(at, error),
        };
        answered.into_iter().map(decide).collect()
    }

    fn judged(
        &mut self,
        at: &TopicBucket,
        from: Offset,
        reason: String,
        answer: Result<Answer, LogError>,
    ) -> Result<(), LogError> {
        if answer.flatten()? {
            tracing::info!(topic = %at.topic, "the topic is compacted: offsets may be missing");
            self.compacted.insert(at.topic.clone());
            return Ok(());
        }
        Err(LogError::Damaged {
            topic: at.topic.to_string(),
            bucket: at.bucket,
            offset: from.0,
            reason: format!(
                "{reason}, and the topic is not compacted (of one that was, set cleanup.policy \
                 to compact,delete until its tables are past it)"
            ),
        })
    }
}

/// Asks whether a topic is compacted.
fn ask(client: &Arc<Client>, topic: &str) -> Result<Question<Answer>, LogError> {
    let name = c_string("topic", topic)?;
    let kind = rd::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBECONFIGS;
    let request = Request::new(client, kind, what(topic));
    // SAFETY: pointers are valid for the calls, which copy what they are given.
    unsafe {
        let resource = rd::rd_kafka_ConfigResource_new(
            rd::rd_kafka_ResourceType_t::RD_KAFKA_RESOURCE_TOPIC,
            name.as_ptr(),
        );
        let mut resources = [resource];
        rd::rd_kafka_DescribeConfigs(
            client.handle(),
            resources.as_mut_ptr(),
            resources.len(),
            request.options,
            request.queue,
        );
        rd::rd_kafka_ConfigResource_destroy(resource);
    }
    Ok(Question {
        request,
        read: is_compacted,
    })
}

fn what(topic: &str) -> String {
    format!("describe the settings of topic {topic}")
}

fn is_compacted(request: &Request) -> Answer {
    // SAFETY: everything that the answer points to lives as long as the event.
    unsafe {
        let result = rd::rd_kafka_event_DescribeConfigs_result(request.event);
        let mut count = 0;
        let resources = rd::rd_kafka_DescribeConfigs_result_resources(result, &raw mut count);
        if count == 0 {
            return Err(LogError::Client("describe settings: empty answer".into()));
        }
        let resource = *resources;
        let topic = text_of(rd::rd_kafka_ConfigResource_name(resource));
        match rd::rd_kafka_ConfigResource_error(resource) {
            RespErr::RD_KAFKA_RESP_ERR_NO_ERROR => {}
            RespErr::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED => {
                return Err(LogError::Denied(format!(
                    "{}, which tells whether offsets may be missing: allow DescribeConfigs on it",
                    what(&topic)
                )));
            }
            RespErr::RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART => {
                return Err(LogError::NoTopic(topic));
            }
            code => return Err(LogError::unavailable(what(&topic), describe(code))),
        }
        let entries = rd::rd_kafka_ConfigResource_configs(resource, &raw mut count);
        for index in 0..count {
            let entry = *entries.add(index);
            if text_of(rd::rd_kafka_ConfigEntry_name(entry)) == POLICY {
                let policy = text_of(rd::rd_kafka_ConfigEntry_value(entry));
                return Ok(policy.split(',').any(|part| part.trim() == "compact"));
            }
        }
    }
    // A log that has no such setting does not compact.
    Ok(false)
}
