//! What is pruned, against all rows of all files.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use datafusion::arrow::array::{
    ArrayRef, AsArray, Float64Array, Int64Array, RecordBatch, StringArray, StringViewArray,
};
use datafusion::common::stats::Precision;
use datafusion::common::{DFSchema, ScalarValue};
use datafusion::logical_expr::{Expr, col, lit, not};
use datafusion::prelude::SessionContext;
use proptest::prelude::*;
use serde_json::json;
use tidelake_core::{clock, ids};
use tidelake_manifest::action::TAG_LEVEL;
use tidelake_manifest::stats::widened;
use tidelake_manifest::{Add, DataFile, DeltaTable, FileChanges, Metadata, StatsCollector, vector};
use tidelake_schema::TableSchema;
use tidelake_storage::{Store, StoreOptions};

use super::*;
use crate::settings::QuerySettings;
use crate::table::shape::Shape;
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

const COLUMNS: &str = r#"{"type": "struct", "fields": [
    {"name": "n", "type": "long", "required": false},
    {"name": "x", "type": "double", "required": false},
    {"name": "s", "type": "string", "required": false}]}"#;

/// Who wrote a file, and what it says of its rows.
#[derive(Debug, Clone, Copy)]
enum Writer {
    /// Keeps NaN in mind, and says that it does.
    Ours,
    /// Leaves NaN out of its bounds.
    Foreign,
    /// Writes no statistics.
    Silent,
}

type Row = (Option<i64>, Option<f64>, Option<u8>);

#[derive(Debug, Clone)]
struct Content {
    rows: Vec<Row>,
    writer: Writer,
    dead: BTreeSet<usize>,
}

/// Files that come, and what happens to some that are there.
#[derive(Debug, Clone)]
struct Step {
    come: Vec<Content>,
    go: Vec<prop::sample::Index>,
    lose_rows: Vec<(prop::sample::Index, BTreeSet<usize>)>,
    /// Somebody asks for bounds of this version.
    asked: bool,
}

fn content() -> impl Strategy<Value = Content> {
    let float = prop_oneof![4 => (-5i8..5).prop_map(f64::from), 1 => Just(f64::NAN)];
    let row = (
        prop::option::weighted(0.7, -5i64..5),
        prop::option::weighted(0.7, float),
        prop::option::weighted(0.7, 0u8..5),
    );
    let writer = prop_oneof![
        Just(Writer::Ours),
        Just(Writer::Foreign),
        Just(Writer::Silent)
    ];
    let dead = prop_oneof![
        Just(BTreeSet::new()),
        prop::collection::btree_set(0usize..5, 0..5)
    ];
    (prop::collection::vec(row, 1..5), writer, dead).prop_map(|(rows, writer, dead)| Content {
        dead: dead.into_iter().filter(|row| *row < rows.len()).collect(),
        rows,
        writer,
    })
}

fn step() -> impl Strategy<Value = Step> {
    let index = any::<prop::sample::Index>;
    let rows = prop::collection::btree_set(0usize..5, 1..3);
    (
        prop::collection::vec(content(), 0..12),
        prop::collection::vec(index(), 0..4),
        prop::collection::vec((index(), rows), 0..4),
        any::<bool>(),
    )
        .prop_map(|(come, go, lose_rows, asked)| Step {
            come,
            go,
            lose_rows,
            asked,
        })
}

fn stored(rows: &[Row]) -> RecordBatch {
    let text = |s: u8| format!("value {s}");
    let columns: [(&str, ArrayRef); 3] = [
        (
            "n",
            Arc::new(rows.iter().map(|row| row.0).collect::<Int64Array>()),
        ),
        (
            "x",
            Arc::new(rows.iter().map(|row| row.1).collect::<Float64Array>()),
        ),
        (
            "s",
            Arc::new(
                rows.iter()
                    .map(|row| row.2.map(text))
                    .collect::<StringArray>(),
            ),
        ),
    ];
    RecordBatch::try_from_iter_with_nullable(columns.map(|(name, array)| (name, array, true)))
        .unwrap()
}

