//! Which files can hold a row that passes the filters, by the manifest's statistics.

use std::collections::HashSet;
use std::ops::Range;
use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, BooleanArray};
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::common::pruning::PruningStatistics;
use datafusion::common::{Column, ScalarValue};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_optimizer::pruning::{PruningPredicate, PruningPredicateBuilder};

use crate::table::column_bounds::ColumnBounds;
use crate::table::facts::FileFacts;
use crate::table::files::Files;
use crate::table::segment::Segment;

/// Members of an `IN` list that are still compared with every file's bounds.
const IN_LIST_MAX: usize = 1000;
/// Parts of a segment that are kept or pruned each for itself where not all can be at once.
const PARTS: usize = 64;

/// The files that must be read. A predicate that can't be turned into one over bounds keeps every
/// file.
pub(crate) fn keep(
    predicate: &Arc<dyn PhysicalExpr>,
    schema: &SchemaRef,
    files: &Files,
) -> Vec<Arc<FileFacts>> {
    let pruning = PruningPredicateBuilder::new()
        .with_file_schema(Arc::clone(schema))
        .with_max_in_list_size(IN_LIST_MAX)
        .build(Arc::clone(predicate));
    let Some(pruning) = pruning else {
        return files.iter().map(Arc::new).collect();
    };
    let mut kept = Vec::new();
    for segment in files.segments() {
        let keep = kept_of(&pruning, schema, segment).into_iter().enumerate();
        let keep = keep.filter(|(_, keep)| *keep);
        kept.extend(keep.map(|(place, _)| Arc::new(files.facts(segment, place))));
    }
    kept
}

/// Files of whose bounds the predicate can't be worked out are kept: one bound that a cast of the
/// predicate does not take is no reason to fail, or to read all others.
fn kept_of(pruning: &PruningPredicate, schema: &SchemaRef, segment: &Segment) -> Vec<bool> {
    let prune = |files: Range<usize>| {
        let bounds = Bounds {
            schema,
            segment,
            files,
        };
        pruning.prune(&bounds)
    };
    let all = segment.len();
    prune(0..all).unwrap_or_else(|_| {
        let step = all.div_ceil(PARTS).max(1);
        let parts = (0..all)
            .step_by(step)
            .map(|from| from..all.min(from + step));
        let kept = parts.map(|part| prune(part.clone()).unwrap_or_else(|_| vec![true; part.len()]));
        kept.flatten().collect()
    })
}

/// Bounds of some files of a segment. Unlike DataFusion's own, wide bounds count too: they still
/// exclude.
struct Bounds<'a> {
    schema: &'a SchemaRef,
    segment: &'a Segment,
    files: Range<usize>,
}

impl Bounds<'_> {
    fn array(
        &self,
        column: &Column,
        pick: impl Fn(&ColumnBounds) -> Option<&ArrayRef>,
    ) -> Option<ArrayRef> {
        let place = self.schema.index_of(column.name()).ok()?;
        let array = pick(self.segment.column(place)?)?;
        Some(array.slice(self.files.start, self.files.len()))
    }
}

impl PruningStatistics for Bounds<'_> {
    fn min_values(&self, column: &Column) -> Option<ArrayRef> {
        self.array(column, |bounds| bounds.least.as_ref())
    }

    fn max_values(&self, column: &Column) -> Option<ArrayRef> {
        self.array(column, |bounds| bounds.greatest.as_ref())
    }

    fn num_containers(&self) -> usize {
        self.files.len()
    }

    /// Physical counts, deleted rows included, as are the row counts: the two are only compared.
    fn null_counts(&self, column: &Column) -> Option<ArrayRef> {
        self.array(column, |bounds| bounds.nulls.as_ref())
    }

    fn row_counts(&self) -> Option<ArrayRef> {
        let counts = self.segment.records();
        Some(Arc::new(counts.slice(self.files.start, self.files.len())))
    }

    fn contained(&self, _: &Column, _: &HashSet<ScalarValue>) -> Option<BooleanArray> {
        None
    }
}

#[cfg(test)]
mod tests;
