//! Which files can hold a row that passes the filters, by the manifest's statistics.

use std::collections::HashSet;
use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, BooleanArray, UInt64Array};
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::common::pruning::PruningStatistics;
use datafusion::common::{Column, ScalarValue};
use datafusion::error::Result;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_optimizer::pruning::PruningPredicateBuilder;

use crate::table::files::{Bound, FileFacts};

/// Members of an `IN` list that are still compared with every file's bounds.
const IN_LIST_MAX: usize = 1000;

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
        Some(pruning) => pruning.prune(&Bounds { schema, files }),
        None => Ok(vec![true; files.len()]),
    }
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