impl Content {
    fn file(&self, path: &str) -> Arc<DataFile> {
        let gather = |rows: &[Row]| {
            let mut stats = StatsCollector::new(32);
            stats.update(&stored(rows));
            stats.finish()
        };
        let stats = match self.writer {
            Writer::Ours => Some(gather(&self.rows)),
            Writer::Foreign => {
                let known = |x: Option<f64>| x.filter(|x| !x.is_nan());
                let rows = self.rows.iter().map(|(n, x, s)| (*n, known(*x), *s));
                let mut stats = gather(&rows.collect::<Vec<_>>());
                stats.null_count = gather(&self.rows).null_count;
                Some(stats)
            }
            Writer::Silent => None,
        };
        let stats = stats.map(|stats| stats.to_json());
        let dead = self.dead.iter().map(|row| *row as u64);
        let add = Add {
            path: path.to_owned(),
            size: 1,
            stats: match self.dead.is_empty() {
                true => stats,
                false => Some(widened(stats.as_deref(), self.rows.len() as u64)),
            },
            tags: matches!(self.writer, Writer::Ours)
                .then(|| BTreeMap::from([(TAG_LEVEL.to_owned(), Some("0".to_owned()))])),
            deletion_vector: (!self.dead.is_empty()).then(|| vector::inline(&dead.collect())),
            ..Add::default()
        };
        Arc::new(DataFile::of(add).unwrap())
    }

    /// Rows that count.
    fn live(&self) -> Vec<Row> {
        let rows = self.rows.iter().enumerate();
        let live = rows.filter(|(place, _)| !self.dead.contains(place));
        live.map(|(_, row)| *row).collect()
    }
}

/// A version by version, as the arrays have it and as its files are.
struct Versions {
    table: Arc<DeltaTable>,
    shape: Arc<Shape>,
    files: Files,
    model: BTreeMap<String, Content>,
    named: usize,
}

impl Versions {
    fn apply(&mut self, step: &Step) {
        let mut changes = FileChanges::default();
        let before = self.model.clone();
        let names: Vec<&String> = before.keys().collect();
        for (index, rows) in step.lose_rows.iter().filter(|_| !names.is_empty()) {
            let content = self.model.get_mut(index.get(&names).as_str()).unwrap();
            let rows = rows.iter().filter(|row| **row < content.rows.len());
            content.dead.extend(rows);
        }
        for index in step.go.iter().filter(|_| !names.is_empty()) {
            self.model.remove(index.get(&names).as_str());
        }
        for content in &step.come {
            // Names in no order of time.
            let name = format!("{:02}-{}.parquet", self.named * 37 % 100, self.named);
            self.named += 1;
            self.model.insert(name, content.clone());
        }
        for (name, old) in &before {
            let new = self.model.get(name);
            if new.is_none_or(|new| new.dead != old.dead) {
                changes.gone.push(old.file(name));
                changes.came.extend(new.map(|new| new.file(name)));
            }
        }
        let new = self
            .model
            .iter()
            .filter(|(name, _)| !before.contains_key(*name));
        changes
            .came
            .extend(new.map(|(name, content)| content.file(name)));
        self.files = self.files.after(&self.table, changes);
    }

    fn check(&self, filters: &[Arc<dyn PhysicalExpr>]) {
        let files = &self.files;
        let names: BTreeSet<String> = files.iter().map(|file| file.name().to_owned()).collect();
        assert_eq!(names, self.model.keys().cloned().collect());
        assert_eq!(files.len(), self.model.len());
        let counted = self.model.values().map(|content| match content.writer {
            Writer::Silent if content.dead.is_empty() => None,
            _ => Some(content.live().len() as u64),
        });
        assert_eq!(files.live_rows(), counted.sum());
        for (name, content) in &self.model {
            let facts = files.find(name).unwrap();
            let alone = FileFacts::new(&self.table, &content.file(name), &self.shape);
            for place in 0..3 {
                assert_eq!(facts.bound(place), alone.bound(place), "{name} {place}");
            }
            let told = !matches!(content.writer, Writer::Silent);
            let values = content.rows.iter().filter_map(|row| row.0);
            let bound = facts.bound(0);
            let long = |value: Option<i64>| value.map(|value| ScalarValue::Int64(Some(value)));
            assert_eq!(bound.min, long(values.clone().min().filter(|_| told)));
            assert_eq!(bound.max, long(values.clone().max().filter(|_| told)));
            let nulls = content.rows.len() - values.count();
            assert_eq!(bound.nulls, told.then_some(nulls as u64));
            assert_eq!(bound.exact, told && content.dead.is_empty());
        }
        for filter in filters {
            self.check_pruning(filter);
        }
        if files.is_whole() {
            self.check_totals(files, &self.model.values().collect::<Vec<_>>());
        }
        let whole = self
            .model
            .iter()
            .filter(|(_, content)| content.dead.is_empty());
        let (whole, contents): (Vec<_>, Vec<_>) = whole
            .map(|(name, content)| (content.file(name), content))
            .unzip();
        self.check_totals(&Files::new(&self.table, &self.shape, whole), &contents);
    }

