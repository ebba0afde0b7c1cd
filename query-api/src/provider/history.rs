//! `table_history`: the commits of a table, newest first, read as far as they are asked for.
//!
//! A few commits are in memory at a time, whatever the log holds. The rows are told to be in order of
//! their versions, so that `ORDER BY version DESC LIMIT …` reads no more commits than it shows.

use std::fmt;
use std::sync::Arc;

use datafusion::arrow::datatypes::SchemaRef;
use datafusion::catalog::streaming::StreamingTable;
use datafusion::error::DataFusionError;
use datafusion::execution::TaskContext;
use datafusion::logical_expr::col;
use datafusion::physical_plan::SendableRecordBatchStream;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::streaming::PartitionStream;
use tidelake_manifest::History;

use super::about;
use crate::error::QueryError;

/// Commits that one batch shows: at first few, since the newest is what most ask for.
const COMMITS_FIRST: usize = 1;
const COMMITS_MAX: usize = 16;

/// The commits as a table.
pub(crate) fn table(history: History) -> Result<StreamingTable, QueryError> {
    let commits = Commits {
        schema: about::history(&[])?.schema(),
        history,
    };
    let schema = Arc::clone(&commits.schema);
    let table = StreamingTable::try_new(schema, vec![Arc::new(commits)])?;
    Ok(table.with_sort_order(vec![col("version").sort(false, true)]))
}

struct Commits {
    schema: SchemaRef,
    history: History,
}

impl fmt::Debug for Commits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Commits").finish_non_exhaustive()
    }
}

impl PartitionStream for Commits {
    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn execute(&self, _: Arc<TaskContext>) -> SendableRecordBatchStream {
        let from = (self.history.clone(), COMMITS_FIRST);
        let batches = futures::stream::try_unfold(from, |(mut history, most)| async move {
            let commits = history.next(most).await.map_err(QueryError::from)?;
            if commits.is_empty() {
                return Ok(None);
            }
            let batch = about::history(&commits)?;
            let most = (most * 4).min(COMMITS_MAX);
            Ok::<_, DataFusionError>(Some((batch, (history, most))))
        });
        let schema = Arc::clone(&self.schema);
        Box::pin(RecordBatchStreamAdapter::new(schema, batches))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::settings::QuerySettings;
    use crate::testing::World;

    const SCHEMA: &str = r#"{"type": "struct", "fields": [
        {"name": "id", "type": "long", "required": true}]}"#;

    #[tokio::test]
    async fn all_commits_are_shown_and_few_are_read_for_the_newest() {
        let world = World::new(QuerySettings::default()).await;
        let mut table = world.table("t", SCHEMA, 1).await;
        let rows: Vec<_> = (0..45).map(|id| json!({"id": id})).collect();
        table.push(0, &rows);
        for end in 1..=45 {
            table.flush(0, end).await;
        }
        let ask = |sql: &str| json!({"sql": sql, "consistency": "committed"});
        let all = "SELECT count(*), min(version), max(version) FROM table_history('t')";
        assert_eq!(world.rows_of(ask(all)).await, json!([[46, 0, 45]]));
        let oldest = "SELECT version, operation FROM table_history('t') ORDER BY version LIMIT 1";
        assert_eq!(world.rows_of(ask(oldest)).await[0][0], json!(0));
        // What an old commit holds does not matter to who asks for the newest.
        let damaged = format!("_delta_log/{:020}.json", 3);
        table.delta.store().delete(&damaged).await.unwrap();
        table.delta.store().put(&damaged, "{".into()).await.unwrap();
        for sql in [
            "SELECT version, rows_added FROM table_history('t') LIMIT 1",
            "SELECT version, rows_added FROM table_history('t') ORDER BY version DESC LIMIT 1",
        ] {
            assert_eq!(world.rows_of(ask(sql)).await, json!([[45, 1]]), "{sql}");
        }
    }
}
