//! `table_changes`: the net difference between two versions.
//!
//! ```text
//!  snapshots ─► files of one only, files whose vectors differ ─► rows gone │ rows that came
//!            ─► union, by key ─► pairs ─► delete, insert, update_preimage, update_postimage
//! ```
//! What both versions share is never read. An upsert table's rows are matched by primary key; in an
//! append table a row is itself only. A row that compaction moved keeps its sequence: gone here and
//! new there, it cancels out. Rows that another engine wrote have none, so they never do.
//!
//! Both sides are read by the columns of the later version. Sorting spills; nothing else grows.

use std::collections::BTreeSet;
use std::sync::Arc;

use async_trait::async_trait;
use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::ScalarValue;
use datafusion::error::Result;
use datafusion::logical_expr::{Expr, TableProviderFilterPushDown, TableType};
use datafusion::physical_expr::expressions::{Column, Literal};
use datafusion::physical_plan::projection::ProjectionExec;
use datafusion::physical_plan::union::UnionExec;
use datafusion::physical_plan::{ExecutionPlan, PhysicalExpr};
use tidelake_manifest::vector::DeletedRows;
use tidelake_manifest::{DataFile, DeltaTable, Snapshot};

use super::pairs::{PairsExec, SIDE, Side};
use super::scan::{Candidates, PinnedRows};
use crate::error::QueryError;
use crate::table::facts::FileFacts;
use crate::table::files::Files;
use crate::table::shape::{SEQUENCE, Shape};

pub(crate) const CHANGE_TYPE: &str = "_change_type";
pub(crate) const COMMIT_VERSION: &str = "_commit_version";
/// Files whose vectors are in memory at a time, to be compared.
const FILES_COMPARED_MAX: usize = 256;

/// The difference between two versions of a table, as a table.
#[derive(Debug)]
pub(crate) struct Changes {
    /// What is needed to read rows; its files are those of neither side.
    rows: PinnedRows,
    table: Arc<DeltaTable>,
    differences: Vec<Difference>,
    /// Of each difference one file, for pruning.
    candidates: Arc<Files>,
    /// The later version's columns with the sequence behind them.
    shape: Arc<Shape>,
    /// Places of the primary key.
    key: Vec<usize>,
    schema: SchemaRef,
    to: i64,
}

/// A file that is not the same in both versions.
#[derive(Debug)]
struct Difference {
    from: Option<Arc<DataFile>>,
    to: Option<Arc<DataFile>>,
}

impl Difference {
    /// The later one, if it is still there. Both have the same rows, whichever of them count.
    fn file(&self) -> Option<&Arc<DataFile>> {
        self.to.as_ref().or(self.from.as_ref())
    }
}

/// Files of one side, each with the rows that count.
type Chosen = Vec<Arc<FileFacts>>;

impl Changes {
    /// `rows` reads the version `to`.
    pub(crate) fn new(
        rows: PinnedRows,
        table: Arc<DeltaTable>,
        from: &Snapshot,
        to: &Snapshot,
    ) -> std::result::Result<Self, QueryError> {
        if from.version() > to.version() {
            return Err(QueryError::Invalid(format!(
                "table_changes goes from an earlier version to a later one, not from {} to {}",
                from.version(),
                to.version()
            )));
        }
        let own = [CHANGE_TYPE, COMMIT_VERSION].map(str::to_owned);
        let schema = extended(&rows.shape.schema, &[], &own)?;
        let shape = Arc::new(rows.shape.with_sequence());
        let key = rows.shape.key();
        let differences = differences(from, to);
        let files = differences.iter().filter_map(Difference::file);
        let candidates = Files::new(&table, &shape, files.cloned().collect());
        Ok(Self {
            rows,
            table,
            differences,
            candidates: Arc::new(candidates),
            shape,
            key,
            schema,
            to: i64::try_from(to.version().0).unwrap_or(i64::MAX),
        })
    }

    /// True where a filter tells nothing that differs between the two rows of a pair.
    fn is_of_pairs(&self, filter: &Expr) -> bool {
        let columns = filter.column_refs();
        columns.iter().all(|column| {
            let place = self.rows.shape.schema.index_of(column.name()).ok();
            place.is_some_and(|place| self.key.is_empty() || self.key.contains(&place))
        })
    }

    /// The rows that are gone and those that came, as far as the filters need them.
    async fn sides(
        &self,
        state: &dyn Session,
        filters: &[Expr],
    ) -> std::result::Result<[Chosen; 2], QueryError> {
        let all = PinnedRows {
            shape: Arc::clone(&self.shape),
            files: Candidates::Pruned(Arc::clone(&self.candidates)),
            ..self.rows.clone()
        };
        let kept = all.kept(state, filters)?;
        let kept: BTreeSet<&str> = kept.iter().map(|file| file.name()).collect();
        let wanted = self.differences.iter();
        let is_kept = |file: &Arc<DataFile>| kept.contains(file.path());
        let wanted = wanted.filter(|difference| difference.file().is_some_and(is_kept));
        let whole = |file| Arc::new(FileFacts::new(&self.table, file, &self.shape));
        let mut sides = [Chosen::new(), Chosen::new()];
        let mut both = Vec::new();
        for difference in wanted {
            match (&difference.from, &difference.to) {
                (Some(from), Some(to)) => both.extend([Arc::clone(from), Arc::clone(to)]),
                (from, to) => {
                    sides[0].extend(from.as_ref().map(whole));
                    sides[1].extend(to.as_ref().map(whole));
                }
            }
        }
        let picked = |file, rows: DeletedRows| {
            let facts = FileFacts::picked(&self.table, file, &self.shape, rows);
            (facts.live_rows() != Some(0)).then(|| Arc::new(facts))
        };
        // A few at a time: a vector is not needed any more once it was compared.
        for both in both.chunks(2 * FILES_COMPARED_MAX) {
            let vectors = self.table.deleted_rows_of(both).await?;
            for (files, vectors) in both.chunks_exact(2).zip(vectors.chunks_exact(2)) {
                let [from, to] = [&files[0], &files[1]];
                let [before, after] = [&vectors[0], &vectors[1]];
                sides[0].extend(picked(from, after - before));
                sides[1].extend(picked(to, before - after));
            }
        }
        Ok(sides)
    }

