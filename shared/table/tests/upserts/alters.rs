//! Other engines change the columns: what the rows of a history look like then.
//!
//! Beside the key and the value a table gets further columns. Each holds the value and its own
//! number: so a column that got another's values, or none, shows.

use serde_json::{Value, json};
use tidelake_manifest::{Metadata, with_column_mapping};
use tidelake_schema::delta::{PhysicalNames, physical_name};

use super::*;

const MAPPING_MODE: &str = "delta.columnMapping.mode";
const MAX_COLUMN_ID: &str = "delta.columnMapping.maxColumnId";
const PHYSICAL_NAME: &str = "delta.columnMapping.physicalName";
/// Columns of a table at most.
const COLUMNS_MAX: usize = 7;

#[derive(Debug, Clone)]
pub(super) enum Change {
    Add { front: bool },
    Rename { column: usize },
    Drop { column: usize },
    Rotate { by: usize },
}

pub(super) fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        3 => any::<bool>().prop_map(|front| Change::Add { front }),
        1 => any::<usize>().prop_map(|column| Change::Rename { column }),
        1 => any::<usize>().prop_map(|column| Change::Drop { column }),
        1 => any::<usize>().prop_map(|by| Change::Rotate { by }),
    ]
}

/// The columns of one version.
pub(super) struct Columns {
    schema: Arc<TableSchema>,
    names: Arc<PhysicalNames>,
}

impl Columns {
    pub(super) fn of(snapshot: &Snapshot) -> Self {
        Self {
            schema: Arc::clone(snapshot.schema()),
            names: Arc::clone(snapshot.physical_names()),
        }
    }

    /// Those that the table was made with.
    pub(super) fn first(schema: &TableSchema) -> Self {
        Self {
            schema: Arc::new(schema.clone()),
            names: Arc::default(),
        }
    }

    /// Rows of all columns; `keys` are in the order in which the table was made.
    pub(super) fn rows(&self, keys: Vec<ArrayRef>, values: &[Option<i64>]) -> RecordBatch {
        let column = |name: &str| match name {
            "k" => Arc::clone(&keys[0]),
            "n" => Arc::clone(&keys[1]),
            "v" => Arc::new(Int64Array::from(values.to_vec())) as ArrayRef,
            extra => Arc::new(
                values
                    .iter()
                    .map(|value| expected(extra, *value))
                    .collect::<Int64Array>(),
            ),
        };
        let fields = self.schema.fields.iter();
        let columns = fields.map(|field| column(physical_name(field, &self.names)));
        RecordBatch::try_new(to_arrow(&self.schema), columns.collect()).unwrap()
    }

    /// The key's columns, in key order.
    pub(super) fn keys(&self, columns: Vec<ArrayRef>) -> RecordBatch {
        let own = to_arrow(&self.schema);
        let fields = self.schema.identifier_fields();
        let fields: Vec<_> = fields
            .iter()
            .map(|field| Arc::new(own.field_with_name(&field.name).unwrap().clone()))
            .collect();
        let schema = Arc::new(arrow::datatypes::Schema::new(fields));
        RecordBatch::try_new(schema, columns).unwrap()
    }
}

/// What the column of that physical name holds in a row of that value.
fn expected(name: &str, value: Option<i64>) -> Option<i64> {
    let number: i64 = name.rsplit('x').next().unwrap().parse().unwrap();
    value.map(|value| value.wrapping_add(1000 * number))
}

fn is_extra(name: &str) -> bool {
    name.starts_with('x') || name.starts_with("col-x")
}

fn is_mapped(metadata: &Metadata) -> bool {
    let mode = metadata.configuration.get(MAPPING_MODE);
    mode.is_some_and(|mode| mode != "none")
}

/// True where rows that were decoded by the one have all columns of the other, and no more.
pub(super) fn same_columns(decoded_by: &Snapshot, base: &Snapshot) -> bool {
    let columns = |snapshot: &Snapshot| {
        let name = |field: &tidelake_schema::Field| match is_mapped(base.metadata()) {
            true => field.id.to_string(),
            false => field.name.clone(),
        };
        let mut columns: Vec<_> = snapshot.schema().fields.iter().map(name).collect();
        columns.sort();
        columns
    };
    columns(decoded_by) == columns(base)
}

impl World {
    /// Another engine changes the columns as it likes.
    pub(super) async fn alter(&mut self, change: impl FnOnce(&mut Vec<Value>)) {
        let base = self.latest().await;
        let mut schema: Value = serde_json::from_str(&base.metadata().schema_string).unwrap();
        change(schema["fields"].as_array_mut().unwrap());
        let metadata = Metadata {
            schema_string: schema.to_string(),
            ..base.metadata().clone()
        };
        self.commit_metadata(&base, vec![Action::Metadata(metadata)])
            .await;
    }

