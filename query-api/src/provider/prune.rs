//! Which files can hold a row that passes the filters, by the manifest's statistics.

use std::collections::HashSet;
use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, BooleanArray, UInt64Array};
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::common::pruning::PruningStatistics;
use datafusion::common::{Column, ScalarValue};
use datafusion::error::Result;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_optimizer::pruning::{PruningPredicate, PruningPredicateBuilder};

use crate::table::files::{Bound, FileFacts};

/// Members of an `IN` list that are still compared with every file's bounds.
const IN_LIST_MAX: usize = 1000;
/// Parts of the files that are kept or pruned each for itself where not all can be at once.
const PARTS: usize = 64;

/// True for each file that must be read. A predicate that can't be turned into one over bounds keeps
/// every file.
pub(crate) fn keep(
    predicate: &Arc<dyn PhysicalExpr>,
    schema: &SchemaRef,
    files: &[Arc<FileFacts>],
) -> Result<Vec<bool>> {
    let built = PruningPredicateBuilder::new()
        .with_file_schema(Arc::clone(schema))
        .with_max_in_list_size(IN_LIST_MAX)
        .build(Arc::clone(predicate));
    match built {
        Some(pruning) => Ok(kept(&pruning, schema, files)),
        None => Ok(vec![true; files.len()]),
    }
}

/// Files of whose bounds the predicate can't be worked out are kept: one bound that a cast of the
/// predicate does not take is no reason to fail, or to read all others.
fn kept(pruning: &PruningPredicate, schema: &SchemaRef, files: &[Arc<FileFacts>]) -> Vec<bool> {
    let prune = |files: &[Arc<FileFacts>]| pruning.prune(&Bounds { schema, files });
    prune(files).unwrap_or_else(|_| {
        let parts = files.chunks(files.len().div_ceil(PARTS).max(1));
        let kept = parts.map(|part| prune(part).unwrap_or_else(|_| vec![true; part.len()]));
        kept.flatten().collect()
    })
}

/// Bounds of many files. Unlike DataFusion's own, wide bounds count too: they still exclude.
struct Bounds<'a> {
    schema: &'a SchemaRef,
    files: &'a [Arc<FileFacts>],
}

impl Bounds<'_> {
    fn values(
        &self,
        column: &Column,
        pick: impl Fn(&Bound) -> Option<&ScalarValue>,
    ) -> Option<ArrayRef> {
        let place = self.schema.index_of(column.name()).ok()?;
        let none = ScalarValue::try_from(self.schema.field(place).data_type()).ok()?;
        let mut known = false;
        let values = self.files.iter().map(|file| {
            match file.bounds().and_then(|bounds| pick(&bounds[place])) {
                Some(value) => {
                    known = true;
                    value.clone()
                }
                None => none.clone(),
            }
        });
        let values: Vec<_> = values.collect();
        if !known {
            return None;
        }
        ScalarValue::iter_to_array(values).ok()
    }
}

impl PruningStatistics for Bounds<'_> {
    fn min_values(&self, column: &Column) -> Option<ArrayRef> {
        self.values(column, |bound| bound.min.as_ref())
    }

    fn max_values(&self, column: &Column) -> Option<ArrayRef> {
        self.values(column, |bound| bound.max.as_ref())
    }

    fn num_containers(&self) -> usize {
        self.files.len()
    }

    /// Physical counts, deleted rows included, as are the row counts: the two are only compared.
    fn null_counts(&self, column: &Column) -> Option<ArrayRef> {
        let place = self.schema.index_of(column.name()).ok()?;
        let counts = self
            .files
            .iter()
            .map(|file| file.bounds().and_then(|b| b[place].nulls));
        Some(Arc::new(counts.collect::<UInt64Array>()))
    }

    fn row_counts(&self) -> Option<ArrayRef> {
        let counts = self.files.iter().map(|file| file.records());
        Some(Arc::new(counts.collect::<UInt64Array>()))
    }

    fn contained(&self, _: &Column, _: &HashSet<ScalarValue>) -> Option<BooleanArray> {
        None
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::settings::QuerySettings;
    use crate::testing::World;

    const SCHEMA: &str = r#"{"type": "struct", "fields": [
        {"name": "id", "type": "long", "required": true},
        {"name": "n", "type": "long", "required": false}]}"#;

    #[tokio::test]
    async fn a_bound_that_a_cast_does_not_take_keeps_its_file_and_others_are_pruned() {
        let world = World::new(QuerySettings::default()).await;
        let mut table = world.table("t", SCHEMA, 1).await;
        let row = |id: i64, n: i64| json!({"id": id, "n": n});
        table.push(0, &[row(1, 1), row(2, 2), row(0, 5_000_000_000), row(3, 3)]);
        for end in [1, 2, 4] {
            table.flush(0, end).await;
        }
        // The bound stays, and the filter never sees the value.
        table.delete("part-00003.parquet", &[0]).await;
        let pruned = || world.engine.metrics().files_pruned.get();
        let before = pruned();
        let sql = "SELECT id FROM t WHERE CAST(n AS decimal(5, 1)) > 2.5 ORDER BY id";
        let body = json!({"sql": sql, "consistency": "committed"});
        assert_eq!(world.rows_of(body).await, json!([[3]]));
        assert_eq!(pruned() - before, 2);
    }
}