    /// Sums and ends of all files together, none of which has deleted rows.
    fn check_totals(&self, files: &Files, contents: &[&Content]) {
        let all = files.statistics(&BTreeSet::from([0, 1]));
        let told = contents
            .iter()
            .all(|content| !matches!(content.writer, Writer::Silent));
        let rows = contents.iter().flat_map(|content| &content.rows);
        let exact = |count: usize| match told {
            true => Precision::Exact(count),
            false => Precision::Absent,
        };
        let nulls = rows.clone().filter(|row| row.0.is_none()).count();
        assert_eq!(all.num_rows, exact(rows.clone().count()));
        let longs = &all.column_statistics[0];
        assert_eq!(longs.null_count, exact(nulls));
        let end = |value: Option<i64>| match value.filter(|_| told) {
            Some(value) => Precision::Exact(ScalarValue::Int64(Some(value))),
            None => Precision::Absent,
        };
        let values = rows.filter_map(|row| row.0);
        assert_eq!(longs.min_value, end(values.clone().min()));
        assert_eq!(longs.max_value, end(values.max()));
        let floats = &all.column_statistics[1];
        for wide in [&floats.min_value, &floats.max_value] {
            assert_ne!(wide.is_exact(), Some(true));
        }
    }

    fn check_pruning(&self, filter: &Arc<dyn PhysicalExpr>) {
        let schema = &self.shape.schema;
        let kept = keep(filter, schema, &self.files);
        let kept: BTreeSet<&str> = kept.iter().map(|file| file.name()).collect();
        for (name, content) in &self.model {
            let alone = Files::new(&self.table, &self.shape, vec![content.file(name)]);
            let alone = !keep(filter, schema, &alone).is_empty();
            assert_eq!(
                kept.contains(name.as_str()),
                alone,
                "{filter} {name} {content:?}"
            );
            let live = content.live();
            if live.is_empty() {
                continue;
            }
            let batch = stored(&live);
            let texts: StringViewArray = batch.column(2).as_string::<i32>().iter().collect();
            let mut columns = batch.columns().to_vec();
            columns[2] = Arc::new(texts);
            let batch = RecordBatch::try_new(Arc::clone(schema), columns).unwrap();
            let passed = filter
                .evaluate(&batch)
                .unwrap()
                .into_array(live.len())
                .unwrap();
            let passes = passed.as_boolean().true_count() > 0;
            assert!(alone || !passes, "{filter} leaves out {name} {content:?}");
        }
    }
}

fn filters(k: i64) -> Vec<Expr> {
    let float = || lit(k as f64);
    vec![
        col("n").gt(lit(k)),
        col("n").eq(lit(k)),
        col("n").is_null(),
        col("n").is_not_null(),
        col("n").in_list(vec![lit(k), lit(k + 3)], false),
        col("x").gt(float()),
        col("x").not_eq(float()),
        not(col("x").lt_eq(float())),
        col("x").lt(float()).and(col("n").gt_eq(lit(k))),
        col("s").eq(lit(format!("value {k}"))),
        col("s").gt(lit(format!("value {k}"))),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn arrays_that_go_from_version_to_version_say_what_the_files_say(
        steps in prop::collection::vec(step(), 1..12),
        k in -5i64..5,
    ) {
        let store = Store::open("memory:///", &StoreOptions::default()).unwrap();
        let clock = Arc::new(clock::ManualClock::at(0));
        let table = Arc::new(DeltaTable::new(store.scoped("t"), clock, ids::random()));
        let schema = TableSchema::from_iceberg_json(COLUMNS).unwrap();
        let shape = Arc::new(Shape::new(Arc::new(schema), &Metadata::default()).unwrap());
        let df_schema = DFSchema::try_from(Arc::clone(&shape.schema)).unwrap();
        let state = SessionContext::new().state();
        let filters = filters(k).into_iter();
        let filters = filters.map(|filter| state.create_physical_expr(filter, &df_schema).unwrap());
        let filters: Vec<_> = filters.collect();
        let mut versions = Versions {
            files: Files::new(&table, &shape, Vec::new()),
            table,
            shape,
            model: BTreeMap::new(),
            named: 0,
        };
        let last = steps.len() - 1;
        for (number, step) in steps.iter().enumerate() {
            versions.apply(step);
            if step.asked || number == last {
                versions.check(&filters);
            }
        }
    }
}
