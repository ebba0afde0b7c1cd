//! Columns of packed messages by what they are, and not by what they are called.
//!
//! Messages wait in the log while another engine renames, exchanges or drops columns. So each field
//! of a message says the name that its column has in the files of the table, which never changes:
//! [`COLUMN_KEY`] in its metadata. Readers go by it, at every depth:
//!
//! | the field's column in the table | its values |
//! | --- | --- |
//! | has the name it had | are taken |
//! | has another name | are taken, under that name |
//! | is there no more | are ignored, also where a new column bears the old name |
//!
//! Fields without it go by their names.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, FixedSizeListArray, GenericListArray, MapArray, OffsetSizeTrait,
    RecordBatch, RecordBatchOptions, StructArray,
};
use arrow::datatypes::{DataType, Field, FieldRef, Fields, Schema, SchemaRef};
use arrow::error::ArrowError;
use bytes::Bytes;
use tidelake_schema::arrow::{FIELD_ID_KEY, to_arrow};
use tidelake_schema::delta::{PhysicalNames, physical_name};
use tidelake_schema::evolution::Columns;
use tidelake_schema::{TableSchema, Type};

use crate::arrow_ipc::OPERATION_COLUMN;
use crate::error::CodecError;

/// The key in a field's metadata under which stands the name that its column has in the table's
/// files.
pub const COLUMN_KEY: &str = "tl-column";

/// The Arrow schemas that a table's messages are written with. Made once for each version of the
/// table's columns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wire {
    /// The table's columns.
    all: SchemaRef,
    /// Those of the primary key, in key order.
    key: SchemaRef,
}

impl Wire {
    pub fn new(columns: Columns<'_>) -> Self {
        let fields = marked(to_arrow(columns.schema).fields(), columns.names);
        let place = |id: &i32| {
            let mut fields = columns.schema.fields.iter();
            fields.position(|field| field.id == *id)
        };
        let key = columns.schema.identifier_field_ids.iter();
        let key: Vec<FieldRef> = key
            .filter_map(place)
            .map(|place| Arc::clone(&fields[place]))
            .collect();
        Self {
            all: Arc::new(Schema::new(fields)),
            key: Arc::new(Schema::new(key)),
        }
    }

    /// [`super::encode`] of a batch with the table's columns, or the key's, with or without
    /// operations.
    pub fn encode(&self, batch: &RecordBatch) -> Result<Bytes, CodecError> {
        super::write(batch, &self.schema_of(batch.schema_ref())?)
    }

    /// The schema of a batch as a message has it; whether a column may be null is the batch's to
    /// say.
    fn schema_of(&self, given: &SchemaRef) -> Result<SchemaRef, ArrowError> {
        let is_operation = |field: &FieldRef| field.name() == OPERATION_COLUMN;
        let operation = given.fields().last().filter(|field| is_operation(field));
        let columns = given.fields().len() - usize::from(operation.is_some());
        // By their names: a key of all columns may have them in another order than the table.
        let is_given = |mine: &&SchemaRef| {
            let mut pairs = mine.fields().iter().zip(given.fields());
            mine.fields().len() == columns && pairs.all(|(mine, given)| mine.name() == given.name())
        };
        let Some(mine) = [&self.all, &self.key].into_iter().find(is_given) else {
            let text = format!("{columns} columns are neither a table's nor those of its key");
            return Err(ArrowError::SchemaError(text));
        };
        if operation.is_none() && given_nulls(given, mine) {
            return Ok(Arc::clone(mine));
        }
        let fields = mine.fields().iter().zip(given.fields());
        let fields = fields.map(
            |(mine, given)| match mine.is_nullable() == given.is_nullable() {
                true => Arc::clone(mine),
                false => Arc::new(mine.as_ref().clone().with_nullable(given.is_nullable())),
            },
        );
        let fields = fields.chain(operation.cloned());
        Ok(Arc::new(Schema::new(fields.collect::<Vec<_>>())))
    }
}

fn given_nulls(given: &Schema, mine: &Schema) -> bool {
    let mut pairs = given.fields().iter().zip(mine.fields());
    pairs.all(|(given, mine)| given.is_nullable() == mine.is_nullable())
}

