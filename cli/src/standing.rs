//! What flushers say of tables: how old what they have not committed is, and why tables stand still.
//!
//! Read from a flusher's `/metrics`, which it answers while its tables are stopped, too. A table's
//! buckets may be spread over several flushers: its oldest record counts, and every reason.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use crate::Global;
use crate::client::Client;
use crate::output::note;

/// Of one table.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Standing {
    /// Age of the oldest record that no commit covers; 0 where all are covered.
    pub freshness_s: Option<f64>,
    /// Messages that no commit covers, also in partitions that are none of the table's buckets.
    pub lag_records: Option<u64>,
    /// The causes' stable words.
    pub stopped: BTreeSet<String>,
}

/// By tenant and table.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Standings(BTreeMap<(String, String), Standing>);

impl Standings {
    /// Asks all flushers. Who does not answer is named on standard error: of its tables nothing is
    /// known then.
    pub(crate) async fn ask(client: &Client, global: &Global) -> Self {
        let mut found = Self::default();
        let answers = global.flushers().into_iter().map(|url| async move {
            let text = client.text_at(url, "/metrics").await;
            (url, text)
        });
        for (url, text) in futures::future::join_all(answers).await {
            match text {
                Ok(text) => found.take(&text),
                Err(failure) => note(&format!(
                    "the age of tables is not known: flusher {url}: {}",
                    failure.message
                )),
            }
        }
        found
    }

    pub(crate) fn of(&self, tenant: &str, table: &str) -> Option<&Standing> {
        self.0.get(&(tenant.to_owned(), table.to_owned()))
    }

    /// Tables that stand still: tenant, table, and what is known of it.
    pub(crate) fn stopped(&self) -> impl Iterator<Item = (&str, &str, &Standing)> {
        let stopped = self.0.iter().filter(|(_, found)| !found.stopped.is_empty());
        stopped.map(|((tenant, table), found)| (tenant.as_str(), table.as_str(), found))
    }

    #[cfg(test)]
    pub(crate) fn of_page(page: &str) -> Self {
        let mut found = Self::default();
        found.take(page);
        found
    }

    /// Takes in a page in the Prometheus text format.
    fn take(&mut self, page: &str) {
        for line in page.lines() {
            let Some((name, labels, value)) = sample(line) else {
                continue;
            };
            let (Some(tenant), Some(table)) = (labels.get("tenant"), labels.get("table")) else {
                continue;
            };
            let key = ((*tenant).to_owned(), (*table).to_owned());
            match name {
                "tidelake_table_freshness_seconds" => {
                    let known = &mut self.0.entry(key).or_default().freshness_s;
                    *known = Some(known.map_or(value, |known| known.max(value)));
                }
                "tidelake_table_lag_records" => {
                    let known = &mut self.0.entry(key).or_default().lag_records;
                    *known = Some(known.unwrap_or(0) + value.max(0.0) as u64);
                }
                "tidelake_table_stopped" if value > 0.0 => {
                    let reason = labels.get("reason").copied().unwrap_or("unknown");
                    let stopped = &mut self.0.entry(key).or_default().stopped;
                    stopped.insert(reason.to_owned());
                }
                _ => {}
            }
        }
    }
}

impl Standing {
    /// Rounded as people read it.
    pub(crate) fn freshness(&self) -> Value {
        self.freshness_s
            .map_or(Value::Null, |age| json!((age * 10.0).round() / 10.0))
    }

    pub(crate) fn reasons(&self) -> Value {
        if self.stopped.is_empty() {
            return Value::Null;
        }
        let reasons: Vec<_> = self.stopped.iter().map(String::as_str).collect();
        json!(reasons.join(", "))
    }
}

/// Name, labels and value of a line. Names of tenants, tables and reasons need no escapes.
fn sample(line: &str) -> Option<(&str, BTreeMap<&str, &str>, f64)> {
    let (name, rest) = line.split_once('{')?;
    let (labels, value) = rest.split_once('}')?;
    let labels = labels.split(',').filter_map(|label| {
        let (name, value) = label.split_once('=')?;
        Some((name.trim(), value.trim().trim_matches('"')))
    });
    Some((name, labels.collect(), value.trim().parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = "# HELP tidelake_table_stopped 1 for each reason\n\
        # TYPE tidelake_table_stopped gauge\n\
        tidelake_table_stopped{reason=\"topic_replaced\",table=\"orders\",tenant=\"default\"} 1\n\
        tidelake_table_freshness_seconds{table=\"orders\",tenant=\"default\"} 12.34\n\
        tidelake_table_lag_records{table=\"orders\",tenant=\"default\"} 20\n\
        tidelake_table_freshness_seconds{table=\"calm\",tenant=\"default\"} 0\n\
        process_threads 5\n";

    #[test]
    fn a_stopped_table_is_told_by_name_reason_and_age() {
        let found = Standings::of_page(PAGE);
        let stopped: Vec<_> = found.stopped().collect();
        assert_eq!(stopped.len(), 1);
        let (tenant, table, standing) = stopped[0];
        assert_eq!((tenant, table), ("default", "orders"));
        assert_eq!(standing.reasons(), json!("topic_replaced"));
        assert_eq!(standing.freshness(), json!(12.3));
        let calm = found.of("default", "calm").unwrap();
        assert_eq!(
            (calm.freshness(), calm.reasons()),
            (json!(0.0), Value::Null)
        );
        assert_eq!(found.of("other", "orders"), None);
    }

    #[test]
    fn of_several_flushers_the_oldest_record_and_every_reason_count() {
        let mut found = Standings::of_page(PAGE);
        found.take(
            "tidelake_table_stopped{reason=\"denied\",table=\"orders\",tenant=\"default\"} 1\n\
             tidelake_table_lag_records{table=\"orders\",tenant=\"default\"} 2\n\
             tidelake_table_freshness_seconds{table=\"orders\",tenant=\"default\"} 3\n",
        );
        let orders = found.of("default", "orders").unwrap();
        assert_eq!(orders.freshness(), json!(12.3));
        assert_eq!(orders.reasons(), json!("denied, topic_replaced"));
        assert_eq!(orders.lag_records, Some(22));
    }
}
