//! Learning what Tab completes.

use std::sync::PoisonError;
use std::time::Duration;

use super::Session;
use crate::moment;
use crate::sql::complete::Words;

/// Columns that are known for completion.
const WORDS_MAX: usize = 20_000;
/// So old may known words be.
const WORDS_AGE: Duration = Duration::from_secs(10);

impl Session<'_> {
    /// Asks for the words that Tab completes, beside what the person does.
    pub(super) fn learn_words(&mut self) {
        let known = self
            .words_of
            .is_some_and(|since| since.elapsed() < WORDS_AGE);
        if known {
            return;
        }
        self.words_of = Some(moment::now());
        let (client, words) = (self.client.clone(), self.words());
        tokio::spawn(async move {
            let sql = format!(
                "SELECT table_name, column_name FROM information_schema.columns \
                 ORDER BY table_name, ordinal_position LIMIT {WORDS_MAX}"
            );
            // Whoever types is not told: Tab completes less.
            let Ok(answer) = client.sql(&sql).await else {
                return;
            };
            let mut found = Words::default();
            for row in answer["rows"].as_array().into_iter().flatten() {
                if let (Some(table), Some(column)) = (row[0].as_str(), row[1].as_str()) {
                    let columns = found.0.entry(table.to_owned()).or_default();
                    columns.push(column.to_owned());
                }
            }
            *words.lock().unwrap_or_else(PoisonError::into_inner) = found;
        });
    }
}