/// The fields with their columns' names in files.
fn marked(fields: &Fields, names: &PhysicalNames) -> Fields {
    let fields = fields.iter().map(|field| {
        let id = field.metadata().get(FIELD_ID_KEY);
        let id: Option<i32> = id.and_then(|id| id.parse().ok());
        let name = id.and_then(|id| names.get(&id)).unwrap_or(field.name());
        let mut metadata = field.metadata().clone();
        metadata.insert(COLUMN_KEY.to_owned(), name.clone());
        inside(field, names).with_metadata(metadata)
    });
    fields.collect()
}

/// A field whose own name is none of a column: an element, a key, a value.
fn inside(field: &Field, names: &PhysicalNames) -> Field {
    let data_type = match field.data_type() {
        DataType::Struct(fields) => DataType::Struct(marked(fields, names)),
        DataType::List(element) => DataType::List(Arc::new(inside(element, names))),
        DataType::Map(entries, sorted) => {
            let DataType::Struct(pair) = entries.data_type() else {
                return field.clone();
            };
            let pair: Fields = pair.iter().map(|part| inside(part, names)).collect();
            let entries = entries.as_ref().clone();
            let entries = entries.with_data_type(DataType::Struct(pair));
            DataType::Map(Arc::new(entries), *sorted)
        }
        _ => return field.clone(),
    };
    field.clone().with_data_type(data_type)
}

/// A table's columns without column mapping.
pub(super) fn plain(schema: &TableSchema) -> Columns<'_> {
    static NONE: PhysicalNames = PhysicalNames::new();
    Columns {
        schema,
        names: &NONE,
    }
}

/// The batches of a stream under the names that their columns have now. Costs nothing but a look at
/// the names where none has changed.
pub(super) fn resolved(
    batches: Vec<RecordBatch>,
    columns: Columns<'_>,
) -> Result<Vec<RecordBatch>, ArrowError> {
    let by = By(columns.names);
    let known = &columns.schema.fields;
    // One stream has one schema.
    let as_named = |batch: &RecordBatch| by.are_named(batch.schema_ref().fields(), known);
    if batches.first().is_none_or(as_named) {
        return Ok(batches);
    }
    let each = batches.iter().map(|batch| {
        let (fields, columns) = by.fields(batch.schema_ref().fields(), batch.columns(), known)?;
        let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
        RecordBatch::try_new_with_options(Arc::new(Schema::new(fields)), columns, &options)
    });
    each.collect()
}

/// Where a field of a message belongs.
enum Place<'a> {
    /// The field has no mark, or its column still has its name.
    Known(Option<&'a tidelake_schema::Field>),
    Renamed(&'a tidelake_schema::Field),
    Dropped,
}

/// Finds columns by what they are.
struct By<'a>(&'a PhysicalNames);