    async fn commit_metadata(&mut self, base: &Snapshot, mut actions: Vec<Action>) {
        actions.insert(0, Action::CommitInfo(CommitInfo::default()));
        self.altered = base.version().next().0;
        let name = format!("_delta_log/{:020}.json", self.altered);
        let bytes = write_commit(&actions);
        self.table.store().put(&name, bytes.into()).await.unwrap();
    }

    /// Another engine changes the columns; column mapping is turned on where that needs it.
    pub(super) async fn change(&mut self, change: &Change) {
        let base = self.latest().await;
        let needs_mapping = matches!(change, Change::Rename { .. } | Change::Drop { .. });
        let (protocol, mut metadata) = if needs_mapping {
            with_column_mapping(base.protocol(), base.metadata(), base.schema())
        } else {
            (base.protocol().clone(), base.metadata().clone())
        };
        let mut schema: Value = serde_json::from_str(&metadata.schema_string).unwrap();
        let fields = schema["fields"].as_array_mut().unwrap();
        match change {
            Change::Add { front } => {
                if fields.len() == COLUMNS_MAX {
                    return;
                }
                self.extras += 1;
                let added = added_field(self.extras, &mut metadata);
                fields.insert(if *front { 0 } else { fields.len() }, added);
            }
            Change::Rename { column } => {
                self.extras += 1;
                let at = column % fields.len();
                fields[at]["name"] = format!("renamed{}", self.extras).into();
            }
            Change::Drop { column } => {
                let physical = |field: &Value| {
                    let name = field["metadata"][PHYSICAL_NAME].as_str();
                    is_extra(name.unwrap_or_default())
                };
                let extras: Vec<_> = (0..fields.len())
                    .filter(|at| physical(&fields[*at]))
                    .collect();
                if extras.is_empty() {
                    return;
                }
                fields.remove(extras[column % extras.len()]);
            }
            Change::Rotate { by } => {
                let by = by % fields.len();
                fields.rotate_left(by);
            }
        }
        metadata.schema_string = schema.to_string();
        if metadata == *base.metadata() {
            return;
        }
        let mut actions = vec![Action::Metadata(metadata)];
        if protocol != *base.protocol() {
            actions.insert(0, Action::Protocol(protocol));
        }
        self.commit_metadata(&base, actions).await;
    }

    /// Further columns of a file hold what belongs to the value of their row, or nothing: in a row
    /// that is older than the column, or that another engine wrote anew.
    pub(super) fn check_extras(&self, batch: &RecordBatch) {
        let values = batch.column_by_name("v").unwrap();
        let values = values.as_primitive::<Int64Type>();
        for (field, column) in batch.schema().fields().iter().zip(batch.columns()) {
            if !is_extra(field.name()) {
                continue;
            }
            let column = column.as_primitive::<Int64Type>();
            for (found, value) in column.iter().zip(values.iter()) {
                let right = found.is_none() || found == expected(field.name(), value);
                assert!(right, "{} has {found:?} beside {value:?}", field.name());
            }
        }
    }

    /// A writer's newest files have all columns of the table, with all of their values.
    pub(super) async fn check_new_files(&self, before: &Snapshot, writer: usize) {
        let now = &self.writers[writer].base;
        // Those of other engines have no key index beside them.
        let ours = |file: &&Arc<DataFile>| {
            before.file(file.path()).is_none() && file.tag(TAG_INDEX).is_some()
        };
        for file in now.files().filter(ours) {
            let bytes = self.table.store().get(file.path()).await.unwrap();
            let reader = ParquetRecordBatchReaderBuilder::try_new(bytes).unwrap();
            for batch in reader.build().unwrap() {
                let batch = batch.unwrap();
                let values = batch.column_by_name("v").unwrap();
                let values = values.as_primitive::<Int64Type>();
                for field in &now.schema().fields {
                    let name = physical_name(field, now.physical_names());
                    let column = batch.column_by_name(name).expect("every column");
                    if is_extra(name) {
                        let column = column.as_primitive::<Int64Type>();
                        let right = values.iter().map(|value| expected(name, value));
                        assert!(column.iter().eq(right), "{name}");
                    }
                }
            }
        }
    }
}

/// A column as an engine adds it.
fn added_field(number: u32, metadata: &mut Metadata) -> Value {
    let mut field = json!({
        "name": format!("x{number}"), "type": "long", "nullable": true, "metadata": {},
    });
    if is_mapped(metadata) {
        let last = metadata.configuration[MAX_COLUMN_ID]
            .parse::<i32>()
            .unwrap()
            + 1;
        let last_text = last.to_string();
        metadata
            .configuration
            .insert(MAX_COLUMN_ID.into(), last_text);
        field["metadata"] = json!({
            "delta.columnMapping.id": last,
            PHYSICAL_NAME: format!("col-x{number}"),
        });
    }
    field
}
