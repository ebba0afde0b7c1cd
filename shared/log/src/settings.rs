//! Where the log is and how to reach it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Connection settings that every client of the log shares.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct KafkaSettings {
    /// `host:port`, comma-separated.
    pub bootstrap: String,
    /// First part of every topic's name.
    pub topic_prefix: String,
    /// Shown in the broker's logs and quotas.
    pub client_id: String,
    /// Passed to librdkafka as they are (`security.protocol`, `sasl.*`, `ssl.*`, …). What
    /// Tidelake's promises rest on (acknowledgements, idempotence, offset storage) can't be
    /// overridden.
    pub properties: BTreeMap<String, String>,
}

impl Default for KafkaSettings {
    fn default() -> Self {
        Self {
            bootstrap: "127.0.0.1:9092".into(),
            topic_prefix: "tidelake".into(),
            client_id: "tidelake".into(),
            properties: BTreeMap::new(),
        }
    }
}

impl KafkaSettings {
    /// Of consumers that are in no group: they say themselves what they read, and from where.
    pub(crate) fn properties_of_readers(&self) -> BTreeMap<String, String> {
        let fixed = [
            ("group.id", "tidelake-tail"),
            ("enable.auto.commit", "false"),
            ("enable.auto.offset.store", "false"),
            ("auto.offset.reset", "error"),
            ("enable.partition.eof", "true"),
            ("isolation.level", "read_committed"),
            ("check.crcs", "true"),
            ("queued.max.messages.kbytes", "16384"),
        ];
        let defaults = [
            ("fetch.wait.max.ms", "500"),
            ("fetch.queue.backoff.ms", "5"),
            ("queued.min.messages", "100000"),
            ("fetch.error.backoff.ms", "20"),
        ];
        self.properties(&defaults, &fixed)
    }

    /// librdkafka properties in rising precedence: `defaults`, the user's, `fixed`.
    pub(crate) fn properties(
        &self,
        defaults: &[(&str, &str)],
        fixed: &[(&str, &str)],
    ) -> BTreeMap<String, String> {
        let pairs = |list: &[(&str, &str)]| -> Vec<(String, String)> {
            list.iter()
                .map(|(key, value)| ((*key).into(), (*value).into()))
                .collect()
        };
        let mut all = BTreeMap::from([
            ("client.id".to_owned(), self.client_id.clone()),
            ("log.connection.close".to_owned(), "false".to_owned()),
            ("reconnect.backoff.ms".to_owned(), "50".to_owned()),
            ("reconnect.backoff.max.ms".to_owned(), "1000".to_owned()),
            ("socket.nagle.disable".to_owned(), "true".to_owned()),
        ]);
        all.extend(pairs(defaults));
        all.extend(self.properties.clone());
        all.extend(pairs(fixed));
        all.insert("bootstrap.servers".into(), self.bootstrap.clone());
        all
    }
}