    /// One side's rows: the columns at `places`, and which side they are of.
    async fn side(
        &self,
        state: &dyn Session,
        files: Chosen,
        side: Side,
        places: &Vec<usize>,
        filters: &[Expr],
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let rows = PinnedRows {
            shape: Arc::clone(&self.shape),
            files: Candidates::Chosen(Arc::new(files)),
            ..self.rows.clone()
        };
        let scan = rows.scan(state, Some(places), filters, None).await?;
        let schema = scan.schema();
        let columns = schema.fields().iter().enumerate().map(|(place, field)| {
            let column: Arc<dyn PhysicalExpr> = Arc::new(Column::new(field.name(), place));
            (column, field.name().clone())
        });
        let side: Arc<dyn PhysicalExpr> =
            Arc::new(Literal::new(ScalarValue::Int8(Some(side as i8))));
        let columns = columns.chain([(side, SIDE.to_owned())]);
        let columns: Vec<_> = columns.collect();
        Ok(Arc::new(ProjectionExec::try_new(columns, scan)?))
    }
}

#[async_trait]
impl TableProvider for Changes {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::Temporary
    }

    /// Filters that treat both rows of a pair alike spare files; all are applied again above.
    fn supports_filters_pushdown(
        &self,
        filters: &[&Expr],
    ) -> Result<Vec<TableProviderFilterPushDown>> {
        let support = filters.iter().map(|filter| match self.is_of_pairs(filter) {
            true => TableProviderFilterPushDown::Inexact,
            false => TableProviderFilterPushDown::Unsupported,
        });
        Ok(support.collect())
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        _limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let filters: Vec<Expr> = filters
            .iter()
            .filter(|filter| self.is_of_pairs(filter))
            .cloned()
            .collect();
        let columns = self.rows.shape.schema.fields().len();
        let wanted: Vec<usize> = match projection {
            Some(places) => places.clone(),
            None => (0..self.schema.fields().len()).collect(),
        };
        // What is asked for, what rows are matched by, and their sequence.
        let read: BTreeSet<usize> = wanted
            .iter()
            .copied()
            .filter(|place| *place < columns)
            .chain(self.key.iter().copied())
            .chain(columns..columns + SEQUENCE.len())
            .collect();
        let places: Vec<usize> = read.into_iter().collect();
        let at = |place: &usize| places.binary_search(place).unwrap_or_default();
        let sequence: Vec<usize> = (columns..columns + SEQUENCE.len()).collect();
        let key = if self.key.is_empty() {
            &sequence
        } else {
            &self.key
        };
        let key = key.iter().map(at).collect();
        let sequence = sequence.iter().map(at).collect();

        let [gone, came] = self.sides(state, &filters).await?;
        let sides = vec![
            self.side(state, gone, Side::Gone, &places, &filters)
                .await?,
            self.side(state, came, Side::Came, &places, &filters)
                .await?,
        ];
        let output = Arc::new(self.schema.project(&wanted)?);
        let version = ScalarValue::Int64(Some(self.to));
        let pairs = PairsExec::try_new(
            UnionExec::try_new(sides)?,
            key,
            sequence,
            !self.key.is_empty(),
            output,
            version,
        )?;
        Ok(Arc::new(pairs))
    }
}

/// The table's columns with those of ours around them; all that may be null stay so.
pub(super) fn extended(
    schema: &SchemaRef,
    before: &[String],
    behind: &[String],
) -> std::result::Result<SchemaRef, QueryError> {
    let mut own = before.iter().chain(behind);
    if let Some(taken) = own.find(|name| schema.index_of(name).is_ok()) {
        return Err(QueryError::Unsupported(format!(
            "the table has a column {taken:?} of its own, so its changes can't be shown"
        )));
    }
    let field = |name: &String| match name.as_str() {
        COMMIT_VERSION => Field::new(name, DataType::Int64, false),
        _ => Field::new(name, DataType::Utf8, false),
    };
    let columns = schema.fields().iter().map(|column| column.as_ref().clone());
    let fields = before.iter().map(field).chain(columns);
    let fields: Vec<Field> = fields.chain(behind.iter().map(field)).collect();
    Ok(Arc::new(Schema::new(fields)))
}

fn differences(from: &Snapshot, to: &Snapshot) -> Vec<Difference> {
    let vector = |file: &DataFile| {
        file.dv()
            .map(tidelake_manifest::VectorDescriptor::unique_id)
    };
    let mut found = Vec::new();
    for file in to.files() {
        let before = from.file(file.path());
        let same = before
            .is_some_and(|before| Arc::ptr_eq(before, file) || vector(before) == vector(file));
        if !same {
            found.push(Difference {
                from: before.cloned(),
                to: Some(Arc::clone(file)),
            });
        }
    }
    let gone = from.files().filter(|file| to.file(file.path()).is_none());
    found.extend(gone.map(|file| Difference {
        from: Some(Arc::clone(file)),
        to: None,
    }));
    found
}