impl By<'_> {
    /// `at` is where the field stands: mostly where its column stands, too, so that wide messages
    /// are not searched for each of their fields.
    fn place<'a>(
        &self,
        at: usize,
        field: &Field,
        known: &'a [tidelake_schema::Field],
    ) -> Place<'a> {
        let named = || known.iter().find(|known| known.name == *field.name());
        let Some(mark) = field.metadata().get(COLUMN_KEY) else {
            return Place::Known(named());
        };
        let is_marked = |known: &&tidelake_schema::Field| physical_name(known, self.0) == mark;
        let there = known.get(at).filter(is_marked);
        match there.or_else(|| known.iter().find(is_marked)) {
            Some(column) if column.name == *field.name() => Place::Known(Some(column)),
            Some(column) => Place::Renamed(column),
            None => Place::Dropped,
        }
    }

    /// True where every field stands under the name of its column.
    fn are_named(&self, fields: &Fields, known: &[tidelake_schema::Field]) -> bool {
        let mut places = (0..).zip(fields);
        places.all(|(at, field)| match self.place(at, field, known) {
            Place::Known(Some(column)) => self.is_named(field.data_type(), &column.ty),
            Place::Known(None) => true,
            Place::Renamed(_) | Place::Dropped => false,
        })
    }

    fn is_named(&self, given: &DataType, ty: &Type) -> bool {
        match (ty, given) {
            (Type::Struct(known), DataType::Struct(fields)) => self.are_named(fields, known),
            (
                Type::List(list),
                DataType::List(element)
                | DataType::LargeList(element)
                | DataType::FixedSizeList(element, _),
            ) => self.is_named(element.data_type(), &list.element),
            (Type::Map(map), DataType::Map(entries, _)) => match entries.data_type() {
                DataType::Struct(pair) if pair.len() == 2 => {
                    self.is_named(pair[0].data_type(), &map.key)
                        && self.is_named(pair[1].data_type(), &map.value)
                }
                _ => true,
            },
            _ => true,
        }
    }

    fn fields(
        &self,
        fields: &Fields,
        columns: &[ArrayRef],
        known: &[tidelake_schema::Field],
    ) -> Result<(Fields, Vec<ArrayRef>), ArrowError> {
        let mut kept = (Vec::new(), Vec::new());
        for (at, (field, column)) in fields.iter().zip(columns).enumerate() {
            let (name, known) = match self.place(at, field, known) {
                Place::Known(known) => (field.name(), known),
                Place::Renamed(known) => (&known.name, Some(known)),
                Place::Dropped => continue,
            };
            let column = match known {
                Some(known) => self.array(column, &known.ty)?,
                None => Arc::clone(column),
            };
            let field = field.as_ref().clone().with_name(name);
            kept.0
                .push(field.with_data_type(column.data_type().clone()));
            kept.1.push(column);
        }
        Ok((kept.0.into(), kept.1))
    }

    fn array(&self, array: &ArrayRef, ty: &Type) -> Result<ArrayRef, ArrowError> {
        if self.is_named(array.data_type(), ty) {
            return Ok(Arc::clone(array));
        }
        Ok(match (ty, array.data_type()) {
            (Type::Struct(known), DataType::Struct(fields)) => {
                let given = array.as_struct();
                let (fields, columns) = self.fields(fields, given.columns(), known)?;
                let nulls = given.nulls().cloned();
                Arc::new(StructArray::try_new_with_length(
                    fields,
                    columns,
                    nulls,
                    given.len(),
                )?)
            }
            (Type::List(list), DataType::List(element)) => {
                self.list(array.as_list::<i32>(), element, &list.element)?
            }
            (Type::List(list), DataType::LargeList(element)) => {
                self.list(array.as_list::<i64>(), element, &list.element)?
            }
            (Type::List(list), DataType::FixedSizeList(element, length)) => {
                let given = array.as_fixed_size_list();
                let values = self.array(given.values(), &list.element)?;
                let nulls = given.nulls().cloned();
                let element = retyped(element, &values);
                Arc::new(FixedSizeListArray::try_new(
                    element, *length, values, nulls,
                )?)
            }
            (Type::Map(map), DataType::Map(entries, sorted)) => {
                let given = array.as_map();
                let keys = self.array(given.keys(), &map.key)?;
                let values = self.array(given.values(), &map.value)?;
                let pair = given.entries().fields();
                let pair = Fields::from(vec![retyped(&pair[0], &keys), retyped(&pair[1], &values)]);
                let rows = StructArray::try_new(pair, vec![keys, values], None)?;
                let entries = entries.as_ref().clone();
                let entries = Arc::new(entries.with_data_type(rows.data_type().clone()));
                let (offsets, nulls) = (given.offsets().clone(), given.nulls().cloned());
                Arc::new(MapArray::try_new(entries, offsets, rows, nulls, *sorted)?)
            }
            _ => Arc::clone(array),
        })
    }

    fn list<O: OffsetSizeTrait>(
        &self,
        given: &GenericListArray<O>,
        element: &FieldRef,
        ty: &Type,
    ) -> Result<ArrayRef, ArrowError> {
        let values = self.array(given.values(), ty)?;
        let (offsets, nulls) = (given.offsets().clone(), given.nulls().cloned());
        let element = retyped(element, &values);
        Ok(Arc::new(GenericListArray::<O>::try_new(
            element, offsets, values, nulls,
        )?))
    }
}

fn retyped(field: &FieldRef, values: &ArrayRef) -> FieldRef {
    let field = field.as_ref().clone();
    Arc::new(field.with_data_type(values.data_type().clone()))
}

#[cfg(test)]
mod tests;
